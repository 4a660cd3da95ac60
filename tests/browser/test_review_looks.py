"""A review page of any size, on any screen, in light and dark, by keyboard and for screen readers."""

from __future__ import annotations

import numpy as np
import pytest

from alignprune_pl.report.review import write_review
from alignprune_pl.report.theme import DARK, LIGHT
from made_runs import made_run
from review_tab import current, decisions, press, until


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


# ---- looks -----------------------------------------------------------------------------------------------------------


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
    until(tab, "document.querySelector('blockquote').scrollTop > 0")
    assert current(tab) == 1
    press(tab, "k")
    assert current(tab) == 4


def test_a_run_without_suspects_says_so(tmp_path, window):
    run = made_run(tmp_path, suspects=0)
    tab = window(write_review(run, tmp_path / "review.html"))
    assert tab.inner_text("#none") == "No label is suspected of being wrong."
    press(tab, *"akxuznp")
    assert decisions(tab) == {}
