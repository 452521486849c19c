"""The two pictures of a search: robust accuracy against latency, and hypervolume over trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from eed_search.config.params import LatencyKind, ParamValue
from eed_search.frontier.estimate import FrontierEstimate
from eed_search.frontier.pareto import hypervolume
from eed_search.frontier.points import normalised
from eed_search.runs.cost import attacked_speedup, latency_of
from eed_search.runs.records import Measurement, Point
from eed_search.tracking.summary import RunSummary
from eed_search.tracking.text import in_bytes, in_macs, per_cent, team_title, times, with_arm

FRONT, FAINT, BASE, BASELINE, BROKEN = "#1457a8", "#8a94a6", "#1b1f27", "#c2410c", "#b9770e"
_FONT = {"family": "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", "size": 13, "color": "#1b1f27"}
_LATENCY: dict[LatencyKind, str] = {
    "clean": "mean latency at batch 1 (ms)",
    "attacked": "mean latency under attack at batch 1 (ms)",
    "worst_case": "latency with every member run, at batch 1 (ms)",
}
_MOST_NAMED = 6  # uncertain points whose names stand beside them; more would lie on each other, and hovering tells
_LOG_FROM = 3.0  # a wider spread of latencies than this is drawn on a logarithmic axis


def frontier_figure(summary: RunSummary) -> go.Figure:
    """Draw robust accuracy against mean latency: reported frontier, uncertain points, other trials, base, baselines.

    Error bars are 95 % intervals; hovering shows a trial's parameters.
    """
    found, kind = summary.frontier, summary.latency_kind
    others = [point for point in summary.points if point.id not in found.probability]
    unranked = _unranked(summary)
    points = [point.measurement for point in (*found.front, *found.uncertain, *others)]
    everything = [*points, *(m for _, m in unranked), *summary.references.values()]
    base = [(name, m) for name, m in summary.references.items() if name not in summary.baselines]
    figure = go.Figure()
    for trace in (
        _dominated(kind, others),
        _marks(kind, "not ranked", unranked, color=BROKEN, size=8, opacity=0.6, symbol="x-thin"),
        _staircase(kind, [point.measurement for point in found.front], everything),
        _points(kind, "uncertain", found, found.uncertain, "bottom right", size=9, symbol="circle-open"),
        _references(
            kind, "baseline, from scratch", list(summary.baselines.items()), BASELINE, "square", 11, labelled=True
        ),
        _references(kind, "dense base", base, BASE, "diamond", 13),
        _points(kind, "frontier", found, found.front, "top left", size=11, bars=True),
    ):
        if trace is not None:
            figure.add_trace(trace)
    _layout(figure, height=560)
    figure.update_layout(
        legend={"orientation": "h", "y": -0.17, "yanchor": "top", "x": 0, "xanchor": "left"}, margin={"t": 60, "b": 100}
    )
    figure.update_xaxes(title=_title(_LATENCY[kind]), **_latency_axis(kind, everything))
    if base:
        _speedup_axis(figure, base[0][1].latency.latency_ms.value)
    figure.update_yaxes(title=_title(_robust_title(everything)))
    return figure


Mark = tuple[str, Measurement]
"""What hovering shows, and where a mark stands."""


def _unranked(summary: RunSummary) -> list[Mark]:
    """Trials that were measured and do not rank, with why."""
    ranked = {point.id for point in summary.points}
    return [
        (hover(f"{t.number}.0", t.measurement, t.params, _why_unranked(t.outcome, t.reason)), t.measurement)
        for t in summary.view.trials.values()
        if t.measurement is not None and f"{t.number}.0" not in ranked
    ]


def _dominated(kind: LatencyKind, points: Sequence[Point]) -> go.Scatter | None:
    marks = [(hover(p.id, p.measurement, p.params), p.measurement) for p in points]
    return _marks(kind, "dominated", marks, color=FAINT, size=8, opacity=0.45)


def _points(
    kind: LatencyKind, name: str, found: FrontierEstimate, points: Sequence[Point], where: str, **validation_rounds: Any
) -> go.Scatter | None:
    """Points with their names, unless many are uncertain, and how sure each is."""
    marks = [(hover(p.id, p.measurement, p.params, _how_sure(found, p.id)), p.measurement) for p in points]
    trace = _marks(kind, name, marks, color=FRONT, **validation_rounds)
    if trace is None or (name == "uncertain" and len(points) > _MOST_NAMED):
        return trace
    return _labelled(trace, [p.id for p in points], where, FRONT)


def _references(
    kind: LatencyKind, name: str, there: Sequence[Mark], color: str, symbol: str, size: int, *, labelled: bool = False
) -> go.Scatter | None:
    marks = [(hover(one, m), m) for one, m in there]
    trace = _marks(kind, name, marks, color=color, size=size, symbol=symbol, bars=True)
    if trace is None or not labelled:
        return trace
    return _labelled(trace, [one for one, _ in there], "bottom right", color)


def hypervolume_figure(summary: RunSummary) -> go.Figure:
    """Draw the share of the (robust accuracy, latency) square that is dominated, over finished trials."""
    values = hypervolume_over_trials(summary)
    steps = list(range(1, len(values) + 1))
    names = [f"{t.number:03d} {escape(team_title(t.params))}<br>{t.outcome}" for t in summary.view.trials.values()]
    figure = go.Figure(
        go.Scatter(
            x=steps,
            y=values,
            mode="lines+markers",
            line={"color": FRONT, "shape": "hv", "width": 2},
            marker={"size": 5},
            text=names,
            hovertemplate="%{text}<br>hypervolume %{y:.4f}<extra></extra>",
        )
    )
    _layout(figure, height=250)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(
        title=_title("finished trials"), rangemode="tozero", **({"dtick": 1} if len(values) <= 12 else {})
    )
    figure.update_yaxes(title=_title("hypervolume (0 to 1)"), rangemode="tozero")
    return figure


def hypervolume_over_trials(summary: RunSummary) -> list[float]:
    """Compute the hypervolume after each finished trial, in the order in which they finished."""
    view, found = summary.view, summary.points
    if view.base is None:
        return []
    rows = dict(zip((p.trial for p in found), normalised(view, [p.measurement for p in found]), strict=True))
    values: list[float] = []
    seen: list[np.ndarray] = []
    for number in view.trials:
        if number in rows:
            seen.append(rows[number])
        values.append(hypervolume(np.stack(seen)) if seen else 0.0)
    return values


def hover(name: str, m: Measurement, params: Mapping[str, ParamValue] | None = None, why: str = "") -> str:
    """Write what hovering over a mark shows: name, measurements with intervals, parameters."""
    title = team_title(params or {})
    lines = [f"<b>{escape(name)}</b>{f'  {escape(title)}' if title else ''}"]
    if why:
        lines.append(f"<i>{escape(why)}</i>")
    lines += [
        f"robust {per_cent(m.robust_accuracy)}, clean {per_cent(m.clean_accuracy)}",
        f"latency {with_arm(m.latency.latency_ms)} ms ({m.latency.method}), worst case {m.latency.worst_case_ms:.3g} ms",
        f"speed-up {with_arm(m.latency.speedup, '×')}, attacked {times(attacked_speedup(m))},"
        f" worst case {m.latency.worst_case_speedup:.3g}×",
        f"members run {m.mean_members_run:.2f} of {m.num_members}; {in_bytes(m.size_bytes)}; {in_macs(m.macs)} MACs",
    ]
    shown = [f"{key} {_short(value)}" for key, value in (params or {}).items() if not key.startswith("member")]
    lines += [escape(", ".join(shown[i : i + 4])) for i in range(0, len(shown), 4)]
    return "<br>".join(lines)


def _marks(
    kind: LatencyKind,
    name: str,
    marks: Sequence[Mark],
    *,
    color: str,
    size: int,
    opacity: float = 1.0,
    symbol: str = "circle",
    bars: bool = False,
) -> go.Scatter | None:
    """Marks with their intervals; none where there are none."""
    if not marks:
        return None
    latency = [latency_of(m, kind) for _, m in marks]
    robust = [m.robust_accuracy for _, m in marks]
    line = {"width": 2, "color": color} if symbol in ("x-thin", "circle-open") else {"width": 1, "color": "white"}
    bar = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3, "color": color, "visible": bars}
    return go.Scatter(
        name=name,
        x=[i.value for i in latency],
        y=[100 * a.value for a in robust],
        error_x={**bar, "array": [i.high - i.value for i in latency], "arrayminus": [i.value - i.low for i in latency]},
        error_y={
            **bar,
            "array": [100 * (a.high - a.value) for a in robust],
            "arrayminus": [100 * (a.value - a.low) for a in robust],
        },
        mode="markers",
        marker={"color": color, "size": size, "symbol": symbol, "line": line},
        opacity=opacity,
        hovertext=[text for text, _ in marks],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _labelled(trace: go.Scatter, names: list[str], where: str, color: str) -> go.Scatter:
    font = {"color": color, "size": 12}
    return trace.update(mode="markers+text", text=[escape(n) for n in names], textposition=where, textfont=font)


def _speedup_axis(figure: go.Figure, dense_ms: float) -> None:
    """Add the same axis above the plot, read as speed-up over the dense base."""
    speedups = (0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100)
    figure.add_trace(go.Scatter(x=[dense_ms], y=[None], xaxis="x2", showlegend=False, hoverinfo="skip"))
    figure.update_layout(
        xaxis2={
            **{
                key: figure.layout.xaxis[key]
                for key in ("type", "range", "linecolor", "tickcolor", "ticks", "showline")
            },
            "overlaying": "x",
            "matches": "x",
            "side": "top",
            "showgrid": False,
            "title": _title("speed-up over the dense base"),
            "tickvals": [dense_ms / speedup for speedup in speedups],
            "ticktext": [f"{speedup:g}×" for speedup in speedups],
        }
    )


def _staircase(kind: LatencyKind, front: list[Measurement], everything: list[Measurement]) -> go.Scatter | None:
    """Join the frontier by steps: what is the best robust accuracy within each latency; none without a frontier."""
    if not front:
        return None
    x = [latency_of(m, kind).value for m in front]
    y = np.maximum.accumulate([100 * m.robust_accuracy.value for m in front]).tolist()
    right = 1.05 * max(latency_of(m, kind).high for m in everything)
    return go.Scatter(
        x=[*x, right],
        y=[*y, y[-1]],
        mode="lines",
        line={"color": FRONT, "width": 2, "shape": "hv"},
        opacity=0.55,
        hoverinfo="skip",
        showlegend=False,
    )


def _latency_axis(kind: LatencyKind, everything: list[Measurement]) -> dict[str, Any]:
    """Choose a linear axis from 0, or a logarithmic one with round ticks where latencies spread widely."""
    if not everything:
        return {}
    low = min(latency_of(m, kind).low for m in everything)
    high = max(latency_of(m, kind).high for m in everything)
    if low <= 0 or high / low < _LOG_FROM:
        return {"range": [0, 1.05 * high]}
    steps = (1, 1.5, 2, 3, 4, 5, 7) if high / low < 30 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return {
        "type": "log",
        "range": [math.log10(0.85 * low), math.log10(1.05 * high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _robust_title(everything: list[Measurement]) -> str:
    told = {(m.robust_accuracy.attack, m.robust_accuracy.eps) for m in everything}
    if len(told) != 1:
        return "robust accuracy (%)"
    attack, eps = told.pop()
    return f"robust accuracy (%) under {escape(attack)}, ε = {eps:.4g}"


def _how_sure(found: FrontierEstimate, id_: str) -> str:
    return f"on the true frontier with a probability of {100 * found.probability[id_]:.0f} %"


def _why_unranked(outcome: str, reason: str) -> str:
    return f"{outcome}: {reason}" if outcome != "done" else "latency too noisy to rank"


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "standoff": 8, "font": {"size": 13}}


def _short(value: ParamValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _layout(figure: go.Figure, *, height: int) -> None:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 20, "t": 20, "b": 56},
        font=_FONT,
        paper_bgcolor="white",
        plot_bgcolor="white",
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"size": 12}},
    )
    axis = {"showline": True, "linecolor": "#b8c0cc", "gridcolor": "#edf0f4", "zeroline": False, "ticks": "outside"}
    figure.update_xaxes(**axis, tickcolor="#b8c0cc")
    figure.update_yaxes(**axis, tickcolor="#b8c0cc")
