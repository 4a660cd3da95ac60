import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignprune_pl.core import trajectory
from alignprune_pl.core.trajectory import Observed, TrajectoryStore

NAN = math.nan


def fill(store: TrajectoryStore, epochs: list[dict[int, float]]) -> TrajectoryStore:
    for number, losses in enumerate(epochs):
        store.record(torch.tensor(list(losses), dtype=torch.int64), torch.tensor(list(losses.values())))
        store.close_epoch(float(number))
    return store


def check_same(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), equal_nan=True)


def test_the_ring_keeps_the_last_n_epochs_oldest_first():
    store = fill(TrajectoryStore(2, 3), [{0: 1.0, 1: 5.0}, {0: 2.0}, {1: 6.0}, {0: 4.0}])
    check_same(store.losses(), [[2.0, NAN, 4.0], [NAN, 6.0, NAN]])
    check_same(store.reference(), [1.0, 2.0, 3.0])


def test_carry_fills_with_the_last_observed_loss_even_from_before_the_window():
    store = fill(TrajectoryStore(3, 2), [{0: 1.0, 1: 5.0}, {0: 2.0}, {0: 3.0}, {1: 7.0}])
    check_same(store.losses(carry=True), [[3.0, 3.0], [5.0, 7.0], [NAN, NAN]])


def test_last_loss_remembers_a_sample_pruned_for_longer_than_the_window():
    store = fill(TrajectoryStore(3, 2), [{0: 1.5, 1: 5.0}, {1: 2.0}, {1: 3.0}, {1: 4.0}, {1: 2.5}])
    check_same(store.last_loss(), [1.5, 2.5, NAN])


def test_a_non_finite_loss_counts_as_not_observed_and_spoils_no_other():
    store = fill(TrajectoryStore(3, 2), [{0: NAN, 1: math.inf, 2: 2.0}])
    check_same(store.losses(), [[NAN], [NAN], [2.0]])
    assert store.nonfinite == 2


def test_several_losses_of_a_sample_in_an_epoch_are_averaged():
    store = TrajectoryStore(1, 2)
    store.record(torch.tensor([0, 0]), torch.tensor([1.0, 3.0]))
    store.close_epoch()
    check_same(store.losses(), [[2.0]])


def test_bfloat16_storage_halves_the_ring_and_keeps_index_precision():
    store = TrajectoryStore(1000, 4, torch.bfloat16)
    assert store.state_dict()["ring"].element_size() == 2
    store.record(torch.arange(1000), torch.ones(1000))
    store.close_epoch()
    assert bool((store.losses() == 1).all())


def test_a_state_in_the_middle_of_an_epoch_goes_on_where_it_was():
    whole, half = TrajectoryStore(4, 3), TrajectoryStore(4, 3)
    for store in (whole, half):
        fill(store, [{0: 1.0, 1: 2.0}])
        store.record(torch.tensor([0, 3]), torch.tensor([4.0, NAN]))
    resumed = TrajectoryStore(4, 3)
    resumed.load_state_dict(half.state_dict())
    for store in (whole, resumed):
        store.record(torch.tensor([2]), torch.tensor([8.0]))
        store.close_epoch(0.5)
    torch.testing.assert_close(resumed.losses(), whole.losses(), equal_nan=True)
    torch.testing.assert_close(resumed.reference(), whole.reference())
    assert (resumed.nonfinite, resumed.epochs) == (whole.nonfinite, whole.epochs) == (1, 2)


def test_a_state_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"\(4, 3, torch.bfloat16, False\), but this run has \(5, 3, torch.bfloat16, False\)"
    ):
        TrajectoryStore(5, 3).load_state_dict(TrajectoryStore(4, 3).state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 10), "num_samples=0"), ((5, 1), "window=1"), ((5, 10, torch.float16), "dtype=torch.float16")],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryStore(*arguments)


def test_record_refuses_indices_that_travelled_as_floats():
    with pytest.raises(ValueError, match="int64"):
        TrajectoryStore(5, 2).record(torch.tensor([1.0]), torch.tensor([1.0]))


finite = st.floats(0, 1e4, width=32)
losses = st.one_of(finite, st.just(NAN), st.just(math.inf), st.just(-math.inf))


@given(st.data())
@settings(deadline=None)
def test_a_store_holds_what_was_recorded_whatever_the_batches_and_ranks(data):
    n, window = data.draw(st.integers(1, 20), "n"), data.draw(st.integers(2, 5), "window")
    ranks, batch = data.draw(st.integers(1, 3), "ranks"), data.draw(st.integers(1, 7), "batch size")
    stores = [TrajectoryStore(n, window, torch.float32) for _ in range(ranks)]
    expected: list[dict[int, float]] = []
    nonfinite = 0
    for epoch in range(data.draw(st.integers(1, 8), "epochs")):
        seen = data.draw(st.dictionaries(st.integers(0, n - 1), losses), f"epoch {epoch}")
        expected.append({i: loss for i, loss in seen.items() if math.isfinite(loss)})
        nonfinite += len(seen) - len(expected[-1])
        for rank, store in enumerate(stores):
            mine = list(seen.items())[rank::ranks]
            for at in range(0, len(mine), batch):
                index, loss = zip(*mine[at : at + batch], strict=True)
                store.record(torch.tensor(index, dtype=torch.int64), torch.tensor(loss))
        total = sum(store.open_epoch for store in stores)
        for store in stores:
            store.open_epoch.copy_(total)  # what the collective does
            store.close_epoch(float(epoch))
    for store in stores:
        assert store.nonfinite == nonfinite
        columns = [[epoch.get(i, NAN) for i in range(n)] for epoch in expected[-window:]]
        check_same(store.losses(), [list(row) for row in zip(*columns, strict=True)])
        check_same(store.reference(), [float(epoch) for epoch in range(len(expected))][-window:])
        last = [next((epoch[i] for epoch in reversed(expected) if i in epoch), NAN) for i in range(n)]
        check_same(store.last_loss(), last)
        carried = store.losses(carry=True)
        check_same(carried[:, -1], last)
        torch.testing.assert_close(carried.isnan(), store.losses().isnan() & carried.isnan())


def test_the_last_loss_is_not_rounded_by_the_rings_storage():
    store = TrajectoryStore(2, 3, torch.bfloat16)
    store.record(torch.tensor([0, 1]), torch.tensor([1.001, 1.002]))
    store.close_epoch()
    check_same(store.last_loss(), [1.001, 1.002])
    assert store.losses()[0] == store.losses()[1]


def test_a_sum_that_overflows_is_no_observation():
    store = TrajectoryStore(1, 2)
    store.record(torch.tensor([0, 0]), torch.tensor([3e38, 3e38]))
    store.close_epoch()
    check_same(store.losses(), [[NAN]])
    check_same(store.last_loss(), [NAN])


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("window", [None, 2, 9])
def test_each_says_of_all_trajectories_what_a_function_says_of_some(carry, window, monkeypatch):
    monkeypatch.setattr(trajectory, "_BLOCK", 7)
    generator = torch.Generator().manual_seed(0)
    store = TrajectoryStore(30, 4)
    for _ in range(6):
        seen = (torch.rand(30, generator=generator) < 0.6).nonzero().squeeze(1)
        store.record(seen, torch.rand(len(seen), generator=generator))
        store.close_epoch()
    sizes = []

    def last_but_first(losses):
        sizes.append(losses.shape)
        return losses[:, -1] - losses[:, 0]

    found = store.each(last_but_first, window, carry=carry)
    torch.testing.assert_close(found, last_but_first(store.losses(window, carry=carry)), equal_nan=True)
    assert sizes[0] == (7, 4 if window != 2 else 2)
    whole = store.losses(carry=carry)
    torch.testing.assert_close(
        store.losses(window, carry=carry), whole[:, -window:] if window else whole, equal_nan=True
    )


def test_the_newest_losses_are_not_rounded():
    store = TrajectoryStore(3, 2)
    assert store.newest().isnan().all()
    store.record(torch.tensor([0, 1]), torch.tensor([1.2345678, 2.0]))
    store.close_epoch()
    store.record(torch.tensor([1]), torch.tensor([3.3333333]))
    store.close_epoch()
    torch.testing.assert_close(store.newest(), torch.tensor([NAN, 3.3333333, NAN]), rtol=0, atol=0, equal_nan=True)


# ---- pairs of label and rival -----------------------------------------------------------------------------


def with_pairs(n: int = 4, **kwargs) -> TrajectoryStore:
    return TrajectoryStore(n, 2, torch.float32, pairs=True, **kwargs)


def show(store: TrajectoryStore, pairs: dict[int, int], loss: float = 1.0, classes: int = 3) -> None:
    """Record one loss of some samples, with their pairs."""
    index = torch.tensor(list(pairs), dtype=torch.int64)
    store.record(index, torch.full((len(pairs),), loss), torch.tensor(list(pairs.values()), dtype=torch.int64), classes)


def test_a_store_with_pairs_holds_each_samples_label_and_the_class_that_last_rivalled_it():
    store = with_pairs()
    assert store.last_pair().tolist() == store.labels().tolist() == store.rivals().tolist() == [-1] * 4
    show(store, {0: 0 * 3 + 1, 1: 2 * 3 + 0, 2: 0 * 3 + 0})
    assert store.last_pair().tolist() == [-1] * 4  # the epoch is open
    store.close_epoch()
    assert store.last_pair().tolist() == [1, 6, 0, -1]
    assert store.labels().tolist() == [0, 2, 0, -1]
    assert store.rivals().tolist() == [1, 0, 0, -1]
    assert store.labels().dtype == store.rivals().dtype == store.last_pair().dtype == torch.int64
    show(store, {1: 2 * 3 + 1})
    for _ in range(3):  # longer than the window
        store.close_epoch()
    assert store.last_pair().tolist() == [1, 7, 0, -1]
    assert store.classes == 3


def test_a_store_without_pairs_knows_none_and_needs_no_room_for_them():
    store = TrajectoryStore(4, 2)
    show(store, {0: 1, 1: 2})
    store.close_epoch()
    assert store.last_pair().tolist() == [-1] * 4
    assert store.labels().tolist() == store.rivals().tolist() == []
    assert store.labels().dtype == torch.int64
    assert store.open_epoch.shape == (2 * 4 + 1,)
    assert store.state_dict()["pair"].shape == (0,)
    assert with_pairs().open_epoch.shape == (3 * 4 + 1,)


def test_a_sample_that_was_observed_twice_in_an_epoch_has_no_pair():
    store = with_pairs()
    show(store, {0: 1, 1: 5, 2: 7})
    store.close_epoch()
    store.record(torch.tensor([0, 0]), torch.ones(2), torch.tensor([1, 1]), 3)
    show(store, {1: 3})
    show(store, {1: -1})
    store.close_epoch()
    assert store.last_pair().tolist() == [-1, -1, 7, -1]
    show(store, {0: 2})
    store.close_epoch()
    assert store.last_pair().tolist() == [2, -1, 7, -1]


def test_a_sample_that_was_last_observed_without_a_pair_has_none():
    store = with_pairs()
    for unknown in (lambda: show(store, {0: -1}), lambda: store.record(torch.tensor([0]), torch.ones(1))):
        show(store, {0: 5, 1: 5})
        store.close_epoch()
        assert store.labels().tolist() == [1, 1, -1, -1]
        unknown()
        store.close_epoch()
        assert store.labels().tolist() == [-1, 1, -1, -1]


@pytest.mark.parametrize("loss", [NAN, math.inf])
def test_a_sample_whose_loss_is_not_finite_keeps_its_pair(loss):
    store = with_pairs()
    show(store, {0: 5, 1: 7})
    store.close_epoch()
    show(store, {0: 2, 2: 3}, loss)
    show(store, {1: 6})
    store.close_epoch()
    assert store.last_pair().tolist() == [5, 6, -1, -1]
    assert store.nonfinite == 2
    show(store, {0: 2}, loss)
    show(store, {0: 3})  # what it has beside that counts alone
    store.close_epoch()
    assert store.last_pair()[0] == 3


def test_samples_passed_forward_give_their_pairs_where_they_were_not_trained():
    store = with_pairs()
    show(store, {0: 1, 1: 5})
    probed = Observed(torch.tensor([9.0, 9.0, 9.0]), torch.tensor([7, 2, 8]), 3)
    store.record_unseen(torch.tensor([2, 0, 3]), probed)
    store.close_epoch()
    assert store.last_pair().tolist() == [1, 5, 7, 8]
    check_same(store.newest(), [1.0, 1.0, 9.0, 9.0])
    store.record_unseen(torch.tensor([2, 0]), Observed(torch.tensor([4.0, 5.0])))
    store.close_epoch()
    assert store.last_pair().tolist() == [-1, 5, -1, 8]
    check_same(store.newest(), [5.0, NAN, 4.0, NAN])


@pytest.mark.parametrize(("classes", "is_held"), [(4095, True), (4096, False)])
def test_pairs_of_so_many_classes_that_single_precision_mixes_them_up_are_not_held(classes, is_held):
    store = with_pairs(2)
    pairs = [classes * classes - 2, classes * classes - 3]  # the last label with the two classes before it
    show(store, dict(enumerate(pairs)), classes=classes)
    store.close_epoch()
    assert store.last_pair().tolist() == (pairs if is_held else [-1, -1])
    assert store.labels().tolist() == ([classes - 1] * 2 if is_held else [-1, -1])


def test_pairs_that_ranks_have_seen_add_up_with_their_losses():
    stores = [with_pairs(), with_pairs()]
    show(stores[0], {0: 4094, 2: 17}, classes=4095)
    show(stores[1], {1: 4095 * 4095 - 2, 2: 17}, NAN, classes=4095)
    show(stores[1], {3: 4095 * 4095 - 2}, classes=4095)
    total = sum(store.open_epoch for store in stores)
    for store in stores:
        store.open_epoch.copy_(total)  # what the collective does
        store.close_epoch()
        assert store.last_pair().tolist() == [4094, -1, 17, 4095 * 4095 - 2]
        assert store.nonfinite == 2


def test_a_state_with_pairs_goes_on_where_it_was_in_the_middle_of_an_epoch():
    whole, half = with_pairs(), with_pairs()
    for store in (whole, half):
        show(store, {0: 5, 1: 6})
        store.close_epoch()
        show(store, {1: 7, 2: 8})
    state = half.state_dict()
    show(half, {3: 1})  # the state is a copy
    half.close_epoch()
    resumed = with_pairs()
    resumed.load_state_dict(state)
    assert resumed.classes == 3
    assert resumed.labels().tolist() == [1, 2, -1, -1]
    for store in (whole, resumed):
        show(store, {0: 3})
        store.close_epoch()
        assert store.last_pair().tolist() == [3, 7, 8, -1]


@pytest.mark.parametrize("pairs", [False, True])
def test_a_state_with_pairs_is_refused_by_a_store_without_them_and_the_other_way_round(pairs):
    state = TrajectoryStore(4, 3, pairs=not pairs).state_dict()
    with pytest.raises(ValueError, match=rf"16, {not pairs}\), but this run has \(4, 3, torch.bfloat16, {pairs}\)"):
        TrajectoryStore(4, 3, pairs=pairs).load_state_dict(state)


def test_what_the_reference_has_shown_is_that_of_the_last_closed_epoch():
    store = with_pairs()
    assert len(store.newest_reference.value) == 0
    shown = Observed(torch.tensor([1.0, 2.0]), torch.tensor([1, 5]), 3)
    store.close_epoch(1.5, shown)
    assert store.newest_reference is shown
    assert store.classes == 3
    check_same(store.reference(), [1.5])
    store.close_epoch()
    assert len(store.newest_reference.value) == 0


def test_a_state_has_what_the_reference_has_shown():
    store, resumed = with_pairs(), with_pairs()
    store.close_epoch(1.5, Observed(torch.tensor([1.0, 2.0]), torch.tensor([1, 5]), 3))
    file = io.BytesIO()
    torch.save(store.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    check_same(resumed.newest_reference.value, [1.0, 2.0])
    assert resumed.newest_reference.pair.tolist() == [1, 5]
    assert resumed.newest_reference.classes == 3


def test_an_epoch_whose_closing_fails_is_open_again():
    store = fill(TrajectoryStore(3, 2, pairs=True), [{0: 1.0, 1: 5.0}, {0: 2.0}, {2: 3.0}])
    store.record(torch.tensor([0, 1]), torch.tensor([4.0, 6.0]), torch.tensor([1, 5]), classes=3)
    before = store.state_dict()

    def fails():
        with store.undone_on_error():
            store.record_unseen(torch.tensor([2]), Observed(torch.tensor([NAN]), torch.tensor([3]), 3))
            store.close_epoch(0.5, Observed(torch.ones(2)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    after = store.state_dict()
    assert all(str(after[name]) == str(value) for name, value in before.items())
    store.close_epoch(0.5)
    check_same(store.last_loss(), [4.0, 6.0, 3.0])
