"""Names for policies and scores: ours, and those of a user's own file or installed package."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, get_args

from alignprune_pl.core.checking import check_word
from alignprune_pl.core.contracts import Part, Policy, Score
from alignprune_pl.core.orientation import Orientation
from alignprune_pl.core.trajectory import Observable

T = TypeVar("T")
C = TypeVar("C", bound="type[Any]")


class Registry(Generic[T]):
    """Classes by name.

    A class gets its name by :meth:`register` when its file is imported. A package may instead announce it as an
    entry point, which is imported when its name is first asked for::

        [project.entry-points."alignprune_pl.policies"]
        my_policy = "my_package.my_module:MyPolicy"

    Args:
        kind: What the classes are, in a word, such as ``"policy"``.
        group: The group of the entry points.
        check: Raises ``ValueError`` for an object that is no such thing.
    """

    def __init__(self, kind: str, group: str, check: Callable[[Any], None]) -> None:
        self.kind = kind
        self.group = group
        self.check = check
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """A class decorator that makes the class known by ``name``.

        Registering the same class again, as when a notebook's cell is run again, replaces it.

        Raises:
            ValueError: If ``name`` belongs to another class or is not an identifier, or what is decorated is no class.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"{self.kind} name {name!r} is given, but a name such as 'my_{self.kind}' is expected, of letters, digits "
                f"and underscores; write @register_{self.kind}('my_{self.kind}')."
            )

        def add(cls: C) -> C:
            if not isinstance(cls, type):
                raise ValueError(f"register_{self.kind}({name!r}) got {cls!r}, but it decorates a class.")
            before = self._classes.get(name)
            if before is not None and _origin(before) != _origin(cls):
                raise ValueError(
                    f"The {self.kind} {name!r} of {'.'.join(_origin(cls))} is already {'.'.join(_origin(before))}; choose "
                    "another name."
                )
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """All names in alphabetical order; those of entry points are not imported for it."""
        return sorted({*self._classes, *self._announced()})

    def get(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            ValueError: If there is none, or its entry point cannot be imported.
        """
        if name not in self._classes:
            announced = self._announced()
            if name not in announced:
                close = difflib.get_close_matches(name, self.names(), 1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise ValueError(
                    f"{self.kind}={name!r} is given, but there is no such {self.kind}; {hint}Known are "
                    f"{', '.join(self.names())}."
                )
            try:
                self._classes[name] = announced[name].load()
            except Exception as error:
                raise ValueError(
                    f"The {self.kind} {name!r} is announced as {announced[name].value!r}, but importing that failed with "
                    f"{type(error).__name__} ({error}); mend or uninstall the package that announces it."
                ) from error
        return self._classes[name]

    def new(self, name: str, **arguments: Any) -> T:
        """An object of the class of that name.

        Raises:
            ValueError: If there is none, or it refuses the arguments.
        """
        return self.get(name)(**arguments)

    def make(self, given: str | T) -> T:
        """What a user has given: an object as it is, or of a name the class with its defaults.

        Raises:
            ValueError: If the name is unknown, or the object is no such thing, a class for instance.
        """
        if isinstance(given, str):
            given = self._with_defaults(given)
        if isinstance(given, type):
            raise ValueError(
                f"{self.kind}={given.__name__} is given, which is a class, but an object is expected; pass "
                f"{self.kind}={given.__name__}()."
            )
        self.check(given)
        return given

    def _with_defaults(self, name: str) -> T:
        cls = self.get(name)
        try:
            inspect.signature(cls).bind()
        except TypeError as error:
            raise ValueError(
                f"{self.kind}={name!r} is given, but {cls.__name__} cannot be made without arguments ({error}); pass the "
                f"object {cls.__name__}(...)."
            ) from None
        return cls()

    def _announced(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}


def _origin(cls: type[Any]) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _check_memory(kind: str, part: Part) -> None:
    """Refuse a part that has some of the methods of one that remembers, but not all of them."""
    needed = ("reset", "state_dict", "load_state_dict")
    missing = [name for name in needed if getattr(type(part), name) is getattr(Part, name)]
    if 0 < len(missing) < len(needed):
        raise ValueError(
            f"{kind}={part!r} has no {' and no '.join(missing)}, but a {kind} that remembers something has all of "
            f"{', '.join(needed)}; add what is missing, as a checkpoint would not hold it."
        )


def check_policy(policy: Any) -> None:
    """Refuse what is not a policy.

    Raises:
        ValueError: If it is none, its ``plan`` cannot be called as policies are, or a checkpoint would lose its memory.
    """
    if not isinstance(policy, Policy):
        raise ValueError(
            f"policy={policy!r} is given, but a policy with a method plan(scores, ask) is expected; derive it from "
            "alignprune_pl.Policy."
        )
    _check_memory("policy", policy)
    try:
        inspect.signature(policy.plan).bind(None, None)
    except TypeError as error:
        raise ValueError(
            f"{type(policy).__name__}.plan cannot be called as plan(scores, ask) ({error}); give it these two parameters."
        ) from None


def check_score(score: Any) -> None:
    """Refuse what is not a score.

    Raises:
        ValueError: If it is none, does not state what it means by a valid word, or a checkpoint would lose its memory.
    """
    if not isinstance(score, Score):
        raise ValueError(
            f"score={score!r} is given, but a score that is called with the trajectories is expected; derive it from "
            "alignprune_pl.Score."
        )
    _check_memory("score", score)
    for name, words in (("low_is", get_args(Orientation)), ("observes", get_args(Observable))):
        try:
            check_word(name, getattr(score, name), words)
        except ValueError as error:
            raise ValueError(f"{score!r} is given, but {error}") from None
    if score.warm_up > 0 and score.rates_reference:
        raise ValueError(
            f"{score!r} has warm_up={score.warm_up}, in which the last loss is the score, but it rates the reference; use "
            "warm_up=0."
        )
    if score.warm_up > 0 and score.observes not in ("loss", "batch_loss"):
        raise ValueError(
            f"{score!r} has warm_up={score.warm_up}, in which the last loss is the score, but it observes {score.observes}; "
            "use warm_up=0."
        )


POLICIES: Registry[Policy] = Registry("policy", "alignprune_pl.policies", check_policy)
"""Every known policy by name."""

SCORES: Registry[Score] = Registry("score", "alignprune_pl.scores", check_score)
"""Every known score by name."""
