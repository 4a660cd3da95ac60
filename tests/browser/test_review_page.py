"""The page on which labels are mended, in a real browser: keys, filters, files, what it remembers, size and looks."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil

import numpy as np
import pytest

from alignprune_pl.report.decisions import dataset_key
from alignprune_pl.report.review import write_review
from alignprune_pl.report.theme import DARK, LIGHT
from made_runs import made_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is found; install it, as by apt-get install chromium"
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
HEAD = "version,dataset,index,given_label,given_name,decision,label,label_name,decided_at"
AWKWARD = ("</script><b>", 'a "quoted", name', "حصان", "école\u2028supérieure", " spaced ", "=1+1")


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright, which drives Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def window(chromium):
    """Opens a page in a browser that remembers nothing yet; whatever it complains of fails the test."""
    complaints = []
    with contextlib.ExitStack() as stack:

        def open_(page, beside=None, before="", **settings):
            context = beside.context if beside else stack.enter_context(chromium.new_context(**settings))
            tab = context.new_page()
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
            tab.on(
                "request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None
            )
            if before:
                tab.add_init_script(before)
            tab.goto(page.as_uri())
            return tab

        yield open_
    assert complaints == []


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Sixty samples of three classes with pictures, twenty of them suspects, in a folder with spaces."""
    folder = tmp_path_factory.mktemp("made run") / "a b & c"
    pictures = [np.full((8, 8, 3), number, dtype=np.uint8) for number in range(60)]
    return write_review(made_run(folder), folder / "review.html", pictures)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Ten thousand suspects with pictures."""
    folder = tmp_path_factory.mktemp("large")
    g = np.random.default_rng(0)
    pictures = g.integers(256, size=(100, 32, 32, 3), dtype=np.uint8)
    run = made_run(folder, 12_000, 10_000, tuple(f"class {number}" for number in range(1000)))
    return write_review(run, folder / "review.html", [pictures[at % 100] for at in range(12_000)])


def press(tab, *keys):
    for key in keys:
        tab.keyboard.press(key)


def decisions(tab):
    """What is decided, by the sample's number in its data set."""
    kept = tab.evaluate("[...review.decisions].map(([at, {kind, label}]) => [data.index[at], kind, label])")
    return {index: (kind, label) for index, kind, label in kept if kind != "none"}


def current(tab):
    return tab.evaluate("data.index[view.current]")


def numbers(tab):
    """The samples that pass the filter, in order."""
    return tab.evaluate("view.visible.map((at) => data.index[at])")


def exported(tab, name="csv"):
    with tab.expect_download() as download:
        tab.click(f"#{name}")
    return download.value


def content(tab, name="csv"):
    return exported(tab, name).path().read_bytes().decode()


def given(tab, text, name="decisions.csv"):
    """Import a file; what the page says."""
    payload = text if isinstance(text, bytes) else text.encode()
    before = tab.evaluate("tell('')")
    with tab.expect_file_chooser() as chooser:
        tab.click("#import")
    chooser.value.set_files({"name": name, "mimeType": "text/plain", "buffer": payload})
    tab.wait_for_function("document.getElementById('status').textContent !== ''")
    assert before is None
    return tab.inner_text("#status")


# ---- deciding -------------------------------------------------------------------------------------------------


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


# ---- filters and order ----------------------------------------------------------------------------------------


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


def test_what_is_left_is_put_in_order_by_what_was_decided(small, window):
    tab = window(small)
    tab.evaluate(
        "void (priority = (row, state) =>"
        " (state.pairs.get(pairKey(row.given, row.suggested))?.wrong ?? 0) + row.probability / 2)"
    )
    press(tab, "ArrowDown", "a")
    tab.select_option("#order", "now")
    tab.focus("#list")
    assert numbers(tab)[:9] == [4, 13, 22, 31, 40, 49, 58, 1, 7]
    assert current(tab) == 13
    press(tab, "u")
    assert numbers(tab)[:3] == [4, 22, 31]
    assert numbers(tab)[-1] == 13
    assert current(tab) == 22
    assert tab.evaluate("[...review.state().pairs]") == [["1>2", {"wrong": 1, "right": 0}]]
    press(tab, "k", "x")
    assert tab.evaluate("[...review.state().pairs]") == [["1>2", {"wrong": 2, "right": 1}]]
    tab.select_option("#order", "listed")
    assert numbers(tab) == [3 * at + 1 for at in range(20)]


def test_by_itself_what_is_left_is_in_order_of_the_probability(small, window):
    tab = window(small)
    row = "{at: 0, index: 1, given: 0, suggested: 1, probability: 0.7}"
    assert tab.evaluate(f"priority({row}, review.state())") == 0.7
    press(tab, "End", "a")
    tab.select_option("#order", "now")
    assert numbers(tab) == [58, *(3 * at + 1 for at in range(19))]
    assert current(tab) == 1


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


# ---- files ----------------------------------------------------------------------------------------------------


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
    assert decisions(other) == {4: ("junk", None)}
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


# ---- what it remembers ----------------------------------------------------------------------------------------


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


def test_two_windows_lose_nothing_of_each_other(small, window):
    one = window(small)
    two = window(small, beside=one)
    press(one, "a")
    two.wait_for_function("review.decisions.size === 1")
    assert two.inner_text("#counts").startswith("1 of 20 decided")
    press(two, "ArrowDown", "x")
    one.wait_for_function("review.decisions.size === 2")
    assert decisions(one) == decisions(two) == {1: ("relabel", 1), 4: ("junk", None)}
    press(one, "z")  # its own step, and the other window hears of it
    two.wait_for_function("review.kindOf(0) === ''")
    press(one, "y")
    two.wait_for_function("review.kindOf(0) === 'relabel'")
    press(two, "Home", "k")
    one.wait_for_function("review.kindOf(0) === 'keep'")
    press(one, "z")
    assert one.inner_text("#status") == "Another window has decided since, so that stays."
    assert decisions(one)[1] == ("keep", None)
    one.reload()
    assert decisions(one) == decisions(two)


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


# ---- size -----------------------------------------------------------------------------------------------------


def test_a_list_of_ten_thousand_has_as_many_elements_as_are_seen(large, small, window):
    tab = window(large, viewport={"width": 1280, "height": 800})
    count = "document.querySelectorAll('*').length"
    elements = tab.evaluate(count)
    rows = tab.locator(".row").count()
    assert rows < 20
    assert elements <= window(small, viewport={"width": 1280, "height": 800}).evaluate(count)
    for place in (1000, 250_000, 719_000, 0):
        tab.evaluate(f"list.scrollTop = {place}; paint()")
        assert tab.evaluate(count) == elements
        assert tab.locator(".row img[src]").count() <= rows
        seen = tab.evaluate(
            "[...document.querySelectorAll('.row')].filter((row) => !row.hidden).map((row) => "
            "[Number(row.getAttribute('aria-posinset')), row.querySelector('.soft').textContent,"
            " row.querySelector('img').src,"
            " row.getBoundingClientRect().top - list.getBoundingClientRect().top + list.scrollTop])"
        )
        assert {number for number, *_ in seen} >= {place // 72 + 2, place // 72 + 5}
        for number, facts, source, top in seen:
            assert facts.startswith(f"No. {3 * number - 2} ")
            assert source.startswith("data:image/png;base64,")
            assert top == pytest.approx(72 * (number - 1), abs=1)


SCROLL = """async () => {
  const times = [];
  const steps = 200;
  for (let step = 0; step < steps; step += 1) {
    list.scrollTop = step * (list.scrollHeight / steps);
    const began = performance.now();
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame); // in the first one the page paints
    times.push((performance.now() - began) / 2);
  }
  return times.sort((a, b) => a - b);
}"""


def test_a_scroll_through_ten_thousand_is_smooth(large, window):
    times = window(large, viewport={"width": 1280, "height": 800}).evaluate(SCROLL)
    assert len(times) == 200
    assert times[100] < 34  # milliseconds a frame: 30 a second on a machine that does other things too


def test_a_list_that_is_higher_than_browsers_draw_is_reached_to_its_end(small, window):
    tab = window(small, viewport={"width": 1280, "height": 800})
    tab.evaluate("view.visible = Array.from({length: 500000}, (_, place) => place % 20); fit()")
    tab.evaluate("list.scrollTop = list.scrollHeight; paint()")
    assert tab.evaluate("list.scrollHeight") == 8_000_000
    last = tab.locator('.row[aria-posinset="500000"]')
    box, frame = last.bounding_box(), tab.locator("#list").bounding_box()
    assert box["y"] + box["height"] == pytest.approx(frame["y"] + frame["height"], abs=2)


# ---- looks ----------------------------------------------------------------------------------------------------

LONG = ("a very long name of a class that goes on and on", "Donaudampfschifffahrtselektrizitätenhauptbetriebswerk", "c")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("shows", ["pictures", "text", "numbers"])
def test_nothing_is_wider_than_the_window(tmp_path, window, width, shows):
    shown = {
        "pictures": [np.zeros((200, 300), dtype=np.uint8)] * 60,
        "text": ["x" * 500] * 60,
        "numbers": [np.ones(70)] * 60,
    }
    run = made_run(tmp_path, names=LONG, paths=np.array([b"folder/" + b"x" * 90 + b".png"] * 60))
    tab = window(write_review(run, tmp_path / "review.html", shown[shows]), viewport={"width": width, "height": 844})
    press(tab, "a", "k", "ArrowUp")
    tab.evaluate("document.getElementById('filters').open = true")
    wide = (
        "[...document.querySelectorAll('body *')].filter((each) => each.checkVisibility() && !each.closest('.row'))"
        ".filter((each) => each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.id || each.className)"
    )
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate(wide) == []


def test_a_finger_hits_every_button_of_a_phone(small, window):
    tab = window(small, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for button in tab.locator("button:visible, #class, summary").all():
        box = button.bounding_box()
        assert box["height"] >= (28 if button.evaluate("(e) => e.tagName") == "SUMMARY" else 44), button
    assert tab.locator(".row").first.bounding_box()["height"] == 72
    assert tab.locator("#list").bounding_box()["height"] > 250
    tab.tap("#accept")
    tab.tap('.row:has-text("No. 10 ")')
    tab.tap("#junk")
    assert decisions(tab) == {1: ("relabel", 1), 10: ("junk", None)}
    assert tab.locator("#status").is_visible()


@pytest.mark.parametrize(("scheme", "theme"), [("light", LIGHT), ("dark", DARK)])
def test_it_follows_the_readers_light_or_dark_setting(small, window, scheme, theme):
    tab = window(small, color_scheme=scheme)
    press(tab, "a")

    def colour(selector, name):
        red, green, blue = tab.evaluate(
            "([s, n]) => getComputedStyle(document.querySelector(s))[n].match(/\\d+/g).map(Number)", [selector, name]
        )[:3]
        return f"#{red:02x}{green:02x}{blue:02x}"

    assert colour("body", "backgroundColor") == theme.ground
    assert colour("body", "color") == colour("#labels", "color") == theme.ink
    assert colour("#list", "backgroundColor") == colour("#keep", "backgroundColor") == theme.panel
    assert colour("#keep", "color") == theme.ink
    assert colour("#accept", "backgroundColor") == colour("#labels .suggested", "color") == theme.right


def test_every_part_has_a_name_for_screen_readers_and_shows_the_focus(small, window):
    tab = window(small)
    for field in tab.locator("button, input:not([hidden]), select, progress").all():
        assert field.evaluate("(e) => (e.ariaLabel || e.textContent || e.labels?.[0]?.textContent || '').trim()"), field
    assert tab.evaluate("document.activeElement.id") == "list"
    assert tab.get_attribute("#list", "aria-activedescendant") == tab.get_attribute('.row[aria-selected="true"]', "id")
    assert tab.get_attribute('.row[aria-selected="true"]', "aria-setsize") == "20"
    press(tab, "ArrowDown", "ArrowDown")
    assert tab.get_attribute('.row[aria-selected="true"]', "aria-posinset") == "3"
    seen = set()
    for _ in range(24):
        press(tab, "Tab")
        focused = "getComputedStyle(document.activeElement)"
        if tab.evaluate("document.activeElement !== document.body"):
            seen.add(tab.evaluate("document.activeElement.id || document.activeElement.tagName"))
            assert tab.evaluate(f"{focused}.outlineStyle !== 'none' && parseFloat({focused}.outlineWidth) >= 2"), seen
    assert seen >= {
        "csv",
        "json",
        "import",
        "help",
        "pair",
        "show",
        "order",
        "accept",
        "keep",
        "class",
        "junk",
        "undecided",
        "list",
    }


def test_a_sample_that_is_scrolled_out_of_sight_is_not_told_as_the_one_in_focus(large, window):
    tab = window(large)
    tab.evaluate("list.scrollTop = 100000; paint()")
    assert tab.get_attribute("#list", "aria-activedescendant") is None
    assert tab.locator('.row[aria-selected="true"]').count() == 0
    press(tab, "ArrowDown")
    assert tab.get_attribute("#list", "aria-activedescendant") == tab.get_attribute('.row[aria-selected="true"]', "id")
    assert current(tab) == 4
    assert tab.inner_text('.row[aria-selected="true"] .soft').startswith("No. 4 · ")


def test_arrows_scroll_a_long_text_that_has_the_focus(tmp_path, window):
    tab = window(write_review(made_run(tmp_path), tmp_path / "review.html", ["word " * 400] * 60))
    tab.focus("blockquote")
    press(tab, "ArrowDown")
    tab.wait_for_function("document.querySelector('blockquote').scrollTop > 0")
    assert current(tab) == 1
    press(tab, "k")
    assert current(tab) == 4


def test_a_run_without_suspects_says_so(tmp_path, window):
    run = made_run(tmp_path, suspects=0)
    tab = window(write_review(run, tmp_path / "review.html"))
    assert tab.inner_text("#none") == "No label is suspected of being wrong."
    press(tab, *"akxuznp")
    assert decisions(tab) == {}
