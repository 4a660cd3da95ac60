"""Lightning under its other name: what holds with ``lightning`` holds with ``pytorch_lightning``.

They are one package by two names, but a class of the one is none of the other. ``pytorch_lightning`` is never imported
here: what the user has imported of it is looked up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar

import lightning.pytorch as pl
from lightning.fabric.utilities import exceptions

T = TypeVar("T")
Self = TypeVar("Self", bound="UnderBothNames")


def twins(cls: type[T]) -> tuple[type[T], ...]:
    """A class of Lightning's and, where that is imported, the one that ``pytorch_lightning`` has in its place."""
    twin = _twin(cls)
    return (cls,) if twin is cls else (cls, twin)


def of_trainer(trainer: pl.Trainer, function: T) -> T:
    """A function of Lightning's, out of the package that the Trainer is of."""
    return _twin(function) if _package(trainer) == "pytorch_lightning" else function


def version_of(trainer: pl.Trainer) -> str:
    """The version of the package that the Trainer is of."""
    return str(sys.modules[_package(trainer)].__version__)


class UnderBothNames:
    """A class with this base before one of Lightning's derives from that one's twin as well.

    The twin is often imported later than the class is made, so its bases are completed when an object is made.
    """

    def __new__(cls: type[Self], *args: Any, **kwargs: Any) -> Self:
        """As the next base does."""
        cls.join_twins()
        return super().__new__(cls)

    @classmethod
    def join_twins(cls) -> None:
        """Derive from the twins that are imported by now."""
        for ours in cls.__mro__:
            if UnderBothNames in ours.__bases__:
                bases: Iterator[type] = chain.from_iterable(map(twins, ours.__bases__))
                ours.__bases__ = tuple(dict.fromkeys(bases))


class MisconfigurationException(UnderBothNames, exceptions.MisconfigurationException):
    """What AlignPrune refuses a run with; it is caught as Lightning's, under both names."""


def _twin(thing: Any) -> Any:
    home = thing.__module__.replace("lightning.pytorch", "pytorch_lightning", 1)
    home = home.replace("lightning.fabric", "lightning_fabric", 1)
    return getattr(sys.modules.get(home), thing.__name__, thing)


def _package(trainer: pl.Trainer) -> str:
    return type(trainer.state).__module__.split(".")[0]  # the Trainer's own class may be the user's
