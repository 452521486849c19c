"""The ledger: what happened in a search, in sequence, in one SQLite file that only the driver writes.

Everything else (report, MLflow, Optuna's study) can be made again from it. The file is that of
`ledger_file`: what was altered in it is found as it is read. `replay` folds the events into a `RunView`; order is by sequence number, never by a time stamp.

    run       name, settings, versions and where it all came from; once more with what was measured
    stage     a phase begins
    base      the dense base            control   a network trained from scratch
    proposal  a trial's parameters      attempt   a trial starts, or its worker was lost
    rivals    the points that a trial will be held against while it is attacked, as it is handed out
    report    a trial's measurements at a rung
    decision  what the scheduler made of them
    result    a trial's end             latency   a final latency, each time one was taken
    confirmed, fresh                    an attack at a swept threshold; a check on some of the fresh images
    look      who may belong to the frontier after all that was measured up to here (`core.contenders`)
    attack    what `eed-search attack` found on a point, when no driver was at work
    note      a line for the reader     tracker   how far MLflow has come
    request   a person asks to stop     resume    a driver takes the run up again
    end       the driver ends; a `resume` may follow
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eed_search import __version__
from eed_search.core.addresses import without_password
from eed_search.core.attack_records import READABLE, AttackResult
from eed_search.core.contenders import Look
from eed_search.core.errors import RunError
from eed_search.core.ledger_file import FILE_NAME, Event, EventKind, Ledger, is_lost, lost_error
from eed_search.core.moved import home_of_database, spec_now
from eed_search.core.params import ParamValue
from eed_search.core.records import FreshCheck, Latency, Measurement, Reference, StageUse, TrialRecord, from_json

__all__ = [
    "BUDGET",
    "FILE_NAME",
    "NO_RESULT",
    "PAUSE",
    "RESUME",
    "STOPPED",
    "Event",
    "EventKind",
    "Ledger",
    "RunView",
    "RungReport",
    "fold",
    "num_ended",
    "read_run",
    "replay",
]
What = Literal["proposal", "report", "resume", "result"]
PAUSE, RESUME = "pause", "resume"  # decisions: a trial waits at its rung; it goes on after all
STOPPED = "stopped"  # the reason of a trial that ended because its search was stopped
BUDGET = "budget"  # the reason of a trial that still waited at a rung when the search's time was over
NO_RESULT = frozenset({STOPPED, BUDGET})  # ends that say nothing about the trial: a resume may take them back


@dataclass(frozen=True)
class RungReport:
    """What a trial measured on its way, at one rung.

    Attributes:
        rung: Counts from 0.
        metrics: By name, finite.
        decision: What was made of it: `continue`, `pause`, or `resume` once it went on; empty before.
        robust_hex: Which of the images stayed right under attack, as `pack_bits` writes it.
        num_samples: How many images that were.
        stages: Every stage used on the way here from the rung before, in order.
        seconds: Wall-clock time of that.
    """

    rung: int
    metrics: dict[str, float]
    decision: str = ""
    robust_hex: str = ""
    num_samples: int = 0
    stages: tuple[StageUse, ...] = ()
    seconds: float = 0.0


@dataclass
class RunView:
    """A search as its ledger tells it.

    Attributes:
        name: The run's name.
        uid: Names the run everywhere, in other homes and on shared servers too.
        spec: Its search-space file with every default filled in.
        home: The home that this file's paths were written in; empty where nobody knows.
        facts: Versions, machine, command, reference latency: what the run wrote down at its start.
        origin: SHA-256 of what it was made from, by file: `code` and `data`.
        state: `running` until an `end` event says `finished`, `stopped`, `failed` or `cancelled`;
            running again after a `resume`.
        reason: Why it ended, where that needs a word.
        stage: The phase that began last.
        base: The dense base.
        controls: Networks trained from scratch.
        proposals: Parameters by trial number.
        drawn: What Optuna drew for them, under its own names.
        attempts: How often a trial was started, by number.
        losses: How often its worker was lost, by number.
        reports: What trials measured on their way, by number.
        rivals: Ids of the points that a trial is held against image by image, by number.
        trials: Finished trials by number.
        history: Proposals, reports, resumptions and ends of trials in their order, with their numbers.
        latencies: Last final latencies by point id, reference name included: they replace the search's.
        timings: All final latencies by the same, in order.
        confirmed: Measurements by point id of swept thresholds that an attack has confirmed.
        proposed_before: How many trials had been proposed when each was confirmed, by point id.
        fresh: Checks on fresh images that chose nothing, by point id, reference name included.
        slices: Checks on those that chose, by point id and first image.
        looks: Who belongs to the frontier, decision by decision; empty again once another trial ends.
        attacks: What `eed-search attack` found, by point id, reference name included, in order.
        notes: Lines for the reader, each once; what of the store had to be made again is among them.
        requests: What persons asked for, in order: `stop`, `cancel`.
        tracker: What the tracker wrote back: MLflow run ids, and `cursor`, the last event it shows.
        num_resumes: How often a driver took the run up again.
        num_events: The last event's sequence number.
        started_at: When the first event was written, in seconds since 1970.
        last_at: When the last one was.
        seconds: While a driver was at work: from event to event, without the time before a `resume`.
    """

    name: str = ""
    uid: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    home: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, dict[str, str]] = field(default_factory=dict)
    state: str = "running"
    reason: str = ""
    stage: str = ""
    base: Reference | None = None
    controls: list[Reference] = field(default_factory=list)
    proposals: dict[int, dict[str, ParamValue]] = field(default_factory=dict)
    drawn: dict[int, dict[str, ParamValue]] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    losses: dict[int, int] = field(default_factory=dict)
    reports: dict[int, list[RungReport]] = field(default_factory=dict)
    rivals: dict[int, tuple[str, ...]] = field(default_factory=dict)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    history: list[tuple[What, int]] = field(default_factory=list)
    latencies: dict[str, Latency] = field(default_factory=dict)
    confirmed: dict[str, Measurement] = field(default_factory=dict)
    proposed_before: dict[str, int] = field(default_factory=dict)
    timings: dict[str, list[Latency]] = field(default_factory=dict)
    fresh: dict[str, FreshCheck] = field(default_factory=dict)
    slices: dict[str, dict[int, FreshCheck]] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    attacks: dict[str, list[AttackResult]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tracker: dict[str, Any] = field(default_factory=dict)
    num_resumes: int = 0
    num_events: int = 0
    started_at: float | None = None
    last_at: float | None = None
    seconds: float = 0.0

    def num_trials(self) -> dict[str, int]:
        """Count trials by state.

        Those proposed and not finished are `running`, or `paused` where there are any. Those whose end says nothing
        about them are not `pruned` but `stopped` or `out_of_time`, where there are any: a resume goes on with them.
        """
        nothing_said = {"stopped": self.stopped_trials(), "out_of_time": self.out_of_time()}
        passed_over = {number for numbers in nothing_said.values() for number in numbers}
        counts = Counter(str(trial.outcome) for number, trial in self.trials.items() if number not in passed_over)
        states = ("done", "infeasible", "pruned", "failed")
        num_paused, num_open = len(self.paused()), len(self.unfinished())
        odd = {"paused": num_paused} | {state: len(numbers) for state, numbers in nothing_said.items()}
        return {
            **{state: counts[state] for state in states},
            "running": num_open - num_paused,
            **{state: number for state, number in odd.items() if number},
        }

    def paused(self) -> list[int]:
        """Number the trials that wait at a rung, oldest first."""
        return [n for n in self.unfinished() if (reports := self.reports.get(n)) and reports[-1].decision == PAUSE]

    def unfinished(self) -> list[int]:
        """Number the trials that were proposed and have not come to their end, oldest first."""
        return sorted(self.proposals.keys() - self.trials.keys())

    def stopped_trials(self) -> list[int]:
        """Number the trials that ended only because the search was stopped: a resume runs them again."""
        return self._pruned(STOPPED)

    def out_of_time(self) -> list[int]:
        """Number the trials that still waited when the time budget was over: a resume with more time goes on with them."""
        return self._pruned(BUDGET)

    def without_result(self) -> list[int]:
        """Number the trials whose end says nothing about them: stopped, or out of time."""
        return sorted([*self.stopped_trials(), *self.out_of_time()])

    def _pruned(self, reason: str) -> list[int]:
        return sorted(n for n, trial in self.trials.items() if (trial.outcome, trial.reason) == ("pruned", reason))

    def stage_counts(self) -> dict[str, tuple[int, int]]:
        """Count (computed, reused) by stage over all finished trials."""
        counts: dict[str, list[int]] = {}
        for trial in self.trials.values():
            for use in trial.stages:
                counts.setdefault(use.stage.partition(".")[0], [0, 0])[int(use.hit)] += 1
        return {stage: (made, reused) for stage, (made, reused) in counts.items()}


def num_ended(counts: Mapping[str, int]) -> int:
    """Count the trials that have come to their end, from `RunView.num_trials`: none under way, none that a resume goes on with."""
    return sum(number for state, number in counts.items() if state not in _OPEN)


_OPEN = frozenset({"running", "paused", "stopped", "out_of_time"})


def fold(view: RunView, event: Event) -> None:
    """Bring a view up to date with the next event; kinds that say nothing about the run are passed over."""
    if view.started_at is None:
        view.started_at = event.at
    # no driver was at work before these, nor after an end
    elif view.state == "running" and not (event.kind == "resume" or event.data.get("offline")):
        view.seconds += max(0.0, event.at - (view.last_at or event.at))
    view.last_at = event.at
    view.num_events = event.seq
    if (how := _FOLDS.get(event.kind)) is not None:
        how(view, event.data, -1 if event.trial is None else event.trial)


def _fold_run(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.name, view.spec, view.facts = data["name"], without_password(data["spec"]), data.get("facts", {})
    view.home = data.get("home", view.home)
    view.uid = data.get("uid", view.uid)
    view.origin = data.get("origin", view.origin)


def _fold_stage(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.stage = data["text"]


def _fold_base(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.base = from_json(Reference, data)
    _remember(view, view.base.remade)


def _fold_control(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.controls.append(from_json(Reference, data))
    _remember(view, view.controls[-1].remade)


def _fold_proposal(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.proposals[trial] = data["params"]
    view.drawn[trial] = data.get("drawn", data["params"])
    view.history.append(("proposal", trial))


def _fold_attempt(view: RunView, data: dict[str, Any], trial: int) -> None:
    if data["state"] == "lost":
        view.losses[trial] = view.losses.get(trial, 0) + 1
    else:
        view.attempts[trial] = data["attempt"]


def _fold_rivals(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.rivals[trial] = tuple(data["points"])


def _fold_report(view: RunView, data: dict[str, Any], trial: int) -> None:
    stages = tuple(from_json(StageUse, use) for use in data.get("stages", ()))
    report = RungReport(
        data["rung"],
        data["metrics"],
        robust_hex=data.get("robust_hex", ""),
        num_samples=data.get("num_samples", 0),
        stages=stages,
        seconds=data.get("seconds", 0.0),
    )
    view.reports.setdefault(trial, []).append(report)
    _remember(view, [use.altered for use in stages])
    view.history.append(("report", trial))


def _fold_decision(view: RunView, data: dict[str, Any], trial: int) -> None:
    for i, report in enumerate(reports := view.reports.get(trial, [])):
        if report.rung == data["rung"]:
            reports[i] = replace(report, decision=data["decision"])
    if data["decision"] == RESUME:
        view.history.append(("resume", trial))


def _fold_result(view: RunView, data: dict[str, Any], trial: int) -> None:
    record = from_json(TrialRecord, data)
    view.trials[record.number] = record
    view.history.append(("result", record.number))
    view.looks = []  # it may be better than those who were chosen
    _remember(view, record.remade)


def _fold_latency(view: RunView, data: dict[str, Any], trial: int) -> None:
    found = from_json(Latency, data["latency"])
    view.latencies[data["id"]] = found
    view.timings.setdefault(data["id"], []).append(found)
    _remember(view, found.remade)


def _fold_confirmed(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.confirmed[data["id"]] = from_json(Measurement, data["measurement"])
    view.proposed_before[data["id"]] = len(view.proposals)
    _remember(view, view.confirmed[data["id"]].remade)


def _fold_fresh(view: RunView, data: dict[str, Any], trial: int) -> None:
    check = from_json(FreshCheck, data["check"])
    _remember(view, check.remade)
    if (first := data.get("chose_from")) is None:
        view.fresh[data["id"]] = check
    else:
        view.slices.setdefault(data["id"], {})[first] = check


def _fold_look(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.looks.append(from_json(Look, data))


def _fold_attack(view: RunView, data: dict[str, Any], trial: int) -> None:
    if data["result"]["schema_version"] in READABLE:  # one of another version says other things
        view.attacks.setdefault(data["id"], []).append(from_json(AttackResult, data["result"]))


def _fold_note(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.notes.append(data["text"])


def _remember(view: RunView, lines: Iterable[str]) -> None:
    """Keep what a record says of the store among the notes."""
    view.notes += [line for line in dict.fromkeys(lines) if line and line not in view.notes]


def _fold_tracker(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.tracker.update(data)
    if not view.home:  # an earlier version's: the home's own database lies in it
        view.home = home_of_database(str(data.get("uri", "")))


def _fold_request(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.requests.append(data["what"])


def _fold_resume(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.state, view.reason = "running", ""
    view.num_resumes += 1
    view.facts = {**view.facts, **data.get("facts", {})}
    if "spec" in data:
        view.spec, view.home = without_password(data["spec"]), data.get("home", view.home)
    view.origin = data.get("origin", view.origin)
    again = set(data.get("reopened", ()))
    for number in again:
        view.trials.pop(number, None)
    view.history = [(what, number) for what, number in view.history if what != "result" or number not in again]


def _fold_end(view: RunView, data: dict[str, Any], trial: int) -> None:
    view.state, view.reason = data["state"], data.get("reason", "")


_FOLDS: dict[str, Callable[[RunView, dict[str, Any], int], None]] = {
    "run": _fold_run,
    "stage": _fold_stage,
    "base": _fold_base,
    "control": _fold_control,
    "proposal": _fold_proposal,
    "attempt": _fold_attempt,
    "rivals": _fold_rivals,
    "report": _fold_report,
    "decision": _fold_decision,
    "result": _fold_result,
    "latency": _fold_latency,
    "confirmed": _fold_confirmed,
    "fresh": _fold_fresh,
    "look": _fold_look,
    "attack": _fold_attack,
    "note": _fold_note,
    "tracker": _fold_tracker,
    "request": _fold_request,
    "resume": _fold_resume,
    "end": _fold_end,
}


def replay(events: Iterator[Event]) -> RunView:
    """Fold events, in sequence, into the view of a run."""
    view = RunView()
    for event in events:
        fold(view, event)
    return view


def read_run(folder: Path) -> RunView:
    """Read a run's folder.

    Raises:
        RunError: If there is no ledger in it, or it is damaged.
    """
    path = folder / FILE_NAME
    if is_lost(path):
        raise lost_error(path)
    if not path.is_file():
        raise RunError(
            f"{folder}: holds no search (no {FILE_NAME}); list the home's folders or name another RUN or --home"
        )
    view = RunView()
    with Ledger(path) as ledger:
        for event in ledger.events():
            try:
                fold(view, event)
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(
                    f"{path}: event {event.seq} ({event.kind}) is not of the form that eed-search {__version__} reads;"
                    " read it with the version that wrote it, or restore it from a copy"
                ) from error
    view.spec = spec_now(view.spec, view.home, folder.parent)
    return view
