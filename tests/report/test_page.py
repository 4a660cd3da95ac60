"""The report of a run: one page that needs nothing else, and its plots as pictures."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from alignprune_pl.cli import alignprune_audit, alignprune_report
from alignprune_pl.cli.train import train
from alignprune_pl.report import page as pages
from alignprune_pl.report import read_run, read_table, write_report
from alignprune_pl.report.page import plots_of, rendered
from alignprune_pl.report.theme import DARK, LIGHT, drawn
from helpers import ROOT

PLOTS = ["trajectories", "scores", "accuracy", "noise", "roc", "precision", "noise-matrix", "noise-matrix-estimated"]


class Page(HTMLParser):
    """What a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.drawings: list[dict[str, str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scopes: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag == "img":
            self.images.append(given)
        if tag == "svg":
            self.drawings.append(given)
        self.links += [given[name] for name in ("href", "src", "srcset") if name in given]
        self.links += re.findall(r"url\((.*?)\)", " ".join(value or "" for value in given.values()))
        self.ids += [given["id"]] if "id" in given else []
        self.scopes += [given["scope"]] if "scope" in given else []

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def undrawn(monkeypatch):
    """Pages are written with one plot for all: drawing takes a second or more."""
    pictures = []

    def once(*plot):
        if not pictures:
            pictures.append(drawn(*plot))
        return pictures[0]

    monkeypatch.setattr(pages, "drawn", once)


@pytest.fixture(scope="module")
def page(run_dir):
    return Page((run_dir / "report.html").read_text())


def test_the_page_needs_no_other_file(run_dir, page):
    inside = [link for link in page.links if link.startswith("#")]
    assert len(page.images) == 16
    assert len(inside) > 10 * len(PLOTS)
    assert {link[1:] for link in inside} <= set(page.ids)
    assert all(link.startswith("data:") for link in page.links if link not in inside)
    assert not {"script", "link", "iframe", "style"} & set(page.tags[page.tags.index("body") :])


def test_parts_of_plots_have_names_of_their_own(page):
    assert len(page.ids) == len(set(page.ids)) > len(PLOTS)


def test_each_plot_is_one_drawing_that_says_in_words_what_it_shows(run_dir, page):
    assert len(page.drawings) == len(PLOTS)
    assert all(drawing["role"] == "img" for drawing in page.drawings)
    shown = [plot for plot in plots_of(read_run(run_dir)) if plot.name != "suspects"]
    assert [drawing["aria-label"] for drawing in page.drawings] == [f"{plot.title}. {plot.words}" for plot in shown]


def test_plots_have_the_colours_of_the_page_and_its_font(run_dir):
    text = (run_dir / "report.html").read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == len(PLOTS)
    for drawing in drawings:
        assert set(re.findall(r"(?<!url\()#[0-9a-f]{6}\b", re.sub(r'(href|id)="[^"]*"', "", drawing))) == set()
        assert "font-family" not in drawing
        assert "font: " not in drawing
        assert drawing.count("<text") > 5  # which can be selected and found
    for used in set(re.findall(r"var\(--([\w-]+)\)", text)):
        assert text.count(f"--{used}: #") == 2, used  # for light and for dark pages


def test_only_a_screen_is_dark_and_paper_never(run_dir):
    text = (run_dir / "report.html").read_text()
    head, _, dark = text.partition("@media screen and (prefers-color-scheme: dark) {")
    assert f"--ground: {LIGHT.ground}" in head
    assert f"--ground: {DARK.ground}" in dark.partition("}")[0]


def test_headings_are_in_order(page):
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_page_is_small(run_dir):
    assert (run_dir / "report.html").stat().st_size < 160_000


def test_each_plot_is_a_file_too_with_its_legend(run_dir):
    names = {path.name for path in (run_dir / "report").iterdir()}
    assert names == {f"{name}.png" for name in [*PLOTS, "suspects"]}
    heights = {}
    for name in names:
        with Image.open(run_dir / "report" / name) as image:
            assert image.width == 768
            assert np.asarray(image.convert("L")).std() > 5
            assert image.convert("L").getpixel((0, 0)) == 255
            heights[name.removesuffix(".png")] = image.height
            if name == "roc.png":  # left of the axes, where its only entry has its line
                margin = np.asarray(image.convert("RGB"))[:, :60]
                assert (margin == [int(LIGHT.right[at : at + 2], 16) for at in (1, 3, 5)]).all(axis=2).any()
    assert (
        heights["noise-matrix"] == 528 < heights["roc"] < heights["trajectories"] <= 528 + 3 * 31
    )  # none, one, three lines


def test_the_figures_at_the_end_are_those_of_the_summary(run_dir, page):
    summary = json.loads((run_dir / "summary.json").read_text())
    for key in ("test_acc", "saved", "noise_kept", "noise_rate", "estimated_noise_rate"):
        assert f"{100 * summary[key]:.1f} %" in page.text, key
    assert "digits, Symmetric(ratio=0.4" in page.text
    assert "pruning calibrated, score rival, 1,365 training samples, 72 reference samples, seed 0" in page.text
    assert "experiment" not in page.text


def test_sixteen_most_suspect_images_have_their_labels_and_scores(run_dir, page):
    run = read_run(run_dir)
    order = np.argsort(-run.suspicion, kind="stable")[:16]
    assert run.record["thumbnail_of"].tolist() == order.tolist()
    images = [image for image in page.images if image.get("class") == "small"]
    assert len(images) == 16
    for at, image in zip(order, images, strict=True):
        given, predicted = (run.classes[which[at]] for which in (run.labels["label"], run.record["predicted"]))
        place = run.labels["train_index"][at]
        assert image["alt"] == f"Image {place}, labelled {given}, predicted {predicted}"
        assert f"{run.suspicion[at]:.3g} · {run.wrong_probability[at]:.0%} · no. {place}" in page.text
    truth = ["wrong" if run.mask[at] else "correct" for at in order]
    assert re.findall(r"no\. \d+label is (\w+)", page.text) == truth


def test_its_images_are_those_of_the_data_set(run_dir):
    from sklearn.datasets import load_digits

    run = read_run(run_dir)
    every = load_digits().images
    shown = run.record["thumbnails"][..., 0].astype(float)
    assert run.record["thumbnails"].shape == (16, 8, 8, 3)
    for image in shown:
        assert min(np.abs(every / 16 - image / 255).max(axis=(1, 2))) < 0.01


@pytest.mark.usefixtures("undrawn")
def test_of_a_run_without_wrong_labels_the_page_says_nothing_of_them(run_dir, tmp_path):
    clean = shutil.copytree(run_dir, tmp_path / "clean")
    summary = json.loads((clean / "summary.json").read_text())
    for key in ("noise_kept", "noise_rate", "estimated_noise_rate"):
        del summary[key]
    (clean / "summary.json").write_text(json.dumps(summary))
    with np.load(clean / "labels.npz") as labels:
        known = {name: labels[name] for name in labels.files if name not in ("noise_mask", "clean_label")}
    np.savez(clean / "labels.npz", **known)
    shutil.rmtree(clean / "report")
    written = write_report(clean)
    assert {path.stem for path in written[1:]} == {
        *("trajectories", "scores", "accuracy", "noise-matrix-estimated", "suspects")
    }
    text = Page(written[0].read_text()).text
    assert not re.search(r"no\. \d+label is", text)
    assert "wrong labels" not in text


@pytest.mark.usefixtures("undrawn")
def test_of_a_run_that_estimated_no_noise_rate_the_page_warns_of_counting_its_suspects(run_dir, page, tmp_path):
    folder = shutil.copytree(run_dir, tmp_path / "unestimated")
    summary = json.loads((folder / "summary.json").read_text())
    del summary["estimated_noise_rate"]
    (folder / "summary.json").write_text(json.dumps(summary))
    text = Page(write_report(folder)[0].read_text()).text
    caution, likely = "no estimate of how many labels are wrong", r"\d · \d+% · no\. "
    assert text.count(caution) == 2  # of the most suspect images, and of the label noise as estimated
    assert "as the run estimates it" not in text
    assert not re.search(likely, text)
    assert caution not in page.text
    assert re.search(likely, page.text)


def test_the_page_says_that_what_was_trained_before_the_run_is_not_in_the_curve_of_costs(run_dir):
    run = read_run(run_dir)
    words = {plot.name: plot.words for plot in plots_of(run)}["accuracy"]
    assert "before the run" not in words
    run.summary["trained_before"] = 4311
    words = {plot.name: plot.words for plot in plots_of(run)}["accuracy"]
    assert "The 4,311 samples trained before the run are counted at the end only" in words


def test_the_same_run_gives_the_same_page(run_dir, tmp_path):
    again = shutil.copytree(run_dir, tmp_path / "again")
    (again / "report.html").unlink()
    write_report(again)
    assert (again / "report.html").read_bytes() == (run_dir / "report.html").read_bytes()


def test_names_from_files_are_shown_as_they_are_and_cannot_run():
    page = Page(rendered({"title": "<script>alert(1)</script>", "subtitle": "", "plots": [], "footer": ""}))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.usefixtures("undrawn")
def test_the_command_draws_it_again(run_dir, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(run_dir, tmp_path / "run")
    (run / "report.html").unlink()
    monkeypatch.setattr(sys, "argv", ["alignprune-report", "run"])
    monkeypatch.chdir(tmp_path)
    alignprune_report()
    assert (run / "report.html").exists()
    assert re.fullmatch(r"run/report\.html, and 9 pictures in run/report\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "epochs.csv", "labels.npz", "record.npz"])
def test_a_folder_without_one_of_its_files_is_refused(run_dir, tmp_path, monkeypatch, name):
    run = shutil.copytree(run_dir, tmp_path / "run")
    (run / name).unlink()
    monkeypatch.setattr(sys, "argv", ["alignprune-report", str(run)])
    with pytest.raises(
        SystemExit, match=f"error: .*run is given, but .* and {name} is missing; train with report=true"
    ):
        alignprune_report()


@pytest.mark.parametrize("name", ["summary.json", "labels.npz", "record.npz"])
def test_a_damaged_file_is_refused_with_a_sentence(run_dir, tmp_path, monkeypatch, name):
    run = shutil.copytree(run_dir, tmp_path / "run")
    (run / name).write_bytes((run / name).read_bytes()[:40])
    monkeypatch.setattr(sys, "argv", ["alignprune-report", str(run)])
    with pytest.raises(SystemExit, match=rf"error: .*run/{name} is damaged .*; run it again\."):
        alignprune_report()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("ignore:The dirpath has changed from")  # it goes on in a folder of its own
def test_a_run_that_is_at_its_end_when_it_resumes_has_a_report_of_all_its_epochs(run_dir, tmp_path):
    again = train_again(tmp_path, f"ckpt_path={run_dir}/checkpoints/last.ckpt", "trainer.max_epochs=4")
    assert (again / "epochs.csv").read_text() == (run_dir / "epochs.csv").read_text()
    first, second = read_run(run_dir).record, read_run(again).record
    for name in ("trajectories", "suspicion", "predicted"):
        assert np.array_equal(first[name], second[name], equal_nan=True), name


def test_a_run_without_an_epoch_has_none(tmp_path):
    assert not (train_again(tmp_path, "trainer.max_epochs=0") / "report.html").exists()


def train_again(folder, *overrides):
    """The run of the fixture with other settings."""
    settings = ("trainer.accelerator=cpu", "model.hidden=[32]", "pruning=calibrated", "reference.share=0.05")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        train(compose("train", [*settings, *overrides]), folder, {})
    return folder


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_validation_has_a_report(run_dir, tmp_path):
    again = shutil.copytree(run_dir, tmp_path / "again")
    lines = [line.split(",") for line in (again / "epochs.csv").read_text().splitlines()]
    kept = [place for place, name in enumerate(lines[0]) if not name.startswith("val/")]
    (again / "epochs.csv").write_text("\n".join(",".join(line[place] for place in kept) for line in lines) + "\n")
    assert "accuracy" in {path.stem for path in write_report(again)}


@pytest.mark.usefixtures("undrawn")
def test_where_only_what_was_made_wrong_is_known_no_label_is_called_correct(run_dir, tmp_path):
    again = shutil.copytree(run_dir, tmp_path / "again")
    with np.load(again / "labels.npz") as labels:
        known = {name: labels[name] for name in labels.files if name != "clean_label"}
    np.savez(again / "labels.npz", **known)
    text = Page(write_report(again)[0].read_text()).text
    assert "label is correct" not in text
    assert "labels made wrong kept" in text
    assert "Wrong labels" not in text
    assert "The last score of each sample: not made wrong and made wrong." in text


@pytest.mark.usefixtures("undrawn")
def test_where_all_labels_are_known_to_be_right_each_is_called_correct(run_dir, tmp_path):
    again = shutil.copytree(run_dir, tmp_path / "again")
    with np.load(again / "labels.npz") as labels:
        known = {**labels, "noise_mask": np.zeros_like(labels["noise_mask"])}
    np.savez(again / "labels.npz", **known)
    text = Page(write_report(again)[0].read_text()).text
    assert text.count("label is correct") == 16
    assert "The last score of each sample: correctly labelled." in text
    assert "ROC" not in text


def test_infinite_scores_are_the_most_suspect_in_every_figure(run_dir, tmp_path):
    again = shutil.copytree(run_dir, tmp_path / "again")
    with np.load(again / "record.npz") as record:
        known = {**record, "suspicion": record["suspicion"].copy()}
    known["suspicion"][[0, 1, 2]] = np.inf, -np.inf, np.nan
    np.savez(again / "record.npz", **known)
    run = read_run(again)
    others = run.suspicion[3:]
    assert (run.suspicion[0], run.suspicion[1]) == (others.max(), others.min())
    ranked = run.ranked[1]
    assert len(ranked) == len(run.suspicion) - 1  # what has no score is in no ranking
    assert ranked[0] == ranked.max()
    assert ranked[1] == ranked.min()


def test_a_run_without_a_report_leaves_neither_page_nor_record(tmp_path):
    left = {path.name for path in train_again(tmp_path, "trainer.max_epochs=1", "report=false").iterdir()}
    assert left == {"config.yaml", "labels.npz", "epochs.csv", "summary.json", "checkpoints"}


def test_a_second_run_into_a_folder_leaves_its_own_checkpoint_there(tmp_path):
    for seed in (0, 1):
        train_again(tmp_path, "trainer.max_epochs=1", "report=false", f"seed={seed}")
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    state = torch.load(checkpoint, weights_only=True)
    with np.load(tmp_path / "labels.npz") as labels:
        digest = hashlib.sha256(labels["train_index"].tobytes() + labels["label"].tobytes()).hexdigest()
    assert state["NoisyData"]["labels"] == digest


@pytest.mark.usefixtures("undrawn")
def test_epochs_that_are_not_validated_have_no_accuracy(tmp_path):
    run = read_run(train_again(tmp_path, "trainer.max_epochs=4", "+trainer.check_val_every_n_epoch=2"))
    assert np.isfinite(run.epochs["val/acc"]).tolist() == [False, True, False, True]
    assert np.isfinite(run.epochs["pruning/saved"]).all()


def test_names_of_classes_may_be_anything(run_dir, tmp_path, monkeypatch):
    named = ("noise-matrix-estimated", "suspects")  # the plots that have them
    monkeypatch.setattr(pages, "plots_of", lambda run: [plot for plot in plots_of(run) if plot.name in named])
    names = ["$5_$", "a$ {b$", "[/b]", "na\udcffme", "<b>&\x07"]
    again = shutil.copytree(run_dir, tmp_path / "again")
    with np.load(again / "record.npz") as record:
        known = {key: record[key] for key in record.files}
    known["classes"] = np.array([*names, *known["classes"][5:]])
    np.savez(again / "record.npz", **known)
    text = Page(write_report(again)[0].read_text()).text
    assert all(name in text for name in ("$5_$", "a$ {b$", "[/b]", "na\ufffdme", "<b>&\ufffd"))
    monkeypatch.setattr(sys, "argv", ["alignprune-audit", str(again)])
    alignprune_audit()
    assert set(names) <= set(read_table(again / "label_issues.csv")["given_name"])


def test_an_output_is_refused_where_it_would_not_be_written(run_dir, tmp_path, monkeypatch):
    other = shutil.copytree(run_dir, tmp_path / "other")
    for arguments, message in (
        ([run_dir, "--output", "x.html"], r"one run's page is report\.html in its folder"),
        ([run_dir, other, "--output", "x"], r"x is given, but a page that ends in \.html"),
    ):
        monkeypatch.setattr(sys, "argv", ["alignprune-report", *map(str, arguments)])
        with pytest.raises(SystemExit, match=message):
            alignprune_report()


@pytest.mark.usefixtures("undrawn")
def test_the_page_says_what_the_policy_has_come_to(run_dir, tmp_path):
    folder = shutil.copytree(run_dir, tmp_path / "run")
    said = json.loads((folder / "summary.json").read_text())["conclusion"]
    assert said.startswith("Calibrated pruning: about ")
    assert write_report(folder)[0].read_text().count(said) == 1
