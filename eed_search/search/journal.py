"""The driver's pen: every fact of a search goes to the ledger first, then to whoever watches.

Only the driver's main thread writes. The view is folded from the same events that a later reader
will find, so both see the same. Optuna is told after the ledger, MLflow in the background; both can be
made again from it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from eed_search.config.params import ParamValue
from eed_search.runs.data_facts import DataFacts
from eed_search.runs.events import (
    BaselineMeasured,
    BaseMeasured,
    FreshChecked,
    IncumbentsNamed,
    LatencyMeasured,
    Noted,
    RoundDecided,
    RunDescribed,
    RunEnded,
    RunEvent,
    RungDecided,
    RungReported,
    StageBegan,
    ThresholdConfirmed,
    Tracked,
    TrialAttempted,
    TrialEnded,
    TrialProposed,
    fold,
    to_row,
)
from eed_search.runs.ledger import RESUME, Ledger, RunView, num_ended
from eed_search.runs.moved import same_tracker
from eed_search.runs.records import (
    FreshCheck,
    Latency,
    Measurement,
    Reference,
    RungResult,
    TrialRecord,
    ValidationRound,
)
from eed_search.search.listener import Listener, Status
from eed_search.system.modes import make_file

if TYPE_CHECKING:
    from pathlib import Path

    from eed_search.tracking.mlflow_log import MlflowTracker, State
    from eed_search.tracking.outbox import Outbox

NOW_FILE = "now.json"
_EVERY_S = 2.0
# What follows from them MLflow shows with the next event: beside the replay of a long run's ledger delivery would cost
# its first trial seconds.
_NO_NEWS = frozenset({"run", "resume", "stage", "note", "tracker"})


class Journal:
    """Writes a run's events and tells the listener and the tracker about them.

    Args:
        ledger: Open for writing; what is in it is read first.
        listener: Told of everything.
        num_trials: Trials that the search will run in all.
        slots: Trials that run at once.

    Attributes:
        view: The run so far.
    """

    def __init__(self, ledger: Ledger, listener: Listener, num_trials: int, slots: int) -> None:
        self.view = RunView()
        self.listener = listener
        self._outbox: Outbox | None = None
        self._ledger = ledger
        self._num_trials = num_trials
        self._slots = slots
        self._read()
        self._before = self.view.seconds
        self._start = time.monotonic()
        self._last_cursor = 0
        self._last_look = 0.0

    def append(self, event: RunEvent) -> int:
        """Write one event and bring the view up to date; gives its sequence number."""
        seq = self._ledger.append(*to_row(event))
        self._read()
        if self._outbox and event.kind not in _NO_NEWS:
            self._outbox.wake()
        return seq

    def _read(self) -> None:
        for event in self._ledger.events(self.view.num_events):
            fold(self.view, event)

    def stage(self, text: str) -> None:
        """Say that a phase begins."""
        self.append(StageBegan(text))
        self.listener.on_stage(text)

    def note(self, text: str) -> None:
        """Keep a line that a reader of the result should know; once, however often it is said."""
        if text not in self.view.notes:
            self.append(Noted(text))
            self.listener.on_note(text)

    def data(self, run: RunDescribed, facts: DataFacts) -> None:
        """Keep what was read of the data, among the run's facts."""
        self.append(run)
        self.listener.on_data(facts)

    def base(self, base: Reference) -> None:
        """Keep the dense base."""
        self.append(BaseMeasured(base))
        self.listener.on_base(base)

    def baseline(self, baseline: Reference) -> None:
        """Keep a baseline."""
        self.append(BaselineMeasured(baseline))
        self.listener.on_baseline(baseline)

    def proposal(self, number: int, params: Mapping[str, ParamValue], drawn: Mapping[str, ParamValue]) -> None:
        """Keep what a trial is about to try, and what Optuna drew for it."""
        self.append(TrialProposed(number, dict(params), dict(drawn)))

    def attempt(self, number: int) -> None:
        """Keep that a trial starts, for the first time or again."""
        self.append(TrialAttempted(number, self.view.attempts.get(number, 0) + 1, "started"))

    def incumbents(self, number: int, points: Sequence[str]) -> None:
        """Keep whom a trial will be held against while it is attacked."""
        self.append(IncumbentsNamed(number, tuple(points)))

    def lost(self, number: int, message: str) -> None:
        """Keep that a trial's worker was lost, and that it will be tried again."""
        attempt = self.view.attempts.get(number, 0)
        self.append(TrialAttempted(number, attempt, "lost", message))

    def report(self, number: int, reading: RungResult) -> None:
        """Keep what a trial measured on its way."""
        self.append(
            RungReported(
                number,
                reading.rung,
                reading.metrics(),
                robust_hex=reading.robust_hex,
                num_samples=reading.robust_accuracy.num_samples,
                stages=reading.stages,
                seconds=reading.seconds,
            )
        )

    def decision(self, number: int, rung: int, decision: str) -> None:
        """Keep what was made of a trial's report, then and later."""
        self.append(RungDecided(number, rung, decision))
        if decision != RESUME:
            self.listener.on_rung(number, self.view.reports[number][-1], self.view)

    def result(self, record: TrialRecord) -> None:
        """Keep a trial's end, once."""
        if record.number in self.view.trials:
            return
        self.append(TrialEnded(record))
        self.listener.on_result(record, self.view)

    def look(self, look: ValidationRound) -> None:
        """Keep a decision on who may belong to the frontier."""
        self.append(RoundDecided(look))

    def final(self, id_: str, found: Latency | Measurement | FreshCheck, chose_from: int | None = None) -> None:
        """Keep what a point's finals found: its latency, its confirmed measurement, or its fresh check.

        Args:
            id_: The point's, or the reference's name.
            found: What.
            chose_from: First of the fresh images, where they help to choose the frontier.
        """
        if isinstance(found, Latency):
            self.append(LatencyMeasured(id_, found))
        elif isinstance(found, Measurement):
            self.append(ThresholdConfirmed(id_, found))
        else:
            self.append(FreshChecked(id_, found, chose_from))

    def end(self, state: State, reason: str = "") -> None:
        """Close the run; a `resume` may open it again."""
        self.append(RunEnded(state, reason))

    def tick(self, stages: Mapping[str, str]) -> None:
        """Tell the listener how far the search is, and remember how far the tracker is."""
        status = self._status(stages)
        self.listener.on_tick(status)
        if time.monotonic() - self._last_look < _EVERY_S:
            return
        self._last_look = time.monotonic()
        self._remember_cursor()
        _write_now(self._ledger.path.with_name(NOW_FILE), status)

    @property
    def used_s(self) -> float:
        """Seconds that drivers have been at work on this run."""
        return self._before + time.monotonic() - self._start

    # ------------------------------------------------------------ the tracker

    def open_tracker(self, tracker: MlflowTracker) -> None:
        """Start tracking; what the tracker wants remembered goes to the ledger.

        Raises:
            SpecError: If `tracking.uri` cannot be used.
            StoreError: If the home's own database cannot be made.
        """
        from eed_search.tracking.outbox import Outbox

        facts = tracker.start(self.view)
        # What was delivered once is delivered again where MLflow has forgotten the search.
        known = tracker.taken_up and same_tracker(self.view.tracker.get("uri"), tracker.uri)
        cursor = int(self.view.tracker.get("cursor", 0)) if known else 0
        self.append(Tracked({**facts, "cursor": cursor, "complete": False}))
        self._outbox = Outbox(self._ledger.path, tracker, cursor)

    def close_tracker(self, state: State, report_folder: Path | None, patience_s: float = 60.0) -> None:
        """Complete what the tracker shows, and close its runs; what cannot be done is noted."""
        if (outbox := self._outbox) is None:
            return
        again = f"`eed-search {'cancel' if state == 'cancelled' else 'resume'} {self.view.name}`"
        complete = outbox.finish(
            replace(self.view, state=state), report_folder, state, patience_s, self.listener.on_note
        )
        self._remember_cursor()
        self._outbox = None
        if complete:
            self.append(Tracked({"complete": True}))
        elif outbox.is_full:
            self.note(f"MLflow's disk is full, so it lacks a part of this search; make room, then {again} completes it")
        else:
            self.note(f"MLflow did not answer to the end and lacks a part of this search; {again} completes it")

    def _remember_cursor(self) -> None:
        if self._outbox is None:
            return
        if note := self._outbox.take_note():
            self.note(note)
        if (cursor := self._outbox.cursor) > self._last_cursor:
            # The event that says so is itself one that the outbox will pass over.
            self._last_cursor = self.append(Tracked({"cursor": cursor}))

    # ------------------------------------------------------------ status

    def _status(self, stages: Mapping[str, str]) -> Status:
        counts = self.view.num_trials()
        return Status(time.monotonic() - self._start, dict(stages), counts, self._num_trials, self._eta(counts))

    def _eta(self, counts: Mapping[str, int]) -> float | None:
        """Mean time of the finished trials, times the rounds of trials that are left."""
        seconds = [trial.seconds for trial in self.view.trials.values() if trial.seconds > 0]
        if not seconds:
            return None
        left = max(0, self._num_trials - num_ended(counts))
        return sum(seconds) / len(seconds) * left / min(self._slots, max(1, left))


def _write_now(path: Path, status: Status) -> None:
    """Leave a note of what is being done, for `status`; a full disk must not end the search for it."""
    now = {"pid": os.getpid(), "at": time.time(), "stages": status.stages, "eta_s": status.eta_s}
    made = path.with_name(f".{path.name}")
    with suppress(OSError):
        make_file(made)
        made.write_text(json.dumps(now), encoding="utf-8")
        made.replace(path)
