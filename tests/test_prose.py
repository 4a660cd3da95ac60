"""The documentation is in five groups, and in sentences that can be read aloud."""

from __future__ import annotations

import re
import statistics

import pytest
import yaml

from helpers import ROOT, load_script

DOCS = ROOT / "docs"
LONGEST = 25  # words


def nav():
    """Each group with its pages, from the settings of the site."""
    text = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]

    def pages(entries):
        for entry in entries:
            inner = next(iter(entry.values())) if isinstance(entry, dict) else entry
            yield from pages(inner) if isinstance(inner, list) else [inner]

    return {name: list(pages(entries)) for group in yaml.safe_load(text) for name, entries in group.items()}


def text_of(page):
    notebook = (DOCS / page).with_suffix(".ipynb")
    if notebook.exists():
        run_notebook = load_script("run_notebook")
        return run_notebook.markdown(run_notebook.read(notebook))
    return (DOCS / page).read_text()


def sentences(text):
    """The sentences of paragraphs and lists; neither code, tables, headings nor formulas."""
    text = re.sub(r"<!--.*?-->|^```.*?^```$", "\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]*`|\$[^$\n]+\$", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^ *(?:[#|<]|:::).*$", "\n", text, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|^ *(?:[-*]|\d+\.) ", text, flags=re.MULTILINE):
        yield from re.split(r"(?<!\bal\.)(?<=[.!?])[\")*]*\s+", " ".join(paragraph.split()))


def words(sentence):
    return len(re.findall(r"[\w'.%/-]*\w[\w'.%/-]*", sentence))


PAGES = [page for pages in nav().values() for page in pages]


def test_there_are_five_groups_and_every_page_is_in_one_of_them():
    assert list(nav()) == ["Start", "Guides", "Reference", "Results", "Project"]
    there = {
        path.relative_to(DOCS).with_suffix(".md").as_posix()
        for path in DOCS.rglob("*")
        if path.suffix in (".md", ".ipynb")
    }
    assert set(PAGES) == there
    assert len(PAGES) == len(there)


@pytest.mark.parametrize("page", PAGES)
def test_no_sentence_is_longer_than_one_breath(page):
    long = [sentence for sentence in sentences(text_of(page)) if words(sentence) > LONGEST]
    assert long == []


@pytest.mark.parametrize("page", nav()["Start"])
def test_the_pages_to_start_with_have_short_sentences(page):
    counts = [count for count in map(words, sentences(text_of(page))) if count]
    assert len(counts) > 15
    assert statistics.median(counts) <= 15


def test_a_long_sentence_is_found_and_code_and_tables_are_not_counted():
    long = "word " * 26
    assert max(map(words, sentences(f"# Head\n\nShort. {long}.\n"))) == 26
    assert max(map(words, sentences(f"- One, `{long}`.\n- Two.\n\n| {long} |\n\n```sh\n{long}\n```\n"))) <= 3
