"""Run the cells of a notebook in order, and keep what they print and draw in the file; also a notebook as Markdown.

python scripts/run_notebook.py docs/tutorial.ipynb

It needs no Jupyter. The cells run in one namespace, in a temporary folder, on one thread. The file is replaced at the end,
if every cell has run. The documentation's build shows the notebook as a page by :func:`markdown`.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
Cell = dict[str, Any]


def run(notebook: Notebook) -> dict[str, Any]:
    """Run all cells of code in order, in the current folder, and put what they show into the notebook.

    What goes to stderr, as training's lines do, stands before what goes to stdout; the pictures come last.

    Returns:
        The namespace that the cells leave.

    Raises:
        Exception: Whatever a cell raises.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    printed, logged = io.StringIO(), io.StringIO()
    # For the whole run: a handler of logging keeps the stream that it was made with.
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(logged):
        for number, cell in enumerate(code_cells(notebook), start=1):
            value = _execute("".join(cell["source"]), names)
            if value is not None:
                print(repr(value))
            texts = {name: _taken(stream) for name, stream in (("stderr", logged), ("stdout", printed))}
            streams = [
                {"output_type": "stream", "name": name, "text": text.splitlines(keepends=True)}
                for name, text in texts.items()
                if text
            ]
            cell["execution_count"] = number
            cell["outputs"] = [*streams, *_pictures()]
    return names


def code_cells(notebook: Notebook) -> list[Cell]:
    """The cells of code, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _execute(code: str, names: dict[str, Any]) -> Any:
    """The value of a cell's last line, if that is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


def _taken(stream: io.StringIO) -> str:
    """What has been written to it, which is then gone."""
    text = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    return text


def _pictures() -> list[dict[str, Any]]:
    """The open figures as outputs; they are closed."""
    plt = sys.modules.get("matplotlib.pyplot")
    found = []
    for number in plt.get_fignums() if plt else []:
        buffer = io.BytesIO()
        plt.figure(number).savefig(buffer, format="png", dpi=80, bbox_inches="tight")
        data = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": ["<Figure>"]}
        found.append({"output_type": "display_data", "data": data, "metadata": {}})
    if plt:
        plt.close("all")
    return found


def markdown(notebook: Notebook) -> str:
    """Text, code, what was printed and what was drawn, as a page; a cell's metadata ``alt`` describes its picture."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            else:
                alt = cell["metadata"].get("alt", "")
                parts.append(f'<img alt="{alt}" src="data:image/png;base64,{output["data"]["image/png"]}">')
    return "\n\n".join(parts) + "\n"


def read(path: Path) -> Notebook:
    """A notebook as its file has it."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def main() -> None:
    """Run a notebook, and replace its file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook.resolve()
    os.environ["MPLBACKEND"] = "Agg"
    notebook = read(path)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run(notebook)
        os.chdir(path.parent)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
