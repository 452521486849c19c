"""The frontier as a table: frontier, dense base and baselines, one row each, ready to print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eed_search.frontier.estimate import FrontierEstimate
from eed_search.runs.cost import attacked_speedup
from eed_search.runs.records import Measurement, Point
from eed_search.tracking.summary import RunSummary
from eed_search.tracking.text import in_bytes, in_macs, per_cent, team_title, times, with_arm

RowKind = Literal["base", "baseline", "point", "uncertain"]
COLUMNS = (
    "point",
    "team",
    "robust accuracy",
    "latency ms",
    "speed-up",
    "attacked",
    "clean accuracy",
    "members",
    "members run",
    "size",
    "MACs",
)


@dataclass(frozen=True)
class TableRow:
    """One row of the frontier table, ready to print.

    Attributes:
        kind: `point` of the reported frontier, `uncertain` for what may belong to it, `base` or `baseline`.
        cells: One text for each of `COLUMNS`; accuracies in per cent with the half-width of their
            95 % interval.
    """

    kind: RowKind
    cells: tuple[str, ...]


def table_rows(summary: RunSummary) -> list[TableRow]:
    """List the frontier (fastest first), what may belong to it, the dense base and the baselines, ready to print."""
    found = summary.frontier
    listed: list[tuple[RowKind, Point]] = [("point", point) for point in found.front]
    listed += [("uncertain", point) for point in found.uncertain]
    rows = [TableRow(kind, (point.id, team_title(point.params), *_cells(point.measurement))) for kind, point in listed]
    for name, measured in summary.references.items():
        rows.append(TableRow("baseline" if name in summary.baselines else "base", (name, "–", *_cells(measured))))
    return rows


def throughput_note(summary: RunSummary) -> str:
    """Say how many images a second the rows of the table classify in batches; empty where none was timed."""
    timed = [(point.id, point.measurement.latency) for point in summary.frontier.front]
    timed += [(name, measured.latency) for name, measured in summary.references.items()]
    told = [f"{name} {with_arm(one.images_per_second)}" for name, one in timed if one.images_per_second is not None]
    return f"Images per second in batches of 64: {', '.join(told)}." if told else ""


def confirmed_note(summary: RunSummary) -> str:
    """Say how sure it is that each reported point belongs to the frontier, and by what that was decided; empty without points."""
    found = summary.frontier
    if not found.front:
        return ""
    told = _listed(found, found.front)
    if not found.reached:
        return (
            f"No point is on the true frontier of these trials with a probability of {found.threshold:g}"
            f" (search.front_probability); the surest is shown: {told}."
        )
    if not found.decided:
        by = "so far, by the images that ranked the trials"
    elif found.num_rounds_taken:
        by = f"by the images that ranked the trials and {found.plan.validation_rounds[found.num_rounds_taken - 1][1]} fresh ones"
    else:
        by = "by the images that ranked the trials and final latencies; fresh images chose nothing"
    return f"Probability to be on the true frontier of these trials ({by}): {told}."


def uncertain_note(summary: RunSummary) -> str:
    """List the points that may belong to the frontier and are not sure enough; empty where there are none."""
    found = summary.frontier
    if not found.uncertain:
        return ""
    return (
        f"May belong to the frontier too (probability below search.front_probability, {found.threshold:g}; export"
        f" takes them by id): {_listed(found, found.uncertain)}."
    )


def _listed(found: FrontierEstimate, points: list[Point]) -> str:
    return ", ".join(f"{point.id} {100 * found.probability[point.id]:.0f} %" for point in points)


def fresh_note(summary: RunSummary) -> str:
    """Say how robust the rows of the table are on fresh images; empty where none was checked."""
    found = summary.frontier
    shown = [*(p.id for p in (*found.front, *found.uncertain)), *summary.references]
    fresh = summary.view.fresh
    checks = [(name, fresh[name]) for name in shown if name in fresh]
    if not checks:
        return ""
    told = ", ".join(f"{name} {per_cent(check.robust_accuracy)}" for name, check in checks)
    num = checks[0][1].robust_accuracy.num_samples
    return f"Robust on {num} fresh images, which no decision has seen: {told}."


def denominator_note(summary: RunSummary) -> str:
    """Say what the speed-ups divide by; empty where nothing was timed."""
    if summary.base is None:
        return ""
    if summary.base.latency.denominator == "plain":
        return (
            "speed-up: against the dense base as a practitioner runs it, one session.run of its ONNX file in the same"
            " process; points run through the deployed script."
        )
    return (
        "speed-up: against the dense base run through the deployed script, as in the version that made this search. Run"
        " plainly the base is faster, and every speed-up smaller."
    )


def attacked_note(summary: RunSummary) -> str:
    """Say what the attacked speed-ups are; empty where none was measured."""
    there = [p.measurement.under_attack for p in summary.frontier.front if p.measurement.under_attack is not None]
    if not there:
        return ""
    slowed = next((one.attack for one in there if len(one.slowed.shares) > 1), "")
    how = f" and under an attack on the gate's cost that keeps the label ({slowed})" if slowed else ""
    return f"attacked: speed-up left by the slower of the attacks: on the images of the attack on accuracy{how}."


def _cells(m: Measurement) -> tuple[str, ...]:
    return (
        per_cent(m.robust_accuracy),
        with_arm(m.latency.latency_ms) + (" (noisy)" if m.latency.noisy else ""),
        with_arm(m.latency.speedup, "×"),
        times(attacked_speedup(m)),
        per_cent(m.clean_accuracy),
        str(m.num_members),
        f"{m.mean_members_run:.2f}",
        in_bytes(m.size_bytes),
        in_macs(m.macs),
    )
