"""A suite of training runs, side by side and resumable, as a table.

python scripts/benchmark.py suite=noise [jobs=2] [threads=1] [folder=benchmarks] [models=mlp] [rows=full,calibrated]
    [columns=clean,sym50] [seeds=0,1,2] [--report] [--page docs/results-tables.md] [--machine "2 cores of AMD EPYC"]

The suites are files in configs/suite. Each run has a folder of its own, FOLDER/SUITE/MODEL/ROW/COLUMN/SEED. A run that is
finished, with the settings that it would have now, is not run again; one that was interrupted starts anew. After the last
run results.md and results.csv are written beside them, with plots of the estimated noise rate and of the wrong labels
kept. With --report nothing is run. With --page they are also put into that page, between the comments of the suite;
it may be given several times, and a page with the comments of an overview gets the first table.
Runs that are there with other settings are not in the tables.

The tables name the versions that the runs have noted, and this machine if a run was made now. Runs do not note theirs, so
that of a machine where others were made nothing is said but what --machine says.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from alignprune_pl.cli.command_line import CONFIGS, add_ratios
from alignprune_pl.cli.folders import held
from alignprune_pl.cli.sentences import sentences
from alignprune_pl.report.run_files import SUMMARY, read_config, read_summary
from alignprune_pl.report.settings import all_settings
from benchmark_report import block_of_suite, machine, write_report

DEFAULTS = {"jobs": "2", "threads": "1", "folder": "benchmarks"}
CHOICES = ("models", "rows", "columns", "seeds")


@dataclass(frozen=True)
class Cell:
    """One run of a suite.

    Attributes:
        model: The table that it belongs to.
        row: The method.
        column: The data.
        seed: The seed.
        overrides: Its settings for ``scripts/train.py``.
    """

    model: str
    row: str
    column: str
    seed: int
    overrides: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Its folder below that of the suite."""
        return Path(self.model, self.row, self.column, str(self.seed))


def read_suite(name: str) -> dict[str, Any]:
    """A suite by its name.

    Raises:
        SystemExit: If there is none.
    """
    path = CONFIGS / "suite" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in (CONFIGS / "suite").glob("*.yaml")))
        raise SystemExit(f"error: suite={name} is given, but there is no such suite; valid are: {known}.")
    suite: Any = OmegaConf.to_container(OmegaConf.load(path))
    return dict(suite)


def cells(suite: dict[str, Any]) -> list[Cell]:
    """The runs of a suite; a whole seed comes before the next one, so that tables fill evenly.

    Those that a pattern of ``not_run`` matches, as MODEL/ROW/COLUMN, are no part of it.
    """
    extra, not_run = suite.get("cells") or {}, suite.get("not_run") or []
    every = [
        Cell(
            model,
            row,
            column,
            seed,
            (
                *suite["settings"],
                *suite["models"][model],
                *suite["columns"][column],
                *suite["rows"][row],
                *extra.get(f"{row}/{column}", []),
                f"seed={seed}",
            ),
        )
        for seed, model, column, row in itertools.product(
            suite["seeds"], suite["models"], suite["columns"], suite["rows"]
        )
    ]
    return [cell for cell in every if not any(fnmatch.fnmatch(str(cell.path.parent), pattern) for pattern in not_run)]


def chosen(suite: dict[str, Any], given: dict[str, str]) -> dict[str, Any]:
    """The suite with the models, rows, columns and seeds that are asked for.

    Raises:
        SystemExit: If one of them is not in the suite.
    """
    for key in CHOICES:
        if key in given:
            named = dict.fromkeys(given[key].split(","))  # each once
            names = [int(n) if key == "seeds" and n.isdecimal() else n for n in named]
            unknown = [name for name in names if name not in suite[key] and key != "seeds"]
            if unknown or (key == "seeds" and not all(isinstance(name, int) for name in names)):
                raise SystemExit(
                    f"error: {key}={given[key]} is given, but valid are: {', '.join(map(str, suite[key]))}."
                )
            suite[key] = names if key == "seeds" else {name: suite[key][name] for name in names}
    return suite


def composed(cell: Cell) -> tuple[Any, dict[str, str]]:
    """The configuration of a run, and the option that is chosen of each config group."""
    add_ratios(list(cell.overrides))
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        # No report of each of hundreds of runs, unless a cell asks for it.
        config = compose("train", ["report=false", *cell.overrides], return_hydra_config=True)
    choices = config.hydra.runtime.choices
    options = {group: option for group, option in choices.items() if not group.startswith("hydra/")}
    del config.hydra  # it holds times and paths
    return config, options


def settings(cell: Cell) -> dict[str, str]:
    """What decides how a run ends, of what ``scripts/train.py`` writes to ``config.yaml`` at the start."""
    return deciding(composed(cell)[0])


def deciding(config: Any) -> dict[str, str]:
    """Its settings without that of the report, which is drawn after the run."""
    every: Any = OmegaConf.to_container(config, resolve=True)
    return all_settings({name: value for name, value in every.items() if name != "report"})


def is_finished(folder: Path, cell: Cell) -> bool:
    """Whether the run is there to its end, with the settings that it would have now."""
    run_dir = folder / cell.path
    # The test is the last that a run does, and adds its accuracy to the summary.
    if not (run_dir / SUMMARY).exists() or "test_acc" not in read_summary(run_dir):
        return False
    return deciding(OmegaConf.create(read_config(run_dir))) == settings(cell)


def prepare(threads: int) -> None:
    """Make a worker process ready: its threads, and the modules that take long to load."""
    import torch

    torch.set_num_threads(threads)
    import alignprune_pl.cli.train  # noqa: F401


@contextlib.contextmanager
def printing_to(log: TextIO) -> Iterator[None]:
    """Let all that is printed go to ``log``, also by those who have taken hold of the standard streams before."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    try:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
    finally:
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)


def run(cell: Cell, folder: Path, keep_checkpoint: bool = False) -> float:
    """Run one cell; what it prints goes to ``log.txt`` in its folder. Returns the seconds that it took.

    Raises:
        RuntimeError: If it fails, whatever the reason was: not every error can go from one process to another.
    """
    from alignprune_pl.cli.train import train

    began = time.perf_counter()
    run_dir = folder / cell.path
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    with (run_dir / "log.txt").open("w", buffering=1) as log, printing_to(log):
        try:
            config, options = composed(cell)
            train(config, run_dir, options)
        except Exception as error:
            traceback.print_exc()
            reason = error.__cause__ or error  # Hydra's own errors say how it got there
            raise RuntimeError(f"{type(reason).__name__}: {reason}") from None
    if not keep_checkpoint:
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)  # a suite's would fill a disk
    return time.perf_counter() - began


def run_all(todo: list[Cell], folder: Path, jobs: int, threads: int, keep_checkpoints: bool = False) -> list[str]:
    """Run all of ``todo``; a sentence for each one that failed."""
    failed = []
    context = multiprocessing.get_context("spawn")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        ProcessPoolExecutor(jobs, context, initializer=prepare, initargs=(threads,)) as pool,
        Progress(*columns) as progress,
    ):
        bar = progress.add_task("runs", total=len(todo))
        futures = {pool.submit(run, cell, folder, keep_checkpoints): cell for cell in todo}
        try:
            for future in as_completed(futures):
                cell = futures[future]
                try:
                    progress.console.print(f"{cell.path}: {future.result():.0f} s")
                except Exception as error:  # one run's failure leaves the others
                    failed.append(f"{cell.path}: {error}; see {os.path.relpath(folder / cell.path)}/log.txt.")
                    progress.console.print(failed[-1])
                progress.advance(bar)
        except BaseException:  # interrupted: the pool would wait for all that it was given
            for process in multiprocessing.active_children():
                process.kill()
            raise
    return failed


def made_here(now: int, there: int) -> str:
    """This machine, if ``now`` of the runs that are ``there`` were made in this call; others may be of another one."""
    if not now:
        return ""
    return machine() if now == there else f"{machine()} (for {now} of them)"


@sentences()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="key=value")
    parser.add_argument("--report", action="store_true", help="write the tables of the runs that are there")
    parser.add_argument(
        "--page", type=Path, action="append", default=[], help="a Markdown file to put the tables and plots into"
    )
    parser.add_argument("--machine", default="", help="what the runs were made on, for the tables")
    arguments = parser.parse_args()
    given = {**DEFAULTS, **dict(setting.partition("=")[::2] for setting in arguments.settings)}
    unknown = sorted(set(given) - {"suite", *DEFAULTS, *CHOICES})
    if unknown or "suite" not in given:
        wrong = ", ".join(unknown) or "no suite"
        raise SystemExit(
            f"error: {wrong} is given, but suite=... is expected, and of {', '.join((*DEFAULTS, *CHOICES))}."
        )
    for key in ("jobs", "threads"):
        if not (given[key].isdecimal() and int(given[key]) > 0):
            raise SystemExit(f"error: {key}={given[key]} is given, but a number of at least 1 is expected.")
    suite = chosen(read_suite(given["suite"]), given)
    folder = (Path(given["folder"]) / given["suite"]).resolve()
    all_cells = cells(suite)
    for page in arguments.page:
        block_of_suite(page, given["suite"])  # tell now what would be told after the last run
    # A run deletes what is in its folder, which may be another command's of the same suite.
    with contextlib.nullcontext() if arguments.report else held(folder):
        finished = {cell for cell in all_cells if is_finished(folder, cell)}
        print(f"{len(all_cells)} runs, {len(finished)} of them finished before.")
        todo = [] if arguments.report else [cell for cell in all_cells if cell not in finished]
        failed = []
        if todo:
            os.environ["OMP_NUM_THREADS"] = given["threads"]
            jobs, threads = int(given["jobs"]), int(given["threads"])
            failed = run_all(todo, folder, jobs, threads, suite.get("keep_checkpoints", False))
            finished.update(cell for cell in todo if is_finished(folder, cell))
    places = [(c.model, c.row, c.column, folder / c.path) for c in all_cells if c in finished]
    made_on = arguments.machine or made_here(sum(cell in finished for cell in todo), len(places))
    if places or not failed:
        for path in write_report(suite, places, len(all_cells), folder, arguments.page, made_on):
            print(os.path.relpath(path))
    if failed:
        raise SystemExit(
            "\n".join([f"error: {len(failed)} of {len(todo)} runs failed; run again to repeat them.", *failed])
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its workers would go on without it
    main()
