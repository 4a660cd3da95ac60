"""A run over a stream that goes on from a checkpoint: what an interrupted epoch has trained is not read again."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from alignprune_pl import UCB, AlignmentScore, AlignPrune, Calibrated, EmaLossScore, InfoBatch
from helpers import N, Plain, make_data, make_loader, make_trainer
from test_resume import Momentum, check_goes_on
from test_stream import Sized, Stream, key_of, loader_of

TRAIN, REFERENCE, _ = make_data()
pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined"),
]


def run(stream, folder=None, ckpt=None, module=Plain, epochs=4, policy=None, score=None, save=None, **loader):
    torch.manual_seed(5)
    model, stream = module(), stream()
    policy = InfoBatch(0.5) if policy is None else policy()
    prune = AlignPrune(REFERENCE, policy, score or AlignmentScore(warm_up=2), window=3, seed=1, key=key_of)
    stream.prune = prune
    each = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    saves = [each] if folder else [save] if save else []
    make_trainer(prune, *saves, max_epochs=epochs, enable_checkpointing=bool(saves)).fit(
        model, loader_of(stream, **loader), ckpt_path=ckpt
    )
    return model, prune


class Growing(Stream):
    """Shows a part of its samples in the run's first two epochs."""

    def __iter__(self):
        self.samples = range(120 if len(self.prune.history) < 2 else N)
        return super().__iter__()

    def __deepcopy__(self, memo):
        made = type(self)()
        made.prune = self.prune
        return made


def lasts(module):
    """How many batches are done at the end of each epoch."""
    epochs = [epoch for epoch, _ in module.batches]
    return [len(epochs) - epochs[::-1].index(epoch) for epoch in sorted(set(epochs))]


@pytest.mark.parametrize(("make", "module"), [(Stream, Plain), (Sized, Momentum)], ids=["unknown length", "length"])
def test_a_resumed_run_goes_on_as_the_uninterrupted_one_wherever_it_was(make, module, tmp_path):
    whole, first = run(make, tmp_path, module=module)
    assert len({row["kept"] for row in first.history}) > 2
    ends = lasts(whole)
    for step in sorted({1, 5, *ends[:-1], ends[0] + 1, ends[1] + 2, ends[2] + 1, ends[3] - 1}):
        resumed, second = run(make, ckpt=str(tmp_path / f"{step}.ckpt"), module=module)
        if module is Momentum:
            check_goes_on(whole, first, resumed, second, step)
        assert resumed.batches == whole.batches[step:], step
        assert second.history == first.history, step
        assert torch.equal(second.plan.keep, first.plan.keep), step
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), (step, name)


def test_after_an_error_while_an_epoch_is_closed(tmp_path, monkeypatch):
    whole, first = run(Stream)
    plan = InfoBatch.plan

    def breaks(self, scores, ask):
        if ask.epoch == 2:
            raise RuntimeError("broken")
        return plan(self, scores, ask)

    save = ModelCheckpoint(tmp_path, "broken", save_on_exception=True, save_top_k=0)
    with monkeypatch.context() as patched:
        patched.setattr(InfoBatch, "plan", breaks)
        with pytest.raises(RuntimeError, match="broken"):
            run(Stream, save=save)
    resumed, second = run(Stream, ckpt=str(tmp_path / "broken.ckpt"))
    assert resumed.batches == [batch for batch in whole.batches if batch[0] >= 2]
    assert second.history == first.history
    assert torch.equal(second.plan.keep, first.plan.keep)


def test_with_workers_an_interrupted_epoch_trains_each_sample_once(tmp_path):
    whole, first = run(Stream, tmp_path, num_workers=2)
    ends = lasts(whole)
    for step, epoch in ((3, 0), (ends[0], 1), (ends[0] + 2, 1)):
        resumed, second = run(Stream, ckpt=str(tmp_path / f"{step}.ckpt"), num_workers=2)
        before = [i for at, batch in whole.batches[:step] for i in batch if at == epoch]
        # In which order the workers' batches come after the interruption may differ.
        assert sorted(before + resumed.trained(epoch)) == sorted(whole.trained(epoch)), step
        assert second.history[epoch]["kept"] == first.history[epoch]["kept"]
        assert [row["full"] for row in second.history] == [row["full"] for row in first.history] == [N] * 4


@pytest.mark.parametrize(
    ("policy", "score"),
    [(UCB, "loss"), (InfoBatch, EmaLossScore()), (Calibrated, "rival")],
    ids=["ucb", "ema_loss", "calibrated"],
)
def test_what_is_remembered_of_a_stream_that_grows_is_resumed(policy, score, tmp_path):
    kwargs = {"policy": policy, "score": score, "epochs": 5, "stream": Growing}
    whole, first = run(folder=tmp_path, **kwargs)
    assert [row["full"] for row in first.history] == [120, 120, N, N, N]
    ends = lasts(whole)
    for epoch, step in ((1, ends[0]), (2, ends[1]), (2, ends[1] + 3), (3, ends[2])):
        resumed, second = run(ckpt=str(tmp_path / f"{step}.ckpt"), **kwargs)
        assert resumed.batches == whole.batches[step:], epoch
        assert torch.equal(second.keys, first.keys)
        torch.testing.assert_close(second.store.losses(), first.store.losses(), rtol=0, atol=0, equal_nan=True)


def test_a_checkpoint_of_a_stream_is_not_one_of_a_data_set(tmp_path):
    run(Stream, tmp_path, epochs=1)
    prune = AlignPrune(REFERENCE, InfoBatch(0.5), AlignmentScore(warm_up=2), window=3, seed=1)
    with pytest.raises(
        MisconfigurationException, match="written with a stream, but this run has a loader that goes thr"
    ):
        make_trainer(prune, max_epochs=2).fit(Plain(), make_loader(TRAIN), ckpt_path=str(tmp_path / "13.ckpt"))


def test_the_state_takes_eight_bytes_a_key_besides_what_that_of_a_data_set_takes(tmp_path):
    _, prune = run(Stream, epochs=1)
    state = prune.state_dict()["store"]
    assert state["keys"].nbytes == 8 * N
    assert all(len(part) == 0 for part in state["waiting"].values())
