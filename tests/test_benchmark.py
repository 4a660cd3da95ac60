"""A suite of runs: what is run and what is not, and the tables and plots that are made of it."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import shutil
import sys
from dataclasses import replace

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from alignprune_pl.cli.folders import held
from helpers import ROOT

TINY = """
title: A tiny suite
settings: [dataset=digits, trainer.max_epochs=2, trainer.accelerator=cpu]
models: {mlp: [model=mlp, "model.hidden=[8]"]}
columns: {clean: [noise=clean], sym40: [noise=sym40]}
rows:
  full: [pruning=none, score=loss]
  small_loss: [pruning=small_loss, score=loss]
  calibrated: [pruning=calibrated]
  oracle: [pruning=none, score=loss, data.correct_only=true]
cells: {small_loss/clean: [pruning.ratio=1.5]}
seeds: [0, 1]
bars: true
"""
ONE = ("rows=full", "columns=sym40", "seeds=0")
VERSIONS = {"torch": "2.9.0", "lightning": "2.6.0", "alignprune_pl": "0.1.0"}
COLUMNS, ROWS = ("clean", "sym50", "sym80"), ("full", "infobatch", "small_loss", "calibrated", "oracle")
SUITE = {
    "title": "By hand",
    "settings": ["dataset=digits"],
    "models": {"mlp": ["model=mlp"]},
    "columns": {column: [f"noise={column}"] for column in COLUMNS},
    "rows": {row: [] for row in ROWS},
    "seeds": [0, 1],
    "bars": True,
}


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """The script as a module that takes its suites from a folder of the test's own."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the script sets it
    module = importlib.import_module("benchmark")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "configs" / "suite" / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(module, "CONFIGS", tmp_path / "configs")
    return module


@pytest.fixture
def report(benchmark):
    return importlib.import_module("benchmark_report")


@pytest.fixture
def command(benchmark, monkeypatch):
    """Gives arguments to the script as a user does."""

    def given(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
        benchmark.main()

    return given


@pytest.fixture
def asked(benchmark, monkeypatch):
    """The folders of the runs that are asked for, which are run here instead of in processes of their own."""
    paths = []

    def run_all(todo, folder, jobs, threads, keep_checkpoints):
        for cell in todo:
            paths.append(cell.path.as_posix())
            benchmark.run(cell, folder, keep_checkpoints)
        return []

    monkeypatch.setattr(benchmark, "run_all", run_all)
    return paths


def write_run(folder, seed=0, epochs=((0.5, 0.4), (0.25, 0.3)), **figures):
    """What a run leaves; of each epoch the wrong labels kept and their share as estimated."""
    folder.mkdir(parents=True)
    summary = {"test_acc": 0.5, "best_acc": 0.6, "saved": 0.45, "noise_rate": 0.5, "seed": seed, **VERSIONS, **figures}
    (folder / "summary.json").write_text(json.dumps(summary))
    with (folder / "epochs.csv").open("w", newline="") as file:
        names = ("noise_kept", "estimated_noise_rate", "average_precision", "auroc")
        rows = [("epoch", *(f"pruning/{name}" for name in names))]
        rows += [(number, *epoch, 0.75, "") for number, epoch in enumerate(epochs)]
        csv.writer(file).writerows(rows)


def write_runs(folder, accuracies, **figures):
    """One run a row of one column, by the row's accuracy in percent; what the report takes of it."""
    for row, accuracy in accuracies.items():
        write_run(folder / row, test_acc=accuracy / 100, **figures)
    return [("mlp", row, "sym50", folder / row) for row in ROWS]


def body(markdown, title):
    """The rows below a title: the first cell to the others."""
    lines = markdown.split(f"{title}:\n\n")[1].split("\n\n")[0].splitlines()[2:]
    return {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}


def test_every_cell_of_the_noise_suite_is_valid_and_is_told_what_it_should_be(benchmark):
    suite = benchmark.read_suite("noise")
    every = benchmark.cells(suite)
    sizes = [len(suite[name]) for name in ("models", "columns", "rows", "seeds")]
    assert len({cell.path for cell in every}) == len(every) == sizes[0] * sizes[1] * sizes[2] * sizes[3]
    assert [cell.seed for cell in every] == sorted(cell.seed for cell in every)
    first = next(iter(suite["models"]))
    # A model changes nothing but itself: another one is composed with every noise, but with one method.
    for cell in (cell for cell in every if cell.seed == 0 and (cell.model == first or cell.row == "full")):
        config, options = benchmark.composed(cell)
        assert (options["model"], options["noise"], config.seed) == (cell.model, cell.column, 0)
        assert options["dataset"] == "fashion_mnist"
        assert config.data.correct_only == (cell.row == "oracle")
        if cell.row == "small_loss":
            assert config.pruning.ratio == config.noise.get("ratio", 0.0)
        for part in (config.noise, config.pruning, config.score):
            assert instantiate(part) is not None


def test_a_finished_run_is_run_again_only_if_its_settings_are_others_or_it_was_interrupted(command, asked, tmp_path):
    folder = tmp_path / "benchmarks" / "tiny" / "mlp" / "full" / "sym40" / "0"
    command("suite=tiny", *ONE)
    assert asked == ["mlp/full/sym40/0"]
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "epochs.csv",
        "labels.npz",
        "log.txt",
        "summary.json",
    }
    assert json.loads((folder / "summary.json").read_text())["options"]["noise"] == "sym40"
    assert "test accuracy" in (folder / "log.txt").read_text()
    command("suite=tiny", *ONE)
    assert len(asked) == 1

    (folder / "old.txt").touch()
    summary = json.loads((folder / "summary.json").read_text())
    del summary["test_acc"]  # as after a kill between training and test
    (folder / "summary.json").write_text(json.dumps(summary))
    command("suite=tiny", *ONE)
    assert len(asked) == 2
    assert "test_acc" in json.loads((folder / "summary.json").read_text())
    assert not (folder / "old.txt").exists()

    (folder / "old.txt").touch()
    suite = tmp_path / "configs" / "suite" / "tiny.yaml"
    suite.write_text(TINY.replace("max_epochs=2", "max_epochs=1"))
    with pytest.raises(SystemExit, match="but no finished run is there; run the suite first"):
        command("suite=tiny", *ONE, "--report")
    command("suite=tiny", *ONE)
    assert len(asked) == 3
    assert len((folder / "epochs.csv").read_text().splitlines()) == 2
    assert not (folder / "old.txt").exists()


def test_a_suite_may_keep_its_checkpoints(command, asked, tmp_path):
    suite = tmp_path / "configs" / "suite" / "tiny.yaml"
    suite.write_text(TINY + "keep_checkpoints: true\n")
    command("suite=tiny", *ONE)
    assert (tmp_path / "benchmarks/tiny/mlp/full/sym40/0/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize("name", ["scores", "weaknesses", "lines", "classes_100", "headline_cpu"])
def test_every_row_and_column_of_the_other_suites_is_valid(benchmark, name):
    suite = benchmark.read_suite(name)
    assert not set(suite.get("cells", {})) - {f"{row}/{column}" for row in suite["rows"] for column in suite["columns"]}
    first = next(iter(suite["columns"]))
    for cell in benchmark.cells(suite):
        if cell.seed == 0 and (cell.column == first or "/".join((cell.row, cell.column)) in suite.get("cells", {})):
            config, options = benchmark.composed(cell)
            assert options["noise"] == cell.column
            assert instantiate(config.pruning) is not None


def test_every_cell_of_the_suite_on_das_remembers_all_epochs_and_has_the_labels_of_its_column(benchmark):
    every = benchmark.cells(benchmark.read_suite("das"))
    for cell in (cell for cell in every if cell.seed == 0):
        config, options = benchmark.composed(cell)
        assert config.callback.window == config.trainer.max_epochs
        assert config.trainer.precision == "32-true"
        people = config.noise.get("annotation", cell.column)
        assert people.removeprefix("train_") == cell.column
        assert people.startswith("train_") == (cell.model == "head" and options["noise"] == "human")
        if cell.row == "infobatch_das":
            assert instantiate(config.score).window == 10
            assert config.reference.share * config.data.train_size == 500


def test_every_cell_of_the_suite_on_real_images_has_the_labels_of_its_column_and_a_reference_of_200(benchmark):
    suite = benchmark.read_suite("real")
    every = [cell for cell in benchmark.cells(suite) if cell.seed == 0]
    labels = {model: {cell.column for cell in every if cell.model == model} for model in suite["models"]}
    made = {"clean", "sym20", "sym50", "pairflip40", "instance40"}
    assert labels["mlp"] == labels["small_cnn_16"] == made
    assert labels["small_cnn_32"] == made | {"aggregate", "worst"}
    assert labels["head"] == labels["linear"] == made | {"aggregate", "worst", "sym80"}
    for cell in every:
        config, options = benchmark.composed(cell)
        people = config.noise.get("annotation", cell.column)
        assert people.removeprefix("train_") == cell.column
        assert people.startswith("train_") == (cell.model in ("head", "linear") and options["noise"] == "human")
        assert round(config.reference.share * config.data.train_size) in (200, 204)
        assert config.data.correct_only == (cell.row == "oracle")


def test_what_a_suite_does_not_run_is_no_part_of_it(benchmark, tmp_path):
    suite = tmp_path / "configs" / "suite" / "tiny.yaml"
    suite.write_text(TINY + 'not_run: ["mlp/oracle/clean", "*/small_loss/*"]\n')
    paths = {cell.path.parent.as_posix() for cell in benchmark.cells(benchmark.read_suite("tiny"))}
    assert paths == {
        "mlp/full/clean",
        "mlp/full/sym40",
        "mlp/calibrated/clean",
        "mlp/calibrated/sym40",
        "mlp/oracle/sym40",
    }


@pytest.mark.parametrize("name", ["headline", "headline_cpu"])
def test_every_row_of_the_headline_trains_on_cifar_100_as_its_files_are(benchmark, samples, tmp_path, name):
    every = benchmark.cells(benchmark.read_suite(name))
    assert [cell.row for cell in every] == ["full", "infobatch", "infobatch_das", "calibrated", "oracle"]
    small = (f"data_dir={samples}", "data.train_size=null", "data.batch_size=32", "reference.share=0.1")
    small += ("model=small_cnn", "model.width=4", "trainer.max_epochs=4", "trainer.accelerator=cpu")
    for cell in every:
        benchmark.run(replace(cell, overrides=(*cell.overrides, *small)), tmp_path)
        summary = json.loads((tmp_path / cell.path / "summary.json").read_text())
        assert (summary["dataset"], summary["options"]["noise"]) == ("cifar100", "sym50")
        assert summary["noise_rate"] == pytest.approx(0 if cell.row == "oracle" else 0.5, abs=0.02)
        assert (summary["saved"] > 0) == (cell.row not in ("full", "oracle")), cell.row


def test_a_run_that_fails_is_named_and_the_others_are_run(command, tmp_path, capfd):
    arguments = ("suite=tiny", "rows=full,small_loss", "columns=clean", "seeds=0", "jobs=1")
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    first, *failed = end.value.code.splitlines()
    assert first == "error: 1 of 2 runs failed; run again to repeat them."
    where = "benchmarks/tiny/mlp/small_loss/clean/0/log.txt"
    assert len(failed) == 1
    assert failed[0].startswith("mlp/small_loss/clean/0: ValueError: ratio=1.5 is given, but ")
    assert failed[0].endswith(f"; see {where}.")
    assert "Traceback" in (tmp_path / where).read_text()
    printed = capfd.readouterr()  # what other processes print as well
    assert re.search(r"mlp/full/clean/0: \d+ s", printed.out)
    assert "Epoch 1: trained on" not in printed.out + printed.err
    assert "Epoch 1: trained on" in (tmp_path / "benchmarks/tiny/mlp/full/clean/0/log.txt").read_text()
    assert "\n1 of 2 runs, " in (tmp_path / "benchmarks" / "tiny" / "results.md").read_text()


def test_if_all_runs_fail_their_reasons_are_said(command, benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "run_all", lambda *_: ["mlp/full/sym40/0: ValueError: why"])
    with pytest.raises(SystemExit, match=r"error: 1 of 1 runs failed; .*\nmlp/full/sym40/0: ValueError: why$"):
        command("suite=tiny", *ONE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["suite=nois"],
            "suite=nois is given, but there is no such suite; valid are: classes_100, das, headline, headline_cpu, lines,",
        ),
        (["jobs=2"], "no suite is given, but suite=... is expected"),
        (
            ["suite=tiny", "job=2"],
            "job is given, but suite=... is expected, and of jobs, threads, folder, models, rows,",
        ),
        (["suite=tiny", "jobs=0"], "jobs=0 is given, but a number of at least 1 is expected."),
        (["suite=tiny", "jobs=two"], "jobs=two is given, but a number of at least 1 is expected."),
        (["suite=tiny", "threads=-1"], "threads=-1 is given, but a number of at least 1 is expected."),
        (["suite=tiny", "models=mlp,cnn"], "models=mlp,cnn is given, but valid are: mlp."),
        (["suite=tiny", "rows=seta"], "rows=seta is given, but valid are: full, small_loss, calibrated, oracle."),
        (["suite=tiny", "columns=sym50"], "columns=sym50 is given, but valid are: clean, sym40."),
        (["suite=tiny", "seeds=first"], "seeds=first is given, but valid are: 0, 1."),
    ],
)
def test_a_wrong_argument_fails_with_a_sentence_that_says_what_is_valid(command, asked, arguments, message):
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    assert end.value.code.startswith(f"error: {message}")
    assert "\n" not in end.value.code
    assert asked == []


def test_what_is_asked_for_twice_is_run_once(benchmark):
    suite = benchmark.chosen(benchmark.read_suite("tiny"), {"seeds": "5,5", "rows": "full,full", "columns": "sym40"})
    assert [cell.path.as_posix() for cell in benchmark.cells(suite)] == ["mlp/full/sym40/5"]


def test_the_tables_hold_mean_and_standard_deviation(report, tmp_path):
    places = []
    for row, first, second in (("full", 0.50, 0.52), ("calibrated", 0.60, 0.64), ("oracle", 0.7, 0.7)):
        for seed, accuracy in enumerate((first, second)):
            folder = tmp_path / row / str(seed)
            estimate = {"estimated_noise_rate": 0.4 + 0.02 * seed} if row == "calibrated" else {}
            write_run(folder, seed, test_acc=accuracy, saved=accuracy - 0.2, **estimate)
            places.append(("mlp", row, "sym50", folder))
    write_run(tmp_path / "alone", noise_rate=0.0, epochs=[("", "")] * 2, test_acc=0.987)
    places += [("mlp", "full", "clean", tmp_path / "alone"), ("mlp", "calibrated", "clean", tmp_path / "missing")]
    paths = report.write_report(SUITE, places, 30, tmp_path)

    written = (tmp_path / "results.md").read_text()
    assert "\n7 of 30 runs, seeds 0, 1: " in written
    # The sample standard deviation of two: their distance over the square root of 2.
    assert body(written, "Test accuracy after the last epoch") == {
        "full": ["98.7", "51.0 ± 1.4"],
        "calibrated": ["-", "62.0 ± 2.8"],
        "oracle": ["-", "70.0 ± 0.0"],
    }
    saved = body(written, "Samples saved, a probe counted as a third of one trained on")
    assert saved == {"full": ["45.0", "31.0 ± 1.4"], "calibrated": ["-", "42.0 ± 2.8"]}
    kept = body(written, "Wrong labels among those trained on in the last epoch")
    assert kept["full"] == ["-", "25.0 ± 0.0"]
    estimated = body(written, "Wrong labels in the data, and as a method estimates them at the end")
    assert list(estimated) == ["*true*", "calibrated"]
    assert estimated["*true*"] == ["-", "50.0 ± 0.0"]
    assert estimated["calibrated"] == ["-", "41.0 ± 1.4"]

    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["column"], row["seed"]) for row in rows][:3] == [
        ("calibrated", "sym50", "0"),
        ("calibrated", "sym50", "1"),
        ("full", "clean", "0"),
    ]
    assert len(rows) == 7
    figures = ("accuracy", "best", "saved", "noise_kept", "average_precision", "auroc", "estimated", "true")
    assert [rows[1][name] for name in figures] == [*("64.0", "60.0", "44.0", "25.0", "75.0", "NaN", "42.0", "50.0")]

    names = ["results.md", "results.csv", "mlp-estimated-noise-rate.png", "mlp-noise-kept.png"]
    assert paths == [tmp_path / name for name in names]
    for path in paths[2:]:
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert path.stat().st_size > 10_000


MET = {"full": 50, "infobatch": 60, "small_loss": 70, "calibrated": 76, "oracle": 78}


@pytest.mark.parametrize(
    ("accuracies", "saved", "noise", "expected"),
    [
        # Where full training loses much, all bars hold; each of them is missed by itself.
        (MET, 0.41, 0.5, {"full": "+26.00 yes", "infobatch": "+16.00 yes", "oracle": "-2.00 yes", "%": "yes"}),
        ({**MET, "oracle": 78.6}, 0.41, 0.5, {"oracle": "-2.60 no", "infobatch": "yes"}),
        ({**MET, "infobatch": 66.1}, 0.41, 0.5, {"infobatch": "+9.90 no", "oracle": "yes"}),
        (MET, 0.399, 0.5, {"%": "+39.90 no", "oracle": "yes"}),
        # Where it does not, calibrated pruning must be no worse, and may save nothing.
        # With more noise the oracle is further.
        ({**MET, "full": 70.1}, 0.1, 0.5, {"full": "+5.90 yes", "infobatch": "+16.00 yes", "oracle": "", "%": ""}),
        ({**MET, "full": 76.6}, 0.1, 0.5, {"full": "-0.60 no"}),
        ({**MET, "full": 75, "infobatch": 76.6}, 0.1, 0.5, {"full": "yes", "infobatch": "-0.60 no"}),
        ({**MET, "oracle": 83.9}, 0.41, 0.8, {"oracle": "-7.90 yes"}),
        ({**MET, "oracle": 84.1}, 0.41, 0.8, {"oracle": "-8.10 no"}),
        # Small rates are to be seen.
        ({**MET, "small_loss": 76.6}, 0.41, 0.09, {"small_loss": "-0.60 no", "off": "-3.00 yes"}),
        ({**MET, "small_loss": 76.4}, 0.41, 0.13, {"small_loss": "-0.40 yes", "off": "-7.00 no"}),
        # Without wrong labels.
        ({"full": 76.2, "calibrated": 76}, 0.0, 0.0, {"full": "-0.20 yes", "%": "", "oracle": ""}),
        ({"full": 76.4, "calibrated": 76}, 0.0, 0.0, {"full": "-0.40 no"}),
        # What is not there, or not yet, is no bar.
        ({"full": 50, "calibrated": 76}, 0.41, 0.5, {"full": "yes", "oracle": "", "infobatch": ""}),
        ({"full": 50, "oracle": 78}, 0.41, 0.5, {"full": "", "oracle": "", "infobatch": "", "%": ""}),
    ],
)
def test_the_bars_say_whether_they_are_met(report, tmp_path, accuracies, saved, noise, expected):
    places = write_runs(tmp_path, accuracies, saved=saved, noise_rate=noise, estimated_noise_rate=0.06)
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in report.bars(report.read(places), SUITE, "mlp")[2:]
    ]
    assert all(line[0] == "sym50" for line in lines)
    said = {line[1].split()[0 if line[1].startswith("%") else -1]: f"{line[2]} {line[4].strip('*')}" for line in lines}
    assert "nan" not in str(said)
    for name, ending in expected.items():
        assert said.get(name, "").endswith(ending) if ending else name not in said, name


def test_with_labels_of_people_the_oracle_may_be_further(report, tmp_path):
    for kind, met in (("human", "yes"), ("sym", "**no**")):
        places = write_runs(tmp_path / kind, {**MET, "oracle": 79.5}, options={"noise": kind})
        lines = report.bars(report.read(places), SUITE, "mlp")
        assert f"| sym50 | points above the oracle | -3.50 | {-4 if kind == 'human' else -2.5:+.1f} | {met} |" in lines


def test_an_overview_has_all_networks_in_one_table(report, tmp_path):
    places = write_runs(tmp_path, {**MET, "oracle": 79.54}, saved=0.437)
    suite = {**SUITE, "models": {"mlp": [], "cnn": []}, "columns": {"clean": [], "sym50": []}}
    lines = report.overview(
        report.read(
            [
                *places,
                ("cnn", "full", "clean", tmp_path / "full"),
                *[("cnn", row, "clean", path) for _, row, _, path in places if row == "calibrated"],
            ]
        ),
        suite,
    )
    assert lines[2:] == ["| mlp |  | 50.0 / **76.0** (44) / 79.5 |", "| cnn | 50.0 / **76.0** (44) |  |"]


@pytest.mark.parametrize("rows", [["full"], ["oracle"], ["calibrated"], ["calibrated", "full", "oracle"]])
def test_any_rows_alone_can_be_reported(report, tmp_path, rows):
    suite = {**SUITE, "rows": {row: [] for row in rows}, "columns": {"sym50": []}}
    places = write_runs(tmp_path, {row: MET[row] for row in rows}, estimated_noise_rate=float("nan"))
    for path in report.write_report(suite, places, 2, tmp_path):
        assert path.stat().st_size > 0
    assert set(body((tmp_path / "results.md").read_text(), "Test accuracy after the last epoch")) == set(rows)


def test_a_report_runs_nothing(command, asked, benchmark, tmp_path, capsys):
    cell = benchmark.cells(benchmark.read_suite("tiny"))[0]
    folder = tmp_path / "elsewhere" / "tiny"
    write_run(folder / cell.path, test_acc=0.75)
    (folder / cell.path / "config.yaml").write_text(OmegaConf.to_yaml(benchmark.composed(cell)[0], resolve=True))
    command("suite=tiny", "folder=elsewhere", "--report")
    assert asked == []
    assert "\n1 of 16 runs, " in (folder / "results.md").read_text()
    assert capsys.readouterr().out.splitlines()[-1] == "elsewhere/tiny/mlp-noise-kept.png"


# --- The tables and plots in a page


def put(report, tmp_path, page, text="# Title\n\nFirst line.\n\n## mlp: `model=mlp`\n\nA table:\n"):
    picture = tmp_path / "mlp-noise-kept.png"
    picture.write_bytes(b"a plot")
    report.put_into_page(page, "noise", text, [picture])
    return page.read_text()


def test_a_report_replaces_what_a_page_has_between_the_suites_comments(report, tmp_path):
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(
        "# Page\n\n<!-- suite noise -->\nold\n<!-- end of suite noise -->\n\n<!-- suite scores -->\nstays\n"
        "<!-- end of suite scores -->\n"
    )
    written = put(report, tmp_path, page)
    assert written == (
        "# Page\n\n<!-- suite noise -->\n\nFirst line.\n\n### mlp: `model=mlp`\n\nA table:\n\n"
        "![Suite noise, mlp noise kept, by epoch](images/noise-mlp-noise-kept.png)\n\n<!-- end of suite noise -->\n\n"
        "<!-- suite scores -->\nstays\n<!-- end of suite scores -->\n"
    )
    assert (page.parent / "images" / "noise-mlp-noise-kept.png").read_bytes() == b"a plot"
    assert put(report, tmp_path, page) == written


def test_a_page_may_have_a_suites_first_table_alone(report, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- overview of suite noise -->\nold\n<!-- end of overview of suite noise -->\n")
    text = "# Title\n\n2 of 2 runs.\n\nSettings: none.\n\n## mlp\n\nAccuracy:\n\n| a |\n| --- |\n| 1 |\n\nSaved:\n\n| b |\n"
    assert put(report, tmp_path, page, text) == (
        "# Page\n\n<!-- overview of suite noise -->\n\n2 of 2 runs.\n\nAccuracy:\n\n| a |\n| --- |\n| 1 |\n\n"
        "<!-- end of overview of suite noise -->\n"
    )
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("text", [None, "# Page\n", "<!-- suite noise -->\n", "<!-- end of suite noise -->\n"])
def test_a_page_without_the_suites_comments_is_refused_and_stays(report, tmp_path, text):
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    with pytest.raises(SystemExit, match=r"a page with the lines <!-- suite noise --> and <!-- end of suite noise -->"):
        put(report, tmp_path, page)
    assert (page.read_text() if text is not None else None) == text


def test_the_command_puts_its_tables_into_the_pages_that_are_given(command, asked, tmp_path):
    pages = [tmp_path / "page.md", tmp_path / "short.md"]
    pages[0].write_text("<!-- suite tiny -->\n<!-- end of suite tiny -->\n")
    pages[1].write_text("<!-- overview of suite tiny -->\n<!-- end of overview of suite tiny -->\n")
    command("suite=tiny", *ONE, "--page", str(pages[0]), "--page", str(pages[1]))
    assert "| full |" in pages[0].read_text()
    assert all("1 of 1 runs" in page.read_text() for page in pages)
    assert ("Samples saved" in pages[0].read_text(), "Samples saved" in pages[1].read_text()) == (True, False)


def test_a_report_has_the_day_of_its_last_run(report, tmp_path):
    places = write_runs(tmp_path, {"full": 80, "oracle": 90})
    for days, (_, row, _, folder) in enumerate(places):
        if row in ("full", "oracle"):
            os.utime(folder / "summary.json", (days * 86400 + 43200,) * 2)
    text = report.report({**SUITE, "columns": {"sym50": []}}, report.read(places), 2)
    assert "1970-01-05" in text


def test_what_is_saved_and_wrong_is_compared_by_the_same_seeds_as_the_accuracy(report, tmp_path):
    places = write_runs(tmp_path, {**dict.fromkeys(ROWS, 80), "full": 70}, saved=0.45)
    write_run(tmp_path / "other_seed", seed=7, saved=0.05)
    places.append(("mlp", "calibrated", "sym50", tmp_path / "other_seed"))
    lines = report.bars(report.read(places), {**SUITE, "columns": {"sym50": []}}, "mlp")
    assert "| sym50 | % saved | +45.00 | +40.0 | yes |" in lines


def test_beside_the_mean_of_several_seeds_stands_the_error_of_their_differences(report, tmp_path):
    places = []
    for seed, (full, mine) in enumerate([(70, 81), (80, 93)]):  # the seeds differ by more than the methods
        folder = tmp_path / str(seed)
        for row, accuracy in {"full": full, "calibrated": mine, "oracle": 95}.items():
            write_run(folder / row, seed, test_acc=accuracy / 100, saved=0.45)
            places.append(("mlp", row, "sym50", folder / row))
    lines = report.bars(report.read(places), {**SUITE, "columns": {"sym50": []}}, "mlp")
    assert "| sym50 | points above full | +12.00 ± 1.00 | -0.5 | yes |" in lines
    assert "| sym50 | % saved | +45.00 ± 0.00 | +40.0 | yes |" in lines


def test_a_row_that_lacks_a_seed_is_compared_by_those_that_it_has(report, tmp_path):
    places = []
    for seed, mine in enumerate([76, 80]):
        folder = tmp_path / str(seed)
        here = write_runs(folder, {**MET, "calibrated": mine}, seed=seed, noise_rate=0.1, estimated_noise_rate=0.1)
        places += [place for place in here if not (seed and place[1] == "small_loss")]
    lines = report.bars(report.read(places), {**SUITE, "columns": {"sym50": []}}, "mlp")
    assert "| sym50 | points above small_loss | +6.00 | -0.5 | yes |" in lines
    assert "| sym50 | points above full | +28.00 ± 2.00 | -0.5 | yes |" in lines


def test_a_report_names_the_versions_that_its_runs_have_noted_and_no_machine(report, tmp_path):
    write_run(tmp_path / "full", torch="2.10.0", alignprune_pl="0.2.0")
    write_run(tmp_path / "oracle")
    os.utime(tmp_path / "full/summary.json", (43200,) * 2)
    os.utime(tmp_path / "oracle/summary.json", (0,) * 2)
    places = [("mlp", row, "sym50", tmp_path / row) for row in ("full", "oracle")]
    noted = "torch 2.10.0 and 2.9.0, Lightning 2.6.0, alignprune-pl 0.1.0 and 0.2.0; 1970-01-01."
    assert f" in percent. {noted}\n" in report.report(SUITE, report.read(places), 2)
    told = report.report(SUITE, report.read(places), 2, "2 cores of a kind")
    assert f" in percent. 2 cores of a kind, {noted}\n" in told


def test_this_machine_is_named_where_a_run_was_made_now_and_else_what_is_told(command, asked, benchmark, tmp_path):
    def named(*arguments):
        command("suite=tiny", "rows=full", "columns=sym40", *arguments)
        return re.search(r" in percent\. (.*?)torch ", (tmp_path / "benchmarks/tiny/results.md").read_text())[1]

    here = benchmark.machine()
    assert named("seeds=0") == f"{here}, "
    assert named("seeds=0") == named("seeds=0", "--report") == ""
    assert named("seeds=0,1") == f"{here} (for 1 of them), "
    assert named("seeds=0,1", "--report", "--machine", "2 cores of AMD EPYC") == "2 cores of AMD EPYC, "
    assert len(asked) == 2


def test_a_second_command_in_a_folder_is_refused_while_the_first_runs_and_may_report(command, asked, tmp_path):
    folder = tmp_path / "benchmarks" / "tiny"
    command("suite=tiny", *ONE)
    with held(folder):
        with pytest.raises(
            SystemExit, match=r"^error: benchmarks/tiny is given, but another command is still running in it"
        ):
            command("suite=tiny", "rows=full", "columns=sym40")
        command("suite=tiny", *ONE, "--report")
    assert asked == ["mlp/full/sym40/0"]
    command("suite=tiny", "rows=full", "columns=sym40")
    assert asked == ["mlp/full/sym40/0", "mlp/full/sym40/1"]
