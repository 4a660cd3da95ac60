"""What tests do with a review page that is open in a browser, and what they read from it."""

from __future__ import annotations

HEAD = "version,dataset,index,given_label,given_name,decision,label,label_name,decided_at"


def until(tab, expression):
    """Wait for what is to become true; the page's own policy forbids Playwright to."""
    for _ in range(200):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(25)
    raise AssertionError(f"{expression} did not become true")


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
    tab.evaluate("tell('')")
    with tab.expect_file_chooser() as chooser:
        tab.click("#import")
    chooser.value.set_files({"name": name, "mimeType": "text/plain", "buffer": payload})
    until(tab, "document.getElementById('status').textContent !== ''")
    return tab.inner_text("#status")
