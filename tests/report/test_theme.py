"""How plots and pages look."""

from __future__ import annotations

import numpy as np
import pytest

from alignprune_pl.report import read_run
from alignprune_pl.report.page import plots_of
from alignprune_pl.report.theme import DARK, LIGHT, drawn

TEXT = ("ink", "soft", "right", "wrong", "reference")


def luminance(colour):
    """As WCAG has it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(*colours):
    low, high = sorted(luminance(colour) for colour in colours)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_have_the_contrast_of_level_aa(theme):
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for name, colour in theme.variables.items():
        if name not in ("ground", "panel", "faint"):
            assert contrast(colour, theme.panel) >= (4.5 if name in TEXT else 3), name
    for name in ("ink", "soft"):  # headings and the footer stand outside of panels
        assert contrast(theme.variables[name], theme.ground) >= 4.5, name


def test_light_and_dark_have_the_same_colours():
    assert LIGHT.variables.keys() == DARK.variables.keys()
    assert len(LIGHT.series) == len(set(LIGHT.series)) == len(DARK.series)


def test_of_a_long_run_fewer_lines_are_drawn_so_that_the_page_stays_small(run_dir):
    run = read_run(run_dir)
    run.record["trajectories"] = np.tile(run.record["trajectories"], (1, 75))
    run.record["reference_trajectory"] = np.tile(run.record["reference_trajectory"], 75)
    (plot,) = (plot for plot in plots_of(run) if plot.name == "trajectories")
    assert "Up to 6 samples of each kind" in plot.words
    assert len(drawn(plot.draw, plot.name, "").svg) < 100_000
