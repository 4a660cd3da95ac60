"""Hosts and scores in a whole run with the Trainer: what is recorded, trained, remembered and resumed."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F

from alignprune_pl import (
    RS2,
    UCB,
    AlignmentScore,
    AlignPrune,
    BatchLossScore,
    Calibrated,
    EmaLossScore,
    InfoBatch,
    LossDifferenceScore,
    LossScore,
    NoPruning,
    StaticRandom,
    TrajectoryStore,
)
from alignprune_pl.core.planner import Planner
from alignprune_pl.policies import POLICIES
from alignprune_pl.scores import SCORES
from helpers import N, Plain, make_data, make_loader, make_trainer
from test_resume import Saver, check_goes_on, every_steps, prune, pytestmark, run  # noqa: F401  (the filters hold here)


def fit(callback, module=None, epochs=5, loader=None):
    torch.manual_seed(0)
    module = module or Plain()
    make_trainer(callback, max_epochs=epochs).fit(module, loader or make_loader(make_data()[0]))
    return module


@pytest.mark.parametrize("name", POLICIES.names())
def test_every_host_trains_exactly_its_plan(name):
    plans = []

    class Noted(AlignPrune):
        def on_train_epoch_start(self, trainer, pl_module):
            plans.append(self.plan.keep.tolist())
            super().on_train_epoch_start(trainer, pl_module)

    usual = POLICIES.get(name).usual_score
    score = AlignmentScore(warm_up=2) if usual == "das" else usual
    module = fit(Noted(make_data()[1], policy=name, score=score, window=3))
    for epoch, plan in enumerate(plans):
        rest = len(plan) % 16  # less than a quarter of a batch at a pruned epoch's end waits
        assert module.trained(epoch) == plan[: len(plan) - rest if rest < 4 and len(plan) < N else None]
    assert name == "none" or min(map(len, plans)) < N


@pytest.mark.parametrize("name", SCORES.names())
def test_every_score_plans_a_run(name):
    callback = AlignPrune(make_data()[1], policy=InfoBatch(0.5, delta=0.8), score=name, window=4)
    fit(callback, epochs=5)
    kept = [row["kept"] for row in callback.history]
    assert kept[0] == N
    assert all(kept_in < N for kept_in in kept[1:4])
    assert kept[4] == N  # it anneals


def recorded(name):
    """What is stored of each sample after one epoch of a run that trains nothing."""

    class Fixed(Plain):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(4, 3)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    callback = AlignPrune(policy=NoPruning(), score=name, storage_dtype=torch.float32, seed=1)
    module = fit(callback, Fixed(), epochs=1)
    with torch.no_grad():
        x, y = make_data()[0].tensors
        logits = module(x)
    return callback.store.last_loss(), logits, y, module


def test_the_store_holds_what_the_score_observes():
    losses, logits, labels, _ = recorded("loss")
    torch.testing.assert_close(losses, F.cross_entropy(logits, labels, reduction="none"))
    el2n, logits, labels, _ = recorded("el2n")
    torch.testing.assert_close(el2n, (logits.softmax(1) - F.one_hot(labels, 3)).norm(dim=1))
    margin, logits, labels, _ = recorded("margin")
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.masked_fill(F.one_hot(labels, 3).bool(), -torch.inf).amax(1)
    torch.testing.assert_close(margin, own - others)
    against_rival, logits, labels, _ = recorded("rival")
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.masked_fill(F.one_hot(labels, 3).bool(), -torch.inf).amax(1)
    torch.testing.assert_close(against_rival, F.softplus(others - own))
    batch_losses, logits, labels, module = recorded("batch_loss")
    losses = F.cross_entropy(logits, labels, reduction="none")
    for _, batch in module.batches:
        torch.testing.assert_close(batch_losses[batch], losses[batch].mean().expand(len(batch)))


class Contrastive(Plain):
    """Its loss is one number for the batch, and no other."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.training:
            self.batches.append((self.trainer.current_epoch, x[:, 0].long().tolist()))
        z = F.normalize(self(x), dim=1)
        same = (y[:, None] == y[None, :]).float()
        loss = ((z @ z.T - same) ** 2).mean()
        self.log("train/loss", loss)
        return loss


@pytest.mark.parametrize("has_reference", [False, True])
@pytest.mark.parametrize("host", ["infobatch", "seta"])
def test_a_loss_that_exists_for_the_batch_alone_prunes_by_bls(host, has_reference):
    callback = AlignPrune(make_data()[1] if has_reference else None, policy=host, score="batch_loss", seed=1)
    fit(callback, Contrastive(), epochs=4)
    assert callback._run.capture.kind == "batch"
    assert min(row["kept"] for row in callback.history) < N
    assert all((row["reference_loss"] > 0) == has_reference for row in callback.history)
    by_rows = AlignPrune(policy=host, score="loss")
    fit(by_rows, Contrastive(), epochs=1)  # those of what it takes the mean of
    assert by_rows._run.capture.kind == "values"


def test_a_batch_loss_that_is_not_finite_spoils_no_other_sample():
    class Spoilt(Plain):
        def training_step(self, batch, batch_idx):
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            return {"loss": losses.mean(), "per_sample_loss": torch.where(batch[0][:, 0] == 5, torch.nan, losses)}

    callback = AlignPrune(policy=NoPruning(), score="batch_loss")
    fit(callback, Spoilt(), epochs=1)
    assert callback.store.last_loss().isfinite().all()


REMEMBERING = {
    "rs2": lambda: prune(policy=RS2(0.4)),
    "static_random": lambda: prune(policy=StaticRandom(0.4)),
    "ucb": lambda: prune(policy=UCB(0.4)),
    "ucb and ema_loss": lambda: prune(policy=UCB(0.4), score=EmaLossScore()),
    "batch_loss": lambda: prune(score=BatchLossScore()),
    "ema_loss": lambda: prune(score=EmaLossScore()),
    "loss_difference": lambda: prune(score=LossDifferenceScore(warm_up=3, min_observed=2)),
    "margin": lambda: prune(score="margin"),
    "rival": lambda: prune(score="rival"),
    "calibrated and rival": lambda: prune(policy=Calibrated(calibration=0.2), score="rival"),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_what_a_policy_or_score_remembers_is_resumed(tmp_path, name):
    first = REMEMBERING[name]()
    # At an epoch's last batch, and within a later one.
    whole = run([first, Saver("on_train_batch_end", tmp_path, (2, -1), (3, 1))])
    assert min(row["kept"] for row in first.history) < N
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) == 2
    for file in files:
        second = REMEMBERING[name]()
        resumed = run([second], str(file), enable_checkpointing=False)
        check_goes_on(whole, first, resumed, second, int(file.stem))
        one, other = (c.suspicion() for c in (first, second))
        assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))
        assert torch.equal(first.store.last_pair(), second.store.last_pair())


def test_a_callback_that_fits_again_remembers_nothing_of_the_run_before():
    callback = AlignPrune(policy=UCB(0.4), score=EmaLossScore(), seed=1)
    first = fit(callback)
    again = fit(callback)
    assert again.batches == first.batches


@pytest.mark.parametrize(
    ("policy", "score", "bytes_a_sample"),
    [
        ("ucb", "loss", 13),
        ("none", "ema_loss", 4),
        ("none", "batch_loss", 4),
        ("rs2", "loss", 2),
        ("static_random", "loss", 1),
    ],
)
def test_what_a_policy_or_score_remembers_takes_what_the_docs_say(policy, score, bytes_a_sample):
    def size(n):
        data = torch.utils.data.TensorDataset(torch.randn(n, 5), torch.zeros(n, dtype=torch.int64))
        callback = AlignPrune(policy=policy, score=score)
        make_trainer(callback, max_epochs=1).fit(Plain(), make_loader(data, batch_size=1000))
        buffer = io.BytesIO()
        torch.save([callback.state_dict()["planner"][part] for part in ("policy", "score")], buffer)
        return buffer.tell()

    assert size(11_000) - size(1000) == pytest.approx(10_000 * bytes_a_sample, rel=0.02, abs=500)


def test_rs2_draws_nothing_for_the_plan_that_a_foreign_checkpoint_replaces(tmp_path):
    run([every_steps(tmp_path, 13)], module=Plain, max_epochs=1)  # without the callback, one epoch
    prune_rs2 = prune(policy=RS2(0.5))
    resumed = run([prune_rs2], str(tmp_path / "13.ckpt"), module=Plain, enable_checkpointing=False)
    used = torch.zeros(N, dtype=torch.int64)
    for epoch in range(1, 6):
        used[resumed.trained(epoch)] += 1
        assert used.max() - used.min() <= 1


@pytest.mark.parametrize("name", POLICIES.names())
def test_hosts_and_scores_do_not_depend_on_the_default_dtype(name):
    plans = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            planner, store = Planner(POLICIES.get(name)(), AlignmentScore(warm_up=2), 0), TrajectoryStore(20)
            for epoch in range(5):
                planner.make(store, planner.scores(store), epoch, 8, shuffles=True)
                plans.append(planner.plan.digest())
                store.record(torch.arange(20), torch.arange(20, dtype=torch.float32).sin() ** 2 / (1 + epoch))
                store.close_epoch(1 / (1 + epoch) ** 2)
        finally:
            torch.set_default_dtype(torch.float32)
    assert plans[:5] == plans[5:]


def test_scores_of_one_run_are_not_those_of_another_policy_or_setting():
    callback = AlignPrune(policy=UCB(0.4), score=LossScore())
    fit(callback, epochs=2)
    checkpoint = callback.state_dict()
    for other in (AlignPrune(policy=UCB(0.4, c=2.0), score="loss"), AlignPrune(policy=UCB(0.4), score=EmaLossScore())):
        fit(other, epochs=1)
        with pytest.raises(ValueError, match="resume with the same policy and score"):
            other._run.load_state_dict(checkpoint, None, 16, 0, 1)
