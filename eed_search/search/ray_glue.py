"""The door to Ray: the local session, the actors and tasks of a search, the trainable.

Only this module, `ray_workers`, `searcher` and `tune_callback` know that trials run under Ray. What runs
on a worker is importable by name; the pipeline (a module) travels by name as well.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import platform
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eed_search.core.cores import usable_cores
from eed_search.core.errors import RunError, SpecError
from eed_search.core.looks import Rival
from eed_search.core.loopback import past_proxies
from eed_search.core.records import Reference, from_json
from eed_search.core.spec import Resources
from eed_search.search.lock import Driver, this_process
from eed_search.search.monitor import control_label, reporter, trial_label
from eed_search.search.outcome import attempt
from eed_search.search.placement import PROBE_RESOURCE
from eed_search.search.watchdog import SOFT
from eed_search.search.workers import call

if TYPE_CHECKING:
    from eed_search.evaluation.latency import Probe, RatioEstimate
    from eed_search.trial import Setting

START_TRIES = 3
PROBE = "latency probe"  # under this name the probe posts for whom it measures
_PREFIX, _OWNER = "eed-", "owner.json"
_KEPT = 4  # processes besides one for each processor: the monitor, the probe, and two that wait for the next task
_PENDING, _MOST_STARTING = "TUNE_MAX_PENDING_TRIALS_PG", 16
_CLEAR_S = 10.0
# Below this, the sockets of a session keep within the 107 characters that the system allows.
_LONGEST_TEMP = 40


@dataclass(frozen=True)
class Machine:
    """What the trials of a search have between them."""

    num_cpus: float
    num_gpus: float

    def slots(self, resources: Resources) -> int:
        """Count the trials that fit at once.

        Raises:
            SpecError: If not even one fits.
        """
        problems, slots = [], []
        for name, asked, there in (("cpu", resources.cpu, self.num_cpus), ("gpu", resources.gpu, self.num_gpus)):
            if asked > there:
                problems.append(
                    f"resources.{name}: {asked:g} is more than this machine has ({there:g});"
                    f" take at most {there:g}, or another machine"
                )
            elif name == "gpu" and asked > 1 and asked != int(asked):
                problems.append(
                    f"resources.gpu: {asked:g} is neither a whole number nor a share of one GPU; take 1 or 2"
                )
            elif asked > 0:
                slots.append(int(there / asked + 1e-9))
        if problems:
            raise SpecError(problems)
        return max(1, min(slots, default=int(self.num_cpus)))


@contextmanager
def local_ray() -> Iterator[Machine]:
    """Start Ray on this machine for the length of a search, and shut down just that.

    It joins no cluster that someone else started, opens no dashboard, sends no usage reports, is
    closed to other users by a token of its own, prints nothing, and keeps its session in a
    temporary folder (a socket's path may not be long) that is removed at the end; of a driver that was
    killed, by the next one.
    """
    quiet_environment()
    import ray

    clear_dead_sessions()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_temp_root()))
    (folder / _OWNER).write_text(json.dumps(asdict(this_process())), encoding="utf-8")
    try:
        with logs_not_on_terminal():
            _start(folder)
            try:
                total = ray.cluster_resources()
                yield Machine(total.get("CPU", 0.0), total.get("GPU", 0.0))
            finally:
                ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path) -> None:
    """Start Ray; on a busy machine its own limit of 30 s is short, so that is tried again.

    Raises:
        RunError: If it does not start in time at the last try.
    """
    import ray

    # Loopback where the system has a second address on it: Ray turns 127.0.0.1 into the outer one.
    address: dict[str, Any] = {"_node_ip_address": "127.0.0.2"} if sys.platform == "linux" else {}
    cores = usable_cores()  # Ray would count those that this process is not let on, too
    for tried in range(1, START_TRIES + 1):
        try:
            with without_arguments():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    num_cpus=cores,
                    log_to_driver=False,
                    configure_logging=False,
                    resources={PROBE_RESOURCE: 1},
                    _temp_dir=str(folder),
                    # A worker that has imported torch is kept while trials run, for the finals. (Those of a GPU always end.)
                    _system_config={"num_workers_soft_limit": cores + _KEPT},
                    **address,
                )
            return
        except Exception as error:  # Ray raises just this where it runs out of time
            ray.shutdown()
            if "timed out" not in str(error):
                raise
            if tried == START_TRIES:
                raise RunError(
                    f"Ray did not start within {START_TRIES} times 30 s: this machine is too busy."
                    " End other work on it and launch again"
                ) from error


@contextmanager
def without_arguments() -> Iterator[None]:
    """Keep Ray from taking this process's command line into its own records: it ends where a file's name is no UTF-8."""
    import ray._private.utils as private

    given = getattr(private, "get_entrypoint_name", None)
    if given is None:  # of another Ray
        yield
        return
    private.get_entrypoint_name = lambda: "eed-search"
    try:
        yield
    finally:
        private.get_entrypoint_name = given


def quiet_environment(*, own_token: bool = True) -> None:
    """Set what Ray and Tune read from the environment, before they are imported.

    Args:
        own_token: Close a session of our own to others; one that is joined has a token already.
    """
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a file mean what they meant to the user
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver handles it
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what the raylet would print about dead workers
        "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",  # trials wait for controls
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if own_token:
        wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        if "ray" not in sys.modules:
            wanted["RAY_AUTH_MODE"] = "token"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    past_proxies()


@contextmanager
def started_side_by_side() -> Iterator[None]:
    """Let Tune start the workers of free slots all at once, not one after another; who proposes hands out no more than fit."""
    if _PENDING in os.environ:
        yield
        return
    os.environ[_PENDING] = str(_MOST_STARTING)
    try:
        yield
    finally:
        del os.environ[_PENDING]


def _temp_root() -> Path:
    root = tempfile.gettempdir()
    return Path("/tmp" if len(root) > _LONGEST_TEMP else root)


def clear_dead_sessions() -> None:
    """End what killed drivers' Ray sessions have left on this machine, and remove their folders.

    Ray's own processes end by themselves within seconds of their driver, bar some agents.
    """
    for folder in _temp_root().glob(f"{_PREFIX}*"):
        with suppress(OSError, ValueError, TypeError):
            owner = Driver(**json.loads((folder / _OWNER).read_text(encoding="utf-8")))
            if not owner.alive():
                _clear(folder)


def _clear(folder: Path) -> None:
    """End the processes that hold a file of a session open, and remove its folder."""
    deadline = time.monotonic() + _CLEAR_S
    while (left := _holders(folder)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def _holders(folder: Path) -> list[int]:
    """List the processes that hold a file below a folder open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(file).startswith(f"{folder}/") for file in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


@contextmanager
def logs_not_on_terminal() -> Iterator[None]:
    """Keep what Ray's driver side logs off the screen."""
    logger = logging.getLogger("ray")
    before = (logger.handlers[:], logger.propagate)
    logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before


@contextmanager
def ray_log(path: Path) -> Iterator[None]:
    """Write what Ray's driver side logs to a file of the run."""
    logger = logging.getLogger("ray")
    handler = logging.FileHandler(path, delay=True, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


# ---------------------------------------------------------------- on the workers


class ProbeActor:
    """Measures latencies, one at a time, for all trials: the only holder of `latency_probe`.

    Args:
        pipeline: Module with `make_probe`.
        setting: What all trials share.
    """

    def __init__(self, pipeline: Any, setting: Setting) -> None:
        self._probe: Probe = pipeline.make_probe(setting)

    def measure(self, onnx: bytes, who: str, monitor: Any) -> RatioEstimate:
        """Measure one network against the dense base, while no other search measures on this machine.

        The monitor is told for whom, under the name `PROBE`. It comes with each call: a handle among the
        constructor's arguments is one that a restart might not find.
        """
        post = reporter(monitor, PROBE)
        post(who)
        try:
            with measuring():
                return self._probe.measure(onnx)
        finally:
            post("")


@contextmanager
def measuring() -> Iterator[None]:
    """Hold this machine's one slot for timing among all searches of this user on it."""
    from filelock import FileLock

    with FileLock(str(Path(tempfile.gettempdir()) / f"eed-search-latency-{os.getuid()}.lock")):
        yield


class RemoteProbe:
    """The probe as a trial sees it: the call waits for its turn at the one probe actor.

    Args:
        actor: The probe actor.
        machine: The machine whose latencies it gives; empty for that of the caller.
        who: Whom it measures for.
        monitor: Told so.
    """

    def __init__(self, actor: Any, machine: str = "", who: str = "", monitor: Any = None) -> None:
        self._actor, self._monitor = actor, monitor
        self.machine = machine
        self._who = who

    def of(self, who: str) -> RemoteProbe:
        """Give the probe that measures for one trial or control."""
        return RemoteProbe(self._actor, self.machine, who, self._monitor)

    def measure(self, onnx: bytes) -> RatioEstimate:
        """Measure one network against the dense base.

        Raises:
            Exception: What the probe raised; its own kind, not Ray's wrapping.
        """
        import ray

        try:
            estimate: RatioEstimate = ray.get(self._actor.measure.remote(onnx, self._who, self._monitor))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return estimate


def trainable(
    config: dict[str, Any],
    *,
    pipeline: Any,
    setting: Setting,
    probe: RemoteProbe,
    monitor: Any,
    limit_s: float | None,
    stacks: str,
) -> None:
    """Run one trial on a worker, to its next rung or to its end, and report once what came of it.

    An exception becomes a failed record, so that the worker lives on for the next trial.

    Args:
        config: `number`, flat `params`, the `rung` to stop at, and the `rivals` as JSON text, which Tune leaves alone.
        pipeline: Module with `run`.
        setting: What all trials share.
        probe: Measures latencies.
        monitor: Takes the stage texts.
        limit_s: Seconds without progress after which the driver ends this worker, or none.
        stacks: Folder for the stacks of a trial that is half way there.
    """
    from ray import tune

    number, params = int(config["number"]), dict(config["params"])
    _require_home(Path(stacks).parent, setting)
    post = reporter(monitor, trial_label(number))
    with _stacks_when_stuck(stacks_file(Path(stacks), number), limit_s) as progress:

        def report(text: str) -> None:
            progress()
            post(text)

        rivals = [from_json(Rival, one) for one in json.loads(config.get("rivals", "[]"))]
        mine = probe.of(trial_label(number))
        result = attempt(pipeline, number, params, setting, mine, report, config.get("rung"), rivals)
    post("")
    tune.report(result)


def _require_home(folder: Path, setting: Setting) -> None:
    """Refuse to work on a node that does not see the run's folder: it would train everything again, for nobody.

    Raises:
        RunError: If it does not, and no storage by URL takes its place.
    """
    storage = getattr(getattr(setting, "spec", None), "storage", None)
    if not folder.is_dir() and not (storage is not None and storage.url):
        raise RunError(
            f"{folder}: is not there on the node {platform.node()}; all nodes need the folder (`--home /mnt/shared/runs`), or"
            " storage by URL (`--set storage.url=s3://…`)"
        )


def stacks_file(folder: Path, number: int) -> Path:
    """Name the file for the stacks of a trial that makes no progress."""
    return folder / f"trial-{number}-stacks.txt"


@contextmanager
def _stacks_when_stuck(path: Path, limit_s: float | None) -> Iterator[Callable[[], None]]:
    """Write every thread's stack to a file when nothing is heard for half the limit.

    A timer in C writes them: the interpreter may be stuck.

    Yields:
        The function to call at each progress.
    """
    if limit_s is None:
        yield lambda: None
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    except OSError:  # another machine's folder, or a full disk
        yield lambda: None
        return
    with file:

        def again() -> None:
            faulthandler.dump_traceback_later(SOFT * limit_s, file=file)

        again()
        try:
            yield again
        finally:
            faulthandler.cancel_dump_traceback_later()
    forget_empty(path)


def forget_empty(path: Path) -> None:
    """Remove a file that nothing was written to, and its folder if nothing else is in it."""
    with suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()
            path.parent.rmdir()


def alone_task(pipeline: Any, what: str, arguments: dict[str, Any], who: str, monitor: Any, timed: bool) -> Any:
    """Call one function of the pipeline; one that is timed takes its turn with other searches on the machine."""
    report = reporter(monitor, who)
    try:
        with measuring() if timed else nullcontext():
            report("starting")  # from here on it is watched
            return call(pipeline, what, arguments, report)
    finally:
        monitor.post.remote(who, "")


def control_task(pipeline: Any, size: float, setting: Setting, probe: RemoteProbe, monitor: Any) -> Reference:
    """Train and measure one control."""
    label = control_label(size)
    try:
        control: Reference = pipeline.control(size, setting, probe.of(label), reporter(monitor, label))
    finally:
        monitor.post.remote(label, "")
    return control


def cause_of(error: BaseException) -> BaseException:
    """Undo Ray's wrapping of an exception that a task raised."""
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, BaseException) else error
