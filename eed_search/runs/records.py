"""What the search writes down: measurements, trials, points. Plain frozen data, to JSON and back.

Accuracies are fractions, latencies milliseconds, sizes bytes, ε is in pixel units on [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from eed_search.config.params import ParamValue
from eed_search.core.statistics import clopper_pearson
from eed_search.storage.store import StageUse

if TYPE_CHECKING:
    from jaxtyping import Bool

Badge = Literal["proxy", "checked", "claim", "invalid"]
Outcome = Literal["done", "pruned", "infeasible", "failed"]
Record = TypeVar("Record")


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its exact 95 % interval (Clopper and Pearson)."""

    value: float
    low: float
    high: float
    num_samples: int

    @classmethod
    def of(cls, right: Bool[np.ndarray, " samples"]) -> Accuracy:
        """Count the right answers of one evaluation."""
        low, high = clopper_pearson(int(right.sum()), right.size)
        return cls(float(right.mean()), low, high, right.size)


@dataclass(frozen=True)
class RobustAccuracy:
    """An accuracy under attack: never without what attacked it, how far, and how much it may claim.

    Attributes:
        attack: The attacks whose per-sample union was counted.
        eps: L∞ budget in pixel units on [0, 1].
        badge: `proxy` ranks trials in a search; only later tiers may claim more.
    """

    value: float
    low: float
    high: float
    num_samples: int
    attack: str
    eps: float
    badge: Badge

    @classmethod
    def of(cls, right: Bool[np.ndarray, " samples"], *, attack: str, eps: float, badge: Badge) -> RobustAccuracy:
        """Count the samples that no attack broke."""
        low, high = clopper_pearson(int(right.sum()), right.size)
        return cls(float(right.mean()), low, high, right.size, attack, eps, badge)


Denominator = Literal["plain", "script"]
HELD = "20 of 24 repeats"  # in which a final latency's interval held the truth (docs/log.md, 2026-11-22)


@dataclass(frozen=True)
class Latency:
    """The latency of one classifier at batch 1, against the dense base in the same process.

    Attributes:
        latency_ms: Mean over the validation images, the gate's own cost included, with its interval.
        p50_ms: Median of single calls; none where fewer than 1,000 were timed, and for a team of
            several until its cascade was.
        p95_ms: 95th percentile of the same calls, likewise.
        worst_case_ms: When every member runs.
        speedup: Dense base's latency over this one's, with its interval.
        worst_case_speedup: The same when every member runs.
        method: `additive` sums member latencies over exit shares (in the search);
            `cascade` timed the deployed cascade itself, image by image (frontier and baselines).
        noisy: The interval stayed wider than the protocol asks for at this stage (3 % in the search; in each
            process of a final latency 1 % times the root of their number), or too few processes were undisturbed; shown
            with a mark.
        images_per_second: In batches of 64, wall time; final latencies only.
        num_calls: Single calls that p50 and p95 rest on, or would; 0 where none were timed or the
            number was not written down yet.
        exit_ms: Latency of an image that stops at each member, in gate order; empty where it was not
            written down yet. What an attack on the gate costs follows from it (`runs.cost`).
        remade: What of the store was altered or gone and was made again for it.
        denominator: How the dense base ran, by which the speed-ups divide: `plain`, one `session.run` and an argmax, as a
            practitioner would run it; `script`, through the deployed script, as versions before this field did. A base or
            baseline with `plain` was timed that way itself.
        script_speedup: The speed-up over the dense base through the same script; final latencies only.
    """

    latency_ms: Interval
    p50_ms: float | None
    p95_ms: float | None
    worst_case_ms: float
    speedup: Interval
    worst_case_speedup: float
    method: Literal["additive", "cascade"]
    noisy: bool = False
    images_per_second: Interval | None = None
    num_calls: int = 0
    exit_ms: tuple[float, ...] = ()
    remade: tuple[str, ...] = ()
    denominator: Denominator = "script"
    script_speedup: Interval | None = None


@dataclass(frozen=True)
class Exits:
    """Where the gate stops on one kind of images.

    Attributes:
        shares: Share of the images that stop at each member; sums to 1.
        macs: Multiply-accumulates for an average image.
    """

    shares: tuple[float, ...]
    macs: int

    @property
    def members_run(self) -> float:
        """Members that the gate runs for an average image."""
        return sum(member * share for member, share in enumerate(self.shares, start=1))


@dataclass(frozen=True)
class UnderAttack:
    """How deep the gate goes on attacked images, the same ones that clean accuracy is counted on.

    Attributes:
        accuracy: On the image that broke a sample, else on the last one that the attack on accuracy tried.
        slowed: On the slowest image found by the attack on the gate's cost, the label kept; the clean
            image where none was slower.
        attack: What slowed the gate down, with its steps.
        at_least: The attack aimed at another gate threshold, so that these are lower bounds.
    """

    accuracy: Exits
    slowed: Exits
    attack: str
    at_least: bool = False


@dataclass(frozen=True)
class Measurement:
    """Everything measured on one classifier: the dense base, a baseline, or one point of a trial.

    Attributes:
        clean_accuracy: On the unperturbed validation images, through the gate.
        robust_accuracy: On the same images under attack, through the gate.
        difference_to_base: Robust accuracy minus the dense base's on the same images (paired).
        latency: At batch 1 in the deployment runtime.
        mean_members_run: Members that the gate runs for an average clean image.
        num_members: Members in the team.
        exit_shares: Share of clean images that stop at each member; sums to 1.
        macs: Multiply-accumulates for an average clean image.
        worst_case_macs: Multiply-accumulates when every member runs.
        size_bytes: What ships: float32 weights; masked members as kept weights plus a bitmap.
        robust_hex: Which validation images stayed right under attack, packed bits in hexadecimal.
        artifact: Stage and key under which the store holds the weights, as `stage/key`.
        under_attack: How deep the gate goes under attack; none where it was not measured yet.
        remade: What of the store was altered or gone and was made again to confirm it.
    """

    clean_accuracy: Accuracy
    robust_accuracy: RobustAccuracy
    difference_to_base: Interval | None
    latency: Latency
    mean_members_run: float
    num_members: int
    exit_shares: tuple[float, ...]
    macs: int
    worst_case_macs: int
    size_bytes: int
    robust_hex: str
    artifact: str
    under_attack: UnderAttack | None = None
    remade: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """A classifier beside the frontier: the dense base or a baseline.

    Attributes:
        name: `dense base`, or such as `scratch 50 % (distill)`.
        measurement: What it measured.
        seconds: Time its training took.
        size: Fraction of channels or weights it keeps.
        recipe: How it was trained.
        remade: What of the store was altered and was made again for it.
    """

    name: str
    measurement: Measurement
    seconds: float
    size: float = 1.0
    recipe: str = "labels"
    remade: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValidationRound:
    """One decision on who may belong to the frontier, as the ledger keeps it (`frontier.selection`).

    Attributes:
        number: 0 by the search's own images; k after the k-th slice of fresh ones.
        probability: Probability of each point that was measured to be on the true frontier, by id.
        left: Who may belong to the frontier still.
        timings: Final latencies that each of them had had by then.
    """

    number: int
    probability: dict[str, float]
    left: tuple[str, ...]
    timings: dict[str, int] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to tell apart; who seems sure by lucky images still has to show it on fresh ones."""
        return len(self.left) <= 1


@dataclass(frozen=True)
class FreshCheck:
    """A classifier on fresh images, which no decision of the search has seen.

    Attributes:
        clean_accuracy: On the unperturbed fresh images, through the gate.
        robust_accuracy: On the same images under the search's attack.
        robust_hex: Which of them stayed right under attack, packed bits in hexadecimal.
        remade: What of the store was altered or gone and was made again for it, and what was noted of its training.
    """

    clean_accuracy: Accuracy
    robust_accuracy: RobustAccuracy
    robust_hex: str
    remade: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweptPoint:
    """A trained team behind another gate threshold than the trial was given.

    Attributes:
        gate_threshold: The other threshold.
        measurement: Clean accuracy and latency are exact; robust accuracy is an upper bound and the cost
            under attack a lower one, since the attacks followed the trial's own threshold. Attacks at
            this one confirm it.
    """

    gate_threshold: float
    measurement: Measurement


@dataclass(frozen=True)
class EarlyStop:
    """Where the attack on a trained team was given up, because it was surely beaten on the images seen.

    Attributes:
        num_images: Images attacked.
        num_all: Images there are.
        beaten_by: Points that are as fast and surely more robust, one for each way to deploy the team.
        robust_accuracy: What it would have had on all images, in expectation: the point that beats it, moved
            by the difference on the images seen. At the trial's own gate threshold.
        latency_ms: The one that ranks, there; where an attack's cost ranks, the clean one, which is no higher.
    """

    num_images: int
    num_all: int
    beaten_by: tuple[str, ...]
    robust_accuracy: float
    latency_ms: Interval

    @property
    def message(self) -> str:
        """One line for a person."""
        return (
            f"attack given up after {self.num_images} of {self.num_all} images: {' and '.join(self.beaten_by)}"
            f" {'is' if len(self.beaten_by) == 1 else 'are'} as fast and surely more robust than about"
            f" {100 * self.robust_accuracy:.1f} % in {self.latency_ms.value:.3g} ms"
        )


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial, whatever its end.

    Attributes:
        number: Counts from 0 in the order of proposal.
        params: What was chosen, flat.
        outcome: `done` enters the frontier, nothing else does.
        reason: Why it did not: a failure reason, a constraint's name, or empty.
        message: One line for a person.
        measurement: Present when `done`, and when a constraint was broken after measuring.
        constraints: For each constraint, by how much it is broken; at most 0 is kept.
        robust_diversity: RD of the team before joint fine-tuning; none for one member.
        notes: What a reader of the result should know.
        stages: Every stage used, in order.
        seconds: Wall-clock time of the trial.
        swept: The same team at other gate thresholds, where they add to the frontier.
        stop: Present when the attack was given up early (`search.image_racing`).
        remade: What of the store was altered and was made again for it; the notes say so too.
    """

    number: int
    params: dict[str, ParamValue]
    outcome: Outcome
    reason: str = ""
    message: str = ""
    measurement: Measurement | None = None
    constraints: dict[str, float] = field(default_factory=dict)
    robust_diversity: float | None = None
    notes: tuple[str, ...] = ()
    stages: tuple[StageUse, ...] = ()
    seconds: float = 0.0
    swept: tuple[SweptPoint, ...] = ()
    stop: EarlyStop | None = None
    remade: tuple[str, ...] = ()


@dataclass(frozen=True)
class RungResult:
    """What a trial measured at a rung, on its way to its end.

    Attributes:
        rung: Counts from 0.
        robust_accuracy: On a part of the validation images, under a part of the attack's steps.
        latency_ms: The one that ranks (`search.latency_objective`), of the team as it is; with its interval.
        robust_hex: Flags of `robust_accuracy`, sample by sample, as `pack_bits` writes them: every
            trial meets the same images in the same order, so trials are compared image by image.
        stages: Every stage used since the rung before, in order.
        seconds: Wall-clock time since the rung before.
    """

    rung: int
    robust_accuracy: Accuracy
    latency_ms: Interval
    robust_hex: str
    stages: tuple[StageUse, ...] = ()
    seconds: float = 0.0

    def metrics(self) -> dict[str, float]:
        """Give both objectives with the ends of their intervals, by name."""
        named = {"robust_accuracy": self.robust_accuracy, "latency_ms": self.latency_ms}
        return {
            f"{name}{end}": float(getattr(one, end.strip("_") or "value"))
            for name, one in named.items()
            for end in ("", "_low", "_high")
        }


@dataclass(frozen=True)
class Point:
    """One deployable configuration: a trial at one gate threshold.

    Attributes:
        id: `TRIAL.POINT`, for example `7.0`; point 0 is the trial's own threshold.
        confirmed: An attack at this very threshold was made; else the robust accuracy is an upper bound.
    """

    id: str
    trial: int
    params: dict[str, ParamValue]
    measurement: Measurement
    confirmed: bool = True


def pack_bits(bits: Bool[np.ndarray, " samples"]) -> str:
    """Write a row of flags as hexadecimal text (first sample first)."""
    return bytes(np.packbits(bits)).hex()


def unpack_bits(text: str, num_samples: int) -> Bool[np.ndarray, " samples"]:
    """Read what `pack_bits` wrote."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=num_samples).astype(bool)


def _new_adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


_adapter: Callable[[Any], Any] = cache(_new_adapter)


def to_json(record: Any) -> dict[str, Any]:
    """Turn a record into JSON-ready tables."""
    return dict(_adapter(type(record)).dump_python(record, mode="json"))


def from_json(kind: type[Record], data: dict[str, Any]) -> Record:
    """Read a record back; every field is checked.

    Raises:
        ValueError: If a field is missing or of another type.
    """
    record: Record = _adapter(kind).validate_python(data)
    return record


def metric_problem(name: str, value: object) -> str:
    """Say what is wrong with a reported metric, or nothing: the one validator that all metrics meet.

    Args:
        name: The metric.
        value: What a trial reported for it.

    Returns:
        An empty text for a finite number, else one line.
    """
    if value is None:
        return f"{name} is missing"
    if isinstance(value, bool) or not isinstance(value, Real):
        return f"{name} is {type(value).__name__} {value!r}, not a number"
    if not math.isfinite(value):
        return f"{name} is {value}, not a finite number"
    return ""
