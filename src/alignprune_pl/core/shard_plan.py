"""A rank's part of an epoch's plan, where each rank trains the samples that it owns: how it is made, kept and served."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from alignprune_pl.core.contracts import Policy, Score, Scores
from alignprune_pl.core.distributed import all_reduce_sum, same_on_all_ranks
from alignprune_pl.core.draws import Draw
from alignprune_pl.core.plan import EpochPlan
from alignprune_pl.core.planner import Planner
from alignprune_pl.core.sampler import BatchSamples, PruningSampler, all_but
from alignprune_pl.core.shard_store import gather_into, of_all_ranks, own_part
from alignprune_pl.core.sharded import Shard
from alignprune_pl.core.streams import stream
from alignprune_pl.core.trajectory import TrajectoryStore

# Samples that a loader is given at once.
_SERVED = 1 << 16


@dataclass(frozen=True)
class ShardPlan(EpochPlan):
    """What a rank trains of an epoch; ``keep`` are places in its shard.

    Attributes:
        sizes: How many samples each rank trains.
        is_weighted: Whether any of them, of all ranks, has another weight than one.
    """

    sizes: tuple[int, ...] = (0,)
    is_weighted: bool = False

    def digest(self) -> str:
        """A hash of the plan and of how many the other ranks train, to compare with what a sampler serves."""
        return f"{super().digest()} {self.sizes} {self.is_weighted}"


class ShardPlanner(Planner):
    """A planner of a rank's own samples, of which no other rank knows.

    Args:
        policy: The host framework, which plans on shards.
        score: What it reads, of one sample at a time.
        seed: Of every random choice.
        shard: Whose samples it plans.
    """

    plan: ShardPlan

    def __init__(self, policy: Policy, score: Score, seed: int, shard: Shard) -> None:
        super().__init__(policy, score, seed)
        self.shard = shard

    def make(
        self,
        store: TrajectoryStore,
        scores: Scores,
        epoch: int,
        max_epochs: int | None,
        shuffles: bool,
        device: torch.device | None = None,
        draw: Draw | None = None,
    ) -> None:
        """Plan the own part of ``epoch`` from now on; all ranks must plan it together. See its base.

        Raises:
            ValueError: If the policy gives something else than a plan of these samples, or the ranks keep none.
            RuntimeError: If the ranks have other settings.
        """
        device = device or torch.device("cpu")
        alike = hashlib.sha256(f"{self.made_by()} {self.seed} {epoch} {max_epochs} {scores.low_is}".encode())
        if not same_on_all_ranks(int(alike.hexdigest()[:15], 16), device):
            raise RuntimeError(
                f"The ranks plan epoch {epoch} with other policies, scores or seeds, but all must select by the same; "
                "build the callback alike on each."
            )
        ask = self._ask(store, scores, epoch, max_epochs)
        planned = self.policy.plan_on_shards(Scores(scores.values.to(device), scores.low_is), ask, self.shard)
        plan = self._checked(planned, self.shard.size, epoch)
        if shuffles:
            plan = plan.shuffled(stream(self.seed, "order", epoch, self.shard.rank))
        self.plan = self._of_all(plan, device)
        self.epoch, self.max_epochs, self.draw = epoch, max_epochs, None

    def _of_all(self, plan: EpochPlan, device: torch.device) -> ShardPlan:
        """The plan with what it must know of the other ranks', by one all-reduce."""
        counts = torch.zeros(self.shard.world_size + 1, dtype=torch.int64, device=device)
        counts[self.shard.rank] = len(plan.keep)
        counts[-1] = int((plan.weight != 1).any())
        *sizes, weighted = all_reduce_sum(counts).tolist()
        return ShardPlan(plan.keep, plan.weight, plan.probe, tuple(sizes), weighted > 0)

    def state_of_ranks(self, device: torch.device) -> dict[str, Any]:
        """The state with the plans of all ranks, on the first one; all must ask together.

        Args:
            device: Where ranks exchange.
        """
        score = self.score.state_dict()
        of_samples = {name: of_all_ranks(score[name], self.shard, device) for name in self.score.by_sample or ()}
        return {
            **super().state_dict(),
            "score": {**score, **of_samples},
            "plan": {
                "keep": self._parts(self.plan.keep, device),
                "weight": self._parts(self.plan.weight, device),
                "is_weighted": self.plan.is_weighted,
            },
        }

    def _parts(self, own: Tensor, device: torch.device) -> list[Tensor]:
        """What each rank has of its plan, on the first one's CPU."""
        is_first, sizes = self.shard.rank == 0, self.plan.sizes
        parts = [torch.empty(size if is_first else 0, dtype=own.dtype) for size in sizes]
        gather_into(parts, own, max(sizes), device)
        return parts

    def load_state_of_ranks(self, state: dict[str, Any]) -> bool:
        """Take over the own part of a state; whether it has the plan, which that of another number of ranks has not.

        Raises:
            ValueError: If another policy or score has made it.
        """
        parts, shard = state["plan"], self.shard
        of_samples = {name: own_part(state["score"][name], shard) for name in self.score.by_sample or ()}
        has_plan = len(parts["keep"]) == shard.world_size
        own = {name: parts[name][shard.rank].clone() if has_plan else parts[name][0][:0] for name in ("keep", "weight")}
        self.load_state_dict({**state, "score": {**state["score"], **of_samples}, "plan": own})
        self.plan = ShardPlan(**own, sizes=tuple(map(len, parts["keep"])), is_weighted=parts["is_weighted"])
        return has_plan


class ShardSampler(PruningSampler):
    """Serves a rank the samples of its own plan.

    Each rank has as many samples as the one with the most, and so as many batches: where its own are fewer, it repeats
    some with weight zero. The last batch is left out as its base does.

    Args:
        shard: The samples of this rank.
        plan: The plan of the first epoch.
        batch_size: Samples a batch on each rank.
        epoch: As :meth:`set_plan` has it.
    """

    def __init__(self, shard: Shard, plan: ShardPlan, batch_size: int, epoch: int = 0) -> None:
        self.shard = shard
        super().__init__(shard.num_samples, plan, batch_size, shard.world_size, shard.rank, epoch=epoch)

    def set_plan(self, plan: EpochPlan, draw: Draw | None = None, epoch: int = 0) -> None:
        """Serve ``plan`` from the next iterator on; see its base.

        Raises:
            ValueError: If no rank keeps a sample.
        """
        assert isinstance(plan, ShardPlan), "of a rank's own samples"
        own, most = len(plan.keep), max(plan.sizes)
        if most == 0:
            raise ValueError("The policy kept no sample for the next epoch; lower its pruning ratio.")
        rest = most % self.batch_size
        if self.batch_size > 1 and rest < most < -(-self.full // self.num_replicas) and rest < self._least():
            most -= rest
        real = min(own, most)
        stays = all_but(own, own - real, epoch)
        # A rank that keeps nothing has a sample all the same.
        place, weight = (plan.keep[stays], plan.weight[stays]) if own else (torch.zeros(1).long(), torch.zeros(1))
        position = torch.arange(most) % len(place)
        weight = weight[position]
        weight[real:] = 0.0
        is_uneven = min(plan.sizes) != max(plan.sizes)
        mine = BatchSamples(self.shard.samples(place[position]), weight, real)
        self._serve(mine, plan.is_weighted or is_uneven)

    def _least(self) -> int:
        """How many samples a rank's last batch must have."""
        last = -(-self.full // self.num_replicas) % self.batch_size or self.batch_size
        return max(2, min(last, self.batch_size // 4))

    def trained(self, batches: int) -> Tensor:
        """The samples in the first ``batches`` batches of this rank alone, int64[k]."""
        return self.mine.index[: min(batches * self.batch_size, self.mine.real)]

    def __iter__(self) -> Iterator[int]:
        skip, self._skip_batches = self._skip_batches, 0
        rest = self.mine.index[skip * self.batch_size :]
        # Python's whole numbers take five times what a tensor's do.
        return chain.from_iterable(part.tolist() for part in rest.split(_SERVED))
