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
    reference samples of a class say little, so g counts ``pull`` more samples with the share f. What a reference sample is
    compared with is the rest of the reference: with itself in it, it would look more usual than a training sample.

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
        self._added_by = torch.empty(0, 0, dtype=torch.float32)
        self._pair_weight = 0.0

    def _newest(self, store: TrajectoryStore) -> tuple[Tensor, Tensor]:
        newest, reference = store.newest(), store.newest_reference
        training = Observed(store.last_loss(), store.last_pair(), store.classes)
        if store.classes != reference.classes or not bool((reference.pair_or_unknown() >= 0).any()):
            return newest, reference.value
        shift, reference_shift = self._shifts(training, reference)
        return _raised(Observed(newest, training.pair), shift), _raised(reference, reference_shift)

    def _shifts(self, training: Observed, reference: Observed) -> tuple[Tensor, Tensor]:
        """What is added to m: of each training sample, float32[n], and of each reference sample, float32[r]."""
        classes = training.classes
        (wins, sizes), (reference_wins, reference_sizes) = _wins(training), _wins(reference)
        share = wins / sizes.clamp(min=1)
        reference_share = self._pulled(reference_wins, reference_sizes, share)
        # What each reference sample adds to the shares of its label.
        counts, pair, won = _won(reference)
        label, rival = pair // classes, (pair % classes)[:, None]
        others = reference_wins[label].scatter_add(1, rival, -won[:, None]).clamp(min=0)
        added = reference_share[label] - self._pulled(others, reference_sizes[label] - 1, share[label])
        added = torch.where(counts[:, None], added, 0.0)
        if self._pairs.shape[1] != classes:
            self._pairs = torch.zeros(2, classes, classes, dtype=torch.float32)
            self._pair_weight = 0.0
        if self._added_by.shape != added.shape:
            self._added_by = torch.zeros_like(added)
        self._pairs = _PAIR_DECAY * self._pairs + torch.stack([share, reference_share])
        self._added_by = _PAIR_DECAY * self._added_by + added
        self._pair_weight = _PAIR_DECAY * self._pair_weight + 1

        share, reference_share = (self._pairs / self._pair_weight).flatten(1)
        shift = self._shift(share, reference_share)[training.pair_or_unknown().cpu().clamp(min=0)]
        added = self._added_by.gather(1, rival)[:, 0] / self._pair_weight
        return shift, self._shift(share[pair], (reference_share[pair] - added).clamp(min=0))

    def _pulled(self, wins: Tensor, sizes: Tensor, share: Tensor) -> Tensor:
        """The reference's shares, drawn to those of the training set; of a class without samples nothing else is known."""
        pulled = (wins + self.pull * share) / (sizes + self.pull).clamp(min=1e-6)
        return torch.where(sizes > 0, pulled, share)

    def _shift(self, share: Tensor, reference_share: Tensor) -> Tensor:
        return ((share + self.pair_floor) / (reference_share + self.pair_floor)).log()

    def state_dict(self) -> dict[str, Any]:
        """That of the mean; shares of pairs, float32[2, C, C]; what reference samples add, float32[r, C]."""
        return {
            **super().state_dict(),
            "pairs": self._pairs,
            "added_by": self._added_by,
            "pair_weight": self._pair_weight,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        super().load_state_dict(state)
        self._pairs, self._added_by, self._pair_weight = state["pairs"], state["added_by"], state["pair_weight"]


def _raised(observed: Observed, shift: Tensor) -> Tensor:
    """The losses against rivals, float[b], with m raised by ``shift`` (float32[b]) where the pair is known."""
    value = observed.value
    raised = F.softplus(lead(value) + shift.to(value.device))
    return torch.where(observed.pair_or_unknown().to(value.device) >= 0, raised, value)


def _won(observed: Observed) -> tuple[Tensor, Tensor, Tensor]:
    """Which samples count, bool[b], their pairs, int64[b], and what rivals won of them, float32[b], 0 where not known."""
    # On the CPU, where sums have an order, so that all ranks come to the same ones.
    pair, value = observed.pair_or_unknown().cpu(), observed.value.cpu()
    counts = (pair >= 0) & ~value.isnan()
    return counts, pair.clamp(min=0), torch.where(counts, torch.sigmoid(lead(value)), 0.0)


def _wins(observed: Observed) -> tuple[Tensor, Tensor]:
    """How often each rival wins over each label, float32[C, C], and how many samples each label has, float32[C, 1]."""
    classes = observed.classes
    counts, pair, won = _won(observed)
    wins = torch.zeros(classes * classes, dtype=torch.float64).index_add_(0, pair, won.double())
    sizes = torch.bincount(pair[counts] // classes, minlength=classes)
    return wins.float().view(classes, classes), sizes.float()[:, None]
