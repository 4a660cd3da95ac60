"""The page on which labels are mended, in a browser: deciding, filters, order and progress."""

from __future__ import annotations

import csv
import io
import math

import pytest

from alignprune_pl.report.review import write_review
from made_runs import made_run
from review_tab import HEAD, content, current, decisions, given, numbers, press

AWKWARD = ("</script><b>", 'a "quoted", name', "حصان", "école\u2028supérieure", " spaced ", "=1+1")


def test_keys_decide_and_go_on_to_the_next_sample(small, window):
    tab = window(small)
    assert tab.inner_text("#labels") == "cat → dog"
    assert tab.inner_text("#facts") == "No. 1 · wrong with 100 % · 1 of 20"
    press(tab, "a", "k", "x", "u")
    assert decisions(tab) == {1: ("relabel", 1), 4: ("keep", None), 7: ("junk", None), 10: ("undecided", None)}
    assert current(tab) == 13
    assert tab.inner_text("#status") == "No. 10: undecided."
    press(tab, "Enter")
    assert decisions(tab)[13] == ("relabel", 2)
    press(tab, "ArrowUp", "p", "p", "n", "ArrowDown", "ArrowUp", "k")
    assert decisions(tab)[10] == ("keep", None)
    assert current(tab) == 16
    press(tab, "Home", "End")
    assert current(tab) == 58
    press(tab, "A", "Control+a")  # whatever the case, and nothing of what the browser's own keys do
    assert len(decisions(tab)) == 6


def test_buttons_do_what_the_keys_do(small, window):
    tab = window(small)
    for button in ("accept", "keep", "junk", "undecided"):
        tab.click(f"#{button}")
    assert [kind for kind, _ in decisions(tab).values()] == ["relabel", "keep", "junk", "undecided"]
    tab.click("#undo")
    tab.click("#previous")
    assert current(tab) == 7
    assert tab.get_attribute("#junk", "aria-pressed") == "true"
    assert tab.get_attribute("#keep", "aria-pressed") == "false"
    assert tab.inner_text("#decided") == "Decided: junk"
    tab.click("#next")
    tab.click("#redo")
    assert decisions(tab)[10] == ("undecided", None)
    tab.click('.row:has-text("No. 25 ")')
    assert current(tab) == 25


def test_another_class_is_found_among_a_thousand_by_typing(large, window):
    tab = window(large)
    press(tab, "c")
    assert tab.locator("#classes .option").count() == 40
    assert "and 960 more" in tab.inner_text("#classes")
    tab.keyboard.type("CLASS 77")
    assert tab.locator("#classes .option bdi").all_inner_texts() == [
        "class 77",
        *(f"class {770 + n}" for n in range(10)),
    ]
    press(tab, "ArrowDown", "ArrowDown", "ArrowUp", "Enter")
    assert decisions(tab) == {1: ("relabel", 770)}
    assert tab.locator("#classes").is_hidden()
    press(tab, "k")  # the keys are back
    assert decisions(tab)[4] == ("keep", None)
    press(tab, "/")
    tab.keyboard.type("no such")
    assert tab.inner_text("#classes") == "nothing is called so"
    press(tab, "Enter", "Escape")
    assert len(decisions(tab)) == 2
    tab.click("#class")
    tab.keyboard.type("class 999")
    tab.click("#classes .option >> nth=0")
    assert decisions(tab)[7] == ("relabel", 999)


def test_a_class_is_found_by_its_number(large, window):
    tab = window(large)
    press(tab, "c", *"37", "Enter")
    assert decisions(tab) == {1: ("relabel", 37)}


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800), (1280, 500)])
def test_the_classes_to_choose_from_are_within_the_window(large, window, width, height):
    tab = window(large, viewport={"width": width, "height": height})
    press(tab, "c", "ArrowUp")
    box = tab.locator("#classes").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= height
    assert box["height"] > 100
    at = box["x"] + 20, box["y"] + 20
    assert tab.evaluate("([x, y]) => document.elementFromPoint(x, y).closest('#classes') !== null", at)


def test_the_given_class_as_another_one_is_a_label_that_is_kept(small, window):
    tab = window(small)
    press(tab, "c")
    tab.keyboard.type("cat")
    press(tab, "Enter")
    assert decisions(tab) == {1: ("keep", None)}


def test_names_are_found_without_their_accents_and_shown_as_they_are(tmp_path, window):
    tab = window(write_review(made_run(tmp_path, names=AWKWARD), tmp_path / "review.html", ["<i>text</i>"] * 60))
    assert tab.inner_text("#labels") == '</script><b> → a "quoted", name'
    assert tab.inner_text("#picture") == "<i>text</i>"
    assert tab.locator("b, i").count() == 0
    assert tab.locator("bdi[dir=auto]").count() > 10
    press(tab, "c")
    tab.keyboard.type("superieure")
    press(tab, "Enter")
    press(tab, "a", "a")
    rows = list(csv.reader(io.StringIO(content(tab), newline="")))
    assert [row[4] for row in rows[1:]] == list(AWKWARD[:3])
    assert [row[7] for row in rows[1:]] == [AWKWARD[3], AWKWARD[2], AWKWARD[3]]
    again = window(tmp_path / "review.html")
    assert given(again, content(tab)) == "3 decisions are read from decisions.csv."
    assert decisions(again) == decisions(tab)


def test_steps_are_undone_and_done_again(small, window):
    tab = window(small)
    assert tab.locator("#undo").is_disabled()
    press(tab, "a", "k", "ArrowUp", "x")
    press(tab, "z")
    assert decisions(tab)[4] == ("keep", None)
    assert current(tab) == 4
    press(tab, "z", "z")
    assert decisions(tab) == {}
    assert current(tab) == 1
    press(tab, "z")
    assert tab.inner_text("#status") == "There is nothing to undo."
    press(tab, "y", "Control+y", "Control+z", "Control+Shift+z")
    assert decisions(tab) == {1: ("relabel", 1), 4: ("keep", None)}
    press(tab, "u", "y")  # a decision ends what can be done again
    assert tab.inner_text("#status") == "There is nothing to do again."
    assert "No. 1:" not in content(tab)


def test_the_keys_are_shown_and_do_nothing_while_they_are(small, window):
    tab = window(small)
    press(tab, "?")
    assert tab.locator("#keys").is_visible()
    press(tab, "k")
    assert decisions(tab) == {}
    press(tab, "Escape")
    assert tab.locator("#keys").is_hidden()
    press(tab, "k")
    assert len(decisions(tab)) == 1
    shown = {key for keys in tab.locator("#keys kbd").all_text_contents() for key in keys.split()}
    told = {"Enter", "Home", "End", "Page", "Esc", "↓", "↑"}
    assert shown - told == set(tab.evaluate("Object.keys(keys).filter((key) => key.length === 1)"))


# ---- filters and order -----------------------------------------------------------------------------------------------


def test_samples_are_filtered_by_pair_probability_and_decision(small, window):
    tab = window(small)
    press(tab, "a", "k", "f")
    notes = dict(
        zip(*(tab.locator(f"#pairs .option {part}").all_inner_texts() for part in ("bdi", "small")), strict=True)
    )
    assert notes == {"cat → dog": "7, 6 left", "dog → horse": "7, 6 left", "horse → cat": "6, 6 left"}
    tab.keyboard.type("dog ->")
    press(tab, "Enter")
    assert numbers(tab) == [4, 13, 22, 31, 40, 49, 58]
    assert tab.inner_text("#passing") == ": 7 of 20"
    tab.fill("#high", "90")
    assert numbers(tab) == [13, 22, 31, 40, 49, 58]
    tab.fill("#low", "60.1")
    assert numbers(tab) == [13, 22, 31, 40]
    tab.click("#clear")
    assert len(numbers(tab)) == 20
    assert tab.input_value("#pair") == ""
    tab.select_option("#show", "keep")
    assert numbers(tab) == [4]
    tab.select_option("#show", "open")
    assert numbers(tab) == [3 * at + 1 for at in range(2, 20)]
    assert tab.locator("#show option").all_inner_texts()[:4] == [
        "all (20)",
        "left to decide (18)",
        "relabelled (1)",
        "kept (1)",
    ]
    tab.fill("#low", "99")
    assert tab.inner_text("#none") == "No sample passes the filter."
    assert tab.locator("#sample").is_hidden()
    tab.fill("#pair", "")
    tab.fill("#low", "")
    assert len(numbers(tab)) == 18


def test_a_decision_under_a_filter_goes_on_to_the_sample_that_follows(small, window):
    tab = window(small)
    tab.select_option("#show", "open")
    tab.focus("#list")
    press(tab, "ArrowDown", "ArrowDown", "k")
    assert current(tab) == 10
    assert len(numbers(tab)) == 19
    press(tab, "Home", "k", "k", *"kkkkkkkkkkkkkkkkk")
    assert numbers(tab) == []
    assert tab.inner_text("#status").endswith("All listed samples are looked at.")
    tab.select_option("#show", "keep")
    tab.focus("#list")
    press(tab, "Home", "x", "x")  # decisions that are looked through once more
    assert [index for index, (kind, _) in decisions(tab).items() if kind == "junk"] == [1, 4]
    assert current(tab) == 7


def test_what_is_left_is_put_in_order_by_what_was_decided_of_the_same_classes(small, window):
    tab = window(small)
    tab.select_option("#order", "now")
    tab.focus("#list")
    assert numbers(tab) == [3 * at + 1 for at in range(20)]  # as long as nothing tells otherwise
    press(tab, "ArrowDown", "k")  # of the pair 1>2, whose other suspects are the places 4, 7, 10, 13, 16 and 19
    state = tab.evaluate("[...review.state()]")
    assert state == [["1>2", {"count": 1, "wrong": 0, "expected": pytest.approx(0.975)}]]
    # Log odds 3.66 of what was expected and 3.32 of what was found: all of the pair fall by a third.
    now = tab.evaluate("priority({given: 1, suggested: 2, probability: 0.9}, review.state())")
    assert now == pytest.approx(math.log(9) + math.log(97.5 / 3.5) - math.log(0.975 / 0.025))
    assert tab.evaluate("priority({given: 0, suggested: 1, probability: 0.9}, review.state())") == pytest.approx(
        math.log(9)
    )
    assert numbers(tab)[:6] == [4, 1, 7, 10, 16, 13]
    press(tab, "u")
    assert numbers(tab)[-1] == 1
    assert tab.evaluate("[...review.state()]") == state
    press(tab, "x")
    counts = {key: (pair["count"], pair["wrong"]) for key, pair in tab.evaluate("[...review.state()]")}
    assert counts == {"1>2": (1, 0), "2>0": (1, 1)}
    tab.select_option("#order", "listed")
    assert numbers(tab) == [3 * at + 1 for at in range(20)]


def test_progress_and_the_wrong_labels_that_are_left_are_counted_over_all_samples(small, window):
    tab = window(small)
    wrong = sum(1 - at / 40 for at in range(20)) + 40 * 0.01
    all_of = f"about {round(wrong)} wrong labels left among all 60"
    assert tab.inner_text("#counts") == f"0 of 20 decided · {all_of}"
    press(tab, *"akxu")
    left = f"about {round(wrong - 1 - 0.975 - 0.95)} wrong labels left among all 60"
    assert tab.inner_text("#counts") == f"3 of 20 decided, 1 undecided · {left}"
    assert tab.evaluate("document.getElementById('progress').value") == pytest.approx(3 / 20)
    assert tab.evaluate("review.progress().wrongLeft") == pytest.approx(wrong - 2.925)
    # A sample that is not listed was decided on a page of all samples.
    row = f"1,{tab.evaluate('data.dataset')},{3 * 30 + 1},0,cat,keep,,,2026-01-01T00:00:00Z"
    given(tab, f"{HEAD}\n{row}\n")
    assert tab.evaluate("review.progress().wrongLeft") == pytest.approx(wrong - 2.935)
    assert tab.inner_text("#counts").startswith("3 of 20 decided")
    assert ",91,0,cat,keep,,,2026-01-01T00:00:00.000Z" in tab.evaluate("review.csv()")
    press(tab, *"zzzzz")
    assert tab.inner_text("#counts") == f"0 of 20 decided · {all_of}"


def test_of_a_run_that_estimated_nothing_no_probability_is_told(tmp_path, window):
    run = made_run(tmp_path)
    del run.summary["estimated_noise_rate"]
    tab = window(write_review(run, tmp_path / "review.html"))
    assert tab.inner_text("#counts") == "0 of 20 decided"
    assert tab.inner_text("#facts") == "No. 1 · 1 of 20"
    assert "%" not in tab.inner_text("#list")
    assert tab.locator("#low").is_hidden()
    assert "This run has no estimate" in tab.inner_text("header")
