"""The time of deployed ensembles, gate included, in one process: the finalists of a search, all in the same rounds.

A search ranks by the sum of its members' times; what is deployed is the cascade itself, and members
that run one after the other evict each other's weights. So finalists run as they will be deployed, on
real images, in turns with the dense base and a sentinel of known cost (`timing`). Several such processes make a
measurement (`sittings`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from eed_search.config.spec import LatencySpec
from eed_search.deployment.runtime import GatedClassifier, GateSettings
from eed_search.evaluation.latency import FINAL_HALF_WIDTH, plain_call
from eed_search.evaluation.timing import (
    MACHINE,
    MIN_CALLS,
    NUM_DOUBLINGS,
    Call,
    Clock,
    Round,
    block_calls,
    call_quantiles,
    half_width,
    inverse,
    median_interval,
    ranks_by_cpu,
    ratios,
    take_rounds,
    time_block,
    typical,
    typical_times,
    undisturbed_first,
    undisturbed_rounds,
    warm_up,
)
from eed_search.runs.records import Denominator, Interval, Latency

_BATCH, _NUM_BATCHES = 64, 8  # images in a batch whose throughput is timed, and batches that are visited in turn
WARM_UP_SHARE = 0.2  # share of a single network's time to warm up: the first contestants warm the processor for all
WORST_SHARE = 0.25  # share of a block for the worst case, of which a median is reported and no interval
FEWEST_BLOCKS = 10  # fewest blocks of batches, where a batch takes longer than a block
FEWEST_ROUNDS = 3
_MIN_STRATIFIED = 20  # images in a round of a cascade, so that every common exit occurs

Images = Float[np.ndarray, "images channels height width"]


@dataclass(frozen=True)
class Cascade:
    """What is deployed.

    Attributes:
        member_onnx: Members in gate order, as `to_onnx` writes them.
        gate: The team's gate; never asked in a team of one.
        plain: Run its one member as a practitioner would run a network, not through the deployed script.
    """

    member_onnx: Sequence[bytes]
    gate: GateSettings
    plain: bool = False


def stratified(depths: Int[np.ndarray, " images"], size: int, rng: np.random.Generator) -> Int[np.ndarray, " size"]:
    """Draw images whose exits are in the proportions of the whole set, in random order.

    The count of each exit is within one of its share; every image is equally likely.

    Args:
        depths: Members run for each image.
        size: Images to draw; more than there are repeats them.
        rng: Draws.

    Returns:
        Image numbers.
    """
    num = len(depths)
    shuffled = rng.permutation(num)
    by_depth = shuffled[np.argsort(depths[shuffled], kind="stable")]
    places = np.floor((rng.random() + np.arange(size)) * num / size).astype(np.int64)
    return rng.permutation(by_depth[np.minimum(places, num - 1)])


@dataclass(frozen=True)
class ProcessTiming:
    """What one process found.

    Attributes:
        latencies: One for each cascade.
        base_ms: The dense base's typical call, by the clock that ranked: how undisturbed the process was.
    """

    latencies: tuple[Latency, ...]
    base_ms: float


def time_in_process(
    cascades: Sequence[Cascade],
    images: Images,
    reference_onnx: bytes,
    sentinel_onnx: bytes | None,
    spec: LatencySpec,
    reference_ms: float,
    clock: Clock = MACHINE,
    denominator: Denominator = "plain",
    *,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> ProcessTiming:
    """Time deployed cascades on real images, one image at a time, paired with the dense base and with each other.

    Every round visits the base, the sentinel, every cascade, and every cascade with all its members
    run, in random order. The images of a cascade's round hold each exit in its share of all images,
    in random order, so members meet the caches as they would in service. A round's time is the
    typical call of each exit, weighted by the exit's exact share; the median is over the rounds that were undisturbed
    for the cascade and the base. A cascade whose interval is narrow enough leaves; the others double their
    rounds, up to twice.

    Args:
        cascades: Those to time.
        images: float32 in [0, 1]; the mean is over these.
        reference_onnx: The dense base.
        sentinel_onnx: A network of known cost; its interval must be narrow too. None does without.
        spec: Threads, block length, and the final rounds and calls of all processes together, of which this one does its share.
        reference_ms: Wall time of the dense base from a quiet window; scales ratios to milliseconds.
        clock: Asked for the time.
        denominator: How the dense base runs: `plain`, one `session.run` and an argmax; or `script`, to go on with a search of
            an earlier version.
        tell: Told between two rounds how many are done, and of how many as far as that is known.

    Returns:
        One for each cascade, method `cascade`, with the throughput of whole batches. The interval is
        that of the ratio in this process; `reference_ms` is taken as exact. `noisy` if it, or the sentinel's, stayed
        wider than 1 %, times the root of the number of processes, after two doublings of the rounds.
    """
    rng = np.random.default_rng(0)
    limit = FINAL_HALF_WIDTH * math.sqrt(spec.final_processes)
    contests = [_Contest.of(one, images, spec, clock) for one in cascades]
    base = _alone(reference_onnx, spec)
    shared = {"reference": _Entrant.of(base, images, spec, clock, plain=denominator == "plain")}
    if denominator == "plain":
        shared["script"] = _Entrant.of(base, images, spec, clock)
    if sentinel_onnx is not None:
        shared["sentinel"] = _Entrant.of(_alone(sentinel_onnx, spec), images, spec, clock)
    everyone = [*shared.values(), *(entrant for one in contests for entrant in one.entrants.values())]
    by_cpu = ranks_by_cpu(entrant.call_ms for entrant in everyone)
    racing, num_rounds = contests, max(FEWEST_ROUNDS, math.ceil(spec.final_rounds / spec.final_processes))
    for _ in range(1 + NUM_DOUBLINGS):
        _time_together(racing, shared, num_rounds, rng, by_cpu=by_cpu, clock=clock, tell=tell)
        racing = [one for one in racing if not one.settled(limit)]
        if not racing:
            break
        num_rounds = len(racing[0].rounds)
    return ProcessTiming(
        tuple(one.latency(images, spec, reference_ms, limit, clock) for one in contests),
        max((one.base_ms for one in contests), default=reference_ms),
    )


def _alone(onnx: bytes, spec: LatencySpec) -> GatedClassifier:
    gate = GateSettings(rule="threshold", threshold=1.0, sharpness=1.0, tau=1.0)  # one member: never asked
    return GatedClassifier.from_onnx([onnx], gate, spec.threads)


@dataclass(frozen=True)
class _Entrant:
    """One thing that is timed: its call, how long it takes once warmed up, and how many its block holds."""

    call: Call
    call_ms: float
    size: int

    @classmethod
    def of(
        cls,
        team: GatedClassifier,
        images: Images,
        spec: LatencySpec,
        clock: Clock,
        at_least: int = 1,
        share: float = 1.0,
        plain: bool = False,
    ) -> _Entrant:
        def through_script(i: int) -> object:
            return team.predict(images[i])

        call = plain_call(team.sessions[0], images) if plain else through_script

        call_ms = warm_up(call, len(images), WARM_UP_SHARE, clock)
        return cls(call, call_ms, max(at_least, block_calls(call_ms, share * spec.block_ms)))


@dataclass
class _Contest:
    """One cascade against the reference, round by round.

    Attributes:
        team: As deployed.
        depths: Members run for each image.
        entrants: `candidate`, and in a team of several `worst`, which runs all members.
        rounds: Blocks of the entrants, the reference and the sentinel.
        visited: The candidate's images in each round.
    """

    team: GatedClassifier
    depths: Int[np.ndarray, " images"]
    entrants: dict[str, _Entrant]
    rounds: list[Round] = field(default_factory=list)
    visited: list[Int[np.ndarray, " calls"]] = field(default_factory=list)

    @classmethod
    def of(cls, cascade: Cascade, images: Images, spec: LatencySpec, clock: Clock) -> _Contest:
        """Load a cascade, find out where its images stop, and warm it up."""
        gate = cascade.gate
        team = GatedClassifier.from_onnx(cascade.member_onnx, gate, spec.threads)
        depths = np.array([int(team.predict(image).num_members_run[0]) for image in images])
        at_least = max(_MIN_STRATIFIED, math.ceil(spec.final_calls / spec.final_rounds))
        entrants = {"candidate": _Entrant.of(team, images, spec, clock, at_least, plain=cascade.plain)}
        if len(cascade.member_onnx) > 1:
            never = GatedClassifier.from_sessions(team.sessions, gate.never_stopping())
            entrants["worst"] = _Entrant.of(never, images, spec, clock, share=WORST_SHARE)
        return cls(team, depths, entrants)

    @property
    def shares(self) -> Float[np.ndarray, " depths"]:
        """Share of all images that stop at each depth, from 0 on."""
        return np.bincount(self.depths, minlength=len(self.team.sessions) + 1) / len(self.depths)

    @property
    def exits(self) -> list[Int[np.ndarray, " calls"]]:
        """Members run in each of the candidate's calls, round by round."""
        return [self.depths[picks] for picks in self.visited]

    def undisturbed(self) -> tuple[Int[np.ndarray, " rounds"], int]:
        """Order the rounds by how little cascade and reference were disturbed, and say how many were undisturbed."""
        (reference,) = typical_times(self.rounds, "reference")
        return undisturbed_first(reference, reference * mix_of_exits(self.rounds, self.exits, self.shares))

    def ratios(self) -> Float[np.ndarray, " undisturbed"]:
        """Time of the cascade over the reference's, one for each undisturbed round."""
        order, num = self.undisturbed()
        kept = order[:num]
        return mix_of_exits([self.rounds[n] for n in kept], [self.exits[n] for n in kept], self.shares)

    @property
    def base_ms(self) -> float:
        """The dense base's typical call in the rounds that were undisturbed for it."""
        return float(np.median(typical_times(undisturbed_rounds(self.rounds, "reference"), "reference")[0]))

    def settled(self, limit: float) -> bool:
        """Whether the intervals, the sentinel's too, are narrow enough: half of them within `limit` of the value."""
        widths = [half_width(median_interval(self.ratios()))]
        if "sentinel" in self.rounds[0]:
            widths.append(half_width(median_interval(self._of("sentinel"))))
        return max(widths) <= limit

    def _of(self, name: str) -> Float[np.ndarray, " undisturbed"]:
        """Time of another entrant over the reference's, one for each round that was undisturbed for both."""
        return ratios(undisturbed_rounds(self.rounds, "reference", name), name)

    def latency(self, images: Images, spec: LatencySpec, reference_ms: float, limit: float, clock: Clock) -> Latency:
        """Sum the rounds up, and time whole batches."""
        ratio = median_interval(self.ratios())
        worst = float(np.median(self._of("worst"))) if "worst" in self.entrants else ratio.value
        order, num = undisturbed = self.undisturbed()
        calm_ones = [self.rounds[n] for n in order[:num]], [self.exits[n] for n in order[:num]]
        enough = math.ceil(MIN_CALLS / spec.final_processes)
        p50, p95, num_calls = call_quantiles(self.rounds, self.exits, self.shares, undisturbed, enough)
        told = num_calls >= enough
        wrapped = float(np.median(self._of("script"))) if "script" in self.rounds[0] else None
        return Latency(
            latency_ms=Interval(*(reference_ms * end for end in (ratio.value, ratio.low, ratio.high))),
            p50_ms=reference_ms * p50 if told else None,
            p95_ms=reference_ms * p95 if told else None,
            worst_case_ms=reference_ms * worst,
            speedup=inverse(ratio, 1.0),
            worst_case_speedup=1 / worst,
            method="cascade",
            noisy=not self.settled(limit),
            images_per_second=throughput(self.team, images, self.depths, spec, clock),
            num_calls=num_calls,
            exit_ms=tuple(reference_ms * ratio for ratio in exit_ratios(*calm_ones, self.shares, worst)),
            denominator="plain" if wrapped is not None else "script",
            script_speedup=None
            if wrapped is None
            else Interval(*(wrapped / end for end in (ratio.value, ratio.high, ratio.low))),
        )


def _time_together(
    contests: Sequence[_Contest],
    shared: Mapping[str, _Entrant],
    num_rounds: int,
    rng: np.random.Generator,
    *,
    by_cpu: bool,
    clock: Clock,
    tell: Callable[[int, int], None],
) -> None:
    """Take rounds of all that is timed, and hand each contest what concerns it."""
    entrants = {(-1, role): entrant for role, entrant in shared.items()}
    entrants |= {(n, role): entrant for n, one in enumerate(contests) for role, entrant in one.entrants.items()}

    planned = num_rounds + max((len(one.rounds) for one in contests), default=0)

    def draw() -> dict[tuple[int, str], list[int]]:
        tell(max((len(one.visited) for one in contests), default=0), planned)
        for one in contests:
            one.visited.append(stratified(one.depths, one.entrants["candidate"].size, rng))
        return {  # base and sentinel take as long for any image: they visit the last contest's, whose number is -1 too
            (n, role): np.resize(contests[n].visited[-1], entrant.size).tolist()
            for (n, role), entrant in entrants.items()
        }

    calls = {who: entrant.call for who, entrant in entrants.items()}
    for taken in take_rounds(calls, draw, num_rounds, rng, by_cpu=by_cpu, clock=clock):
        for n, one in enumerate(contests):
            one.rounds.append({role: block for (of, role), block in taken.items() if of in (n, -1)})


def mix_of_exits(
    rounds: Sequence[Round], exits: Sequence[Int[np.ndarray, " calls"]], shares: Float[np.ndarray, " depths"]
) -> Float[np.ndarray, " rounds"]:
    """Give the candidate's time over the reference's in each round: each exit's typical call in its exact share.

    An exit that a round did not draw takes its typical time over all rounds; one that no round drew,
    so rare it is, weighs nothing.

    Args:
        rounds: With a `candidate` and a `reference`.
        exits: For each round, the members run in each of the candidate's calls.
        shares: Share of all images that stop at each depth, from 0 on.
    """
    calls = [one["candidate"].ms / one["reference"].typical_ms for one in rounds]
    overall = _typical(calls, exits, len(shares))
    drawn = list(overall)
    weights = shares[drawn] / shares[drawn].sum()
    times = [
        [typical(ms[found == t]) if (found == t).any() else overall[t] for t in drawn]
        for ms, found in zip(calls, exits, strict=True)
    ]
    return np.asarray(np.array(times) @ weights)


def exit_ratios(
    rounds: Sequence[Round],
    exits: Sequence[Int[np.ndarray, " calls"]],
    shares: Float[np.ndarray, " depths"],
    worst: float,
) -> list[float]:
    """Give the time of an image that stops at each member, over the reference's.

    Args:
        rounds: With a `candidate` and a `reference`.
        exits: For each round, the members run in each of the candidate's calls.
        shares: Share of all images that stop at each depth, from 0 on.
        worst: The time when every member runs, measured for itself.

    Returns:
        The typical call of each exit; one that no image took lies on the line between its neighbours.
    """
    calls = [one["candidate"].ms / one["reference"].typical_ms for one in rounds]
    known = {0: 0.0} | _typical(calls, exits, len(shares)) | {len(shares) - 1: worst}
    places = sorted(known)
    return [float(np.interp(t, places, [known[place] for place in places])) for t in range(1, len(shares))]


def _typical(
    calls: Sequence[Float[np.ndarray, " calls"]], exits: Sequence[Int[np.ndarray, " calls"]], num: int
) -> dict[int, float]:
    """Give the typical call of each exit that any round drew."""
    pooled, depths = np.concatenate(calls), np.concatenate(exits)
    return {t: typical(pooled[depths == t]) for t in range(num) if (depths == t).any()}


def throughput(
    team: GatedClassifier,
    images: Images,
    depths: Int[np.ndarray, " images"],
    spec: LatencySpec,
    clock: Clock = MACHINE,
) -> Interval:
    """Time a deployed team on whole batches of 64; in each, only the undecided images go on to the next member.

    Args:
        team: As deployed, or the dense base as a team of one.
        images: float32 in [0, 1].
        depths: Members run for each image; every batch holds each exit in its share, but for one image.
        spec: Threads, block length, and the search's rounds, of which a process does its share.
        clock: Asked for the time.

    Returns:
        Images per second of wall time, with the interval of the median over undisturbed rounds.
    """
    rng = np.random.default_rng(0)
    batches = [images[stratified(depths, _BATCH, rng)] for _ in range(_NUM_BATCHES)]

    def call(i: int) -> object:
        return team.predict(batches[i % _NUM_BATCHES])

    call(0)  # onnxruntime allocates for the new batch size; all else is warm already
    first_ms = time_block(call, [1], clock=clock).cpu_ms
    size = block_calls(first_ms, spec.block_ms)
    lasts = size * first_ms
    share = spec.rounds / spec.final_processes
    num_blocks = min(spec.rounds, max(FEWEST_BLOCKS, math.ceil(share * spec.block_ms / lasts)))
    blocks = (time_block(call, range(n * size, (n + 1) * size), clock=clock) for n in range(num_blocks))
    times = np.array([block.wall_ms.mean() for block in blocks])
    order, num = undisturbed_first(times)
    return inverse(median_interval(times[order[:num]]), 1000.0 * _BATCH)
