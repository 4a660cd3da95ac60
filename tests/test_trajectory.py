import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignprune_pl import trajectory
from alignprune_pl.trajectory import TrajectoryStore

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
    with pytest.raises(ValueError, match=r"\(4, 3, torch.bfloat16\), but this run has \(5, 3, torch.bfloat16\)"):
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
