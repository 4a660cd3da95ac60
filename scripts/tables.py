"""Tables of figures, in Markdown or for the terminal; used by the scripts that compare runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation; a dash where there is none, or one is not known."""
    if not values or any(math.isnan(value) for value in values):
        return "-"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)]


def on_terminal(title: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(title=escape(title))
    for name in head:
        table.add_column(escape(name), no_wrap=True)
    for line in body:
        table.add_row(*map(escape, line))
    Console().print(table)
