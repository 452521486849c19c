"""What a search tells whoever watches it: the command line prints it, tests collect it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from eed_search.runs.data_facts import DataFacts
from eed_search.runs.ledger import RungRecord, RunView
from eed_search.runs.records import Reference, TrialRecord


@dataclass(frozen=True)
class Status:
    """How far a search is.

    Attributes:
        seconds: Since the search was started.
        stages: What is being done now, by who does it: `dense base`, `control 50 %`, `trial 7`.
        counts: Trials by state, as `RunView.num_trials` gives them.
        num_trials: Trials that the search will run in all, unless its time ends first.
        eta_s: Seconds that the remaining trials should take, from the finished ones; none before
            the first trial has finished. Without the final latencies, which come after the trials.
    """

    seconds: float
    stages: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    num_trials: int = 0
    eta_s: float | None = None


class Listener(Protocol):
    """Called from the driver's main thread only, in the order in which things happen.

    `on_stage` opens each phase; `on_data` comes once the images are read, `on_base` once, before every `on_baseline` and
    `on_result`; `on_tick` comes about once a second for as long as the search runs. An exception ends the search.
    """

    def on_stage(self, text: str) -> None:
        """A phase of the search begins."""

    def on_data(self, facts: DataFacts) -> None:
        """The images are read."""

    def on_note(self, text: str) -> None:
        """Something that a reader of the result should know, or that is waited for."""

    def on_base(self, base: Reference) -> None:
        """The dense base is trained and measured."""

    def on_baseline(self, baseline: Reference) -> None:
        """A baseline is trained and measured."""

    def on_rung(self, number: int, report: RungRecord, view: RunView) -> None:
        """A trial came to a rung; whether it goes on is decided."""

    def on_result(self, record: TrialRecord, view: RunView) -> None:
        """A trial came to its end; the view already holds it."""

    def on_tick(self, status: Status) -> None:
        """About a second has passed."""


class Silent:
    """A listener that does nothing: for callers who only want the view at the end."""

    def on_stage(self, text: str) -> None:
        """Do nothing."""

    def on_data(self, facts: DataFacts) -> None:
        """Do nothing."""

    def on_note(self, text: str) -> None:
        """Do nothing."""

    def on_base(self, base: Reference) -> None:
        """Do nothing."""

    def on_baseline(self, baseline: Reference) -> None:
        """Do nothing."""

    def on_rung(self, number: int, report: RungRecord, view: RunView) -> None:
        """Do nothing."""

    def on_result(self, record: TrialRecord, view: RunView) -> None:
        """Do nothing."""

    def on_tick(self, status: Status) -> None:
        """Do nothing."""
