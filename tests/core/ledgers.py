"""Writes a ledger as a driver would, from a view made without training anything."""

from __future__ import annotations

from pathlib import Path

from eed_search.core.ledger import FILE_NAME, Ledger, RunView
from eed_search.core.records import to_json


def write_ledger(folder: Path, view: RunView) -> Path:
    """Write a ledger that replays to a view; gives the folder back."""
    folder.mkdir(parents=True, exist_ok=True)
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("run", {"name": view.name, "spec": view.spec, "facts": view.facts})
        assert view.base is not None
        ledger.append("base", to_json(view.base))
        for control in view.controls:
            ledger.append("control", to_json(control))
        for number, params in view.proposals.items():
            ledger.append("proposal", {"params": params}, number)
        for number, trial in view.trials.items():
            ledger.append("result", to_json(trial), number)
        for id_, latency in view.latencies.items():
            ledger.append("latency", {"id": id_, "latency": to_json(latency)})
        for note in view.notes:
            ledger.append("note", {"text": note})
        ledger.append("tracker", view.tracker)
        ledger.append("end", {"state": view.state, "reason": ""})
    return folder
