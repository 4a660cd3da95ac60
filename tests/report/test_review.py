"""The page on which suspected labels are mended: what is written into it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images

from alignprune_pl.cli import alignprune_audit
from alignprune_pl.report import read_run
from alignprune_pl.report.audit import audit
from alignprune_pl.report.decisions import dataset_key
from alignprune_pl.report.review import write_review
from made_runs import made_run


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), flags=re.DOTALL)
    return json.loads(text)


def written(run, tmp_path, *arguments, **options):
    return data_of(write_review(run, tmp_path / "review.html", *arguments, **options))


def pixels_of(uri):
    kind, _, content = uri.partition(";base64,")
    return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_the_suspects_come_in_the_order_of_the_audit_and_the_others_behind_them_uncounted_in_the_list(
    run_dir, tmp_path
):
    run = read_run(run_dir)
    data, table = written(run, tmp_path), audit(run)
    count = data["listed"]
    assert count == len(run.issues) > 100
    for ours, theirs in (("index", "index"), ("given", "given_label"), ("suggested", "suggested_label")):
        assert data[ours][:count] == table[theirs].tolist()
    assert data["probability"][:count] == pytest.approx(table["probability"].tolist(), abs=5e-5)
    assert sorted(data["index"]) == sorted(run.labels["train_index"].tolist())
    assert sum(data["probability"]) == pytest.approx(run.wrong_probability.sum(), rel=1e-2)
    assert data["dataset"] == dataset_key(run)
    assert data["classes"] == run.classes


def test_all_samples_are_listed_where_they_are_asked_for_the_likeliest_wrong_first(run_dir, tmp_path):
    run = read_run(run_dir)
    data = written(run, tmp_path, every=True)
    assert data["listed"] == len(data["shown"]) == len(run.suspicion)
    assert data["index"] == audit(run, every=True)["index"].tolist()
    assert (np.diff(data["probability"]) <= 0).all()


def test_a_run_without_an_estimate_is_told_no_probabilities(variant, tmp_path):
    assert written(read_run(variant("one")), tmp_path)["isTold"]
    page = write_review(read_run(variant("other", estimated_noise_rate=None)), tmp_path / "review.html")
    assert not data_of(page)["isTold"]
    assert "This run has no estimate of how many labels are wrong" in page.read_text()


def test_without_anything_to_show_the_page_has_the_pictures_and_the_paths_of_the_run(run_dir, tmp_path):
    run = read_run(run_dir)
    shown = written(run, tmp_path)["shown"]
    listed = set(audit(run)["position"].tolist())
    assert sum(item is not None for item in shown) == len(listed & set(run.record["thumbnail_of"].tolist())) > 10
    place = [at for at, item in enumerate(shown) if item is not None][3]
    position = audit(run)["position"][place]
    (thumbnail,) = run.record["thumbnails"][run.record["thumbnail_of"] == position]
    assert (pixels_of(shown[place])[1] == thumbnail).all()
    paths = np.array([f"a/{number}.png".encode() for number in range(60)])
    data = written(made_run(tmp_path, paths=paths), tmp_path)
    assert data["path"] == [f"a/{number}.png" for number in range(20)]
    assert data["shown"] == [None] * 20


SQUARE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.mark.parametrize(
    ("item", "pixels"),
    [
        (SQUARE, SQUARE),
        (SQUARE[..., 0], SQUARE[..., 0]),
        (SQUARE[..., :1], SQUARE[..., 0]),
        (SQUARE.transpose(2, 0, 1), SQUARE),
        (SQUARE.transpose(2, 0, 1)[:1], SQUARE[..., 0]),
        (torch.tensor(SQUARE.transpose(2, 0, 1)), SQUARE),
        (Image.fromarray(SQUARE), SQUARE),
        (Image.fromarray(SQUARE[..., 0]), SQUARE[..., 0]),
        ((Image.fromarray(SQUARE), 3), SQUARE),
        (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), np.full((4, 4, 3), 255)),
    ],
    ids=[str(number) for number in range(10)],  # a picture's words have its place in memory
)
def test_a_small_picture_is_shown_with_every_pixel_whatever_it_is_given_as(tmp_path, item, pixels):
    (uri,) = written(made_run(tmp_path, 9, 1), tmp_path, [item] * 9)["shown"]
    kind, shown = pixels_of(uri)
    assert kind == "data:image/png"
    assert (shown == pixels).all()


def test_a_large_picture_is_made_small(tmp_path):
    large = load_sample_images().images[0]  # 427 x 640
    (uri,) = written(made_run(tmp_path, 9, 1), tmp_path, [large] * 9)["shown"]
    kind, shown = pixels_of(uri)
    assert kind == "data:image/webp"
    assert shown.shape == (107, 160, 3)
    small = np.asarray(Image.fromarray(large).resize((160, 107)))
    assert np.abs(shown.astype(float) - small).mean() < 10
    assert len(uri) < 12_000


def test_texts_and_rows_of_numbers_are_shown_as_such_and_long_ones_cut(tmp_path):
    items = [
        "so it </script> was",
        "a" * 3000,
        np.array([0.5, 1 / 3]),
        {"age": 31, "town": "Bonn"},
        np.arange(100),
        np.ones((9, 9)),
    ]
    data = written(made_run(tmp_path, 9, 6), tmp_path, [*items, "", "", ""])
    text, long, numbers, columns, many, table = data["shown"]
    assert text == {"text": "so it </script> was"}
    assert long["text"] == "a" * 2000 + "…"
    assert numbers == {"numbers": [["0", "0.5"], ["1", "0.3333"]], "more": 0}
    assert columns == {"numbers": [["age", "31"], ["town", "Bonn"]], "more": 0}
    assert (len(many["numbers"]), many["more"], len(table["numbers"]), table["more"]) == (64, 36, 64, 17)


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (["a"] * 8, "shown is of 8 samples, but the run trained on 9;"),
        ([object()] * 9, r"shown\[0\] is object, but a PIL image"),
        ([np.zeros((2, 4, 4), dtype=np.uint8)] * 9, r"shown\[0\] is uint8\[2, 4, 4\], but a PIL image"),
        ([np.zeros((0, 4), dtype=np.uint8)] * 9, r"shown\[0\] is uint8\[0, 4\], but a PIL image"),
        ([np.array(["a"])] * 9, r"shown\[0\] is <U1\[1\], but a PIL image"),
        ([Image.new("F", (4, 4))] * 9, r"shown\[0\] is a PIL image of mode F, but one of 8 bits is expected"),
    ],
)
def test_what_cannot_be_shown_is_refused_and_the_old_page_stays(tmp_path, shown, said):
    page = tmp_path / "review.html"
    page.write_text("old")
    with pytest.raises(ValueError, match=said):
        write_review(made_run(tmp_path, 9, 1), page, shown)
    assert page.read_text() == "old"


def test_a_run_without_predictions_is_refused(tmp_path):
    run = made_run(tmp_path)
    del run.record["predicted"]
    with pytest.raises(ValueError, match="has no predictions for its training samples"):
        write_review(run, tmp_path / "review.html")


def test_names_end_no_element_of_the_page_and_are_there_as_they_are(tmp_path):
    names = ('</script><b id="broken">', "<!-- <script>", "\"'&amp;", "حصان", "a\u2028b", "bad\udce4")
    run = made_run(tmp_path, names=names)
    run.summary["dataset"] = "<i>set</i>"
    page = write_review(run, tmp_path / "review.html", ["</script><b>"] * 60)
    text = page.read_text()
    assert text.count("</script>") == 2  # of the data and of the code
    assert "<b>" not in text
    assert "<b id" not in text
    assert "<!--" not in text
    assert "&lt;i&gt;set" in text
    assert data_of(page)["classes"] == [*names[:5], "bad\ufffd"]


def test_it_asks_nothing_of_any_other_place(run_dir, tmp_path):
    text = write_review(read_run(run_dir), tmp_path / "review.html").read_text()
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\';' in text
    assert not re.findall(r"https?://|url\(|@import|<link|\bfetch\(|XMLHttpRequest|import\(", text)


def test_ten_thousand_suspects_of_cifars_size_are_below_forty_megabytes(tmp_path):
    photos = load_sample_images().images
    g = np.random.default_rng(0)
    patches = []
    for number in range(500):  # of real photographs, at several scales
        side = 32 * int(g.integers(1, 7))
        photo = photos[number % 2]
        row, column = (int(g.integers(photo.shape[axis] - side)) for axis in (0, 1))
        patch = Image.fromarray(photo[row : row + side, column : column + side])
        patches.append(np.asarray(patch.resize((32, 32), Image.Resampling.BOX)))
    n = 50_000
    page = write_review(made_run(tmp_path, n, 10_000), tmp_path / "review.html", [patches[at % 500] for at in range(n)])
    assert 15e6 < page.stat().st_size < 40e6


# ---- the command ----------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["alignprune-audit", *arguments])
        alignprune_audit()
        return capsys.readouterr().out

    return run


def test_the_command_writes_the_page_with_the_images_of_the_data_set(command, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    assert "review.html" not in command("run")
    said = command("run", "--review")
    data, run = data_of(tmp_path / "run/review.html"), read_run(tmp_path / "run")
    assert said.endswith(f"run/review.html: {len(run.issues):,} labels to look at; open it in a browser\n")
    assert (tmp_path / "run/label_issues.csv").exists()
    (thumbnail,) = run.record["thumbnails"][run.record["thumbnail_of"] == audit(run)["position"][0]]
    shown = [pixels_of(uri)[1] for uri in data["shown"]]
    assert (shown[0] == thumbnail[..., 0]).all()
    assert len({image.tobytes() for image in shown}) > 100
    said = command("run", "--review", "--all")
    assert said.endswith("run/review.html: 1,365 labels to look at; open it in a browser\n")
    assert data_of(tmp_path / "run/review.html")["listed"] == 1365


def settings(folder, **changes):
    """Change the data set in a run's settings."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["dataset"]["benchmark"] = changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def labels(folder, **changes):
    with np.load(folder / "labels.npz") as kept:
        np.savez(folder / "labels.npz", **{**kept, **{name: change(kept[name]) for name, change in changes.items()}})


def _files(folder):
    settings(folder, _target_="alignprune_pl.data.cifar10", root=str(folder / "nowhere"), download=True)


NO_LONGER = {
    "other code": (lambda folder: settings(folder, _target_="os.getcwd"), "name no data set of this package"),
    "code behind ours": (
        lambda folder: settings(folder, _target_="alignprune_pl.data.files.os.getcwd"),
        "name no data set of this package",
    ),
    "code within": (
        lambda folder: settings(folder, _target_="alignprune_pl.data.arrays", path={"_target_": "os.getcwd"}),
        "name no data set of this package",
    ),
    "not there": (_files, "nowhere"),
    "wrong argument": (lambda folder: settings(folder, _target_="alignprune_pl.data.digits", size=3), "digits"),
    "fewer samples": (
        lambda folder: labels(folder, train_index=lambda index: index + 200),
        "digits is no longer what the run trained on (it has 1,437 samples, the run had 1,6",
    ),
    "other labels": (
        lambda folder: labels(folder, clean_label=lambda label: (label + 1) % 10),
        "digits is no longer what the run trained on (the true label of sample",
    ),
}


@pytest.mark.parametrize("case", NO_LONGER)
def test_without_the_same_data_set_one_line_says_why_and_the_page_has_what_the_run_kept(
    command, run_dir, tmp_path, case
):
    shutil.copytree(run_dir, tmp_path / "run")
    change, why = NO_LONGER[case]
    change(tmp_path / "run")
    said = command("run", "--review").splitlines()
    (line,) = (line for line in said if "kept of its samples, and not the data set, which cannot be opened" in line)
    assert why in line
    assert said[-1].startswith("run/review.html: ")
    shown = data_of(tmp_path / "run/review.html")["shown"]
    assert 10 < sum(item is not None for item in shown) <= 16


def test_images_in_files_are_shown_if_their_paths_are_the_same(command, samples, tmp_path):
    from hydra import compose, initialize_config_dir

    from alignprune_pl.cli.train import train
    from helpers import ROOT

    shutil.copytree(samples / "image_folder", tmp_path / "image_folder")
    wanted = [
        "dataset=image_folder",
        f"data_dir={tmp_path}",
        "dataset.image_size=16",
        "data.num_workers=0",
        "noise=sym",
    ]
    wanted += ["model=mlp", "model.hidden=[8]", "trainer.max_epochs=2", "trainer.accelerator=cpu", "score=loss"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        train(compose("train", wanted), tmp_path / "run", {"noise": "sym40"})
    assert "what the run has kept" not in command("run", "--review", "--all")
    data = data_of(tmp_path / "run/review.html")
    assert all(item.startswith("data:image/") for item in data["shown"])
    first = tmp_path / "image_folder/train" / data["path"][0]
    with Image.open(first) as image:
        assert pixels_of(data["shown"][0])[1].shape[:2] == image.size[::-1]
    first.rename(first.with_stem("other"))
    assert "the path of sample" in command("run", "--review", "--all")
