"""The page of a search: verdict, frontier, hypervolume, tables, in one file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from eed_search.frontier.estimate import FrontierEstimate
from eed_search.tracking.badges import COLUMNS as BADGE_COLUMNS
from eed_search.tracking.badges import badge_tables, other_lines
from eed_search.tracking.plots import frontier_figure, hypervolume_figure
from eed_search.tracking.summary import RunSummary
from eed_search.tracking.table import (
    COLUMNS,
    attacked_note,
    confirmed_note,
    denominator_note,
    fresh_note,
    table_rows,
    throughput_note,
    uncertain_note,
)
from eed_search.tracking.text import states_line

_STYLE = """
:root { --ink: #1b1f27; --soft: #5b6472; --line: #dfe4ea; --front: #1457a8; --baseline: #c2410c; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1400px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 24px; margin: 0 0 2px; } h2 { font-size: 16px; margin: 0 0 8px; }
p { margin: 6px 0; } .soft { color: var(--soft); }
section { background: white; border: 1px solid var(--line); border-radius: 8px; padding: 16px 18px; margin-top: 16px; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 28px; margin-top: 14px; }
.facts div { line-height: 1.25; } .facts b { display: block; font-size: 19px; font-weight: 600; }
.verdict { border-left: 4px solid var(--soft); } .verdict.yes { border-left-color: #15803d; }
.verdict.no { border-left-color: var(--baseline); } .verdict ul { margin: 6px 0 0; padding-left: 20px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
table { font-size: 13.5px; }
th, td { padding: 6px 5px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: 12.5px; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; } tr:last-child td { border-bottom: 0; }
tr.point td:first-child { color: var(--front); font-weight: 600; } tr.base td { background: #f1f3f6; }
tr.baseline td:first-child { color: var(--baseline); }
tr.uncertain td { color: var(--soft); } tr.uncertain td:first-child::after { content: " uncertain"; font-size: 12px; }
table.plain td, table.plain th { text-align: left; } table.plain td:last-child { white-space: normal; }
table.numbers th:nth-child(2), table.numbers td:nth-child(2) { text-align: right; }
"""


def page(summary: RunSummary) -> str:
    """Write the page of a run.

    Args:
        summary: Summary of the run, finished or not.

    Returns:
        A whole HTML document, plotting code included.
    """
    parts = [_head(summary), _verdict(summary)]
    parts.append(
        _section("Robust accuracy against latency", _drawn(frontier_figure(summary), "frontier"), _reading(summary))
    )
    if summary.view.base is not None and summary.view.trials:
        note = (
            "Share of the square between chance accuracy at the dense base's latency and perfect accuracy at no time."
        )
        parts.append(_section("Hypervolume over trials", _drawn(hypervolume_figure(summary), "hypervolume"), note))
    parts.append(
        _section(
            "Frontier, uncertain points, dense base and baselines",
            _table(summary),
            f"{denominator_note(summary)} {attacked_note(summary)} {confirmed_note(summary)} {uncertain_note(summary)} {fresh_note(summary)} {throughput_note(summary)}".strip(),
        )
    )
    parts += [_badges(summary), _unfinished(summary), _notes(summary)]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(summary.view.name)}: frontier</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(summary: RunSummary) -> str:
    counts = summary.view.num_trials()
    open_ = states_line({state: count for state, count in counts.items() if state != "done"})
    facts = [
        ("points on the frontier", _count(summary.frontier)),
        ("hypervolume", f"{summary.hypervolume:.3f}"),
        ("trials done", f"{counts['done']}" + (f" <small class='soft'>+ {open_}</small>" if open_ else "")),
        ("wall clock", _duration(summary.view.seconds)),
    ]
    made, reused = summary.view.stage_counts().get("member", (0, 0))
    if made + reused:
        facts.append(("members used / trained", f"{made + reused} / {made}"))
    shown = "".join(f"<div><b>{value}</b><span class='soft'>{escape(name)}</span></div>" for name, value in facts)
    return f"<h1>{escape(summary.view.name)}</h1><p class='soft'>{escape(_about(summary))}</p><div class='facts'>{shown}</div>"


def _count(found: FrontierEstimate) -> str:
    more = f" <small class='soft'>+ {len(found.uncertain)} uncertain</small>" if found.uncertain else ""
    return f"{len(found.front)}{more}"


def _about(summary: RunSummary) -> str:
    spec = summary.view.spec
    words = [f"search {summary.view.state}"]
    if spec:
        words.append(f"{spec['data']['source']} images, {spec['model']['name']} of width {spec['model']['width']}")
        words.append(f"{spec['team']['mode']} teams, {spec['members']['granularity']} members, seed {spec['seed']}")
    return " · ".join(words)


def _verdict(summary: RunSummary) -> str:
    verdict = summary.verdict
    kind = {True: "yes", False: "no", None: ""}[verdict.beats_baselines]
    items = "".join(f"<li>{escape(comparison.text)}</li>" for comparison in verdict.comparisons)
    return f"<section class='verdict {kind}'><h2>{escape(verdict.text)}</h2>{f'<ul>{items}</ul>' if items else ''}</section>"


def _reading(summary: RunSummary) -> str:
    measured = [p.measurement for p in summary.frontier.front] + ([summary.base] if summary.base else [])
    if not measured:
        return ""
    robust = measured[0].robust_accuracy
    text = f"Bars are 95 % intervals; {robust.num_samples} validation images; badge {robust.badge}."
    if robust.badge == "proxy":
        text += " The same images ranked the trials, so the best of them read a little too high."
    return text


def _table(summary: RunSummary) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    rows = "".join(
        f"<tr class='{row.kind}'>{''.join(f'<td>{escape(cell)}</td>' for cell in row.cells)}</tr>"
        for row in table_rows(summary)
    )
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _badges(summary: RunSummary) -> str:
    """Show what `eed-search attack` found, a section for each badge."""
    parts = [
        _section(one.title, _numbers(BADGE_COLUMNS, one.rows), " ".join(one.notes)) for one in badge_tables(summary)
    ]
    if lines := other_lines(summary):
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        parts.append(_section("Other attacks", f"<ul>{items}</ul>"))
    return "".join(parts)


def _unfinished(summary: RunSummary) -> str:
    rows = [
        (f"{t.number:03d}", t.outcome, t.reason, t.message)
        for _, t in sorted(summary.view.trials.items())
        if t.outcome != "done"
    ]
    return (
        _section("Trials that did not enter", _plain(("trial", "outcome", "reason", "message"), rows)) if rows else ""
    )


def _notes(summary: RunSummary) -> str:
    stages = [(name, str(made), str(reused)) for name, (made, reused) in sorted(summary.view.stage_counts().items())]
    parts = _section("Stages", _plain(("stage", "computed", "reused"), stages)) if stages else ""
    if summary.view.notes:
        parts += _section(
            "Notes", "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in summary.view.notes) + "</ul>"
        )
    return parts


def _numbers(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _plain(columns, rows).replace("class='plain'", "class='numbers'")


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='wide'><table class='plain'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _section(title: str, body: str, note: str = "") -> str:
    after = f"<p class='soft'>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{body}{after}</section>"


def _drawn(figure: go.Figure, name: str) -> str:
    config = {
        "displaylogo": False,
        "responsive": True,
        "modeBarButtons": [["toImage"], ["zoom2d", "pan2d"], ["resetScale2d"]],  # not the one that uploads the data
        "plotlyServerURL": "",
    }
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
