"""What a person decides of a run's labels, as the review page exports it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from alignprune_pl.report import RunFiles
from alignprune_pl.report.decisions import dataset_key

HEAD = ["version", "dataset", "index", "given_label", "given_name", "decision", "label", "label_name", "decided_at"]


def decided(run: RunFiles, decisions: Mapping[int, int | str]) -> list[dict[str, Any]]:
    """An entry for each sample, by its index: a class to become, or one of the other words."""
    labels = dict(zip(run.labels["train_index"].tolist(), run.labels["label"].tolist(), strict=True))
    entries = []
    for index, what in sorted(decisions.items()):
        label = what if isinstance(what, int) else ""
        values = [1, dataset_key(run), index, labels[index], run.classes[labels[index]]]
        values += ["relabel", label, run.classes[label]] if isinstance(label, int) else [what, "", ""]
        entries.append(dict(zip(HEAD, [*values, "2026-01-02T03:04:05Z"], strict=True)))
    return entries


def as_csv(entries: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    """As the page exports them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([list(entries[0]), *(entry.values() for entry in entries)])
    return text.getvalue().encode()


def as_json(entries: list[dict[str, Any]]) -> bytes:
    """Likewise."""
    head = {name: entries[0][name] for name in HEAD[:2]}
    rows = [
        {name: None if entry[name] == "" else entry[name] for name in entry if name not in head} for entry in entries
    ]
    return json.dumps({**head, "decisions": rows}).encode()
