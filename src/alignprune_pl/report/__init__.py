"""Pictures and pages of finished runs, from the files in their folders; torch and Lightning are not needed.

Names load on first use (PEP 562): who reads or writes a run's files needs neither matplotlib nor jinja2.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "RunFiles": "run_files",
    "read_run": "run_files",
    "read_table": "csv_table",
    "write_comparison": "comparison",
    "write_report": "page",
    "write_review": "review",
}

__all__ = ["RunFiles", "read_run", "read_table", "write_comparison", "write_report", "write_review"]

if TYPE_CHECKING:
    from alignprune_pl.report.comparison import write_comparison
    from alignprune_pl.report.csv_table import read_table
    from alignprune_pl.report.page import write_report
    from alignprune_pl.report.review import write_review
    from alignprune_pl.report.run_files import RunFiles, read_run


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
