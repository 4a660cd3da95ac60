"""Pictures and pages of finished runs, from the files in their folders; Lightning is not needed."""

from alignprune_pl.report.comparison import write_comparison
from alignprune_pl.report.page import write_report
from alignprune_pl.report.run_files import RunFiles, read_run

__all__ = ["RunFiles", "read_run", "write_comparison", "write_report"]
