"""What a run leaves for its report."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from alignprune_pl import AlignPrune, LossScore, NoPruning, Random
from alignprune_pl.training.record import RunRecord
from helpers import N, Plain, make_data, make_loader, make_trainer
from two_processes import Predicting, run_part

TRAIN, REFERENCE, _ = make_data()
# The run that goes on writes no checkpoints itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You.re resuming from a checkpoint that ended before the epoch ended"),
]


def recorded(policy, samples=5000, epochs=5, ckpt=None, callbacks=()):
    """A run and the newest losses and reference loss of each of its epochs."""
    prune = AlignPrune(REFERENCE, policy, LossScore(), window=2, seed=1)
    record = RunRecord(prune, samples, seed=3)
    torch.manual_seed(4)
    trainer = make_trainer(prune, record, *callbacks, max_epochs=epochs, enable_checkpointing=bool(callbacks))
    module = Predicting()
    trainer.fit(module, make_loader(TRAIN), ckpt_path=ckpt)
    return trainer, module, prune, record


def test_trajectories_reach_over_all_epochs_though_the_store_remembers_two():
    _, _, prune, record = recorded(Random(0.5))
    arrays = record.arrays()
    assert arrays["shown"].tolist() == list(range(N))
    assert arrays["trajectories"].shape == (N, 5)
    assert np.isfinite(arrays["trajectories"]).sum(axis=0).tolist() == [row["kept"] for row in prune.history]
    kept = prune.store.losses(2).numpy()
    assert np.allclose(arrays["trajectories"][:, -2:], kept, rtol=0.01, equal_nan=True)
    assert arrays["reference_trajectory"].tolist() == pytest.approx([row["reference_loss"] for row in prune.history])


def test_of_many_samples_the_trajectories_of_the_same_few_are_kept():
    first, second = (recorded(NoPruning(), samples=20, epochs=2)[3].arrays() for _ in range(2))
    assert len(first["shown"]) == 20 == len(set(first["shown"].tolist()))
    assert first["shown"].tolist() == sorted(second["shown"].tolist()) != list(range(20))
    assert first["trajectories"].shape == (20, 2)
    assert len(first["suspicion"]) == N


def test_a_resumed_runs_trajectories_are_whole(tmp_path):
    save = ModelCheckpoint(
        tmp_path, filename="{step}", auto_insert_metric_name=False, save_top_k=-1, every_n_train_steps=1
    )
    whole = recorded(NoPruning(), callbacks=[save])[3].arrays()
    # 13 batches an epoch: after the second epoch's end, at its last batch, and within the third.
    for step in (26, 30):
        again = recorded(NoPruning(), ckpt=str(tmp_path / f"{step}.ckpt"))[3].arrays()
        assert np.allclose(again["trajectories"], whole["trajectories"], rtol=0.005), step
        assert np.array_equal(again["trajectories"][:, 2:], whole["trajectories"][:, 2:]), step
        assert np.allclose(again["reference_trajectory"], whole["reference_trajectory"]), step


def test_epochs_that_ended_without_it_are_not_known_of(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="end", save_on_train_epoch_end=True)
    prune = AlignPrune(REFERENCE, NoPruning(), LossScore(), window=2, seed=1)
    make_trainer(prune, save, max_epochs=2, enable_checkpointing=True).fit(Predicting(), make_loader(TRAIN))
    arrays = recorded(NoPruning(), ckpt=str(tmp_path / "end.ckpt"))[3].arrays()
    assert arrays["trajectories"].shape == (N, 5)
    assert np.isnan(arrays["trajectories"]).sum(axis=0).tolist() == [N, 0, 0, 0, 0]  # the store remembers one of them


def test_predictions_are_those_of_the_finished_network():
    trainer, module, _, record = recorded(NoPruning(), epochs=2)
    assert "predicted" not in record.arrays()
    trainer.predict(module, make_loader(TRAIN, shuffle=False), return_predictions=False)
    arrays = record.arrays()
    module.eval()
    with torch.no_grad():
        probabilities = module(TRAIN.tensors[0]).softmax(dim=1)
    assert arrays["predicted"].tolist() == probabilities.argmax(dim=1).tolist()
    assert np.allclose(arrays["p_predicted"], probabilities.amax(dim=1))
    assert np.allclose(arrays["p_label"], probabilities[torch.arange(N), TRAIN.tensors[1]])
    assert np.allclose(arrays["probabilities"], probabilities, atol=1e-3)


def test_predictions_for_a_part_of_the_samples_are_not_kept():
    trainer, module, _, record = recorded(NoPruning(), epochs=1)
    part = torch.utils.data.Subset(TRAIN, range(100))
    trainer.predict(module, make_loader(part, shuffle=False), return_predictions=False)
    assert "predicted" not in record.arrays()


def test_two_processes_record_what_one_does(tmp_path):
    for rank in run_part("record", tmp_path):
        assert rank["predicted"] == rank["by hand"]
        assert len(rank["predicted"]) == N
        assert rank["observed"] == rank["kept"]


def test_no_trajectories_are_refused():
    with pytest.raises(ValueError, match="samples=0 is given, but at least 1 trajectory is expected"):
        RunRecord(AlignPrune(REFERENCE), samples=0)


def test_suspicion_of_a_callback_is_high_where_a_label_is_suspect():
    prune = recorded(NoPruning())[2]
    assert torch.equal(prune.suspicion(), prune.store.newest().cpu())
    assert issubclass(Predicting, Plain)


def test_a_second_fit_starts_a_record_of_its_own():
    _, _, prune, record = recorded(NoPruning(), epochs=3)
    make_trainer(prune, record, max_epochs=2).fit(Predicting(), make_loader(TRAIN))
    assert record.arrays()["trajectories"].shape == (N, 2)
