"""How plots look: drawn once in the light colours, which a page replaces by variables that know light and dark."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from cycler import cycler
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D


@dataclass(frozen=True)
class Theme:
    """Colours that people with colour blindness can tell apart (near those of Okabe and Ito).

    On ``panel`` all but ``faint`` reach the contrast of WCAG's level AA: 4.5 for text and two kinds of samples, 3 for lines.

    Attributes:
        ground: Of the page.
        panel: Behind plots and text.
        ink: Text and axes.
        soft: Text that explains.
        faint: Grid and frames.
        right: Correctly labelled samples.
        wrong: Wrongly labelled ones.
        reference: The clean reference.
        series: Further lines.
    """

    ground: str
    panel: str
    ink: str
    soft: str
    faint: str
    right: str
    wrong: str
    reference: str
    series: tuple[str, ...]

    @property
    def variables(self) -> dict[str, str]:
        """The colours by the names of the page's CSS variables."""
        single = {name: value for name, value in vars(self).items() if name != "series"}
        return {**single, **{f"series-{number}": colour for number, colour in enumerate(self.series)}}


LIGHT = Theme(
    ground="#f6f8fa",
    panel="#ffffff",
    ink="#1f2328",
    soft="#59636e",
    faint="#d8dde3",
    right="#0072b2",
    wrong="#c04f00",
    reference="#00694d",
    series=("#0072b2", "#c04f00", "#00875f", "#b0579a", "#8a6d00", "#3a8ed0", "#444c56"),
)
DARK = Theme(
    ground="#0d1117",
    panel="#161b22",
    ink="#e6edf3",
    soft="#9aa5b1",
    faint="#353d47",
    right="#58b0ee",
    wrong="#ff8a4c",
    reference="#4cd6a5",
    series=("#58b0ee", "#ff8a4c", "#4cd6a5", "#e495cc", "#f0d55a", "#9cd7ff", "#a5afba"),
)
DASHES = ("solid", "dashed", "dotted")  # beside the colour, for print and for who sees none

Drawing = Callable[[], Figure]

_WRAPPED, _LINE = 54, 0.19  # letters and inches of a line in a picture's legend


@dataclass(frozen=True)
class Picture:
    """A drawn plot.

    Attributes:
        svg: For a page; the page gives colours, font and legend.
        legend: Its entries: ``name``, the colour's ``variable`` and the line's ``dash``.
        png: For papers and loggers, light and with its legend.
    """

    svg: str
    legend: list[dict[str, str]]
    png: bytes


def drawn(draw: Drawing, name: str, label: str) -> Picture:
    """Draw a plot, without touching matplotlib's global settings or windows; the same data give the same bytes.

    Args:
        draw: Makes the figure, without a legend and in the colours of :data:`LIGHT`.
        name: The plot's, of which a page has one; its ids are made from it.
        label: What screen readers say.
    """
    with _settings(name):
        figure, svg, png = draw(), io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        handles, names = figure.axes[0].get_legend_handles_labels()
        if handles:
            wrapped = [textwrap.fill(name, _WRAPPED) for name in names]
            width, height = figure.get_size_inches()
            figure.set_size_inches(width, height + _LINE * len("\n".join(wrapped).splitlines()))
            figure.legend(handles, wrapped, loc="outside upper left")
        # Without the software's version.
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    entries = [_entry(handle, name) for handle, name in zip(handles, names, strict=True)]
    return Picture(_inline(svg.getvalue(), label), entries, png.getvalue())


_VARIABLE = {colour: name for name, colour in reversed(LIGHT.variables.items())}
_DASH = {"-": "solid", "--": "dashed", ":": "dotted"}


def _entry(handle: Any, name: str) -> dict[str, str]:
    is_line = isinstance(handle, Line2D)
    colour = handle.get_color() if is_line else handle.get_facecolor()
    return {
        "name": name,
        "variable": _VARIABLE[to_hex(colour)],
        "dash": _DASH[handle.get_linestyle()] if is_line else "solid",
    }


def _inline(svg: bytes, label: str) -> str:
    """The drawing as an element of a page, without what the page has already: colours, font and the ids of parts."""
    root = ElementTree.fromstring(svg)
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]
        for key in [key for key in element.attrib if "}" in key]:  # xlink's href is HTML's
            element.attrib[key.rpartition("}")[2]] = element.attrib.pop(key)
        if element.tag in ("g", "image"):
            element.attrib.pop("id", None)
        if "d" in element.attrib:
            element.set("d", _short(element.get("d", "")))
        if "style" in element.attrib:
            style = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", element.get("style", ""))
            style = re.sub(r"font-family: [^;]*;? ?", "", style)
            element.set("style", re.sub(r"#[0-9a-f]{6}", lambda found: f"var(--{_VARIABLE[found[0]]})", style))
        element.text, element.tail = (text if text and text.strip() else None for text in (element.text, element.tail))
        for child in [child for child in element if child.tag.endswith(("}metadata", "}style"))]:
            element.remove(child)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _short(path: str) -> str:
    """A path with tenths of a point, beyond which nothing is seen."""
    tenths = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), path)
    return " ".join(tenths.split())


@contextmanager
def _settings(salt: str) -> Iterator[None]:
    settings: Any = {  # its type would list all keys that there are
        "path.simplify_threshold": 0.3,  # points; a curve of 20,000 samples need not have them all
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "figure.facecolor": LIGHT.panel,
        "axes.facecolor": LIGHT.panel,
        "savefig.facecolor": LIGHT.panel,
        "text.color": LIGHT.ink,
        "axes.labelcolor": LIGHT.ink,
        "axes.titlecolor": LIGHT.ink,
        "axes.edgecolor": LIGHT.faint,
        "xtick.color": LIGHT.ink,
        "ytick.color": LIGHT.ink,
        "grid.color": LIGHT.faint,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=list(LIGHT.series)),
        "font.family": "DejaVu Sans",
        "font.size": 11,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "lines.linewidth": 1.8,
    }
    with matplotlib.rc_context(settings):
        yield
