"""The benchmark's heat maps: transfer rate and both gaps, networks against attacks, one picture a base."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float

from eed_search.transfer.results import CLEAN, Row
from eed_search.transfer.spec import eps_text


@dataclass(frozen=True)
class Panel:
    """One quantity of one base.

    Attributes:
        title: What is shown.
        networks: Names of the rows.
        attacks: Names of the columns.
        values: In per cent or percentage points; NaN where there is nothing to count.
        low: Where the colours begin.
        high: Where they end; for gaps the negative of `low`.
        texts: What hovering over a cell says.
    """

    title: str
    networks: tuple[str, ...]
    attacks: tuple[str, ...]
    values: Float[np.ndarray, "networks attacks"]
    low: float
    high: float
    texts: tuple[tuple[str, ...], ...]


_GAP = 0.08  # between two panels, as a share of the width: room for a colour bar
_QUANTITIES: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("T: transfer rate (%)", lambda row: row.compared.transfer.value),
    ("static gap (points)", lambda row: row.compared.gap_static.value),
    ("adaptive gap (points)", lambda row: row.compared.gap_adaptive.value),
)


def panels(rows: Sequence[Row], model: str) -> list[Panel]:
    """Lay out the three quantities of one base.

    Args:
        rows: Rows of the whole benchmark.
        model: Label of the base.
    """
    mine = [row for row in rows if row.model == model and row.attack != CLEAN]
    networks = list(dict.fromkeys(row.choice.title for row in mine))
    attacks = list(dict.fromkeys(_attack(row) for row in mine))
    found = []
    for title, quantity in _QUANTITIES:
        values = np.full((len(networks), len(attacks)), np.nan)
        texts = [["" for _ in attacks] for _ in networks]
        for row in mine:
            i, j = networks.index(row.choice.title), attacks.index(_attack(row))
            value = quantity(row)
            values[i, j] = np.nan if value is None else 100 * value
            texts[i][j] = _hover(row)
        gap = title.startswith("T") is False
        widest = max(10.0, float(np.nanmax(np.abs(values)))) if np.isfinite(values).any() else 10.0
        low, high = (-widest, widest) if gap else (0.0, 100.0)
        found.append(Panel(title, tuple(networks), tuple(attacks), values, low, high, tuple(map(tuple, texts))))
    return found


def page(rows: Sequence[Row], title: str, lines: Sequence[str]) -> str:
    """Write one HTML page with every base's heat maps, plotting code included: it needs no network.

    Args:
        rows: Rows of the whole benchmark.
        title: Title of the page.
        lines: What stands above the pictures: the verdict.
    """
    from plotly.offline import get_plotlyjs

    bodies = []
    for number, model in enumerate(dict.fromkeys(row.model for row in rows)):
        config = {"displaylogo": False, "responsive": True, "plotlyServerURL": ""}
        drawn = figure(panels(rows, model)).to_html(
            full_html=False, include_plotlyjs=False, div_id=f"heatmap-{number}", config=config
        )
        bodies.append(f"<h2>{escape(model)}</h2>{drawn}")
    said = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        "<style>body { margin: 0 auto; max-width: 1500px; padding: 20px; color: #1b1f27;"
        " font: 15px/1.5 system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; }</style>"
        f"<script>{get_plotlyjs()}</script></head><body><h1>{escape(title)}</h1><ul>{said}</ul>{''.join(bodies)}"
        "<p>Rows: pruned networks. Columns: attacks at their budgets. A gap is the pruned network's accuracy minus the"
        " base's under its own inputs: red says less robust. Empty cells: nothing to count.</p></body></html>\n"
    )


def figure(shown: Sequence[Panel]) -> Any:
    """Draw panels side by side with plotly."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    drawn = make_subplots(
        1, len(shown), shared_yaxes=True, horizontal_spacing=_GAP, subplot_titles=[one.title for one in shown]
    )
    width = (1 - _GAP * (len(shown) - 1)) / len(shown)
    for place, one in enumerate(shown, start=1):
        right = place * width + (place - 1) * _GAP
        drawn.add_trace(
            go.Heatmap(
                z=one.values,
                x=one.attacks,
                y=one.networks,
                zmin=one.low,
                zmax=one.high,
                colorscale="Viridis" if one.low == 0 else "RdBu",
                text=_numbers(one.values),
                texttemplate="%{text}",
                textfont={"size": 10},
                customdata=one.texts,
                hovertemplate="%{customdata}<extra></extra>",
                colorbar={"x": right + 0.005, "thickness": 8, "len": 0.9},
                xgap=1,
                ygap=1,
            ),
            1,
            place,
        )
    drawn.update_yaxes(autorange="reversed")
    drawn.update_xaxes(tickangle=-60)
    height = 190 + 22 * len(shown[0].networks)
    drawn.update_layout(template="none", height=height, margin={"l": 220, "r": 50, "t": 60, "b": 130})
    return drawn


def png(shown: Sequence[Panel], title: str) -> bytes | None:
    """Draw panels side by side as a PNG.

    Returns:
        The file's bytes; none where matplotlib, which MLflow brings along, is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    rows, columns = shown[0].values.shape
    drawn = Figure(figsize=(3.2 + 3 * (0.5 * columns + 1.2), 1.9 + 0.26 * rows), layout="constrained")
    axes = drawn.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for one, axis in zip(shown, axes, strict=True):
        image = axis.imshow(
            one.values, vmin=one.low, vmax=one.high, cmap="viridis" if one.low == 0 else "RdBu", aspect="auto"
        )
        axis.set_title(one.title, fontsize=10)
        axis.set_xticks(range(columns), one.attacks, rotation=90, fontsize=7)
        axis.set_yticks(range(rows), one.networks, fontsize=7)
        for i, texts in enumerate(_numbers(one.values)):
            for j, text in enumerate(texts):
                axis.text(j, i, text, ha="center", va="center", fontsize=6, color=_ink(one, i, j))
        drawn.colorbar(image, ax=axis, fraction=0.03, pad=0.01)
    drawn.suptitle(title, fontsize=11)
    out = io.BytesIO()
    FigureCanvasAgg(drawn)
    drawn.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _ink(one: Panel, i: int, j: int) -> str:
    """Dark letters on bright cells, bright ones on dark cells."""
    share = (one.values[i, j] - one.low) / (one.high - one.low)
    dark = share < 0.6 if one.low == 0 else abs(share - 0.5) > 0.35
    return "white" if dark else "black"


def _numbers(values: np.ndarray) -> list[list[str]]:
    return [["" if np.isnan(value) else f"{round(value)}".replace("-", "−") for value in row] for row in values]


def _attack(row: Row) -> str:
    return row.attack if row.eps is None else f"{row.attack} {eps_text(row.eps)}"


def _hover(row: Row) -> str:
    found = row.compared

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    lines = [
        f"<b>{escape(row.choice.title)}</b>, {escape(_attack(row))}",
        f"base {shown(found.base.value)}, static {shown(found.static.value)}, adaptive {shown(found.adaptive.value)}",
        f"T {shown(found.transfer.value)} of {found.transfer.num} images; clean {shown(found.clean.value)}",
        f"static: {row.static}; adaptive: {row.adaptive}",
    ]
    return "<br>".join([*lines, *([", ".join(row.flags)] if row.flags else [])])
