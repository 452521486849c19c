"""The one door to MLflow: a search is a run, each trial, the dense base and each control a child of it.

Order of calls: `start`, then `deliver` for each event of the ledger, `finish` at the end. MLflow is a
view: every call may be repeated, by this process or by the next one after a kill. Each run carries the
search's `uid`, and each child its point; what is there is looked up before anything is created, and
what is half written is completed. `tracking.outbox` calls all this in the background.
"""

from __future__ import annotations

import logging
import math
import os
import time
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from eed_search.core.addresses import without_passwords
from eed_search.core.attack_records import AttackResult
from eed_search.core.contenders import Look
from eed_search.core.errors import EedSearchError, RunError, SpecError, StoreError
from eed_search.core.failpoints import fail_point
from eed_search.core.home import check_home
from eed_search.core.ledger import NO_RESULT, Event, RunView
from eed_search.core.loopback import past_proxies, urlopen
from eed_search.core.machine_faults import is_full_disk
from eed_search.core.modes import make_common_file, make_common_folder
from eed_search.core.params import ParamValue
from eed_search.core.points import frontier, measurement_of, run_hypervolume
from eed_search.core.records import (
    FreshCheck,
    Latency,
    Measurement,
    Reference,
    TrialRecord,
    from_json,
)
from eed_search.core.reported import standing
from eed_search.core.spec import Choice, Range, Spec
from eed_search.core.testimony import gains_over_base
from eed_search.core.texts import as_utf8
from eed_search.tracking.mlflow_facts import attack_facts, cost_metrics, with_ends
from eed_search.tracking.moved import own_note, settle
from eed_search.tracking.server import NOTE_NAME, is_healthy
from eed_search.tracking.text import flatten, team_title
from eed_search.tracking.verdict import judge

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ReferenceKind = Literal["base", "control"]
State = Literal["finished", "stopped", "failed", "cancelled"]

PARENT_TAG = "mlflow.parentRunId"
UID_TAG = "search_uid"
SETTING = "setting."
_MAX_TEXT = 5000  # servers older than ours refuse longer tags
_MAX_BATCH = 100  # parameters or tags in one call
_STATUS = {"done": "FINISHED", "infeasible": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_END = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "cancelled": "KILLED"}


def database_uri(home: Path) -> str:
    """Name the home's own MLflow database; absolute, because workers run in other folders.

    Raises:
        SpecError: If the address would mean another file.
    """
    return f"sqlite:///{check_home(home).resolve() / 'mlflow.db'}"


def artifact_folder(home: Path) -> Path:
    """Name the folder of MLflow's artifacts."""
    return home.resolve() / "mlartifacts"


def home_uri(home: Path) -> str:
    """Name where a home's searches are tracked: by the server started for it, else in its own database.

    Raises:
        RunError: If the server keeps its data elsewhere and does not answer; nothing is split in two.
    """
    own = database_uri(home)
    note = own_note(home)
    if note is None:
        return own
    if is_healthy(note.url):
        return note.url
    if note.database == own:
        return own
    raise RunError(
        f"{home / NOTE_NAME}: MLflow's server at {note.url}, which serves this home, does not answer; start it again:"
        f" eed-search mlflow-server --background --home {home} --database '{note.database}'; or remove that file, and"
        " MLflow's data lie under the home from now on"
    )


def quiet_mlflow() -> None:
    """Turn MLflow's telemetry and its chatter off, and let it go to loopback itself; call before MLflow is imported."""
    past_proxies()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # A server that died would otherwise hold the search for four minutes at each call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def connect(uri: str) -> MlflowClient:
    """Open a tracking store without touching MLflow's global state.

    Raises:
        Exception: Whatever MLflow raises for a wrong URI.
    """
    quiet_mlflow()
    from mlflow import MlflowClient

    # MLflow sets its loggers' levels when it is imported.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # the SQL of each call that failed
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


class MlflowTracker:
    """Writes one search to MLflow; raises whatever MLflow raises.

    Args:
        spec: The search's file.
        home: Where the default database and the artifacts lie.
        name: The search's name.
        uid: Names the search among all that ever wrote to this MLflow; its name by default.

    Attributes:
        uri: The tracking URI.
        parent_run_id: MLflow's id of the search; empty before `start`.
        taken_up: Whether `start` found the search in MLflow.
        num_calls: Calls that MLflow has answered: shows whether it is alive.
    """

    def __init__(self, spec: Spec, home: Path, name: str, uid: str = "") -> None:
        self.uri = spec.tracking.uri or home_uri(home)
        self.parent_run_id = ""
        self.taken_up = False
        self.num_calls = 0
        self._spec = spec
        self._home = home
        self._name = name
        self._uid = uid or name
        self._experiment_id = ""
        self._children: dict[str, str] = {}  # point id or reference's name → run id
        self._complete: set[str] = set()
        self._unsure = False  # whether MLflow may hold a run that is not in `_children`
        self._mlflow: MlflowClient | None = None

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
        try:
            if self.uri == database_uri(self._home):
                make_common_folder(artifact_folder(self._home))
                make_database(self._home, self._name)
                settle(self._home)
            else:
                _reach(self.uri)
            self._mlflow = connect(self.uri)
            self._experiment_id = self._experiment(self._spec.tracking.experiment)
            self._look_up()
            self.taken_up = bool(self.parent_run_id)
            if self.taken_up:
                self._client.update_run(self.parent_run_id, status="RUNNING")
                self._client.set_tag(self.parent_run_id, "state", "running")
            else:
                self.parent_run_id = self._create_parent(view)
        except EedSearchError:
            raise
        except Exception as error:
            raise self._start_error(error) from error
        return {"uri": self.uri, "experiment_id": self._experiment_id, "parent_run_id": self.parent_run_id}

    def _start_error(self, error: Exception) -> EedSearchError:
        if self._spec.tracking.uri:
            return SpecError(
                [
                    f"tracking.uri: {self.uri}: cannot be used ({one_line(error)}); allowed: a server such as"
                    " http://127.0.0.1:5000, or a database such as sqlite:////absolute/mlflow.db;"
                    " leave it out for a database under the home"
                ]
            )
        if self.uri != database_uri(self._home):
            return StoreError(
                f"{self._home / NOTE_NAME}: MLflow's server at {self.uri} cannot be used ({one_line(error)});"
                " start it again: eed-search mlflow-server"
            )
        fix = (
            "make room, or choose another --home"
            if is_full_disk(error)
            else "choose another --home, or move the file away"
        )
        return StoreError(f"{self._home / 'mlflow.db'}: MLflow's database cannot be used ({one_line(error)}); {fix}")

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                raise SpecError(
                    [f"tracking.experiment: {name!r} was deleted in MLflow; restore it there or take another name"]
                )
            return str(found.experiment_id)
        remote = urlsplit(self.uri).scheme in ("http", "https", "databricks", "uc")
        where = None if remote else artifact_folder(self._home).as_uri()
        # The tag makes MLflow's pages open in their mode for training runs.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(self._client.create_experiment(name, artifact_location=where, tags=tags))
        except Exception:
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)  # another search was first

    def _look_up(self) -> None:
        """Find what MLflow holds of this search, so that nothing is doubled."""
        for run in self._search(f"tags.`{UID_TAG}` = '{self._uid}'"):
            tags = run.data.tags
            if tags.get("kind") == "search":
                self.parent_run_id = run.info.run_id
            elif point := tags.get("point"):
                self._children[point] = run.info.run_id
                # A trial that only ended because the search was stopped, or was out of time, may have run again since.
                if run.info.status != "RUNNING" and tags.get("reason") not in NO_RESULT:
                    self._complete.add(point)
        self._unsure = False

    def _create_parent(self, view: RunView) -> str:
        tags = {"kind": "search", "search": self._name, UID_TAG: self._uid, "state": "running", **_fact_tags(view)}
        fail_point("tracker.create")
        run = self._client.create_run(self._experiment_id, tags=_texts(tags), run_name=self._name)
        fail_point("tracker.created")
        self._log(run.info.run_id, params=self._settings())
        return str(run.info.run_id)

    def _settings(self) -> dict[str, Any]:
        return flatten(self._spec.to_plain())

    # ------------------------------------------------------------ while the search runs

    def deliver(self, event: Event, view: RunView) -> None:
        """Show one event of the ledger; kinds that MLflow has no place for are passed over.

        Args:
            event: The event.
            view: The run up to it, itself included.
        """
        if event.kind in ("run", "resume"):
            self._log(self.parent_run_id, tags=_fact_tags(view), at=event.at)
        elif event.kind == "base" and view.base is not None:
            self._reference(view.base, "base", event.at)
        elif event.kind == "control":
            self._reference(view.controls[-1], "control", event.at)
        elif event.kind == "result" and event.trial in view.trials:
            self._trial(view.trials[event.trial], event.at)
            self._progress(view, event.at)
        elif event.kind == "latency":
            self._final_latency(event.data["id"], view, event.at)
        elif event.kind == "confirmed":
            self._swept(event.data["id"], view, event.at)
        elif event.kind == "look":
            self._look(from_json(Look, event.data), event.at)
        elif event.kind == "fresh" and "chose_from" not in event.data:
            self._fresh(event.data["id"], view.fresh[event.data["id"]], event.at)
        elif event.kind == "attack":
            self._attacked(event.data["id"], view.attacks.get(event.data["id"], [])[-1:], event.at)

    def _attacked(self, point: str, results: Sequence[AttackResult], at: float) -> None:
        """Show what `eed-search attack` found on a point; the names say the badge, so that badges never mix."""
        if run_id := self._children.get(point):
            for result in results:
                metrics, tags = attack_facts(result)
                self._log(run_id, metrics=metrics, tags=tags, at=at)

    def _swept(self, point: str, view: RunView, at: float) -> None:
        """Show a confirmed swept threshold as a run beside its trial's own."""
        number, _, place = point.partition(".")
        trial = view.trials[int(number)]
        params = trial.params | {"gate_threshold": trial.swept[int(place) - 1].gate_threshold}
        self._trial(replace(trial, params=params, measurement=view.confirmed[point], seconds=0.0), at, point)

    def _fresh(self, point: str, check: FreshCheck, at: float) -> None:
        if run_id := self._children.get(point):
            metrics = with_ends("robust_accuracy_fresh", check.robust_accuracy)
            metrics |= with_ends("clean_accuracy_fresh", check.clean_accuracy)
            self._log(run_id, metrics=metrics, at=at)

    def _look(self, look: Look, at: float) -> None:
        """Show how sure each contender's place on the frontier is after a look, the look's number as the step."""
        for point, sure in look.probability.items():
            if run_id := self._children.get(point):
                self._log(run_id, metrics={"front_probability": sure}, step=look.number, at=at)

    def _final_latency(self, point: str, view: RunView, at: float) -> None:
        latency, measured = view.latencies[point], measurement_of(view, point)
        if run_id := self._children.get(point):
            # Step 1, so that MLflow shows the final latency and keeps the search's own at step 0.
            tags = {"latency_method": latency.method}
            metrics = _latency_metrics(latency) | (cost_metrics(measured) if measured else {})
            self._log(run_id, metrics=metrics, tags=tags, step=1, at=at)

    def _progress(self, view: RunView, at: float) -> None:
        """Write how far the search is, as metrics of the search's run over time."""
        metrics: dict[str, float] = {"num_done": view.num_trials()["done"]}
        if view.base is not None and "num_classes" in view.facts:
            metrics |= {"hypervolume": run_hypervolume(view), "frontier_size": len(frontier(view))}
        self._log(self.parent_run_id, metrics=metrics, step=len(view.trials), at=at)

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
        steps: tuple[Callable[[], None], ...] = (
            lambda: self._catch_up(view),
            lambda: self._mark(view),
            lambda: self._summary(view),
            lambda: self._attach(report_folder),
            lambda: self._close(state),
        )
        errors = []
        for step in steps:  # each on its own, so that one failure leaves no run open
            try:
                step()
            except Exception as error:
                self._unsure = True
                errors.append(error)
        if errors:
            raise errors[0]

    def _catch_up(self, view: RunView) -> None:
        at = time.time() if view.last_at is None else view.last_at
        if view.base is not None:
            self._reference(view.base, "base", at)
        for control in view.controls:
            self._reference(control, "control", at)
        for record in view.trials.values():
            self._trial(record, at)
        for point in view.confirmed:
            self._swept(point, view, at)
        for point, results in view.attacks.items():
            self._attacked(point, results, at)

    def _attach(self, folder: Path | None) -> None:
        for path in sorted(folder.iterdir()) if folder and folder.is_dir() else ():
            if path.suffix in (".html", ".csv", ".json"):
                self._client.log_artifact(self.parent_run_id, str(path), "report")
                self.num_calls += 1

    def _mark(self, view: RunView) -> None:
        found = standing(view)
        place = {point.id: "yes" for point in found.front} | {point.id: "may belong" for point in found.maybe}
        for point in [f"{number}.0" for number in view.trials] + list(view.confirmed):
            if run_id := self._children.get(point):
                self._client.set_tag(run_id, "frontier", place.get(point, "no"))
                self.num_calls += 1
        for point, gain in gains_over_base(view, found.front).items():
            if run_id := self._children.get(point):
                metrics = with_ends("difference_to_base", gain.difference) | {"difference_to_base_num": gain.num_images}
                self._log(run_id, metrics=metrics, tags={"difference_to_base_on": gain.source}, at=view.last_at)

    def _summary(self, view: RunView) -> None:
        counts = view.num_trials()
        verdict = judge(view)
        lines = [verdict.text, *(f"- {comparison.text}" for comparison in verdict.comparisons), "", *view.notes]
        tags = {
            "mlflow.note.content": "\n".join(lines),
            "verdict": verdict.text,
            **{f"num_{outcome}": count for outcome, count in counts.items()},
        }
        self._log(self.parent_run_id, tags=tags)
        self._progress(view, time.time() if view.last_at is None else view.last_at)

    def _close(self, state: State) -> None:
        fail_point("tracker.close")
        for child in self._search(f"tags.`{PARENT_TAG}` = '{self.parent_run_id}' and attributes.status = 'RUNNING'"):
            self._client.set_terminated(child.info.run_id, "KILLED")
            self.num_calls += 1
        self._client.set_tag(self.parent_run_id, "state", state)
        self._client.set_terminated(self.parent_run_id, _END[state])

    # ------------------------------------------------------------ child runs

    def _reference(self, reference: Reference, kind: ReferenceKind, at: float) -> None:
        tags = {"kind": kind, "recipe": reference.recipe, "frontier": "no", **_origin(reference.measurement)}
        metrics = {**_metrics(reference.measurement), "seconds": reference.seconds}
        params = {"size": reference.size, "recipe": reference.recipe}
        self._child(reference.name, reference.name, params, metrics, tags, "FINISHED", (reference.seconds, at))

    def _trial(self, record: TrialRecord, at: float, point: str = "") -> None:
        point = point or f"{record.number}.0"
        place = "" if point.endswith(".0") else f" at {record.params['gate_threshold']:.3g}"
        title = f"{record.number:03d} {team_title(record.params)}{place}".strip()
        tags = {
            "kind": "swept" if place else "trial",
            "trial": record.number,
            "team": team_title(record.params),
            "outcome": record.outcome,
            "reason": record.reason,
            "message": record.message,
            "notes": "\n".join(record.notes),
            "frontier": "open" if record.outcome == "done" else "no",
            **(_origin(record.measurement) if record.measurement else {}),
        }
        # The order counts: MLflow's parallel coordinates open with the first metric.
        metrics: dict[str, float | None] = {} if record.measurement is None else _metrics(record.measurement)
        metrics |= {"robust_diversity": record.robust_diversity, "seconds": record.seconds}
        metrics |= {f"constraint.{name}": broken for name, broken in record.constraints.items()}
        params = {**record.params, **self._absent_members(record)}
        status = _STATUS[record.outcome]
        self._child(point, title, params, metrics, tags, status, (record.seconds, at))

    def _absent_members(self, record: TrialRecord) -> dict[str, ParamValue]:
        """Say `none` and size 0 for members that a smaller team lacks.

        Where a parameter is missing, MLflow's parallel coordinates draw the run at the axis' top.
        """
        dimension = self._spec.search.space.num_members
        largest = dimension.high if isinstance(dimension, Range) else max(float(v) for v in dimension.values)
        missing = range(int(record.params.get("num_members", largest)) + 1, int(largest) + 1)
        absent: dict[str, ParamValue] = {}
        for i in missing:
            absent |= {f"member{i}.score": "none", f"member{i}.size": 0.0}
        if self._spec.search.space.method != Choice(values=("prune",)):
            there = range(1, int(record.params.get("num_members", largest)) + 1)
            absent |= {name: "prune" for i in there if (name := f"member{i}.method") not in record.params}
            absent |= {f"member{i}.method": "none" for i in missing}
        return absent

    def _child(
        self,
        point: str,
        title: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        tags: Mapping[str, Any],
        status: str,
        when: tuple[float, float],
    ) -> None:
        """Create, fill and end a child run; one that an earlier process left half written is completed.

        Args:
            point: The point's id, or the reference's name.
            title: The run's name.
            params: Its parameters.
            metrics: Its metrics; those that are no finite numbers are left out.
            tags: Its tags.
            status: MLflow's word for its end.
            when: Seconds that it took, and when it ended.
        """
        if self._unsure:
            self._look_up()
        if point in self._complete:
            return
        seconds, at = when
        if new := point not in self._children:
            settings = {SETTING + key: value for key, value in self._settings().items()}
            mine = {PARENT_TAG: self.parent_run_id, UID_TAG: self._uid, "search": self._name, "point": point}
            start = int(1000 * (at - (seconds if math.isfinite(seconds) else 0)))
            fail_point("tracker.create")
            self._unsure = True  # a call that is not answered may have been heard
            run = self._client.create_run(self._experiment_id, start, _texts({**mine, **tags, **settings}), title)
            self._unsure = False
            fail_point("tracker.created")
            self._children[point] = str(run.info.run_id)
        run_id = self._children[point]
        # What an earlier end of the same trial said is overwritten, by nothing too.
        self._log(run_id, params=params, metrics=metrics, tags={} if new else _texts(tags, empty=True), at=at)
        self._client.set_terminated(run_id, status, end_time=int(1000 * at))
        self.num_calls += 1
        if tags.get("reason") not in NO_RESULT:
            self._complete.add(point)

    # ------------------------------------------------------------ MLflow itself

    @property
    def _client(self) -> MlflowClient:
        assert self._mlflow is not None, "start comes first"
        return self._mlflow

    def _search(self, query: str) -> list[Run]:
        found: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], query, max_results=1000, page_token=token)
            found += page
            self.num_calls += 1
            token = page.token
            if not token:
                return found

    def _log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        tags: Mapping[str, Any] | None = None,
        step: int = 0,
        at: float | None = None,
    ) -> None:
        """Write to a run; the same values for the same step and time are kept once, however often they come."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(1000 * (time.time() if at is None else at))
        finite = {k: float(v) for k, v in (metrics or {}).items() if v is not None and math.isfinite(v)}
        self._client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, step) for key, value in finite.items()],
            tags=[RunTag(key, value) for key, value in _texts(tags or {}, empty=True).items()],
        )
        rows = [Param(key, value) for key, value in _texts(params or {}, empty=True).items()]
        for i in range(0, len(rows), _MAX_BATCH):
            self._client.log_batch(run_id, params=rows[i : i + _MAX_BATCH])
        self.num_calls += 1


# ---------------------------------------------------------------- what a record says to MLflow


def _metrics(m: Measurement) -> dict[str, float | None]:
    return {
        "robust_accuracy": m.robust_accuracy.value,
        "robust_accuracy_low": m.robust_accuracy.low,
        "robust_accuracy_high": m.robust_accuracy.high,
        "clean_accuracy": m.clean_accuracy.value,
        "clean_accuracy_low": m.clean_accuracy.low,
        "clean_accuracy_high": m.clean_accuracy.high,
        "num_samples": m.robust_accuracy.num_samples,
        **_latency_metrics(m.latency),
        **cost_metrics(m),
        **(with_ends("chose_difference_to_base", m.difference_to_base) if m.difference_to_base else {}),
        "mean_members_run": m.mean_members_run,
        "num_members": m.num_members,
        "macs": m.macs,
        "worst_case_macs": m.worst_case_macs,
        "size_bytes": m.size_bytes,
    }


def _latency_metrics(latency: Latency) -> dict[str, float | None]:
    return {
        **with_ends("latency_ms", latency.latency_ms),
        "latency_ms_p50": latency.p50_ms,
        "latency_ms_p95": latency.p95_ms,
        "latency_ms_worst_case": latency.worst_case_ms,
        **with_ends("speedup", latency.speedup),
        "worst_case_speedup": latency.worst_case_speedup,
    }


def _origin(m: Measurement) -> dict[str, Any]:
    """Say what the robust accuracy and the latency rest on: never a number without it."""
    return {
        "attack": m.robust_accuracy.attack,
        "eps": m.robust_accuracy.eps,
        "badge": m.robust_accuracy.badge,
        "latency_method": m.latency.method,
        "latency_noisy": "yes" if m.latency.noisy else "no",
        "artifact": m.artifact,
    }


def _fact_tags(view: RunView) -> dict[str, Any]:
    return {f"fact.{key}": value for key, value in flatten(view.facts).items()}


def _texts(table: Mapping[str, Any], *, empty: bool = False) -> dict[str, str]:
    """Turn values into texts that every MLflow server takes; leave empty ones out unless asked."""
    texts = {_name(key): as_utf8(str(value))[:_MAX_TEXT] for key, value in table.items()}
    return texts if empty else {key: text for key, text in texts.items() if text}


def _name(key: str) -> str:
    """Keep to the characters that MLflow allows in names."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in key)[:250]


def make_database(home: Path, name: str) -> None:
    """Make the home's own database if there is none, so that it appears with all its tables or not at all.

    MLflow takes seconds for that, and cannot go on with a database whose tables are half made.

    Args:
        home: Its folder.
        name: Of who makes it; one writer for each name.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path = home.resolve() / "mlflow.db"
    if path.exists():
        return
    quiet_mlflow()
    made = path.with_name(f".mlflow-for-{name}.db")  # one driver for each name, so one writer
    left_over = [made.with_name(made.name + end) for end in ("", "-journal", "-wal", "-shm")]
    for file in left_over:
        file.unlink(missing_ok=True)
    try:
        make_common_file(made)
        store: Any = SqlAlchemyStore  # without types
        store(f"sqlite:///{made}", artifact_folder(home).as_uri()).engine.dispose()
        with suppress(FileExistsError):  # another search was first
            os.link(made, path)
    finally:
        for file in left_over:
            file.unlink(missing_ok=True)


def _reach(uri: str) -> None:
    """Fail within seconds if nobody answers at an http address; MLflow itself would try for minutes."""
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    try:
        urlopen(uri, timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()  # somebody answers; what is wrong, if anything, the next call says


def one_line(error: BaseException) -> str:
    """Put an error's first line into a message of ours."""
    lines = without_passwords(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")[:300]
