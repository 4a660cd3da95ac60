"""What the documentation's build adds: notebooks as pages, formulas as MathML, which browsers show alone, and names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

import run_notebook

_ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):<code>~?([^<]*)</code>")
_NOTEBOOK = re.compile(r"(\]\([\w./-]+)\.ipynb\)")
_INLINE = re.compile(r"(?<![\w$`])\$([^$\n]+)\$(?![\w$`])")


def formula(source: str, *_: Any, **__: Any) -> str:
    """A block of LaTeX."""
    return f'<div style="overflow-x: auto">{convert(source, display="block")}</div>'


def on_config(config: Any) -> Any:
    """Show blocks that are marked as math."""
    fences = [{"name": "math", "class": "math", "format": formula}]
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = fences
    return config


def on_files(files: Any, config: Any) -> Any:
    """Make a page of each notebook, with what its cells have shown. The notebook itself is there as well."""
    for file in list(files):
        path = Path(file.src_uri)
        if path.suffix == ".ipynb":
            text = run_notebook.markdown(run_notebook.read(Path(file.abs_src_path)))
            files.append(File.generated(config, str(path.with_suffix(".md")), content=text))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Show the names that docstrings refer to as names."""
    return _ROLE.sub(lambda match: f"<code>{match[1].rpartition('.')[2]}</code>", html)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show formulas within a line, outside of blocks, and lead from other pages to that of a notebook."""
    if page.file.generated_by is None:
        markdown = _NOTEBOOK.sub(r"\1.md)", markdown)
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else _INLINE.sub(lambda match: convert(match[1]), part) for part in parts
    )
