"""Streams: samples are known by keys, and left out where the stream is read."""

from __future__ import annotations

import tempfile

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from alignprune_pl import (
    RS2,
    UCB,
    AlignmentScore,
    AlignPrune,
    Calibrated,
    EmaLossScore,
    InfoBatch,
    NoPruning,
    RunFolder,
    StaticRandom,
    TrajectoryScore,
    number_of,
)
from alignprune_pl.core.plan import EpochPlan
from helpers import IndexLoss, N, Plain, make_data, make_loader, make_trainer
from test_collating import by_first_value
from test_own_samplers import Counting, Half
from test_trainer_settings import Linear, Scheduled, gradient

TRAIN, REFERENCE, MASK = make_data()
pytestmark = pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")


def key_of(sample):
    return int(sample[0][0])


class Stream(IterableDataset):
    """The training set in its order, of which each worker reads its own part."""

    def __init__(self, samples=None):
        self.samples = range(N) if samples is None else samples

    def __iter__(self):
        worker = get_worker_info()
        share = self.samples if worker is None else self.samples[worker.id :: worker.num_workers]
        for i in share:
            yield TRAIN[i]


class Sized(Stream):
    def __len__(self):
        return len(self.samples)


def loader_of(stream=None, **kwargs):
    return DataLoader(Stream() if stream is None else stream, **{"batch_size": 16, **kwargs})


def fit(module, loader=None, policy=None, score="loss", epochs=3, key=key_of, val=None, callback=(), **trainer):
    prune = AlignPrune(REFERENCE, policy or Half(), score, window=3, seed=1, key=key, storage_dtype=torch.float32)
    run = make_trainer(prune, *callback, max_epochs=epochs, **trainer)
    run.fit(module, loader_of() if loader is None else loader, val)
    return prune, run


def sizes(module, epoch):
    return [len(batch) for at, batch in module.batches if at == epoch]


# ---- what is trained ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "persists"), [(0, False), (2, False), (2, True)])
def test_each_epoch_serves_the_stream_less_what_the_plan_leaves_out(workers, persists):
    module = Plain()
    prune, _ = fit(module, loader_of(num_workers=workers, persistent_workers=persists))
    assert sorted(module.trained(0)) == list(range(N))
    for epoch in (1, 2):
        assert sorted(module.trained(epoch)) == list(range(0, N, 2))
        if workers == 0:
            assert module.trained(epoch) == list(range(0, N, 2))  # in the stream's order
            assert sizes(module, epoch) == [16] * 6 + [6]
    assert [row["kept"] for row in prune.history] == [N, 102, 102]
    assert [row["full"] for row in prune.history] == [N] * 3
    assert prune.history[-1]["saved"] == pytest.approx(1 - (N + 204) / (3 * N))
    assert torch.equal(prune.keys, torch.arange(N))


def test_losses_are_recorded_under_their_own_keys_and_those_left_out_are_not_observed():
    prune, _ = fit(IndexLoss(), loader_of(Stream(range(N)[::-1]), num_workers=2))
    losses = prune.store.losses()
    assert losses[:, 0].tolist() == pytest.approx(list(range(N)), rel=1e-5)
    assert losses[::2, 2].tolist() == pytest.approx(list(range(0, N, 2)), rel=1e-5)
    assert bool(losses[1::2, 1:].isnan().all())
    assert prune.index_of([0, 5, 10_000]).tolist() == [0, 5, -1]


def test_weights_act_on_the_samples_that_the_plan_gives_them():
    class Third(Half):
        def plan(self, scores, ask):
            return EpochPlan(torch.tensor([4, 2, 9]), torch.tensor([1.0, 3.0, 0.5]))

    module, fresh = Linear(), Linear()
    loader = loader_of(Stream([9, 7, 2, 4, *range(10, 20), 0, 1]))
    fit(module, loader, Third(), epochs=2)
    first, second = module.batches
    # Of the sixteen keys of the stream those with the indices 4, 2 and 9 in ascending order.
    assert second[0][:, 0].tolist() == [7, 2, 13]
    parts = gradient(fresh, first, 1.0)
    for parameter, part in zip(fresh.parameters(), parts, strict=True):
        parameter.data -= 0.1 * part
    parts = gradient(fresh, second, torch.tensor([1.0, 3.0, 0.5]))
    for now, then, part in zip(module.parameters(), fresh.parameters(), parts, strict=True):
        torch.testing.assert_close(now, then - 0.1 * part)


def test_a_run_over_a_stream_is_the_run_over_the_data_set_of_the_same_order():
    one, other = Plain(), Plain()
    other.load_state_dict(one.state_dict())
    parts = {"policy": InfoBatch(0.5), "score": AlignmentScore(warm_up=2)}
    prune = AlignPrune(REFERENCE, **parts, window=3, seed=1, storage_dtype=torch.float32)
    make_trainer(prune, max_epochs=5).fit(one, make_loader(TRAIN, shuffle=False))
    stream, _ = fit(other, policy=InfoBatch(0.5), score=AlignmentScore(warm_up=2), epochs=5)
    # The first epoch is all; then selection and its random choices are the same, and so is what is learnt.
    assert [row["kept"] for row in stream.history] == [row["kept"] for row in prune.history]
    assert stream.plan.keep.tolist() == prune.plan.keep.tolist()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_text_keys_are_known_by_a_number_whatever_the_process():
    prune, _ = fit(Plain(), loader_of(num_workers=2), key=lambda sample: f"shard-0/{key_of(sample):06d}")
    index = prune.index_of(f"shard-0/{i:06d}" for i in range(N))
    assert sorted(index.tolist()) == list(range(N))
    assert prune.keys[index[7]] == number_of("shard-0/000007")


class Named(Stream):
    """Its samples are fields with names."""

    def __iter__(self):
        for x, y in super().__iter__():
            yield {"id": int(x[0]), "x": x, "y": y}


class OfFields(Plain):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch["x"], batch["y"]), batch_idx)


def test_a_key_may_be_the_name_of_a_field():
    module = OfFields()
    prune = AlignPrune(policy=Half(), key="id")
    make_trainer(prune, max_epochs=2).fit(module, loader_of(Named()))
    assert module.trained(1) == list(range(0, N, 2))


def test_a_stage_of_the_stream_can_leave_samples_out_before_they_are_decoded():
    decoded = []

    class Decoding(Stream):
        def __init__(self, keeps):
            super().__init__()
            self.keeps = keeps

        def __iter__(self):
            for i in filter(self.keeps, ({"id": i} for i in range(N))):
                decoded.append(i["id"])
                yield {**i, "x": TRAIN[i["id"]][0], "y": TRAIN[i["id"]][1]}

    module, prune = OfFields(), AlignPrune(policy=Half(), key="id")
    stream = Decoding(prune.keeps)
    make_trainer(prune, max_epochs=3).fit(module, loader_of(stream))
    assert decoded == [*range(N), *range(0, N, 2), *range(0, N, 2)]
    assert [row["full"] for row in prune.history] == [N] * 3
    assert len(list(stream)) == N  # after training nothing is left out


def test_attributes_that_a_workers_init_function_sets_are_the_streams():
    def halve(worker):
        get_worker_info().dataset.samples = range(100)

    module = Plain()
    fit(module, loader_of(num_workers=2, worker_init_fn=halve), epochs=2)
    assert sorted(module.trained(0)) == list(range(100))
    assert sorted(module.trained(1)) == list(range(0, 100, 2))


def test_the_sample_that_is_left_of_a_pruned_epoch_waits_as_batch_norm_would_fail_on_it():
    class But(Half):
        def plan(self, scores, ask):
            return EpochPlan.of(torch.arange(17))

    module = Plain()
    prune, _ = fit(module, policy=But(), epochs=2)
    assert module.trained(1) == list(range(16))
    assert prune.history[1]["full"] == N


@pytest.mark.parametrize(
    ("trainer", "loader", "lengths"),
    [
        ({"limit_train_batches": 4}, {}, [64, 32, 32]),
        ({"limit_train_batches": 2}, {"num_workers": 2}, [32, 16, 16]),
        ({"max_steps": 15}, {}, [N, 32, 0]),
        ({}, {"drop_last": True}, [192, 96, 96]),
        ({}, {"drop_last": True, "num_workers": 2}, [192, 96, 96]),
    ],
    ids=str,
)
def test_limits_and_loaders_are_as_for_data_sets(trainer, loader, lengths):
    module = Plain()
    fit(module, loader_of(**loader), **trainer)
    if "limit_train_batches" in trainer:
        # What a limit cuts off has not appeared, so that a limited epoch is as long as before.
        assert [len(module.trained(epoch)) for epoch in range(3)] == [lengths[0]] * 3
    else:
        assert [len(module.trained(epoch)) for epoch in range(3)] == lengths


# ---- what appears late --------------------------------------------------------------------------------------


class Changing(Stream):
    """Shows more of its samples in each epoch."""

    def __init__(self, *epochs):
        super().__init__()
        self.epochs = list(epochs)

    def __iter__(self):
        self.samples = self.epochs.pop(0) if len(self.epochs) > 1 else self.epochs[0]
        return super().__iter__()


def test_the_store_grows_as_keys_appear_and_what_is_new_is_trained():
    module = IndexLoss()
    prune, _ = fit(module, loader_of(Changing(range(100, 160), range(N))), epochs=3)
    assert module.trained(0) == list(range(100, 160))
    # Half leaves out the odd indices of those that have appeared; all others are new.
    assert module.trained(1) == [*range(100), *range(100, 160, 2), *range(160, N)]
    assert prune.keys.tolist() == [*range(100, 160), *range(100), *range(160, N)]
    assert len(module.trained(2)) == 102
    first = prune.store.losses()[:, 0]
    assert first[:60].tolist() == pytest.approx(list(range(100, 160)), rel=1e-5)
    assert bool(first[60:].isnan().all())


@pytest.mark.parametrize(
    ("policy", "score"),
    [
        (UCB(0.3), "loss"),
        (RS2(0.3), "loss"),
        (StaticRandom(0.3), "loss"),
        (InfoBatch(0.5), EmaLossScore()),
        (InfoBatch(0.5), TrajectoryScore()),
        (Calibrated(calibration=0.2), "rival"),
    ],
    ids=repr,
)
def test_what_a_policy_or_score_remembers_stays_when_samples_are_added(policy, score):
    before = {}

    class Notes(IndexLoss):
        def on_train_epoch_start(self):
            if self.trainer.current_epoch == 2:
                before.update(policy=policy.state_dict(), score=prune.score.state_dict())

    prune = AlignPrune(REFERENCE, policy, score, window=3, seed=1, key=key_of)
    early = range(150)
    make_trainer(prune, max_epochs=4).fit(Notes(), loader_of(Changing(early, early, early, range(N), range(N))))
    after = {"policy": policy.state_dict(), "score": prune.score.state_dict()}
    assert prune.store.num_samples == N
    assert len(prune.plan.keep) > 0
    if isinstance(policy, StaticRandom):
        assert torch.equal(after["policy"]["subset"][:150], before["policy"]["subset"])
        assert 0.5 < float(after["policy"]["subset"][150:].float().mean()) < 0.9
    if isinstance(policy, Calibrated):
        assert torch.equal(after["policy"]["evidence"]["held"], before["policy"]["evidence"]["held"])
    if isinstance(policy, UCB):
        assert bool(after["policy"]["mean"][:150].isfinite().all())


def test_a_key_that_comes_twice_is_trained_twice_and_recorded_once_as_the_mean(caplog):
    with caplog.at_level("INFO"):
        prune, _ = fit(Counting(), loader_of(Stream([4, 9, 4, 2, 9, 4, 30])), NoPruning(), epochs=1)
    losses = prune.store.last_loss()
    assert "in epoch 0 2 of 4 keys came more than once, one 3 times. A key is rec" in caplog.text
    assert losses[prune.index_of([4, 9, 2, 30])].tolist() == pytest.approx([7 / 3, 2.5, 3, 6])
    assert prune.history[0]["kept"] == 7


def test_labels_and_rivals_are_known_by_key():
    prune, _ = fit(Plain(), loader_of(Stream(range(N)[::-1])), NoPruning(), score="rival", epochs=1)
    assert torch.equal(prune.store.labels(), TRAIN.tensors[1])


# ---- probes -------------------------------------------------------------------------------------------------


class Probing(Half):
    """Passes the odd samples forward that it leaves out, and some that it trains."""

    probes = True

    def plan(self, scores, ask):
        probe = torch.arange(1, len(scores), 2) if ask.epoch else torch.empty(0, dtype=torch.int64)
        return EpochPlan.of(torch.arange(0, len(scores), 2)) if len(probe) == 0 else self.of(len(scores), probe)

    @staticmethod
    def of(n, probe):
        keep = torch.arange(0, n, 2)
        return EpochPlan(keep, torch.ones(len(keep)), torch.cat([probe, torch.tensor([4, 8])]))

    def epoch_ended(self, scores, ask):
        self.probed = ask.probed.clone()


@pytest.mark.parametrize("workers", [0, 2])
def test_probes_are_read_again_alone_and_disturb_nothing(workers):
    other, module, policy = IndexLoss(), IndexLoss(), Probing()
    plain, _ = fit(other, loader_of(num_workers=workers))
    prune, _ = fit(module, loader_of(num_workers=workers), policy)
    assert prune.store.losses()[:, 2].tolist() == pytest.approx(list(range(N)), rel=1e-5)
    seen = policy.probed.isfinite()
    assert seen.nonzero().squeeze(1).tolist() == sorted([*range(1, N, 2), 4, 8])
    assert policy.probed[seen].tolist() == pytest.approx(sorted([*range(1, N, 2), 4, 8]), rel=1e-5)
    assert module.batches == other.batches
    assert [row["probed"] for row in prune.history] == [0, 103, 103]
    assert [row["full"] for row in prune.history] == [row["full"] for row in plain.history] == [N] * 3


def test_a_policy_that_holds_samples_measures_by_them_from_the_second_epoch_on():
    module, policy = Plain(), Calibrated(calibration=0.25)
    prune, _ = fit(module, None, policy, "rival", epochs=3)
    held = policy._evidence.held
    assert len(held) >= 25
    assert not set(module.trained(1)) & set(held.tolist())
    assert prune.history[0]["probed"] == 0 < prune.history[1]["probed"]
    assert prune.suspects().noise_rate == policy.noise_rate > 0


# ---- lengths, validation, schedules -------------------------------------------------------------------------


def test_each_epoch_is_validated_once_where_nobody_knows_its_length():
    module = Plain()
    fit(module, val=DataLoader(REFERENCE, 20))
    assert module.validated == [0, 1, 2]


@pytest.mark.parametrize("interval", [1.0, 0.5, 3])
def test_validation_and_schedules_go_by_the_length_that_a_loader_tells(interval):
    full, pruned = Scheduled(), Scheduled()
    for module, policy in ((full, NoPruning()), (pruned, Half())):
        fit(module, loader_of(Sized()), policy, epochs=4, val=DataLoader(REFERENCE, 20), val_check_interval=interval)
    assert pruned.estimated == full.estimated == 4 * 13
    assert pruned.rates == pytest.approx(full.rates)
    assert pruned.lr_schedulers().last_epoch == full.lr_schedulers().last_epoch == 52
    assert set(pruned.validated) == set(full.validated) == {0, 1, 2, 3}
    assert pruned.trainer.global_step < full.trainer.global_step == 52


def test_a_share_of_the_batches_needs_a_loader_with_a_length():
    module = Plain()
    fit(module, loader_of(Sized()), limit_train_batches=0.5)
    assert [len(module.trained(epoch)) for epoch in range(3)] == [96, 96, 96]
    with pytest.raises(MisconfigurationException, match="limit_train_batches"):
        fit(Plain(), limit_train_batches=0.5)


def test_gradients_that_are_accumulated_are_used_at_the_streams_end():
    module = Plain()
    _, run = fit(module, accumulate_grad_batches=4)
    assert run.global_step == 4 + 2 + 2  # of 13, 7 and 7 batches


def test_a_schedule_by_steps_is_left_alone_where_nobody_knows_how_long_an_epoch_is():
    module = Scheduled(steps=1000)
    fit(module)
    assert module.lr_schedulers().last_epoch == module.trainer.global_step == 13 + 7 + 7


# ---- refused ------------------------------------------------------------------------------------------------


class Batches(Stream):
    def __iter__(self):
        yield next(iter(make_loader(TRAIN)))


class Own(DataLoader):
    def __iter__(self):
        return iter([])


@pytest.mark.parametrize(
    ("make", "key", "message"),
    [
        (
            lambda: loader_of(),
            None,
            r"a stream whose samples have no keys: one is a tuple; pass what a sample is known",
        ),
        (lambda: loader_of(num_workers=2), None, r"a stream whose samples have no keys: one is a tuple; pass what"),
        (
            lambda: loader_of(Named()),
            "name",
            r"key='name' is given, but a sample is a dict of 'id', 'x', 'y'; name a f",
        ),
        (
            lambda: loader_of(),
            lambda sample: 0.5,
            r"key is 0.5, but a text, bytes or an integer from 0 is expected; let",
        ),
        (
            lambda: loader_of(),
            lambda sample: -1,
            r"A sample's key is -1, but a text, bytes or an integer from 0 is exp",
        ),
        (lambda: loader_of(), lambda sample: True, r"A sample's key is True, but a text, bytes or an integer from 0 i"),
        (
            lambda: DataLoader(Batches(), batch_size=None),
            key_of,
            r"so that Batches makes the batches, but it chooses s",
        ),
        (lambda: Own(Stream(), 16), key_of, r"the loader Own with an __iter__ of its own over a stream, but it takes"),
        (lambda: make_loader(TRAIN), key_of, r"got a key, but the samples of TensorDataset are known by their index"),
        (
            lambda: loader_of(),
            lambda sample: int(sample[1]),
            r"The 16 samples of the stream's first batch have [23] diff",
        ),
        *(
            (
                lambda workers=workers: loader_of(num_workers=workers, collate_fn=by_first_value),
                key_of,
                r"collate_fn puts the samples of a batch in an order of its own",
            )
            for workers in (0, 2)
        ),
        (lambda: loader_of(Stream([])), key_of, r"The stream Stream gave no batch in epoch 0, of whose 0 known samp"),
    ],
    ids=[
        "no keys",
        "no keys in workers",
        "field",
        "kind",
        "below zero",
        "bool",
        "batches",
        "loader",
        "no stream",
        "labels",
        "sorts",
        "sorts in workers",
        "empty",
    ],
)
def test_what_cannot_be_told_by_keys_is_refused_before_training(make, key, message):
    module = Plain()
    with pytest.raises((MisconfigurationException, ValueError), match=message):
        fit(module, make(), key=key)
    assert module.batches == []


@pytest.mark.parametrize(
    ("name", "value", "policy"),
    [("noise_mask", MASK, Half()), ("probe_data", TRAIN, Half()), ("sharded", True, InfoBatch())],
    ids=["noise_mask", "probe_data", "sharded"],
)
def test_what_goes_by_the_places_of_samples_is_refused(name, value, policy):
    prune = AlignPrune(policy=policy, score="loss", key=key_of, **{name: value})
    with pytest.raises(MisconfigurationException, match=f"{name} goes by the places of samples, but in a stream"):
        make_trainer(prune).fit(Plain(), loader_of())


def test_a_run_folder_is_refused_as_it_names_samples_by_their_places(tmp_path):
    prune = AlignPrune(REFERENCE, policy=Half(), key=key_of)
    folder = RunFolder(tmp_path)
    with pytest.raises(MisconfigurationException, match=r"RunFolder .* stream"):
        make_trainer(prune, folder, max_epochs=1).fit(Plain(), loader_of())


def test_keys_are_asked_of_streams_alone():
    prune = AlignPrune(policy=Half())
    make_trainer(prune, max_epochs=1).fit(Plain(), make_loader(TRAIN))
    with pytest.raises(RuntimeError, match="no keys, as the training set is no stream"):
        _ = prune.keys


def test_what_fails_in_a_key_function_is_told_as_it_is():
    with pytest.raises(KeyError, match="mine"):
        fit(Plain(), key=lambda sample: {}["mine"])


def test_a_stream_that_has_become_a_data_set_is_refused():
    prune, run = fit(Plain(), epochs=1)
    run.fit_loop.max_epochs = 2
    with pytest.raises(MisconfigurationException, match=r"got a key, but the samples of TensorDataset"):
        run.fit(run.lightning_module, make_loader(TRAIN))
    prune.keeps.key = None
    with pytest.raises(MisconfigurationException, match=r"was a stream and is now a TensorDataset"):
        run.fit(run.lightning_module, make_loader(TRAIN))


# ---- leaves nothing -----------------------------------------------------------------------------------------


def test_nothing_of_the_plans_is_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the system's is shared with the runs of other tests
    during = []

    def plans_on_disk():
        return [path.name for path in tmp_path.glob("alignprune-*")]

    class Notes(Plain):
        def on_train_epoch_end(self):
            during.append(plans_on_disk())

    fit(Notes(), loader_of(num_workers=2))
    assert [len(names) for names in during] == [1] * 3

    class Failing(Plain):
        def on_train_epoch_end(self):
            raise KeyError("mine")

    with pytest.raises(KeyError):
        fit(Failing(), loader_of(num_workers=2))
    assert plans_on_disk() == []


def test_a_loader_of_the_users_stays_as_it_was():
    loader = loader_of(drop_last=True)
    before = dict(vars(loader))
    fit(Plain(), loader)
    assert vars(loader) == before
    assert len(list(loader)) == 12


def test_a_trainer_that_fits_on_goes_on_by_keys_with_another_stream():
    module = IndexLoss()
    prune, run = fit(module, epochs=2)
    run.fit_loop.max_epochs = 3
    run.fit(module, loader_of(Stream(range(N)[::-1])))
    assert module.trained(2) == list(range(0, N, 2))[::-1]
    assert [row["kept"] for row in prune.history] == [N, 102, 102]
