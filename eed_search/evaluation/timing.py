"""How long a call takes on a machine that is never quite still: contestants in turns, typical calls, medians of rounds.

All contestants are timed in one process, block by block in random order, so that what slows the
machine down meets them alike. What counts is a block's typical call, its lower quartile: on a shared machine
the mean of a block drifts ten times as much (docs/log.md, 2026-11-21), and its median still rises when every
second call is disturbed (2026-11-22). Calls far shorter than a scheduler's slice are timed by the wall clock, for they are rarely interrupted; longer ones by the
process's CPU clock, whose reading (0.6 µs) would weigh on short ones.

What shares a core with somebody else's work has two speeds: the caches and the pipeline are its own, or
half of them. No clock tells them apart, and a small network loses more than a large one, so ratios differ
too. A share of the rounds is therefore left out: those in which a contestant was slower than it can be.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from eed_search.runs.records import Interval

WARM_UP_S, WARM_UP_CALLS = 0.5, 10
MIN_CALLS = 1000  # single calls below which no p50 and p95 are given
NUM_DOUBLINGS = 2  # doublings of the rounds before a measurement is called noisy
QUIET = 1.05  # times a contestant's own fast time up to which a round counts as undisturbed
_TYPICAL = 0.25  # quantile of a block's calls
_FEWEST_UNDISTURBED = 5
_FAST = 5  # percentile of a contestant's rounds that is its fast time
_SHORT_CALL_MS = 0.5  # calls up to which the wall clock ranks; a scheduler's slice is some milliseconds
_NUM_RESAMPLES = 4000
_MAX_SLICES, _SLICE_CALLS = 8, 10  # a block's slices at most, and the calls that each holds at least

Name = TypeVar("Name", bound=Hashable)
Call = Callable[[int], object]
"""Classifies image number i; the result is thrown away."""


@dataclass(frozen=True)
class Clock:
    """Where times come from.

    Attributes:
        wall_ns: Nanoseconds that have passed, since whenever.
        cpu_ns: Nanoseconds that this process has computed for.
    """

    wall_ns: Callable[[], int] = time.perf_counter_ns
    cpu_ns: Callable[[], int] = time.process_time_ns


MACHINE = Clock()

# ---------------------------------------------------------------- pure parts


def median_interval(values: Float[np.ndarray, " rounds"], seed: int = 0) -> Interval:
    """Give the median with its 95 % bootstrap interval.

    Args:
        values: One value for each round, at least one.
        seed: Seed for the resampling.

    Returns:
        The median, and the 2.5th and 97.5th percentile of the medians of resampled rounds.

    Source:
        Efron 1979 (percentile bootstrap), https://doi.org/10.1214/aos/1176344552.
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(values), (_NUM_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[picks], axis=1), [0.025, 0.975])
    return Interval(float(np.median(values)), float(low), float(high))


def typical(ms: Float[np.ndarray, " calls"]) -> float:
    """Give the time of a typical call that nothing disturbed: the lower quartile.

    Args:
        ms: Times of calls that do the same work, at least one.

    Returns:
        The value at place (n + 1) / 4 of n in order, between two places on the line between them: for three calls or more it
        neither rises nor falls with their number.

    Source:
        Ours; against the median and other quantiles on a shared host in docs/log.md, 2026-11-22.
    """
    return float(np.quantile(ms, _TYPICAL, method="weibull"))


def half_width(interval: Interval) -> float:
    """Half of an interval's width, relative to its value."""
    return (interval.high - interval.low) / 2 / interval.value


def block_calls(call_ms: float, block_ms: float) -> int:
    """Calls that a block needs to last at least `block_ms`."""
    return max(1, math.ceil(block_ms / call_ms))


def undisturbed_first(*times: Float[np.ndarray, " rounds"]) -> tuple[Int[np.ndarray, " rounds"], int]:
    """Order rounds by how little they were disturbed.

    A round is undisturbed if every contestant took at most 1.05 times its own fast time, the 5th percentile of its
    rounds. Where fewer than five are, an eighth of all counts as undisturbed, and at least five: those with the
    smallest sum of times, each relative to its contestant's median. Both look at every contestant alike, so
    the choice prefers none of them.

    Args:
        times: For each contestant its typical time in every round, at least one.

    Returns:
        Numbers of the rounds, undisturbed ones first, then by that sum; and how many are undisturbed.

    Source:
        Ours; against the median of all rounds on a shared host in docs/log.md, 2026-11-22.
    """
    table = np.array(times)
    slowness = (table / np.median(table, axis=1, keepdims=True)).sum(axis=0)
    undisturbed = (table <= QUIET * np.percentile(table, _FAST, axis=1, keepdims=True)).all(axis=0)
    if undisturbed.sum() < _FEWEST_UNDISTURBED:
        undisturbed[:] = False
        num = min(len(slowness), max(_FEWEST_UNDISTURBED, len(slowness) // 8))
        undisturbed[np.argsort(slowness, kind="stable")[:num]] = True
    return np.lexsort((slowness, ~undisturbed)), int(undisturbed.sum())


def weighted_quantile(values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"], share: float) -> float:
    """Smallest value at which the summed weight of all values up to it reaches `share` of the total."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, share * reached[-1] * (1 - 1e-12))])


def inverse(interval: Interval, numerator: float) -> Interval:
    """Divide a number by an interval, such as a base's time by another's to get a speed-up."""
    return Interval(numerator / interval.value, numerator / interval.high, numerator / interval.low)


# ---------------------------------------------------------------- blocks and rounds


@dataclass(frozen=True)
class Block:
    """One timed block of calls.

    Attributes:
        cpu_ms: Process CPU time for each call, on average.
        wall_ms: Wall time of every call.
        ms: Time of every call by the clock that ranks.
    """

    cpu_ms: float
    wall_ms: Float[np.ndarray, " calls"]
    ms: Float[np.ndarray, " calls"]

    @property
    def typical_ms(self) -> float:
        """Typical call, by the clock that ranks."""
        return typical(self.ms)


def ranks_by_cpu(call_ms: Iterable[float]) -> bool:
    """Whether contestants with calls this long are ranked by CPU time; by wall time where all are short."""
    return max(call_ms) > _SHORT_CALL_MS


def time_block(call: Call, images: Sequence[int], *, by_cpu: bool = False, clock: Clock = MACHINE) -> Block:
    """Time one call after the other, on these images.

    Args:
        call: What is timed.
        images: Their numbers, at least one.
        by_cpu: Whether every call is timed by the CPU clock too, which then ranks.
        clock: Asked for the time.
    """
    wall_clock, cpu_clock = clock.wall_ns, clock.cpu_ns
    wall, cpu = [0] * (len(images) + 1), [0] * (len(images) + 1)
    collects = gc.isenabled()
    gc.disable()  # a collection inside one block would be charged to whoever runs then
    try:
        wall[0], cpu[0] = wall_clock(), cpu_clock()
        if by_cpu:
            for n, image in enumerate(images, start=1):
                call(image)
                wall[n], cpu[n] = wall_clock(), cpu_clock()
        else:
            for n, image in enumerate(images, start=1):
                call(image)
                wall[n] = wall_clock()
            cpu[-1] = cpu_clock()
    finally:
        if collects:
            gc.enable()
    wall_ms = np.diff(np.array(wall)) / 1e6
    return Block((cpu[-1] - cpu[0]) / len(images) / 1e6, wall_ms, np.diff(np.array(cpu)) / 1e6 if by_cpu else wall_ms)


def warm_up(call: Call, num_images: int, share: float = 1.0, clock: Clock = MACHINE) -> float:
    """Run until caches, clocks and allocations have settled.

    Args:
        call: What is run.
        num_images: How many it visits in turn.
        share: Share of the usual time; less where the processor is warm from another contestant.
        clock: Asked for the time.

    Returns:
        Milliseconds of CPU for one call.
    """
    start, blocks = clock.wall_ns(), list[float]()
    while not blocks or clock.wall_ns() - start < 1e9 * share * WARM_UP_S:
        first = WARM_UP_CALLS * len(blocks)
        images = [n % num_images for n in range(first, first + WARM_UP_CALLS)]
        blocks.append(time_block(call, images, clock=clock).cpu_ms)
    return max(float(np.median(blocks[len(blocks) // 2 :])), 1e-6)


Round = dict[str, Block]
"""A block of every contestant; one of them is the `reference`."""


def take_rounds(
    calls: Mapping[Name, Call],
    images: Callable[[], Mapping[Name, Sequence[int]]],
    num_rounds: int,
    rng: np.random.Generator,
    *,
    by_cpu: bool,
    clock: Clock = MACHINE,
) -> list[dict[Name, Block]]:
    """Time every contestant's block once in each round.

    A block is cut into up to 8 slices of at least 10 calls; the contestants take turns slice by
    slice, in an order drawn anew each time, so that a disturbance of some milliseconds meets them
    all alike (on a busy machine this halves the interval). Shorter slices would measure cold caches.

    Args:
        calls: The contestants by name.
        images: Asked once a round for the images that each contestant visits.
        num_rounds: Rounds.
        rng: Draws the order.
        by_cpu: Whether the CPU clock ranks.
        clock: Asked for the time.
    """
    names = list(calls)
    taken: list[dict[Name, Block]] = []
    for _ in range(num_rounds):
        picks = images()
        num_slices = max(1, min(_MAX_SLICES, min(map(len, picks.values())) // _SLICE_CALLS))
        slices: dict[Name, list[Block]] = {name: [] for name in names}
        for part in range(num_slices):
            for i in rng.permutation(len(names)):
                name = names[i]
                size = len(picks[name])
                part_of = picks[name][size * part // num_slices : size * (part + 1) // num_slices]
                slices[name].append(time_block(calls[name], part_of, by_cpu=by_cpu, clock=clock))
        taken.append({name: _join(blocks) for name, blocks in slices.items()})
    return taken


def _join(blocks: Sequence[Block]) -> Block:
    wall, ms = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("wall_ms", "ms"))
    return Block(sum(block.cpu_ms * len(block.ms) for block in blocks) / len(ms), wall, ms)


def until_settled(
    take: Callable[[int], list[Round]], settled: Callable[[list[Round]], bool], num_rounds: int
) -> list[Round]:
    """Take rounds, and as many again up to twice, until the estimate is narrow enough."""
    rounds = take(num_rounds)
    for _ in range(NUM_DOUBLINGS):
        if settled(rounds):
            break
        rounds += take(len(rounds))
    return rounds


def typical_times(rounds: Sequence[Round], *names: str) -> list[Float[np.ndarray, " rounds"]]:
    """Give each contestant's typical call in every round, in milliseconds, by the clock that ranks."""
    return [np.array([one[name].typical_ms for one in rounds]) for name in names]


def undisturbed_rounds(rounds: Sequence[Round], *names: str) -> list[Round]:
    """Keep the rounds that were undisturbed for these contestants, in order."""
    order, num = undisturbed_first(*typical_times(rounds, *names))
    return [rounds[n] for n in sorted(order[:num])]


def ratios(rounds: Sequence[Round], name: str) -> Float[np.ndarray, " rounds"]:
    """Give a contestant's typical call in each round as a share of the reference's."""
    return np.array([one[name].typical_ms / one["reference"].typical_ms for one in rounds])


def calls_of(rounds: Sequence[Round], name: str) -> Float[np.ndarray, " calls"]:
    """Give the wall time of every call of a contestant, in milliseconds."""
    return np.concatenate([one[name].wall_ms for one in rounds])


def call_quantiles(
    rounds: Sequence[Round],
    depths: Sequence[np.ndarray],
    shares: Float[np.ndarray, " depths"],
    undisturbed: tuple[Int[np.ndarray, " rounds"], int],
    enough: int = MIN_CALLS,
) -> tuple[float, float, int]:
    """Give median and 95th percentile of the candidate's single calls, as shares of the reference's median call.

    From the undisturbed rounds; where these hold too few calls, from as many of the next as it takes.

    Args:
        rounds: With a `candidate` and a `reference`.
        depths: For each round, the members run in each of the candidate's calls.
        shares: Share of all images that stop at each depth; weighs the calls.
        undisturbed: The rounds' order and how many are undisturbed, as `undisturbed_first` says.
        enough: Calls that are wanted.

    Returns:
        Both, and how many calls they rest on.
    """
    order, num = undisturbed
    calls = np.cumsum([len(rounds[n]["candidate"].wall_ms) for n in order])
    kept = order[: max(num, int(np.searchsorted(calls, enough)) + 1)]
    times = calls_of([rounds[n] for n in kept], "candidate")
    exits = np.concatenate([depths[n] for n in kept])
    weights = (shares / np.maximum(np.bincount(exits, minlength=len(shares)), 1))[exits]
    base = float(np.median(calls_of([rounds[n] for n in kept], "reference")))
    return weighted_quantile(times, weights, 0.5) / base, weighted_quantile(times, weights, 0.95) / base, len(times)
