"""Samplers and batch samplers of the user's own: what they draw is trained, less what the plan leaves out."""

from __future__ import annotations

import io
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from alignprune_pl import (
    UCB,
    AlignmentScore,
    AlignPrune,
    Calibrated,
    InfoBatch,
    LossScore,
    NoPruning,
    Policy,
    Random,
    SmallLoss,
)
from alignprune_pl.core.draws import Draw
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.sampler import PruningSampler
from helpers import IndexLoss, N, Plain, make_data, make_loader, make_trainer
from test_resume import Momentum, Saver, check_goes_on
from test_trainer_settings import Linear, Scheduled, gradient

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]
WEIGHTS = torch.arange(N).remainder(7).double()  # a seventh of the samples is never drawn


class Noted(Sampler):
    """A sampler of one's own that keeps what it has drawn, and how often it was asked."""

    def __init__(self, draws=150, seed=0):
        self.draws, self.epoch = draws, None
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn = []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        index = torch.multinomial(WEIGHTS, self.draws, replacement=True, generator=self.generator).tolist()
        self.drawn.append((self.epoch, index))
        return iter(index)

    def __len__(self):
        return self.draws


class Drawn:
    """Draws by epoch, as a sampler that depends on ``set_epoch`` alone."""

    def __init__(self, draws=150):
        self.draws, self.epoch, self.asked = draws, 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        self.asked.append(self.epoch)
        return iter(of_epoch(self.epoch, self.draws))

    def __len__(self):
        return self.draws


def of_epoch(epoch, draws=150):
    generator = torch.Generator().manual_seed(epoch)
    return torch.multinomial(WEIGHTS, draws, replacement=True, generator=generator).tolist()


class Half(Policy):
    """Leaves out the odd samples from the second epoch on, and gives each other one a weight of its own."""

    usual_score = "loss"
    by_place = True

    def plan(self, scores, ask):
        keep = torch.arange(0, len(scores), 1 + (ask.epoch > 0))
        return EpochPlan(keep, 1.0 + keep.remainder(3).float() / 2)


def loader_of(sampler, **kwargs):
    return DataLoader(make_data()[0], **{"batch_size": 16, "sampler": sampler, **kwargs})


def fit(module, loader, policy=None, epochs=3, score="loss", **trainer):
    prune = AlignPrune(make_data()[1], policy or Half(), score, window=3, seed=1, storage_dtype=torch.float32)
    run = make_trainer(prune, max_epochs=epochs, **trainer)
    run.fit(module, loader)
    return prune, run


def cut(draws):
    """Less the last batch, where that has few samples, which a pruned epoch leaves for another."""
    rest = len(draws) % 16
    return draws[: len(draws) - rest] if rest < 4 else draws


# ---- samplers -----------------------------------------------------------------------------------------------


def test_each_epoch_serves_the_draw_in_its_order_less_what_is_left_out():
    sampler, module = Noted(), IndexLoss()
    prune, _ = fit(module, loader_of(sampler))
    # Once for each epoch, that which would come next included.
    assert [epoch for epoch, _ in sampler.drawn] == [0, 1, 2, 3]
    left = [[i for i in draws if epoch == 0 or i % 2 == 0] for epoch, draws in sampler.drawn]
    assert module.trained(0) == sampler.drawn[0][1]
    for epoch in (1, 2):
        assert module.trained(epoch) == cut(left[epoch])
        assert max(Counter(module.trained(epoch)).values()) > 1
    assert [row["kept"] for row in prune.history] == [len(module.trained(epoch)) for epoch in range(3)]
    assert {row["full"] for row in prune.history} == {150}
    kept = sum(len(module.trained(epoch)) for epoch in range(3))
    assert prune.summary()["saved"] == pytest.approx(1 - kept / 450)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("kept", [13, 60, 99])
def test_ranks_share_a_draw_as_they_share_a_plan(kept, ranks):
    generator = torch.Generator().manual_seed(kept)
    index = torch.randint(100, (151,), generator=generator)
    plan = EpochPlan(torch.arange(kept), 1 + torch.rand(kept, generator=generator))
    draw = Draw(index, None, 151, None)
    samplers = [PruningSampler(100, plan, 4, ranks, rank, draw) for rank in range(ranks)]
    left = index[index < kept]
    per_rank = len(samplers[0])
    places = [i * ranks + rank for rank in range(ranks) for i in range(per_rank)]
    served = [
        (i, w, first)
        for sampler in samplers
        for i, w, first in zip(*(part.tolist() for part in whole(sampler.mine)), strict=True)
    ]
    together = [item for _, item in sorted(zip(places, served, strict=True))]
    count = len(samplers[0].trained(per_rank))
    assert [len(sampler) for sampler in samplers] == [per_rank] * ranks
    assert 0 <= len(left) - count < max(2, ranks + 1)
    assert [i for i, _, _ in together[:count]] == left[:count].tolist()
    assert [w for _, w, _ in together] == [*plan.weight[left[:count]].tolist(), *[0.0] * (len(together) - count)]
    firsts = [i for i, _, is_first in together[:count] if is_first]
    assert firsts == list(dict.fromkeys(left[:count].tolist()))


def whole(samples):
    return samples.index, samples.weight, samples.is_first


@pytest.mark.parametrize(
    "make",
    [
        lambda generator: WeightedRandomSampler(WEIGHTS, 120, generator=generator),
        lambda generator: SubsetRandomSampler(range(5, 105), generator=generator),
        lambda generator: RandomSampler(range(N), replacement=True, generator=generator),
        lambda generator: RandomSampler(range(N), num_samples=50, generator=generator),
        lambda generator: BatchSampler(WeightedRandomSampler(WEIGHTS, 120, generator=generator), 16, drop_last=True),
    ],
    ids=["weighted", "subset", "with replacement", "some of each epoch", "in a plain batch sampler"],
)
def test_torchs_samplers_draw_as_they_do_without_the_callback(make):
    draws = [make(torch.Generator().manual_seed(3)) for _ in range(2)]
    ways = [
        {"batch_sampler": by} if isinstance(by, BatchSampler) else {"batch_size": 16, "sampler": by} for by in draws
    ]
    plain, loader = (DataLoader(make_data()[0], **way) for way in ways)
    whole, pruned = IndexLoss(), IndexLoss()
    make_trainer(max_epochs=3).fit(whole, plain)
    prune, _ = fit(pruned, loader, NoPruning())
    assert pruned.batches == whole.batches
    assert [row["saved"] for row in prune.history] == [0, 0, 0]
    drawn = torch.tensor(sorted({i for epoch in range(3) for i in whole.trained(epoch)}))
    seen = prune.store.last_loss().isfinite().nonzero().squeeze(1)
    assert torch.equal(seen, drawn)
    torch.testing.assert_close(prune.store.last_loss()[seen], seen.float())


def test_a_sample_that_is_drawn_twice_has_its_weight_twice_in_the_gradient():
    class Twice(Half):
        def plan(self, scores, ask):
            keep = torch.tensor([2, 4, 9])
            return EpochPlan(keep, torch.tensor([1.0, 3.0, 0.5]))

    module, fresh = Linear(), Linear()
    fit(module, loader_of([4, 9, 7, 4, 2, 4, 9]), Twice(), epochs=1)
    (batch,) = module.batches
    assert batch[0][:, 0].tolist() == [4, 9, 4, 2, 4, 9]
    parts = gradient(fresh, batch, torch.tensor([3.0, 0.5, 3.0, 1.0, 3.0, 0.5]))
    for now, then, part in zip(module.parameters(), fresh.parameters(), parts, strict=True):
        torch.testing.assert_close(now, then - 0.1 * part)


class Counting(Plain):
    """Its losses are 0, 1, 2 and so on, by the place in the batch."""

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        zero = 0.0 * self(batch[0]).sum()
        return {"loss": zero, "per_sample_loss": torch.arange(len(batch[0])) + zero}


def test_a_sample_that_is_drawn_twice_is_recorded_once_as_the_mean_of_its_losses():
    prune, _ = fit(Counting(), loader_of([4, 9, 4, 2, 9, 4, 30]), NoPruning(), epochs=1)
    losses = prune.store.last_loss()
    assert losses[[4, 9, 2, 30]].tolist() == pytest.approx([7 / 3, 2.5, 3, 6])
    assert int(losses.isfinite().sum()) == 4
    assert prune.history[0]["kept"] == 7


def test_label_and_rival_of_a_sample_that_is_drawn_often_are_known():
    sampler = Noted(400)
    prune, _ = fit(Plain(), loader_of(sampler), NoPruning(), score="rival", epochs=1)
    index, times = torch.tensor(sampler.drawn[0][1]).unique(return_counts=True)
    assert int(times.max()) > 3
    labels = make_data()[0].tensors[1]
    assert torch.equal(prune.store.labels()[index], labels[index])
    rivals = prune.store.last_pair()[index] % 3
    assert bool((rivals != labels[index]).all())
    assert len(rivals.unique()) == 3
    unseen = torch.ones(N, dtype=torch.bool).index_fill(0, index, False)
    assert bool((prune.store.labels()[unseen] == -1).all())


@pytest.mark.parametrize("policy", [SmallLoss(0.4), Random(0.4), UCB(0.4)], ids=repr)
@pytest.mark.parametrize("draws", ["subset", "own"])
def test_a_ratio_is_of_what_is_drawn(policy, draws):
    if draws == "own" and policy.by_place:
        return  # it cannot be known what such a class draws, and places must stay what they are
    part = range(10, 70)
    sampler = SubsetRandomSampler(part) if draws == "subset" else OfPart(part)
    module = IndexLoss()
    prune, _ = fit(module, loader_of(sampler, batch_size=4), policy, epochs=4)
    for epoch in range(1, 4):
        trained = module.trained(epoch)
        assert set(trained) <= set(part)
        assert len(trained) == (60 if epoch == 0 else 36)
    assert set(prune.plan.keep.tolist()) <= set(part)
    if isinstance(policy, SmallLoss):
        assert sorted(module.trained(3)) == list(range(10, 46))


class OfPart(Sampler):
    """Goes through a part of the data set, by a class of one's own."""

    def __init__(self, part):
        self.part = part

    def __iter__(self):
        return iter(self.part)

    def __len__(self):
        return len(self.part)


@pytest.mark.parametrize("kind", ["subset", "weights"])
def test_what_can_never_be_drawn_is_neither_held_nor_probed_nor_suspected(kind):
    weights = (torch.arange(N) % 2 == 0).double()
    sampler = WeightedRandomSampler(weights, 300) if kind == "weights" else SubsetRandomSampler(range(0, N, 2))
    policy = Calibrated(calibration=0.25, line=0.5, until=1.0)
    probed = []

    class Notes(Plain):
        def on_train_epoch_start(self):
            probed.append(self.prune[0].plan.probe)

    torch.manual_seed(0)
    module = Notes()
    prune = AlignPrune(make_data()[1], policy, window=3, seed=1)
    module.prune = [prune]
    make_trainer(prune, max_epochs=4).fit(module, loader_of(sampler))
    assert [len(part) > 40 and bool((part % 2 == 0).all()) for part in probed] == [True] * 4
    assert prune.store.losses()[1::2].isnan().all()
    suspects = prune.suspects()
    assert suspects.suspicion[1::2].isnan().all()
    assert len(suspects.suspicion) == N
    assert len(suspects.index) > 5
    assert bool((suspects.index % 2 == 0).all())
    assert torch.equal(suspects.suspicion[suspects.index], suspects.scores)
    assert len(prune.wrong_probability()) == N


def test_samples_that_a_sampler_turns_to_later_are_trained():
    sampler = WeightedRandomSampler((torch.arange(N) < 50).double(), 60)

    class Turns(IndexLoss):
        def on_train_epoch_start(self):
            if self.trainer.current_epoch == 1:
                sampler.weights = 1.0 - sampler.weights

    module = Turns()
    fit(module, loader_of(sampler), UCB(0.2), epochs=4)
    assert max(module.trained(1)) < 50  # planned when the epoch before had ended
    assert min(module.trained(2)) >= 50
    assert len(module.trained(2)) == 60


class Unending(Sampler):
    """Has no end, and a length if it is told one."""

    def __iter__(self):
        while True:
            yield from range(N - 1, -1, -1)


class Announced(Unending):
    def __len__(self):
        return 40


class NoLength(Sampler):
    """Ends, but has no length; or one that raises, as a base class may have it."""

    def __init__(self, raises=False):
        if raises:
            self.__class__ = type("Raises", (NoLength,), {"__len__": lambda self: (_ for _ in ()).throw(TypeError)})

    def __iter__(self):
        return iter(range(0, N, 3))


@pytest.mark.parametrize(
    ("sampler", "draws"),
    [
        (Announced(), list(range(N - 1, N - 41, -1))),
        (NoLength(), list(range(0, N, 3))),
        (NoLength(raises=True), list(range(0, N, 3))),
        (np.arange(7, 60), list(range(7, 60))),
        (torch.arange(7, 60), list(range(7, 60))),
        ([5, 5, 5, 8, 8, 1], [5, 5, 5, 8, 8, 1]),
    ],
    ids=["cut at its length", "no length", "a length that raises", "numpy", "tensor", "list"],
)
def test_the_length_of_an_epoch_is_the_samplers_or_found_by_asking(sampler, draws):
    module = Scheduled()
    prune, run = fit(module, loader_of(sampler), NoPruning())
    assert [module.trained(epoch) for epoch in range(3)] == [draws] * 3
    assert module.estimated == run.global_step == 3 * -(-len(draws) // 16)
    assert prune.history[-1]["full"] == len(draws)


class Of(Sampler):
    """Draws what it is told, each epoch."""

    def __init__(self, items, length=None):
        self.items, self.length = items, length

    def __iter__(self):
        return iter(self.items)

    def __len__(self):
        return len(self.items)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Of([0.5, 1.5]), r"sampler Of drew something else than indices for epoch 0.*ints are expected"),
        (Of([(0, "flipped")]), "sampler Of drew something else than indices"),
        (Of([3, N]), f"sampler Of draws samples 3 to {N}, but the training set has {N}, counted from 0"),
        (Of([-1, 4]), "sampler Of draws samples -1 to 4"),
        (SubsetRandomSampler([1, 999]), "sampler SubsetRandomSampler draws samples 1 to 999"),
        (WeightedRandomSampler([0.0] * 300 + [1.0], 5), "sampler WeightedRandomSampler draws samples 300 to 300"),
        (Of([]), "sampler Of drew no sample for epoch 0; let it begin anew"),
        (Unending(), f"sampler Unending has no length and draws more than 10 times the {N} samples"),
    ],
    ids=["floats", "pairs", "too high", "negative", "subset", "weights", "nothing", "no end"],
)
def test_a_sampler_that_does_not_draw_samples_is_refused_before_training(sampler, message):
    module = Plain()
    with pytest.raises(ValueError, match=message):
        fit(module, loader_of(sampler))
    assert module.batches == []


def test_what_fails_in_a_sampler_is_told_as_it_is():
    def fails():
        yield 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit(Plain(), loader_of(fails()))


def test_a_generator_that_is_used_up_is_refused_when_it_draws_nothing():
    module = Plain()
    with pytest.raises(
        ValueError, match=r"sampler generator drew no sample for epoch 1; let it begin anew with each iter"
    ):
        fit(module, loader_of(i for i in range(40)))
    assert len(module.trained(0)) == 40


class OwnShare(DistributedSampler):
    """Shares out samples in a way of its own."""

    def __iter__(self):
        return iter(list(range(self.rank, N, self.num_replicas))[::-1])

    def __len__(self):
        return len(range(self.rank, N, self.num_replicas))


def test_a_distributed_sampler_of_ones_own_is_asked_for_all_and_refused_where_it_draws_a_share():
    module = IndexLoss()
    fit(module, loader_of(OwnShare(range(N), num_replicas=1, rank=0)), NoPruning())
    assert [module.trained(epoch) for epoch in range(3)] == [list(range(N))[::-1]] * 3
    shared = OwnShare(range(N), num_replicas=2, rank=0)
    message = r"sampler OwnShare, which draws a share for one of 2 processes.*make it with num_replicas=1, rank=0"
    for loader in (loader_of(shared), DataLoader(make_data()[0], batch_sampler=Buckets(shared))):
        module = Plain()
        with pytest.raises(MisconfigurationException, match=message):
            fit(module, loader)
        assert module.batches == []


class Buckets(BatchSampler):
    """Batches of a sampler's indices, by a class of one's own."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        return iter([list(self.sampler)])

    def __len__(self):
        return 1


@pytest.mark.parametrize(
    ("trainer", "loader", "lengths"),
    [
        ({"limit_train_batches": 4}, {}, [64, 64, 64]),
        ({"limit_train_batches": 0.5}, {}, [80, 32, 32]),
        ({}, {"drop_last": True}, [144, 64, 64]),
        ({"max_steps": 12}, {}, [150, 32, 0]),
        ({}, {"num_workers": 2, "persistent_workers": True}, [150, 78, 73]),
    ],
    ids=str,
)
def test_limits_and_loaders_are_as_for_other_samplers(trainer, loader, lengths):
    module, sampler = IndexLoss(), Drawn()
    prune, _ = fit(module, loader_of(sampler, **loader), **trainer)
    left = [[i for i in of_epoch(epoch) if epoch == 0 or i % 2 == 0] for epoch in range(3)]
    assert [module.trained(epoch) for epoch in range(3)] == [left[e][: lengths[e]] for e in range(3)]
    assert [row["kept"] for row in prune.history] == [length for length in lengths if length]


@pytest.mark.parametrize("interval", [1.0, 0.5, 3])
def test_validation_and_schedules_go_by_the_samplers_length(interval):
    full, pruned = Scheduled(), Scheduled()
    for module, policy in ((full, NoPruning()), (pruned, Half())):
        prune = AlignPrune(policy=policy, score="loss", seed=1)
        run = make_trainer(prune, max_epochs=4, val_check_interval=interval)
        run.fit(module, loader_of(Drawn()), DataLoader(make_data()[1], 20))
    assert pruned.estimated == full.estimated == 4 * 10
    assert pruned.rates == pytest.approx(full.rates)
    assert pruned.lr_schedulers().last_epoch == full.lr_schedulers().last_epoch == 40
    assert set(pruned.validated) == {0, 1, 2, 3}
    assert pruned.trainer.global_step < full.trainer.global_step == 40


class InHook(IndexLoss):
    """Makes its loader in its own hook, where Lightning keeps its arguments."""

    def __init__(self, make):
        super().__init__()
        self.make, self.made = make, 0

    def train_dataloader(self):
        """The training data."""
        self.made += 1
        return self.make(self.made)


def test_a_loader_that_is_made_again_is_asked_for_the_epoch_that_it_is_made_for():
    module = InHook(lambda made: DataLoader(make_data()[0], 16, sampler=Of(range(made, made + 32))))
    prune = AlignPrune(policy=UCB(0.0), score="loss", seed=1)
    make_trainer(prune, max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(module)
    assert [module.trained(epoch) for epoch in range(3)] == [list(range(made, made + 32)) for made in (1, 2, 3)]


def test_a_trainer_that_fits_on_takes_the_new_loaders_sampler():
    module = IndexLoss()
    prune = AlignPrune(policy=NoPruning(), score="loss", seed=1)
    run = make_trainer(prune, max_epochs=1)
    loaders = [loader_of(range(30)), loader_of(Of(range(50, 90))), make_loader(make_data()[0], shuffle=False)]
    for epochs, loader in enumerate(loaders, 1):
        run.fit_loop.max_epochs = epochs
        run.fit(module, loader)
    assert [module.trained(epoch) for epoch in range(3)] == [list(range(30)), list(range(50, 90)), list(range(N))]


def test_a_trainer_that_fits_on_with_the_same_loader_does_not_ask_again():
    module, loader = IndexLoss(), loader_of(Drawn())
    prune = AlignPrune(policy=NoPruning(), score="loss", seed=1)
    run = make_trainer(prune, max_epochs=1)
    for epochs in (1, 2):
        run.fit_loop.max_epochs = epochs
        run.fit(module, loader)
    assert loader.sampler.asked == [0, 1, 2]
    assert module.trained(1) == of_epoch(1)


def test_an_interrupted_epoch_is_drawn_anew_by_another_kind_of_loader():
    class Breaks(IndexLoss):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if self.trainer.global_step == 3:
                raise RuntimeError("broken")

    batches = [[1, 2, 3], [4, 5], [6, 6, 7]]
    whole, own, of_batches = (
        make_loader(make_data()[0]),
        loader_of(Drawn()),
        DataLoader(make_data()[0], batch_sampler=batches),
    )
    for first, second in ((whole, of_batches), (own, of_batches), (of_batches, own)):
        module = Breaks()
        run = make_trainer(AlignPrune(policy=NoPruning(), score="loss"), max_epochs=1)
        with pytest.raises(RuntimeError, match="broken"):
            run.fit(module, first)
        before = len(module.batches)
        run.fit(module, second)
        again = [batch for _, batch in module.batches[before:]]
        assert again == batches if second is of_batches else [i for batch in again for i in batch] == of_epoch(0)


def test_places_stay_what_they_were_where_a_loader_that_goes_through_all_comes_first():
    module = IndexLoss()
    prune = AlignPrune(policy=UCB(0.2), score="loss", seed=1)
    run = make_trainer(prune, max_epochs=2)
    run.fit(module, make_loader(make_data()[0]))
    run.fit_loop.max_epochs = 4
    run.fit(module, loader_of(SubsetRandomSampler(range(50, 90))))
    for epoch in (2, 3):
        assert 0 < len(module.trained(epoch)) <= 40
        assert set(module.trained(epoch)) <= set(range(50, 90))


def test_the_progress_bar_shows_the_share_of_the_draw():
    shown = []

    class Notes(IndexLoss):
        def on_train_epoch_end(self):
            shown.append(self.trainer.progress_bar_metrics["pruning/kept_share"])

    fit(Notes(), loader_of([2, 2, 2, 4, 5, 7, 7, 9, 6, 8]))
    assert shown == pytest.approx([1, 0.6, 0.6])


# ---- resuming -----------------------------------------------------------------------------------------------


def resumable(sampler, folder=None, ckpt=None, moments=(), epochs=5, policy=None, make=loader_of, **kwargs):
    torch.manual_seed(5)
    module = Momentum()
    prune = AlignPrune(make_data()[1], policy or InfoBatch(0.5), AlignmentScore(warm_up=2), window=3, seed=1, **kwargs)
    savers = [Saver("on_train_batch_end", folder, *moments)] if folder else []
    make_trainer(prune, *savers, max_epochs=epochs).fit(module, make(sampler), ckpt_path=ckpt)
    return module, prune


# Within the first epoch, at its last batch, within a pruned one, at its end.
MOMENTS = [(0, 3), (0, -1), (2, 2), (3, -1)]


def test_a_resumed_run_goes_on_with_the_draw_of_the_interrupted_one(tmp_path):
    whole, first = resumable(Drawn(), tmp_path, moments=MOMENTS)
    assert len({row["kept"] for row in first.history}) > 2
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) == 4
    for file, (epoch, _) in zip(files, MOMENTS, strict=True):
        sampler = Drawn()
        resumed, second = resumable(sampler, ckpt=str(file))
        check_goes_on(whole, first, resumed, second, int(file.stem))
        assert sampler.asked == list(range(epoch + 1, 6))  # the running epoch's draw is in the checkpoint


class Varying(Drawn):
    """Draws more or fewer in each epoch, and does not say how many."""

    __len__ = None

    def __iter__(self):
        self.draws = (150, 90, 200, 60, 120, 150)[self.epoch]
        return super().__iter__()


def test_a_schedule_is_made_for_the_length_that_was_known_at_first_also_where_a_run_resumes(tmp_path):
    whole, first = resumable(Varying(), tmp_path, moments=[(1, 2)])
    assert whole.estimated == 50  # of 150 draws
    assert [row["full"] for row in first.history] == [150, 90, 200, 60, 120]
    (file,) = tmp_path.glob("*.ckpt")
    resumed, second = resumable(Varying(), ckpt=str(file))
    check_goes_on(whole, first, resumed, second, int(file.stem))


def test_a_half_epoch_is_finished_whatever_the_samplers_random_state(tmp_path):
    whole, _ = resumable(Noted(), tmp_path, moments=[(2, 2)])
    (file,) = tmp_path.glob("*.ckpt")
    resumed, _ = resumable(Noted(seed=99), ckpt=str(file))
    rest = whole.batches[int(file.stem) :]
    of_third = [batch for batch in rest if batch[0] == 2]
    assert len(of_third) > 1
    assert resumed.batches[: len(of_third)] == of_third
    assert resumed.batches[len(of_third) :] != rest[len(of_third) :]


def test_a_longer_run_plans_the_coming_epoch_again_for_the_same_draw(tmp_path):
    torch.manual_seed(5)
    make = partial(AlignPrune, policy=InfoBatch(0.5, delta=0.6), score=LossScore(), seed=1)
    saver = Saver("on_train_end", tmp_path)
    make_trainer(make(), saver, max_epochs=3).fit(Plain(), loader_of(Noted()))
    (file,) = tmp_path.glob("*.ckpt")
    sampler, module = Noted(seed=99), Plain()
    make_trainer(make(), max_epochs=6).fit(module, loader_of(sampler), ckpt_path=str(file))
    of_checkpoint = torch.load(file)["callbacks"]["AlignPrune"]["planner"]["draw"]["index"]
    assert set(module.trained(3)) <= set(of_checkpoint.tolist())
    assert [epoch for epoch, _ in sampler.drawn] == [4, 5, 6]
    assert len(module.trained(3)) < 150 == len(module.trained(5))  # it anneals in its own last epochs


@pytest.mark.parametrize(
    ("sampler", "known"), [(Drawn(), 0), (WeightedRandomSampler(WEIGHTS, 150), 174)], ids=["own", "torch's"]
)
def test_a_checkpoint_holds_eight_bytes_a_draw_and_eight_a_sample_that_can_be_drawn(sampler, known):
    prune, _ = fit(Plain(), loader_of(sampler), epochs=1)
    draw = prune.state_dict()["planner"]["draw"]
    buffer = io.BytesIO()
    torch.save([part for part in draw.values() if isinstance(part, torch.Tensor)], buffer)
    assert 8 * (150 + known) <= buffer.tell() < 8 * (150 + known) + 2500


def test_a_checkpoint_of_another_kind_of_loader_is_refused(tmp_path):
    resumable(Drawn(), tmp_path, moments=[(0, -1)])
    (file,) = tmp_path.glob("*.ckpt")
    with pytest.raises(
        MisconfigurationException,
        match="written with a sampler of its own, but this run has a loader that goes through all samples; resume",
    ):
        resumable(None, ckpt=str(file), make=lambda _: make_loader(make_data()[0]))


def test_a_checkpoint_written_without_the_callback_goes_on_with_a_new_draw(tmp_path):
    module = Momentum()
    saver = Saver("on_train_batch_end", tmp_path, (1, 3))
    make_trainer(saver, max_epochs=3).fit(module, loader_of(Drawn()))
    (file,) = tmp_path.glob("*.ckpt")
    module, sampler = IndexLoss(), Drawn()
    prune = AlignPrune(policy=NoPruning(), score="loss", storage_dtype=torch.float32)
    make_trainer(prune, max_epochs=3).fit(module, loader_of(sampler), ckpt_path=str(file))
    assert module.trained(1) == of_epoch(1)[4 * 16 :]
    assert module.trained(2) == of_epoch(2)
    seen = torch.tensor(sorted({i for _, batch in module.batches for i in batch}))
    torch.testing.assert_close(prune.store.last_loss()[seen], seen.float(), rtol=1e-4, atol=1e-4)


class Turning(Drawn):
    """The same samples in another order each epoch."""

    def __iter__(self):
        return iter(order_of(self.epoch))

    def __len__(self):
        return 100


def order_of(epoch):
    generator = torch.Generator().manual_seed(epoch)
    return (50 + torch.randperm(100, generator=generator)).tolist()


@pytest.mark.parametrize(
    ("hook", "moments", "done"), [("batch", [(1, 3)], 4), ("epoch", [(0, -1)], 0)], ids=["half", "end"]
)
def test_the_order_is_that_of_the_resumed_epoch_though_the_loader_was_made_before_it_was_known(
    tmp_path, hook, moments, done
):
    saver = Saver(f"on_train_{hook}_end", tmp_path, *moments)
    make_trainer(saver, max_epochs=3).fit(Scheduled(), loader_of(Turning()))
    (file,) = tmp_path.glob("*.ckpt")
    module = Scheduled()  # asks for the number of steps, and so for the loader, when the epoch is not restored yet
    prune = AlignPrune(policy=NoPruning(), score="loss", rescale_schedules=False)
    make_trainer(prune, max_epochs=3).fit(module, loader_of(Turning()), ckpt_path=str(file))
    assert module.trained(1) == order_of(1)[done * 16 :]
    assert module.trained(2) == order_of(2)
