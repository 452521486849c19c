"""A search in MLflow: it is a run, each trial, the dense base and each baseline a child of it.

Order of calls: `start`, then `deliver` for each event of the ledger and `flush` for some at a time, `finish` at the
end. MLflow is a view: every call may be repeated, by this process or by the next one after a kill. Each run carries the
search's `uid`, and each child its point; what is there is looked up before anything is created, and
what is half written is completed (`mlflow_runs`). `tracking.outbox` calls all this in the background.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from eed_search.config.spec import Spec
from eed_search.core.failpoints import fail_point
from eed_search.frontier.growth import Growth
from eed_search.frontier.points import measurement_of
from eed_search.runs.events import (
    Attacked,
    BaselineMeasured,
    BaseMeasured,
    FreshChecked,
    LatencyMeasured,
    Resumed,
    RoundDecided,
    RunDescribed,
    ThresholdConfirmed,
    TrialEnded,
    read_event,
)
from eed_search.runs.ledger import Event, RunView
from eed_search.runs.records import FreshCheck
from eed_search.tracking.mlflow_children import reference_child, trial_child
from eed_search.tracking.mlflow_facts import attack_facts, cost_metrics, latency_metrics, with_ends
from eed_search.tracking.mlflow_runs import SEARCH, Child, Runs, Step
from eed_search.tracking.mlflow_store import MlflowStore, cannot_be_used, home_uri, open_store
from eed_search.tracking.summary import RunSummary, summarise
from eed_search.tracking.text import flatten

State = Literal["finished", "stopped", "failed", "cancelled"]

SETTING = "setting."
_AT_A_TIME = 50  # events that are shown together
_END = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "cancelled": "KILLED"}


class MlflowTracker:
    """Writes one search to MLflow; raises whatever MLflow raises.

    Args:
        spec: The search's file.
        home: Where the default database and the artifacts lie.
        name: The search's name.
        uid: Names the search among all that ever wrote to this MLflow; its name by default.

    Attributes:
        uri: The tracking URI.
        taken_up: Whether `start` found the search in MLflow.
    """

    def __init__(self, spec: Spec, home: Path, name: str, uid: str = "") -> None:
        self.uri = spec.tracking.uri or home_uri(home)
        self.taken_up = False
        self._spec = spec
        self._home = home
        self._name = name
        self._uid = uid or name
        self._growth = Growth()
        self._waiting = _Waiting()
        self._store: MlflowStore | None = None
        self._its_runs: Runs | None = None

    @property
    def parent_run_id(self) -> str:
        """MLflow's id of the search; empty before `start`."""
        return self._its_runs.parent_id if self._its_runs else ""

    @property
    def num_calls(self) -> int:
        """Calls that MLflow has answered: shows whether it is alive."""
        return self._its_runs.num_calls if self._its_runs else 0

    # ------------------------------------------------------------ start

    def start(self, view: RunView) -> dict[str, str]:
        """Create the database and the search's run, or find them again after a resume.

        Args:
            view: The run's view; its facts become tags.

        Returns:
            Facts for the ledger: `uri`, `experiment_id`, `parent_run_id`.

        Raises:
            SpecError: If `tracking.uri` cannot be used.
            StoreError: If the home's own database cannot be made, or its server cannot be used.
        """
        self._store = store = open_store(self._spec.tracking, self._home, self._name)
        settings = flatten(self._spec.to_plain())
        try:
            self._its_runs = runs = Runs(
                store,
                SEARCH,
                self._uid,
                common={"search": self._name} | {SETTING + key: value for key, value in settings.items()},
            )
            self.taken_up = runs.find_parent(view.tracker.get("parent_run_id", ""))
            if not self.taken_up:
                tags = {"search": self._name, "state": "running", **_fact_tags(view)}
                runs.make_parent(self._name, tags, settings)
        except Exception as error:
            raise cannot_be_used(self._spec.tracking, self._home, store.uri, error) from error
        return {"uri": self.uri, "experiment_id": store.experiment_id, "parent_run_id": self.parent_run_id}

    # ------------------------------------------------------------ while the search runs

    def deliver(self, event: Event, view: RunView) -> None:
        """Take in one event of the ledger for the next `flush`; kinds that MLflow has no place for are passed over.

        Args:
            event: The event.
            view: The run up to it, itself included.
        """
        told, at = self._waiting, event.at
        match read_event(event):
            case RunDescribed() | Resumed():
                told.log("", tags=_fact_tags(view), at=at)
            case BaseMeasured(reference):
                told.put(reference_child(reference, "base", at))
            case BaselineMeasured(reference):
                told.put(reference_child(reference, "baseline", at))
            case TrialEnded(record):
                told.put(trial_child(view.trials[record.number], self._spec, at))
                told.steps.append((at, len(view.trials), self._progress(view)))
            case LatencyMeasured(id_):
                told.log(id_, **_final_latency(id_, view), step=1, at=at)
            case ThresholdConfirmed(id_):
                told.put(self._swept(id_, view, at))
            case RoundDecided(look):
                for point, sure in look.probability.items():
                    told.log(point, metrics={"front_probability": sure}, step=look.number, at=at)
            case FreshChecked(id_, check, None):
                told.log(id_, metrics=_fresh(check), at=at)
            case Attacked(id_):
                for result in view.attacks.get(id_, [])[-1:]:
                    metrics, tags = attack_facts(result)
                    told.log(id_, metrics=metrics, tags=tags, at=at)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that a `flush` is due."""
        return len(self._waiting.children) + len(self._waiting.logs) >= _AT_A_TIME

    def flush(self) -> None:
        """Show the events that wait; what fails waits on, and may be shown twice without harm."""
        told = self._waiting
        self._runs.put(told.children)
        told.children = []
        while told.logs:
            point, what = told.logs[0]
            self._runs.log(point, **what)
            del told.logs[0]
        self._runs.log_steps(told.steps)
        told.steps = []

    def _swept(self, point: str, view: RunView, at: float) -> Child:
        """Show a confirmed swept threshold as a run beside its trial's own."""
        number, _, place = point.partition(".")
        trial = view.trials[int(number)]
        params = trial.params | {"gate_threshold": trial.swept[int(place) - 1].gate_threshold}
        record = replace(trial, params=params, measurement=view.confirmed[point], seconds=0.0)
        return trial_child(record, self._spec, at, point)

    def _progress(self, view: RunView) -> dict[str, float]:
        """Say how far the search is."""
        metrics: dict[str, float] = {"num_done": view.num_trials()["done"]}
        if view.base is not None and "num_classes" in view.facts:
            volume, size = self._growth.now(view)
            metrics |= {"hypervolume": volume, "frontier_size": size}
        return metrics

    # ------------------------------------------------------------ end

    def finish(self, view: RunView, report_folder: Path | None, state: State) -> None:
        """Write what was missed, mark the frontier, attach the report and close every run.

        Safe to call again: nothing is doubled.

        Args:
            view: The run as the ledger tells it, final latencies included.
            report_folder: Where the report was written; none if there is none.
            state: How the search ended.

        Raises:
            Exception: The first that MLflow raised, after all has been tried.
        """
        summary = cache(lambda: summarise(view))  # in the steps that need it, whose failure leaves the others alone
        steps: tuple[Callable[[], None], ...] = (
            lambda: self._catch_up(view),
            lambda: self._mark(summary()),
            lambda: self._summary(summary()),
            lambda: self._attach(report_folder),
            lambda: self._close(state),
        )
        errors = []
        for step in steps:  # each on its own, so that one failure leaves no run open
            try:
                step()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Close the files of the home's own database, so that one file holds all of it."""
        if self._store:
            self._store.close()

    def _catch_up(self, view: RunView) -> None:
        self._runs.look_up()
        self.flush()
        at = time.time() if view.last_at is None else view.last_at
        lacks = [
            *([view.base] if view.base is not None and not self._runs.is_complete(view.base.name) else []),
            *(baseline for baseline in view.baselines if not self._runs.is_complete(baseline.name)),
        ]
        self._runs.put(reference_child(one, "base" if one is view.base else "baseline", at) for one in lacks)
        records = [one for one in view.trials.values() if not self._runs.is_complete(f"{one.number}.0")]
        self._runs.put(trial_child(record, self._spec, at) for record in records)
        points = [point for point in view.confirmed if not self._runs.is_complete(point)]
        self._runs.put(self._swept(point, view, at) for point in points)
        for point, results in view.attacks.items():
            for metrics, tags in map(attack_facts, results):
                self._runs.log(point, metrics=metrics, tags=tags, at=at)

    def _attach(self, folder: Path | None) -> None:
        for path in sorted(folder.iterdir()) if folder and folder.is_dir() else ():
            if path.suffix in (".html", ".csv", ".json"):
                self._runs.attach(path, "report")

    def _mark(self, summary: RunSummary) -> None:
        view, found = summary.view, summary.frontier
        place = {point.id: "yes" for point in found.front} | {point.id: "uncertain" for point in found.uncertain}
        points = [f"{number}.0" for number in view.trials] + list(view.confirmed)
        self._runs.mark({point: place.get(point, "no") for point in points})
        for point, gain in summary.gains.items():
            metrics = with_ends("difference_to_base", gain.difference) | {"difference_to_base_num": gain.num_images}
            self._runs.log(point, metrics=metrics, tags={"difference_to_base_on": gain.source}, at=view.last_at)

    def _summary(self, summary: RunSummary) -> None:
        view, verdict = summary.view, summary.verdict
        counts = view.num_trials()
        lines = [verdict.text, *(f"- {comparison.text}" for comparison in verdict.comparisons), "", *view.notes]
        tags = {
            "mlflow.note.content": "\n".join(lines),
            "verdict": verdict.text,
            **{f"num_{outcome}": count for outcome, count in counts.items()},
        }
        self._runs.log("", tags=tags)
        at = time.time() if view.last_at is None else view.last_at
        self._runs.log_steps([(at, len(view.trials), self._progress(view))])

    def _close(self, state: State) -> None:
        fail_point("tracker.close")
        self._runs.end_open()
        self._runs.end_parent(_END[state], state)

    # ------------------------------------------------------------ MLflow itself

    @property
    def _runs(self) -> Runs:
        assert self._its_runs is not None, "start comes first"
        return self._its_runs


@dataclass
class _Waiting:
    """What is to be shown next.

    Attributes:
        children: Runs below the search's own.
        logs: Further facts by point; without a point, of the search's own run.
        steps: How far the search was.
    """

    children: list[Child] = field(default_factory=list)
    logs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def put(self, child: Child) -> None:
        self.children.append(child)

    def log(self, point: str, **what: Any) -> None:
        self.logs.append((point, what))


def _final_latency(point: str, view: RunView) -> dict[str, Any]:
    """Give what replaces a point's latency of the search; at step 1 MLflow shows it, and keeps the search's own at 0."""
    latency, measured = view.latencies[point], measurement_of(view, point)
    metrics = latency_metrics(latency) | (cost_metrics(measured) if measured else {})
    return {"metrics": metrics, "tags": {"latency_method": latency.method}}


def _fresh(check: FreshCheck) -> dict[str, float | None]:
    return with_ends("robust_accuracy_fresh", check.robust_accuracy) | with_ends(
        "clean_accuracy_fresh", check.clean_accuracy
    )


def _fact_tags(view: RunView) -> dict[str, Any]:
    return {f"fact.{key}": value for key, value in flatten(view.facts).items()}
