"""The loss of a label against its strongest rival, shifted by how unusual the two are."""

from __future__ import annotations

import io
import math

import pytest
import torch

from alignprune_pl.core.trajectory import Observed, TrajectoryStore
from alignprune_pl.scores import RivalScore, TrajectoryScore

NAN = math.nan
CLASSES, EPOCHS = 3, 5
LABELS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 1]
# No reference sample is of class 2.
CLEAN = [0, 0, 0, 1, 1]


def draws(labels: list[int], epoch: int, seed: int) -> list[tuple[float, int | None]]:
    """Loss and rival of each sample in an epoch; a rival is not always known."""
    g = torch.Generator().manual_seed(100 * epoch + seed)
    losses = torch.nn.functional.softplus(2 * torch.randn(len(labels), generator=g)).tolist()
    rivals = [(y + 1 + int(torch.randint(2, (), generator=g))) % CLASSES for y in labels]
    known = (torch.rand(len(labels), generator=g) < 0.8).tolist()
    return [(v, k if is_known else None) for v, k, is_known in zip(losses, rivals, known, strict=True)]


# Of each epoch what each sample shows, None where it is not observed; sample 3 never is.
SHOWN: list[list[tuple[float, int | None] | None]] = [
    [None if i == 3 or (i + epoch) % 3 == 0 else shown for i, shown in enumerate(draws(LABELS, epoch, 1))]
    for epoch in range(EPOCHS)
]
CLEAN_SHOWN = [draws(CLEAN, epoch, 2) for epoch in range(EPOCHS)]


def observed(labels: list[int], shown: list[tuple[float, int | None]], classes: int = CLASSES) -> Observed:
    pairs = [-1 if k is None else y * classes + k for y, (_, k) in zip(labels, shown, strict=True)]
    return Observed(torch.tensor([v for v, _ in shown]), torch.tensor(pairs, dtype=torch.int64), classes)


def new_store(n: int = len(LABELS), window: int = 2) -> TrajectoryStore:
    return TrajectoryStore(n, window, torch.float32, pairs=True)


def close(store: TrajectoryStore, epoch: int, has_reference: bool = True) -> TrajectoryStore:
    """Let the store see one epoch."""
    seen = [i for i, shown in enumerate(SHOWN[epoch]) if shown is not None]
    part = observed([LABELS[i] for i in seen], [SHOWN[epoch][i] for i in seen])
    store.record(torch.tensor(seen), part.value, part.pair, part.classes)
    store.close_epoch(0.0, observed(CLEAN, CLEAN_SHOWN[epoch]) if has_reference else None)
    return store


def lead(loss: float) -> float:
    """M of log(1 + exp(m))."""
    return math.log(math.exp(loss) - 1)


def shares(labels, shown):
    """The share of each label's samples that each class wins, and how many samples it has."""
    known = [(y, k, v) for y, (v, k) in zip(labels, shown, strict=True) if k is not None]
    wins = [
        [sum(1 / (1 + math.exp(-lead(v))) for a, b, v in known if (a, b) == (y, k)) for k in range(3)] for y in range(3)
    ]
    return wins, [sum(a == y for a, _, _ in known) for y in range(3)]


def shifts(last: int, floor: float, pull: float, first: int = 0, apart: int | None = None) -> list[list[float]]:
    """What is added to m after an epoch, by label and rival; of a reference sample ``apart``, as if it were trained on."""
    averaged = [[[0.0, 0.0] for _ in range(3)] for _ in range(3)]
    latest: dict[int, tuple[float, int | None]] = {}
    for epoch in range(first, last + 1):
        latest.update({i: shown for i, shown in enumerate(SHOWN[epoch]) if shown is not None})
        labels, shown = [LABELS[i] for i in latest], list(latest.values())
        clean, clean_shown = list(CLEAN), list(CLEAN_SHOWN[epoch])
        clean_sizes = shares(clean, clean_shown)[1]
        if apart is not None:
            labels, shown = [*labels, clean.pop(apart)], [*shown, clean_shown.pop(apart)]
        wins, sizes = shares(labels, shown)
        other_wins, other_sizes = shares(clean, clean_shown)
        for y in range(3):
            for k in range(3):
                f = wins[y][k] / sizes[y] if sizes[y] else 0.0
                part = pull / (clean_sizes[y] + pull) if other_sizes[y] else 1
                g = part * f + (1 - part) * other_wins[y][k] / max(1, other_sizes[y])
                averaged[y][k] = [0.7 * old + new for old, new in zip(averaged[y][k], (f, g), strict=True)]
    weight = sum(0.7**age for age in range(last - first + 1))
    return [[math.log((floor + f / weight) / (floor + g / weight)) for f, g in row] for row in averaged]


def mean(decay: float, shown: list[tuple[int, float]], last: int) -> float:
    """Of values and their epochs."""
    weights = [decay ** (last - epoch) for epoch, _ in shown]
    return sum(w * v for w, (_, v) in zip(weights, shown, strict=True)) / sum(weights) if sum(weights) else NAN


def expected(score: RivalScore, last: int, of_reference: bool = False, first: int = 0) -> torch.Tensor:
    """The scores after an epoch, in plain Python."""
    labels, shown = (CLEAN, CLEAN_SHOWN) if of_reference else (LABELS, SHOWN)
    by_sample: list[list[tuple[int, float]]] = [[] for _ in labels]
    for epoch in range(first, last + 1):
        for i, one in enumerate(shown[epoch]):
            shift = shifts(epoch, score.pair_floor, score.pull, first, apart=i if of_reference else None)
            if one is not None:
                loss, k = one
                raised = loss if k is None else math.log(1 + math.exp(lead(loss) + shift[labels[i]][k]))
                by_sample[i].append((epoch, raised))
    return torch.tensor([mean(score.decay, values, last) for values in by_sample])


def assert_same(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(actual, wanted, equal_nan=True, rtol=1e-4, atol=1e-5)


def run(score: RivalScore, store: TrajectoryStore, epochs: range) -> list[torch.Tensor]:
    return [score(close(store, epoch)).clone() for epoch in epochs]


@pytest.mark.parametrize(
    "settings",
    [{}, {"decay": 0.0}, {"decay": 0.95, "pair_floor": 0.5}, {"pair_floor": 1e-3, "pull": 0}, {"pull": 50.0}],
    ids=str,
)
def test_it_is_the_mean_of_the_losses_against_rivals_raised_where_the_reference_has_fewer_of_the_pair(settings):
    score, store = RivalScore(**settings), new_store()
    for epoch in range(EPOCHS):
        assert_same(score(close(store, epoch)), expected(score, epoch))
        assert_same(score.reference_scores(), expected(score, epoch, of_reference=True))


def test_its_settings_are_those_of_the_description():
    assert repr(RivalScore()) == "RivalScore(decay=0.8, pair_floor=0.1, pull=1.0)"
    assert (RivalScore.low_is, RivalScore.observes, RivalScore.rates_reference) == ("easy", "rival", True)


def once(
    labels: list[int],
    shown: list[tuple[float, int | None]],
    clean: list[int],
    clean_shown: list[tuple[float, int | None]],
    **settings: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores of training samples and reference after one epoch."""
    store, score = new_store(len(labels)), RivalScore(**settings)
    part = observed(labels, shown)
    store.record(torch.arange(len(labels)), part.value, part.pair, part.classes)
    store.close_epoch(0.0, observed(clean, clean_shown))
    return score(store), score.reference_scores()


EVEN = math.log(2)  # m is 0: a sample that each of the two wins half


def test_a_pair_that_the_reference_seldom_has_is_raised_and_one_that_it_often_has_is_lowered():
    scores, clean = once([0, 0, 1, 1], [(EVEN, 1)] * 2 + [(EVEN, 2)] * 2, [0, 0, 1, 1], [(EVEN, 2)] * 4, pull=0)
    # Class 1 wins half of label 0, and none of it in the reference; class 2 wins half of label 1 in both.
    assert scores[:2].tolist() == pytest.approx([math.log(1 + 0.6 / 0.1)] * 2)
    assert scores[2:].tolist() == pytest.approx([EVEN] * 2)
    assert clean.tolist() == pytest.approx([math.log(1 + (0.1 + 0.5 / 3) / 0.6)] * 2 + [EVEN] * 2)


def test_a_reference_sample_is_rated_as_if_it_were_trained_on_and_not_in_the_reference():
    shown = [(EVEN, 1), (EVEN, 2), (EVEN, 2)]
    _, clean = once([0, 0], [(EVEN, 1), (EVEN, 2)], [0] * 3, shown, pull=0)
    # Of three samples, it among them, its rival wins two halves. Class 1 wins none of the other two, class 2 half of one.
    assert clean.tolist() == pytest.approx(
        [math.log(1 + (0.1 + 1 / 3) / (0.1 + g)) for g in (0, 1 / 4, 1 / 4)], rel=1e-5
    )


@pytest.mark.parametrize("pull", [0, 1.0])
@pytest.mark.parametrize("rival", [1, 2])
def test_the_only_reference_sample_of_a_label_is_compared_with_the_training_set(pull, rival):
    _, clean = once([0, 0], [(EVEN, 2), (EVEN, 2)], [0], [(EVEN, rival)], pull=pull)
    assert clean.tolist() == pytest.approx([EVEN])


def test_what_a_reference_sample_changes_is_averaged_over_the_epochs_like_the_shares():
    store, score = new_store(1), RivalScore(decay=0.0, pull=0)
    for rival in (1, 2):
        part = observed([0], [(EVEN, 1)])
        store.record(torch.tensor([0]), part.value, part.pair, part.classes)
        store.close_epoch(0.0, observed([0, 0], [(EVEN, rival), (EVEN, 2)]))
        score(store)
    # Of the other sample class 2 wins half in both epochs. It wins nothing of the two that are trained on, then a quarter.
    share = 0.25 / 1.7
    assert score.reference_scores()[0].item() == pytest.approx(math.log(1 + (0.1 + share) / 0.6), rel=1e-5)


def test_a_reference_of_another_length_changes_the_shares_anew():
    store, score = new_store(1), RivalScore(decay=0.0, pull=0)
    for clean in ([(EVEN, 2)], [(EVEN, 1), (EVEN, 2)]):
        part = observed([0], [(EVEN, 1)])
        store.record(torch.tensor([0]), part.value, part.pair, part.classes)
        store.close_epoch(0.0, observed([0] * len(clean), clean))
        score(store)
    assert len(score.reference_scores()) == 2
    assert score.reference_scores().isfinite().all()


@pytest.mark.parametrize(("of_training", "of_reference"), [(100, 3), (20, 3), (10, 10)])
def test_a_reference_drawn_like_the_training_set_is_as_suspect_as_it_however_few_there_are(of_training, of_reference):
    classes = 20
    g = torch.Generator().manual_seed(0)

    def drawn(each: int) -> Observed:
        label = torch.arange(classes).repeat_interleave(each)
        rival = (label + torch.randint(1, classes, (len(label),), generator=g)) % classes
        losses = torch.nn.functional.softplus(torch.randn(len(label), generator=g))
        return Observed(losses, label * classes + rival, classes)

    gaps = []
    for _ in range(10):
        store, score, part = new_store(classes * of_training), RivalScore(), drawn(of_training)
        store.record(torch.arange(len(part.value)), part.value, part.pair, classes)
        store.close_epoch(0.0, drawn(of_reference))
        gaps.append(float(score(store).mean() - score.reference_scores().mean()))
    # With itself in the reference's share, and not in the training set's, it looks more usual by 0.1 to 0.4.
    assert abs(sum(gaps) / len(gaps)) < 0.05


def test_of_a_class_without_reference_samples_nothing_is_known():
    scores, _ = once([0, 2, 2], [(EVEN, 1), (EVEN, 0), (2.0, 1)], [0], [(EVEN, 2)], pull=0)
    assert scores[0].item() > 1
    assert scores[1:].tolist() == pytest.approx([EVEN, 2.0])


@pytest.mark.parametrize("pull", [0, 1.0, 5.0, 1e6])
def test_made_up_samples_pull_the_reference_to_the_training_sets_share(pull):
    scores, _ = once([0], [(EVEN, 1)], [0, 0], [(EVEN, 2)] * 2, pull=pull)
    share = pull * 0.5 / (2 + pull)
    assert scores.item() == pytest.approx(math.log(1 + 0.6 / (0.1 + share)), rel=1e-5)


def test_the_share_of_an_epochs_pairs_in_those_of_the_next_is_seven_tenths():
    store, score = new_store(1), RivalScore(decay=0.0, pull=0)
    for clean in ((EVEN, 2), (EVEN, 1)):
        part = observed([0], [(EVEN, 1)])
        store.record(torch.tensor([0]), part.value, part.pair, part.classes)
        store.close_epoch(0.0, observed([0], [clean]))
        scores = score(store)
    share = (0.7 * 0 + 0.5) / 1.7
    assert scores.item() == pytest.approx(math.log(1 + 0.6 / (0.1 + share)), rel=1e-5)


def test_a_sample_of_unknown_pair_keeps_its_loss_and_counts_in_no_share():
    # A loss without logits may be below zero.
    shown, clean_shown = [(EVEN, 1), (0.3, None), (-0.5, None)], [(EVEN, 2), (EVEN, 2), (0.4, None), (-0.7, None)]
    scores, clean = once([0] * 3, shown, [0] * 4, clean_shown, pull=0)
    assert scores.tolist() == pytest.approx([math.log(1 + 0.6 / 0.1), 0.3, -0.5])
    assert clean.tolist() == pytest.approx([math.log(1 + (0.1 + 0.5 / 2) / 0.6)] * 2 + [0.4, -0.7])


def test_where_there_are_other_classes_the_shares_of_pairs_begin_anew():
    store, score = new_store(1), RivalScore(decay=0.0, pull=0)
    for classes in (3, 5):
        part = observed([0], [(EVEN, 1)], classes)
        store.record(torch.tensor([0]), part.value, part.pair, classes)
        store.close_epoch(0.0, observed([0], [(EVEN, 1 if classes == 3 else 4)], classes))
        scores = score(store)
    assert scores.item() == pytest.approx(math.log(1 + 0.6 / 0.1), rel=1e-5)


def test_samples_that_were_not_observed_in_an_epoch_count_in_the_shares_by_what_they_showed_last():
    store, score = new_store(2), RivalScore(decay=0.0, pull=0)
    for seen in ([0, 1], [0]):
        part = observed([0] * len(seen), [(EVEN, 1 + i) for i in seen])
        store.record(torch.tensor(seen), part.value, part.pair, part.classes)
        store.close_epoch(0.0, observed([0], [(EVEN, 2)]))
        scores = score(store)
        # Class 1 wins a half of one of the two samples, each time.
        assert scores[0].item() == pytest.approx(math.log(1 + 0.35 / 0.1), rel=1e-5)
    assert scores[1].isnan()


@pytest.mark.parametrize("without", ["reference", "pairs of the reference", "pairs in the store"])
def test_without_pairs_on_both_sides_it_is_the_mean_of_the_losses(without):
    score, plain = RivalScore(0.7), TrajectoryScore(0.7)
    store = TrajectoryStore(len(LABELS), 2, torch.float32) if without == "pairs in the store" else new_store()
    for epoch in range(EPOCHS):
        close(store, epoch, has_reference=without != "reference")
        if without == "pairs of the reference":
            store.newest_reference = Observed(store.newest_reference.value)
        assert_same(score(store), plain(store))
        if without != "pairs in the store":
            assert torch.equal(score.reference_scores(), plain.reference_scores())
    assert len(score.reference_scores()) == (0 if without == "reference" else len(CLEAN))


def test_a_mean_of_losses_rates_the_reference_by_its_losses():
    score, store = TrajectoryScore(0.5), TrajectoryStore(1, 2)
    assert len(score.reference_scores()) == 0
    for losses in ([1.0, 4.0, NAN], [2.0, NAN, NAN]):
        store.close_epoch(0.0, Observed(torch.tensor(losses)))
        score(store)
    assert_same(score.reference_scores(), torch.tensor([(0.5 * 1 + 2) / 1.5, 4.0, NAN]))


@pytest.mark.parametrize("loss", [0.0, 1e-38, 1e-6, 30.0, 100.0, 1e4])
def test_extreme_losses_have_finite_scores_in_their_order(loss):
    scores, clean = once(
        [0, 0, 1], [(loss, 1), (0.5, 1), (EVEN, 2)], [0, 0, 1], [(loss, 2), (0.5, 2), (loss, None)], pull=0
    )
    assert scores.isfinite().all()
    assert clean.isfinite().all()
    assert (scores >= 0).all()
    assert (clean >= 0).all()
    assert bool(scores[0] > scores[1]) == (loss > 0.5)
    assert bool(clean[0] > clean[1]) == (loss > 0.5)


def test_a_loss_that_is_not_finite_counts_as_one_that_was_not_observed():
    whole, part = RivalScore(), RivalScore()
    store, other = new_store(), new_store()
    for epoch in range(EPOCHS):
        close(store, epoch)
        seen = [i for i, shown in enumerate(SHOWN[epoch]) if shown is not None]
        shown = observed([LABELS[i] for i in seen], [SHOWN[epoch][i] for i in seen])
        index = torch.cat([torch.tensor(seen), torch.tensor([3])])
        pair = torch.cat([shown.pair, torch.tensor([1])])
        other.record(index, torch.cat([shown.value, torch.tensor([math.inf])]), pair, CLASSES)
        other.close_epoch(0.0, observed(CLEAN, CLEAN_SHOWN[epoch]))
        assert torch.equal(part(other).nan_to_num(-1), whole(store).nan_to_num(-1))


def test_a_reference_sample_whose_loss_is_not_finite_counts_in_no_share_and_no_mean():
    scores, clean = once([0], [(EVEN, 1)], [0, 0], [(NAN, 1), (EVEN, 2)], pull=0)
    assert scores.item() == pytest.approx(math.log(1 + 0.6 / 0.1))
    assert clean.isnan().tolist() == [True, False]


def test_it_is_the_same_when_asked_again_in_an_epoch():
    score, store = RivalScore(), new_store()
    for epoch in range(EPOCHS):
        close(store, epoch)
        for _ in range(3):
            assert_same(score(store), expected(score, epoch))
            assert_same(score.reference_scores(), expected(score, epoch, of_reference=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_it_reads_losses_of_other_precisions(dtype):
    score, store = RivalScore(), new_store(2)
    part = observed([0, 0], [(EVEN, 1), (EVEN, 2)])
    store.record(torch.arange(2), part.value.to(dtype), part.pair, part.classes)
    store.close_epoch(0.0, Observed(part.value.to(dtype), part.pair, part.classes))
    assert score(store).isfinite().all()
    assert score.reference_scores().isfinite().all()


@pytest.mark.parametrize("at", [1, 2, 4])
def test_it_goes_on_from_a_saved_state(at):
    whole, part, store, other = RivalScore(), RivalScore(), new_store(), new_store()
    wanted = run(whole, store, range(EPOCHS))
    run(part, other, range(at))
    file = io.BytesIO()
    torch.save([part.state_dict(), other.state_dict()], file)
    file.seek(0)
    resumed, restored = RivalScore(), new_store()
    state, of_store = torch.load(file, weights_only=True)
    resumed.load_state_dict(state)
    restored.load_state_dict(of_store)
    assert torch.equal(resumed(restored).nan_to_num(-1), wanted[at - 1].nan_to_num(-1))
    assert torch.equal(resumed.reference_scores(), part.reference_scores())
    for actual, scores in zip(run(resumed, restored, range(at, EPOCHS)), wanted[at:], strict=True):
        assert torch.equal(actual.nan_to_num(-1), scores.nan_to_num(-1))
    assert torch.equal(resumed.reference_scores(), whole.reference_scores())


def test_a_state_stays_as_it_was_taken():
    score, store = RivalScore(), new_store()
    run(score, store, range(2))
    state = score.state_dict()
    before = {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    run(score, store, range(2, EPOCHS))
    assert set(before) == {"sums", "reference_sums", "pairs", "moved"}
    for name, value in before.items():
        assert torch.equal(state[name], value), name
    assert (state["epochs"], state["pair_weight"]) == (2, 1.7)


def test_its_state_takes_8_bytes_a_sample_8_a_pair_and_8_of_each_class_for_each_reference_sample():
    score, store = RivalScore(), new_store()
    run(score, store, range(2))
    tensors = [value for value in score.state_dict().values() if isinstance(value, torch.Tensor)]
    samples, clean = len(LABELS), len(CLEAN)
    assert sum(one.nbytes for one in tensors) == 8 * samples + 8 * CLASSES**2 + 8 * (CLASSES + 1) * clean


def test_after_a_reset_it_knows_nothing():
    score = RivalScore()
    run(score, new_store(), range(3))
    score.reset()
    assert len(score.reference_scores()) == 0
    store = new_store()
    for epoch in range(2, EPOCHS):
        assert_same(score(close(store, epoch)), expected(score, epoch, first=2))
        assert_same(score.reference_scores(), expected(score, epoch, of_reference=True, first=2))


def test_a_younger_store_or_one_of_another_size_or_other_classes_is_that_of_another_run():
    score = RivalScore()
    run(score, new_store(), range(3))
    assert_same(score(close(new_store(), 2)), expected(score, 2, first=2))
    assert_same(score.reference_scores(), expected(score, 2, of_reference=True, first=2))
    for _ in range(2):  # of another size
        store = new_store(1)
        part = Observed(torch.tensor([EVEN]), torch.tensor([1]), 5)
        store.record(torch.tensor([0]), part.value, part.pair, part.classes)
        store.close_epoch(0.0, Observed(torch.tensor([EVEN, EVEN]), torch.tensor([2, 3]), 5))
        scores = score(store)
    share = (0 + 1 * 0.5) / (2 + 1)
    assert scores.item() == pytest.approx(math.log(1 + 0.6 / (0.1 + share)), rel=1e-5)
    assert len(score.reference_scores()) == 2


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        *[
            ({"pair_floor": a}, r"a share in \[1e-6, inf\) is expected")
            for a in (0, -0.1, NAN, math.inf, True, "0.1", None)
        ],
        *[
            ({"pull": a}, r"a number of samples in \[0, inf\) is expected")
            for a in (-1, NAN, math.inf, True, "5", None)
        ],
        *[({"decay": a}, r"a share in \[0, 1\) is expected") for a in (-0.1, 1.0, NAN, "0.9")],
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(argument, expected):
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=f"{name}={value!r} is given, but {expected}"):
        RivalScore(**argument)
