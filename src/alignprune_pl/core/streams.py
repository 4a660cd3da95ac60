"""Every stream of random numbers that a run draws from, in one table: no two are the same, none is the global one."""

from __future__ import annotations

import hashlib

import torch

_FAR = -(1 << 40)  # no run has so many epochs

# Of each stream the number that goes into its seed, and what every epoch adds to it.
_STREAMS = {
    "plan": (0, 1),  # an epoch's plan, and the order of its samples
    "reference": (-1, 0),  # which samples are split off as the reference
    "noise": (-2, 0),  # which labels become wrong, and how
    "augmentation": (-3, -1),  # of an epoch, in memory
    "draw": (_FAR, 0),  # which samples of a data set are taken at all
    "disturbance": (_FAR - 1, 0),  # of a reference, in a study of what a reference must be
    "pseudo_clean": (_FAR - 2, 0),  # which samples are picked as the reference
    "shown": (_FAR - 3, 0),  # whose trajectories are kept for the report
    "mixture": (_FAR - 4, 0),  # which of very many scores two normal distributions are fitted to
    "order": (_FAR - 5, -1),  # of an epoch, in which order a rank trains the samples that it owns
}
# Makes another stream of an epoch's own seed.
_CALIBRATION = 0x5DEECE66D


def stream(seed: int, name: str, epoch: int = 0, rank: int = 0) -> torch.Generator:
    """A generator of its own for one purpose, so that no draw depends on the global random state.

    The same arguments give the same numbers on every rank and after a resume. Seed and purpose go through a hash because
    neighbouring seeds of a Mersenne twister start out correlated.

    Args:
        seed: The run's seed.
        name: What is drawn: ``"plan"`` or ``"augmentation"`` of an epoch, ``"reference"``, ``"noise"``, ``"draw"``,
            ``"disturbance"``, ``"pseudo_clean"``, ``"shown"``, ``"mixture"`` or, of an epoch, ``"order"``.
        epoch: The epoch, from 0, where the stream is one of an epoch.
        rank: The rank, from 0, where each draws by itself.

    Example:
        >>> torch.equal(torch.rand(3, generator=stream(0, "plan", 4)), torch.rand(3, generator=stream(0, "plan", 4)))
        True
    """
    first, step = _STREAMS[name]
    of_rank = f"/{rank}" if rank else ""
    digest = hashlib.sha256(f"{seed}/{first + step * epoch}{of_rank}".encode()).digest()
    # The CPU generator keeps 32 bits of its seed.
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def calibration_stream(plan: torch.Generator) -> torch.Generator:
    """The stream that draws the calibration samples, from that of the epoch's plan.

    The plan's own shuffles its samples: by the same numbers, the calibration samples would be the first of them.
    """
    return torch.Generator().manual_seed(plan.initial_seed() ^ _CALIBRATION)
