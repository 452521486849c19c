"""The benchmark in words and tables: verdict, means by attack, networks, bases, inputs, what was left out."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eed_search.runs.records import Interval
from eed_search.tracking.text import in_macs, signed, with_arm
from eed_search.transfer.metrics import Estimate, Verdict
from eed_search.transfer.results import CLEAN, FLAGS, FLOOR, NEAREST, Mean, Row
from eed_search.transfer.spec import BenchmarkSpec, eps_text

if TYPE_CHECKING:
    from eed_search.transfer.run import Base, Results

MEANS = ("attack", "eps", "base %", "T %", "static gap", "static", "adaptive gap", "adaptive")
NETWORKS = (
    "scheme",
    "removed",
    "tuned",
    "parameters",
    "MACs",
    "latency ms",
    "speed-up",
    "clean %",
    "agree %",
    "base %",
    "static %",
    "adaptive %",
    "T %",
    "n",
    "static gap",
    "static",
    "adaptive gap",
    "adaptive",
    "flags",
)
_ESTIMATES = (
    "base_clean",
    "clean",
    "agreement",
    "base",
    "static",
    "adaptive",
    "transfer",
    "gap_static",
    "gap_adaptive",
    "weaker",
)


# ---------------------------------------------------------------- words


def verdict_lines(results: Results) -> list[str]:
    """Say whether pruned networks are as robust as their bases: statically, and adaptively."""
    spec = results.spec
    lines = []
    for mean in results.means:
        if mean.attack != "all":
            continue
        tuned = "fine-tuned" if mean.finetuned else "without fine-tuning"
        for column, gap, said, counts in (
            ("static", mean.gap_static, mean.static, mean.static_counts),
            ("adaptive", mean.gap_adaptive, mean.adaptive, mean.adaptive_counts),
        ):
            inputs = "both on the base's inputs" if column == "static" else "each on inputs made on itself"
            line = (
                f"{column}, {tuned}: {said.upper()}. Accuracy of filter-pruned networks minus that of their base, {inputs}:"
                f" {points(gap)} points on average (90 % interval {ends90(gap)}, margin ±{100 * spec.margin:g};"
                f" {_counts(counts)} of {mean.num_rows} rows)"
            )
            if column == "adaptive" and mean.num_floor:
                line += f"; in {mean.num_floor} rows nothing is left of either"
            lines.append(line + ".")
    if not lines:
        lines.append("No verdict: no filter-pruned network was attacked within a budget above 0.")
    if len(spec.seeds) < 3:
        lines.append(
            f"{_seeds(len(spec.seeds))}: the intervals say little about other seeds; take three or more for a claim."
        )
    return lines


def _seeds(number: int) -> str:
    return "One seed" if number == 1 else f"{number} seeds"


def _counts(counts: Mapping[Verdict, int]) -> str:
    order: tuple[Verdict, ...] = ("comparable", "not comparable", "undecided")
    return ", ".join(f"{counts.get(name, 0)} {name}" for name in order)


def points(gap: Estimate) -> str:
    """Print a difference in percentage points with its sign; `–` where there is none."""
    return "–" if gap.value is None else _signed(gap.value)


def _signed(gap: float) -> str:
    return signed(round(100 * gap, 1) + 0.0)  # + 0.0: no minus before a zero


def ends90(gap: Estimate) -> str:
    """Print the interval that the equivalence test looks at, in percentage points."""
    if gap.low90 is None or gap.high90 is None:
        return "–"
    return f"{_signed(gap.low90)}..{_signed(gap.high90)}"


def per_cent(share: Estimate) -> str:
    """Print a share in per cent with its 95 % interval; `–` where there is none."""
    if share.value is None or share.low is None or share.high is None:
        return "–"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f}..{100 * share.high:.1f})"


# ---------------------------------------------------------------- rows of cells


def mean_cells(mean: Mean) -> tuple[str, ...]:
    """One text for each of `MEANS`."""
    return (
        {"all": "all L∞ attacks"}.get(mean.attack, mean.attack),
        "" if mean.eps is None else eps_text(mean.eps),
        f"{100 * mean.base:.1f}",
        "–" if mean.transfer is None else f"{100 * mean.transfer:.1f}",
        f"{points(mean.gap_static)} ({ends90(mean.gap_static)})",
        NEAREST if mean.is_nearest else mean.static,
        f"{points(mean.gap_adaptive)} ({ends90(mean.gap_adaptive)})",
        FLOOR if mean.is_floor else mean.adaptive,
    )


def network_cells(row: Row) -> tuple[str, ...]:
    """One text for each of `NETWORKS`."""
    found = row.compared
    return (
        row.choice.scheme,
        f"{100 * row.choice.ratio:g} %",
        "yes" if row.choice.finetuned else "no",
        in_macs(row.num_parameters),
        in_macs(row.macs),
        "–" if row.timed is None else with_arm(row.timed.latency_ms),
        "–" if row.timed is None else with_arm(row.timed.speedup, "×"),
        per_cent(found.clean),
        per_cent(found.agreement),
        per_cent(found.base),
        per_cent(found.static),
        per_cent(found.adaptive),
        per_cent(found.transfer),
        str(found.transfer.num),
        f"{points(found.gap_static)} ({ends90(found.gap_static)})",
        row.static,
        f"{points(found.gap_adaptive)} ({ends90(found.gap_adaptive)})",
        row.adaptive,
        ", ".join(row.flags),
    )


def headline_case(spec: BenchmarkSpec) -> tuple[str, float | None]:
    """Choose the attack whose networks are shown in full: AutoAttack, else PGD, else the first; its middle budget."""
    order = {"autoattack": 0, "pgd": 1}
    bounded = [case for case in spec.cases() if case.eps] or list(spec.cases())
    best = min(bounded, key=lambda case: order.get(case.attack.name, 2)).attack
    budgets = sorted(case.eps for case in bounded if case.attack == best and case.eps is not None)
    return best.label, budgets[len(budgets) // 2] if budgets else None


# ---------------------------------------------------------------- Markdown


def markdown(results: Results, pictures: Sequence[str] = ()) -> str:
    """Write the whole benchmark as Markdown.

    Args:
        results: What was found.
        pictures: Names of picture files beside the Markdown file.
    """
    spec = results.spec
    parts = [f"# Benchmark {spec.name}", "", *_about(results), "", "## Verdict", ""]
    parts += [f"- {line}" for line in verdict_lines(results)]
    for finetuned in spec.finetuned:
        title = "fine-tuned" if finetuned else "without fine-tuning"
        parts += [
            "",
            f"## By attack, {title}",
            "",
            "Means over the filter-pruned networks; gaps in points with their 90 % interval. `floor`: nothing is left of either;"
            " `minimum-norm`: made for the base's own boundary; neither says anything about robustness.",
            "",
        ]
        parts += _table(MEANS, [mean_cells(mean) for mean in results.means if mean.finetuned == finetuned])
    attack, eps = headline_case(spec)
    budget = "" if eps is None else f" at ε {eps_text(eps)}"
    for model in dict.fromkeys(row.model for row in results.rows):
        shown = [row for row in results.rows if (row.model, row.attack, row.eps) == (model, attack, eps)]
        parts += [
            "",
            f"## {model} under {attack}{budget}",
            "",
            *_table(NETWORKS, [network_cells(row) for row in shown]),
        ]
        if left := sorted({f"{row.choice.scheme}: {', '.join(row.left_dense)}" for row in shown if row.left_dense}):
            parts += ["", f"Left dense: {'; '.join(left)}."]
    parts += ["", "## Bases", "", *_table(*_base_table(results.bases))]
    if used := [name for name in FLAGS if any(name in row.flags for row in results.rows)]:
        parts += [
            "",
            "## Flags",
            "",
            *(f"- `{name}` ({_num_flagged(results.rows, name)} rows): {FLAGS[name]}." for name in used),
        ]
    if results.left_out:
        parts += ["", "## Left out", "", *(f"- {what}: {why}" for what, why in results.left_out)]
    parts += [line for name in pictures if name.endswith(".png") for line in ("", f"![{name}]({name})")]
    return "\n".join(parts) + "\n"


def _num_flagged(rows: Sequence[Row], flag: str) -> int:
    return sum(flag in row.flags for row in rows)


def _about(results: Results) -> list[str]:
    spec = results.spec
    models = ", ".join(dict.fromkeys(row.model for row in results.rows))
    return [
        f"{models} on {spec.data.source}; {len(spec.schemes)} schemes; removed {', '.join(f'{100 * r:g} %' for r in spec.ratios)};"
        f" seeds {', '.join(map(str, spec.seeds))}; {results.num_samples} test images a seed; margin ±{100 * spec.margin:g} points.",
        "",
        "T: share of the images that base and pruned network get right and on which the base was broken, that break the"
        " pruned network too. static: the base's inputs replayed; adaptive: inputs made on the pruned network itself; base:"
        " the base under its own. Gaps are against the latter. In brackets 95 % intervals, for gaps 90 %.",
    ]


def _base_table(bases: Sequence[Base]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    columns = ("base", "seed", "attack", "accuracy %", "median l2", "inputs (SHA-256)")
    cells: list[tuple[str, ...]] = []
    for base in bases:
        cells.append((base.model, str(base.seed), CLEAN, f"{100 * base.clean:.1f}", "", ""))
        for case, share in base.under.items():
            distance = base.distances[case]
            length = "–" if distance is None else f"{distance:.3g}"
            cells.append((base.model, str(base.seed), case, f"{100 * share:.1f}", length, base.inputs[case][:16]))
    return columns, cells


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]


# ---------------------------------------------------------------- CSV and JSON


def flat_row(row: Row) -> dict[str, Any]:
    """Write a row as one line of a table for programs; shares are fractions, none is empty."""
    flat: dict[str, Any] = {
        "model": row.model,
        "scheme": row.choice.scheme,
        "ratio": row.choice.ratio,
        "finetuned": row.choice.finetuned,
        "attack": row.attack,
        "eps": row.eps,
        "seeds": " ".join(map(str, row.seeds)),
        "parameters": row.num_parameters,
        "base_parameters": row.base_parameters,
        "macs": row.macs,
        "base_macs": row.base_macs,
        **_interval("latency_ms", row.timed.latency_ms if row.timed else None),
        **_interval("speedup", row.timed.speedup if row.timed else None),
    }
    for name in _ESTIMATES:
        flat |= flat_estimate(name, getattr(row.compared, name))
    flat["verdict_static"], flat["verdict_adaptive"] = row.static, row.adaptive
    flat["l2_base"], flat["l2_adaptive"] = row.l2_base, row.l2_adaptive
    flat["flags"], flat["left_dense"] = " ".join(row.flags), " ".join(row.left_dense)
    flat["inputs_sha256"] = " ".join(row.inputs)
    return flat


def flat_mean(mean: Mean) -> dict[str, Any]:
    """Write a mean for programs."""
    return {
        "finetuned": mean.finetuned,
        "attack": mean.attack,
        "eps": mean.eps,
        "num_rows": mean.num_rows,
        "base": mean.base,
        "transfer": mean.transfer,
        **flat_estimate("gap_static", mean.gap_static),
        **flat_estimate("gap_adaptive", mean.gap_adaptive),
        "verdict_static": mean.static,
        "verdict_adaptive": mean.adaptive,
        "static_counts": dict(mean.static_counts),
        "adaptive_counts": dict(mean.adaptive_counts),
        "num_floor": mean.num_floor,
    }


def flat_estimate(name: str, one: Estimate) -> dict[str, float | int | None]:
    """Name an estimate's parts; a gap's 90 % interval is there too, as the verdict looks at it."""
    flat: dict[str, float | int | None] = {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    if name.startswith("gap"):
        flat |= {f"{name}_low90": one.low90, f"{name}_high90": one.high90}
    if name == "transfer":
        flat["transfer_n"] = one.num
    return flat


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV, numbers to six significant digits."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else value


def _interval(name: str, one: Interval | None) -> dict[str, float | None]:
    return {
        name: one.value if one else None,
        f"{name}_low": one.low if one else None,
        f"{name}_high": one.high if one else None,
    }
