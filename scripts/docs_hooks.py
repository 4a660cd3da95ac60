"""What the documentation's build adds: formulas as MathML, which browsers show by themselves, and names in docstrings."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

_ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):<code>~?([^<]*)</code>")
_INLINE = re.compile(r"(?<![\w$`])\$([^$\n]+)\$(?![\w$`])")


def formula(source: str, *_: Any, **__: Any) -> str:
    """A block of LaTeX."""
    return f'<div style="overflow-x: auto">{convert(source, display="block")}</div>'


def on_config(config: Any) -> Any:
    """Show blocks that are marked as math."""
    fences = [{"name": "math", "class": "math", "format": formula}]
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = fences
    return config


def on_page_content(html: str, **_: Any) -> str:
    """Show the names that docstrings refer to as names."""
    return _ROLE.sub(lambda match: f"<code>{match[1].rpartition('.')[2]}</code>", html)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show formulas within a line, outside of blocks."""
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else _INLINE.sub(lambda match: convert(match[1]), part) for part in parts
    )
