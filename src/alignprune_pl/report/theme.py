"""How plots look on a light and on a dark page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours that people with colour blindness can tell apart (those of Okabe and Ito, lighter on dark ground).

    Attributes:
        name: ``light`` or ``dark``.
        ground: Behind plots.
        ink: Text and axes.
        faint: Grid and frames.
        right: Correctly labelled samples.
        wrong: Wrongly labelled ones.
        reference: The clean reference.
        series: Further lines.
        map: Of matrices.
    """

    name: str
    ground: str
    ink: str
    faint: str
    right: str
    wrong: str
    reference: str
    series: tuple[str, ...]
    map: str


LIGHT = Theme(
    "light",
    ground="#ffffff",
    ink="#1f2328",
    faint="#d8dde3",
    right="#0072b2",
    wrong="#d55e00",
    reference="#00694d",
    series=("#0072b2", "#d55e00", "#009e73", "#b0579a", "#8a6d00", "#56b4e9", "#444c56"),
    map="Blues",
)
DARK = Theme(
    "dark",
    ground="#161b22",
    ink="#e6edf3",
    faint="#353d47",
    right="#58b0ee",
    wrong="#ff8a4c",
    reference="#4cd6a5",
    series=("#58b0ee", "#ff8a4c", "#4cd6a5", "#e495cc", "#f0d55a", "#9cd7ff", "#a5afba"),
    map="cividis",
)
THEMES = (LIGHT, DARK)

Drawing = Callable[[Theme], Figure]


def png(draw: Drawing, theme: Theme) -> bytes:
    """A plot as a picture, drawn in a theme's colours and without touching matplotlib's global settings or windows."""
    settings: Any = _settings(theme)  # its type would list all keys that there are
    with matplotlib.rc_context(settings):
        buffer = io.BytesIO()
        # Without the software's version, so that the same run gives the same bytes.
        draw(theme).savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def data_uri(picture: bytes) -> str:
    """A picture within the page itself."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def _settings(theme: Theme) -> dict[str, Any]:
    return {
        "figure.facecolor": theme.ground,
        "axes.facecolor": theme.ground,
        "savefig.facecolor": theme.ground,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "grid.color": theme.faint,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.prop_cycle": cycler(color=list(theme.series)),
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.8,
    }
