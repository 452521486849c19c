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
from eed_search.core.data_facts import DataFacts
from eed_search.core.ledger import RunView
from eed_search.core.pace import duration as duration  # from here too: others import it with the rest
from eed_search.core.points import run_hypervolume
from eed_search.core.records import HELD
from eed_search.core.reported import standing
from eed_search.core.testimony import gains_over_base
from eed_search.search.package import is_sent
from eed_search.tracking.report import HTML_NAME
from eed_search.tracking.table import (
    COLUMNS,
    TableRow,
    attacked_note,
    denominator_note,
    fresh_note,
    maybe_note,
    sure_note,
    table_rows,
    throughput_note,
)
from eed_search.tracking.text import states_line
from eed_search.tracking.verdict import judge

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


def show(view: RunView, folder: Path, home: Path) -> None:
    """Print a search's result, complete or as far as it is.

    Args:
        view: The search.
        folder: Its folder.
        home: The home, so that the printed commands find the search again.
    """
    for line in headline(view):
        say(line)
    rows = table_rows(view)
    if rows:
        say()
        console().print(frontier_table(rows, console().width))
        for line in legend(view):
            say(line)
    say()
    for line in verdict_lines(view) + reuse_lines(view) + failure_lines(view) + note_lines(view):
        say(line)
    say()
    show_badges(view)
    for line in next_steps(view, folder, home):
        say(line)


def headline(view: RunView) -> list[str]:
    """Say what the search is, how far it came and how long it took."""
    counts = view.num_trials()
    line = f"{view.name}: {view.state} after {duration(view.seconds)}; trials: {states_line(counts) or 'none yet'}"
    if view.base is not None and counts["done"]:
        line += f"; hypervolume {run_hypervolume(view):.3f}"
    lines = textwrap.wrap(line, _WIDTH)
    if "data" in view.facts:
        lines += textwrap.wrap(f"images: {DataFacts.of(view.facts['data']).line()}", _WIDTH, break_on_hyphens=False)
    return lines


def frontier_table(rows: list[TableRow], width: int) -> Table:
    """Lay the frontier, the base and the controls out as a table.

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
        team = cells["team"] if row.kind in ("point", "maybe") else ""
        cells["point"] += " maybe" if row.kind == "maybe" else ""
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


def legend(view: RunView) -> list[str]:
    """Say what the numbers of the table are, and what they must not be taken for."""
    if view.base is None:
        return []
    robust = view.base.measurement.robust_accuracy
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
            denominator_note(view),
            attacked_note(view),
            sure_note(view),
            maybe_note(view),
            fresh_note(view),
            throughput_note(view),
        )
        if note
    ]
    found = standing(view)
    measured = [p.measurement.latency for p in (*found.front, *found.maybe)]
    if any(latency.method == "additive" for latency in measured):
        lines.append("Some latencies are sums of member latencies: the deployed cascade itself was not timed yet.")
    if any("(noisy)" in cell for row in table_rows(view) for cell in row.cells):
        lines.append("?: the machine was too noisy for the interval that the protocol asks for.")
    return [wrapped for line in lines for wrapped in textwrap.wrap(line, _WIDTH)]


def verdict_lines(view: RunView) -> list[str]:
    """Say whether the frontier beats the controls, and how each point stands to the dense base."""
    lines = []
    verdict = judge(view)
    lines += textwrap.wrap(verdict.text, _WIDTH)
    for comparison in verdict.comparisons:
        lines += textwrap.wrap(comparison.text, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines + base_lines(view)


def base_lines(view: RunView) -> list[str]:
    """Say how each reported point stands to the dense base: on images that chose nothing, and by what chose it."""
    if view.base is None:
        return []
    front = standing(view).front
    found = gains_over_base(view, front)
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


def reuse_lines(view: RunView) -> list[str]:
    """Say how much the stage store saved: computed and reused, by stage."""
    counts = view.stage_counts()
    if not counts:
        return []
    texts = [f"{stage} {made}+{reused}" for stage, (made, reused) in sorted(counts.items())]
    return textwrap.wrap(f"Stages of all trials, computed+reused: {', '.join(texts)}", _WIDTH, subsequent_indent="  ")


def failure_lines(view: RunView) -> list[str]:
    """List the trials that gave no point, with their reasons."""
    lines: list[str] = []
    for number, trial in sorted(view.trials.items()):
        if trial.outcome in ("failed", "infeasible", "pruned"):
            reason = f" ({trial.reason})" if trial.reason else ""
            text = f"trial {number} {trial.outcome}{reason}: {trial.message or 'no message'}"
            lines += textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    if len(lines) > 12:
        lines = [*lines[:11], f"… and more: {command('report')} --json lists every state"]
    return lines


def note_lines(view: RunView) -> list[str]:
    """Repeat what the search wrote down for the reader."""
    return [
        line
        for note in view.notes
        for line in textwrap.wrap(
            f"note: {note}", _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    ]


def next_steps(view: RunView, folder: Path, home: Path) -> list[str]:
    """Give the plot's path and the exact commands that come next."""
    lines = []
    plot = folder / "report" / HTML_NAME
    there = where(home)
    name = shlex.quote(folder.name)
    if plot.is_file() and is_sent():  # the reader sits elsewhere
        lines.append(f"plot    {command('report')} {name} --out {shlex.quote(f'{folder.name}-report')}{there}")
    elif plot.is_file():
        lines.append(f"plot    {plot}")
    if view.state in ("stopped", "failed", "interrupted"):
        lines.append(f"resume  {command('resume')} {name}{there}")
    lines.append(f"MLflow  {command('ui')} {name}{there}")
    lines.append(f"again   {command('report')} {name}{there}")
    for what, called, rest in onward(view, folder.name, sent=is_sent()):
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
