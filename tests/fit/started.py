"""What test_elsewhere.py runs in a process of its own: a Trainer that starts others, and what its callbacks say then."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

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
    policy = Calibrated(calibration=0.25)
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


class Late(Calibrated):
    """Cannot be pickled once it has planned."""

    def plan(self, scores, ask):
        """Plan, and keep what nobody can send."""
        self.chooses = lambda: 1
        return super().plan(scores, ask)


def large() -> list[object]:
    """What comes back of more samples than fit into a pipe, by a callback that was made in another process."""
    n = 20_000
    data = TensorDataset(torch.randn(n, 5), torch.randint(0, 3, (n,)))
    prune = pickle.loads(pickle.dumps(AlignPrune(policy="infobatch", score="loss", seed=0)))
    prune._source = replace(prune._source, token="another", process=7)  # as if it came from there
    make_trainer(prune, strategy="ddp_notebook", devices=1, max_epochs=1).fit(
        Plain(), make_loader(data, batch_size=2000)
    )
    return [int(prune.store.last_loss().isfinite().sum()), len(prune.history)]


def original() -> str:
    """What the object says whose copy ran in another process."""
    prune = AlignPrune(policy="infobatch", score="loss", seed=0)
    make_trainer(copy.deepcopy(prune), strategy="ddp_notebook", devices=1, max_epochs=1).fit(
        Plain(), make_loader(make_data()[0])
    )
    try:
        return str(prune.history)
    except RuntimeError as error:
        return str(error)


def lost() -> list[str]:
    """What is said where what was found cannot be sent, and whether the weights come back."""
    prune, module = AlignPrune(make_data()[1], Late(), seed=0), Plain()
    before = module.net[0].weight.detach().clone()
    make_trainer(prune, strategy="ddp_notebook", devices=1).fit(module, make_loader(make_data()[0]))
    try:
        return ["", str(prune.history)]
    except RuntimeError as error:
        return [str(error), str(torch.equal(before, module.net[0].weight))]


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
    (where / "said.json").write_text(
        json.dumps(
            {
                "runs": runs,
                "alone": alone,
                "refused": refused(),
                "large": large(),
                "lost": lost(),
                "original": original(),
            }
        )
    )
