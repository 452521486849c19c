"""One search from its file to its frontier: claim the folder, prepare, run the trials, time the frontier.

    claim HOME/NAME → Ray → dense base (whole machine) → controls and trials side by side
    → final latencies (whole machine, one at a time, until the frontier is stable) → report → end

The driver's main thread does everything but the trials: it alone writes the ledger. This module
loads no torch; the workers do.
"""

from __future__ import annotations

import itertools
import platform
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from eed_search.core.errors import EedSearchError, RunError, TrialFailure
from eed_search.core.ledger import FILE_NAME, Ledger, RunView
from eed_search.core.params import TrialParams
from eed_search.core.points import frontier
from eed_search.core.records import Latency, Reference, TrialRecord
from eed_search.core.spec import Spec
from eed_search.core.spec_file import to_text
from eed_search.core.store import write_atomic
from eed_search.search import ray_glue
from eed_search.search.journal import Journal
from eed_search.search.listener import Listener
from eed_search.search.monitor import Monitor
from eed_search.search.outcome import failure, failure_of, judge, number_problems, reference_problem

if TYPE_CHECKING:
    from eed_search.evaluation.latency import Probe
    from eed_search.stages import Report
    from eed_search.tracking.mlflow_log import State
    from eed_search.trial import Setting

SPACE_FILE, RAY_LOG, ERRORS_FOLDER, REPORT_FOLDER = "search_space.yaml", "ray.log", "errors", "report"
_RESERVED = frozenset({"store", "mlartifacts", "mlflow.db"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TICK_S = 0.5
_PACKAGES = ("eed-search", "torch", "onnxruntime", "ray", "optuna", "mlflow", "numpy")


class Pipeline(Protocol):
    """What one trial does, as the search calls it; a module that the workers can import by name."""

    def prepare(self, spec: Spec, store_root: Path, report: Report) -> Setting:
        """Train or load the dense base and measure it, with the whole machine."""

    def make_probe(self, setting: Setting) -> Probe:
        """Build the latency probe for the dense base of the setting."""

    def run(self, number: int, params: TrialParams, setting: Setting, probe: Probe, report: Report) -> TrialRecord:
        """Run one trial."""

    def control(self, size: float, setting: Setting, probe: Probe, report: Report) -> Reference:
        """Train a small network from scratch and measure it."""

    def final_latency(self, artifact: str, setting: Setting, params: TrialParams | None) -> Latency:
        """Time one classifier alone on the machine; no parameters for the base and controls."""


class _Stopped(Exception):
    """The person asked the search to stop."""


def run(spec: Spec, *, home: Path, name: str | None, pipeline: Pipeline, listener: Listener) -> RunView:
    """Run a search on this machine, with all its CPUs and GPUs.

    The first interrupt (Ctrl-C, SIGTERM) stops it: running trials are ended, what is finished is
    kept, timed no further, and reported; the second raises KeyboardInterrupt.

    Args:
        spec: The search.
        home: Everything that is written lies below it; made if absent.
        name: The run's folder below `home`; by default the spec's name with the first free number.
        pipeline: What one trial does.
        listener: Told of everything, in the caller's thread.

    Returns:
        The run as its ledger tells it; `state` is `finished` or `stopped`.

    Raises:
        RunError: If the name is taken or not allowed, or `home` cannot be written to.
        SpecError: If a trial asks for more than the machine has.
        EedSearchError: What went wrong with the data or the dense base; the ledger's end says so too.
    """
    home = home.expanduser().resolve()
    spec = _with_absolute_data(spec)
    _check_name(home, name)
    with ExitStack() as stack:
        machine = stack.enter_context(ray_glue.local_ray())
        stop = stack.enter_context(_interrupts())  # after Ray, whose import takes SIGTERM for itself
        slots = machine.slots(spec.resources)
        folder = claim(home, spec, name)
        stack.enter_context(ray_glue.ray_log(folder / RAY_LOG))
        ledger = stack.enter_context(Ledger(folder / FILE_NAME, write=True))
        journal = Journal(ledger, listener, spec.search.trials, slots)
        search = _Search(spec, home, folder, pipeline, journal, machine, slots, stop)
        return search.run()


# ---------------------------------------------------------------- the folder


def _check_name(home: Path, name: str | None) -> None:
    """Refuse a name early, before Ray is started."""
    if name is None:
        return
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise RunError(
            f"--name {name}: is not allowed; take up to 64 letters, digits, . _ - (not {', '.join(sorted(_RESERVED))})"
        )
    if (home / name).exists():
        raise _taken(home, name)


def _taken(home: Path, name: str) -> RunError:
    return RunError(
        f"--name {name}: {home / name} exists already; choose another --name, or look at that run with"
        f" `eed-search report {name}`. Nothing was changed"
    )


def claim(home: Path, spec: Spec, name: str | None) -> Path:
    """Make a run's folder with its search-space file; of two that want the same name, one gets it.

    Args:
        home: Where the runs lie; made if absent.
        spec: The search.
        name: The folder's name; by default the spec's name with the first free number.

    Returns:
        The folder.

    Raises:
        RunError: If the name is taken, or `home` cannot be written to.
    """
    names = [name] if name is not None else (f"{spec.name}-{i}" for i in itertools.count(1))
    try:
        home.mkdir(parents=True, exist_ok=True)
        for one in names:
            with suppress(FileExistsError):
                (home / one).mkdir()
                break
        else:
            raise _taken(home, str(name))
    except OSError as error:
        raise RunError(f"{home}: cannot be written ({error.strerror}); choose another --home") from error
    write_atomic(home / one / SPACE_FILE, to_text(spec).encode())
    return home / one


def _with_absolute_data(spec: Spec) -> Spec:
    """Resolve the data's folder: workers and later readers have other working folders."""
    if spec.data.path is None:
        return spec
    path = str(Path(spec.data.path).expanduser().resolve())
    return spec.model_copy(update={"data": spec.data.model_copy(update={"path": path})})


def _facts() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"versions": versions, "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Turn the first interrupt into an event; the second one raises as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- the search


class _Search:
    """The phases of one search, in order; `run` is the table of contents."""

    def __init__(
        self,
        spec: Spec,
        home: Path,
        folder: Path,
        pipeline: Pipeline,
        journal: Journal,
        machine: ray_glue.Machine,
        slots: int,
        stop: threading.Event,
    ) -> None:
        import ray

        self._spec, self._home, self._folder, self._pipeline = spec, home, folder, pipeline
        self._journal, self._machine, self._slots, self._stop = journal, machine, slots, stop
        self._start = time.monotonic()
        self._monitor: Any = ray.remote(Monitor).options(num_cpus=0, max_restarts=-1).remote()
        self._stages_ref: Any = None
        self._stages: dict[str, str] = {}
        self._last_tick = 0.0
        self._controls: dict[Any, float] = {}

    def run(self) -> RunView:
        """Go through the phases; whatever happens, the ledger says how it ended."""
        facts = _facts() | {"machine": self._machine_facts()}
        head = {"name": self._folder.name, "spec": self._spec.to_plain()}
        self._journal.append("run", {**head, "facts": facts})
        try:
            try:
                setting = self._prepare()
                measured = {
                    "num_classes": setting.num_classes,
                    "image_shape": list(setting.image_shape),
                    "reference_ms": setting.base.measurement.latency.latency_ms.value,
                }
                self._journal.append("run", {**head, "facts": facts | measured})
                self._journal.base(setting.base)
                self._search(setting)
                self._final_latencies(setting)
            except _Stopped:
                pass
            state: State = "stopped" if self._stop.is_set() else "finished"
            self._finish(state)
        except BaseException as error:
            self._fail(error)
            raise
        return self._journal.view

    def _machine_facts(self) -> dict[str, Any]:
        return {
            "platform": platform.platform(),
            "processor": _processor(),
            "num_cpus": self._machine.num_cpus,
            "num_gpus": self._machine.num_gpus,
        }

    def _prepare(self) -> Setting:
        import ray

        self._journal.stage("dense base")
        task = ray.remote(ray_glue.prepare_task).options(**self._whole_machine())
        prepared = task.remote(self._pipeline, self._spec, self._home / "store", self._monitor)
        # Both take seconds: better beside the base's training than after it. A wrong tracking.uri
        # shows before much of it is done.
        self._open_tracker()
        import eed_search.search.searcher
        import eed_search.search.tune_callback  # noqa: F401

        setting: Setting = self._wait(prepared)
        if problem := reference_problem(setting.base.measurement):
            raise TrialFailure("diverged", f"dense base: {problem}; take a lower base.lr or base.clip_norm")
        return setting

    def _search(self, setting: Setting) -> None:
        """Run the controls and the trials side by side."""
        import ray
        from ray import tune

        from eed_search.search.searcher import STUDY_FILE, EedSearcher, Proposer, close_study, open_study
        from eed_search.search.tune_callback import DriverCallback, StopWhen, trial_folder

        self._journal.stage("controls and trials")
        shared = ray.put(setting)
        probe_actor: Any = (
            ray.remote(ray_glue.ProbeActor)
            .options(num_cpus=0, resources={ray_glue.PROBE_RESOURCE: 1}, max_restarts=2)
            .remote(self._pipeline, setting)  # by value: a restart could not read it from a store that forgot it
        )
        probe = ray_glue.RemoteProbe(probe_actor)
        resources = self._spec.resources
        control = ray.remote(ray_glue.control_task).options(
            num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=0
        )
        self._controls = {
            control.remote(self._pipeline, size, shared, probe, self._monitor): size
            for size in self._spec.controls.sizes
        }
        budget = self._spec.search.time_budget_s
        study = open_study(self._folder / STUDY_FILE, self._folder.name, self._spec)
        try:
            proposer = Proposer(
                study,
                self._spec,
                max_concurrent=self._slots,
                deadline=None if budget is None else self._start + budget,
                on_proposal=self._journal.proposal,
                should_stop=self._stop.is_set,
            )
            searcher = EedSearcher(proposer)
            callback = DriverCallback(on_end=self._trial_ended, on_error=self._trial_lost, on_step=self._step)
            function = tune.with_parameters(
                ray_glue.trainable, pipeline=self._pipeline, setting=setting, probe=probe, monitor=self._monitor
            )
            tuner = tune.Tuner(
                tune.with_resources(function, {"cpu": resources.cpu, "gpu": resources.gpu}),
                tune_config=tune.TuneConfig(
                    search_alg=searcher, num_samples=-1, reuse_actors=True, trial_dirname_creator=trial_folder
                ),
                run_config=tune.RunConfig(
                    name="ray",
                    storage_path=str(self._folder),
                    verbose=0,
                    callbacks=[callback],
                    stop=StopWhen(lambda: self._stop.is_set() or callback.fatal is not None),
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            )
            try:
                tuner.fit()
            finally:
                proposer.close()
            if callback.fatal is not None:
                raise callback.fatal
        finally:
            close_study(study)
        self._close_open_trials()
        while self._controls and not self._stop.is_set():
            self._step()
            time.sleep(_TICK_S / 5)
        ray.kill(probe_actor)
        self._raise_if_stopped()

    def _final_latencies(self, setting: Setting) -> None:
        """Time the base, the controls and the frontier alone on the machine, each once.

        A new time can bring another point onto the frontier, which is then timed too.
        """
        self._journal.stage("final latencies")
        tried: set[str] = set()
        while waiting := [one for one in self._to_time() if one[0] not in tried]:
            id_, artifact, params = waiting[0]
            tried.add(id_)
            self._time_one(id_, artifact, params, setting)

    def _to_time(self) -> list[tuple[str, str, TrialParams | None]]:
        view = self._journal.view
        references = [view.base, *view.controls] if view.base else view.controls
        wanted: list[tuple[str, str, TrialParams | None]] = [
            (one.name, one.measurement.artifact, None) for one in references if one is not None
        ]
        wanted += [
            (p.id, p.measurement.artifact, TrialParams.from_flat(p.params)) for p in frontier(view, unrankable=True)
        ]
        return [one for one in wanted if one[0] not in view.latencies]

    def _time_one(self, id_: str, artifact: str, params: TrialParams | None, setting: Setting) -> None:
        import ray

        self._stages = {id_: "final latency"}
        task = ray.remote(ray_glue.latency_task).options(**self._whole_machine())
        try:
            latency: Latency = self._wait(task.remote(self._pipeline, artifact, setting, params))
        except _Stopped:
            raise
        except Exception as error:
            self._journal.note(f"{id_}: no final latency, the search's stands ({failure_of(error)[1]})")
            return
        if problem := next(number_problems("latency", latency), ""):
            self._journal.note(f"{id_}: no final latency, the search's stands ({problem})")
            return
        self._journal.latency(id_, latency)

    # ------------------------------------------------------------ what Tune's loop calls

    def _trial_ended(self, number: int, params: dict[str, Any], result: dict[str, Any]) -> None:
        if trace := result.get(ray_glue.TRACEBACK_KEY):
            self._keep_traceback(trial_file(number), str(trace))
        self._journal.result(judge(number, params, result))

    def _trial_lost(self, number: int, params: dict[str, Any], error: BaseException | None) -> None:
        reason, message = failure_of(error) if error else ("infrastructure", "its worker process died")
        self._keep_traceback(trial_file(number), f"{message}\n\n{error}\n")
        self._journal.result(failure(number, params, reason, message))

    def _step(self) -> None:
        """Take in finished controls and tell the listener how things stand."""
        import ray

        ready, _ = ray.wait(list(self._controls), num_returns=1, timeout=0) if self._controls else ([], [])
        for ref in ready:
            size = self._controls.pop(ref)
            self._control_ended(size, ref)
        self._tick()

    def _control_ended(self, size: float, ref: Any) -> None:
        import ray

        label = ray_glue.control_label(size)
        try:
            control: Reference = ray.get(ref)
        except Exception as error:
            cause = ray_glue.cause_of(error)
            self._keep_traceback(f"{label.replace(' %', '').replace(' ', '-')}.txt", str(error))
            self._journal.note(f"{label} failed ({failure_of(cause)[1]})")
            return
        if problem := reference_problem(control.measurement):
            self._journal.note(f"{label} failed ({problem})")
            return
        self._journal.control(control)

    # ------------------------------------------------------------ waiting, progress

    def _wait(self, ref: Any) -> Any:
        """Wait for a task, ticking; an interrupt ends the wait and the task."""
        import ray

        while not ray.wait([ref], timeout=_TICK_S)[0]:
            self._tick()
            if self._stop.is_set():
                ray.cancel(ref, force=True)
                raise _Stopped
        try:
            return ray.get(ref)
        except ray.exceptions.RayError as error:
            raise ray_glue.cause_of(error) from error

    def _tick(self) -> None:
        import ray

        now = time.monotonic()
        if now - self._last_tick < _TICK_S:
            return
        self._last_tick = now
        if self._stages_ref is None:
            self._stages_ref = self._monitor.stages.remote()
        if ray.wait([self._stages_ref], timeout=0)[0]:
            with suppress(ray.exceptions.RayError):
                self._stages = ray.get(self._stages_ref)
            self._stages_ref = None
        view = self._journal.view
        over = {ray_glue.trial_label(number) for number in view.trials}
        self._journal.tick({who: text for who, text in self._stages.items() if who not in over})

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _whole_machine(self) -> dict[str, Any]:
        return {"num_cpus": self._machine.num_cpus, "num_gpus": self._machine.num_gpus, "max_retries": 0}

    # ------------------------------------------------------------ the end

    def _close_open_trials(self) -> None:
        view = self._journal.view
        for number in sorted(view.proposals.keys() - view.trials.keys()):
            self._journal.result(judge(number, view.proposals[number], None))

    def _open_tracker(self) -> None:
        from eed_search.tracking.mlflow_log import MlflowTracker

        journal = self._journal
        journal.open_tracker(MlflowTracker(self._spec, self._home, self._folder.name, journal.note))

    def _finish(self, state: State) -> None:
        from eed_search.tracking.report import write_report

        folder = None
        if self._journal.view.base is not None:
            self._journal.stage("report")
            folder = self._folder / REPORT_FOLDER
            write_report(replace(self._journal.view, state=state), folder)
        self._journal.close_tracker(state, folder)
        self._journal.end(state)

    def _fail(self, error: BaseException) -> None:
        """Write down why the search broke; the error itself goes on to the caller."""
        reason = str(error) if isinstance(error, EedSearchError) else failure_of(error)[1]
        state: State = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(Exception):
            self._close_open_trials()
        with suppress(Exception):
            self._journal.close_tracker(state, None)
        with suppress(Exception):
            self._journal.end(state, reason)

    def _keep_traceback(self, file: str, text: str) -> None:
        write_atomic(self._folder / ERRORS_FOLDER / file, text.encode())


def trial_file(number: int) -> str:
    """Name the file in `errors/` that holds a trial's traceback."""
    return f"trial-{number}.txt"


def _processor() -> str:
    """The processor's name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
