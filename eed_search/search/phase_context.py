"""What the phases of one search share, and what is heard and shown while they wait."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eed_search.config.spec import Spec
from eed_search.runs import requests
from eed_search.runs.events import Requested
from eed_search.runs.ledger import RunView
from eed_search.runs.replicas import Copier
from eed_search.search.execution.monitor import trial_label
from eed_search.search.execution.workers import Pipeline, Poll, Workers
from eed_search.search.interrupts import Stop
from eed_search.search.journal import Journal
from eed_search.search.outcome import record_of
from eed_search.storage.store import write_atomic

ERRORS_FOLDER = "errors"
_TICK_S = 0.5


class Stopped(Exception):
    """Somebody asked the search to stop."""


@dataclass
class PhaseContext:
    """What the phases of one search share.

    Attributes:
        spec: The search.
        folder: The run's.
        pipeline: What one trial does.
        journal: Writes every fact down.
        workers: Where the work is done.
        slots: Trials that run at once.
        stop: Set when the search is to end.
        copier: Copies the ledger to shared storage, if there is one.
        now: What is done alone on the machine, by whom it is for.
    """

    spec: Spec
    folder: Path
    pipeline: Pipeline
    journal: Journal
    workers: Workers
    slots: int
    stop: Stop
    copier: Copier | None = None
    now: dict[str, str] = field(default_factory=dict)
    _last_tick: float = 0.0

    @property
    def home(self) -> Path:
        """The folder that holds every search."""
        return self.folder.parent

    @property
    def view(self) -> RunView:
        """The run so far."""
        return self.journal.view

    def alone(self, what: str, given: Mapping[str, Any], who: str, poll: Poll) -> Any:
        """Call one function of the pipeline with the whole machine, and end it if it hangs."""
        limit_s = self.spec.search.trial_timeout_s
        return self.workers.alone(
            self.pipeline, what, given, who=who, poll=poll, limit_s=limit_s, on_stuck=self.on_stuck
        )

    def poll(self) -> None:
        """Say how far everything is, and end if somebody asked for it."""
        self.tick()
        self.raise_if_stopped()

    def tick(self) -> None:
        """Say how far everything is, about twice a second."""
        now = time.monotonic()
        if now - self._last_tick < _TICK_S:
            return
        self._last_tick = now
        self._hear()
        if self.copier:
            self._look_at_copies(self.copier)
        over = {trial_label(number) for number in self.view.trials}
        stages = self.now | {
            who: f"{self.now[who]}, {text}" if who in self.now else text for who, text in self.workers.stages().items()
        }
        self.journal.tick({who: text for who, text in stages.items() if who not in over})

    def _hear(self) -> None:
        """Take in what was asked for from outside."""
        if (wish := requests.asked(self.folder)) is None:
            return
        self.journal.append(Requested(wish))
        requests.withdraw(self.folder)
        self.stop.set(wish)

    def _look_at_copies(self, copier: Copier) -> None:
        """Take in what became of the copies on shared storage."""
        if note := copier.take_note():
            self.journal.note(note)
        if copier.lost and not self.stop.is_set():
            self.journal.note("shared storage says that another machine took this search over; this one ends")
            self.stop.set("another machine took it over")

    def raise_if_stopped(self) -> None:
        """End if somebody asked for it.

        Raises:
            Stopped: If so.
        """
        if self.stop.is_set():
            raise Stopped

    def on_stuck(self, who: str, seconds: float, stopped: str) -> None:
        """A trial, a baseline, the base or a final makes no progress; a process that stands still writes no stacks."""
        more = stopped or ("errors/ holds its stacks" if who.startswith("trial ") else "")
        self.journal.note(
            f"{who}: no progress for {seconds:.0f} s, half of search.trial_timeout_s{f'; {more}' if more else ''}"
        )

    def close_open_trials(self) -> None:
        """End the trials that have none yet."""
        for number in self.view.unfinished():
            self.journal.result(record_of(number, self.view.proposals[number], None))

    def open_tracker(self) -> None:
        """Let MLflow follow the journal."""
        from eed_search.tracking.mlflow_log import MlflowTracker

        self.journal.open_tracker(MlflowTracker(self.spec, self.home, self.view.name, self.view.uid))

    def keep_traceback(self, file: str, text: str) -> None:
        """Write what went wrong into a file in `errors/`."""
        write_atomic(self.folder / ERRORS_FOLDER / file, text.encode("utf-8", "backslashreplace"))
