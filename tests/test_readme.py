"""What the README shows is what runs."""

import json
import re

import pytest
from PIL import Image, ImageChops, ImageStat

from helpers import ROOT, run_code, run_script

README = (ROOT / "README.md").read_text()
START = (ROOT / "docs/index.md").read_text()
OWN = (ROOT / "docs/writing-a-policy.md").read_text()
RESULTS = (ROOT / "docs/results-tables.md").read_text().partition("<!-- suite real -->")[2]


def python(page):
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


def test_it_is_as_long_as_one_reads_at_once():
    assert 90 <= len(README.splitlines()) <= 130


def test_its_four_lines_run_with_a_module_and_loaders_as_they_are(tmp_path):
    (lines,) = python(README)
    example = python(START)[-1]
    before = example.partition("prune = ")[0]  # the module and the loaders
    check = (
        "assert suspects.index.dtype is torch.int64\nprint((noisy[:2000] != y[:2000])[suspects.index[:8]].sum().item())"
    )
    done = run_code(f"{before}module = Net()\n{lines}{check}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 6  # of the first eight


@pytest.mark.parametrize("call", re.findall(r"`(AlignPrune\([^`]*\))`", README))
def test_its_other_calls_train(call, tmp_path):
    example = python(START)[-1]
    assert "AlignPrune(reference=clean_loader" in example
    run = re.sub(r"prune = AlignPrune\(.*?\)\n", f"prune = {call}\n", example).replace("max_epochs=16", "max_epochs=3")
    assert call in run
    done = run_code(run.partition("print(")[0], cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_policy_and_a_score_of_ones_own_run_by_name_as_they_stand(tmp_path):
    (tmp_path / "my_rules.py").write_text(python(OWN)[0])
    named = re.search(r"`(AlignPrune\(policy=\"drop_rising\".*?\))`", OWN)[1]
    example = re.sub(r"prune = AlignPrune\(.*?\)\n", f"prune = {named}\n", python(START)[-1])
    run = example.replace("max_epochs=16", "max_epochs=5").partition("print(")[0]
    assert named in run
    done = run_code(f"import my_rules\n{run}print(prune.policy, [r['kept'] for r in prune.history])", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads(re.search(r"DropRising\(share=0.1\) (\[.*\])", done.stdout)[1])
    assert kept[:2] == [2000, 1792]  # 1800, less a last batch of 8 of 64
    assert all(1792 <= k < 1900 for k in kept[2:])  # equal rises at the border stay


def test_a_command_runs_a_policy_and_a_score_from_a_file_in_the_current_folder(tmp_path):
    (tmp_path / "my_file.py").write_text(python(OWN)[0])
    (command,) = re.findall(r"^python (scripts/train.py .*my_file.*)$", OWN, flags=re.MULTILINE)
    script, *given = command.split()
    small = [
        "trainer.max_epochs=3",
        "trainer.accelerator=cpu",
        "model.hidden=[16]",
        "report=false",
        "hydra.run.dir=run",
    ]
    done = run_script(ROOT / script, *given, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["policy"], summary["score"]) == ("DropRising(share=0.2)", "LastRise()")
    assert 0.05 < summary["saved"] < 0.2  # nothing in the first of three epochs


def rows(text):
    """The table that follows: the cells of each row by the names in its head."""
    table = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)[0].replace("`", "")
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {line[0]: dict(zip(head[1:], line[1:], strict=True)) for line in lines}


def test_its_figures_are_those_of_the_results_page():
    of_model = {model: RESULTS.partition(f"### {model}:")[2] for model in ("head", "small_cnn_16", "mlp")}
    shown = rows(README.partition("## What it shows")[2])
    assert list(shown) == list(rows(of_model["head"]))
    for method, cells in shown.items():
        for name, cell in cells.items():
            (saved, words) = ("saved, " in name, name.removeprefix("saved, ").split())
            table = rows(of_model[words[0]].partition("Samples saved" if saved else "Test accuracy")[2])
            assert cell == table.get(method, {}).get(words[1], "-"), f"{method}, {name}"


def test_its_first_sentence_has_the_figures_of_the_results_page():
    table = RESULTS.partition("### head:")[2]
    accuracy, saved = (rows(table.partition(title)[2]) for title in ("Test accuracy", "Samples saved"))
    said = re.search(r"ends at ([\d.]+) % instead of ([\d.]+) %, at ([\d]+) % of the cost", README)
    after, before = (float(accuracy[method]["sym50"].split()[0]) for method in ("calibrated", "full"))
    assert [float(said[1]), float(said[2])] == [after, before]
    assert float(said[3]) == pytest.approx(100 - float(saved["calibrated"]["sym50"].split()[0]), abs=0.5)


def test_its_picture_is_drawn_from_runs_of_the_repository(tmp_path):
    done = run_script("draw_accuracy.py", "--output", "drawn.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    drawn, shown = (
        Image.open(path).convert("RGB") for path in (tmp_path / "drawn.png", ROOT / "docs/images/accuracy.png")
    )
    assert drawn.size == shown.size
    assert ImageStat.Stat(ImageChops.difference(drawn, shown)).mean[0] < 1  # other fonts' edges


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_page_on_the_command_line_has_every_option():
    page = (ROOT / "docs/command-line.md").read_text()
    for group in ("dataset", "noise", "pruning", "score", "reference", "model", "optimizer", "logger"):
        (line,) = re.findall(rf"^\| `{group}=` \|(.*)$", page, flags=re.MULTILINE)
        options = {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")} - {"torchvision"}
        assert options - set(re.findall(r"`([a-z0-9_]+)`", line)) == set(), group


def test_its_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)$", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
