"""A sweep: its folder, and what becomes of it when one of its jobs fails."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from alignprune_pl.cli.folders import held
from alignprune_pl.cli.sentences import sentences
from alignprune_pl.report.whole_file import replaced

_FAILED = "failed-{}.json"
# The folder that this process keeps others out of. The callback itself is sent to a launcher's processes.
_HOLDS = ExitStack()


class Sweep(Callback):
    """Hydra's callback: makes the folder before the first job, and tells after the last which have failed.

    Jobs may run in other processes, and on other hosts: what they have to say stands in the sweep's folder.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of a single run."""
        with sentences():
            Path(config.hydra.run.dir).mkdir(parents=True, exist_ok=True)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of a sweep, which no other sweep is to be in, and forget an earlier one's failures."""
        folder = Path(config.hydra.sweep.dir)
        with sentences():
            _HOLDS.enter_context(held(folder))
            for path in folder.glob(_FAILED.format("*")):
                path.unlink()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Fail if a job has.

        Raises:
            SystemExit: With a line for each that has.
        """
        _HOLDS.close()
        folder = Path(config.hydra.sweep.dir)
        failed = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(_FAILED.format("*"))]
        if not failed:
            return
        failed.sort(key=lambda job: int(job["job"]))
        swept = _swept(list(config.hydra.overrides.task))
        given = [" ".join(each for each in job["given"] if each.split("=")[0] in swept) for job in failed]
        wide, number_wide = max(map(len, given)), max(len(str(job["job"])) for job in failed)
        lines = [
            f"  {job['job']:>{number_wide}}  {words:<{wide}}  {job['why']}"
            for job, words in zip(failed, given, strict=True)
        ]
        jobs = "1 job" if len(failed) == 1 else f"{len(failed)} jobs"
        raise SystemExit("\n".join([f"error: {jobs} of the sweep in {os.path.relpath(folder)} failed:", *lines]))


def _swept(overrides: list[str]) -> set[str]:
    """The keys that a sweep goes over."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return {override.get_key_element() for override in parsed if override.is_sweep_override()}


def note_failure(hydra: DictConfig, why: str) -> None:
    """Leave word of a job that has failed for the end of its sweep.

    Raises:
        OSError: If it cannot be written.
    """
    job = {"job": hydra.job.num, "given": list(hydra.overrides.task), "why": " ".join(why.split())}
    with replaced(Path(hydra.sweep.dir) / _FAILED.format(hydra.job.num)) as file:
        file.write(json.dumps(job).encode())
