"""Probes: training samples that are passed forward after an epoch, and what calibrated pruning makes of them."""

from __future__ import annotations

import logging
import math

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from alignprune_pl import AlignPrune, Calibrated, EpochPlan, InfoBatch, Policy
from alignprune_pl.core.epoch_metrics import noise_average_precision
from alignprune_pl.scores import RivalScore, TrajectoryScore
from helpers import CLASSES, IndexLoss, N, Plain, make_data, make_loader, make_trainer

TRAIN, REFERENCE, MASK = make_data()
EVEN, ODD = torch.arange(0, N, 2), torch.arange(1, N, 2)


class Probing(Policy):
    """Trains the even samples, probes those it is given, and notes what it is told."""

    reads_score = False
    probes = True

    def __init__(self, probe: torch.Tensor | None = None) -> None:
        self.probe = torch.empty(0, dtype=torch.int64) if probe is None else probe
        self.told: list[tuple] = []

    def plan(self, scores, ask):
        return EpochPlan(EVEN, torch.ones(len(EVEN)), self.probe)

    def epoch_ended(self, scores, ask):
        self.told.append((ask.epoch, scores.suspicion, ask.reference.suspicion, ask.labels.clone()))


class Dropping(Plain):
    """It draws random numbers in training, so that a run whose random state was disturbed shows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES)
        )


def fit(prune: AlignPrune, module: pl.LightningModule | None = None, loader: DataLoader | None = None, **kwargs):
    torch.manual_seed(3)
    module = Plain() if module is None else module
    make_trainer(prune, **{"max_epochs": 2, **kwargs}).fit(module, make_loader(TRAIN) if loader is None else loader)
    return module


def pruning(policy: Policy, reference=None, **kwargs) -> AlignPrune:
    # Without decay, the score is the newest loss.
    return AlignPrune(reference, policy, **{"score": TrajectoryScore(0.0), "storage_dtype": torch.float32, **kwargs})


@pytest.mark.parametrize("loader", [{}, {"drop_last": True}, {"num_workers": 2}], ids=str)
def test_the_losses_of_probes_are_in_their_trajectories(loader):
    prune = pruning(Probing(ODD))
    fit(prune, IndexLoss(), make_loader(TRAIN, **loader), max_epochs=1)
    losses = prune.store.losses()[:, -1]
    torch.testing.assert_close(losses[ODD], ODD.float())  # the loss of IndexLoss is the index


def test_probes_are_not_trained_and_disturb_nothing():
    states = []
    for probe in (None, ODD):
        torch.manual_seed(3)
        module = fit(pruning(Probing(probe)), Dropping())
        assert set(module.trained(0)) == set(EVEN.tolist())
        states.append((module.state_dict(), module.batches))
    (one, batches), (other, same) = states
    assert batches == same
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_sample_that_is_trained_and_probed_keeps_the_loss_of_its_training():
    class Told(Plain):
        def training_step(self, batch, batch_idx):
            losses = (1.0 if self.training else 2.0) * batch[0][:, 0] + 0.0 * self(batch[0]).sum()
            return {"loss": losses.mean(), "per_sample_loss": losses}

    policy = Probing(torch.arange(N))
    prune = pruning(policy)
    fit(prune, Told(), max_epochs=1)
    losses = prune.store.losses()[:, -1]
    torch.testing.assert_close(losses[EVEN], EVEN.float())
    torch.testing.assert_close(losses[ODD], 2.0 * ODD)
    torch.testing.assert_close(policy.told[0][1], losses)


def test_a_policy_is_told_the_scores_of_every_reference_sample_and_probe_in_eval_mode():
    seen = []

    def loss_fn(module, batch):
        seen.append((module.training, torch.is_grad_enabled()))
        return batch[0][:, 0] + module.trainer.current_epoch

    policy = Probing(ODD.flip(0))
    fit(pruning(policy, REFERENCE, loss_fn=loss_fn))
    assert [told[0] for told in policy.told] == [0, 1]
    assert set(seen) == {(False, False)}
    for epoch, suspicion, reference, labels in policy.told:
        torch.testing.assert_close(reference, torch.arange(N, N + len(REFERENCE)).float() + epoch)
        assert suspicion.shape == (N,)
        torch.testing.assert_close(suspicion[ODD], ODD.float() + epoch)
        assert labels.tolist() == []  # the score is of the loss alone


def test_without_a_reference_a_policy_is_told_of_the_training_samples_alone():
    policy = Probing(ODD)
    fit(pruning(policy, loss_fn=lambda module, batch: batch[0][:, 0]), max_epochs=1)
    ((_, suspicion, reference, _),) = policy.told
    assert len(reference) == 0
    assert suspicion.isfinite().all()
    torch.testing.assert_close(suspicion[ODD], ODD.float())


def test_what_a_policy_is_told_of_an_epoch_has_its_losses_in_it():
    told = []

    class Told(Probing):
        def epoch_ended(self, scores, ask):
            told.append(torch.equal(scores.suspicion.nan_to_num(-1), prune.store.newest().nan_to_num(-1)))

        def plan(self, scores, ask):
            self.probe = ODD[:: 1 + ask.epoch]
            return super().plan(scores, ask)

    prune = pruning(Told(), REFERENCE)
    fit(prune, max_epochs=3)
    assert told == [True] * 3


# ---- what the loss shows of labels ------------------------------------------------------------------------


def rival(policy: Policy, **kwargs) -> AlignPrune:
    return AlignPrune(REFERENCE, policy, **{"score": RivalScore(0.0), "seed": 1, **kwargs})


@pytest.mark.parametrize("loader", [{}, {"num_workers": 2}], ids=str)
def test_a_score_of_rivals_shows_the_label_of_every_sample_trained_or_probed(loader):
    policy = Probing(ODD)
    prune = rival(policy)
    fit(prune, loader=make_loader(TRAIN, **loader), max_epochs=1)
    assert torch.equal(prune.store.labels(), TRAIN.tensors[1])
    ((_, _, reference, labels),) = policy.told
    assert torch.equal(labels, TRAIN.tensors[1])
    assert reference.isfinite().all()
    assert prune.store.newest_reference.pair.div(CLASSES, rounding_mode="floor").tolist() == REFERENCE[:][1].tolist()
    assert prune.store.newest_reference.classes == CLASSES


def test_the_label_of_a_sample_that_was_neither_trained_nor_probed_is_not_known():
    policy = Probing(ODD[:5])
    fit(rival(policy), max_epochs=1)
    known = torch.cat([EVEN, ODD[:5]])
    labels = policy.told[0][3]
    assert torch.equal(labels[known], TRAIN.tensors[1][known])
    assert (labels[ODD[5:]] == -1).all()


class Still(Plain):
    """It learns nothing, and is alike in training and without."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, CLASSES)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_trained_samples_probes_and_reference_are_rated_by_the_loss_against_the_rival():
    prune, module = rival(Probing(ODD)), Still()
    fit(prune, module, max_epochs=1)
    for data, values in ((TRAIN, prune.store.last_loss()), (REFERENCE, prune.store.newest_reference.value)):
        x, y = data.tensors
        with torch.no_grad():
            logits = module(x)
        others = logits.masked_fill(F.one_hot(y, CLASSES).bool(), -torch.inf).amax(1)
        torch.testing.assert_close(values, F.softplus(others - logits.gather(1, y[:, None]).squeeze(1)))


def test_where_a_loss_function_is_given_training_is_compared_with_it_by_its_plain_losses():
    def loss_fn(module, batch):
        return F.cross_entropy(module(batch[0]), batch[1], reduction="none")

    policy = Probing(ODD)
    prune, module = rival(policy, loss_fn=loss_fn), Still()
    fit(prune, module, max_epochs=1)
    with torch.no_grad():
        losses = loss_fn(module, TRAIN.tensors)
        clean = loss_fn(module, REFERENCE.tensors)
    torch.testing.assert_close(prune.store.last_loss(), losses)
    ((_, suspicion, reference, labels),) = policy.told
    torch.testing.assert_close(suspicion, losses)
    torch.testing.assert_close(reference, clean)
    assert labels.tolist() == [-1] * N


def test_a_probe_counts_as_a_third_of_a_sample_that_is_trained():
    prune = pruning(Probing(ODD))
    fit(prune)
    assert prune.history[0]["probed"] == len(ODD)
    assert prune.summary()["saved"] == pytest.approx(1 - (len(EVEN) + len(ODD) / 3) / N)


def test_a_probe_with_a_loss_that_is_not_finite_is_counted_and_not_observed():
    def loss_fn(module, batch):
        return torch.where(batch[0][:, 0] == 3, torch.inf, batch[0][:, 0])

    policy = Probing(ODD)
    prune = pruning(policy, loss_fn=loss_fn)
    fit(prune, max_epochs=1)
    assert prune.history[0]["nonfinite"] == 1
    losses = prune.store.losses()[:, -1]
    assert losses[3].isnan()
    assert losses[5] == 5
    assert policy.told[0][1].isnan().tolist() == (torch.arange(N) == 3).tolist()


def test_probes_look_at_the_data_that_is_given_for_them():
    other = TensorDataset(TRAIN.tensors[0] + 1000, TRAIN.tensors[1])
    policy = Probing(ODD)
    fit(pruning(policy, loss_fn=lambda module, batch: batch[0][:, 0], probe_data=other), max_epochs=1)
    torch.testing.assert_close(policy.told[0][1][ODD], ODD + 1000.0)


@pytest.mark.parametrize(
    ("data", "given"),
    [(TensorDataset(torch.zeros(7, 5)), "7 entries"), (iter([1]), "no length")],
    ids=["too few", "no length"],
)
def test_probe_data_of_another_length_is_refused_before_training(data, given):
    module = Plain()
    with pytest.raises(MisconfigurationException, match=f"probe_data has {given}, but the training set has {N}"):
        fit(pruning(Probing(ODD), probe_data=data), module)
    assert module.batches == []


def test_probe_data_of_another_form_is_refused_before_training():
    module, data = Plain(), TensorDataset(torch.zeros(N, 9), torch.zeros(N, dtype=torch.int64))
    message = "first probe batch failed in training_step with RuntimeError.*pass probe_data made like the training set"
    with pytest.raises(MisconfigurationException, match=message):
        fit(pruning(Probing(ODD), probe_data=data), module)
    assert module.batches == []


def test_a_probe_beyond_the_training_set_is_refused():
    with pytest.raises(ValueError, match=f"planned sample {N} for epoch 0"):
        fit(pruning(Probing(torch.tensor([N]))))


@pytest.mark.parametrize("probe", [[1, 1], [-1]], ids=str)
def test_a_plan_that_probes_a_sample_twice_or_below_zero_is_refused(probe):
    with pytest.raises(ValueError, match=r"EpochPlan\.probe holds an index below 0 or a sample twice"):
        EpochPlan(EVEN, torch.ones(len(EVEN)), torch.tensor(probe))


def test_probes_under_manual_optimisation_need_a_loss_function():
    class Manual(Plain):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(MisconfigurationException, match=r"pass AlignPrune\(loss_fn=...\) to evaluate it"):
        fit(pruning(Probing(ODD), capture_mode="explicit"), Manual())


# ---- calibrated pruning in a run ------------------------------------------------------------------------


def easy_problem(rate: float) -> tuple[TensorDataset, TensorDataset, torch.Tensor]:
    """Classes well apart, of which a share of the labels is wrong; a clean reference; the mask."""
    g = torch.Generator().manual_seed(1)
    n = 600
    y = torch.randint(CLASSES, (n + 100,), generator=g)
    centres = 3 * F.one_hot(y, CLASSES).float()
    x = torch.cat([torch.zeros(n + 100, 1), centres + torch.randn(n + 100, CLASSES, generator=g)], dim=1)
    x = F.pad(x, (0, 1))
    mask = torch.rand(n, generator=g) < rate
    noisy = torch.where(mask, (y[:n] + 1) % CLASSES, y[:n])
    return TensorDataset(x[:n], noisy), TensorDataset(x[n:], y[n:]), mask


class Logged(pl.Callback):
    def __init__(self):
        self.rates = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.rates.append(float(trainer.callback_metrics.get("pruning/estimated_noise_rate", math.nan)))


def calibrated(rate: float, **kwargs) -> tuple[AlignPrune, list[float], torch.Tensor]:
    train, reference, mask = easy_problem(rate)
    prune = AlignPrune(reference, Calibrated(calibration=0.25, **kwargs), seed=0, noise_mask=mask)
    logged = Logged()
    torch.manual_seed(2)
    make_trainer(prune, logged, max_epochs=12).fit(Plain(), make_loader(train, batch_size=32))
    return prune, logged.rates, mask


def test_calibrated_pruning_finds_how_many_labels_are_wrong_and_which():
    prune, rates, mask = calibrated(0.3)
    suspects = prune.suspects()
    assert suspects.noise_rate == pytest.approx(float(mask.float().mean()), abs=0.12)
    assert rates[-1] == pytest.approx(suspects.noise_rate)
    assert prune.summary()["estimated_noise_rate"] == suspects.noise_rate
    assert noise_average_precision(suspects.suspicion, mask) > 0.95
    assert mask[suspects.index].float().mean() > 0.7
    assert prune.history[0]["noise_kept"] > 0.2
    assert max(row["noise_kept"] for row in prune.history[5:]) < 0.1
    assert prune.history[-1]["average_precision"] > 0.95


def test_on_clean_data_the_estimate_goes_to_zero_and_hardly_a_sample_is_left_out():
    prune, rates, _ = calibrated(0.0)
    assert rates[-1] < 0.03
    assert len(prune.suspects().index) < 20
    assert prune.history[-1]["kept"] > 540  # annealing


def test_what_is_left_out_is_never_trained_and_probed_while_the_run_measures():
    seen = []

    class Watching(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            left_out = prune.policy.state_dict()["left_out"]
            seen.append((prune.plan, set(left_out.nonzero().squeeze(1).tolist())))

    train, reference, mask = easy_problem(0.3)
    prune = AlignPrune(reference, "calibrated", seed=0, noise_mask=mask)
    make_trainer(prune, Watching(), max_epochs=12).fit(Plain(), make_loader(train, batch_size=32))
    assert max(len(suspects) for _, suspects in seen) > 100
    for plan, suspects in seen:
        assert not suspects & set(plan.keep.tolist())
        assert suspects <= set(plan.probe.tolist()) or len(plan.probe) == 0
    assert [len(plan.probe) > 0 for plan, _ in seen] == [True] * 6 + [False] * 6
    annealing, suspects = seen[-1]
    assert len(annealing.keep) == len(train) - len(suspects)


def test_the_score_that_calibrated_pruning_is_meant_for_is_the_usual_one():
    assert repr(AlignPrune(REFERENCE, "calibrated").score) == "RivalScore(decay=0.8, pair_floor=0.1, pull=1.0)"
    assert repr(AlignPrune(REFERENCE, "calibrated", "trajectory").score) == "TrajectoryScore(decay=0.95)"
    assert "AlignmentScore" in repr(AlignPrune(REFERENCE).score)


def test_calibrated_pruning_without_a_reference_is_refused_at_once():
    with pytest.raises(ValueError, match=r"got no reference, but Calibrated\(.* compares with one; pass reference="):
        AlignPrune(policy="calibrated")


def test_the_run_says_at_its_end_what_was_decided_and_why(caplog):
    train, reference, _ = easy_problem(0.3)
    prune = AlignPrune(reference, "calibrated", seed=0)
    with caplog.at_level(logging.INFO):
        make_trainer(prune, max_epochs=3).fit(Plain(), make_loader(train, batch_size=32))
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Calibrated pruning")]
    assert said == [prune.policy.conclusion()]
    assert "of the labels are wrong" in said[0]


@pytest.mark.parametrize("score", ["el2n", "batch_loss", "loss", "das"])
def test_calibrated_pruning_with_a_score_that_does_not_rate_the_reference_is_refused(score):
    message = "compares training samples with the reference, but .* does not rate the reference; use score='rival' or"
    with pytest.raises(ValueError, match=message):
        AlignPrune(REFERENCE, "calibrated", score)


def test_another_policy_has_no_suspects():
    prune = AlignPrune(policy=InfoBatch(), score="loss")
    with pytest.raises(RuntimeError, match=r"InfoBatch\(.*\) tells no suspects; pass AlignPrune\(policy='calibrated'"):
        prune.suspects()
    with pytest.raises(RuntimeError, match="no suspects before an epoch is planned"):
        AlignPrune(REFERENCE, "calibrated").suspects()


def test_a_second_run_forgets_the_estimate_of_the_first():
    train, reference, _ = easy_problem(0.3)
    policy = Calibrated()
    make_trainer(AlignPrune(reference, policy, seed=0), max_epochs=3).fit(Plain(), make_loader(train))
    first = policy.noise_rate
    make_trainer(AlignPrune(reference, policy, seed=0), max_epochs=0).fit(Plain(), make_loader(train))
    assert first > 0.1
    assert math.isnan(policy.noise_rate)
