"""One training of a project, in a process of its own: ``python one.py FILE:FUNCTION OUTPUT.json``."""

import contextlib
import importlib
import importlib.metadata
import json
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch


def train(name: str) -> dict[str, Any]:
    from spy import watch

    file, function = name.split(":")
    torch.manual_seed(0)
    training = getattr(importlib.import_module(file), function)()
    row: dict[str, Any] = {"remark": training.remark, "how": "output" if training.output else "losses"}
    if training.alone or training.losses is not None:
        row["how"] = "alone" if training.alone else "losses"
    start = time.perf_counter()
    try:
        found = watch(training)
    except Exception as error:
        return {**row, "error": type(error).__name__, "message": str(error), "seconds": time.perf_counter() - start}
    if found.batches == 0:
        return {
            **row,
            "error": "Nothing seen",
            "message": "the spy was not called",
            "seconds": time.perf_counter() - start,
        }
    kept = {field: value for field, value in vars(found).items() if field not in ("recorded", "expected")}
    figures = {**kept, "correlation": found.correlation, "seconds": time.perf_counter() - start}
    return row | {key: None if isinstance(of, float) and math.isnan(of) else of for key, of in figures.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    name, output = sys.argv[1], Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
        row = train(name)
    output.write_text(json.dumps(row))


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    main()
