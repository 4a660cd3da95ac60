"""The command line, run as a user runs it."""

from __future__ import annotations

import csv
import errno
import json
import math
import re
import statistics
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.types import RunMode
from omegaconf import OmegaConf

from alignprune_pl.report.run_files import read_config
from helpers import ROOT, run_code, run_script

# Arguments of the callback and of the data module.
SET = ["callback.storage_dtype=float32", "callback.rescale_schedules=false", "callback.window=5", "callback.seed=3"]
SET += ["data.batch_size=32", "data.train_size=1000", "data.in_memory=true", "data.reference_wrong=0.1"]
SMALL = ["trainer.max_epochs=2", "trainer.accelerator=cpu", "model.hidden=[16]", "report=false"]


train, compare = partial(run_script, "train.py"), partial(run_script, "compare.py")


def test_a_run_folder_holds_config_epochs_and_summary(tmp_path):
    done = train(
        *SMALL, "pruning=seta", "score=loss", "pruning.ratio=0.3", "seed=1", *SET, "hydra.run.dir=run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for words in ("test accuracy", "samples saved", "time spent in pruning", "wrong labels among those trained on"):
        assert words in done.stdout
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["policy"].startswith("SeTa(ratio=0.3")
    assert summary["score"] == "LossScore()"
    assert summary["seed"] == 1
    assert 0.1 < summary["test_acc"] <= summary["best_acc"] <= 1
    config = read_config(run)
    assert config["pruning"]["ratio"] == 0.3
    for setting in SET:  # of every part
        (group, name), value = setting.split("=")[0].split("."), setting.split("=")[1]
        assert str(config[group][name]).lower() == value, setting
    assert "${" not in (run / "config.yaml").read_text()
    assert summary["train_samples"] + summary["reference_samples"] == 1000
    state = next(
        state
        for state in torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"].values()
        if "store" in state
    )
    assert state["store"]["ring"].dtype == torch.float32
    assert (state["store"]["window"], state["planner"]["seed"], state["batch_of_all_ranks"]) == (5, 3, [32, 1])
    rows = list(csv.DictReader((run / "epochs.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    logged = [f"pruning/{name}" for name in ("kept", "saved", "noise_kept", "auroc", "reference_loss")]
    for column in ("train/loss", "val/acc", *logged):
        assert all(float(row[column]) >= 0 for row in rows), column
    assert float(rows[0]["pruning/kept"]) == int(0.7 * summary["train_samples"])


def test_multirun_runs_each_seed(tmp_path):
    done = train("-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summaries = [json.loads((tmp_path / "sweep" / str(i) / "summary.json").read_text()) for i in (0, 1)]
    assert [summary["seed"] for summary in summaries] == [0, 1]
    assert summaries[0]["test_acc"] != summaries[1]["test_acc"]
    with np.load(tmp_path / "sweep/0/labels.npz") as a, np.load(tmp_path / "sweep/1/labels.npz") as b:
        assert (a["train_index"] != b["train_index"]).any()
    accuracies = [100 * summary["test_acc"] for summary in summaries]
    expected = f"{statistics.mean(accuracies):.1f} ± {statistics.stdev(accuracies):.1f}"
    assert f"| infobatch | {expected} |" in compare("sweep", "--markdown", cwd=tmp_path).stdout
    by_seed = compare("sweep", "--rows", "seed", "--figure", "saved", cwd=tmp_path).stdout
    assert [line.split("│")[1].strip() for line in by_seed.splitlines() if "│" in line] == ["0", "1"]
    for arguments, message in (
        (["nowhere"], "nowhere is given, but a folder with the runs of a sweep"),
        (["sweep", "--figure", "accuracy"], "a run has no such figure or option; there are experiment"),
    ):
        failed = compare(*arguments, cwd=tmp_path)
        assert failed.returncode == 1
        assert message in failed.stderr


WRONG = [
    ("noise=sym100", "Available options in 'noise': asym clean given human instance matrix pairflip sym"),
    ("noise=sym100", "(a ratio goes behind a noise model's name in percent, 0 to 99: sym40)"),
    ("noise=human", "digits has no human labels; use dataset=cifar10n or dataset=cifar100n"),
    ("noise=matrix", "noise.matrix has no value; give it as noise.matrix=..."),
    ("noise.over=some", "over='some' is given"),
    ("dataset=cifar10", "dataset.root=data has no folder cifar-10-batches-py"),
    ("dataset=clothing1m", "data/clothing1m/noisy_label_kv.txt is missing"),
    (
        "pruning=infobach",
        "Available options in 'pruning': by_name calibrated epsilon_greedy infobatch infobatch_r60 none random rs2 seta "
        "seta_k10",
    ),
    ("pruning.rato=0.3", "pruning has no rato; valid are: _target_, ratio, delta, rescale, prunes"),
    ("sead=1", "the configuration has no sead; valid are: callback, data, noise, reference"),
    ("pruning.ratio=1.5", r"ratio=1.5 is given, but a pruning ratio in [0, 1) is expected"),
    ("pruning.prunes=hard", "prunes='hard' is given, but 'low', 'easy' or 'suspect' is expected"),
    ("pruning=by_name", "pruning.name has no value; give it as pruning.name=..."),
    ("data.batch_size=many", "data.batch_size=many is given, but a number is expected, such as 64"),
    ("data.in_memory=maybe", "data.in_memory=maybe is given, but true or false is expected"),
    ("trainer.max_epochs=many", "trainer.max_epochs=many is given, but a number is expected, such as 30"),
    ("model.hidden=wide", "model.hidden=wide is given, but a list of numbers is expected, such as [512, 256]"),
    ("model.hidden=[a]", "model.hidden=['a'] is given, but a list of numbers is expected"),
    ("data_dir=5", "data_dir=5 is given, but a word is expected, such as data"),
    ("data_dir=~/data", "write a path in full, without ~"),
    ("label_smoothing=2", "label_smoothing=2 is given, but a share in [0, 1) is expected"),
    ("reference.share=2", "reference share=2 is given, but a share in (0, 1) is expected"),
    ("data.reference_wrong=1", "reference wrong=1 is given, but a share in [0, 1) is expected"),
    (
        "reference=pseudo_clean reference.epochs=0",
        "reference.epochs=0 is given, but a number of epochs of at least 1",
    ),
    ("data.imbalance=1000", "use another train_size or a smaller imbalance"),
    ("noise.ratio=null", "noise.ratio=None is given, but a number is expected, such as 0.4"),
    ("seed=true", "seed=True is given, but a number is expected, such as 0"),
    ("score.window=20", "looks at 20 epochs, but window=10 of them are remembered"),
    ("window=5", "the configuration has no window; valid are: callback, data"),
    ("callback.windo=5", "callback has no windo; valid are: _target_, window, loss_fn, capture_mode"),
    ("callback.window=1", "window=1 is given"),
    ("callback.capture_mode=some", "capture_mode='some' is given, but 'auto' or 'explicit' is expected"),
    ("callback.storage_dtype=int8", "storage_dtype='int8' is given"),
    ("callback.rescale_schedules=1", "callback.rescale_schedules=1 is given, but true or false is expected"),
    ("data.train_size=0", "train_size=0 is given, but 1 to 1437 is expected"),
    ("-m data.train_sze=200,300", "data.train_sze is given, but data has no train_sze; valid are: _target_"),
    ("--multirun noise=sym100,sym40", "(a ratio goes behind a noise model's name in percent, 0 to 99: sym40)"),
    ("-m data_dir=~/a,b", "write a path in full, without ~"),
    (
        "hydra.run.dir=/proc/run",
        "/proc/run cannot be read or written (No such file or directory); give one that exists",
    ),
    ("hydra.run.dir=/dev/null", "/dev/null cannot be read or written (File exists); give the name of a folder"),
    (
        "-m seed=0,1 hydra.sweep.dir=/dev/null/sweep",
        "cannot be read or written (Not a directory); give the name of a folder",
    ),
    ("ckpt_path=nowhere.ckpt report=false", "Checkpoint file not found: nowhere.ckpt"),
    ("score.missing=drop", "missing='drop' is given, but 'carry' or 'mask' is expected"),
]

# Each argument is given to the script as a user gives it, but all in one process, which imports everything once.
DRIVER = """
import json, runpy, sys
from hydra.core.global_hydra import GlobalHydra
for argument in json.loads(sys.argv[1]):
    sys.argv = [{script!r}, *argument.split(" ")]
    GlobalHydra.instance().clear()
    try:
        runpy.run_path({script!r}, run_name="__main__")
        print(json.dumps("no error"))
    except SystemExit as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """What the script says of each wrong argument."""
    code = DRIVER.format(script=str(ROOT / "scripts" / "train.py"))
    arguments = [argument for argument, _ in WRONG]
    done = run_code(code, json.dumps(arguments), cwd=tmp_path_factory.mktemp("wrong"))
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('"')]
    return dict(zip(arguments, said, strict=True))


@pytest.mark.parametrize(("argument", "message"), WRONG)
def test_a_wrong_argument_fails_with_a_sentence_that_says_what_is_valid(sentences, argument, message):
    assert sentences[argument].startswith("error: ")
    assert message in sentences[argument]
    assert "Traceback" not in sentences[argument]


def test_a_wrong_argument_ends_the_command_with_its_sentence_alone(tmp_path):
    done = train("pruning.ratio=1.5", cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"(Seed set to 0\n)?error: ratio=1\.5 is given, but .*\n", done.stderr)


def test_a_function_a_missing_reference_and_the_seed_of_everything_can_be_given_on_the_command_line(tmp_path):
    (tmp_path / "my_file.py").write_text(
        "import torch.nn.functional as F\n"
        "def my_loss(module, batch):\n"
        "    print('asked')\n"
        "    return F.cross_entropy(module(batch[0]), batch[1], reduction='none')\n"
    )
    loss = "callback.loss_fn={_target_:hydra.utils.get_method,path:my_file.my_loss}"
    done = train(*SMALL, loss, "callback.seed=null", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "asked" in done.stdout
    done = train(*SMALL, "data.reference_share=null", "score=loss", "pruning=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reference: none" in done.stdout


def test_every_option_of_every_group_can_be_composed():
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        # A suite is not an option of a run, but a list of runs; experiments have tests of their own.
        groups = [path for path in (ROOT / "configs").iterdir() if path.is_dir()]
        for group in (path for path in groups if path.name not in ("suite", "experiment")):
            for option in group.glob("*.yaml"):
                config = compose("train", [f"{group.name}={option.stem}"])
                assert config[group.name]


def test_a_run_that_is_not_tested_has_no_accuracy_for_a_sweeper_and_no_error(monkeypatch):
    from alignprune_pl.cli import train as script

    runtime, overrides = SimpleNamespace(output_dir="run", choices={"pruning": "none"}), SimpleNamespace(task=[])
    settings = SimpleNamespace(runtime=runtime, overrides=overrides, mode=RunMode.RUN)
    monkeypatch.setattr(script.HydraConfig, "get", lambda: settings)
    for summary, expected in (({"test_acc": 0.5}, 0.5), ({"saved": 0.1}, math.nan)):
        monkeypatch.setattr(script, "train", lambda *_, summary=summary: summary)
        assert script._train.__wrapped__(OmegaConf.create()) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("is_full", [False, True], ids=["a mistake", "a full disk too"])
def test_a_job_that_fails_ends_its_log_of_wandb_and_is_known_to_the_sweep(monkeypatch, tmp_path, is_full):
    from hydra.errors import HydraException

    from alignprune_pl.cli import train as script

    def fails(*_):
        raise ValueError("ratio=2 is given")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    ended, job = [], SimpleNamespace(mode=RunMode.MULTIRUN, job=SimpleNamespace(num=0))
    job.runtime = SimpleNamespace(output_dir=str(tmp_path / "0"), choices={})
    job.overrides, job.sweep = SimpleNamespace(task=["a=2"]), SimpleNamespace(dir=tmp_path)
    monkeypatch.setattr(script.HydraConfig, "get", lambda: job)
    monkeypatch.setattr(script, "train", fails)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=object(), finish=lambda: ended.append(True)))
    if is_full:
        monkeypatch.setattr(script, "note_failure", full)
        with pytest.raises(HydraException, match="error: ratio=2 is given"):
            script._train.__wrapped__(OmegaConf.create())
    else:
        assert math.isnan(script._train.__wrapped__(OmegaConf.create()))
        assert json.loads((tmp_path / "failed-0.json").read_text())["why"] == "ratio=2 is given"
    assert ended == [True]
