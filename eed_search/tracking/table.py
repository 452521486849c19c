"""The frontier as a table: frontier, dense base and controls, one row each, ready to print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eed_search.core.cost import attacked_speedup
from eed_search.core.ledger import RunView
from eed_search.core.points import front_probabilities, frontier
from eed_search.core.records import Measurement
from eed_search.tracking.text import in_bytes, in_macs, per_cent, team_title, times, with_arm
from eed_search.tracking.verdict import final

RowKind = Literal["base", "control", "point"]
COLUMNS = (
    "point",
    "team",
    "robust accuracy",
    "latency ms",
    "speed-up",
    "attacked speed-up",
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
        kind: `base`, `control` or `point`.
        cells: One text for each of `COLUMNS`; accuracies in per cent with the half-width of their
            95 % interval.
    """

    kind: RowKind
    cells: tuple[str, ...]


def table_rows(view: RunView) -> list[TableRow]:
    """List the frontier (fastest first), then the dense base and the controls, ready to print."""
    rows = [
        TableRow("point", (point.id, team_title(point.params), *_cells(point.measurement))) for point in frontier(view)
    ]
    if view.base is not None:
        rows.append(TableRow("base", (view.base.name, "–", *_cells(final(view, view.base)))))
    rows += [TableRow("control", (control.name, "–", *_cells(final(view, control)))) for control in view.controls]
    return rows


def throughput_note(view: RunView) -> str:
    """Say how many images a second the rows of the table classify in batches; empty where none was timed."""
    timed = [(point.id, point.measurement.latency) for point in frontier(view)]
    timed += [(one.name, final(view, one).latency) for one in ([view.base] if view.base else []) + view.controls]
    told = [f"{name} {with_arm(one.images_per_second)}" for name, one in timed if one.images_per_second is not None]
    return f"Images per second in batches of 64: {', '.join(told)}." if told else ""


def sure_note(view: RunView) -> str:
    """Say how sure it is that each point of the frontier belongs there; empty without points."""
    told = ", ".join(f"{id_} {100 * sure:.0f} %" for id_, sure in front_probabilities(view).items())
    return f"Probability to be on the true frontier of these trials: {told}." if told else ""


def fresh_note(view: RunView) -> str:
    """Say how robust the rows of the table are on fresh images; empty where none was checked."""
    shown = [p.id for p in frontier(view)] + [one.name for one in ([view.base] if view.base else []) + view.controls]
    checks = [(name, view.fresh[name]) for name in shown if name in view.fresh]
    if not checks:
        return ""
    told = ", ".join(f"{name} {per_cent(check.robust_accuracy)}" for name, check in checks)
    num = checks[0][1].robust_accuracy.num_samples
    return f"Robust on {num} fresh images, which no decision has seen: {told}."


def attacked_note(view: RunView) -> str:
    """Say what the attacked speed-ups are; empty where none was measured."""
    there = [p.measurement.under_attack for p in frontier(view) if p.measurement.under_attack is not None]
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
