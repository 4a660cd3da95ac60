"""Batch samplers of the user's own: batches lose what the plan leaves out, and are merged where that is allowed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler

from alignprune_pl import AlignPrune, Calibrated, NoPruning, Policy
from alignprune_pl.core.draws import Draw
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.sampler import PruningBatchSampler
from helpers import IndexLoss, N, Plain, make_data, make_trainer
from test_own_samplers import MOMENTS, Half, InHook, Unending, resumable
from test_resume import check_goes_on
from test_trainer_settings import Doubling, Linear, Scheduled, gradient

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]


def draw_of(batches):
    """A draw of these batches."""
    flat = torch.tensor([i for batch in batches for i in batch], dtype=torch.int64)
    return Draw(flat, torch.tensor([len(batch) for batch in batches]), len(batches), None)


def served(batches, keep, merges=False, n=100):
    """The batches that one rank serves."""
    return list(PruningBatchSampler(n, EpochPlan.of(torch.tensor(keep)), draw_of(batches), merges))


BATCHES = [[0, 1, 2, 3], [4, 5, 6], [8, 9], [10, 11, 12, 13], [14, 4]]


def test_batches_lose_what_is_left_out_and_empty_ones_are_left_out():
    assert served(BATCHES, [0, 2, 3, 4, 6, 10, 11, 12, 13, 14]) == [[0, 2, 3], [4, 6], [10, 11, 12, 13], [14, 4]]


def test_neighbours_are_merged_as_long_as_they_fit_the_largest_batch():
    keep = [0, 2, 4, 6, 8, 9, 12, 13, 14]
    assert served(BATCHES, keep) == [[0, 2], [4, 6], [8, 9], [12, 13], [14, 4]]
    assert served(BATCHES, keep, merges=True) == [[0, 2, 4, 6], [8, 9, 12, 13], [14, 4]]
    assert served(BATCHES, list(range(20)), merges=True) == BATCHES  # three and two are five, and four the most


def test_a_batch_that_has_become_one_sample_waits_unless_it_was_one_or_is_all():
    assert served(BATCHES, [0, 1, 5, 10, 12]) == [[0, 1], [10, 12]]
    assert served([[0, 1], [2], [3, 4]], [0, 2, 3, 4]) == [[2], [3, 4]]
    assert served(BATCHES, [5, 10]) == [[5], [10]]
    assert served(BATCHES, [0, 1, 5, 10, 12], merges=True) == [[0, 1, 5], [10, 12]]
    assert served([[0, 1], [2], [3, 4]], [2], merges=True) == [[2]]


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_ranks_share_the_batches_in_turn_and_evenly(data):
    size, ranks = data.draw(st.integers(1, 6), "size"), data.draw(st.integers(1, 4), "ranks")
    batches = data.draw(st.lists(st.lists(st.integers(0, 29), min_size=0, max_size=size), min_size=1, max_size=12))
    keep = data.draw(st.sets(st.integers(0, 29), min_size=1), "keep")
    merges = data.draw(st.booleans(), "merges")
    plan = EpochPlan(torch.tensor(sorted(keep)), 1 + torch.rand(len(keep)))
    weight_of = dict(zip(plan.keep.tolist(), plan.weight.tolist(), strict=True))
    if not keep & {i for batch in batches for i in batch}:
        with pytest.raises(ValueError, match="none of those that the sampler has drawn"):
            PruningBatchSampler(30, plan, draw_of(batches), merges)
        return
    alone = list(PruningBatchSampler(30, plan, draw_of(batches), merges))
    samplers = [PruningBatchSampler(30, plan, draw_of(batches), merges, ranks, rank) for rank in range(ranks)]
    count = -(-len(alone) // ranks)
    firsts = []
    for rank, sampler in enumerate(samplers):
        assert len(sampler) == count == len(list(sampler))
        for number, batch in enumerate(sampler):
            here, at = sampler.batch(number), number * ranks + rank
            assert here.index.tolist() == batch == alone[at % len(alone)]
            is_padding = at >= len(alone)
            assert here.real == (0 if is_padding else len(batch))
            assert here.weight.tolist() == [0.0 if is_padding else weight_of[i] for i in batch]
            firsts += here.index[here.is_first].tolist() if not is_padding else []
        done = data.draw(st.integers(0, count))
        sampler.skip_batches_once(done)
        assert list(sampler) == [alone[(b * ranks + rank) % len(alone)] for b in range(done, count)]
        for number in range(count + 1):
            assert sampler.trained(number).tolist() == [i for batch in alone[: number * ranks] for i in batch]
    trained = [i for batch in alone for i in batch]
    assert sorted(firsts) == sorted(set(trained))
    left_out = [i for batch in batches for i in batch if i in keep]
    assert len(left_out) - len(trained) <= sum(len(batch) > 1 for batch in batches)
    assert len(alone) <= len(batches)
    assert max(map(len, alone)) <= max(map(len, batches))


# ---- in a run -----------------------------------------------------------------------------------------------


class Buckets(Sampler):
    """Batches of samples that are alike, of different sizes, in another order each epoch."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(of_epoch(self.epoch))

    def __len__(self):
        return 18


def of_epoch(epoch):
    """Eighteen batches of 8 to 14 samples, and one of twice the same."""
    generator = torch.Generator().manual_seed(epoch)
    sizes = [8, 10, 11, 14] * 4 + [12, 19]
    batches = [part.tolist() for part in torch.arange(N).split(sizes)]
    batches[-1] = batches[-1][:7] + batches[-1][:6]
    return [batches[i] for i in torch.randperm(18, generator=generator).tolist()]


def loader_of(batches, make=DataLoader, **kwargs):
    return make(make_data()[0], batch_sampler=batches, **kwargs)


def fit(module, loader, policy=None, **trainer):
    prune = AlignPrune(policy=policy or Half(), score="loss", seed=1, window=3, storage_dtype=torch.float32)
    run = make_trainer(prune, **{"max_epochs": 3, **trainer})
    run.fit(module, loader)
    return prune, run


def left(epoch, batches=None):
    """What the policy that leaves out odd samples leaves of the batches."""
    return [[i for i in batch if epoch == 0 or i % 2 == 0] for batch in (batches or of_epoch(epoch))]


def batches_of(module, epoch):
    return [batch for at, batch in module.batches if at == epoch]


@pytest.mark.parametrize(
    ("make", "loader"),
    [
        (DataLoader, {}),
        (DataLoader, {"num_workers": 2, "persistent_workers": True}),
        (partial(Doubling, factor=2), {}),
    ],
    ids=["plain", "workers", "a class of one's own"],
)
def test_each_epoch_serves_its_batches_less_what_is_left_out(make, loader):
    module = IndexLoss()
    prune, _ = fit(module, loader_of(Buckets(), make, **loader))
    for epoch in range(3):
        assert batches_of(module, epoch) == left(epoch)
    assert [row["kept"] for row in prune.history] == [len(module.trained(epoch)) for epoch in range(3)]
    assert {row["full"] for row in prune.history} == {sum(map(len, of_epoch(0)))}
    last = prune.store.last_loss()
    seen = torch.tensor(sorted({i for _, batch in module.batches for i in batch}))
    torch.testing.assert_close(last[seen], seen.float(), rtol=1e-4, atol=1e-4)
    assert int(last.isfinite().sum()) == len(seen)


def test_merged_batches_are_trained_where_that_is_allowed():
    module = IndexLoss()
    prune = AlignPrune(policy=Half(), score="loss", seed=1, merge_batches=True)
    make_trainer(prune, max_epochs=3).fit(module, loader_of(Buckets()))
    assert batches_of(module, 0) == left(0)
    for epoch in (1, 2):
        assert batches_of(module, epoch) == merged(left(epoch), max(map(len, of_epoch(epoch))))
        assert len(batches_of(module, epoch)) < 14


def merged(batches, most):
    """Each batch with the one before it, as long as there is room."""
    result = [[]]
    for batch in batches:
        if len(result[-1]) + len(batch) <= most:
            result[-1] = result[-1] + batch
        else:
            result.append(batch)
    return result


@pytest.mark.parametrize("make", [list, lambda batches: BatchesAlone(batches)], ids=["a list", "no length"])
def test_batches_may_come_from_anything_that_gives_lists(make):
    batches = [[1, 2, 4], [6, 6, 8], [10, 11]]
    module = Scheduled()
    _, run = fit(module, loader_of(make(batches)))
    assert batches_of(module, 0) == batches
    assert batches_of(module, 2) == [[2, 4], [6, 6, 8]]
    assert module.estimated == 9
    assert run.global_step == 3 + 2 + 2


class BatchesAlone:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class OwnBatchSampler(BatchSampler):
    """A subclass that Lightning could not make again by itself."""

    def __init__(self, data):
        super().__init__(RandomSampler(data, generator=torch.Generator().manual_seed(1)), 20, drop_last=True)


@pytest.mark.parametrize("where", ["given", "in a hook"])
def test_a_subclass_of_torchs_batch_sampler_keeps_its_batches(where):
    whole = Plain()
    make_trainer(max_epochs=2).fit(whole, loader_of(OwnBatchSampler(range(N))))
    if where == "given":
        module = IndexLoss()
        prune, _ = fit(module, loader_of(OwnBatchSampler(range(N))), NoPruning(), max_epochs=2)
    else:
        module = InHook(lambda _: loader_of(OwnBatchSampler(range(N))))
        prune = AlignPrune(policy=NoPruning(), score="loss")
        make_trainer(prune, max_epochs=2).fit(module)
    assert module.batches == whole.batches
    assert [(row["kept"], row["full"]) for row in prune.history] == [(200, 200), (200, 200)]


def test_weights_act_on_the_samples_of_each_batch():
    class Weighted(Policy):
        usual_score = "loss"
        by_place = True

        def plan(self, scores, ask):
            return EpochPlan(torch.tensor([2, 4, 9]), torch.tensor([1.0, 3.0, 0.5]))

    module, fresh = Linear(), Linear()
    fit(module, loader_of([[4, 7, 9, 4, 2]]), Weighted(), max_epochs=1)
    (batch,) = module.batches
    assert batch[0][:, 0].tolist() == [4, 9, 4, 2]
    parts = gradient(fresh, batch, torch.tensor([3.0, 0.5, 3.0, 1.0]))
    for now, then, part in zip(module.parameters(), fresh.parameters(), parts, strict=True):
        torch.testing.assert_close(now, then - 0.1 * part)


@pytest.mark.parametrize(("limit", "batches"), [(5, 5), (0.5, 9)])
def test_limits_count_batches(limit, batches):
    module = IndexLoss()
    prune, _ = fit(module, loader_of(Buckets()), limit_train_batches=limit)
    for epoch in range(3):
        assert batches_of(module, epoch) == left(epoch)[:batches]
    assert [row["full"] for row in prune.history] == [sum(map(len, of_epoch(e)[:batches])) for e in range(3)]


def test_validation_and_schedules_go_by_the_number_of_batches():
    class Few(Half):
        """Leaves something of four batches in ten."""

        def plan(self, scores, ask):
            return EpochPlan.of(torch.arange(len(scores) if ask.epoch == 0 else 80))

    full, pruned = Scheduled(), Scheduled()
    for module, policy in ((full, NoPruning()), (pruned, Few())):
        prune = AlignPrune(policy=policy, score="loss", seed=1)
        run = make_trainer(prune, max_epochs=4, val_check_interval=0.5)
        run.fit(module, loader_of(Buckets()), DataLoader(make_data()[1], 20))
    assert pruned.estimated == full.estimated == 4 * 18
    assert pruned.rates == pytest.approx(full.rates)
    assert pruned.trainer.global_step < full.trainer.global_step == 72
    assert pruned.validated == full.validated == [0, 0, 1, 1, 2, 2, 3, 3]


def test_what_is_passed_forward_between_epochs_goes_in_batches_of_the_usual_size():
    sizes = []

    class Notes(Plain):
        def training_step(self, batch, batch_idx):
            if not self.training:
                sizes.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    prune = AlignPrune(make_data()[1], Calibrated(calibration=0.25, until=1.0), window=3, seed=1)
    make_trainer(prune, max_epochs=2).fit(Notes(), loader_of(Buckets()))
    assert prune.history[0]["probed"] > 90
    assert max(sizes) == 11  # the median of the batches


@pytest.mark.parametrize("merges", [False, True])
def test_a_resumed_run_goes_on_with_the_batches_of_the_interrupted_one(tmp_path, merges):
    make = partial(resumable, make=loader_of, merge_batches=merges)
    whole, first = make(Buckets(), tmp_path, moments=MOMENTS)
    assert len({row["kept"] for row in first.history}) > 2
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) == 4
    for file in files:
        resumed, second = make(Buckets(), ckpt=str(file))
        check_goes_on(whole, first, resumed, second, int(file.stem))
    if merges:
        with pytest.raises(
            MisconfigurationException, match="with merge_batches=True, but this run has False; resume with"
        ):
            resumable(Buckets(), ckpt=str(files[0]), make=loader_of)


class Endless(Unending):
    def __iter__(self):
        while True:
            yield [1, 2]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([1, 2, 3], r"sampler list drew something else than indices for epoch 0.*lists of ints are expected"),
        ([[1, 2], [0.5]], "sampler list drew something else than indices"),
        ([[1, N]], f"sampler list draws samples 1 to {N}, but the training set has {N}"),
        ([], "sampler list drew no sample for epoch 0"),
        (Endless(), "sampler Endless has no length and draws more than 10 times"),
    ],
    ids=["indices", "floats", "too high", "none", "no end"],
)
def test_a_batch_sampler_that_does_not_draw_samples_is_refused_before_training(batches, message):
    module = Plain()
    with pytest.raises(ValueError, match=message):
        fit(module, loader_of(batches))
    assert module.batches == []


class WithoutIt(DataLoader):
    def __init__(self, dataset):
        super().__init__(dataset, batch_sampler=Buckets())


def test_a_loader_class_that_makes_its_own_batch_sampler_is_refused_by_name():
    module = Plain()
    with pytest.raises(MisconfigurationException, match=r"could not make the loader WithoutIt again.*by name"):
        fit(module, WithoutIt(make_data()[0]))
    assert module.batches == []
