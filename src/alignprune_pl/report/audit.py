"""Which labels of a data set are probably wrong, as a table for those who mend them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from alignprune_pl.report.csv_table import csv_of
from alignprune_pl.report.detection import Array, most_suspect
from alignprune_pl.report.run_files import RunFiles, readable
from alignprune_pl.report.whole_file import replaced

Table = dict[str, Array]


def audit(run: RunFiles, every: bool = False) -> Table:
    """The labels that are probably wrong, the most suspect first: suspected, and not what the network takes the image for.

    Args:
        run: A finished one.
        every: Whether all samples are listed.

    Returns:
        Columns of equal length by name:

        - ``index``, ``position``: where the sample stands in the data set's training data, and in those of the run.
        - ``path``: from the data set's folder, if its images are files.
        - ``given_label``, ``given_name``: what it is labelled.
        - ``suggested_label``, ``suggested_name``: what the network takes it for.
        - ``score``: high is suspect.
        - ``probability``: of being wrong.
        - ``is_label_issue``, ``label_quality``: whether it is probably wrong, and 1 - probability.
        - ``predicted_label``: ``suggested_label`` by the name that cleanlab reads, as it does the two above.

    Raises:
        ValueError: If the run kept no predictions.
    """
    count, issues = len(run.suspicion), run.issues
    order = most_suspect(run.suspicion, count) if every else issues
    if every:  # those without a score are last
        order = np.concatenate([order, np.setdiff1d(np.arange(count), order)])
    is_issue = np.zeros(count, dtype=bool)
    is_issue[issues] = True
    given, suggested, names = run.labels["label"], run.record["predicted"], np.array(run.classes)
    table: Table = {"index": run.labels["train_index"], "position": np.arange(count)}
    if "paths" in run.record:
        table["path"] = np.array([os.fsdecode(bytes(path)) for path in run.record["paths"]])
    table |= {
        "given_label": given,
        "suggested_label": suggested,
        "given_name": names[given],
        "suggested_name": names[suggested],
        "score": run.suspicion,
        "probability": run.wrong_probability,
        "is_label_issue": is_issue,
        "label_quality": 1 - run.wrong_probability,
        "predicted_label": suggested,
    }
    return {name: column[order] for name, column in table.items()}


def write_table(path: Path, table: Table) -> None:
    """Write a table as CSV or Parquet, by what the file's name ends in; the file is replaced as a whole.

    :func:`~alignprune_pl.report.read_table` reads the CSV.

    Raises:
        ValueError: If it ends otherwise, or Parquet's library is not installed.
    """
    if path.suffix == ".csv":
        content = csv_of(list(table), zip(*(column.tolist() for column in table.values()), strict=True))
    elif path.suffix == ".parquet":
        columns = {name: [_readable(value) for value in column.tolist()] for name, column in table.items()}
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise ValueError(
                f"{path} is given, but pyarrow is not installed, which writes Parquet; install it with "
                "pip install '.[parquet]' in the repository's folder, or write a .csv file."
            ) from None
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), buffer)
        content = buffer.getvalue()
    else:
        raise ValueError(f"{path} is given, but a file that ends in .csv or .parquet is expected.")
    with replaced(path) as file:
        file.write(content)


def _readable(value: Any) -> Any:
    """Parquet's text is UTF-8."""
    return readable(value) if isinstance(value, str) else value
