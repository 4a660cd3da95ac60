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
    reference samples of a class say little, so g counts ``pull`` more samples with the share f. A reference sample is rated
    as if it were a training sample: its f counts it, and its g does not, or it would look more usual than they do.

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
        self._moved = torch.empty(2, 0, 0, dtype=torch.float32)
        self._pair_weight = 0.0

    def _newest(self, store: TrajectoryStore) -> tuple[Tensor, Tensor]:
        newest, reference = store.newest(), store.newest_reference
        training = Observed(store.last_loss(), store.last_pair(), store.classes)
        if store.classes != reference.classes or not bool((reference.pair_or_unknown() >= 0).any()):
            return newest, reference.value
        shares, reference_shares = self._shares(training, reference)
        return self._raised(Observed(newest, training.pair), shares), self._raised(reference, reference_shares)

    def _shares(self, training: Observed, reference: Observed) -> tuple[Tensor, Tensor]:
        """The f and g of each training sample's pair, float32[2, n], and of each reference sample's, [2, r]."""
        classes = training.classes
        (wins, sizes), (clean_wins, clean_sizes) = _wins(training), _wins(reference)
        share = wins / sizes.clamp(min=1)
        shares = torch.stack([share, self._pulled(clean_wins, clean_sizes, clean_sizes, share)])
        # What is other for a reference sample, as one of the training set and none of the reference.
        counts, pair, won = _won(reference)
        label, rival = pair // classes, pair % classes
        own = torch.zeros(len(pair), classes, dtype=torch.float32).scatter_(1, rival[:, None], won[:, None])
        share = (wins[label] + own) / (sizes[label] + 1)
        others = self._pulled(clean_wins[label] - own, clean_sizes[label] - 1, clean_sizes[label], share)
        moved = torch.where(counts[:, None], torch.stack([share, others]) - shares[:, label], 0.0)
        if self._pairs.shape != shares.shape:
            self._pairs, self._pair_weight = torch.zeros_like(shares), 0.0
        if self._moved.shape != moved.shape:
            self._moved = torch.zeros_like(moved)
        self._pairs = _PAIR_DECAY * self._pairs + shares
        self._moved = _PAIR_DECAY * self._moved + moved
        self._pair_weight = _PAIR_DECAY * self._pair_weight + 1

        shares = (self._pairs / self._pair_weight).flatten(1)
        moved = self._moved[:, torch.arange(len(pair)), rival] / self._pair_weight
        return shares[:, training.pair_or_unknown().cpu().clamp(min=0)], (shares[:, pair] + moved).clamp(min=0)

    def _pulled(self, wins: Tensor, sizes: Tensor, all_sizes: Tensor, share: Tensor) -> Tensor:
        """The shares of ``sizes`` reference samples, drawn to ``share`` as those of ``all_sizes`` are; it, of none."""
        return torch.where(sizes > 0, torch.lerp(wins / sizes, share, self.pull / (all_sizes + self.pull)), share)

    def _raised(self, observed: Observed, shares: Tensor) -> Tensor:
        """The losses against rivals, float[b], with m raised by ``shares``, float32[2, b], where the pair is known."""
        value = observed.value
        shift = (shares + self.pair_floor).log()
        raised = F.softplus(lead(value) + (shift[0] - shift[1]).to(value.device))
        return torch.where(observed.pair_or_unknown().to(value.device) >= 0, raised, value)

    def state_dict(self) -> dict[str, Any]:
        """That of the mean; f and g, float32[2, C, C]; what reference samples change in them, float32[2, r, C]."""
        return {
            **super().state_dict(),
            "pairs": self._pairs,
            "moved": self._moved,
            "pair_weight": self._pair_weight,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        super().load_state_dict(state)
        self._pairs, self._moved, self._pair_weight = state["pairs"], state["moved"], state["pair_weight"]


def _won(observed: Observed) -> tuple[Tensor, Tensor, Tensor]:
    """Which samples count, bool[b], their pairs, int64[b], and what rivals won of them, float32[b], 0 where not known."""
    # On the CPU, where sums have an order, so that all ranks come to the same ones.
    pair, value = observed.pair_or_unknown().cpu(), observed.value.cpu()
    counts = (pair >= 0) & ~value.isnan()
    return counts, pair.clamp(min=0), torch.where(counts, torch.sigmoid(lead(value)), 0.0).float()


def _wins(observed: Observed) -> tuple[Tensor, Tensor]:
    """How often each rival wins over each label, float32[C, C], and how many samples each label has, float32[C, 1]."""
    classes = observed.classes
    counts, pair, won = _won(observed)
    wins = torch.zeros(classes * classes, dtype=torch.float64).index_add_(0, pair, won.double())
    sizes = torch.bincount(pair[counts] // classes, minlength=classes)
    return wins.float().view(classes, classes), sizes.float()[:, None]
