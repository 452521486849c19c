"""The driver's pen: every fact of a search goes to the ledger first, then to whoever watches.

Only the driver's main thread writes. The view is folded from the same events that a later reader
will find, so both see the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eed_search.core.ledger import EventKind, Ledger, RunView, fold
from eed_search.core.params import ParamValue
from eed_search.core.points import frontier, run_hypervolume
from eed_search.core.records import Latency, Reference, TrialRecord, to_json
from eed_search.search.listener import Listener, Status

if TYPE_CHECKING:
    from pathlib import Path

    from eed_search.tracking.mlflow_log import MlflowTracker, State


class Journal:
    """Writes a run's events and tells the listener and the tracker about them.

    Args:
        ledger: Open for writing.
        listener: Told of everything.
        num_trials: Trials that the search will run in all.
        slots: Trials that run at once.

    Attributes:
        view: The run so far.
    """

    def __init__(self, ledger: Ledger, listener: Listener, num_trials: int, slots: int) -> None:
        self.view = RunView()
        self.listener = listener
        self.tracker: MlflowTracker | None = None
        self._ledger = ledger
        self._num_trials = num_trials
        self._slots = slots
        self._seen = 0
        self._start = time.monotonic()

    def append(self, kind: EventKind, data: dict[str, Any], trial: int | None = None) -> None:
        """Write one event and bring the view up to date."""
        self._ledger.append(kind, data, trial)
        for event in self._ledger.events(self._seen):
            fold(self.view, event)
            self._seen = event.seq

    def stage(self, text: str) -> None:
        """Say that a phase begins."""
        self.listener.on_stage(text)

    def note(self, text: str) -> None:
        """Keep a line that a reader of the result should know."""
        self.append("note", {"text": text})

    def base(self, base: Reference) -> None:
        """Keep the dense base."""
        self.append("base", to_json(base))
        if self.tracker:
            self.tracker.log_reference(base, "base")
        self.listener.on_base(base)

    def control(self, control: Reference) -> None:
        """Keep a control."""
        self.append("control", to_json(control))
        if self.tracker:
            self.tracker.log_reference(control, "control")
        self.listener.on_control(control)

    def proposal(self, number: int, params: Mapping[str, ParamValue], drawn: Mapping[str, ParamValue]) -> None:
        """Keep what a trial is about to try, and what Optuna drew for it."""
        self.append("proposal", {"params": dict(params), "drawn": dict(drawn)}, number)

    def result(self, record: TrialRecord) -> None:
        """Keep a trial's end, once."""
        if record.number in self.view.trials:
            return
        self.append("result", to_json(record), record.number)
        self.listener.on_result(record, self.view)
        if self.tracker:
            self.tracker.log_result(record)
            self.tracker.log_progress(
                hypervolume=run_hypervolume(self.view),
                num_done=self.view.num_trials()["done"],
                frontier_size=len(frontier(self.view)),
                step=len(self.view.trials),
            )

    def latency(self, id_: str, latency: Latency) -> None:
        """Keep a final latency."""
        self.append("latency", {"id": id_, "latency": to_json(latency)})

    def end(self, state: str, reason: str = "") -> None:
        """Close the run; nothing is written after it."""
        self.append("end", {"state": state, "reason": reason})

    def tick(self, stages: Mapping[str, str]) -> None:
        """Tell the listener how far the search is."""
        counts = self.view.num_trials()
        status = Status(time.monotonic() - self._start, dict(stages), counts, self._num_trials, self._eta(counts))
        self.listener.on_tick(status)

    def open_tracker(self, tracker: MlflowTracker) -> None:
        """Start tracking; what the tracker wants remembered goes to the ledger.

        Raises:
            SpecError: If `tracking.uri` cannot be used.
            StoreError: If the home's own database cannot be made.
        """
        self.append("tracker", dict(tracker.start(self.view)))
        self.tracker = tracker

    def close_tracker(self, state: State, report_folder: Path | None) -> None:
        """Complete what the tracker shows, and close its runs."""
        if self.tracker:
            self.tracker.finish(replace(self.view, state=state), report_folder, state)

    def _eta(self, counts: Mapping[str, int]) -> float | None:
        """Mean time of the finished trials, times the rounds of trials that are left."""
        seconds = [trial.seconds for trial in self.view.trials.values() if trial.seconds > 0]
        if not seconds:
            return None
        finished = sum(counts.values()) - counts["running"]
        left = max(0, self._num_trials - finished)
        return sum(seconds) / len(seconds) * left / min(self._slots, max(1, left))
