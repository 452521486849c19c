"""`eed-search status`: how a search stands, from its ledger; it may run, have ended, or have been killed."""

from __future__ import annotations

import json
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from eed_search.cli.console import as_text, console, is_terminal, say
from eed_search.cli.homes import Found, damaged_runs, find_run, found_runs
from eed_search.cli.remote_cluster import flags, remote_cluster
from eed_search.cli.result import command, where
from eed_search.cli.streams import is_heard
from eed_search.cluster.where import WhereAsked
from eed_search.config.old_names import with_old_fields
from eed_search.core.pace import duration
from eed_search.frontier.estimate import estimate_frontier
from eed_search.frontier.points import run_hypervolume
from eed_search.runs.cost import attacked_speedup
from eed_search.runs.home import SPACE_FILE
from eed_search.runs.ledger import num_ended
from eed_search.runs.run_lock import driver_of
from eed_search.search.journal import NOW_FILE
from eed_search.tracking.text import how_fast, per_cent, states_line

_EVERY_S = 2.0
_FRESH_S = 30.0  # what is older was left by a driver that is stuck or dead
_MOST = 8
_WIDTH = 80


def status(run: str | None, *, home: Path, watch: bool, as_json: bool, asked: WhereAsked) -> None:
    """Print how a search stands.

    Args:
        run: Its name, or its folder; none takes the latest.
        home: The folder that holds every search.
        watch: Print again until it does not run any more.
        as_json: Print one JSON object for other programs; with `watch`, one a line.
        asked: Where the search is.

    Raises:
        RunError: If there is no such search.
    """
    if remote := remote_cluster(asked, home):
        remote.ask(["status", *([run] if run else []), *flags(watch=watch, as_json=as_json)])
        return
    folder = find_run(home, run, or_prefix=True)
    found = Found.at(folder)
    if watch and is_terminal() and not as_json:
        _watch_live(folder, home)
        return
    shown = ""
    while True:
        text = (
            as_text(with_old_fields(facts(found, home)), indent=None, allow_nan=True)
            if as_json
            else "\n".join(lines(found, home))
        )
        if text != shown:
            say(text)
            shown = text
        if not (watch and found.state == "running" and is_heard()):
            break
        time.sleep(_EVERY_S)
        found = Found.at(folder)
    if run is None and not as_json:
        for line in others(home, folder):
            say(line)


def _watch_live(folder: Path, home: Path) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(console=console(), auto_refresh=False) as live:
        while True:
            found = Found.at(folder)
            live.update(Text("\n".join(lines(found, home))), refresh=True)
            if found.state != "running" or not is_heard():
                return
            time.sleep(_EVERY_S)


def facts(found: Found, home: Path) -> dict[str, Any]:
    """Describe how a search stands, for other programs."""
    view, now = found.view, _now(found)
    driver, stands = driver_of(found.folder), estimate_frontier(view)
    return {
        "name": found.folder.name,
        "state": found.state,
        "reason": view.reason,
        "pid": driver.pid if driver else None,
        "phase": view.stage,
        "seconds": round(_seconds(found), 1),
        "eta_s": now.get("eta_s"),
        "num_trials": _total(found),
        "trials": view.num_trials(),
        "stages": now.get("stages", {}),
        "hypervolume": run_hypervolume(view) if view.base else None,
        "frontier": [
            {
                "id": point.id,
                "front_probability": stands.probability[point.id],
                "robust_accuracy": point.measurement.robust_accuracy.value,
                "clean_accuracy": point.measurement.clean_accuracy.value,
                "latency_ms": point.measurement.latency.latency_ms.value,
                "speedup": point.measurement.latency.speedup.value,
                "attacked_speedup": attacked_speedup(point.measurement),
            }
            for point in stands.front
        ],
        "uncertain": [
            {"id": point.id, "front_probability": stands.probability[point.id]} for point in stands.uncertain
        ],
        "notes": view.notes,
        "num_resumes": view.num_resumes,
        "mlflow_complete": view.tracker.get("complete"),
        "next": [text for _, text in next_steps(found, home)],
    }


def lines(found: Found, home: Path) -> list[str]:
    """Describe how a search stands, for people."""
    view, now = found.view, _now(found)
    counts, total = view.num_trials(), _total(found)
    ended = num_ended(counts)
    head = f"{found.folder.name}: {found.state}"
    if found.state == "running":
        driver = driver_of(found.folder)
        head += f" (process {driver.pid})" if driver else ""
    elif view.reason:
        head += f" ({view.reason.splitlines()[0]})"
    head += f", {duration(_seconds(found))} of work"
    found_lines = textwrap.wrap(head, _WIDTH, subsequent_indent="  ")
    states = states_line(counts)
    if found.state != "running":
        states = states.replace(" running", " under way")
    left = now.get("eta_s")
    about = f"; about {duration(left)} left" if left and ended < total else ""
    found_lines.append(f"trials  {ended} of {total}{f' ({states})' if states else ''}{about}")
    if found.state == "running":
        found_lines.append(f"phase   {view.stage or 'starting'}")
        for who, text in sorted(now.get("stages", {}).items())[:_MOST]:
            found_lines += textwrap.wrap(f"now     {who}: {text}", _WIDTH, subsequent_indent="        ")
    stands = estimate_frontier(view)
    if front := stands.front:
        more = f" and {len(stands.uncertain)} uncertain" if stands.uncertain else ""
        found_lines.append(f"best    {len(front)} on the frontier{more}, hypervolume {run_hypervolume(view):.3f}")
        for point in front[:_MOST]:
            m = point.measurement
            found_lines.append(f"  {point.id:<6} robust {per_cent(m.robust_accuracy)}, {how_fast(m)}")
        if len(front) > _MOST:
            found_lines.append(f"  … and {len(front) - _MOST} more")
    if view.notes:
        found_lines += textwrap.wrap(f"note    {view.notes[-1]}", _WIDTH, subsequent_indent="        ")
    if found.state == "finished" and view.reason:
        key, file = view.reason.partition(" ")[0], found.folder / SPACE_FILE
        found_lines.append(f"more    give {key} a higher value, or null, in {file}, then resume")
    return found_lines + [f"{what:<7} {text}" for what, text in next_steps(found, home)]


def next_steps(found: Found, home: Path) -> list[tuple[str, str]]:
    """Give the commands that come next, each with a word for what it does."""
    name, there = found.folder.name, where(home)

    def step(what: str, more: str = "") -> tuple[str, str]:
        return what, f"{command(what)} {name}{more}{there}"

    if found.state == "running":
        return [step("stop"), step("status", " --watch")]
    if found.state == "finished":
        behind = found.view.tracker.get("complete") is False  # `resume` completes MLflow
        # What ended it before its trials would end it again: `resume` says which key to change.
        return [step("report"), step("resume") if behind or found.view.reason else step("resume", " --trials N")]
    return [step("resume", " --force" if found.state == "cancelled" else ""), step("report")]


def others(home: Path, shown: Path) -> list[str]:
    """Name the other searches of a home that are not finished."""
    rest = [one for one in found_runs(home) if one.folder != shown and one.state not in ("finished", "cancelled")]
    lines = [f"also    {one.folder.name}: {one.state}" for one in rest[-_MOST:]]
    return lines + [
        f"also    {folder.name}: its ledger is damaged; `{command('recover')} {folder.name}{where(home)}`"
        for folder in damaged_runs(home)
        if folder != shown
    ]


def _now(found: Found) -> dict[str, Any]:
    """Read what the driver does now, if it runs and has said so lately."""
    if found.state != "running":
        return {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        now = json.loads((found.folder / NOW_FILE).read_text(encoding="utf-8"))
        if time.time() - now["at"] < _FRESH_S:
            return dict(now)
    return {}


def _seconds(found: Found) -> float:
    """Give the time that drivers have been at work, up to now."""
    view = found.view
    since = time.time() - view.last_at if found.state == "running" and view.last_at else 0.0
    return view.seconds + max(0.0, since)


def _total(found: Found) -> int:
    return int(found.view.spec.get("search", {}).get("trials", 0))
