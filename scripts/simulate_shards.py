"""An epoch's end of a billion samples on 64 ranks, one rank after the other; or of real processes, with --processes.

python scripts/simulate_shards.py [--samples 1000000000] [--ranks 64]
python scripts/simulate_shards.py --samples 100000000 --processes 2 --window 4

Every loss is a function of its sample's index, so that nothing is ever held of all samples. Each rank trains on a
contiguous part of the data set and owns the samples whose index modulo the number of ranks is its own. Its losses go to
their owners, which close the epoch, score it by the loss, and plan the next one by InfoBatch and by small loss. What a
rank holds and sends is measured and compared with the formula of docs/scale.md; with --check the command fails where
they differ. The sums of indices are those of a selection, to compare runs by.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import resource
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from alignprune_pl.core.contracts import Ask, Scores
from alignprune_pl.core.over_ranks import NUMBER_BITS, Numbers, Part, exact_mean, exact_sums
from alignprune_pl.core.sharded import PAIR_BYTES, Rule, Shard, ShardedStore
from alignprune_pl.core.streams import stream
from alignprune_pl.policies import InfoBatch, SmallLoss
from alignprune_pl.policies.on_shards import (
    infobatch_on_shards,
    infobatch_rule,
    small_loss_on_shards,
    smallest_rule,
)
from alignprune_pl.policies.subsets import kept_count

BLOCK = 1 << 18
EXCHANGED = 1 << 21  # losses that wait at the most
INFOBATCH, SMALL_LOSS = InfoBatch(0.5), SmallLoss(0.3)
LOSSES = Numbers.drawn(stream(0, "noise"))


def loss_of(index: Tensor) -> Tensor:
    """Of each sample (int64[b]): exponentially distributed, float32[b]."""
    return LOSSES(index).double().add_(0.5).mul_(0.5**NUMBER_BITS).log_().neg_().float()


def numbers() -> Numbers:
    """What decides at random in epoch 1."""
    return Numbers.drawn(stream(0, "plan", 1))


def blocks(start: int, stop: int, size: int = BLOCK) -> Iterator[Tensor]:
    """The whole numbers from ``start`` to ``stop``, some at a time."""
    for first in range(start, stop, size):
        yield torch.arange(first, min(first + size, stop))


def trained_by(shard: Shard) -> Iterator[Tensor]:
    """The samples that a rank trains on, not those that it owns."""
    n, world, rank = shard.num_samples, shard.world_size, shard.rank
    return blocks(n * rank // world, n * (rank + 1) // world, EXCHANGED)


def held(store: ShardedStore) -> int:
    """Bytes of all tensors of a store."""
    return sum(value.nbytes for value in vars(store.own).values() if isinstance(value, Tensor))


def formula(shard: Shard, window: int) -> int:
    """The same by docs/scale.md, where trajectories are held in bfloat16."""
    return shard.size * (2 * window + 16) + 4 * window + 4


def peak() -> float:
    """GB that this process has had at the most, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Clock:
    """The time of this process since the last question."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def spent(self) -> str:
        """Seconds of a core and of the clock."""
        before = self._cpu, self._wall
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return f"{self._cpu - before[0]:.1f} s of a core in {self._wall - before[1]:.1f} s"

    def say(self, what: str) -> None:
        """Print what has been done."""
        print(f"{what}; {self.spent()}", flush=True)


# ---- one process, rank after rank ---------------------------------------------------------------------------


class Simulated:
    """All ranks in turn: what they would add up, and how many bytes of it.

    Attributes:
        shards: Those of all ranks.
        added_up: The bytes of each sum over ranks.
    """

    def __init__(self, num_samples: int, ranks: int) -> None:
        self.shards = [Shard(num_samples, ranks, rank) for rank in range(ranks)]
        self.added_up: list[int] = []

    def summed(self, part: Part) -> Tensor:
        """What ``part`` says of all samples, added up."""
        places = ((shard, place) for shard in self.shards for place in blocks(0, shard.size))
        return self.reduced(part(index, loss_of(index)) for index in (shard.samples(place) for shard, place in places))

    def reduced(self, parts: Iterable[Tensor]) -> Tensor:
        """The sum of what the ranks have."""
        total = functools.reduce(torch.add, parts)
        self.added_up.append(total.nbytes)
        return total

    def sent(self) -> float:
        """Bytes that a rank has sent to add up, in a ring."""
        return sum(self.added_up) * 2 * (1 - 1 / len(self.shards))


def closed_epoch(shard: Shard, window: int) -> tuple[ShardedStore, int]:
    """A rank's store after an epoch, and the bytes of losses that it has sent to others."""
    store, sent = ShardedStore(shard, window), 0
    for index in trained_by(shard):
        store.record(index, loss_of(index))
        sent += sum(pairs.nbytes for rank, pairs in enumerate(store.leaving()) if rank != shard.rank)
    # What all ranks together have sent to this one.
    for place in blocks(0, shard.size, EXCHANGED):
        store.receive(torch.stack([place.int(), loss_of(shard.samples(place)).view(torch.int32)], dim=1))
    store.own.close_epoch()
    return store, sent


def closed_epochs(simulated: Simulated, window: int, missed: list[str]) -> float:
    """The mean of all losses, after an epoch of every rank."""
    sums, most, world = [], 0, len(simulated.shards)
    for shard in simulated.shards:
        store, sent = closed_epoch(shard, window)
        sums.append(functools.reduce(torch.add, map(exact_sums, store.own.last_loss().split(BLOCK))))
        most, size = max(most, sent), held(store)
        if size != formula(shard, window):
            missed.append(f"rank {shard.rank} holds {size:,} bytes, not {formula(shard, window):,}")
        del store  # the peak of memory is that of one rank
    expected = PAIR_BYTES * shard.num_samples / world * (1 - 1 / world)
    print(f"trajectories: {size / 1e6:,.1f} MB on a rank, {formula(shard, window) / 1e6:,.1f} by the formula")
    print(f"losses: {most / 1e6:,.1f} MB sent by a rank, {expected / 1e6:,.1f} by the formula")
    if abs(most - expected) > 2 * PAIR_BYTES:
        missed.append(f"a rank sends {most:,} bytes of losses, not {expected:,.0f}")
    return exact_mean(lambda _: simulated.reduced(sums))


def selected(rules: Iterable[Rule], index: Tensor, loss: Tensor) -> Tensor:
    """Of each rule how many samples it keeps, and the sum of their indices: int64[rules, 2]."""
    kept = [rule(index, loss) > 0 for rule in rules]
    return torch.stack([torch.stack([mask.sum(), index[mask].sum()]) for mask in kept])


def simulate(num_samples: int, ranks: int, window: int) -> list[str]:
    """Print an epoch's end; what differs from the formula."""
    clock, simulated, missed = Clock(), Simulated(num_samples, ranks), []
    print(
        f"{num_samples:,} samples on {ranks} ranks, {simulated.shards[-1].size:,} on the last; window {window}, bfloat16"
    )
    mean = closed_epochs(simulated, window, missed)
    clock.say(f"mean loss {mean!r}")
    size = kept_count(num_samples, SMALL_LOSS.ratio)
    rules = {
        "infobatch": infobatch_rule(simulated.summed, mean, INFOBATCH.ratio, numbers()),
        "small_loss": smallest_rule(simulated.summed, num_samples, size, numbers()),
    }
    asked = ", ".join(f"{size:,}" for size in simulated.added_up[1:])
    clock.say(f"added up: {asked} bytes; {simulated.sent() / 1e6:.1f} MB sent by a rank, in a ring")
    for name, figures in zip(rules, simulated.summed(lambda *block: selected(rules.values(), *block)), strict=True):
        plan = f"a plan of {12e-6 * figures[0] / ranks:,.1f} MB a rank"
        print(f"{name} keeps {figures[0]:,} of sum {figures[1]:,}, {plan}")
    clock.say("planned")
    print(f"peak of this process: {peak():.2f} GB")
    return missed


# ---- real processes -----------------------------------------------------------------------------------------


class Sent:
    """Counts the bytes that a rank sends to others to exchange losses."""

    def __init__(self) -> None:
        self.bytes = 0
        self._all_to_all = dist.all_to_all_single
        dist.all_to_all_single = self

    def __call__(self, output: Tensor, given: Tensor, *splits: list[int]) -> None:
        """Exchange, and count."""
        leaving = given.split(splits[1] if splits else 1)
        self.bytes += sum(part.nbytes for rank, part in enumerate(leaving) if rank != dist.get_rank())
        self._all_to_all(output, given, *splits)


def process(rank: int, arguments: argparse.Namespace, port: int, folder: str) -> None:
    """One of the ranks."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=arguments.processes)
    shard, clock, sent = Shard(arguments.samples, arguments.processes, rank), Clock(), Sent()
    store = ShardedStore(shard, arguments.window)
    trained = trained_by(shard)
    for _ in range(math.ceil(arguments.samples / arguments.processes / EXCHANGED)):
        for index in itertools.islice(trained, 1):
            store.record(index, loss_of(index))
        store.exchange()
    store.close_epoch()
    said = [
        f"process {rank}: trajectories {held(store) / 1e6:,.1f} MB, {formula(shard, arguments.window) / 1e6:,.1f} by the "
        f"formula; losses {sent.bytes / 1e6:,.1f} MB sent; {clock.spent()}"
    ]
    scores = Scores(store.own.last_loss())
    for name, planned in (
        ("infobatch", lambda ask: infobatch_on_shards(INFOBATCH, scores, ask, shard)),
        ("small_loss", lambda ask: small_loss_on_shards(SMALL_LOSS, scores, ask, shard)),
    ):
        plan = planned(Ask(1, stream(0, "plan", 1)))
        figures = torch.tensor([len(plan.keep), int(plan.keep.sum()) * shard.world_size + len(plan.keep) * rank])
        dist.all_reduce(figures)
        held_by_plan = (plan.keep.nbytes + plan.weight.nbytes) / 1e6
        said.append(
            f"process {rank}: {name} keeps {figures[0]:,} of sum {figures[1]:,} with the others; its plan "
            f"{held_by_plan:,.1f} MB; {clock.spent()}"
        )
        del plan  # one at a time
    missed = "" if held(store) == formula(shard, arguments.window) else f"missed: process {rank} holds more or less\n"
    Path(folder, str(rank)).write_text(missed + "\n".join([*said, f"process {rank}: peak {peak():.2f} GB"]) + "\n")
    dist.barrier()
    dist.destroy_process_group()


def run_processes(arguments: argparse.Namespace) -> list[str]:
    """Run them and print what they say; what differs from the formula."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    print(f"{arguments.samples:,} samples in {arguments.processes} processes; window {arguments.window}, bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, (arguments, port, folder), arguments.processes)
        said = [line for file in sorted(Path(folder).iterdir()) for line in file.read_text().splitlines()]
    print("\n".join(line for line in said if not line.startswith("missed")))
    return [line.removeprefix("missed: ") for line in said if line.startswith("missed")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10**9)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--processes", type=int, default=0, help="real ones, instead of the simulation")
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--check", action="store_true", help="exit with 1 where the formula does not hold")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.processes:
        missed = run_processes(arguments)
    else:
        missed = simulate(arguments.samples, arguments.ranks, arguments.window)
    for line in missed:
        print(f"missed: {line}")
    if missed and arguments.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
