"""Latency against the dense base, measured in the deployment runtime so that it can rank networks.

A time alone means little on a shared machine: the same network drifts by 2-50 % between runs. So
candidate, dense base and a sentinel (a network of known, unchanging cost) are timed in one process,
in random order in every round, and what counts is the candidate's time as a share of the base's.
Process CPU time ranks; wall time is quoted only from rounds in which nothing else took the core.
"""

from __future__ import annotations

import gc
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from eed_search.core.records import Interval, Latency
from eed_search.core.spec import LatencySpec
from eed_search.deployment.runtime import GatedClassifier, GateSettings, GateWalk

WARM_UP_S, WARM_UP_CALLS = 0.5, 10
SEARCH_HALF_WIDTH, FINAL_HALF_WIDTH = 0.03, 0.01  # of the interval, relative to the ratio
MIN_CALLS = 1000  # single calls below which no p50 and p95 are given
NUM_DOUBLINGS = 2  # of the rounds, before a measurement is called noisy
_QUIET = 1.05  # wall over CPU time up to which a round counts as undisturbed
_NUM_RESAMPLES = 4000
_NUM_IMAGES = 8  # random images that the probe visits in turn; dense kernels take the same time for any
_MAX_SLICES, _SLICE_CALLS = 8, 10  # a block's slices at most, and the calls that each holds at least
_BATCH, _NUM_BATCHES = 64, 8  # images in a batch whose throughput is timed, and batches that are visited in turn
_MIN_STRATIFIED = 20  # images in a round of a cascade, so that every common exit occurs

Call = Callable[[int], object]
"""Classifies image number i; the result is thrown away."""


class GateLike(Protocol):
    """What the gate of a team says, in torch or in the runtime."""

    @property
    def rule(self) -> str:
        """`threshold` or `map`."""

    @property
    def threshold(self) -> float:
        """Stop probability that is enough."""

    @property
    def sharpness(self) -> float:
        """Exponent of the confidence."""

    @property
    def tau(self) -> float:
        """Scale of the KL divergence."""


@dataclass(frozen=True)
class RatioEstimate:
    """Time of one network as a share of the dense base's, at batch 1 in the same process.

    Attributes:
        ratio: Median over rounds of CPU time over the base's CPU time, with its bootstrap interval.
        p50_ratio: Median of single calls over the median of the base's single calls (wall, from the
            undisturbed rounds).
        p95_ratio: 95th percentile of the same calls over the median of the base's.
        noisy: The interval stayed too wide after the last doubling, or the sentinel moved; do not rank by it.
        num_rounds: Rounds that the median is taken over.
        num_calls: Single calls of the candidate that p50 and p95 rest on.
        sentinel_ratio: The sentinel's own ratio in the same rounds; none without a sentinel.
        samples: The ratio of every round, in order.
    """

    ratio: Interval
    p50_ratio: float
    p95_ratio: float
    noisy: bool
    num_rounds: int
    num_calls: int
    sentinel_ratio: Interval | None
    samples: tuple[float, ...]


class Probe(Protocol):
    """Whoever can say how fast a network is: `LatencyProbe`, or a stand-in on another machine."""

    def measure(self, onnx: bytes) -> RatioEstimate:
        """Measure one member."""


# ---------------------------------------------------------------- pure parts


def median_interval(values: Float[np.ndarray, " rounds"], seed: int = 0) -> Interval:
    """Give the median with its 95 % bootstrap interval.

    Args:
        values: One value for each round, at least one.
        seed: Of the resampling.

    Returns:
        The median, and the 2.5th and 97.5th percentile of the medians of resampled rounds.

    Source:
        Efron 1979 (percentile bootstrap), https://doi.org/10.1214/aos/1176344552.
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(values), (_NUM_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[picks], axis=1), [0.025, 0.975])
    return Interval(float(np.median(values)), float(low), float(high))


def half_width(interval: Interval) -> float:
    """Half of an interval's width, relative to its value."""
    return (interval.high - interval.low) / 2 / interval.value


def block_calls(call_ms: float, block_ms: float) -> int:
    """Calls that a block needs to last at least `block_ms`."""
    return max(1, math.ceil(block_ms / call_ms))


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


def weighted_quantile(values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"], share: float) -> float:
    """Smallest value at which the summed weight of all values up to it reaches `share` of the total."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, share * reached[-1] * (1 - 1e-12))])


def sentinel_holds(ratio: float, earlier: Sequence[float], limit: float) -> bool:
    """Say whether the sentinel costs what it did before: within twice `limit` of its earlier median."""
    return not earlier or abs(math.log(ratio / float(np.median(earlier)))) <= 2 * limit


def additive_latency(
    members: Sequence[RatioEstimate], exit_shares: Sequence[float], reference_ms: float, gate_ms: float
) -> Latency:
    """Add up member latencies, each weighted by the share of images that reach the member.

    Close enough to rank trials, and optimistic for deep teams at batch 1: three members in a row
    cost 3.3-3.4 member times there, since they evict each other's weights from the caches. Frontier
    points are therefore timed again by `cascade_latency`.

    Args:
        members: In gate order.
        exit_shares: Share of images that stop at each member; sums to 1.
        reference_ms: Latency of the dense base, wall.
        gate_ms: Cost of one gate step; charged once for each member run in a team of two or more.

    Returns:
        Method `additive`; p50 and p95 only for a team of one that was called often enough. The interval adds the ends of the members' intervals, as if all erred the
        same way; it does not hold the sampling error of the exit shares or of `reference_ms`.

    Raises:
        ValueError: If the lengths differ or the shares do not sum to 1.
    """
    if len(members) != len(exit_shares) or not members:
        raise ValueError(f"{len(members)} members and {len(exit_shares)} exit shares: need equally many, at least one")
    shares = np.asarray(exit_shares, dtype=float)
    if (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"exit shares {list(exit_shares)} are not shares that sum to 1")
    gate = gate_ms if len(members) > 1 else 0.0
    at_exit = {
        end: np.cumsum([reference_ms * getattr(member.ratio, end) + gate for member in members])
        for end in ("value", "low", "high")
    }
    total = Interval(*(float(shares @ at_exit[end]) for end in ("value", "low", "high")))
    num_calls = members[0].num_calls if len(members) == 1 else 0
    told = num_calls >= MIN_CALLS
    return Latency(
        latency_ms=total,
        p50_ms=reference_ms * members[0].p50_ratio if told else None,
        p95_ms=reference_ms * members[0].p95_ratio if told else None,
        worst_case_ms=float(at_exit["value"][-1]),
        speedup=_inverse(total, reference_ms),
        worst_case_speedup=float(reference_ms / at_exit["value"][-1]),
        method="additive",
        noisy=any(member.noisy for member in members),
        num_calls=num_calls,
    )


def _inverse(interval: Interval, numerator: float) -> Interval:
    return Interval(numerator / interval.value, numerator / interval.high, numerator / interval.low)


# ---------------------------------------------------------------- the same network measured once


def architecture_signature(onnx_bytes: bytes) -> str:
    """Name a network by what decides its latency: its graph and its shapes, not its weights.

    Two members of the same sizes, whatever score chose their channels, have the same signature.

    Returns:
        32 hexadecimal digits.
    """
    import onnx

    model = onnx.load_from_string(onnx_bytes)
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    graph = model.graph
    tensors = [*graph.initializer]
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for tensor in tensors:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
        if tensor.data_type == onnx.TensorProto.FLOAT:  # whole numbers may be shapes, which count
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:32]


# ---------------------------------------------------------------- timing


@dataclass(frozen=True)
class _Block:
    """One timed block of calls.

    Attributes:
        cpu_ms: Process CPU time for each call, on average.
        wall_ms: Wall time of every call.
    """

    cpu_ms: float
    wall_ms: Float[np.ndarray, " calls"]

    def noise(self, threads: int) -> float:
        """Wall over CPU time: 1 where nothing else took the cores, more the more did."""
        return float(self.wall_ms.mean()) * threads / self.cpu_ms


def _time_block(call: Call, images: Sequence[int]) -> _Block:
    clock = time.perf_counter_ns
    stamps = [0] * (len(images) + 1)
    collects = gc.isenabled()
    gc.disable()  # a collection inside one block would be charged to whoever runs then
    try:
        # The CPU clock is a system call (0.7 µs), so it is read around the block and not around each call.
        cpu = time.process_time_ns()
        stamps[0] = clock()
        for n, image in enumerate(images, start=1):
            call(image)
            stamps[n] = clock()
        cpu = time.process_time_ns() - cpu
    finally:
        if collects:
            gc.enable()
    return _Block(cpu / len(images) / 1e6, np.diff(np.array(stamps)) / 1e6)


def _warm_up(call: Call, num_images: int) -> float:
    """Run until caches, clocks and allocations have settled.

    Returns:
        Milliseconds of CPU for one call.
    """
    start, blocks = time.perf_counter(), list[float]()
    while not blocks or time.perf_counter() - start < WARM_UP_S:
        first = WARM_UP_CALLS * len(blocks)
        blocks.append(_time_block(call, [n % num_images for n in range(first, first + WARM_UP_CALLS)]).cpu_ms)
    return max(float(np.median(blocks[len(blocks) // 2 :])), 1e-6)


Round = Mapping[str, _Block]


def _take_rounds(
    calls: Mapping[str, Call],
    images: Callable[[], Mapping[str, Sequence[int]]],
    num_rounds: int,
    rng: np.random.Generator,
) -> list[Round]:
    """Time every contestant's block once in each round.

    A block is cut into up to 8 slices of at least 10 calls; the contestants take turns slice by
    slice, in an order drawn anew each time, so that a disturbance of some milliseconds meets them
    all alike (on a busy machine this halves the interval). Shorter slices would measure cold caches.
    """
    names = list(calls)
    taken: list[Round] = []
    for _ in range(num_rounds):
        picks = images()
        num_slices = max(1, min(_MAX_SLICES, min(map(len, picks.values())) // _SLICE_CALLS))
        slices: dict[str, list[_Block]] = {name: [] for name in names}
        for part in range(num_slices):
            for i in rng.permutation(len(names)):
                name = names[i]
                size = len(picks[name])
                part_of = picks[name][size * part // num_slices : size * (part + 1) // num_slices]
                slices[name].append(_time_block(calls[name], part_of))
        taken.append({name: _join(blocks) for name, blocks in slices.items()})
    return taken


def _undisturbed(blocks: Sequence[_Block], threads: int) -> list[_Block]:
    """Keep the blocks in which nothing else took the cores; the quietest quarter where those are fewer than three."""
    by_noise = sorted(blocks, key=lambda block: block.noise(threads))
    num_quiet = sum(block.noise(threads) <= _QUIET for block in blocks)
    return by_noise[: num_quiet if num_quiet >= 3 else max(3, len(blocks) // 4)]


def _join(blocks: Sequence[_Block]) -> _Block:
    wall = np.concatenate([block.wall_ms for block in blocks])
    return _Block(sum(block.cpu_ms * len(block.wall_ms) for block in blocks) / len(wall), wall)


def _until_settled(
    take: Callable[[int], list[Round]], settled: Callable[[list[Round]], bool], num_rounds: int
) -> list[Round]:
    """Take rounds, and as many again up to twice, until the estimate is narrow enough."""
    rounds = take(num_rounds)
    for _ in range(NUM_DOUBLINGS):
        if settled(rounds):
            break
        rounds += take(len(rounds))
    return rounds


def _ratios(rounds: list[Round], name: str) -> Float[np.ndarray, " rounds"]:
    return np.array([one[name].cpu_ms / one["reference"].cpu_ms for one in rounds])


def _calls_of(rounds: list[Round], name: str) -> Float[np.ndarray, " calls"]:
    return np.concatenate([one[name].wall_ms for one in rounds])


_ALONE = GateSettings(rule="threshold", threshold=1.0, sharpness=1.0, tau=1.0)  # one member: never asked


def _session_call(onnx: bytes, images: Float[np.ndarray, "images channels height width"], threads: int) -> Call:
    # Through the deployed runtime: its few microseconds a call are a third of a small network's time.
    return _team_call(GatedClassifier.from_onnx([onnx], _ALONE, threads), images)


def _random_images(image_shape: tuple[int, int, int], num: int) -> Float[np.ndarray, "num channels height width"]:
    return np.random.default_rng(0).random((num, *image_shape), dtype=np.float32)


class LatencyProbe:
    """Times networks against the dense base, one at a time; nothing else should run on its cores.

    Networks of equal architecture are measured once: the first accepted estimate is kept.

    Args:
        reference_onnx: The dense base.
        sentinel_onnx: A network of known cost, such as the base at half width. Its ratio must stay
            where it was in earlier measurements, else the machine has changed and the measurement
            counts as noisy. None does without.
        image_shape: (channels, height, width).
        spec: Threads, rounds and block length.

    Source:
        Ours; rounds in random order and the median of paired ratios keep out drift.
    """

    def __init__(
        self,
        reference_onnx: bytes,
        sentinel_onnx: bytes | None,
        image_shape: tuple[int, int, int],
        spec: LatencySpec,
    ) -> None:
        self._spec = spec
        self._images = _random_images(image_shape, _NUM_IMAGES)
        self._rng = np.random.default_rng(0)
        self._calls = {"reference": _session_call(reference_onnx, self._images, spec.threads)}
        if sentinel_onnx is not None:
            self._calls["sentinel"] = _session_call(sentinel_onnx, self._images, spec.threads)
        self._call_ms = {name: _warm_up(call, _NUM_IMAGES) for name, call in self._calls.items()}
        self._known: dict[tuple[str, bool], RatioEstimate] = {}
        self._sentinel_ratios: list[float] = []

    def measure(self, onnx: bytes, *, final: bool = False) -> RatioEstimate:
        """Measure one network, or recall what an equal architecture measured.

        Args:
            onnx: The network, as `to_onnx` writes it.
            final: Take the finalists' rounds and narrower interval.
        """
        key = (architecture_signature(onnx), final)
        if key not in self._known:
            estimate = self.measure_call(self.call_of(onnx), final=final)
            if estimate.noisy:
                return estimate  # worth another try the next time
            self._known[key] = estimate
        return self._known[key]

    def call_of(self, onnx: bytes) -> Call:
        """Load a network so that `measure_call` can time it, as it is or wrapped."""
        return _session_call(onnx, self._images, self._spec.threads)

    def measure_call(self, call: Call, *, final: bool = False) -> RatioEstimate:
        """Measure anything that classifies image number i of the probe, for i in 0..7."""
        limit = FINAL_HALF_WIDTH if final else SEARCH_HALF_WIDTH
        calls = {**self._calls, "candidate": call}
        call_ms = {**self._call_ms, "candidate": _warm_up(call, _NUM_IMAGES)}
        images = {name: self._block_images(call_ms[name]) for name in calls}

        def settled(rounds: list[Round]) -> bool:
            narrow = half_width(median_interval(_ratios(rounds, "candidate"))) <= limit
            if "sentinel" not in calls:
                return narrow
            return narrow and sentinel_holds(
                float(np.median(_ratios(rounds, "sentinel"))), self._sentinel_ratios, limit
            )

        rounds = _until_settled(
            lambda num: _take_rounds(calls, lambda: images, num, self._rng),
            settled,
            self._spec.final_rounds if final else self._spec.rounds,
        )
        noisy = not settled(rounds)
        sentinel = median_interval(_ratios(rounds, "sentinel")) if "sentinel" in calls else None
        if sentinel is not None:
            self._sentinel_ratios.append(sentinel.value)
        samples = _ratios(rounds, "candidate")
        exits, shares = np.ones(len(images["candidate"]), np.int64), np.array([0.0, 1.0])
        p50, p95, num_calls = _call_quantiles(rounds, [exits] * len(rounds), shares, self._spec.threads)
        return RatioEstimate(
            ratio=median_interval(samples),
            p50_ratio=p50,
            p95_ratio=p95,
            noisy=noisy,
            num_rounds=len(rounds),
            num_calls=num_calls,
            sentinel_ratio=sentinel,
            samples=tuple(samples.tolist()),
        )

    def reference_ms(self) -> Interval:
        """Wall time of the dense base at batch 1, from rounds in which nothing else took the cores.

        Where no round is quiet after the last doubling, the quietest quarter is taken.
        """
        images = {"reference": self._block_images(self._call_ms["reference"])}
        only = {"reference": self._calls["reference"]}

        def quiet(rounds: list[Round]) -> bool:
            num = sum(one["reference"].noise(self._spec.threads) <= _QUIET for one in rounds)
            return num >= max(3, self._spec.rounds // 2)

        rounds = _until_settled(
            lambda num: _take_rounds(only, lambda: images, num, self._rng), quiet, self._spec.rounds
        )
        blocks = _undisturbed([one["reference"] for one in rounds], self._spec.threads)
        return median_interval(np.array([block.wall_ms.mean() for block in blocks]))

    def gate_ms(self, num_classes: int) -> float:
        """CPU time of one gate step at batch 1, averaged over the steps of a team of three."""
        answers = np.random.default_rng(0).dirichlet(np.ones(num_classes), (_NUM_IMAGES, 3)).astype(np.float32)
        gate = GateSettings("threshold", 2.0, 1.0, 1.0)

        def walk(i: int) -> None:
            way = GateWalk(gate, 3)
            for answer in answers[i]:
                way.step(answer)

        images = self._block_images(_warm_up(walk, _NUM_IMAGES))
        return float(np.median([_time_block(walk, images).cpu_ms for _ in range(self._spec.rounds)])) / 3

    def _block_images(self, call_ms: float) -> list[int]:
        return [n % _NUM_IMAGES for n in range(block_calls(call_ms, self._spec.block_ms))]


def cascade_latency(
    member_onnx: Sequence[bytes],
    gate: GateLike,
    images: Float[np.ndarray, "images channels height width"],
    reference_onnx: bytes,
    sentinel_onnx: bytes | None,
    spec: LatencySpec,
    reference_ms: float,
) -> Latency:
    """Time the deployed cascade itself on real images, one at a time, paired with the dense base.

    Every round visits cascade, base, sentinel and the cascade that runs all members, in random order
    and on the same images. The images of a round hold each exit in its share of all images, in random
    order, so members meet the caches as they would in service; what the draw misses of the exact
    shares is corrected by the exits' own median times.

    Args:
        member_onnx: Members in gate order.
        gate: The team's gate.
        images: float32 in [0, 1]; the mean is over these.
        reference_onnx: The dense base; it runs through the same runtime, as a team of one.
        sentinel_onnx: A network of known cost; its interval must be narrow too. None does without.
        spec: Threads, final rounds, calls and block length.
        reference_ms: Wall time of the dense base from a quiet window; scales ratios to milliseconds.

    Returns:
        Method `cascade`, with the throughput of whole batches. Its interval is that of the ratio;
        `reference_ms` is taken as exact.
        `noisy` if it, or the sentinel's, stayed wider than 1 % after two doublings of the rounds.
    """
    settings = GateSettings(gate.rule, gate.threshold, gate.sharpness, gate.tau)
    team = GatedClassifier.from_onnx(member_onnx, settings, spec.threads)
    all_members = GatedClassifier.from_sessions(team.sessions, GateSettings("threshold", 2.0, gate.sharpness, gate.tau))
    teams = {"candidate": team, "reference": GatedClassifier.from_onnx([reference_onnx], settings, spec.threads)}
    if len(member_onnx) > 1:
        teams["worst"] = all_members
    if sentinel_onnx is not None:
        teams["sentinel"] = GatedClassifier.from_onnx([sentinel_onnx], settings, spec.threads)
    calls = {name: _team_call(one, images) for name, one in teams.items()}

    depths = np.array([int(team.predict(image).num_members_run[0]) for image in images])
    shares = np.bincount(depths, minlength=len(member_onnx) + 1) / len(depths)
    call_ms = {name: _warm_up(call, len(images)) for name, call in calls.items()}
    sizes = {name: block_calls(ms, spec.block_ms) for name, ms in call_ms.items()}
    sizes["candidate"] = max(sizes["candidate"], _MIN_STRATIFIED, math.ceil(spec.final_calls / spec.final_rounds))

    rng = np.random.default_rng(0)
    visited: list[np.ndarray] = []  # the cascade's images, round by round

    def draw() -> dict[str, list[int]]:
        picks = stratified(depths, sizes["candidate"], rng)
        visited.append(picks)
        return {name: np.resize(picks, size).tolist() for name, size in sizes.items()}

    def corrected(rounds: list[Round]) -> Float[np.ndarray, " rounds"]:
        correction = _share_correction(rounds, [depths[picks] for picks in visited], shares)
        return np.asarray(_ratios(rounds, "candidate") * correction)

    def settled(rounds: list[Round]) -> bool:
        widths = [half_width(median_interval(corrected(rounds)))]
        if sentinel_onnx is not None:
            widths.append(half_width(median_interval(_ratios(rounds, "sentinel"))))
        return max(widths) <= FINAL_HALF_WIDTH

    rounds = _until_settled(lambda num: _take_rounds(calls, draw, num, rng), settled, spec.final_rounds)
    ratio = median_interval(corrected(rounds))
    worst = float(np.median(_ratios(rounds, "worst"))) if "worst" in calls else ratio.value
    p50, p95, num_calls = _call_quantiles(rounds, [depths[picks] for picks in visited], shares, spec.threads)
    told = num_calls >= MIN_CALLS
    return Latency(
        latency_ms=Interval(*(reference_ms * end for end in (ratio.value, ratio.low, ratio.high))),
        p50_ms=reference_ms * p50 if told else None,
        p95_ms=reference_ms * p95 if told else None,
        worst_case_ms=reference_ms * worst,
        speedup=_inverse(ratio, 1.0),
        worst_case_speedup=1 / worst,
        method="cascade",
        noisy=not settled(rounds),
        images_per_second=throughput(team, images, depths, spec),
        num_calls=num_calls,
    )


def _team_call(team: GatedClassifier, images: np.ndarray) -> Call:
    return lambda i: team.predict(images[i])


def _share_correction(
    rounds: list[Round], depths: list[np.ndarray], shares: Float[np.ndarray, " depths"]
) -> Float[np.ndarray, " rounds"]:
    """By how much each round's draw of exits was cheaper than the exact shares (1 = exact)."""
    times, exits = _calls_of(rounds, "candidate"), np.concatenate(depths)
    cost = np.array([np.median(times[exits == t]) if (exits == t).any() else 0.0 for t in range(len(shares))])
    seen = shares * (cost > 0)  # an exit so rare that no round drew it weighs nothing on either side
    exact = float(seen @ cost) / float(seen.sum())
    return np.array([exact / cost[one].mean() for one in depths])


def _call_quantiles(
    rounds: list[Round], depths: list[np.ndarray], shares: Float[np.ndarray, " depths"], threads: int
) -> tuple[float, float, int]:
    """Median and 95th percentile of single calls over the base's median call, and how many calls they rest on.

    From the rounds in which nothing else took the cores; where these hold too few calls, from as many
    of the next quietest as it takes.
    """
    noise = np.array([max(one[name].noise(threads) for name in ("candidate", "reference")) for one in rounds])
    by_noise = np.argsort(noise, kind="stable")
    calls = np.cumsum([len(rounds[n]["candidate"].wall_ms) for n in by_noise])
    enough = int(np.searchsorted(calls, MIN_CALLS)) + 1
    kept = by_noise[: max(int((noise <= _QUIET).sum()), enough)]
    times = _calls_of([rounds[n] for n in kept], "candidate")
    exits = np.concatenate([depths[n] for n in kept])
    weights = (shares / np.maximum(np.bincount(exits, minlength=len(shares)), 1))[exits]
    base = float(np.median(_calls_of([rounds[n] for n in kept], "reference")))
    return weighted_quantile(times, weights, 0.5) / base, weighted_quantile(times, weights, 0.95) / base, len(times)


def throughput(
    team: GatedClassifier,
    images: Float[np.ndarray, "images channels height width"],
    depths: Int[np.ndarray, " images"],
    spec: LatencySpec,
) -> Interval:
    """Time a deployed team on whole batches of 64; in each, only the undecided images go on to the next member.

    Args:
        team: As deployed, or the dense base as a team of one.
        images: float32 in [0, 1].
        depths: Members run for each image; every batch holds each exit in its share, but for one image.
        spec: Threads, rounds of the search and block length.

    Returns:
        Images per second of wall time, with the interval of the median over undisturbed rounds.
    """
    rng = np.random.default_rng(0)
    batches = [images[stratified(depths, _BATCH, rng)] for _ in range(_NUM_BATCHES)]

    def call(i: int) -> object:
        return team.predict(batches[i % _NUM_BATCHES])

    call(0)  # onnxruntime allocates for the new batch size; all else is warm already
    size = block_calls(_time_block(call, [1]).cpu_ms, spec.block_ms)
    blocks = [_time_block(call, range(n * size, (n + 1) * size)) for n in range(spec.rounds)]
    per_batch = median_interval(np.array([block.wall_ms.mean() for block in _undisturbed(blocks, spec.threads)]))
    return _inverse(per_batch, 1000.0 * _BATCH)
