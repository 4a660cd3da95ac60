"""What the README shows is what runs."""

import json
import re

import pytest

from helpers import ROOT, run_code, run_script

README = (ROOT / "README.md").read_text()
OWN = (ROOT / "docs/writing-a-policy.md").read_text()


EXAMPLE, CALIBRATED, RULES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the complete example prints, and what the lines on calibrated pruning do after it."""
    known = "print((noisy[:2000] != y[:2000])[suspects.index[:8]].sum().item())"
    between = "print('end of the example')\ntorch.manual_seed(0)\n"
    done = run_code(f"{EXAMPLE}{between}{CALIBRATED}{known}", cwd=tmp_path_factory.mktemp("example"))
    assert done.returncode == 0, done.stderr
    return done.stdout.split("end of the example")


def test_the_complete_example_runs_as_it_stands(printed):
    assert "saved" in printed[0]


def test_calibrated_pruning_tells_how_many_labels_are_wrong_as_it_stands(printed):
    rate = int(re.search(r"about (\d+)% of the labels are wrong", printed[1])[1])
    assert 5 <= rate <= 35  # three in ten are
    assert int(printed[1].split()[-1]) >= 7  # of the first eight


def test_a_policy_and_a_score_of_ones_own_take_fifteen_lines_and_run_by_name_as_they_stand(tmp_path):
    lines = [line for line in RULES.splitlines() if line.strip()]
    assert len(lines) <= 15
    (tmp_path / "my_rules.py").write_text(RULES)
    named = re.search(r"`(AlignPrune\(policy=\"drop_highest\".*?\))`", README)[1]
    run = EXAMPLE.replace("AlignPrune(reference=clean_loader)", named).replace("max_epochs=16", "max_epochs=5")
    assert named in run
    done = run_code(f"import my_rules\n{run}print(prune.policy, [r['kept'] for r in prune.history])", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads(re.search(r"DropHighest\(\) (\[.*\])", done.stdout)[1])
    assert kept[:2] == [2000, 1792]  # 1800, less a last batch of 8 of 64
    assert all(1792 <= k < 1900 for k in kept[2:])  # equal rises at the border stay


@pytest.mark.parametrize(
    ("page", "code", "file", "policy", "score"),
    [
        (README, RULES, "my_rules", "DropHighest()", "Rise()"),
        (OWN, re.findall(r"```python\n(.*?)```", OWN, re.DOTALL)[0], "my_file", "DropRising(share=0.2)", "LastRise()"),
    ],
    ids=["readme", "page on policies"],
)
def test_a_command_runs_a_policy_and_a_score_from_a_file_in_the_current_folder(
    tmp_path, page, code, file, policy, score
):
    (tmp_path / f"{file}.py").write_text(code)
    (command,) = re.findall(rf"^python (scripts/train.py .*{file}.*)$", page, flags=re.MULTILINE)
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
    assert (summary["policy"], summary["score"]) == (policy, score)
    assert 0.05 < summary["saved"] < 0.2  # nothing in the first of three epochs


def rows(text):
    """The table that follows: the cells of each row by the names in its head."""
    table = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)[0].replace("`", "")
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {line[0]: dict(zip(head[1:], line[1:], strict=True)) for line in lines}


def test_its_figures_are_those_of_the_results_page():
    results = (ROOT / "docs/results-tables.md").read_text().partition("<!-- suite real -->")[2]
    of_model = {model: results.partition(f"### {model}:")[2] for model in ("head", "small_cnn_32", "mlp")}
    shown = rows(README.partition("## What it shows")[2])
    assert list(shown) == list(rows(of_model["head"]))
    for method, cells in shown.items():
        for name, cell in cells.items():
            (saved, words) = ("saved, " in name, name.removeprefix("saved, ").split())
            table = rows(of_model[words[0]].partition("Samples saved" if saved else "Test accuracy")[2])
            assert cell == table.get(method, {}).get(words[1], "-"), f"{method}, {name}"


def test_its_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)$", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
