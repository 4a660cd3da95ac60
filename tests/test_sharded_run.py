"""A run of which each rank has a part, in one process: what it selects, keeps, refuses and tells."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset

from alignprune_pl import AlignmentScore, AlignPrune, InfoBatch, LossScore, Policy, Score, TrajectoryStore
from alignprune_pl.core.contracts import Ask, Scores
from alignprune_pl.core.over_ranks import Numbers
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.shard_plan import ShardPlan, ShardSampler
from alignprune_pl.core.sharded import Shard, ShardScores
from alignprune_pl.core.streams import stream
from alignprune_pl.policies import NoPruning, Random, SmallLoss
from alignprune_pl.policies.on_shards import random_rule
from alignprune_pl.training.run_folder import RunFolder
from helpers import CLASSES, IndexLoss, N, Plain, make_data, make_loader, make_trainer
from ranks import WORLDS, Ranks, drawn, made_up, numbers_of, shards
from test_resume import Saver, check_goes_on, every_steps, prune, run

TRAIN, REFERENCE, MASK = make_data()
pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]


def fitted(module=None, loader=None, epochs=5, **kwargs):
    """A run with the last loss as the score."""
    callback = AlignPrune(**{"policy": InfoBatch(0.5), "score": LossScore(), "seed": 1, "sharded": True, **kwargs})
    module = Plain() if module is None else module
    make_trainer(callback, max_epochs=epochs).fit(module, make_loader(TRAIN) if loader is None else loader)
    return callback, module


# ---- what is selected -----------------------------------------------------------------------------------------


class Noted(Random):
    """Notes what it was asked."""

    def __init__(self, ratio=0.3):
        super().__init__(ratio)
        self.asked = []

    def plan_on_shards(self, scores, ask, shard):
        plan = super().plan_on_shards(scores, ask, shard)
        self.asked.append((ask.epoch, scores.values.clone(), shard, plan))
        return plan


def test_a_policy_of_ones_own_plans_its_shard_and_that_is_what_is_trained():
    policy = Noted(0.4)
    callback, module = fitted(IndexLoss(), policy=policy, storage_dtype=torch.float32)
    assert [epoch for epoch, *_ in policy.asked] == [0, 1, 2, 3, 4, 5]
    for epoch, scores, shard, plan in policy.asked[:5]:
        assert shard == Shard(N)
        assert sorted(module.trained(epoch)) == plan.keep.tolist()
        seen = {i for e in range(epoch) for i in module.trained(e)}
        expected = torch.full((N,), math.nan)
        expected[sorted(seen)] = torch.tensor(sorted(seen)).float()  # its losses are the indices
        torch.testing.assert_close(scores, expected, equal_nan=True, rtol=1e-5, atol=1e-5)
    assert [row["kept"] for row in callback.history] == [121] * 5


@pytest.mark.parametrize("world", WORLDS)
def test_random_on_shards_keeps_those_with_the_lowest_numbers(world):
    values = made_up()["some missing"]
    ranks = Ranks(values, world)
    weights = ranks.weights(random_rule(ranks.summed, 0.4, Numbers.drawn(drawn(5))))
    size = int(0.6 * len(values))
    assert weights.nonzero().squeeze(1).tolist() == numbers_of(drawn(5)).argsort()[:size].sort().values.tolist()
    assert set(weights.tolist()) == {0.0, 1.0}
    (alone,) = shards(1)
    plan = Random(0.4).plan_on_shards(Scores(values), Ask(1, drawn(5)), alone)
    assert torch.equal(plan.keep, weights.nonzero().squeeze(1))


def test_samples_are_in_a_random_order_of_the_epoch_the_seed_and_the_rank():
    orders = [tuple(fitted(policy=NoPruning(), epochs=2, seed=seed)[1].trained(e)) for seed in (1, 2) for e in (0, 1)]
    assert len(set(orders)) == 4
    assert orders[0] == tuple(fitted(policy=NoPruning(), epochs=1)[1].trained(0))
    expected = torch.randperm(N, generator=stream(1, "order", 0), dtype=torch.int32)
    assert orders[0] == tuple(expected.tolist())
    assert stream(1, "order", 0, rank=1).initial_seed() != stream(1, "order", 0).initial_seed()
    _, module = fitted(policy=Random(0.5), epochs=1, loader=make_loader(TRAIN, shuffle=False))
    assert module.trained(0) == sorted(module.trained(0))


# ---- how a rank's part is served ------------------------------------------------------------------------------


def sampler_of(shard, sizes, batch_size=4, weight=1.0):
    """Of a rank that keeps the last of its samples."""
    keep = torch.arange(shard.size)[shard.size - sizes[shard.rank] :]
    return ShardSampler(shard, ShardPlan(keep, torch.full((len(keep),), weight), sizes=sizes), batch_size)


@pytest.mark.parametrize("sizes", [(40, 40, 39), (13, 9, 12), (13, 0, 1), (1, 0, 0), (12, 12, 12)])
def test_ranks_of_unequal_plans_have_as_many_batches_and_repeat_with_weight_zero(sizes):
    samplers = [sampler_of(Shard(119, 3, rank), sizes, batch_size=1, weight=2.0) for rank in range(3)]
    for rank, sampler in enumerate(samplers):
        served = list(sampler)
        assert len(served) == len(sampler) == max(sizes)
        batches = [sampler.batch(number) for number in range(len(sampler))]
        assert [int(batch.index) for batch in batches] == served
        assert {index % 3 for index in served} == {rank}
        assert len(set(served[: sizes[rank]])) == sizes[rank]
        assert [float(batch.weight) for batch in batches] == [2.0] * sizes[rank] + [0.0] * (max(sizes) - sizes[rank])
        assert [batch.real for batch in batches] == [1] * sizes[rank] + [0] * (max(sizes) - sizes[rank])
        assert sampler.trained(5).tolist() == served[: min(5, sizes[rank])]
        assert sampler.is_weighted is (len(set(sizes)) > 1)


def test_samples_that_wait_for_another_epoch_are_others_in_each():
    shard, kept = Shard(200, 2, 0), set(range(0, 66, 2))
    plan = ShardPlan(torch.arange(33), torch.ones(33), sizes=(33, 33))
    sampler = ShardSampler(shard, plan, 16)
    waits = []
    for epoch in range(33):
        sampler.set_plan(plan, epoch=epoch)
        waits.append(kept - set(sampler))
    assert waits[0] == {64}
    assert all(len(each) == 1 for each in waits)
    assert set().union(*waits) == kept


def test_a_plan_of_one_weight_needs_none_unless_ranks_are_uneven_or_another_rank_has_others():
    keep, ones = torch.arange(4), torch.ones(4)

    def is_weighted(sizes, weighted):
        return ShardSampler(Shard(20, 2), ShardPlan(keep, ones, sizes=sizes, is_weighted=weighted), 2).is_weighted

    assert [is_weighted((4, 4), False), is_weighted((4, 4), True), is_weighted((4, 3), False)] == [False, True, True]


@pytest.mark.parametrize(
    ("batch_size", "most", "served"),
    # A full epoch of 50 samples a rank ends with 2 of 16, and with 14 of 18.
    [(16, 33, 32), (16, 34, 34), (16, 50, 50), (16, 1, 1), (16, 17, 16), (18, 37, 36), (18, 39, 36), (18, 40, 40)],
)
def test_an_epoch_does_not_end_with_a_batch_that_is_far_smaller_than_a_full_one(batch_size, most, served):
    for rank, sizes in ((0, (most, 1)), (1, (1, most))):
        assert len(sampler_of(Shard(100, 2, rank), sizes, batch_size)) == served


def test_where_no_rank_keeps_a_sample_that_is_told():
    with pytest.raises(ValueError, match="kept no sample for the next epoch; lower its pruning ratio"):
        sampler_of(Shard(9, 2), (0, 0))


def test_a_length_asked_for_before_training_is_that_of_a_full_epoch():
    sampler = sampler_of(Shard(101, 2, 1), (20, 17), 4)
    sampler.announces_full_epoch = True
    assert len(sampler) == 51
    sampler.announces_full_epoch = False
    sampler.skip_batches_once(2)
    assert len(list(sampler)) == 12
    assert len(list(sampler)) == len(sampler) == 20


def test_validation_schedules_and_dropped_batches_are_as_with_the_usual_loader():
    for kwargs in ({}, {"drop_last": True}):
        module = Plain()
        callback = AlignPrune(policy=SmallLoss(0.5), score="loss", seed=1, sharded=True)
        trainer = make_trainer(callback, max_epochs=4, val_check_interval=0.5)
        trainer.fit(module, make_loader(TRAIN, **kwargs), DataLoader(REFERENCE, 20))
        assert module.validated == [0, 0, 1, 1, 2, 2, 3, 3]
        full, pruned = (192, 96) if kwargs else (203, 101)
        trained = [len(module.trained(epoch)) for epoch in range(4)]
        assert trained[0] == full
        assert trained[-1] == pruned
        assert [row["kept"] for row in callback.history] == trained


# ---- weights --------------------------------------------------------------------------------------------------


class Steady(Plain):
    """Its parameters stay, and it notes the gradient of each step."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, CLASSES)
        self.gradients = []

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append(self.net.weight.grad.clone())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_weights_act_on_the_gradients_of_their_samples():
    class Weighted(Noted):
        def plan_on_shards(self, scores, ask, shard):
            plan = super().plan_on_shards(scores, ask, shard)
            return EpochPlan(plan.keep, 1.0 + plan.keep.float())

    module = Steady()
    fitted(module, policy=Weighted(), epochs=1)
    x, y = TRAIN.tensors
    for (_, batch), gradient in zip(module.batches, module.gradients, strict=True):
        module.zero_grad()
        losses = nn.functional.cross_entropy(module.net(x[batch, 1:]), y[batch], reduction="none")
        (losses * (1.0 + torch.tensor(batch))).mean().backward()
        torch.testing.assert_close(gradient, module.net.weight.grad, rtol=1e-4, atol=1e-5)


# ---- resuming -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [AlignmentScore(warm_up=2), "trajectory", "ema_loss"])
def test_a_resumed_run_goes_on_as_the_uninterrupted_one(tmp_path, score):
    first = prune(sharded=True, score=score)
    whole = run([first, every_steps(tmp_path, 3)])
    files = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem))
    assert len(files) > 10
    for file in files[::3]:
        second = prune(sharded=True, score=score)
        resumed = run([second], ckpt=file, enable_checkpointing=False)
        check_goes_on(whole, first, resumed, second, int(file.stem))


@pytest.mark.parametrize(("hook", "moments"), [("on_train_batch_end", [(1, 2)]), ("on_train_epoch_end", [])])
def test_a_checkpoint_between_the_last_step_and_its_end_has_that_step(tmp_path, hook, moments):
    first, second = prune(sharded=True), prune(sharded=True)
    whole = run([Saver(hook, tmp_path, *moments), first])
    file = sorted(tmp_path.glob("*.ckpt"))[0]
    resumed = run([second], ckpt=file, enable_checkpointing=False)
    check_goes_on(whole, first, resumed, second, int(file.stem))


def test_the_state_is_that_of_a_store_of_all_samples():
    callback, _ = fitted()
    state = callback.state_dict()
    store = TrajectoryStore(N)
    store.load_state_dict(state["store"])
    assert torch.equal(store.losses().nan_to_num(-1), callback.store.losses().nan_to_num(-1))
    assert state["store"].keys() == store.state_dict().keys()
    for name, part in store.state_dict().items():
        other = state["store"][name]
        assert torch.equal(part.nan_to_num(), other.nan_to_num()) if isinstance(part, torch.Tensor) else part == other


def test_a_checkpoint_of_all_samples_on_each_rank_is_not_taken_for_a_sharded_one_or_the_other_way(tmp_path):
    run([prune(), every_steps(tmp_path / "whole", 13)], max_epochs=2)
    run([prune(sharded=True), every_steps(tmp_path / "sharded", 13)], max_epochs=2)
    for written, sharded in (("whole", True), ("sharded", False)):
        (file, *_) = sorted((tmp_path / written).glob("*.ckpt"))
        message = f"was written with sharded={not sharded}, but this run has sharded={sharded}; resume with the same"
        with pytest.raises(MisconfigurationException, match=message):
            run([prune(sharded=sharded)], ckpt=file, enable_checkpointing=False)


def test_a_checkpoint_of_another_data_set_is_refused(tmp_path):
    run([prune(sharded=True), every_steps(tmp_path, 13)], max_epochs=1)
    (file,) = tmp_path.glob("*.ckpt")
    fewer = TensorDataset(*(tensor[:100] for tensor in TRAIN.tensors))
    trainer = make_trainer(prune(sharded=True))
    with pytest.raises(ValueError, match="are of 203 samples, but this run has 100; resume with the data set"):
        trainer.fit(Plain(), make_loader(fewer), ckpt_path=file)


# ---- what it tells --------------------------------------------------------------------------------------------


def test_figures_have_the_share_of_wrong_labels_and_leave_out_what_compares_all_scores():
    callback, module = fitted(policy=SmallLoss(0.4), noise_mask=MASK)
    for epoch, row in enumerate(callback.history):
        trained = module.trained(epoch)
        assert (row["kept"], row["full"]) == (len(trained), N)
        assert row["noise_kept"] == pytest.approx(float(MASK[trained].float().mean()))
        assert not {"auroc", "average_precision"} & set(row)
    assert callback.history[-1]["kept"] < N
    assert callback.summary()["noise_rate"] == pytest.approx(float(MASK.float().mean()))


def test_the_progress_bar_has_the_share_that_is_kept():
    shares = []

    class Bar(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            shares.append(float(trainer.progress_bar_metrics["pruning/kept_share"]))

    callback = AlignPrune(policy=Random(0.4), score="loss", sharded=True)
    make_trainer(callback, Bar(), max_epochs=1).fit(Plain(), make_loader(TRAIN))
    assert shares == pytest.approx([121 / N] * 8)


def test_losses_that_are_not_finite_are_counted():
    class Spoilt(Plain):
        def training_step(self, batch, batch_idx):
            losses = nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="none")
            return {"loss": losses.mean(), "per_sample_loss": torch.where(batch[0][:, 0] < 9, torch.nan, losses)}

    callback, _ = fitted(Spoilt(), policy=NoPruning(), epochs=2)
    assert [row["nonfinite"] for row in callback.history] == [9, 18]


def test_the_suspicion_is_of_the_own_samples_and_what_needs_all_is_refused():
    callback, _ = fitted()
    assert torch.equal(callback.suspicion(), callback.store.last_loss())
    assert callback.store.shard == Shard(N)
    for ask in (callback.suspects, callback.wrong_probability, lambda: callback.predictions(None, None)):
        with pytest.raises(
            RuntimeError, match=r"is of all samples, but with .*sharded=True.* no rank has them all; leave"
        ):
            ask()


# ---- what is refused ------------------------------------------------------------------------------------------


class OwnPlan(InfoBatch):
    """Its base's plan on shards is not its own."""

    def plan(self, scores, ask):
        return EpochPlan.of(torch.arange(len(scores) - 1))


class OwnScore(Score):
    def __call__(self, store):
        return store.last_loss() - store.last_loss().nanmean()


class Probing(Noted):
    probes = True


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "calibrated", "score": "rival"}, "got Calibrated.*, which plans all samples at once; use policy="),
        ({"policy": "ucb"}, "got UCB.*, which plans all samples at once"),
        ({"policy": "static_random"}, "got StaticRandom.*, which plans all samples at once"),
        ({"policy": OwnPlan()}, "got OwnPlan.*, which plans all samples at once"),
        ({"policy": Probing()}, "got Probing.*, which has probes"),
        ({"score": "rival"}, "got RivalScore.*, which looks at all samples together; use a score of one sample"),
        ({"score": OwnScore()}, "got OwnScore.*, which looks at all samples together"),
    ],
)
def test_parts_that_need_all_samples_are_refused_at_once(given, message):
    with pytest.raises(ValueError, match=message):
        AlignPrune(REFERENCE, **{"score": "loss", "sharded": True, **given})
    AlignPrune(REFERENCE, **{"score": "loss", **given})


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        ({"sampler": SubsetRandomSampler(range(50))}, "SubsetRandomSampler"),
        ({"sampler": RandomSampler(TRAIN, replacement=True)}, "RandomSampler"),
        ({"batch_sampler": type("Mine", (BatchSampler,), {})(RandomSampler(TRAIN), 8, False)}, "Mine"),
    ],
)
def test_samplers_that_draw_are_refused_before_training(loader, name):
    module = Plain()
    with pytest.raises(MisconfigurationException, match=f"got the sampler {name}, which draws among all samples"):
        fitted(module, DataLoader(TRAIN, **loader))
    assert module.batches == []


def test_processes_that_end_before_they_are_asked_are_refused():
    trainer = make_trainer(AlignPrune(policy="none", score="loss", sharded=True), strategy="ddp_fork", devices=1)
    with pytest.raises(Exception, match=r"got a strategy that starts processes and ends them.*use strategy='ddp'"):
        trainer.fit(Plain(), make_loader(TRAIN))


def test_a_run_folder_is_refused(tmp_path):
    trainer = make_trainer(AlignPrune(policy="none", score="loss", sharded=True), RunFolder(tmp_path / "run"))
    with pytest.raises(MisconfigurationException, match="but with sharded=True no rank has all that is written"):
        trainer.fit(Plain(), make_loader(TRAIN))


def test_a_policy_without_a_plan_on_shards_says_so():
    class Mine(Policy):
        def plan(self, scores, ask):
            return EpochPlan.of(torch.arange(len(scores)))

    with pytest.raises(NotImplementedError, match=r"Mine\(\) plans all samples at once"):
        Mine().plan_on_shards(Scores(torch.ones(3)), Ask(0, drawn(0)), Shard(3))
    assert ShardScores(Shard(3), torch.ones(3)).plan(lambda i, v: v).keep.tolist() == [0, 1, 2]
