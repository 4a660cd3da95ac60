"""A suite of training runs, side by side and resumable, as a table.

python scripts/benchmark.py suite=noise [jobs=2] [threads=1] [folder=benchmarks] [models=mlp] [rows=full,calibrated]
    [columns=clean,sym50] [seeds=0,1,2] [--report]

The suites are files in configs/suite. Each run has a folder of its own, FOLDER/SUITE/MODEL/ROW/COLUMN/SEED. A run that is
finished, with the settings that it would have now, is not run again; one that was interrupted starts anew. After the last
run results.md and results.csv are written beside them, with plots of the estimated noise rate and of the wrong labels
kept. With --report nothing is run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmark_report import write_report
from command_line import CONFIGS, add_ratios

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
    """The runs of a suite; a whole seed comes before the next one, so that tables fill evenly."""
    extra = suite.get("cells") or {}
    return [
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


def chosen(suite: dict[str, Any], given: dict[str, str]) -> dict[str, Any]:
    """The suite with the models, rows, columns and seeds that are asked for.

    Raises:
        SystemExit: If one of them is not in the suite.
    """
    for key in CHOICES:
        if key in given:
            names = [int(n) if key == "seeds" and n.isdigit() else n for n in given[key].split(",")]
            unknown = [name for name in names if name not in suite[key] and key != "seeds"]
            if unknown or (key == "seeds" and not all(isinstance(name, int) for name in names)):
                raise SystemExit(
                    f"error: {key}={given[key]} is given, but valid are: {', '.join(map(str, suite[key]))}."
                )
            suite[key] = names if key == "seeds" else {name: suite[key][name] for name in names}
    return suite


def composed(cell: Cell) -> Any:
    """The configuration of a run."""
    add_ratios(list(cell.overrides))
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", list(cell.overrides), return_hydra_config=True)


def settings(cell: Cell) -> str:
    """What decides how a run ends, to compare with what is there."""
    config = composed(cell)
    del config.hydra  # it holds times and paths
    return OmegaConf.to_yaml(config, resolve=True)


def is_finished(folder: Path, cell: Cell) -> bool:
    """Whether the run is there to its end, with the settings that it would have now."""
    written = folder / cell.path / "settings.yaml"
    done = (folder / cell.path / "summary.json").exists() and written.exists()
    return done and written.read_text() == settings(cell)


def prepare(threads: int) -> None:
    """Make a worker process ready: its threads, and the modules that take long to load."""
    import torch

    torch.set_num_threads(threads)
    import train  # noqa: F401


def run(cell: Cell, folder: Path) -> float:
    """Run one cell; what it prints goes to ``log.txt`` in its folder. Returns the seconds that it took."""
    from train import train

    began = time.perf_counter()
    run_dir = folder / cell.path
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    config = composed(cell)
    choices: dict[str, str] = OmegaConf.to_container(config.hydra.runtime.choices)  # type: ignore[assignment]
    options = {group: option for group, option in choices.items() if not group.startswith("hydra/")}
    del config.hydra
    with (run_dir / "log.txt").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        train(config, run_dir, options)
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)  # a suite's would fill a disk
    (run_dir / "settings.yaml").write_text(settings(cell))
    return time.perf_counter() - began


def run_all(todo: list[Cell], folder: Path, jobs: int, threads: int) -> list[str]:
    """Run all of ``todo``; a sentence for each one that failed."""
    failed = []
    context = multiprocessing.get_context("spawn")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        ProcessPoolExecutor(jobs, context, initializer=prepare, initargs=(threads,)) as pool,
        Progress(*columns) as progress,
    ):
        bar = progress.add_task("runs", total=len(todo))
        futures = {pool.submit(run, cell, folder): cell for cell in todo}
        for future in as_completed(futures):
            cell = futures[future]
            try:
                progress.console.print(f"{cell.path}: {future.result():.0f} s")
            except Exception as error:  # one run's failure leaves the others
                failed.append(f"{cell.path}: {type(error).__name__}: {error}; see log.txt in its folder.")
                progress.console.print(failed[-1])
            progress.advance(bar)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="key=value")
    parser.add_argument("--report", action="store_true", help="write the tables of the runs that are there")
    arguments = parser.parse_args()
    given = {**DEFAULTS, **dict(setting.partition("=")[::2] for setting in arguments.settings)}
    unknown = sorted(set(given) - {"suite", *DEFAULTS, *CHOICES})
    if unknown or "suite" not in given:
        wrong = ", ".join(unknown) or "no suite"
        raise SystemExit(
            f"error: {wrong} is given, but suite=... is expected, and of {', '.join((*DEFAULTS, *CHOICES))}."
        )
    for key in ("jobs", "threads"):
        if not (given[key].isdigit() and int(given[key]) > 0):
            raise SystemExit(f"error: {key}={given[key]} is given, but a number of at least 1 is expected.")
    suite = chosen(read_suite(given["suite"]), given)
    folder = (Path(given["folder"]) / given["suite"]).resolve()
    all_cells = cells(suite)
    todo = [] if arguments.report else [cell for cell in all_cells if not is_finished(folder, cell)]
    if not arguments.report:
        print(f"{len(all_cells)} runs, {len(all_cells) - len(todo)} of them finished before.")
    os.environ["OMP_NUM_THREADS"] = given["threads"]
    sys.path.insert(0, str(Path(__file__).parent))
    failed = run_all(todo, folder, int(given["jobs"]), int(given["threads"])) if todo else []
    for path in write_report(suite, [(c.model, c.row, c.column, folder / c.path) for c in all_cells], folder):
        print(os.path.relpath(path))
    if failed:
        raise SystemExit("\n".join([f"error: {len(failed)} runs failed; run again to repeat them.", *failed]))


if __name__ == "__main__":
    main()
