"""What test_elsewhere.py runs in a process of its own: a Trainer that starts others, and what its callbacks say then."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from alignprune_pl import AlignPrune, Calibrated
from alignprune_pl.training.run_folder import RunFolder
from helpers import Plain, make_data, make_loader, make_trainer


class Tested(Plain):
    def test_step(self, batch, batch_idx):
        """Log what a test finds."""
        self.log("test/loss", self.loss(self(batch[0]), batch[1]))


def said(strategy: str, devices: int, folder: Path) -> dict[str, object]:
    """What the user's own objects know after a run and a test."""
    train, reference, mask = make_data()
    policy = Calibrated(warm_up=0.2, calibration=0.4, probe_share=0.7)
    prune = AlignPrune(reference, policy, "trajectory", noise_mask=mask, seed=1, window=4)
    record = RunFolder(folder / f"{strategy}{devices}")
    torch.manual_seed(0)
    trainer, module = make_trainer(prune, record, strategy=strategy, devices=devices), Tested()
    trainer.fit(module, make_loader(train))
    if devices == 1:
        trainer.test(module, make_loader(train, shuffle=False), verbose=False)
    figures = {name: value for name, value in prune.summary().items() if name != "pruning_time"}
    return {
        "history": prune.history,
        "plan": prune.plan.digest(),
        "losses": prune.store.losses().nan_to_num(-1).tolist(),
        "suspects": prune.suspects().suspicion.tolist(),
        "policy": policy.suspects().suspicion.tolist(),
        "summary": figures,
        "rows": len(record.rows),
        "folder's": {name: record.summary.get(name) for name in (*figures, "test_loss")},
        "on disk": json.loads((record.folder / "summary.json").read_text()).get("test_loss"),
        "state": prune.state_dict()["batch_of_all_ranks"],
    }


def refused() -> str:
    """What is said of a policy that could not be sent back."""
    policy = Calibrated()
    policy.chooses = lambda: 1
    try:
        make_trainer(AlignPrune(make_data()[1], policy), strategy="ddp_fork", devices=1).fit(
            Plain(), make_loader(make_data()[0])
        )
    except Exception as error:
        return str(error)
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process with threads must not be forked
    where = Path(sys.argv[1])
    runs = [said("ddp_fork", 2, where), said("ddp_notebook", 1, where), said("ddp_spawn", 2, where)]
    alone = said("auto", 1, where)
    (where / "said.json").write_text(json.dumps({"runs": runs, "alone": alone, "refused": refused()}))
