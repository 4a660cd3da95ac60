"""How strongly another class rivals a sample's label, and how often it does so compared with the clean reference."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignprune_pl.core.checking import check_number
from alignprune_pl.core.orientation import Orientation
from alignprune_pl.core.registry import SCORES
from alignprune_pl.core.trajectory import Observable, Observed, TrajectoryStore, lead
from alignprune_pl.scores.trajectory_mean import DecayedMean

# The share of an epoch's pairs in those of the next.
_PAIR_DECAY = 0.7


@SCORES.register("rival")
class RivalScore(DecayedMean):
    """The mean of a sample's losses against its strongest other class, shifted by how unusual the two are; low is easy.

    Of a sample with label y and strongest other class k, the loss log(1 + exp(m)), m = z_k - z_y, asks which of the two
    it is. A hard sample with several classes to choose from has a high loss, but a low one against its rival.

    The shift tells classes that are alike from labels that are wrong. Where k wins over y more often than it does in the
    reference, the pair is suspect: m is raised by log((a + f_yk) / (a + g_yk)). Here f is the share of the samples with
    label y that k wins, each counted by sigmoid(m). g is the same of the reference. Both are averaged over epochs. Few
    reference samples of a class say little, so g counts ``pull`` more samples with the share f.

    Without a reference there is no shift, nor where label and rival are not known, as with a loss without logits. Without
    logits the loss itself takes the place of the loss against the rival.

    Args:
        decay: The weight of an epoch in that of the next one, in [0, 1); 0.8 halves it in three epochs.
        pair_floor: a, above 0: shares far below it are alike.
        pull: Reference samples of each class that are made up, at least 0.

    Raises:
        ValueError: If one of them is out of range.

    Source: the area under the margin (Pleiss et al., NeurIPS 2020) with a margin as a loss. Pairs are compared with clean
    samples as in gold loss correction (Hendrycks et al., NeurIPS 2018) and confident learning (Northcutt et al., JAIR 2021).
    """

    low_is: Orientation = "easy"
    observes: Observable = "rival"
    by_sample = None  # it counts the pairs of classes of all samples

    def __init__(self, decay: float = 0.8, pair_floor: float = 0.1, pull: float = 1.0) -> None:
        self.pair_floor = check_number("pair_floor", pair_floor, "[1e-6, inf)", "a share")
        self.pull = check_number("pull", pull, "[0, inf)", "a number of samples")
        super().__init__(decay)

    def reset(self) -> None:
        """Forget all losses and pairs."""
        super().reset()
        self._pairs = torch.empty(2, 0, 0, dtype=torch.float32)
        self._pair_weight = 0.0

    def _newest(self, store: TrajectoryStore) -> tuple[Tensor, Tensor]:
        newest, reference = store.newest(), store.newest_reference
        training = Observed(store.last_loss(), store.last_pair(), store.classes)
        if store.classes != reference.classes or not bool((reference.pair_or_unknown() >= 0).any()):
            return newest, reference.value
        shift = self._shift(training, reference).to(newest.device)
        return (
            _shifted(Observed(newest, training.pair, store.classes), shift),
            _shifted(reference, shift.to(reference.value.device)),
        )

    def _shift(self, training: Observed, reference: Observed) -> Tensor:
        """What is added to m, float32[C * C] by pair."""
        (wins, sizes), (reference_wins, reference_sizes) = (
            _wins(part, training.classes) for part in (training, reference)
        )
        share = wins / sizes.clamp(min=1)
        reference_share = (reference_wins + self.pull * share) / (reference_sizes + self.pull).clamp(min=1e-6)
        # Of a class without reference samples nothing is known.
        reference_share = torch.where(reference_sizes > 0, reference_share, share)
        if self._pairs.shape[1] != training.classes:
            self._pairs = torch.zeros(2, training.classes, training.classes, dtype=torch.float32)
            self._pair_weight = 0.0
        self._pairs = _PAIR_DECAY * self._pairs + torch.stack([share, reference_share])
        self._pair_weight = _PAIR_DECAY * self._pair_weight + 1
        raised = self._pairs / self._pair_weight + self.pair_floor
        return (raised[0] / raised[1]).log().flatten()

    def state_dict(self) -> dict[str, Any]:
        """That of the mean, and the shares of pairs, float32[2, C, C]."""
        return {**super().state_dict(), "pairs": self._pairs, "pair_weight": self._pair_weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        super().load_state_dict(state)
        self._pairs, self._pair_weight = state["pairs"], state["pair_weight"]


def _shifted(observed: Observed, shift: Tensor) -> Tensor:
    """The losses against rivals, float[b], with m raised by ``shift`` (float[C * C]) where the pair is known."""
    pair = observed.pair_or_unknown().to(shift.device)
    raised = F.softplus(lead(observed.value) + shift[pair.clamp(min=0)])
    return torch.where(pair >= 0, raised, observed.value)


def _wins(observed: Observed, classes: int) -> tuple[Tensor, Tensor]:
    """How often each rival wins over each label, float32[C, C], and how many samples each label has, float32[C, 1]."""
    # On the CPU, where sums have an order, so that all ranks come to the same ones.
    pair, value = observed.pair_or_unknown().cpu(), observed.value.cpu()
    known = (pair >= 0) & ~value.isnan()
    pair, won = pair[known], torch.sigmoid(lead(value[known]))
    wins = torch.zeros(classes * classes, dtype=torch.float64).index_add_(0, pair, won.double())
    sizes = torch.bincount(pair // classes, minlength=classes)
    return wins.float().view(classes, classes), sizes.float()[:, None]
