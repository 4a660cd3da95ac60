"""Streams that end early, late, never, or elsewhere than their loader tells."""

from __future__ import annotations

import copy
import pickle

import litdata
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from alignprune_pl import AlignPrune, Calibrated, EpochPlan, NoPruning
from alignprune_pl.core.gate import Gate
from helpers import N, Plain, make_data, make_trainer
from test_own_samplers import Half
from test_stream import Sized, Stream, fit, key_of, loader_of, sizes
from test_trainer_settings import Scheduled

TRAIN, REFERENCE, _ = make_data()
pytestmark = [
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]


class Once(Stream):
    """Goes on where it was, as an iterator does."""

    def __init__(self):
        super().__init__()
        self.rest = super().__iter__()

    def __iter__(self):
        return self.rest


@pytest.mark.parametrize(
    ("make", "batch"), [(Once, {}), (Stream, {"batch_size": 150, "drop_last": True})], ids=["an iterator", "dropped"]
)
def test_an_epoch_without_a_batch_is_refused(make, batch):
    with pytest.raises(
        MisconfigurationException, match=r"gave no batch in epoch 1, of whose \d+ known samples the plan k"
    ):
        fit(Plain(), loader_of(make(), **batch))


def test_a_run_that_is_told_to_stop_before_a_batch_just_ends():
    class Stops(Plain):
        def on_train_epoch_start(self):
            self.trainer.should_stop = self.trainer.current_epoch == 1

    prune, run = fit(Stops(), epochs=3)
    assert run.current_epoch == 2
    assert prune.history[0]["kept"] == N


class Endless(Stream):
    def __iter__(self):
        while True:
            yield from super().__iter__()


def test_held_samples_are_not_looked_for_in_a_stream_that_may_have_no_end():
    parts = {"policy": Calibrated(calibration=0.25), "score": "rival", "limit_train_batches": 13}
    module = Plain()
    with pytest.raises(
        MisconfigurationException, match=r"once more to its end, but limit_train_batches=13 tells that it"
    ):
        fit(module, loader_of(Endless()), **parts)
    assert module.batches == []
    fit(module, loader_of(Endless()), epochs=1, **parts)  # nothing is looked for after the first epoch
    assert len(module.batches) == 13


class Hundred(Half):
    """Keeps fifty samples of each of two workers."""

    def plan(self, scores, ask):
        return EpochPlan.of(torch.arange(100 if ask.epoch else len(scores)))


@pytest.mark.parametrize(
    ("policy", "steps"), [(NoPruning(), 14 + 14 + 14), (Hundred(), 14 + 8 + 8)], ids=["all", "half"]
)
def test_a_schedule_that_is_over_is_not_stepped_where_workers_make_more_batches_than_the_loader_tells(policy, steps):
    module = Scheduled()
    fit(module, loader_of(Sized(), num_workers=2), policy)
    assert module.trainer.global_step == steps
    assert module.lr_schedulers().last_epoch == module.estimated == 3 * 13


@pytest.mark.parametrize("make", [Stream, Sized])
def test_an_epoch_that_is_shorter_than_the_interval_of_validations_is_validated_at_its_end(make):
    module = Plain()
    fit(module, loader_of(make()), val=DataLoader(REFERENCE, 20), val_check_interval=10)
    assert module.validated == [0, 1, 2]


def test_the_first_epoch_ends_with_a_step_of_optimizer_schedule_and_validation_under_a_limit_too():
    module = Plain()
    _, run = fit(module, epochs=2, val=DataLoader(REFERENCE, 20), limit_train_batches=4, accumulate_grad_batches=3)
    assert run.global_step == 2 + 2
    assert module.validated == [0, 1]
    assert module.lr_schedulers().last_epoch == 2


def test_a_run_resumed_beyond_a_smaller_limit_ends_the_epoch(tmp_path):
    def run(limit, ckpt=None, *callbacks):
        module, prune = Plain(), AlignPrune(policy=Half(), key=key_of)
        settings = {"max_epochs": 2, "enable_checkpointing": bool(callbacks), "limit_train_batches": limit}
        make_trainer(prune, *callbacks, **settings).fit(module, loader_of(), ckpt_path=ckpt)
        return module, prune

    each = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    run(4, None, each)
    module, prune = run(2, str(tmp_path / "3.ckpt"))
    assert [row["kept"] for row in prune.history] == [48, 32]
    assert sizes(module, 1) == [16, 16]


def test_shards_that_come_from_commands_are_told_apart_by_them():
    gate = Gate()
    urls = [f"pipe:curl -s https://host/{shard}.tar 2>/dev/null" for shard in range(2)]
    assert len({gate.number({"__key__": "0", "__url__": url}) for url in urls}) == 2


def test_a_litdata_class_that_changes_its_samples_needs_a_key(tmp_path):
    writer = litdata.streaming.writer.BinaryWriter(str(tmp_path), chunk_size=30)
    for i, (x, _) in enumerate(TRAIN):
        writer[i] = {"x": x.numpy()}
    writer.done()
    writer.merge(1)

    class Own(litdata.StreamingDataset):
        def __next__(self):
            return torch.as_tensor(super().__next__()["x"])

    with pytest.raises(
        ValueError, match="a stream whose samples have no keys: one is a Tensor; pass what a sample is kno"
    ):
        make_trainer(AlignPrune(policy=Half())).fit(Plain(), DataLoader(Own(str(tmp_path)), 16))


def test_a_key_without_a_name_does_not_keep_a_run_from_being_sent_to_another_process():
    prune = AlignPrune(policy=Half(), key=lambda sample: int(sample[0][0]))
    make_trainer(prune, max_epochs=2).fit(Plain(), loader_of(Stream()))
    other = AlignPrune(policy=Half(), key=prune.keeps.key)
    other._take_over(pickle.loads(pickle.dumps(prune._found())))
    assert torch.equal(other.keys, prune.keys)
    assert other._run.gate is other.keeps
    assert prune._run.gate is prune.keeps


def test_an_interrupted_epoch_of_a_stream_that_repeats_its_samples_begins_anew(tmp_path):
    class Repeating(Stream):
        def __iter__(self):
            for number in range(4 * N):
                yield TRAIN[number % 40]

    each = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    for file in (None, tmp_path / "20.ckpt"):
        module, prune = Plain(), AlignPrune(policy=Half(), key=key_of, seed=1)
        run = make_trainer(prune, *([] if file else [each]), max_epochs=1, enable_checkpointing=not file)
        run.fit(module, loader_of(Repeating()), ckpt_path=file)
    assert len(module.trained(0)) == 4 * N  # beyond the 320 of the interrupted run
    assert prune.history[0]["kept"] == 4 * N + 320


def test_shards_are_told_apart_by_folder_and_name_but_not_by_what_a_url_asks_besides():
    def key(url):
        return AlignPrune(policy=Half()).keeps.number({"__url__": url, "__key__": "1"})

    assert key("s3://bucket/cc3m/0.tar") == key("/data/cc3m/0.tar") == key("https://x.org/cc3m/0.tar?signature=7")
    assert len({key("/data/cc3m/0.tar"), key("/data/cc12m/0.tar"), key("/data/cc3m/1.tar")}) == 3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda prune: pickle.loads(pickle.dumps(prune))])
def test_a_copy_of_a_callback_that_ran_over_a_stream_goes_on(copied):
    prune = AlignPrune(policy=Half(), key=key_of, seed=1)
    make_trainer(prune, max_epochs=2).fit(Plain(), loader_of(Stream()))
    other = copied(prune)
    assert torch.equal(other.keys, prune.keys)
    assert other.state_dict().keys() == prune.state_dict().keys()
    module = Plain()
    run = make_trainer(other, max_epochs=3)
    run.fit_loop.epoch_progress.current.processed = run.fit_loop.epoch_progress.current.completed = 2
    run.fit(module, loader_of(Stream()))
    assert module.trained(2) == list(range(0, N, 2))
    assert [row["epoch"] for row in other.history] == [0, 1, 2]


def test_another_loader_of_the_same_stream_sees_all_of_it_while_training_leaves_samples_out():
    seen = []

    class Staged(Stream):
        def __iter__(self):
            return filter(prune.keeps, super().__iter__())

    class Watching(Plain):
        def validation_step(self, batch, batch_idx):
            seen.extend((self.trainer.current_epoch, i) for i in batch[0][:, 0].long().tolist())

    module, prune, stream = Watching(), AlignPrune(policy=Half(), key=key_of), Staged()
    make_trainer(prune, max_epochs=2).fit(module, loader_of(stream), loader_of(stream))
    assert module.trained(1) == list(range(0, N, 2))
    assert [i for epoch, i in seen if epoch == 1] == list(range(N))


def test_keys_that_do_not_come_again_are_told_of(caplog):
    class Renamed(Stream):
        def __iter__(self):
            self.turn = getattr(self, "turn", -1) + 1
            return ((x, y, f"{self.turn}/{i}") for i, (x, y) in enumerate(super().__iter__()))

    class Two(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[:2], batch_idx)

    with caplog.at_level("INFO"):
        prune = AlignPrune(policy=Half(), key=lambda sample: sample[2])
        make_trainer(prune, max_epochs=2).fit(Two(), loader_of(Renamed()))
    assert f"in epoch 1 {N} keys were new, and 0 of the 102 came that the plan keeps" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        fit(Plain(), loader_of(Stream()))
    assert "keys were new" not in caplog.text
