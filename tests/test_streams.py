"""The streams of random numbers by name: what each draws is pinned, as a run must be the same in the next version."""

from __future__ import annotations

import pytest
import torch

from alignprune_pl.core.streams import _STREAMS, calibration_stream, stream

# Of the seed 0: the seed of each stream's own generator, and its first two numbers.
PINNED = {
    ("plan", 0): (3940750165, [965291691, 1650797433]),
    ("plan", 1): (4269095081, [972368304, 1905974225]),
    ("plan", 7): (1939720588, [419658456, 165911176]),
    ("reference", 0): (2207227838, [809176176, 768028690]),
    ("noise", 0): (3469459354, [1323374650, 392783088]),
    ("augmentation", 0): (3522473153, [1860083456, 2097961090]),
    ("augmentation", 1): (3867545410, [649958100, 732721002]),
    ("augmentation", 7): (1827060915, [974720716, 542831668]),
    ("draw", 0): (105773554, [1856785578, 729488959]),
    ("disturbance", 0): (1945030951, [466512917, 1503847538]),
    ("pseudo_clean", 0): (4240866083, [107623636, 208899252]),
    ("shown", 0): (2908578199, [34840659, 1988151247]),
    ("order", 0): (3298125523, [1414650676, 974939937]),
    ("order", 1): (416022353, [98851050, 287093175]),
    ("mixture", 0): (2681983558, [449850395, 2102553170]),
}
EPOCHS = 50


def drawn(generator: torch.Generator) -> list[int]:
    return torch.randint(1 << 31, (2,), generator=generator).tolist()


@pytest.mark.parametrize(("name", "epoch"), PINNED)
def test_a_stream_draws_what_it_has_always_drawn(name, epoch):
    generator = stream(0, name, epoch)
    assert (generator.initial_seed(), drawn(generator)) == PINNED[name, epoch]


def test_another_seed_and_the_calibration_samples_draw_what_they_have_always_drawn():
    assert drawn(stream(12345, "plan", 3)) == [879882876, 1884084317]
    assert drawn(calibration_stream(stream(0, "plan"))) == [2085542362, 198502463]


def test_every_stream_is_pinned():
    assert {name for name, _ in PINNED} == set(_STREAMS)


def test_no_stream_is_that_of_another_purpose_epoch_or_seed():
    plans = [stream(seed, "plan", epoch) for seed in range(20) for epoch in range(EPOCHS)]
    of_epochs = [stream(0, "augmentation", epoch) for epoch in range(EPOCHS)]
    of_runs = [stream(0, name) for name in _STREAMS if name not in ("plan", "augmentation", "order")]
    of_ranks = [stream(0, "order", epoch, rank) for epoch in range(EPOCHS) for rank in range(4)]
    generators = [*plans, *of_epochs, *of_runs, *of_ranks, *map(calibration_stream, plans)]
    assert len({generator.initial_seed() for generator in generators}) == len(generators)
    assert len({tuple(drawn(generator)) for generator in generators}) == len(generators)


def test_the_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = drawn(stream(0, "noise"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert drawn(stream(0, "noise")) == first


def test_a_purpose_that_is_not_in_the_table_has_no_stream():
    with pytest.raises(KeyError):
        stream(0, "weather")
