"""Two gloo processes on one problem: same plan, each kept sample once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

RUN = """
import json, warnings
from pathlib import Path
import torch
from conftest import Plain, make_data, make_loader, make_trainer
from alignprune_pl import AlignmentScore, AlignPrune, InfoBatch

warnings.simplefilter("ignore")
torch.set_num_threads(1)
train, reference, _ = make_data()
prune = AlignPrune(reference, InfoBatch(0.5), AlignmentScore(warm_up=2), window=3, seed=1)
module = Plain()
trainer = make_trainer(prune, strategy="ddp", devices=2, max_epochs=4)
trainer.fit(module, make_loader(train))
seen = {
    "trained": [module.trained(epoch) for epoch in range(4)],
    "kept": [row["kept"] for row in prune.history],
    "reference": [row["reference_loss"] for row in prune.history],
    "observed": prune._store.losses().isfinite().sum(0).tolist(),
    "plan": prune._planner.plan.digest(),
    "batches": [sum(e == epoch for e, _ in module.batches) for epoch in range(4)],
}
Path(f"rank{trainer.global_rank}.json").write_text(json.dumps(seen))
"""


def test_two_processes_make_one_plan_and_share_each_kept_sample_once(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for key in ("plan", "kept", "reference", "observed", "batches"):
        assert ranks[0][key] == ranks[1][key], key
    for epoch, kept in enumerate(ranks[0]["kept"]):
        both = [i for rank in ranks for i in rank["trained"][epoch]]
        assert len(set(both)) == kept
        assert len(both) - kept <= 1  # padding, with weight zero
    assert ranks[0]["observed"] == [int(kept) for kept in ranks[0]["kept"]][-3:]
    assert min(ranks[0]["kept"]) < max(ranks[0]["kept"])
