"""Writes a ledger as a driver would, from a view made without training anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eed_search.core.ledger import FILE_NAME, Event, EventKind, Ledger, RunView
from eed_search.core.records import to_json


def write_ledger(folder: Path, view: RunView) -> Path:
    """Write a ledger that replays to a view; gives the folder back."""
    folder.mkdir(parents=True, exist_ok=True)
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        for kind, trial, data in facts_of(view):
            ledger.append(kind, data, trial)
    return folder


def facts_of(view: RunView) -> Iterator[tuple[EventKind, int | None, dict[str, Any]]]:
    """List what a driver would write for a view: kind, trial and data of each event."""
    yield "run", None, {"name": view.name, "uid": view.uid, "spec": view.spec, "facts": view.facts}
    if view.base is not None:
        yield "base", None, to_json(view.base)
    for control in view.controls:
        yield "control", None, to_json(control)
    for number, params in view.proposals.items():
        yield "proposal", number, {"params": params}
    for number, trial in view.trials.items():
        yield "result", number, to_json(trial)
    for id_, latency in view.latencies.items():
        yield "latency", None, {"id": id_, "latency": to_json(latency)}
    for id_, found in view.attacks.items():
        for result in found:
            yield "attack", None, {"id": id_, "result": to_json(result)}
    for note in view.notes:
        yield "note", None, {"text": note}
    yield "tracker", None, view.tracker
    if view.state != "running":
        yield "end", None, {"state": view.state, "reason": view.reason}


def events_of(view: RunView) -> list[Event]:
    """Number those events as a ledger would, one a second."""
    return [Event(seq, kind, trial, data, 1e9 + seq) for seq, (kind, trial, data) in enumerate(facts_of(view), start=1)]
