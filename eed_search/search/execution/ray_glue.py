"""The door to Ray: the actors and tasks of a search, the trainable.

Only this module, `ray_session`, `ray_watch`, `ray_workers`, `joined`, `searcher` and `tune_callback` know that trials run under
Ray. What runs on a worker is importable by name; the pipeline (a module) travels by name as well.
"""

from __future__ import annotations

import faulthandler
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eed_search.config.spec import Resources
from eed_search.core.errors import RunError, SpecError
from eed_search.evaluation.sequential_test import Incumbent
from eed_search.runs.records import Reference, from_json
from eed_search.search.execution.monitor import baseline_label, reporter, trial_label
from eed_search.search.execution.watchdog import SOFT
from eed_search.search.execution.workers import call
from eed_search.search.outcome import attempt
from eed_search.system.private import machine_lock

if TYPE_CHECKING:
    from eed_search.evaluation.latency import Probe, RatioEstimate
    from eed_search.pipeline.search_context import SearchContext

TUNE_FOLDER = "ray"  # in the run's folder, where all nodes must see it
PROBE = "latency probe"  # under this name the probe posts for whom it measures
_PENDING, _MOST_STARTING = "TUNE_MAX_PENDING_TRIALS_PG", 16


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
        for name, asked, there in (("cpu", resources.cpu, self.num_cpus), ("gpu", resources.gpus, self.num_gpus)):
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


# ---------------------------------------------------------------- on the workers


class ProbeActor:
    """Measures latencies, one at a time, for all trials: the only holder of `latency_probe`.

    Args:
        pipeline: Module with `make_probe`.
        setting: What all trials share.
    """

    def __init__(self, pipeline: Any, setting: SearchContext) -> None:
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
    with machine_lock("latency.lock"):
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
        """Give the probe that measures for one trial or baseline."""
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
    setting: SearchContext,
    probe: RemoteProbe,
    monitor: Any,
    limit_s: float | None,
    stacks: str,
) -> None:
    """Run one trial on a worker, to its next rung or to its end, and report once what came of it.

    An exception becomes a failed record, so that the worker lives on for the next trial.

    Args:
        config: `number`, flat `params`, the `rung` to stop at, and the `incumbents` as JSON text, which Tune leaves alone.
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

        incumbents = [from_json(Incumbent, one) for one in json.loads(config.get("rivals", "[]"))]
        mine = probe.of(trial_label(number))
        result = attempt(pipeline, number, params, setting, mine, report, config.get("rung"), incumbents)
    post("")
    tune.report(result)


def _require_home(folder: Path, setting: SearchContext) -> None:
    """Refuse to work on a node that does not see the run's folder: it would train everything again, for nobody.

    Raises:
        RunError: If it does not, and no storage by URL takes its place.
    """
    if not folder.is_dir() and not setting.spec.storage.url:
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


def forget_tune(folder: Path) -> None:
    """Remove what Tune has left in a run's folder, now or earlier: the ledger holds all that is needed of it."""
    for path in folder.glob(f"{TUNE_FOLDER}*"):
        if re.fullmatch(rf"{TUNE_FOLDER}(-\d+)?", path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def alone_task(pipeline: Any, what: str, arguments: dict[str, Any], who: str, monitor: Any, timed: bool) -> Any:
    """Call one function of the pipeline; one that is timed takes its turn with other searches on the machine."""
    report = reporter(monitor, who)
    try:
        with measuring() if timed else nullcontext():
            report("starting")  # from here on it is watched
            return call(pipeline, what, arguments, report)
    finally:
        monitor.post.remote(who, "")


def baseline_task(pipeline: Any, size: float, setting: SearchContext, probe: RemoteProbe, monitor: Any) -> Reference:
    """Train and measure one baseline."""
    label = baseline_label(size)
    try:
        baseline: Reference = pipeline.baseline(size, setting, probe.of(label), reporter(monitor, label))
    finally:
        monitor.post.remote(label, "")
    return baseline


def cause_of(error: BaseException) -> BaseException:
    """Undo Ray's wrapping of an exception that a task raised."""
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, BaseException) else error
