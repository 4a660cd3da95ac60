"""Review pages in a real browser; without one the tests are skipped."""

from __future__ import annotations

import contextlib
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium is found; install it, as by apt-get install chromium")
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
    import numpy as np

    from alignprune_pl.report.review import write_review
    from made_runs import made_run

    folder = tmp_path_factory.mktemp("made run") / "a b & c"
    pictures = [np.full((8, 8, 3), number, dtype=np.uint8) for number in range(60)]
    return write_review(made_run(folder), folder / "review.html", pictures)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Ten thousand suspects with pictures."""
    import numpy as np

    from alignprune_pl.report.review import write_review
    from made_runs import made_run

    folder = tmp_path_factory.mktemp("large")
    g = np.random.default_rng(0)
    pictures = g.integers(256, size=(100, 32, 32, 3), dtype=np.uint8)
    run = made_run(folder, 12_000, 10_000, tuple(f"class {number}" for number in range(1000)))
    return write_review(run, folder / "review.html", [pictures[at % 100] for at in range(12_000)])
