"""The frontier as a table: frontier, dense base and controls, one row each, ready to print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eed_search.core.cost import attacked_speedup
from eed_search.core.ledger import RunView
from eed_search.core.records import Measurement, Point
from eed_search.core.reported import Standing, standing
from eed_search.tracking.text import in_bytes, in_macs, per_cent, team_title, times, with_arm
from eed_search.tracking.verdict import final

RowKind = Literal["base", "control", "point", "maybe"]
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
        kind: `point` of the reported frontier, `maybe` for what may belong to it, `base` or `control`.
        cells: One text for each of `COLUMNS`; accuracies in per cent with the half-width of their
            95 % interval.
    """

    kind: RowKind
    cells: tuple[str, ...]


def table_rows(view: RunView) -> list[TableRow]:
    """List the frontier (fastest first), what may belong to it, the dense base and the controls, ready to print."""
    found = standing(view)
    listed: list[tuple[RowKind, Point]] = [("point", point) for point in found.front]
    listed += [("maybe", point) for point in found.maybe]
    rows = [TableRow(kind, (point.id, team_title(point.params), *_cells(point.measurement))) for kind, point in listed]
    if view.base is not None:
        rows.append(TableRow("base", (view.base.name, "–", *_cells(final(view, view.base)))))
    rows += [TableRow("control", (control.name, "–", *_cells(final(view, control)))) for control in view.controls]
    return rows


def throughput_note(view: RunView) -> str:
    """Say how many images a second the rows of the table classify in batches; empty where none was timed."""
    timed = [(point.id, point.measurement.latency) for point in standing(view).front]
    timed += [(one.name, final(view, one).latency) for one in ([view.base] if view.base else []) + view.controls]
    told = [f"{name} {with_arm(one.images_per_second)}" for name, one in timed if one.images_per_second is not None]
    return f"Images per second in batches of 64: {', '.join(told)}." if told else ""


def sure_note(view: RunView) -> str:
    """Say how sure it is that each reported point belongs to the frontier, and by what that was decided; empty without points."""
    found = standing(view)
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
    elif found.num_looks:
        by = f"by the images that ranked the trials and {found.plan.looks[found.num_looks - 1][1]} fresh ones"
    else:
        by = "by the images that ranked the trials and final latencies; fresh images chose nothing"
    return f"Probability to be on the true frontier of these trials ({by}): {told}."


def maybe_note(view: RunView) -> str:
    """List the points that may belong to the frontier and are not sure enough; empty where there are none."""
    found = standing(view)
    if not found.maybe:
        return ""
    return (
        f"May belong to the frontier too (probability below search.front_probability, {found.threshold:g}; export"
        f" takes them by id): {_listed(found, found.maybe)}."
    )


def _listed(found: Standing, points: list[Point]) -> str:
    return ", ".join(f"{point.id} {100 * found.probability[point.id]:.0f} %" for point in points)


def fresh_note(view: RunView) -> str:
    """Say how robust the rows of the table are on fresh images; empty where none was checked."""
    found = standing(view)
    shown = [p.id for p in (*found.front, *found.maybe)] + [
        one.name for one in ([view.base] if view.base else []) + view.controls
    ]
    checks = [(name, view.fresh[name]) for name in shown if name in view.fresh]
    if not checks:
        return ""
    told = ", ".join(f"{name} {per_cent(check.robust_accuracy)}" for name, check in checks)
    num = checks[0][1].robust_accuracy.num_samples
    return f"Robust on {num} fresh images, which no decision has seen: {told}."


def denominator_note(view: RunView) -> str:
    """Say what the speed-ups divide by; empty where nothing was timed."""
    if view.base is None:
        return ""
    if view.base.measurement.latency.denominator == "plain":
        return (
            "speed-up: against the dense base as a practitioner runs it, one session.run of its ONNX file in the same"
            " process; points run through the deployed script."
        )
    return (
        "speed-up: against the dense base run through the deployed script, as in the version that made this search. Run"
        " plainly the base is faster, and every speed-up smaller."
    )


def attacked_note(view: RunView) -> str:
    """Say what the attacked speed-ups are; empty where none was measured."""
    there = [p.measurement.under_attack for p in standing(view).front if p.measurement.under_attack is not None]
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
