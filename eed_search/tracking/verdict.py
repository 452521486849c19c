"""Does the frontier beat the baselines? One comparison for each, on images that chose nothing."""

from __future__ import annotations

from dataclasses import dataclass

from eed_search.config.params import LatencyKind
from eed_search.frontier.points import latency_kind, with_final_latency
from eed_search.frontier.testimony import Gain, gain_over, num_comparisons
from eed_search.runs.cost import costs, latency_of
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Interval, Measurement, Point, Reference
from eed_search.tracking.text import signed


@dataclass(frozen=True)
class Comparison:
    """One baseline against the frontier.

    Attributes:
        baseline: The baseline's name.
        beaten: Whether the compared point is as fast and surely more robust.
        point: The frontier point compared: of those at least as fast, the most robust by the search's own figures; else
            the fastest. None without a frontier.
        robust_difference: The point's robust accuracy minus the baseline's on images that chose nothing, with an interval
            that holds at 95 % together with those of all comparisons of the search (fractions); none where the two
            were not attacked on the same fresh images.
        times_faster: The baseline's latency over the point's; none without a point.
        significant: The interval excludes 0.
        text: The comparison in one line.
        times_faster_attacked: What an attack leaves of `times_faster`; none where it was not measured.
        num_images: Images that the difference rests on; 0 without one.
        source: `checked` (attacked at tier 1) or `fresh` (the search's attack); empty without a difference.
        decided_by: About how many such images would tell the two apart; none where that is done, or hopeless.
        chose: The difference on the images that ranked the trials, which proves nothing.
    """

    baseline: str
    beaten: bool
    point: str | None
    robust_difference: Interval | None
    times_faster: float | None
    significant: bool
    text: str
    times_faster_attacked: float | None = None
    num_images: int = 0
    source: str = ""
    decided_by: int | None = None
    chose: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the frontier beats the baselines.

    Attributes:
        beats_baselines: All baselines are surely beaten; none where there is no baseline, no frontier, or nothing that could
            testify yet.
        text: The verdict in one line.
        comparisons: One for each baseline.
    """

    beats_baselines: bool | None
    text: str
    comparisons: tuple[Comparison, ...]


def compare(view: RunView, front: list[Point]) -> Verdict:
    """Compare the reported frontier with every baseline.

    A baseline is beaten by a point whose latency interval is not wholly above the baseline's and that is surely
    more robust on images that chose nothing.

    Args:
        view: The run.
        front: Its reported frontier, fastest first.

    Returns:
        The verdict; a frontier that is not shown to beat the baselines says so.

    Source:
        Ours; see `frontier.testimony`.
    """
    if not view.baselines:
        return Verdict(None, "No baseline was trained, so the frontier stands beside the dense base alone.", ())
    if not front:
        return Verdict(None, "There is no frontier yet, so nothing can be compared with the baselines.", ())
    num = num_comparisons(len(front), len(view.baselines))
    found = tuple(_compare(view, baseline, front, latency_kind(view), num) for baseline in view.baselines)
    if all(one.robust_difference is None for one in found):
        return Verdict(
            None,
            "The frontier is not compared with the baselines yet: no fresh image was attacked, and those that chose prove nothing.",
            found,
        )
    beaten = [one.baseline for one in found if one.beaten]
    missed = [one.baseline for one in found if not one.beaten]
    many = "together" if len(found) > 1 else "sure"
    if not missed:
        all_of = f"all {_count(len(found), 'baseline')}" if len(found) > 1 else "the baseline"
        text = f"The frontier beats {all_of}: as fast, and more robust on images that chose nothing (95 % {many})."
    elif beaten:
        text = f"The frontier beats {' and '.join(beaten)}; it is NOT shown to beat {' nor '.join(missed)}."
    elif any(one.significant for one in found):
        text = "The frontier does NOT beat the baselines: no point is as fast and surely more robust than any of them."
    else:
        text = "The frontier is NOT shown to beat the baselines: on images that chose nothing no difference is sure."
    return Verdict(not missed, text, found)


def _compare(view: RunView, reference: Reference, front: list[Point], kind: LatencyKind, num: int) -> Comparison:
    baseline = with_final_latency(view, reference)
    # Two networks of one architecture differ in latency by noise alone, so intervals decide.
    as_fast = [p for p in front if latency_of(p.measurement, kind).low <= latency_of(baseline, kind).high]
    # The front is sorted fastest first, so of equally robust points the fastest is taken.
    point = max(as_fast, key=lambda p: p.measurement.robust_accuracy.value) if as_fast else front[0]
    gain = gain_over(view, point.id, reference.name, num)
    beaten = bool(as_fast) and gain is not None and gain.difference.low > 0
    faster = baseline.latency.latency_ms.value / point.measurement.latency.latency_ms.value
    attacked = _faster_under_attack(point.measurement, baseline)
    chose = point.measurement.robust_accuracy.value - baseline.robust_accuracy.value
    speed = f"{faster:.2f}× its speed" + (f" ({attacked:.2f}× attacked)" if attacked is not None else "")
    by = f"{_by(gain)} at {speed}"
    if beaten:
        text = f"{reference.name}: beaten by {point.id}, {by}"
    elif not as_fast:
        text = f"{reference.name}: not beaten; no point is as fast; the fastest, {point.id}: {by}"
    elif gain is not None and not gain.sure:
        text = f"{reference.name}: not told apart from {point.id}, the most robust point that is as fast: {by}{_more(gain)}"
    else:
        text = f"{reference.name}: not beaten; the most robust point that is as fast, {point.id}: {by}"
    if baseline.latency.noisy:
        text += "; its latency is noisy"
    return Comparison(
        baseline=reference.name,
        beaten=beaten,
        point=point.id,
        robust_difference=None if gain is None else gain.difference,
        times_faster=faster,
        significant=gain is not None and gain.sure,
        text=text,
        times_faster_attacked=attacked,
        num_images=0 if gain is None else gain.num_images,
        source="" if gain is None else gain.source,
        decided_by=None if gain is None else gain.decided_by,
        chose=chose,
    )


def _by(gain: Gain | None) -> str:
    if gain is None:
        return "not attacked on the same fresh images"
    d = gain.difference
    where = f"{gain.num_images} fresh images" + (", tier 1" if gain.source == "checked" else "")
    return (
        f"{signed(100 * d.value)} points of robust accuracy ({signed(100 * d.low)}..{signed(100 * d.high)} on {where})"
    )


def _more(gain: Gain) -> str:
    return "" if gain.decided_by is None else f"; about {gain.decided_by:,} images would decide"


def _faster_under_attack(point: Measurement, baseline: Measurement) -> float | None:
    """The baseline's latency under attack over the point's; a single network's is what it always is."""
    ours, theirs = costs(point).attacked, costs(baseline).attacked
    if ours is None or theirs is None or not ours.latency_ms or not theirs.latency_ms:
        return None
    return theirs.latency_ms / ours.latency_ms


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
