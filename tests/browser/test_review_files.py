"""What was decided on a review page, in files and in what the browser keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from alignprune_pl.report.decisions import dataset_key
from alignprune_pl.report.review import write_review
from made_runs import made_run
from review_tab import HEAD, content, current, decisions, exported, given, press, until


def test_csv_and_json_have_the_latest_decision_of_each_sample_by_its_index(small, window):
    tab = window(small)
    press(tab, "End", "a", "Home", "k", "ArrowUp", "x", "u", "z")
    key = dataset_key(made_run(small.parent))
    name = exported(tab).suggested_filename
    assert name == f"decisions-{key}.csv"
    text = content(tab)
    head, *rows = text.split("\r\n")[:-1]
    assert head == HEAD
    assert [row.rsplit(",", 1)[0] for row in rows] == [f"1,{key},1,0,cat,junk,,", f"1,{key},58,1,dog,relabel,2,horse"]
    parsed = json.loads(content(tab, "json"))
    times = [row.rsplit(",", 1)[1] for row in rows]
    assert all(np.datetime64(time.removesuffix("Z")) > np.datetime64("2026-01-01") for time in times)
    common = {"version": 1, "dataset": key}
    assert parsed == {
        **common,
        "decisions": [
            {"index": 1, "given_label": 0, "given_name": "cat", "decision": "junk", "label": None, "label_name": None}
            | {"decided_at": times[0]},
            {
                "index": 58,
                "given_label": 1,
                "given_name": "dog",
                "decision": "relabel",
                "label": 2,
                "label_name": "horse",
            }
            | {"decided_at": times[1]},
        ],
    }
    assert exported(tab, "json").suggested_filename == f"decisions-{key}.json"


def test_a_decision_that_a_file_has_and_that_is_undone_is_undecided_in_the_next_file(small, window):
    tab = window(small)
    press(tab, "a")
    content(tab)
    press(tab, "a", "z", "z")
    assert [line.split(",")[2:6] for line in content(tab).splitlines()[1:]] == [["1", "0", "cat", "undecided"]]


def test_a_decision_that_was_corrected_or_read_from_a_file_is_undecided_there_once_it_is_undone(small, window):
    tab = window(small)
    press(tab, "a", "ArrowUp", "x")  # decided and corrected
    text = content(tab)
    press(tab, "z", "z")
    assert [line.split(",")[5] for line in content(tab).splitlines()[1:]] == ["undecided"]
    other = window(small)
    given(other, text)
    press(other, "z")
    assert [line.split(",")[5] for line in content(other).splitlines()[1:]] == ["undecided"]


def test_nothing_decided_is_nothing_to_export(small, window):
    tab = window(small)
    tab.click("#csv")
    assert tab.inner_text("#status") == "Nothing is decided yet."


@pytest.mark.parametrize("kind", ["csv", "json", "excel", "bom"])
def test_a_file_is_read_again_in_another_browser_and_is_one_step(small, window, kind):
    tab = window(small)
    press(tab, *"akxu")
    text = content(tab, "json" if kind == "json" else "csv")
    text = text.replace(",", ";") if kind == "excel" else "\ufeff" * (kind == "bom") + text
    other = window(small)
    press(other, "ArrowDown", "x")
    said = given(other, text)
    assert said.startswith("4 decisions are read from decisions.csv. 1 of them are no newer than what is here")
    assert decisions(other) == {**decisions(tab), 4: ("junk", None)}
    assert current(other) == 13
    press(other, "z")
    # They are in a file, so that the next one is to say that they were taken back.
    assert decisions(other) == {4: ("junk", None), **dict.fromkeys((1, 7, 10), ("undecided", None))}
    press(other, "y")
    assert len(decisions(other)) == 4


KEY = "{key}"
ROW = f"1,{KEY},1,0,cat,relabel,1,dog,2026-01-01T00:00:00.000Z"
REFUSED = {
    "another data set": (ROW.replace(KEY, "0" * 16), r"is of another data set or other labels (0000000000000000)"),
    "version": (ROW.replace("1,", "2,", 1), "is of version 2, but version 1 is expected"),
    "index": (ROW.replace(",1,0,", ",2,0,"), "is of sample 2, which this run does not have"),
    "index that is none": (ROW.replace(",1,0,", ",1.0,0,"), "is of sample 1.0, which this run does not have"),
    "twice": (f"{ROW}\n{ROW}", "names a sample twice"),
    "given label": (ROW.replace("1,0,cat", "1,2,cat"), "says that sample 1 is labelled 2, but here it is 0"),
    "word": (ROW.replace("relabel", "mend"), 'is "mend", but relabel, keep, junk, undecided are the ones'),
    "class": (ROW.replace(",1,dog", ",3,dog"), "has the new class 3, but one from 0 to 2 is expected"),
    "no class": (ROW.replace(",1,dog", ",,"), "has the new class (none), but one from 0 to 2 is expected"),
    "time": (ROW.replace("2026-01-01T00:00:00.000Z", "yesterday"), 'was made at "yesterday", which is no time'),
    "quote": (ROW.replace("cat", '"cat'), "a quote in it is not closed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_file_is_refused_with_a_sentence_and_changes_nothing(small, window, case):
    tab = window(small)
    rows, said = REFUSED[case]
    key = tab.evaluate("data.dataset")
    good = ROW.replace(KEY, key).replace(",1,0,cat,relabel,1", ",10,0,cat,relabel,2")
    assert said in given(tab, "\n".join([HEAD, good, rows.replace(KEY, key)]))
    assert decisions(tab) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column version, dataset"),
        ("a,b\n1,2\n", "has no column version"),
        ("{}", "has no decisions"),
        ("{", "cannot be read as JSON"),
        ('{"version": 1, "dataset": "x", "decisions": [null]}', "is of another data set"),
        (b"\xff\xfe\x00", "decisions.csv is no text in UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_a_sentence(small, window, text, said):
    tab = window(small)
    assert said in given(tab, text)
    assert decisions(tab) == {}


# ---- what it remembers -----------------------------------------------------------------------------------------------


def test_it_goes_on_where_one_stopped(small, window):
    tab = window(small)
    press(tab, *"akxu")
    before = decisions(tab)
    tab.reload()
    assert decisions(tab) == before
    assert current(tab) == 13
    press(tab, "z")
    assert decisions(tab) == before  # steps are those of a visit
    stored = tab.evaluate("localStorage.getItem(storeKey).length")
    assert stored < 30 * len(before)


def test_another_run_remembers_its_own(small, tmp_path, window):
    tab = window(small)
    press(tab, "a")
    run = made_run(tmp_path)
    run.labels["label"][50] = 0
    other = window(write_review(run, tmp_path / "review.html"), beside=tab)
    assert decisions(other) == {}


def told(window, page, **settings):
    """Two windows of a page, of which the second one has heard what the first one has decided."""
    one = window(page, **settings)
    two = window(page, beside=one, **settings)
    press(one, "a")
    until(two, "review.decisions.size === 1")
    return one, two


def test_two_windows_lose_nothing_of_each_other(small, window):
    one, two = told(window, small)
    assert two.inner_text("#counts").startswith("1 of 20 decided")
    press(two, "ArrowDown", "x")
    until(one, "review.decisions.size === 2")
    assert decisions(one) == decisions(two) == {1: ("relabel", 1), 4: ("junk", None)}
    press(one, "z")  # its own step, and the other window hears of it
    until(two, "review.kindOf(0) === ''")
    press(one, "y")
    until(two, "review.kindOf(0) === 'relabel'")
    press(two, "Home", "k")
    until(one, "review.kindOf(0) === 'keep'")
    press(one, "z")
    assert one.inner_text("#status") == "Another window has decided since, so that stays."
    assert decisions(one)[1] == ("keep", None)
    one.reload()
    until(one, "review.decisions.size === 2")
    assert decisions(one) == decisions(two)


def test_a_window_that_finds_nothing_stored_is_told_by_another(small, window):
    one, two = told(window, small)
    two.evaluate("localStorage.clear()")
    one.reload()
    until(one, "review.decisions.size === 1")
    assert decisions(one) == decisions(two) == {1: ("relabel", 1)}
    assert one.evaluate("localStorage.getItem(storeKey)").startswith("1,0,1,")


def test_windows_whose_browser_keeps_nothing_still_tell_each_other(small, window):
    one, two = told(window, small, before=REFUSING["full"])
    assert one.evaluate("view.isUnsaved")
    assert decisions(two) == {1: ("relabel", 1)}
    assert two.evaluate("view.isUnsaved")


def test_what_another_window_has_overwritten_is_stored_again(small, window):
    one, two = told(window, small)
    two.evaluate("localStorage.setItem(storeKey, '4,2,,zzzzzzzz')")
    until(one, "review.decisions.size === 2")
    until(one, "localStorage.getItem(storeKey).split(';').length === 2")
    assert decisions(one) == {1: ("relabel", 1), 4: ("junk", None)}


def test_decisions_that_another_window_stored_unheard_are_kept(small, window):
    tab = window(small)
    tab.evaluate("localStorage.setItem(storeKey, '4,2,,zzzzzzzz;nonsense;7,9,,1')")
    press(tab, "a")
    assert decisions(tab) == {1: ("relabel", 1), 4: ("junk", None)}
    tab.reload()
    assert decisions(tab) == {1: ("relabel", 1), 4: ("junk", None)}


REFUSING = {
    "off": "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }});",
    "full": "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };",
}


@pytest.mark.parametrize("how", REFUSING)
def test_where_the_browser_keeps_nothing_the_page_says_so_and_still_exports(small, window, how):
    tab = window(small, before=REFUSING[how])
    assert tab.locator("#warning").is_visible()
    assert "export them before you close the page" in tab.inner_text("#warning")
    press(tab, "a")
    assert tab.evaluate("view.isUnsaved")
    assert tab.evaluate("!window.dispatchEvent(new Event('beforeunload', {cancelable: true}))")  # the browser asks
    assert len(content(tab).splitlines()) == 2
    assert tab.evaluate("window.dispatchEvent(new Event('beforeunload', {cancelable: true}))")


def test_where_the_browser_keeps_them_there_is_no_warning(small, window):
    tab = window(small)
    press(tab, "a")
    assert tab.locator("#warning").is_hidden()
