"""What a run says on the terminal: no more than its user can use."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignprune_pl.report.run_files import RECORD

# What Lightning says of its own accord and a user of the command can do nothing about.
_OTHERS = re.compile(
    r"(GPU|TPU|HPU|MPS) available|💡|`Trainer\(limit_|`Trainer\.fit` stopped|Loading `train_dataloader` to estimate"
)
_FEW = 100  # reference samples, with which chance decides much
_LIKE = 0.05  # by what share of itself the noise must differ to be said to


class _Quiet(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _OTHERS.match(record.getMessage())


_QUIET = _Quiet()


def quieten() -> None:
    """Leave out the messages of others that are no news to a user of the command."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_QUIET)  # once, however many jobs of a sweep a process runs
    # Lightning 2.6 with newer torch: its own use of a deprecated class.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
    # Advice on speed: num_workers is the user's choice, and for images in memory zero is right.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")


def command(name: str) -> str:
    """How another of our commands is given, as this one was: by its script, or by its name after an installation."""
    script = Path(sys.argv[0]).parent / f"{name}.py"
    return f"python {script}" if script.exists() else f"alignprune-{name}"


def reference_note(policy: str, reference: int, is_checked: bool, better: str) -> str:
    """A line for a policy that measures by the reference; "" where that is clean, and large enough.

    Args:
        policy: Its name.
        reference: How many samples there are.
        is_checked: Whether somebody has looked at their labels.
        better: The setting that gives a better reference; "" where the data set has its own.
    """
    if policy != "calibrated" or (is_checked and reference >= _FEW):
        return ""
    if not is_checked:
        return (
            "note: calibrated takes the reference's labels for right. Nobody has checked these, so that it will see next "
            f"to no wrong ones; give clean samples, or {better}."
        )
    more = f"; {better} gives it a tenth of the training data" if better else ""
    return f"note: calibrated measures by the reference. With {reference} samples chance decides much{more}."


def show(summary: dict[str, Any], run_dir: Path, better: str) -> None:
    """The run as a table, and in words."""
    options = summary.get("options", {})
    chosen = [f"{group} {options[group]}" for group in ("noise", "pruning", "score") if options.get(group)]
    Console().print(escape(", ".join([summary["dataset"], *chosen])), soft_wrap=True)  # a name may look like markup
    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right")
    wrong = "wrong labels" if summary.get("noise_known", True) else "labels made wrong"
    further = [key for key in summary if key.startswith("test_acc_")]
    for name, key in (
        ("test accuracy", "test_acc"),
        *((f"test accuracy, {key.removeprefix('test_acc_').replace('_', ', ')}", key) for key in further),
        ("samples saved", "saved"),
        ("time spent in pruning", "pruning_time"),
        (f"{wrong} among those trained on, all epochs", "noise_kept"),
        (f"{wrong} in the data", "noise_rate"),
        ("wrong labels in the data, estimated", "estimated_noise_rate"),
    ):
        if key in summary:  # wrong labels only where they are known
            table.add_row(name, f"{100 * summary[key]:.1f} %")
    Console().print(table)
    for line in in_words(summary, os.path.relpath(run_dir), (run_dir / RECORD).exists(), better):
        print(line)


def in_words(summary: dict[str, Any], folder: str, has_record: bool, better: str) -> list[str]:
    """What a run's figures mean, and what to try next.

    Args:
        summary: That of the run.
        folder: The run's, as a command takes it.
        has_record: Whether it has what an audit reads.
        better: The setting that gives a better reference; "" where the data set has its own.

    Returns:
        Sentences, a line each.
    """
    saved, kept, rate = summary["saved"], summary.get("noise_kept"), summary.get("noise_rate", 0.0)
    policy = summary.get("options", {}).get("pruning", "")
    lines = [f"Training cost {1 - saved:.0%} of what training on all samples costs, counted in samples."]
    if kept is not None and rate > 0:
        if kept < (1 - _LIKE) * rate:
            meaning = "wrong labels were left out more often than right ones"
        elif kept > (1 + _LIKE) * rate:
            meaning = "wrong labels were kept, as they look hard and hard samples are kept"
        else:
            meaning = "right and wrong labels were trained alike"
        lines.append(f"Of the samples trained on {kept:.1%} had a wrong label, of all samples {rate:.1%}: {meaning}.")
    if policy == "calibrated" and has_record:
        lines.append(f"Next: {command('audit')} {folder} lists the labels to look at.")
    elif policy not in ("", "calibrated") and (rate > 0 or not summary.get("noise_known", True)):
        settings = " ".join(["pruning=calibrated", *filter(None, [better])])
        lines.append(f"Next: {settings} leaves out the labels that are probably wrong.")
    elif policy == "none":
        lines.append("Next: pruning=infobatch score=loss saves a part of the samples.")
    lines.append(f"Settings, labels and figures by epoch are in {folder}.")
    return lines
