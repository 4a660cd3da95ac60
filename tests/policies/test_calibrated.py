"""Calibrated pruning: whose label is likely wrong, whether that does harm, and what becomes of them."""

from __future__ import annotations

import io
import itertools
import math

import pytest
import torch

from alignprune_pl.core.plan import EpochPlan, permutation
from alignprune_pl.core.streams import stream
from alignprune_pl.policies import RS2, UCB, Calibrated, InfoBatch, Policy, SeTa
from alignprune_pl.policies.right_labels import agreement, line_of, pattern_harm
from alignprune_pl.policies.subsets import kept_count
from planning import NO_LABELS, ended, planned

NAN = math.nan
EPOCHS = 30
N = 1000
HOSTS = ["infobatch", "seta", "random", "small_loss", "ucb", "rs2", "static_random", "none"]


def world(n: int = N, rate: float = 0.3, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses of n samples, the last of which are wrong, which they are, and those of 200 clean ones; a few overlap."""
    generator = stream(5, "plan", epoch)
    is_wrong = torch.arange(n) >= (1 - rate) * n
    lead = torch.randn(n, generator=generator) + torch.where(is_wrong, 2.0, -2.0)
    return torch.nn.functional.softplus(lead), is_wrong, torch.randn(200, generator=generator).sub(2).exp().log1p()


def plan_of(policy: Policy, epoch: int, scores: torch.Tensor | None = None, seed: int = 0, **settings) -> EpochPlan:
    scores = torch.full((N,), NAN) if scores is None else scores
    return planned(policy, scores, epoch, seed=seed, **{"max_epochs": EPOCHS, **settings})


def evidence(policy: Calibrated) -> dict:
    return policy.state_dict()["evidence"]


def held(policy: Calibrated) -> set[int]:
    return set(evidence(policy)["held"].tolist())


def left_out(policy: Calibrated) -> set[int]:
    return set(policy.state_dict()["left_out"].nonzero().squeeze(1).tolist())


def end(policy: Calibrated, epoch: int, gap: float = 0.5, rate: float = 0.3, n: int = N) -> None:
    """An epoch is over: by the probes, twins are nearer to their labels by ``gap`` than held samples."""
    scores, _, reference = world(n, rate, epoch)
    probed = torch.full((n,), 1.0)
    far = -math.expm1(-1.0)
    probed[evidence(policy)["twins"]] = -math.log1p(-far * (1 - gap))
    ended(policy, epoch, scores, reference, probed=probed)


def run(policy: Calibrated, epochs: range, gap: float = 0.5, rate: float = 0.3, n: int = N, **settings) -> list:
    """Plans, what they leave out, and what was estimated then."""
    history = []
    for epoch in epochs:
        plan = plan_of(policy, epoch, world(n, rate, max(0, epoch - 1))[0], **settings)
        history.append((plan.digest(), left_out(policy), policy.noise_rate, evidence(policy)["line"]))
        end(policy, epoch, gap, rate, n)
    return history


def after(epochs: int) -> tuple[Calibrated, torch.Tensor]:
    """A policy without a host that has planned the next epoch, and the scores that it did so by."""
    policy = Calibrated("none")
    run(policy, range(epochs))
    scores = world(epoch=epochs - 1)[0]
    plan_of(policy, epochs, scores)
    return policy, scores


# --- The first two epochs


@pytest.mark.parametrize("gap", [0.0, 0.5])
@pytest.mark.parametrize("host", HOSTS)
def test_the_first_two_epochs_train_every_sample_but_those_that_are_held(host, gap):
    policy = Calibrated(host)
    for epoch in range(2):
        plan = plan_of(policy, epoch, world()[0])
        assert len(held(policy)) == 50
        assert plan.keep.tolist() == sorted(set(range(N)) - held(policy))
        assert plan.weight.tolist() == [1.0] * 950
        assert set(plan.probe.tolist()) == held(policy) | set(evidence(policy)["twins"].tolist())
        end(policy, epoch, gap)
    assert len(plan_of(policy, 2, world()[0]).keep) < 800


def test_held_samples_and_their_twins_are_two_random_parts_of_the_data_and_the_same_all_run_long():
    policy = Calibrated(calibration=0.1)
    plan_of(policy, 0)
    first = evidence(policy)
    assert len(first["held"]) == len(first["twins"]) == 100
    assert not held(policy) & set(first["twins"].tolist())
    run(policy, range(8))
    assert torch.equal(evidence(policy)["held"], first["held"])
    assert torch.equal(evidence(policy)["twins"], first["twins"])
    drawn = permutation(N, stream(0, "plan", 0))[:100].tolist()
    assert len(set(drawn) & held(policy)) < 30  # they are not those that the first epoch trains first
    other = Calibrated(calibration=0.1)
    plan_of(other, 0, seed=1)
    assert held(other) != held(policy)


@pytest.mark.parametrize(("gap", "stay"), [(0.0, 125), (0.5, 250)])
def test_half_of_the_held_samples_are_trained_after_two_epochs_without_a_gap(gap, stay):
    policy = Calibrated("none", calibration=0.25)
    run(policy, range(2), gap)
    before = held(policy)
    assert len(before) == stay  # given back at the end of the second
    plan = plan_of(policy, 2, world(epoch=1)[0])
    assert held(policy).isdisjoint(plan.keep.tolist())
    run(policy, range(2, 8), 0.5)  # whatever is seen later
    assert held(policy) == before


def test_of_fewer_than_200_held_samples_none_are_given_back():
    n = 3900
    policy = Calibrated("none")
    run(policy, range(4), gap=0.0, n=n)
    assert len(held(policy)) == 195


def test_with_few_wrong_labels_few_right_ones_are_left_out_where_there_is_no_gap():
    given_away = []
    for epoch_rate in (0.08, 0.45):
        policy = Calibrated("none", calibration=0.1)
        for epoch in range(3):
            scores, is_wrong, reference = hard(epoch, epoch_rate, lead=1.0)
            plan_of(policy, epoch, scores)
            ended(policy, epoch, scores, reference, probed=torch.ones(N))
        plan_of(policy, 3, scores)
        given_away.append(float((~is_wrong)[list(left_out(policy))].sum() / (~is_wrong).sum()))
    assert given_away[0] < 0.02 < 0.06 < given_away[1]


@pytest.mark.parametrize(("n", "most"), [(4, 1), (9, 2), (1000, 250), (100_000, 20_000)])
def test_something_is_left_to_train_on_and_no_more_is_held_than_helps(n, most):
    policy = Calibrated(calibration=0.25)
    plan = plan_of(policy, 0, torch.full((n,), NAN))
    assert len(held(policy)) == most
    assert len(plan.keep) == n - most


# --- Who is left out


@pytest.mark.parametrize("low_is", ["easy", "suspect"])
@pytest.mark.parametrize("host", HOSTS)
def test_those_whose_label_is_probably_wrong_are_not_trained_but_probed(host, low_is):
    policy = Calibrated(host, calibration=0.1)
    run(policy, range(3), gap=0.0)
    scores, is_wrong, _ = world(epoch=2)
    plan = plan_of(policy, 3, scores if low_is == "easy" else -scores, low_is=low_is)
    found = left_out(policy)
    assert found.isdisjoint(plan.keep.tolist())
    assert found <= set(plan.probe.tolist())
    assert is_wrong[list(found)].float().mean() > 0.85
    assert len(found) > 0.9 * int(is_wrong.sum())
    assert len(plan.keep) > 0


@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_of_a_class_that_has_not_been_learnt_yet_half_as_large_a_share_is_trained_as_of_all(gap):
    labels = torch.arange(N) % 10
    policy = Calibrated("none")
    for epoch in range(3):
        scores = world(epoch=epoch)[0]
        scores[labels == 8] += 5  # looks wrong as a whole
        plan = plan_of(policy, epoch, scores, labels=labels)
        end(policy, epoch, gap)
    for given in (labels, torch.empty(0, dtype=torch.int64)):
        plan_of(policy, 3, scores, labels=given)
        trained = torch.ones(N, dtype=torch.bool)
        trained[list(left_out(policy))] = False
        of_each = torch.tensor([float(trained[labels == each].float().mean()) for each in range(10)])
        if len(given):
            assert of_each[8] == pytest.approx(0.5 * float(of_each[:8].mean()), rel=0.15)
            spared = trained & (labels == 8)
            assert scores[spared].max() <= scores[~trained & (labels == 8)].min()
        else:
            assert of_each[8] == 0  # no labels have been seen
        assert of_each[:8].min() > 0.35
    assert plan.probe.numel() > 0


def test_of_classes_of_one_or_two_samples_wrong_labels_are_left_out_as_well():
    pairs = torch.arange(N) // 2  # as of a data set with two images of each person
    found = []
    for labels in (torch.empty(0, dtype=torch.int64), pairs):
        policy = Calibrated("none", line=0.9)
        run(policy, range(4), rate=0.8)
        plan_of(policy, 4, world(rate=0.8, epoch=3)[0], labels=labels)
        found.append(left_out(policy))
    assert found[0] == found[1]


@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_the_wider_the_gap_the_surer_a_label_must_be_right(gap):
    policy = Calibrated("none")
    run(policy, range(4), gap)
    line = evidence(policy)["line"]
    assert 0.47 < line <= 0.5 if gap == 0 else line > 0.85
    # Held samples are left out by their own probability, and as large a share of the others, the most suspect.
    scores = world(epoch=3)[0]
    plan_of(policy, 4, scores)
    found, own = left_out(policy), held(policy)
    right = policy._evidence.right(scores)
    assert found & own == {i for i in own if right[i] < line}
    others = [i for i in scores.argsort(descending=True).tolist() if i not in own]
    assert found - own == set(others[: len(found - own)])
    assert len(found - own) / len(others) == pytest.approx(len(found & own) / len(own), abs=0.002)


def test_samples_that_look_right_as_they_were_trained_on_are_left_out_as_the_held_ones_are():
    policy, scores = after(4)
    count = len(left_out(policy) - held(policy))
    learnt = torch.ones(N, dtype=torch.bool)
    learnt[list(held(policy))] = False
    plan_of(policy, 4, torch.where(learnt, scores / 10, scores))
    assert len(left_out(policy) - held(policy)) == count > 200


def test_a_gap_that_closes_again_is_remembered_as_suspects_are_left_out_since():
    policy = Calibrated("none")
    lines = [entry[3] for gap in (0.3, 0.0) for entry in run(policy, range(4), gap)]
    assert lines[-1] > 0.8
    assert evidence(policy)["gap"][0] == pytest.approx(0.3)
    fresh = Calibrated("none")
    run(fresh, range(4), 0.0)
    assert evidence(fresh)["line"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("gaps", "counts"),
    [
        ((0.0, 0.3, 0.0, 0.0), True),  # in the first two epochs
        ((0.0, 0.0, 0.3, 0.0, 0.3), False),
        ((0.0, 0.0, 0.3, 0.3, 0.0), True),  # twice running
    ],
)
def test_a_gap_that_opens_late_and_for_one_epoch_alone_is_taken_for_chance(gaps, counts):
    policy = Calibrated("infobatch")
    for epoch, gap in enumerate(gaps):
        run(policy, range(epoch, epoch + 1), gap)
    assert evidence(policy)["line"] == pytest.approx(0.88 if counts else 0.49, abs=0.03)
    plan = plan_of(policy, len(gaps), world(epoch=3)[0])
    assert float(plan.weight.max()) == (2.0 if counts else 1.0)  # nor does the host prune by it


@pytest.mark.parametrize(
    ("kind", "line", "share"), [("symmetric", 0.23, 0.22), ("pair flip", 0.46, 0.36), ("all one", 0.46, 0.36)]
)
def test_without_a_gap_the_more_wrong_labels_agree_the_surer_a_label_must_be_right(kind, line, share):
    policy = Calibrated("none", calibration=0.25)
    run_hard(policy, range(4), lead=1.0, pairs=pairs_of(kind))
    assert evidence(policy)["line"] == pytest.approx(line, abs=0.05)
    scores = hard(3, lead=1.0)[0]
    plan_of(policy, 4, scores)
    assert len(left_out(policy)) / N == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("rate", [0.2, 0.45])
def test_without_a_gap_the_line_is_that_of_the_estimated_rate_and_of_how_often_wrong_labels_agree(rate):
    policy, (labels, rivals) = Calibrated("none", calibration=0.25), pairs_of("symmetric", rate)
    for epoch in range(4):
        scores, _, reference = hard(epoch, rate if epoch < 3 else 0.6, lead=1.5)
        plan_of(policy, epoch, scores)
        is_held = torch.zeros(N, dtype=torch.bool)
        is_held[list(held(policy))] = True
        scores = torch.where(is_held, scores, scores / 4)  # what is trained looks right
        ended(policy, epoch, scores, reference, labels, torch.ones(N), rivals)
    agree = agreement(labels, rivals, policy.wrong_probability(scores))
    line = line_of(policy._evidence.right(reference), pattern_harm(policy.noise_rate, agree))
    assert evidence(policy)["line"] == pytest.approx(line)
    assert line > 0.1


def test_a_network_that_memorises_leaves_out_what_it_does_however_wrong_labels_agree():
    lines = []
    for kind in ("symmetric", "pair flip"):
        policy = Calibrated("none", calibration=0.25)
        run_hard(policy, range(4), gap=0.5, lead=1.0, pairs=pairs_of(kind))
        lines.append(evidence(policy)["line"])
    assert lines[0] == lines[1] > 0.8


def test_where_labels_and_rivals_are_not_known_what_is_rather_wrong_than_right_is_left_out():
    policy = Calibrated("none", calibration=0.25)
    run_hard(policy, range(4), lead=1.0)
    labels, nothing = torch.arange(N) % 10, torch.full((N,), -1)
    for pairs in ((labels, nothing[:0]), (nothing, nothing)):
        other = Calibrated("none", calibration=0.25)
        run_hard(other, range(4), lead=1.0, pairs=pairs)
        assert evidence(other)["line"] == evidence(policy)["line"] == pytest.approx(0.46, abs=0.04)


def test_a_network_that_tells_too_few_of_the_wrong_labels_is_trained_on_all_of_them():
    policy = Calibrated(calibration=0.1)
    for epoch in range(2, 8):
        run_hard(policy, range(0 if epoch == 2 else epoch - 1, epoch), lead=0.4)
        plan = plan_of(policy, epoch, hard(epoch - 1, lead=0.4)[0])
        assert left_out(policy) == set()
        assert plan.keep.tolist() == sorted(set(range(N)) - held(policy))
        assert plan.weight.tolist() == [1.0] * len(plan.keep)
        assert set(plan.probe.tolist()) == held(policy) | set(evidence(policy)["twins"].tolist())
    assert policy.conclusion().endswith(
        " Nothing was left out, as it tells too few of the wrong labels, and the host policy did not prune."
    )
    assert len(policy.suspects().index) > 200  # they are told all the same


def test_a_network_that_learns_to_tell_wrong_labels_leaves_them_out_from_then_on():
    policy, pairs = Calibrated("none", calibration=0.25), pairs_of("symmetric")
    run_hard(policy, range(6), lead=0.2, pairs=pairs)
    assert left_out(policy) == set()
    run_hard(policy, range(6, 9), lead=2.0, pairs=pairs)
    plan_of(policy, 9, hard(8, lead=2.0)[0])
    assert len(left_out(policy)) > 300


def test_a_network_that_memorises_leaves_out_suspects_also_where_it_hardly_tells_them():
    policy = Calibrated("none", calibration=0.25)
    run_hard(policy, range(6), gap=0.5)
    assert evidence(policy)["line"] > 0.5
    plan_of(policy, 6, hard(5)[0])
    assert len(left_out(policy)) > 300


def run_hard(
    policy: Calibrated, epochs: range, gap: float = 0.0, lead: float = 0.6, pairs=(NO_LABELS, NO_LABELS)
) -> None:
    labels, rivals = pairs
    for epoch in epochs:
        scores, _, reference = hard(epoch, lead=lead)
        plan_of(policy, epoch, hard(max(0, epoch - 1), lead=lead)[0])
        probed = torch.full((N,), 1.0)
        probed[evidence(policy)["twins"]] = -math.log1p(math.expm1(-1.0) * (1 - gap))
        ended(policy, epoch, scores, reference, labels, probed, rivals)


def pairs_of(kind: str, rate: float = 0.45) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of ten classes as ``hard`` has them, some of them wrong, and their strongest others."""
    generator = torch.Generator().manual_seed(3)
    is_wrong = hard(0, rate)[1]
    classes, turned = torch.arange(N) % 10, torch.randint(1, 10, (N,), generator=generator)
    classes = classes.clamp(min=1) if kind == "all one" else classes
    flipped = {"symmetric": (classes + turned) % 10, "pair flip": (classes + 1) % 10, "all one": 0 * classes}[kind]
    return torch.where(is_wrong, flipped, classes), torch.where(is_wrong, classes, (classes + turned) % 10)


def hard(epoch: int, rate: float = 0.45, lead: float = 0.6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As ``world``, of a network that hardly tells right from wrong."""
    generator = stream(5, "plan", epoch)
    is_wrong = torch.arange(N) >= (1 - rate) * N
    softplus = torch.nn.functional.softplus
    scores = softplus(torch.randn(N, generator=generator) + torch.where(is_wrong, lead, -lead))
    return scores, is_wrong, softplus(torch.randn(200, generator=generator) - lead)


def test_the_gap_that_is_told_is_one_that_was_measured():
    policy = Calibrated("none", calibration=0.02)
    plan_of(policy, 0, world()[0])
    probed = torch.rand(N, generator=stream(3, "plan", 0)) * 4
    ended(policy, 0, world()[0], world()[2], probed=probed)
    value, error = evidence(policy)["gap"]
    assert (value != 0, error > 0.05) == (True, True)  # not what has opened since the same epoch, which is nothing


def test_a_gap_that_chance_makes_does_not_count():
    policy = Calibrated("none", calibration=0.02)
    for epoch in range(3):
        plan_of(policy, epoch, world()[0])
        probed = torch.rand(N, generator=stream(3, "plan", epoch)) * 4
        ended(policy, epoch, world()[0], world()[2], probed=probed)
        assert abs(evidence(policy)["gap"][0]) < 0.25
    assert evidence(policy)["line"] <= 0.5
    assert not policy._evidence.memorises


@pytest.mark.parametrize(("errors", "counts"), [(2.6, False), (3.4, True)])
def test_a_gap_counts_from_three_standard_errors_on(errors, counts):
    policy = Calibrated("none")
    for epoch in range(2):
        plan_of(policy, epoch, world()[0])
        distance = torch.full((N,), 0.5)
        for part, nearer in (("held", 0.0), ("twins", errors * 0.02)):
            at = evidence(policy)[part]
            distance[at] = (
                0.4 - nearer + 0.2 * (torch.arange(50) % 2)
            )  # its mean has an error of 0.02 in the difference
        ended(policy, epoch, world()[0], world()[2], probed=-(1 - distance).log())
    assert evidence(policy)["gap"] == pytest.approx((errors * 0.04, 0.04))
    assert policy._evidence.memorises == counts


@pytest.mark.parametrize("line", [0.0, 0.4, 0.9])
def test_a_line_that_is_given_is_kept_whatever_the_gap(line):
    counts = []
    for gap in (0.0, 0.5):
        policy = Calibrated("none", line=line, calibration=0.25)
        run(policy, range(4), gap)
        assert evidence(policy)["line"] == line
        counts.append(len(left_out(policy)))
    assert counts[0] == pytest.approx(counts[1], rel=0.2)  # by half as many held samples without a gap
    assert (counts[0] == 0) == (line == 0)


def test_an_even_gap_makes_the_two_mistakes_cost_the_same():
    lines = {}
    for even in (0.01, 0.1, 0.2, 10.0):
        policy = Calibrated("none", even_gap=even, calibration=0.25)
        run(policy, range(3), 0.4, rate=0.5)
        lines[even] = evidence(policy)["line"]
    assert sorted(lines.values(), reverse=True) == list(lines.values())
    assert lines[0.2] == pytest.approx(2 / 3, abs=0.06)
    assert lines[10.0] == pytest.approx(0.5, abs=0.03)  # what is rather wrong than right is left out in any case


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.8])
def test_the_share_of_wrong_labels_is_estimated_from_what_is_held(rate):
    policy = Calibrated(calibration=0.25)
    run(policy, range(6), rate=rate)
    assert policy.noise_rate == pytest.approx(rate, abs=0.1)
    assert len(policy.suspects().index) == int(policy.noise_rate * N)


def test_in_the_first_two_epochs_the_last_estimate_counts_and_then_half_of_it():
    policy, alone = Calibrated(), Calibrated()
    rates = [0.5, 0.1, 0.3]
    found = []
    for epoch, rate in enumerate(rates):
        plan_of(policy, epoch)
        end(policy, epoch, rate=rate)
        alone.reset()
        plan_of(alone, 0)
        scores, _, reference = world(rate=rate, epoch=epoch)
        ended(alone, 0, scores, reference)
        found.append((policy.noise_rate, alone.noise_rate))
    assert found[0][0] == found[0][1]
    assert found[1][0] == found[1][1] < found[0][0] - 0.2
    assert found[2][0] == pytest.approx((found[1][0] + found[2][1]) / 2)


def test_a_sample_whose_score_has_fallen_comes_back():
    policy, scores = after(3)
    one = max(left_out(policy) - held(policy))
    scores[one] = 0.01
    assert one in plan_of(policy, 3, scores).keep.tolist()
    assert one not in left_out(policy)


def test_a_sample_without_a_score_is_not_left_out():
    policy = Calibrated("none")
    run(policy, range(3))
    scores = world(epoch=2)[0].index_fill_(0, torch.arange(900, N), NAN)
    plan_of(policy, 3, scores)
    assert left_out(policy).isdisjoint(range(900, N))
    assert policy.suspects().suspicion.isnan().tolist() == scores.isnan().tolist()
    assert max(policy.suspects().index.tolist()) < 900


def test_where_every_sample_would_be_left_out_it_stays_as_it_was():
    policy = Calibrated("none", line=1.0)
    run(policy, range(2))
    before = plan_of(policy, 2, torch.full((N,), 9.0))
    assert len(before.keep) == 950


def test_without_a_reference_that_is_rated_nothing_is_left_out():
    policy = Calibrated()
    for epoch in range(4):
        assert len(plan_of(policy, epoch, world()[0]).keep) == 950
        ended(policy, epoch, world()[0], torch.full((20,), NAN))
        assert (math.isnan(policy.noise_rate), policy.conclusion()) == (True, "")
    assert policy.suspects().index.tolist() == []


# --- The second half


def test_in_the_second_half_held_samples_are_trained_what_is_left_out_stays_and_nothing_is_probed():
    policy = Calibrated("none")
    run(policy, range(15))
    line, rate = evidence(policy)["line"], policy.noise_rate
    last_scores = world(epoch=14)[0]
    plan_of(policy, 15, last_scores)
    at_last = left_out(policy)
    # What the last measured epoch has shown decides.
    assert at_last == set(policy._evidence.below_the_line(last_scores).nonzero().squeeze(1).tolist())
    assert len(at_last) > 250
    for epoch in range(15, EPOCHS):
        plan = plan_of(policy, epoch, last_scores if epoch == 15 else world(epoch=epoch)[0])
        assert plan.probe.tolist() == []
        assert set(plan.keep.tolist()) == set(range(N)) - at_last
        assert (left_out(policy), evidence(policy)["line"], policy.noise_rate) == (at_last, line, rate)
        ended(policy, epoch, world(epoch=epoch)[0] * 3, world()[2])


@pytest.mark.parametrize(("until", "max_epochs", "last"), [(0.5, 30, 14), (1.0, 30, 29), (2 / 3, 100, 66)])
def test_until_is_a_share_of_the_epochs(until, max_epochs, last):
    policy = Calibrated(until=until)
    plan_of(policy, 0)
    probed = [len(plan_of(policy, e, world()[0], max_epochs=max_epochs).probe) > 0 for e in range(max_epochs)]
    assert probed == [e <= last for e in range(max_epochs)]


def test_a_run_without_a_known_end_has_no_last_third():
    policy = Calibrated()
    assert all(len(plan_of(policy, epoch, max_epochs=None).probe) == 100 for epoch in range(0, 400, 50))


def test_a_run_that_goes_on_for_longer_than_planned_does_not_hold_what_it_has_trained_on():
    policy = Calibrated()
    run(policy, range(25))
    assert plan_of(policy, 25, world()[0], max_epochs=100).probe.tolist() == []


@pytest.mark.parametrize("last", [1, 10])
def test_a_run_that_goes_on_before_it_has_trained_on_what_it_holds_measures_on(last):
    policy, whole = Calibrated(), Calibrated()
    run(whole, range(25), max_epochs=60)
    run(policy, range(last), max_epochs=last * 2 if last > 1 else 1)
    plan_of(
        policy, last, world(epoch=last - 1)[0], max_epochs=last * 2 if last > 1 else 1
    )  # and then it is to be longer
    run(policy, range(last, 25), max_epochs=60)
    assert left_out(policy) == left_out(whole) != set()
    assert policy.noise_rate == whole.noise_rate


# --- The host


@pytest.mark.parametrize("host", ["infobatch", "seta", "random", "ucb"])
def test_the_host_prunes_the_others_once_there_is_a_gap_and_not_before(host):
    kept = {}
    for gap in (0.0, 0.005, 0.5):
        policy = Calibrated(host)
        run(policy, range(4), gap)
        plan = plan_of(policy, 4, world(epoch=3)[0])
        rest = N - len(left_out(policy) | held(policy))
        kept[gap] = len(plan.keep) / rest
    assert kept[0.0] == kept[0.005] == 1
    assert kept[0.5] < 0.9


def test_a_host_has_nothing_to_prune_where_hardly_a_third_is_trained():
    policies = Calibrated(), Calibrated()
    for policy, rate in zip(policies, (0.3, 0.8), strict=True):
        run(policy, range(4), rate=rate)
    weights = [
        set(plan_of(policy, 4, world(rate=rate, epoch=3)[0]).weight.tolist())
        for policy, rate in zip(policies, (0.3, 0.8), strict=True)
    ]
    assert [len(left_out(policy)) > 2 * N / 3 for policy in policies] == [False, True]
    assert weights == [{1.0, 2.5}, {1.0}]
    assert ["and the host policy pruned the others" in policy.conclusion() for policy in policies] == [True, False]


def test_the_hosts_annealing_trains_all_others_with_weight_one():
    policy = Calibrated(InfoBatch(0.6, delta=0.875))
    run(policy, range(26))
    pruned, annealed = (plan_of(policy, epoch, world(epoch=20)[0]) for epoch in (26, 27))
    assert set(pruned.weight.tolist()) == {1.0, 2.5}
    assert set(annealed.keep.tolist()) == set(range(N)) - left_out(policy)
    assert set(annealed.weight.tolist()) == {1.0}


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_ucb_as_host_keeps_its_share_of_those_that_are_not_left_out(ratio):
    policy = Calibrated(UCB(ratio))
    run(policy, range(3))
    for epoch in range(3, EPOCHS):
        plan = plan_of(policy, epoch, world(epoch=epoch)[0])
        out = left_out(policy) | (held(policy) if epoch < 15 else set())
        assert len(plan.keep) == kept_count(N - len(out), ratio)
        end(policy, epoch)


class Recording(InfoBatch):
    """Keeps all that it is shown, with weights that tell the place."""

    def plan(self, scores, ask):
        self.asked = (scores.values.tolist(), ask.epoch, ask.max_epochs, scores.low_is, ask.labels.tolist())
        return EpochPlan(torch.arange(len(scores)), torch.arange(1.0, len(scores) + 1))


class RecordingByPlace(Recording):
    by_place = True


@pytest.mark.parametrize("low_is", ["easy", "suspect"])
@pytest.mark.parametrize("make", [Recording, RecordingByPlace])
def test_a_host_is_asked_about_those_that_are_not_left_out_or_sees_the_others_without_a_score(make, low_is):
    host = make()
    policy = Calibrated(host)
    run(policy, range(3))
    scores = world(epoch=2)[0] * (1 if low_is == "easy" else -1)
    labels = torch.arange(N) % 7
    plan = plan_of(policy, 3, scores, max_epochs=17, low_is=low_is, labels=labels)
    rest = sorted(set(range(N)) - left_out(policy) - held(policy))
    assert plan.keep.tolist() == rest
    values, *told, its_labels = host.asked
    assert told == [3, 17, low_is]
    if make is Recording:
        assert values == scores[rest].tolist()
        assert its_labels == labels[rest].tolist()
        assert plan.weight.tolist() == list(range(1, len(rest) + 1))
    else:
        assert [i for i, value in enumerate(values) if not math.isnan(value)] == rest
        assert its_labels == labels.tolist()
        assert plan.weight.tolist() == [i + 1 for i in rest]
    plan_of(policy, 4, scores, low_is=low_is)  # before any label was seen
    assert host.asked[-1] == []


def test_a_host_is_given_by_name_or_as_an_object_and_is_infobatch_by_default():
    host = InfoBatch(0.2)
    assert Calibrated(host).host is host
    assert isinstance(Calibrated("seta").host, SeTa)
    assert repr(Calibrated()).startswith("Calibrated(host=InfoBatch(ratio=0.6")
    assert (Calibrated.usual_score, Calibrated.needs_reference, Calibrated.probes) == ("rival", True, True)


# --- What it says of the run


def test_suspects_are_as_many_as_labels_seem_to_be_wrong_the_most_suspect_first():
    policy = Calibrated()
    with pytest.raises(RuntimeError, match="no suspects before an epoch is planned"):
        policy.suspects()
    plan_of(policy, 0, world()[0])
    assert policy.suspects().index.tolist() == []
    assert math.isnan(policy.suspects().noise_rate)
    run(policy, range(4))
    scores = world(epoch=3)[0]
    plan_of(policy, 4, scores)
    found = policy.suspects()
    assert found.index.tolist() == scores.argsort(descending=True)[: int(policy.noise_rate * N)].tolist()
    assert torch.equal(found.suspicion, scores)
    scores.zero_()
    assert found.suspicion.sum() > 0


@pytest.mark.parametrize("nearer", [0.0, 3.0])
def test_of_labels_that_are_likely_wrong_as_many_are_as_it_says_also_where_training_has_made_the_scores_lower(nearer):
    n = 8000
    policy = Calibrated("none")
    run(policy, range(4), n=n)
    scores, is_wrong, _ = world(n, epoch=3)
    plan_of(policy, 4, scores)
    trained = torch.ones(n, dtype=torch.bool)
    trained[list(held(policy))] = False
    lead = scores.expm1().log() - nearer * trained
    probability = policy.wrong_probability(torch.nn.functional.softplus(lead))
    places = probability.argsort().tensor_split(10)
    error = sum(abs(float(probability[at].mean() - is_wrong[at].double().mean())) for at in places) / 10
    assert error < 0.04
    assert probability.mean() == pytest.approx(policy.noise_rate, abs=0.01)


def test_of_two_samples_the_more_suspect_is_as_likely_wrong_at_least_and_one_without_a_score_is_not():
    policy, scores = after(4)
    scores[[3, 7]], scores[[5, 6]] = NAN, 0.25
    probability = policy.wrong_probability(scores)
    known = scores.isfinite()
    assert (probability[known][scores[known].argsort()].diff() >= 0).all()
    assert probability[[3, 7]].tolist() == [0, 0]
    assert probability[5] == probability[6]
    assert 0 <= probability.min() < 0.01
    assert 0.99 < probability.max() <= 1


def test_before_there_is_an_estimate_no_label_has_a_probability():
    policy = Calibrated()
    plan_of(policy, 0)
    assert policy.wrong_probability(torch.rand(N)) is None


@pytest.mark.parametrize(
    ("gap", "memory", "host"),
    [(0.5, "memorises what it is trained on", "pruned the others"), (0.0, "is not seen to memorise", "did not prune")],
)
def test_the_conclusion_says_what_was_left_out_and_why(gap, memory, host):
    policy = Calibrated()
    assert policy.conclusion() == ""
    run(policy, range(EPOCHS), gap)
    share, line = len(left_out(policy)) / N, evidence(policy)["line"]
    assert policy.conclusion() == (
        f"Calibrated pruning: about {policy.noise_rate:.1%} of the labels are wrong. The network {memory} (gap to held "
        f"samples {100 * gap:.0f}% ± 0%). {share:.1%} of the samples, those with P(label right) below {line:.2f}, were left "
        f"out, and the host policy {host}."
    )


def test_where_the_line_was_closed_after_the_last_plan_the_conclusion_names_none():
    policy = Calibrated("none", calibration=0.1)
    run_hard(policy, range(3), lead=1.5)
    run_hard(policy, range(3, 4), lead=0.3)
    assert evidence(policy)["line"] == 0
    assert f" {len(left_out(policy)) / N:.1%} of the samples were left out, and" in policy.conclusion()


def test_the_conclusion_says_that_nothing_was_left_out():
    policy = Calibrated(line=0.0)
    run(policy, range(EPOCHS), 0.0)
    assert policy.conclusion().endswith(" Nothing was left out, and the host policy did not prune.")


# --- Its state


@pytest.mark.parametrize(
    ("host", "at", "ended_already"),
    [
        *itertools.product(["infobatch"], [0, 2, 5, 19, 24], [True, False]),
        *itertools.product(["ucb", "rs2", "static_random"], [5], [True, False]),  # what a host remembers
    ],
)
def test_from_a_saved_state_it_goes_on_as_if_nothing_had_happened(host, at, ended_already):
    whole, resumed = Calibrated(host), Calibrated(host)
    run(whole, range(at))
    plan_of(whole, at, world(epoch=at)[0])
    if ended_already:
        end(whole, at)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.conclusion() == whole.conclusion()
    assert left_out(resumed) == left_out(whole)
    assert torch.equal(resumed.suspects().index, whole.suspects().index)
    if not ended_already:
        for policy in (whole, resumed):
            end(policy, at)
    goes_on, expected = (run(policy, range(at + 1, at + 6), rate=0.4) for policy in (resumed, whole))
    assert goes_on == expected
    assert len(expected[-1][1]) > 200


def test_planning_an_epoch_again_gives_the_same_plan():
    policy = Calibrated()
    run(policy, range(6))
    scores = world(epoch=5)[0]
    assert len({plan_of(policy, 6, scores).digest() for _ in range(3)}) == 1


@pytest.mark.parametrize("host", ["rs2", "ucb"])
def test_after_a_reset_it_is_as_new_and_so_is_its_host(host):
    policy = Calibrated(host)
    first = run(policy, range(8))
    policy.reset()
    assert math.isnan(policy.noise_rate)
    assert (held(policy), left_out(policy), policy.conclusion()) == (set(), set(), "")
    assert [entry[:2] for entry in run(policy, range(8))] == [entry[:2] for entry in first]


# --- Impossible settings


class Watching(InfoBatch):
    def epoch_ended(self, scores, ask):
        """Looks at more than scores."""


class WatchingToo(Watching):
    """One that inherits it."""


class Comparing(InfoBatch):
    needs_reference = True


class Probing(InfoBatch):
    probes = True


class ProbingUnsaid(InfoBatch):
    def plan(self, scores, ask):
        plan = super().plan(scores, ask)
        return EpochPlan(plan.keep, plan.weight, torch.tensor([0]))


def test_a_host_that_probes_without_saying_so_is_refused_when_it_plans():
    policy = Calibrated(ProbingUnsaid())
    with pytest.raises(ValueError, match=r"host=ProbingUnsaid\(.* planned 1 probes, but a host that plans none"):
        run(policy, range(3))


@pytest.mark.parametrize("host", [Watching, WatchingToo, Comparing, Probing, Calibrated])
def test_a_host_that_looks_at_more_than_scores_is_refused(host):
    with pytest.raises(ValueError, match="a host that looks at the scores alone is expected"):
        Calibrated(host=host())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"host": "infobach"}, "infobach"),
        ({"host": RS2}, "RS2 is given, which is a class"),
        *(
            ({"line": value}, rf"line={value} is given, but a probability in \[0, 1\] is expected")
            for value in (-0.1, 1.1)
        ),
        *(
            ({"even_gap": value}, rf"even_gap={value} is given, but a share in \(0, inf\) is expected; 0\.01 is a gap")
            for value in (0, -1.0, NAN)
        ),
        *(
            ({"calibration": value}, rf"calibration={value} is given, but a share in \(0, 0\.25\] is expected")
            for value in (0, 0.3, NAN)
        ),
        *(
            ({"until": value}, rf"until={value} is given, but a share of the epochs in \[0, 1\]")
            for value in (-0.1, 1.5)
        ),
        ({"until": "half"}, "until='half' is given, but"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Calibrated(**arguments)


@pytest.mark.parametrize("until", [0.0, 1.0])
@pytest.mark.parametrize("line", [0.0, 0.9])
def test_the_borders_of_the_settings_are_settings(until, line):
    policy = Calibrated("none", line=line, even_gap=1e-9, calibration=0.25, until=until)
    history = run(policy, range(6))
    assert len(history[-1][1]) == 0 if until == 0 or line == 0 else len(history[-1][1]) > 0
