"""Latency of single networks against the dense base, measured in the deployment runtime so that it can rank them.

A time alone means little on a shared machine: the same network drifts by 2-50 % between runs. So
candidate, dense base and a sentinel (a network of known, unchanging cost) are timed in turns
(`timing`), and what counts is the candidate's time as a share of the base's. The whole deployed
ensemble is timed by `cascade`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from eed_search.config.spec import LatencySpec
from eed_search.deployment.runtime import INPUT, OUTPUT, GatedClassifier, GateSettings, GateWalk, new_session
from eed_search.evaluation.timing import (
    MACHINE,
    MIN_CALLS,
    QUIET,
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
    typical_times,
    undisturbed_first,
    undisturbed_rounds,
    until_settled,
    warm_up,
)
from eed_search.runs.records import Denominator, Interval, Latency

SEARCH_HALF_WIDTH, FINAL_HALF_WIDTH = 0.03, 0.01  # half width of the interval, relative to the ratio
NUM_TRIES = 3  # at a network whose measurement was noisy
_REMEMBERED = 10  # measurements back to which the machine's speed is compared: a warm one may stay slower
REFERENCE_SHARE = 4  # times the rounds of the search in which the base alone is timed
_NUM_IMAGES = 8  # random images that the probe visits in turn; dense kernels take the same time for any


@dataclass(frozen=True)
class RatioEstimate:
    """Time of one network as a share of the dense base's, at batch 1 in the same process.

    Attributes:
        ratio: Median over the undisturbed rounds of the typical call over the base's typical call, with its bootstrap
            interval.
        p50_ratio: Median of single calls over the median of the base's single calls (wall, from the
            undisturbed rounds).
        p95_ratio: 95th percentile of the same calls over the median of the base's.
        noisy: After the last doubling the interval was too wide, the sentinel had moved, or the base ran slower
            than in the measurements before; do not rank by it.
        num_rounds: Rounds taken, undisturbed or not.
        num_calls: Single calls of the candidate that p50 and p95 rest on.
        sentinel_ratio: The sentinel's own ratio in the same rounds; none without a sentinel.
        samples: The ratio of every undisturbed round, in order.
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


def sentinel_holds(ratio: float, earlier: Sequence[float], limit: float) -> bool:
    """Say whether the sentinel costs what it did before: within twice `limit` of its earlier median."""
    return not earlier or abs(math.log(ratio / float(np.median(earlier)))) <= 2 * limit


def additive_latency(
    members: Sequence[RatioEstimate],
    exit_shares: Sequence[float],
    reference_ms: float,
    gate_ms: float,
    denominator: Denominator = "plain",
) -> Latency:
    """Add up member latencies, each weighted by the share of images that reach the member.

    Close enough to rank trials, and optimistic for deep teams at batch 1: three members in a row
    cost 3.3-3.4 member times there, since they evict each other's weights from the caches. Frontier
    points are therefore timed again by `cascade_latencies`.

    Args:
        members: In gate order.
        exit_shares: Share of images that stop at each member; sums to 1.
        reference_ms: Latency of the dense base, wall.
        gate_ms: Cost of one gate step; charged once for each member run in a team of two or more.
        denominator: How the dense base ran.

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
        speedup=inverse(total, reference_ms),
        worst_case_speedup=float(reference_ms / at_exit["value"][-1]),
        method="additive",
        noisy=any(member.noisy for member in members),
        num_calls=num_calls,
        exit_ms=tuple(map(float, at_exit["value"])),
        denominator=denominator,
    )


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


_ALONE = GateSettings(rule="threshold", threshold=1.0, sharpness=1.0, tau=1.0)  # one member: never asked


def plain_call(session: Any, images: Float[np.ndarray, "images channels height width"]) -> Call:
    """Run a network as a practitioner would: one `session.run` of its ONNX file, then the best class."""
    outputs = [OUTPUT]
    return lambda i: session.run(outputs, {INPUT: images[i][None]})[0].argmax()


def _session_call(onnx: bytes, images: Float[np.ndarray, "images channels height width"], threads: int) -> Call:
    # Through the deployed runtime: its few microseconds a call are a third of a small network's time.
    team = GatedClassifier.from_onnx([onnx], _ALONE, threads)
    return lambda i: team.predict(images[i])


def _reference_of(rounds: Sequence[Round]) -> float:
    (times,) = typical_times(rounds, "reference")
    return float(np.median(times))


def _random_images(image_shape: tuple[int, int, int], num: int) -> Float[np.ndarray, "num channels height width"]:
    return np.random.default_rng(0).random((num, *image_shape), dtype=np.float32)


class LatencyProbe:
    """Times networks against the dense base, one at a time; nothing else should run on its cores.

    Networks of equal architecture are measured once: the first accepted estimate is kept. After three
    tries that stayed noisy, the one is during which the base ran fastest, and says that it is noisy: on a
    host that is never undisturbed a search would otherwise spend its time on latencies.

    Args:
        reference_onnx: The dense base.
        sentinel_onnx: A network of known cost, such as the base at half width. Its ratio must stay
            where it was in earlier measurements, else the machine has changed and the measurement
            counts as noisy. None does without.
        image_shape: (channels, height, width).
        spec: Threads, rounds and block length.
        clock: Asked for the time.
        denominator: How the dense base runs: `plain`, or `script` to go on with a search of an earlier version.

    Source:
        Ours; rounds in random order, only undisturbed ones of them (`timing.undisturbed_first`) and the median of paired
        ratios keep out drift and neighbours.
    """

    def __init__(
        self,
        reference_onnx: bytes,
        sentinel_onnx: bytes | None,
        image_shape: tuple[int, int, int],
        spec: LatencySpec,
        clock: Clock = MACHINE,
        denominator: Denominator = "plain",
    ) -> None:
        self._spec, self._clock = spec, clock
        self._images = _random_images(image_shape, _NUM_IMAGES)
        self._rng = np.random.default_rng(0)
        if denominator == "plain":
            self._calls = {"reference": plain_call(new_session(reference_onnx, spec.threads), self._images)}
        else:
            self._calls = {"reference": _session_call(reference_onnx, self._images, spec.threads)}
        if sentinel_onnx is not None:
            self._calls["sentinel"] = _session_call(sentinel_onnx, self._images, spec.threads)
        self._call_ms = {name: warm_up(call, _NUM_IMAGES, clock=clock) for name, call in self._calls.items()}
        self._known: dict[tuple[str, bool], RatioEstimate] = {}
        self._tries: dict[tuple[str, bool], list[tuple[float, RatioEstimate]]] = {}  # the base's time beside each
        self._base_ms: list[float] = []  # in the undisturbed rounds of all measurements
        self._sentinels: list[tuple[float, float]] = []  # the base's time and the sentinel's ratio, in the same

    def measure(self, onnx: bytes, *, final: bool = False) -> RatioEstimate:
        """Measure one network, or recall what an equal architecture measured.

        Args:
            onnx: The network, as `to_onnx` writes it.
            final: Take the finalists' rounds and narrower interval.
        """
        key = (architecture_signature(onnx), final)
        if key not in self._known:
            estimate = self.measure_call(self.call_of(onnx), final=final)
            tries = self._tries.setdefault(key, [])
            tries.append((self._base_ms[-1], estimate))
            if estimate.noisy and len(tries) < NUM_TRIES:
                return estimate  # worth another try the next time
            self._known[key] = min(tries, key=lambda one: one[0])[1] if estimate.noisy else estimate
        return self._known[key]

    def call_of(self, onnx: bytes) -> Call:
        """Load a network so that `measure_call` can time it, as it is or wrapped."""
        return _session_call(onnx, self._images, self._spec.threads)

    def measure_call(self, call: Call, *, final: bool = False) -> RatioEstimate:
        """Measure anything that classifies image number i of the probe, for i in 0..7."""
        limit = FINAL_HALF_WIDTH if final else SEARCH_HALF_WIDTH
        calls = {**self._calls, "candidate": call}
        call_ms = {**self._call_ms, "candidate": warm_up(call, _NUM_IMAGES, clock=self._clock)}
        images = {name: self._block_images(call_ms[name]) for name in calls}
        by_cpu = ranks_by_cpu(call_ms.values())

        names = list(calls)

        def settled(rounds: list[Round]) -> bool:
            undisturbed = undisturbed_rounds(rounds, *names)
            narrow = half_width(median_interval(ratios(undisturbed, "candidate"))) <= limit
            holds = "sentinel" not in calls or self._sentinel_holds(undisturbed, limit)
            return narrow and holds and self._as_fast_as_before(undisturbed)

        rounds = until_settled(
            lambda num: take_rounds(calls, lambda: images, num, self._rng, by_cpu=by_cpu, clock=self._clock),
            settled,
            self._spec.final_rounds if final else self._spec.rounds,
        )
        noisy = not settled(rounds)
        undisturbed = undisturbed_rounds(rounds, *names)
        base_ms = self._remember(undisturbed)
        sentinel = median_interval(ratios(undisturbed, "sentinel")) if "sentinel" in calls else None
        if sentinel is not None:
            self._sentinels.append((base_ms, sentinel.value))
        samples = ratios(undisturbed, "candidate")
        exits, shares = np.ones(len(images["candidate"]), np.int64), np.array([0.0, 1.0])
        p50, p95, num_calls = call_quantiles(
            rounds, [exits] * len(rounds), shares, undisturbed_first(*typical_times(rounds, *names))
        )
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

    def _as_fast_as_before(self, undisturbed: Sequence[Round]) -> bool:
        """Whether the base ran as fast as in the best of the last measurements; else all rounds were disturbed."""
        return _reference_of(undisturbed) <= QUIET * min(self._base_ms[-_REMEMBERED:], default=math.inf)

    def _remember(self, undisturbed: Sequence[Round]) -> float:
        """Note how fast the base ran."""
        self._base_ms.append(_reference_of(undisturbed))
        return self._base_ms[-1]

    def _sentinel_holds(self, undisturbed: Sequence[Round], limit: float) -> bool:
        """Whether it costs what it did when the machine was as fast as it can be."""
        known = self._sentinels[-_REMEMBERED:]
        fastest = min([_reference_of(undisturbed), *(ms for ms, _ in known)])
        earlier = [ratio for ms, ratio in known if ms <= QUIET * fastest]
        return sentinel_holds(float(np.median(ratios(undisturbed, "sentinel"))), earlier, limit)

    def reference_ms(self) -> Interval:
        """Wall time of the dense base's typical call, from the undisturbed of many rounds."""
        images = {"reference": self._block_images(self._call_ms["reference"])}
        only = {"reference": self._calls["reference"]}
        by_cpu = ranks_by_cpu([self._call_ms["reference"]])
        num_rounds = REFERENCE_SHARE * self._spec.rounds
        rounds = take_rounds(only, lambda: images, num_rounds, self._rng, by_cpu=False, clock=self._clock)
        undisturbed = undisturbed_rounds(rounds, "reference")
        if not by_cpu:  # else by another clock than the measurements
            self._remember(undisturbed)
        (times,) = typical_times(undisturbed, "reference")
        return median_interval(times)

    def gate_ms(self, num_classes: int, gate: GateSettings = _ALONE) -> float:
        """Time of one step of a gate at batch 1: a third of a team of three's typical walk.

        Args:
            num_classes: Classes.
            gate: Its rule; the threshold plays no part.
        """
        answers = np.random.default_rng(0).dirichlet(np.ones(num_classes), (_NUM_IMAGES, 3)).astype(np.float32)
        never = gate.never_stopping()

        def walk(i: int) -> None:
            way = GateWalk(never, 3)
            for answer in answers[i]:
                way.step(answer)

        images = self._block_images(warm_up(walk, _NUM_IMAGES, clock=self._clock))
        blocks = (time_block(walk, images, clock=self._clock) for _ in range(self._spec.rounds))
        return float(np.median([block.typical_ms for block in blocks])) / 3

    def _block_images(self, call_ms: float) -> list[int]:
        return [n % _NUM_IMAGES for n in range(block_calls(call_ms, self._spec.block_ms))]
