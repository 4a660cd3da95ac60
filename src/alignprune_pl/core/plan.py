"""What one epoch trains on: the contract between a policy, the sampler and the callback."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


def permutation(n: int, generator: torch.Generator) -> Tensor:
    """The numbers below n in random order, int32[n]; int64 from 2^31 on.

    The order is that of ``torch.randperm``. Half the bytes are moved in half the time, where there are many millions.
    """
    return torch.randperm(n, generator=generator, dtype=torch.int32 if n < 1 << 31 else torch.int64)


@dataclass(frozen=True)
class EpochPlan:
    """The samples of one epoch in training order, and the weight of each one's gradient.

    Attributes:
        keep: int64[k], indices into the training data set, in training order, none of them twice.
        weight: float32[k], aligned with ``keep``; a sample's loss is multiplied by it.
        probe: int64[p], samples to pass forward without training on them.

    Raises:
        ValueError: If a shape or dtype differs, an index or weight is negative, a weight is not finite, or a sample is
            kept or probed twice.
    """

    keep: Tensor
    weight: Tensor
    probe: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        for name, tensor, dtype in self._fields():
            if tensor.ndim != 1 or tensor.dtype != dtype:
                raise ValueError(
                    f"EpochPlan.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, but {dtype} of shape "
                    "(k,) is expected; convert it in the policy's `plan`."
                )
        if len(self.keep) != len(self.weight):
            raise ValueError(
                f"EpochPlan has {len(self.keep)} samples and {len(self.weight)} weights; give one weight a sample."
            )
        if len(self.weight) and not (self.weight.min() >= 0 and self.weight.sum().isfinite()):
            raise ValueError(
                "EpochPlan.weight holds a negative number, NaN or infinity, but finite factors from 0 up are expected; "
                "leave a sample out that should not count."
            )
        if len(self.keep) and self.keep.min() < 0:
            raise ValueError(
                f"EpochPlan.keep holds {int(self.keep.min())}, but indices into the training set are expected, from 0; "
                "convert a mask by `mask.nonzero().squeeze(1)`."
            )
        if len(self.probe) and (self.probe.min() < 0 or len(self.probe.unique()) != len(self.probe)):
            raise ValueError(
                "EpochPlan.probe holds an index below 0 or a sample twice, but each sample is probed at most once; give "
                "indices into the training set, from 0."
            )
        # A million flags are set in the time that sorting them would take ten times over.
        kept = torch.zeros(int(self.keep.max()) + 1 if len(self.keep) else 0, dtype=torch.bool)
        if int(kept.index_fill_(0, self.keep, True).sum()) != len(self.keep):
            raise ValueError(
                "EpochPlan.keep holds a sample twice, but an epoch trains each sample at most once; "
                "raise the sample's weight instead."
            )

    def _fields(self) -> Iterator[tuple[str, Tensor, torch.dtype]]:
        yield "keep", self.keep, torch.int64
        yield "weight", self.weight, torch.float32
        yield "probe", self.probe, torch.int64

    @classmethod
    def of(cls, keep: Tensor) -> EpochPlan:
        """A plan that gives every sample of ``keep`` (int64[k]) the weight one."""
        return cls(keep, torch.ones(len(keep), dtype=torch.float32))

    def shuffled(self, generator: torch.Generator) -> EpochPlan:
        """The same samples and weights in a random training order."""
        order = permutation(len(self.keep), generator)
        weight = self.weight if bool((self.weight == 1).all()) else self.weight.index_select(0, order)
        return EpochPlan(self.keep.index_select(0, order), weight, self.probe)

    def digest(self) -> str:
        """A hash of the whole plan, to compare ranks or runs with."""
        sha = hashlib.sha256()
        for name, tensor, _ in self._fields():
            sha.update(name.encode())
            sha.update(tensor.contiguous().numpy().tobytes())
        return sha.hexdigest()

    def state_dict(self) -> dict[str, Tensor]:
        """The plan's tensors by name."""
        return {name: tensor for name, tensor, _ in self._fields()}
