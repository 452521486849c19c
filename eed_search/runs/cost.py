"""What a classifier costs: on clean images, under the attack on accuracy, slowed down, and at worst.

An attacker can make the gate ask more members. What that costs follows from where the gate then stops
and from how long an image takes that stops there. A classifier without a gate always costs the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eed_search.config.params import LatencyKind
from eed_search.runs.records import Exits, Interval, Latency, Measurement


@dataclass(frozen=True)
class Cost:
    """What an average image costs.

    Attributes:
        members_run: Members that the gate asks.
        macs: Multiply-accumulates.
        latency_ms: Batch 1 in the deployment runtime; none where the target was never timed.
        speedup: Dense base's latency over this one; none likewise.
    """

    members_run: float
    macs: int
    latency_ms: float | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class Costs:
    """What one classifier costs in each case.

    Attributes:
        clean: On the images as they are.
        accuracy: Under the attack on accuracy; none where it was not measured.
        slowed: Under the attack on the gate's cost, the label kept; none likewise.
        worst: Every member runs.
    """

    clean: Cost
    accuracy: Cost | None
    slowed: Cost | None
    worst: Cost

    @property
    def attacked(self) -> Cost | None:
        """The slower of the two attacks; none where neither was measured."""
        known = [one for one in (self.accuracy, self.slowed) if one is not None]
        return max(known, key=lambda one: (one.latency_ms or 0.0, one.members_run), default=None)


def costs(m: Measurement) -> Costs:
    """List what a classifier costs in each case, as far as it was measured."""
    dense = m.latency.speedup.value * m.latency.latency_ms.value
    found = m.under_attack

    def at(exits: Exits) -> Cost:
        ms = latency_at(m, exits)
        return Cost(exits.members_run, exits.macs, ms, dense / ms)

    clean = Cost(m.mean_members_run, m.macs, m.latency.latency_ms.value, m.latency.speedup.value)
    always = clean if m.num_members == 1 else None  # nobody else to ask
    return Costs(
        clean=clean,
        accuracy=always if found is None else at(found.accuracy),
        slowed=always if found is None else at(found.slowed),
        worst=Cost(m.num_members, m.worst_case_macs, m.latency.worst_case_ms, m.latency.worst_case_speedup),
    )


def latency_of(m: Measurement, kind: LatencyKind) -> Interval:
    """Give the latency that ranks, with its interval.

    The interval of an attacked or worst case has the relative width of the clean one: all three come from the
    same rounds. Where the cost under attack was not measured (a run of an older version), the
    worst case stands in, which no attack exceeds.

    Args:
        m: Measurement of one classifier.
        kind: Which latency.
    """
    clean = m.latency.latency_ms
    if kind == "clean":
        return clean
    attacked = costs(m).attacked if kind == "attacked" else None
    value = m.latency.worst_case_ms if attacked is None or attacked.latency_ms is None else attacked.latency_ms
    return scaled(clean, value)


def scaled(clean: Interval, value: float) -> Interval:
    """Put the relative interval of the clean latency around another one of the same rounds."""
    factor = value / clean.value
    return Interval(value, factor * clean.low, factor * clean.high)


def attacked_speedup(m: Measurement) -> float | None:
    """Give the dense base's latency over this one's under the slower of both attacks; none where not measured."""
    attacked = costs(m).attacked
    return None if attacked is None else attacked.speedup


def latency_at(m: Measurement, exits: Exits) -> float:
    """Give the mean latency where the gate stops elsewhere than on the images that were timed.

    Args:
        m: As measured on clean images.
        exits: Where the gate stops on the other images.

    Returns:
        Milliseconds, at most the worst case: the clean mean, with the time of each exit for the images that moved
        there. Where the exits were not timed one by one, interpolated between the clean and the worst case by
        multiply-accumulates, which is exact for two members.
    """
    clean, worst = m.latency.latency_ms.value, max(m.latency.worst_case_ms, m.latency.latency_ms.value)
    if exits.shares == m.exit_shares:
        return clean
    if len(m.latency.exit_ms) == len(m.exit_shares):
        return moved(m.latency, m.exit_shares, exits.shares)
    if m.worst_case_macs == m.macs:
        return clean
    return min(clean + (worst - clean) * (exits.macs - m.macs) / (m.worst_case_macs - m.macs), worst)


def moved(latency: Latency, before: Sequence[float], after: Sequence[float]) -> float:
    """Give the mean latency in ms where the images stop elsewhere, at most the worst case.

    Args:
        latency: Measured, with the time of each exit.
        before: Share of the images that stopped at each member then.
        after: The same now.
    """
    mean = latency.latency_ms.value
    shift = sum((new - old) * ms for new, old, ms in zip(after, before, latency.exit_ms, strict=True))
    return min(mean + shift, max(latency.worst_case_ms, mean))
