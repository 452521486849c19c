"""The one door to MLflow: a search is a run, each trial, the dense base and each control a child of it.

Order of calls: `start`, then `deliver` for each event of the ledger and `flush` for some at a time, `finish` at the
end. MLflow is a view: every call may be repeated, by this process or by the next one after a kill. Each run carries the
search's `uid`, and each child its point; what is there is looked up before anything is created, and
what is half written is completed (`mlflow_runs`). `tracking.outbox` calls all this in the background.
"""

from __future__ import annotations

import logging
import os
import time
import urllib.error
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from eed_search.core.addresses import without_passwords
from eed_search.core.contenders import Look
from eed_search.core.errors import EedSearchError, RunError, SpecError, StoreError
from eed_search.core.failpoints import fail_point
from eed_search.core.growth import Growth
from eed_search.core.home import check_home
from eed_search.core.ledger import Event, RunView
from eed_search.core.loopback import past_proxies, urlopen
from eed_search.core.machine_faults import is_full_disk
from eed_search.core.modes import make_common_file, make_common_folder
from eed_search.core.points import measurement_of
from eed_search.core.records import FreshCheck, from_json
from eed_search.core.spec import Spec
from eed_search.tracking.mlflow_children import reference_child, trial_child
from eed_search.tracking.mlflow_facts import attack_facts, cost_metrics, latency_metrics, with_ends
from eed_search.tracking.mlflow_runs import Child, Runs, Step
from eed_search.tracking.moved import own_note, settle
from eed_search.tracking.server import NOTE_NAME, is_healthy
from eed_search.tracking.summary import RunSummary, summarise
from eed_search.tracking.text import flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient

State = Literal["finished", "stopped", "failed", "cancelled"]

SETTING = "setting."
_AT_ONCE = 4  # runs that are written side by side, where MLflow's database is no file of ours
_AT_A_TIME = 50  # events that are shown together
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
    # Nor is anything tried again behind our back: a run would be made twice.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
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
        taken_up: Whether `start` found the search in MLflow.
    """

    def __init__(self, spec: Spec, home: Path, name: str, uid: str = "") -> None:
        self.uri = spec.tracking.uri or home_uri(home)
        self.taken_up = False
        self._spec = spec
        self._home = home
        self._name = name
        self._uid = uid or name
        self._experiment_id = ""
        self._growth = Growth()
        self._waiting = _Waiting()
        self._close_files: Callable[[], None] = lambda: None
        self._mlflow: MlflowClient | None = None
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
        try:
            if self.uri == database_uri(self._home):
                make_common_folder(artifact_folder(self._home))
                make_database(self._home, self._name)
                settle(self._home)
                self._close_files = _write_ahead(self._home)
            else:
                _reach(self.uri)
            self._mlflow = connect(self.uri)
            self._experiment_id = self._experiment(self._spec.tracking.experiment)
            settings = flatten(self._spec.to_plain())
            self._its_runs = runs = Runs(
                self._mlflow,
                self._experiment_id,
                self._uid,
                at_once=1 if self.uri.startswith("sqlite:") else _AT_ONCE,
                common={"search": self._name} | {SETTING + key: value for key, value in settings.items()},
            )
            self.taken_up = runs.find_parent(view.tracker.get("parent_run_id", ""))
            if not self.taken_up:
                tags = {"kind": "search", "search": self._name, "state": "running", **_fact_tags(view)}
                runs.make_parent(self._name, tags, settings)
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

    # ------------------------------------------------------------ while the search runs

    def deliver(self, event: Event, view: RunView) -> None:
        """Take in one event of the ledger for the next `flush`; kinds that MLflow has no place for are passed over.

        Args:
            event: The event.
            view: The run up to it, itself included.
        """
        told, at = self._waiting, event.at
        if event.kind in ("run", "resume"):
            told.log("", tags=_fact_tags(view), at=at)
        elif event.kind == "base" and view.base is not None:
            told.put(reference_child(view.base, "base", at))
        elif event.kind == "control":
            told.put(reference_child(view.controls[-1], "control", at))
        elif event.kind == "result" and event.trial in view.trials:
            told.put(trial_child(view.trials[event.trial], self._spec, at))
            told.steps.append((at, len(view.trials), self._progress(view)))
        elif event.kind == "latency":
            told.log(event.data["id"], **_final_latency(event.data["id"], view), step=1, at=at)
        elif event.kind == "confirmed":
            told.put(self._swept(event.data["id"], view, at))
        elif event.kind == "look":
            look = from_json(Look, event.data)
            for point, sure in look.probability.items():
                told.log(point, metrics={"front_probability": sure}, step=look.number, at=at)
        elif event.kind == "fresh" and "chose_from" not in event.data:
            told.log(event.data["id"], metrics=_fresh(view.fresh[event.data["id"]]), at=at)
        elif event.kind == "attack":
            for result in view.attacks.get(event.data["id"], [])[-1:]:
                metrics, tags = attack_facts(result)
                told.log(event.data["id"], metrics=metrics, tags=tags, at=at)

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
        summary = lru_cache(lambda: summarise(view))
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
        self._close_files()

    def _catch_up(self, view: RunView) -> None:
        self._runs.look_up()
        self.flush()
        at = time.time() if view.last_at is None else view.last_at
        lacks = [
            *([view.base] if view.base is not None and not self._runs.is_complete(view.base.name) else []),
            *(control for control in view.controls if not self._runs.is_complete(control.name)),
        ]
        self._runs.put(reference_child(one, "base" if one is view.base else "control", at) for one in lacks)
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
                self._client.log_artifact(self.parent_run_id, str(path), "report")
                self._runs.num_calls += 1

    def _mark(self, summary: RunSummary) -> None:
        view, found = summary.view, summary.frontier
        place = {point.id: "yes" for point in found.front} | {point.id: "may belong" for point in found.maybe}
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
    def _client(self) -> MlflowClient:
        assert self._mlflow is not None, "start comes first"
        return self._mlflow

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
    for end in ("-journal", "-wal", "-shm"):  # of a file that was moved away: they would be taken for the new one's
        path.with_name(path.name + end).unlink(missing_ok=True)
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


def _write_ahead(home: Path) -> Callable[[], None]:
    """Let the home's own database wait for the disk now and then, rather than thrice at each of a trial's four writes.

    A killed process loses nothing by it. After a power cut the last moments may be missing: a resume completes them.

    Returns:
        Closes the files.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event

    store: Any = SqlAlchemyStore  # without types
    engine = store(database_uri(home), artifact_folder(home).as_uri()).engine  # the one that all of MLflow uses here
    if not event.contains(engine, "connect", _relax):
        event.listen(engine, "connect", _relax)
    engine.dispose()  # its first connections do not know the setting yet
    return cast("Callable[[], None]", engine.dispose)


def _relax(connection: Any, record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


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
