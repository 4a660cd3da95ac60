from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignprune_pl.core.full_run import FullRun

limits = st.one_of(st.none(), st.integers(1, 400))


def walk(run: FullRun, lengths: list[int]) -> list[int]:
    """Positions after each optimiser step of a run whose epochs have these lengths."""
    positions, step = [], 0
    for epoch, batches in enumerate(lengths):
        for batch in range(1, batches + 1):
            if batch % run.accumulate == 0 or batch == batches:
                step += 1
                positions.append(run.position(epoch, batch, batches, step))
                if step == run.max_steps:
                    return positions
    return positions


@given(st.data(), st.integers(1, 30), st.integers(1, 6), st.integers(1, 8), limits)
def test_a_run_of_shorter_epochs_goes_forward_and_ends_with_the_full_one(data, batches, accumulate, epochs, max_steps):
    lengths = data.draw(st.lists(st.integers(1, batches), min_size=epochs, max_size=epochs))
    run = FullRun(batches, accumulate, epochs, max_steps)
    positions = walk(run, lengths)
    assert positions == sorted(positions)
    assert all(position >= step for step, position in enumerate(positions, start=1))
    assert positions[-1] == run.total_steps


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 8), limits)
def test_full_epochs_are_followed_step_by_step(batches, accumulate, epochs, max_steps):
    run = FullRun(batches, accumulate, epochs, max_steps)
    positions = walk(run, [batches] * epochs)
    assert positions == list(range(1, len(positions) + 1))
    assert len(positions) == run.total_steps


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 7), st.integers(1, 6))
def test_a_scheduler_with_a_frequency_is_stepped_as_lightning_does_in_full_epochs(
    batches, accumulate, frequency, epochs
):
    run = FullRun(batches, accumulate, epochs, None)
    steps = 0
    for epoch in range(epochs):
        for batch in range(1, batches + 1):
            optimises = batch % accumulate == 0 or batch == batches
            steps += optimises and batch % frequency == 0
        assert run.scheduler_steps(run.position(epoch, batches, batches, 0), frequency) == steps


def test_without_a_limit_only_real_steps_count():
    run = FullRun(10, 1, None, None)
    assert run.total_steps is None
    assert run.position(3, 2, 4, 17) == 17


@pytest.mark.parametrize(("epoch", "expected"), [(0, 10), (1, 20), (2, 30)])
def test_each_epoch_ends_where_a_full_one_does(epoch, expected):
    assert FullRun(10, 1, 3, None).position(epoch, 7, 7, 7 * (epoch + 1)) == expected
