"""Human labels: what annotators took the images for."""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune_pl.noise.base import LabelledData

# The short names that users of CIFAR-10N go by.
ALIASES = {"aggre": "aggregate", "worse": "worst", "rand1": "random1", "rand2": "random2", "rand3": "random3"}


class Human:
    """Labels by human annotators (CIFAR-10N and CIFAR-100N: Wei et al., ICLR 2022, arXiv 2110.12088).

    Args:
        annotation: Which of the data set's sets of human labels, by its name; of CIFAR-10N also ``aggre``, ``worse``
            and ``rand1`` to ``rand3``. None takes the only one there is.
    """

    def __init__(self, annotation: str | None = None) -> None:
        self.annotation = annotation

    def __call__(self, data: LabelledData, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """The human labels, and where they are wrong if anybody knows; see :class:`~alignprune_pl.noise.Noise`.

        Raises:
            ValueError: If the data set has no human labels, or none of that name, or several and none is named.
        """
        human = data.annotations[self._name(data)]
        return human.clone(), None if data.clean is None else human != data.clean

    def _name(self, data: LabelledData) -> str:
        names = sorted(data.annotations)
        if not names:
            raise ValueError(f"{data.name} has no human labels; use dataset=cifar10n or dataset=cifar100n.")
        if self.annotation is None:
            if len(names) > 1:
                raise ValueError(
                    f"annotation=None is given, but {data.name} has more than one set of human labels; take one of "
                    f"{', '.join(names)}."
                )
            return names[0]
        for name in (self.annotation, ALIASES.get(self.annotation, self.annotation)):
            if name in data.annotations:
                return name
        raise ValueError(
            f"annotation={self.annotation!r} is given, but {data.name} has no human labels of that name; take one of "
            f"{', '.join(names)}."
        )

    def __repr__(self) -> str:
        return f"Human(annotation={self.annotation!r})"
