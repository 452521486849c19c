"""Does the frontier beat the controls? One comparison for each control, on the same images."""

from __future__ import annotations

from dataclasses import dataclass, replace

from eed_search.core.cost import costs, latency_of
from eed_search.core.ledger import RunView
from eed_search.core.params import LatencyKind
from eed_search.core.points import latency_kind
from eed_search.core.records import Interval, Measurement, Point, Reference, unpack_bits
from eed_search.core.reported import standing
from eed_search.core.statistics import paired_difference
from eed_search.tracking.text import signed


@dataclass(frozen=True)
class Comparison:
    """One control against the frontier.

    Attributes:
        control: The control's name.
        beaten: Whether some frontier point is at least as fast and at least as robust, and
            strictly better in one of the two.
        point: The frontier point compared: of those that beat the control, the most robust; else,
            of those at least as fast, the most robust; else the fastest. None without a frontier.
        robust_difference: The point's robust accuracy minus the control's, with its 95 % interval
            on the same images (fractions); none where the two were not measured on the same images.
        times_faster: The control's latency over the point's; none without a point.
        significant: The interval excludes 0.
        text: The comparison in one line.
        times_faster_attacked: What an attack leaves of `times_faster`; none where it was not measured.
    """

    control: str
    beaten: bool
    point: str | None
    robust_difference: Interval | None
    times_faster: float | None
    significant: bool
    text: str
    times_faster_attacked: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the frontier beats the controls.

    Attributes:
        beats_controls: All controls are beaten; none where there is no control or no frontier.
        text: The verdict in one line.
        comparisons: One for each control.
    """

    beats_controls: bool | None
    text: str
    comparisons: tuple[Comparison, ...]


def final(view: RunView, reference: Reference) -> Measurement:
    """Take a reference's measurement with its final latency filled in where one was taken."""
    latency = view.latencies.get(reference.name, reference.measurement.latency)
    return replace(reference.measurement, latency=latency)


def judge(view: RunView) -> Verdict:
    """Compare the reported frontier with every control.

    A control is beaten by a point whose latency interval is not wholly above the control's and
    whose robust accuracy is higher, or equal at a latency interval wholly below.

    Args:
        view: The run.

    Returns:
        The verdict; a frontier that does not beat the controls says so.

    Source:
        Ours; the difference on the same images after Agresti and Min 2005 (`paired_difference`).
    """
    front = standing(view).front
    if not view.controls:
        return Verdict(None, "No control was trained, so the frontier stands beside the dense base alone.", ())
    if not front:
        return Verdict(None, "There is no frontier yet, so nothing can be compared with the controls.", ())
    kind = latency_kind(view)
    comparisons = tuple(_compare(control.name, final(view, control), front, kind) for control in view.controls)
    missed = [c.control for c in comparisons if not c.beaten]
    significant = sum(c.significant for c in comparisons)
    if not missed:
        text = (
            f"The frontier beats {'all' if len(comparisons) > 1 else 'the'} {_count(len(comparisons), 'control')}: "
            f"at least as fast and as robust as each"
            f" ({significant} of {len(comparisons)} robust-accuracy differences exclude 0)."
        )
    elif len(missed) < len(comparisons):
        text = f"The frontier does NOT beat all controls: not {' nor '.join(missed)}."
    else:
        text = "The frontier does NOT beat the controls: no point is at least as fast and as robust as any of them."
    return Verdict(not missed, text, comparisons)


def _compare(name: str, control: Measurement, front: list[Point], kind: LatencyKind) -> Comparison:
    slow, weak = latency_of(control, kind), control.robust_accuracy.value
    # Two networks of one architecture differ in latency by noise alone, so intervals decide.
    as_fast = [p for p in front if latency_of(p.measurement, kind).low <= slow.high]
    beating = [
        p
        for p in as_fast
        if p.measurement.robust_accuracy.value > weak
        or (p.measurement.robust_accuracy.value == weak and latency_of(p.measurement, kind).high < slow.low)
    ]
    candidates = beating or as_fast
    # The front is sorted fastest first, so of equally robust points the fastest is taken.
    point = max(candidates, key=lambda p: p.measurement.robust_accuracy.value) if candidates else front[0]
    difference = _difference(point.measurement, control)
    faster = control.latency.latency_ms.value / point.measurement.latency.latency_ms.value
    attacked = _faster_under_attack(point.measurement, control)
    significant = difference is not None and (difference.low > 0 or difference.high < 0)
    gain = point.measurement.robust_accuracy.value - weak
    by = f"{signed(100 * gain)} points of robust accuracy"
    if difference is not None:
        excludes = "excludes" if significant else "includes"
        by += f" ({signed(100 * difference.low)}..{signed(100 * difference.high)} on the same images, {excludes} 0)"
    else:
        by += " (not on the same images, so without an interval)"
    speed = f"{faster:.2f}× its speed" + (f" ({attacked:.2f}× attacked)" if attacked is not None else "")
    if beating:
        text = f"{name}: beaten by {point.id}, {by} at {speed}"
    elif as_fast:
        text = f"{name}: not beaten; the most robust point that is as fast, {point.id}: {by} at {speed}"
    else:
        text = f"{name}: not beaten; no point is as fast; the fastest, {point.id}: {by} at {speed}"
    if control.latency.noisy:
        text += "; its latency is noisy"
    return Comparison(name, bool(beating), point.id, difference, faster, significant, text, attacked)


def _faster_under_attack(point: Measurement, control: Measurement) -> float | None:
    """The control's latency under attack over the point's; a single network's is what it always is."""
    ours, theirs = costs(point).attacked, costs(control).attacked
    if ours is None or theirs is None or not ours.latency_ms or not theirs.latency_ms:
        return None
    return theirs.latency_ms / ours.latency_ms


def _difference(point: Measurement, control: Measurement) -> Interval | None:
    num = point.robust_accuracy.num_samples
    same = num == control.robust_accuracy.num_samples and point.robust_hex and control.robust_hex
    if not same:
        return None
    first, second = unpack_bits(point.robust_hex, num), unpack_bits(control.robust_hex, num)
    return Interval(*paired_difference(first, second))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
