"""List the labels that a run takes for wrong: ``alignprune-audit``, ``python scripts/audit.py``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignprune_pl.cli.sentences import sentence, sentences
from alignprune_pl.report import RunFiles, read_run
from alignprune_pl.report.audit import audit, write_table
from alignprune_pl.report.run_files import readable

_SHOWN = 10


@sentences()
def main() -> None:
    """The command ``alignprune-audit``."""
    parser = argparse.ArgumentParser(
        prog="alignprune-audit", description="List the labels that a finished run takes for wrong, most suspect first."
    )
    parser.add_argument("folder", type=Path, help="of a finished run, such as outputs/DATE/TIME")
    parser.add_argument(
        "--output",
        type=Path,
        help="a .csv or .parquet file; by default label_issues.csv (of --apply: mended.*) in the folder",
    )
    parser.add_argument("--all", action="store_true", help="list every training sample, suspected or not")
    parser.add_argument(
        "--review", action="store_true", help="also write review.html in the folder, a page to mend the labels on"
    )
    parser.add_argument(
        "--apply",
        type=Path,
        metavar="DECISIONS",
        help="what the review page has exported; write the mended labels by it",
    )
    arguments = parser.parse_args()
    if arguments.apply is not None and (arguments.all or arguments.review):
        parser.error("--apply writes labels alone; give --all and --review without it")
    if arguments.apply is not None:
        from alignprune_pl.cli.mend import apply  # torch, which the list needs not

        apply(read_run(arguments.folder), arguments.apply, arguments.output)
        return
    path = arguments.output or arguments.folder / "label_issues.csv"
    run = read_run(arguments.folder)
    table = audit(run, every=arguments.all)
    write_table(path, table)
    is_told = not run.caution  # how likely each is wrong; without an estimate it would say more than is known
    shown = Table(
        "index",
        *(["path"] if "path" in table else []),
        "given",
        "suggested",
        "score",
        *(["wrong with"] if is_told else []),
    )
    for at in range(min(_SHOWN, len(table["index"]))):
        shown.add_row(
            str(table["index"][at]),
            *([_plain(table["path"][at])] if "path" in table else []),
            _plain(table["given_name"][at]),
            _plain(table["suggested_name"][at]),
            f"{table['score'][at]:.3g}",
            *([f"{table['probability'][at]:.0%}"] if is_told else []),
        )
    Console().print(shown)
    count, n = len(run.issues), len(run.suspicion)
    print(f"{count:,} of {n:,} labels ({count / n:.1%}) are probably wrong{_truth(run)}.")
    if run.caution:
        print(run.caution)
    print(os.path.relpath(path))
    if arguments.review:
        _review(run, every=arguments.all)


def _review(run: RunFiles, every: bool) -> None:
    """Write the page to mend the labels on, with what the samples show if their data set can be read."""
    from alignprune_pl.cli.data_again import settings_of
    from alignprune_pl.cli.shown import shown_by  # Hydra and torch take seconds, which a table need not wait for
    from alignprune_pl.report.review import write_review

    place = run.folder / "review.html"
    try:
        page = write_review(run, place, shown_by(run), every=every)
    except (ValueError, OSError) as error:
        page = write_review(run, place, every=every)
        why = f"not the data set, which cannot be opened: {sentence(error)}"
        own = "no more, as its data set is not known; give what they show to write_review(run, path, shown)"
        print(f"The page shows what the run has kept of its samples, and {why if settings_of(run) else own}")
    count = len(run.suspicion) if every else len(run.issues)
    print(f"{os.path.relpath(page)}: {count:,} labels to look at; open it in a browser")


def _plain(text: object) -> str:
    """A name as it is, which may look like markup."""
    return escape(readable(str(text)))


def _truth(run: RunFiles) -> str:
    """What is known of these labels."""
    if run.is_all_correct and len(run.issues):
        return "; by the known labels none of them is wrong"
    if run.mask is None or not run.is_truth_known or not len(run.issues):
        return ""
    found = run.mask[run.issues].sum()
    precision, recall = found / len(run.issues), found / run.mask.sum()
    return f"; by the known labels {precision:.1%} of them are wrong, which is {recall:.1%} of all wrong ones"
