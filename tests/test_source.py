"""What the source keeps to throughout: who touches the Trainer's private parts, and where attributes are born."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from source_tree import Tree, package_tree

TREE = package_tree()


# ---- the Trainer's private parts ----------------------------------------------------------------------------

THE_ONE_PLACE = "fit/loop.py"


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.endswith("__")


def is_of_trainer(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is the Trainer, of a name or an attribute, or something reached from it."""
    while True:
        if isinstance(node, ast.Name):
            return node.id in names
        if isinstance(node, ast.Attribute):
            if node.attr == "trainer":
                return True
            node = node.value
        elif isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return False


def names_for_trainer(tree: ast.Module) -> set[str]:
    """``trainer``, and what is assigned from it somewhere in the file."""
    names = {"trainer"}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if isinstance(node.value, (ast.Name, ast.Attribute)) and is_of_trainer(node.value, names):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def private_parts(tree: Tree) -> list[str]:
    """Every place outside the one file that reads or sets a private part of the Trainer or of its loops."""
    found = []
    for path, source in tree.items():
        if path == THE_ONE_PLACE:
            continue
        module = ast.parse(source)
        names = names_for_trainer(module)
        for node in ast.walk(module):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and is_of_trainer(node.value, names):
                found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "getattr",
                "setattr",
                "hasattr",
                "delattr",
            ):
                of, name = node.args[0], node.args[1]
                if isinstance(name, ast.Constant) and is_private(name.value) and is_of_trainer(of, names):
                    found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    return found


def test_one_file_alone_touches_private_parts_of_the_trainer():
    assert private_parts(TREE) == []
    assert private_parts({"fit/other.py": TREE[THE_ONE_PLACE]}) != []


@pytest.mark.parametrize(
    "line",
    [
        "trainer._x",
        "trainer.fit_loop._data_source",
        "trainer.fit_loop.epoch_loop._results",
        "trainer.fit_loop._data_source.instance = 3",
        "trainer._x = 3",
        "self.trainer._x()",
        "pl_module.trainer.fit_loop._x",
        "self.module.trainer.strategy._x",
        "trainer.loops[0]._x",
        "trainer.loop()._x",
        "loop = trainer.fit_loop\nloop._x",
        "loop: Any = self.trainer.fit_loop\nloop.epoch_loop._x += 1",
        "getattr(trainer.fit_loop, '_x', None)",
        "setattr(self.trainer, '_x', 3)",
    ],
)
def test_a_private_part_of_the_trainer_is_found_however_it_is_reached(line):
    source = "\n".join(f"        {part}" for part in line.splitlines())
    tree = {"fit/a.py": f"class A:\n    def f(self, trainer, pl_module):\n{source}\n"}
    (found,) = private_parts(tree)
    assert found.startswith(f"fit/a.py:{2 + len(line.splitlines())} ")
    assert private_parts({THE_ONE_PLACE: tree["fit/a.py"]}) == []


@pytest.mark.parametrize(
    "line",
    [
        "trainer.fit_loop.epoch_loop",
        "self._trainer_state",
        "self._x.trainer",
        "self._run.planner._x",
        "trainer.__class__",
        "getattr(trainer, 'overfit_batches', 0)",
        "getattr(self, '_x')",
        "epoch = trainer.current_epoch + 1\nself._x = epoch",
    ],
)
def test_what_is_public_or_ones_own_is_let_through(line):
    assert private_parts({"fit/a.py": line}) == []


# ---- where attributes are born ------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def of_class(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, but no other class."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef):
            yield from of_class(child)


def methods_of(cls: ast.ClassDef) -> list[Function]:
    return [node for node in cls.body if isinstance(node, Function)]


def self_of(method: Function) -> str | None:
    """What a method calls its object; None for one without."""
    decorators = {getattr(decorator, "id", None) for decorator in method.decorator_list}
    given = [*method.args.posonlyargs, *method.args.args]
    return given[0].arg if given and not decorators & {"staticmethod", "classmethod"} else None


def assigned_in(method: Function) -> dict[str, int]:
    """The attributes of its own object that a method sets in whatever way, and the line where it first does."""
    own = self_of(method)
    found: dict[str, int] = {}
    for node in of_class(method):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == own:
            found.setdefault(node.attr, node.lineno)
    return found


def called_in(method: Function) -> set[str]:
    """The methods that a method calls on its own object or on super()."""
    own = self_of(method)
    found = set()
    for node in of_class(method):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            is_super = isinstance(of, ast.Call) and getattr(of.func, "id", "") == "super"
            if is_super or getattr(of, "id", "") == own:
                found.add(node.func.attr)
    return found


def with_bases(cls: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """A class and those above it that are in the tree."""
    lineage = [cls]
    for base in cls.bases:
        base = base.value if isinstance(base, ast.Subscript) else base
        above = classes.get(getattr(base, "attr", getattr(base, "id", "")))
        if above is not None and above is not cls:
            lineage += with_bases(above, classes)
    return lineage


def born_in(lineage: list[ast.ClassDef]) -> set[str]:
    """What a class states in its body, has a setter for, or sets while an object is made."""
    born: set[str] = set()
    methods: dict[str, list[Function]] = {}
    for cls in lineage:
        for node in cls.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            born |= {target.id for target in targets if isinstance(target, ast.Name)}
        for method in methods_of(cls):
            methods.setdefault(method.name, []).append(method)
            if any(getattr(decorator, "attr", "") == "setter" for decorator in method.decorator_list):
                born.add(method.name)
    waiting, seen = ["__init__", "__post_init__"], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            for method in methods.get(name, []):
                born |= assigned_in(method).keys()
                waiting += called_in(method)
    return born


def late_attributes(tree: Tree) -> list[str]:
    """Every attribute that a method sets and that its object does not have from the start."""
    found, everywhere = [], [(path, ast.parse(source)) for path, source in tree.items()]
    in_files = [
        (path, node) for path, module in everywhere for node in ast.walk(module) if isinstance(node, ast.ClassDef)
    ]
    classes = {cls.name: cls for _, cls in in_files}
    for path, cls in in_files:
        born = born_in(with_bases(cls, classes))
        for method in methods_of(cls):
            late = {name: line for name, line in assigned_in(method).items() if name not in born}
            found += [f"{path}:{line} {cls.name}.{method.name} sets {name}" for name, line in late.items()]
    return found


def test_every_attribute_is_born_where_its_object_is_made():
    assert late_attributes(TREE) == []


MADE_UP = """
class Base:
    def __init__(self):
        self.a = 1
        self.prepare()
        self.reset()

    def prepare(self):
        self.b, (self.c, *self.d) = 1, (2, 3)

    def reset(self):
        self.e = 1

class Mine(Base):
    f: int
    g = 3

    def __init__(self):
        super().__init__()
        super().reset()
        self._h = 1

    @property
    def h(self):
        return self._h

    @h.setter
    def h(self, value):
        self._h = value

    def work(self):
        self.a = self.b = self.c = self.d = self.e = self.f = self.g = self.h = 2
        self._h += 1
        {line}
"""


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("pass", []),
        ("other.x = 1", []),
        ("self.a.x = 1", []),
        ("self.a[0] = 1", []),
        ("x = self.x", []),
        ("self.x = 1", ["x"]),
        ("self.x: int = 1", ["x"]),
        ("self.x += 1", ["x"]),
        ("self.a, (self.x, *self.y) = 1, (2, 3)", ["x", "y"]),
        ("for self.x in (): pass", ["x"]),
        ("with open('a') as self.x: pass", ["x"]),
        ("def inner(): self.x = 1", ["x"]),
        ("class Inner:\n            def f(self): self.x = 1", ["x"]),
    ],
)
def test_an_attribute_that_is_born_late_is_found_however_it_is_set(line, names):
    found = late_attributes({"core/a.py": MADE_UP.replace("{line}", line)})
    assert [entry.split(" sets ")[1] for entry in found] == names
    assert all(entry.startswith("core/a.py:3") for entry in found)


@pytest.mark.parametrize(
    ("source", "late"),
    [
        ("class A:\n    def f(self):\n        self.x = 1", 1),
        ("class A:\n    x: int\n    def f(self):\n        self.x = 1", 0),
        ("class A:\n    def __post_init__(self):\n        self.x = 1\n    def f(self):\n        self.x = 2", 0),
        ("class A:\n    def f(me, /):\n        me.x = 1", 1),
        ("class A:\n    @staticmethod\n    def f(self):\n        self.x = 1", 0),
        ("class A:\n    def __init__(self):\n        self.g\n    def g(self):\n        self.x = 1", 1),
        ("class A:\n    def __init__(self, other):\n        other.g()\n    def g(self):\n        self.x = 1", 1),
        ("class A:\n    def __init__(self):\n        super().g()\n    def g(self):\n        self.x = 1", 0),
        ("class A(Unknown):\n    def f(self):\n        self.x = 1", 1),
    ],
)
def test_an_attribute_is_born_by_what_the_making_of_an_object_runs(source, late):
    assert len(late_attributes({"core/a.py": source})) == late
    below = "class B(A[int]):\n    def h(self):\n        self.x = 2"  # it is made as its base is
    assert len(late_attributes({"core/a.py": source, "fit/b.py": below})) == (1 if "static" in source else 2 * late)
