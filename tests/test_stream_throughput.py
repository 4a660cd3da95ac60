"""The bench of streams trains every library in every way, prunes where it says that it does, and writes its table."""

from __future__ import annotations

import importlib
import logging
import re
import sys

import pytest

from helpers import ROOT

LIBRARIES = ("webdataset", "litdata", "datasets")
for library in LIBRARIES:
    pytest.importorskip(library)

N = 96
MARKS = "<!-- stream throughput -->", "<!-- end of stream throughput -->"
pytestmark = [
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined"),
    # webdataset does not close the shards that it has read.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("stream_throughput")


@pytest.fixture
def command(bench, monkeypatch):
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning_utilities.core.rank_zero")]
    levels = [logger.level for logger in loggers]

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["stream_throughput.py", *arguments])
        bench.main()

    yield run
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def measures_nothing(bench, monkeypatch):
    def measure(_):
        raise AssertionError("it has begun to measure")

    monkeypatch.setattr(bench, "measure", measure)


def test_every_library_is_measured_in_every_way_and_the_table_put_into_a_page(command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# Streams\n\n{}\nold\n{}\n\nAfter.\n".format(*MARKS))
    command("--images", str(N), "--size", "16", "--batch-size", "16", "--repeats", "1", "--page", "page.md")
    printed, errors = capfd.readouterr()
    rows = [re.split(r" *\| *", line)[1:-1] for line in printed.splitlines() if line.startswith("|")][2:]
    trained = {"plain": N, "kept": N, "late": N // 2, "early": N // 2}
    assert [row[:3] for row in rows] == [[name, way, str(trained[way])] for name in LIBRARIES for way in trained]
    for _, way, _, ratio, speed in rows:
        assert int(speed.replace(",", "")) > 0
        assert re.fullmatch(r"1\.00" if way == "plain" else r"(\d+\.\d\d) \(\1 to \1\)", ratio)
    assert printed.startswith("96 images of 16 x 16 pixels, batches of 16, workers: 1; medians of 1 repeats")
    assert re.search(r" cores of .*, Python .*, torch .*, Lightning .*, alignprune-pl .*, webdataset ", printed)
    assert page.read_text() == f"# Streams\n\n{MARKS[0]}\n\n{printed}\n{MARKS[1]}\n\nAfter.\n"
    assert errors == ""
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


@pytest.mark.parametrize("name", LIBRARIES)
def test_early_leaves_samples_out_before_they_are_decoded_and_late_after(bench, monkeypatch, tmp_path, name):
    decoded, decode = [], bench.decoded
    monkeypatch.setattr(bench, "decoded", lambda sample: decoded.append(sample) or decode(sample))
    library = bench.LIBRARIES[name]
    folder = tmp_path / name
    folder.mkdir()
    library.write(folder, bench.jpeg_images(N, 16), N // 4)
    counts = {}
    for way in bench.WAYS:
        decoded.clear()
        assert bench.second_epoch(library, folder, way, 16, 0).trained == (N if way in ("plain", "kept") else N // 2)
        counts[way] = len(decoded) - N  # without the first epoch
    assert [counts[way] for way in ("plain", "kept", "late")] == [N, N, N]
    # litdata reads what is at the edges of its four files anyway.
    assert N // 2 <= counts["early"] <= N // 2 + (5 if name == "litdata" else 0)


def test_a_time_is_compared_with_that_of_plain_in_the_same_turn(bench):
    epochs = [bench.Epoch(500, 1.0), bench.Epoch(500, 3.0), bench.Epoch(500, 2.0)]
    plain = [bench.Epoch(1000, 2.0), bench.Epoch(1000, 4.0), bench.Epoch(1000, 8.0)]
    assert bench.row("litdata", "late", epochs, plain) == ["litdata", "late", "500", "0.50 (0.25 to 0.75)", "250"]
    assert bench.row("litdata", "plain", plain, plain) == ["litdata", "plain", "1,000", "1.00", "250"]


@pytest.mark.usefixtures("measures_nothing")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--repeats", "0"], r"argument --repeats: 0 is given, but a whole number of at least 1 is expected\."),
        (["--workers", "-1"], r"argument --workers: -1 is given, but a whole number of at least 0 is expected\."),
        (["--libraries", "mine"], r"argument --libraries: invalid choice: 'mine'"),
    ],
)
def test_bad_arguments_are_refused(command, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    assert end.value.code == 2
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.usefixtures("measures_nothing")
def test_so_few_images_that_files_would_be_empty_are_refused(command):
    with pytest.raises(SystemExit, match=r"--images 20 is given, but at least 24 are expected, so that each file has"):
        command("--images", "20", "--workers", "3")


@pytest.mark.usefixtures("measures_nothing")
def test_a_library_that_is_missing_is_named_with_what_to_install(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(SystemExit, match=r"litdata is to be measured, but .*; run pip install litdata, which the ex"):
        command()
    with pytest.raises(AssertionError, match="it has begun to measure"):
        command("--libraries", "webdataset")


@pytest.mark.usefixtures("measures_nothing")
def test_a_page_without_the_comments_is_refused_before_anything_is_measured(command, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Streams\n")
    with pytest.raises(
        SystemExit, match=r"a page with the lines <!-- stream throughput --> and <!-- end of stream thr"
    ):
        command("--page", str(page))
    assert page.read_text() == "# Streams\n"
