"""What a review is worth: whether probabilities hold, and what decisions in an order mend."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest

from alignprune_pl.report import read_run
from alignprune_pl.report.decisions import mended
from helpers import ROOT, load_script
from made_runs import made_run


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        return load_script("review_worth")


@pytest.fixture
def command(script, monkeypatch, capsys):
    """The script with these arguments; what it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["review_worth.py", *map(str, arguments)])
        script.main()
        return capsys.readouterr().out

    return run


def test_the_calibration_error_is_how_far_bins_are_off_weighed_by_their_samples(script):
    told = np.array([0.0, 0.0, 1.0, 1.0])
    assert script.calibration_error(told, np.array([0, 0, 1, 1])) == 0
    assert script.calibration_error(told, np.array([1, 1, 0, 0])) == 100
    # Three of the samples are off by 0.5 - 1 / 3 on average, and the fourth by nothing.
    told = np.array([0.5, 0.5, 0.5, 1.0])
    assert script.calibration_error(told, np.array([0, 0, 1, 1])) == pytest.approx(100 * 3 / 4 * (0.5 - 1 / 3))


def test_each_hundred_decisions_take_the_likeliest_first_and_each_sample_once(script):
    ranking = np.arange(1000.0)
    order = list(script.fixed(ranking))
    assert order[0].tolist() == list(range(999, 899, -1))
    assert np.concatenate(order).tolist() == list(range(999, -1, -1))
    assert script.mended(iter(order[:3]), ranking >= 850).tolist() == [100, 150, 150]


def test_decisions_on_a_pair_of_classes_move_what_is_left_of_it(script, tmp_path):
    run = made_run(tmp_path, samples=1200, suspects=1200)
    given = run.labels["label"]
    order = list(script.as_decided(run, given != 0))  # all labels of the first class are right after all
    assert [len(at) for at in order[:13]] == [*[100] * 12, 0]
    assert sorted(np.concatenate(order).tolist()) == list(range(1200))
    assert (given[order[0]] == 0).sum() in (33, 34)
    assert (given[np.concatenate(order[1:6])] == 0).sum() < 0.2 * 500
    listed = list(script.fixed(run.wrong_probability))
    assert (given[np.concatenate(listed[1:6])] == 0).sum() > 0.3 * 500


def test_the_table_compares_what_the_run_tells_with_what_its_scores_alone_say(command, script, run_dir):
    run = read_run(run_dir)
    (row,) = (line for line in command(run_dir).splitlines() if line.startswith("| sym40 |"))
    cells = [float(cell) for cell in row.split("|")[2:-1]]
    assert cells == [
        pytest.approx(100 * run.mask.mean(), abs=0.06),
        pytest.approx(100 * run.noise_rate, abs=0.06),
        pytest.approx(script.calibration_error(script.of_scores(run), run.mask), abs=0.06),
        pytest.approx(script.calibration_error(run.wrong_probability, run.mask), abs=0.06),
    ]


def test_reviews_are_compared_with_full_training_on_the_same_labels(command, run_dir, tmp_path):
    said = command(run_dir, "--full", run_dir, "--folds", 2, "--images", tmp_path)
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in said.splitlines() if line.startswith("| ")}
    wrong = 100 * read_run(run_dir).mask.mean()
    assert float(rows["random"][0]) == pytest.approx(wrong, abs=0.06)
    for who in ("cleanlab", "ours", "ours, as decided"):
        assert float(rows[who][0]) > wrong + 10
    assert {path.name for path in tmp_path.iterdir()} == {"probabilities.png", "review-worth.png"}


def test_the_known_labels_decide_on_the_first_suspects_as_a_person_would(command, run_dir, tmp_path):
    folder = shutil.copytree(run_dir, tmp_path / "run")
    assert command(folder, "--decide", 20).strip().endswith("run/decisions/001.csv")
    run = read_run(folder)
    first, after = run.issues[:20], mended(run)
    assert (after.labels[first] == run.labels["clean_label"][first]).all()
    others = np.setdiff1d(np.arange(len(after.labels)), first)
    assert (after.labels[others] == run.labels["label"][others]).all()
    assert after.changed + after.kept == 20
    assert not after.is_left_out.any()
