"""What a person sees of a search: the frontier table, the verdict, what was reused, what to do next."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from eed_search.cli.badges import show_badges
from eed_search.cli.console import console, say
from eed_search.cli.onward import onward
from eed_search.core.pace import duration as duration  # from here too: others import it with the rest
from eed_search.runs.data_facts import DataFacts
from eed_search.runs.records import HELD
from eed_search.search.execution.package import is_sent
from eed_search.tracking.report import HTML_NAME
from eed_search.tracking.summary import RunSummary
from eed_search.tracking.table import (
    COLUMNS,
    TableRow,
    attacked_note,
    confirmed_note,
    denominator_note,
    fresh_note,
    table_rows,
    throughput_note,
    uncertain_note,
)
from eed_search.tracking.text import states_line

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT_HOME = "runs"
_WIDTH = 80
_WIDE = 118  # from this width on, every column has its own place
_SHORT = {
    "robust accuracy": "robust\n%",
    "latency ms": "latency\nms",
    "speed-up": "speed-up\n×",
    "attacked": "attacked\n×",
    "clean accuracy": "clean\n%",
    "members": "of",
    "members run": "run",
    "size": "size\nbytes",
    "MACs": "MACs",
}


def show(summary: RunSummary, folder: Path, home: Path) -> None:
    """Print a search's result, complete or as far as it is.

    Args:
        summary: Summary of the search.
        folder: Its folder.
        home: The home, so that the printed commands find the search again.
    """
    for line in headline(summary):
        say(line)
    rows = table_rows(summary)
    if rows:
        say()
        console().print(frontier_table(rows, console().width))
        for line in legend(summary):
            say(line)
    say()
    for line in verdict_lines(summary) + reuse_lines(summary) + failure_lines(summary) + note_lines(summary):
        say(line)
    say()
    show_badges(summary)
    for line in next_steps(summary, folder, home):
        say(line)


def headline(summary: RunSummary) -> list[str]:
    """Say what the search is, how far it came and how long it took."""
    counts = summary.view.num_trials()
    line = f"{summary.view.name}: {summary.view.state} after {duration(summary.view.seconds)}; trials: {states_line(counts) or 'none yet'}"
    if summary.view.base is not None and counts["done"]:
        line += f"; hypervolume {summary.hypervolume:.3f}"
    lines = textwrap.wrap(line, _WIDTH)
    if "data" in summary.view.facts:
        lines += textwrap.wrap(
            f"images: {DataFacts.of(summary.view.facts['data']).line()}", _WIDTH, break_on_hyphens=False
        )
    return lines


def frontier_table(rows: list[TableRow], width: int) -> Table:
    """Lay the frontier, the base and the baselines out as a table.

    Args:
        rows: As `tracking.table.table_rows` gives them.
        width: Columns of the screen; below 118 the team stands under its point and MACs are left out.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    wide = width >= _WIDE
    table = Table(box=SIMPLE_HEAD, padding=(0, 1 if wide else 0), collapse_padding=True, pad_edge=False)
    table.add_column("point", min_width=14)
    shown = [name for name in COLUMNS[2:] if wide or name != "MACs"]
    for name in shown:
        table.add_column(_SHORT[name], justify="right", no_wrap=True)
    previous = None
    for row in rows:
        if previous not in (None, row.kind):
            table.add_section()
        previous = row.kind
        cells = dict(zip(COLUMNS, row.cells, strict=True))
        team = cells["team"] if row.kind in ("point", "uncertain") else ""
        cells["point"] += " uncertain" if row.kind == "uncertain" else ""
        title = f"{cells['point']}{'  ' if wide else chr(10)}{team}" if team else cells["point"]
        # Units stand in the heading, so that the columns fit 80 characters.
        values = [_without_units(name, cells[name], wide) for name in shown]
        table.add_row(*(Text(text) for text in (title, *values)), style="bold" if row.kind == "point" else "")
    return table


def _without_units(name: str, cell: str, wide: bool) -> str:
    """Leave to the heading what it says; on a narrow screen the latency's interval too, which the speed-up's repeats."""
    if name in ("size", "MACs"):
        return cell.removesuffix("B").replace(" ", "")
    text = cell.replace(" %", "").replace(" ×", "").replace("×", "").replace(" (noisy)", "?")
    if name == "latency ms" and not wide:
        return text.partition(" ")[0] + ("?" if text.endswith("?") else "")
    return text


def legend(summary: RunSummary) -> list[str]:
    """Say what the numbers of the table are, and what they must not be taken for."""
    if summary.base is None:
        return []
    robust = summary.base.robust_accuracy
    lines = [
        f"robust: {robust.num_samples} validation images under {robust.attack}, L-inf eps {robust.eps:.4g};"
        f" badge `{robust.badge}`: it ranks trials, it is not a claim.",
        "latency: batch 1 in onnxruntime."
        " run: members asked for an average image, of all. ±: 95 % interval; where cascades were timed, what several"
        f" processes span, which held in {HELD} on a restless machine.",
    ]
    lines += [
        note
        for note in (
            denominator_note(summary),
            attacked_note(summary),
            confirmed_note(summary),
            uncertain_note(summary),
            fresh_note(summary),
            throughput_note(summary),
        )
        if note
    ]
    found = summary.frontier
    measured = [p.measurement.latency for p in (*found.front, *found.uncertain)]
    if any(latency.method == "additive" for latency in measured):
        lines.append("Some latencies are sums of member latencies: the deployed cascade itself was not timed yet.")
    if any("(noisy)" in cell for row in table_rows(summary) for cell in row.cells):
        lines.append("?: the machine was too noisy for the interval that the protocol asks for.")
    return [wrapped for line in lines for wrapped in textwrap.wrap(line, _WIDTH)]


def verdict_lines(summary: RunSummary) -> list[str]:
    """Say whether the frontier beats the baselines, and how each point stands to the dense base."""
    lines = []
    verdict = summary.verdict
    lines += textwrap.wrap(verdict.text, _WIDTH)
    for comparison in verdict.comparisons:
        lines += textwrap.wrap(comparison.text, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines + base_lines(summary)


def base_lines(summary: RunSummary) -> list[str]:
    """Say how each reported point stands to the dense base: on images that chose nothing, and by what chose it."""
    if summary.view.base is None:
        return []
    front, found = summary.frontier.front, summary.gains
    lines = []
    if found:
        first = next(iter(found.values()))
        attack = "attacked at tier 1" if first.source == "checked" else "which chose nothing"
        head = f"Robust accuracy minus the dense base's, {first.num_images} fresh images, {attack} (points, 95 % together):"
        lines += textwrap.wrap(head, _WIDTH)
        texts = [
            f"{id_}: {100 * g.difference.value:+.1f} ({100 * g.difference.low:+.1f}..{100 * g.difference.high:+.1f})"
            for id_, g in found.items()
        ]
        lines += textwrap.wrap("; ".join(texts), _WIDTH, initial_indent="  ", subsequent_indent="  ")
        more = [g.decided_by for g in found.values() if g.decided_by is not None]
        if more:
            lines += textwrap.wrap(
                f"Those that include 0 would be decided by about {min(more):,} to {max(more):,} images.",
                _WIDTH,
                initial_indent="  ",
                subsequent_indent="  ",
            )
    chose = [(p.id, d.value) for p in front if (d := p.measurement.difference_to_base) is not None]
    if chose:
        text = "; ".join(f"{id_}: {100 * value:+.1f}" for id_, value in chose)
        lines += textwrap.wrap(f"On the images that chose, which prove nothing: {text}", _WIDTH, subsequent_indent="  ")
    return lines


def reuse_lines(summary: RunSummary) -> list[str]:
    """Say how much the stage store saved: computed and reused, by stage."""
    counts = summary.view.stage_counts()
    if not counts:
        return []
    texts = [f"{stage} {made}+{reused}" for stage, (made, reused) in sorted(counts.items())]
    return textwrap.wrap(f"Stages of all trials, computed+reused: {', '.join(texts)}", _WIDTH, subsequent_indent="  ")


def failure_lines(summary: RunSummary) -> list[str]:
    """List the trials that gave no point, with their reasons."""
    lines: list[str] = []
    for number, trial in sorted(summary.view.trials.items()):
        if trial.outcome in ("failed", "infeasible", "pruned"):
            reason = f" ({trial.reason})" if trial.reason else ""
            text = f"trial {number} {trial.outcome}{reason}: {trial.message or 'no message'}"
            lines += textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    if len(lines) > 12:
        lines = [*lines[:11], f"… and more: {command('report')} --json lists every state"]
    return lines


def note_lines(summary: RunSummary) -> list[str]:
    """Repeat what the search wrote down for the reader."""
    return [
        line
        for note in summary.view.notes
        for line in textwrap.wrap(
            f"note: {note}", _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    ]


def next_steps(summary: RunSummary, folder: Path, home: Path) -> list[str]:
    """Give the plot's path and the exact commands that come next."""
    lines = []
    plot = folder / "report" / HTML_NAME
    there = where(home)
    name = shlex.quote(folder.name)
    if plot.is_file() and is_sent():  # the reader sits elsewhere
        lines.append(f"plot    {command('report')} {name} --out {shlex.quote(f'{folder.name}-report')}{there}")
    elif plot.is_file():
        lines.append(f"plot    {plot}")
    if summary.view.state in ("stopped", "failed", "interrupted"):
        lines.append(f"resume  {command('resume')} {name}{there}")
    lines.append(f"MLflow  {command('ui')} {name}{there}")
    lines.append(f"again   {command('report')} {name}{there}")
    for what, called, rest in onward(summary, folder.name, sent=is_sent()):
        lines.append(f"{what:<7} {command(called)} {rest}{there}" if called else f"{what:<7} {rest}")
    return lines


def command(name: str) -> str:
    """Write one of our commands so that it can be pasted: by its path where `eed-search` is not on PATH."""
    script = Path(sys.argv[0])
    if script.name != "eed-search" or shutil.which("eed-search"):
        return f"eed-search {name}"
    return f"{shlex.quote(str(script))} {name}"


def where(home: Path) -> str:
    """Write the option that finds a home again; nothing for the default one."""
    return "" if home == Path(DEFAULT_HOME) else f" --home {shlex.quote(str(home))}"
