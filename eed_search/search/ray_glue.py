"""The door to Ray: the local session, the actors and tasks of a search, the trainable.

Only this module, `driver`, `searcher` and `tune_callback` know that trials run under Ray. What runs on a worker is importable by
name; the pipeline (a module) travels by name as well.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eed_search.core.errors import RunError, SpecError
from eed_search.core.params import ParamValue, TrialParams
from eed_search.core.records import Latency, Reference, TrialRecord
from eed_search.core.spec import Resources, Spec
from eed_search.search.monitor import reporter
from eed_search.search.outcome import REPORT_KEY, failure, failure_of

if TYPE_CHECKING:
    from eed_search.evaluation.latency import Probe, RatioEstimate
    from eed_search.trial import Setting

PROBE_RESOURCE = "latency_probe"
START_TRIES = 3
TRACEBACK_KEY = "traceback"
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
    temporary folder (a socket's path may not be long) that is removed at the end.
    """
    _quiet_environment()
    import ray

    folder = _temp_folder()
    try:
        with _logs_not_on_terminal():
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
    for tried in range(1, START_TRIES + 1):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                resources={PROBE_RESOURCE: 1},
                _temp_dir=str(folder),
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


def _quiet_environment() -> None:
    """Set what Ray and Tune read from the environment, before they are imported."""
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a file mean what they meant to the user
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver handles it
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what the raylet would print about dead workers
        "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",  # trials wait for controls
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if "ray" not in sys.modules:
        wanted["RAY_AUTH_MODE"] = "token"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def _temp_folder() -> Path:
    root = tempfile.gettempdir()
    if len(root) > _LONGEST_TEMP:
        root = "/tmp"
    return Path(tempfile.mkdtemp(prefix="eed-", dir=root))


@contextmanager
def _logs_not_on_terminal() -> Iterator[None]:
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
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


# ---------------------------------------------------------------- on the workers


class ProbeActor:
    """Measures latencies, one at a time, for all trials: the only holder of `latency_probe`."""

    def __init__(self, pipeline: Any, setting: Setting) -> None:
        self._probe: Probe = pipeline.make_probe(setting)

    def measure(self, onnx: bytes) -> RatioEstimate:
        """Measure one network against the dense base."""
        return self._probe.measure(onnx)


class RemoteProbe:
    """The probe as a trial sees it: the call waits for its turn at the one probe actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def measure(self, onnx: bytes) -> RatioEstimate:
        """Measure one network against the dense base.

        Raises:
            Exception: What the probe raised; its own kind, not Ray's wrapping.
        """
        import ray

        try:
            estimate: RatioEstimate = ray.get(self._actor.measure.remote(onnx))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return estimate


def trainable(config: dict[str, Any], *, pipeline: Any, setting: Setting, probe: RemoteProbe, monitor: Any) -> None:
    """Run one trial on a worker and report its record once, at the end.

    An exception becomes a failed record, so that the worker lives on for the next trial.

    Args:
        config: `number` and flat `params`.
        pipeline: Module with `run`.
        setting: What all trials share.
        probe: Measures latencies.
        monitor: Takes the stage texts.
    """
    from ray import tune

    number, params = int(config["number"]), dict(config["params"])
    record, trace = attempt(pipeline, number, params, setting, probe, reporter(monitor, trial_label(number)))
    monitor.post.remote(trial_label(number), "")
    tune.report({REPORT_KEY: record, TRACEBACK_KEY: trace})


def attempt(
    pipeline: Any,
    number: int,
    params: Mapping[str, ParamValue],
    setting: Setting,
    probe: Probe,
    report: Callable[[str], None],
) -> tuple[TrialRecord, str]:
    """Run one trial; an exception becomes a failed record and its traceback."""
    try:
        record = pipeline.run(number, TrialParams.from_flat(params), setting, probe, report)
    except Exception as error:
        reason, message = failure_of(error)
        return failure(number, params, reason, message), traceback.format_exc()
    if not isinstance(record, TrialRecord):
        return failure(number, params, "error", f"gave {type(record).__name__}, not a TrialRecord"), ""
    return record, ""


def prepare_task(pipeline: Any, spec: Spec, store_root: Path, monitor: Any) -> Setting:
    """Prepare what all trials share."""
    try:
        setting: Setting = pipeline.prepare(spec, store_root, reporter(monitor, "dense base"))
    finally:
        monitor.post.remote("dense base", "")
    return setting


def control_task(pipeline: Any, size: float, setting: Setting, probe: RemoteProbe, monitor: Any) -> Reference:
    """Train and measure one control."""
    label = control_label(size)
    try:
        control: Reference = pipeline.control(size, setting, probe, reporter(monitor, label))
    finally:
        monitor.post.remote(label, "")
    return control


def latency_task(pipeline: Any, artifact: str, setting: Setting, params: TrialParams | None) -> Latency:
    """Take one final latency."""
    latency: Latency = pipeline.final_latency(artifact, setting, params)
    return latency


def trial_label(number: int) -> str:
    """How a trial is called in the progress display."""
    return f"trial {number}"


def control_label(size: float) -> str:
    """How a control is called in the progress display."""
    return f"control {round(100 * size)} %"


def cause_of(error: BaseException) -> BaseException:
    """Undo Ray's wrapping of an exception that a task raised."""
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, BaseException) else error
