"""What can happen in a search: one class for each kind of event, with what it changes in the run's view.

The ledger keeps an event as its kind, its trial and a JSON object (`ledger_file.Event`). Here alone is known which fields
each kind has: `to_row` writes them, `read_event` checks and reads them. Fields that an earlier version did not
write have defaults; a field that is none is not written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from eed_search.config.addresses import without_password
from eed_search.runs.attack_records import READABLE, AttackResult
from eed_search.runs.ledger_chain import Event, EventKind
from eed_search.runs.moved import home_of_database
from eed_search.runs.records import (
    FreshCheck,
    Latency,
    Measurement,
    Reference,
    TrialRecord,
    ValidationRound,
    from_json,
    to_json,
)
from eed_search.runs.run_view import RESUME, RungRecord, RunView
from eed_search.storage.store import StageUse

Row = tuple[EventKind, dict[str, Any], int | None]
"""Kind, JSON-ready data and trial of an event, as `Ledger.append` takes them."""


@dataclass(frozen=True)
class RunEvent(ABC):
    """Something that happened; each kind is a class below.

    Attributes:
        kind: The name that the ledger keeps.
        record: The field whose own JSON object is the whole of the data; empty where each field is a key.
    """

    kind: ClassVar[EventKind]
    record: ClassVar[str] = ""

    @abstractmethod
    def apply(self, view: RunView) -> None:
        """Bring a view up to date."""


@dataclass(frozen=True)
class RunDescribed(RunEvent):
    """The run's name, file, versions and origin; written again with what was measured of the base and the data."""

    kind = "run"
    name: str
    spec: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    home: str | None = None
    uid: str | None = None
    origin: dict[str, dict[str, str]] | None = None

    def apply(self, view: RunView) -> None:
        view.name, view.spec, view.facts = self.name, without_password(self.spec), self.facts
        view.home = view.home if self.home is None else self.home
        view.uid = view.uid if self.uid is None else self.uid
        view.origin = view.origin if self.origin is None else self.origin


@dataclass(frozen=True)
class StageBegan(RunEvent):
    """A phase of the search begins."""

    kind = "stage"
    text: str

    def apply(self, view: RunView) -> None:
        view.stage = self.text


@dataclass(frozen=True)
class BaseMeasured(RunEvent):
    """The dense base is trained and measured."""

    kind = "base"
    record = "reference"
    reference: Reference

    def apply(self, view: RunView) -> None:
        view.base = self.reference
        view.remember(self.reference.remade)


@dataclass(frozen=True)
class BaselineMeasured(RunEvent):
    """A network is trained from scratch and measured."""

    kind = "control"
    record = "reference"
    reference: Reference

    def apply(self, view: RunView) -> None:
        view.baselines.append(self.reference)
        view.remember(self.reference.remade)


@dataclass(frozen=True)
class TrialProposed(RunEvent):
    """A trial's parameters, and what Optuna drew for them under its own names."""

    kind = "proposal"
    trial: int
    params: dict[str, Any]
    drawn: dict[str, Any] | None = None

    def apply(self, view: RunView) -> None:
        view.proposals[self.trial] = self.params
        view.drawn[self.trial] = self.params if self.drawn is None else self.drawn
        view.history.append(("proposal", self.trial))


@dataclass(frozen=True)
class TrialAttempted(RunEvent):
    """A trial starts for the nth time (`started`), or its worker was lost (`lost`, with why)."""

    kind = "attempt"
    trial: int
    attempt: int
    state: str
    message: str | None = None

    def apply(self, view: RunView) -> None:
        if self.state == "lost":
            view.losses[self.trial] = view.losses.get(self.trial, 0) + 1
        else:
            view.attempts[self.trial] = self.attempt


@dataclass(frozen=True)
class IncumbentsNamed(RunEvent):
    """The points that a trial is held against, image by image."""

    kind = "rivals"
    trial: int
    points: tuple[str, ...]

    def apply(self, view: RunView) -> None:
        view.incumbents[self.trial] = self.points


@dataclass(frozen=True)
class RungReported(RunEvent):
    """What a trial measured at a rung."""

    kind = "report"
    trial: int
    rung: int
    metrics: dict[str, float]
    robust_hex: str = ""
    num_samples: int = 0
    stages: tuple[StageUse, ...] = ()
    seconds: float = 0.0

    def apply(self, view: RunView) -> None:
        report = RungRecord(
            self.rung,
            self.metrics,
            robust_hex=self.robust_hex,
            num_samples=self.num_samples,
            stages=self.stages,
            seconds=self.seconds,
        )
        view.reports.setdefault(self.trial, []).append(report)
        view.remember(use.altered for use in self.stages)
        view.history.append(("report", self.trial))


@dataclass(frozen=True)
class RungDecided(RunEvent):
    """What was made of a trial's report: it goes on, waits, or goes on after all."""

    kind = "decision"
    trial: int
    rung: int
    decision: str

    def apply(self, view: RunView) -> None:
        reports = view.reports.get(self.trial, [])
        reports[:] = [replace(one, decision=self.decision) if one.rung == self.rung else one for one in reports]
        if self.decision == RESUME:
            view.history.append(("resume", self.trial))


@dataclass(frozen=True)
class TrialEnded(RunEvent):
    """A trial's end."""

    kind = "result"
    record = "result"
    result: TrialRecord

    def apply(self, view: RunView) -> None:
        view.trials[self.result.number] = self.result
        view.history.append(("result", self.result.number))
        view.validation_rounds = []  # it may be better than those who were chosen
        view.remember(self.result.remade)


@dataclass(frozen=True)
class LatencyMeasured(RunEvent):
    """A final latency of a point, the base or a baseline."""

    kind = "latency"
    id: str
    latency: Latency

    def apply(self, view: RunView) -> None:
        view.latencies[self.id] = self.latency
        view.timings.setdefault(self.id, []).append(self.latency)
        view.remember(self.latency.remade)


@dataclass(frozen=True)
class ThresholdConfirmed(RunEvent):
    """An attack at a swept threshold."""

    kind = "confirmed"
    id: str
    measurement: Measurement

    def apply(self, view: RunView) -> None:
        view.confirmed[self.id] = self.measurement
        view.proposed_before[self.id] = len(view.proposals)
        view.remember(self.measurement.remade)


@dataclass(frozen=True)
class FreshChecked(RunEvent):
    """A check on fresh images; `chose_from` is the first of them where they help to choose the frontier."""

    kind = "fresh"
    id: str
    check: FreshCheck
    chose_from: int | None = None

    def apply(self, view: RunView) -> None:
        view.remember(self.check.remade)
        if self.chose_from is None:
            view.fresh[self.id] = self.check
        else:
            view.slices.setdefault(self.id, {})[self.chose_from] = self.check


@dataclass(frozen=True)
class RoundDecided(RunEvent):
    """Who may belong to the frontier after all that was measured up to here."""

    kind = "look"
    record = "look"
    look: ValidationRound

    def apply(self, view: RunView) -> None:
        view.validation_rounds.append(self.look)


@dataclass(frozen=True)
class Attacked(RunEvent):
    """What `eed-search attack` found on a point, when no driver was at work."""

    kind = "attack"
    id: str
    result: dict[str, Any]
    offline: bool = True

    def apply(self, view: RunView) -> None:
        if self.result["schema_version"] in READABLE:  # one of another version says other things
            view.attacks.setdefault(self.id, []).append(from_json(AttackResult, self.result))


@dataclass(frozen=True)
class Noted(RunEvent):
    """A line for the reader."""

    kind = "note"
    text: str

    def apply(self, view: RunView) -> None:
        view.notes.append(self.text)


@dataclass(frozen=True)
class Tracked(RunEvent):
    """How far MLflow has come: its address and ids, `cursor` (the last event that it shows), `complete`."""

    kind = "tracker"
    record = "facts"
    facts: dict[str, Any]

    def apply(self, view: RunView) -> None:
        view.tracker.update(self.facts)
        if not view.home:  # an earlier version's: the home's own database lies in it
            view.home = home_of_database(str(self.facts.get("uri", "")))


@dataclass(frozen=True)
class Requested(RunEvent):
    """A person asks to `stop` or to `cancel`; offline where no driver heard it."""

    kind = "request"
    what: str
    offline: bool | None = None

    def apply(self, view: RunView) -> None:
        view.requests.append(self.what)


@dataclass(frozen=True)
class Resumed(RunEvent):
    """A driver takes the run up again; trials that say nothing are open again, and changed settings replace the old."""

    kind = "resume"
    reopened: tuple[int, ...] = ()
    drift: tuple[str, ...] = ()
    command: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, dict[str, str]] | None = None
    spec: dict[str, Any] | None = None
    home: str | None = None

    def apply(self, view: RunView) -> None:
        view.state, view.reason = "running", ""
        view.num_resumes += 1
        view.facts = {**view.facts, **self.facts}
        if self.spec is not None:
            view.spec, view.home = without_password(self.spec), view.home if self.home is None else self.home
        view.origin = view.origin if self.origin is None else self.origin
        again = set(self.reopened)
        for number in again:
            view.trials.pop(number, None)
        view.history = [(what, number) for what, number in view.history if what != "result" or number not in again]


@dataclass(frozen=True)
class RunEnded(RunEvent):
    """The driver ends; a `resume` may follow."""

    kind = "end"
    state: str
    reason: str = ""

    def apply(self, view: RunView) -> None:
        view.state, view.reason = self.state, self.reason


KINDS: dict[str, type[RunEvent]] = {one.kind: one for one in RunEvent.__subclasses__()}
"""Every kind of event that a ledger may hold."""


def to_row(event: RunEvent) -> Row:
    """Write an event as the ledger keeps it."""
    if event.record:
        of_it = getattr(event, event.record)
        data = of_it if isinstance(of_it, dict) else to_json(of_it)
        return event.kind, data, of_it.number if isinstance(of_it, TrialRecord) else None
    data = to_json(event)
    trial = data.pop("trial", None)
    return event.kind, {key: value for key, value in data.items() if value is not None}, trial


def read_event(stored: Event) -> RunEvent:
    """Read an event of the ledger back; every field is checked.

    Raises:
        ValueError: If the kind is not known, or a field is missing or of another type.
    """
    if (kind := KINDS.get(stored.kind)) is None:
        raise ValueError(f"no such kind of event: {stored.kind}")
    data: dict[str, Any] = {kind.record: stored.data} if kind.record else {**stored.data}
    if stored.trial is not None and not kind.record:
        data["trial"] = stored.trial
    return from_json(kind, data)


def fold(view: RunView, stored: Event) -> None:
    """Bring a view up to date with the next event.

    Raises:
        ValueError: As `read_event` does.
    """
    event = read_event(stored)
    if view.started_at is None:
        view.started_at = stored.at
    # no driver was at work before these, nor after an end
    elif view.state == "running" and not (isinstance(event, Resumed) or getattr(event, "offline", False)):
        view.seconds += max(0.0, stored.at - (view.last_at or stored.at))
    view.last_at = stored.at
    view.num_events = stored.seq
    event.apply(view)
