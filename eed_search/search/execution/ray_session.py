"""The Ray session of a local search: nobody else is let in, and nothing of it is left.

Ray itself trusts a machine's users: it opens its folder to all of them, listens on every interface, and answers `/metrics` to
anyone. So its folder lies in one that only its owner enters, its sockets on loopback behind a token of their own, and the
parts that would answer without one are not started. Whatever the environment says and whatever was imported before.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from eed_search.core.errors import RunError
from eed_search.search.execution.placement import PROBE_RESOURCE
from eed_search.search.execution.ray_glue import Machine
from eed_search.search.execution.ray_watch import Watch
from eed_search.system.cores import usable_cores
from eed_search.system.loopback import past_proxies
from eed_search.system.private import clear_leftovers, end_holders, holders, temporary_folder

START_TRIES = 3
_ADDRESS = "127.0.0.1"
_KEPT = 4  # processes besides one for each processor: the monitor, the probe, and two that wait for the next task
_RAYS, _TUNES = "r", "tune"  # in the session's folder; the first is short because a socket's path may not be long
_LONGEST_SOCKET = f"/eed-12345678/{_RAYS}/session_2026-11-30_12-00-00_123456_4194304/sockets/plasma_store"
_LONGEST_ROOT = (103 if sys.platform == "darwin" else 107) - len(_LONGEST_SOCKET)
_ENDS_BY_ITSELF_S = 3.0  # what is left of Ray after its end, before it is killed
_VITAL = {"raylet": "raylet", "gcs_server": "GCS"}  # Ray's names, and what people read
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a file mean what they meant to the user
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver handles it
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what the raylet would print about dead workers
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",  # trials wait for baselines
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Session:
    """A running Ray of our own.

    Attributes:
        machine: What it has.
        scratch: Where Tune keeps what nobody needs afterwards; none but its owner can enter.
        watch: Knows whether it still runs.
    """

    machine: Machine
    scratch: Path
    watch: Watch = field(default_factory=Watch)


@contextmanager
def local_ray() -> Iterator[Session]:
    """Start Ray on this machine for the length of a search, and shut down just that.

    It joins no cluster that someone else started, opens no dashboard, sends no usage reports, prints nothing, and is closed to
    other users. Its folder is removed at the end; that of a driver that was killed, by the next one.

    Raises:
        RunError: If it does not start in time, cannot be closed to others, or there is no safe place for its folder.
    """
    clear_leftovers()
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder(longest=_LONGEST_ROOT))
        stack.callback(end_holders, folder, _ENDS_BY_ITSELF_S)
        quiet_environment()
        stack.callback(_read_anew)
        stack.enter_context(variables(_closed(folder)))
        stack.enter_context(logs_not_on_terminal())
        _start(folder / _RAYS)
        stack.callback(_shut_down)
        import ray

        total = ray.cluster_resources()
        scratch = folder / _TUNES
        scratch.mkdir()
        stack.enter_context(_paused_alike(folder))
        yield Session(Machine(total.get("CPU", 0.0), total.get("GPU", 0.0)), scratch, Watch(_vital()))


def _start(folder: Path) -> None:
    """Start Ray; on a busy machine its own limit of 30 s is short, so that is tried again.

    Raises:
        RunError: If it does not start in time at the last try, or does not ask for the token.
    """
    import ray

    _take_token()
    cores = usable_cores()  # Ray would count those that this process is not let on, too
    for tried in range(1, START_TRIES + 1):
        try:
            with without_arguments(), _on_loopback(), _without_agents(), _apart():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    num_cpus=cores,
                    log_to_driver=False,
                    configure_logging=False,
                    resources={PROBE_RESOURCE: 1},
                    _temp_dir=str(folder),
                    _node_ip_address=_ADDRESS,
                    _system_config={
                        # A worker that has imported torch is kept while trials run, for the finals. (Those of a GPU always end.)
                        "num_workers_soft_limit": cores + _KEPT,
                        "enable_metrics_collection": False,
                    },
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


def _shut_down() -> None:
    import ray

    ray.shutdown()


def _vital() -> dict[str, subprocess.Popen[bytes]]:
    """Give the processes that a session cannot do without; those that this Ray does not name go unwatched."""
    import ray._private.worker as private

    there: Mapping[str, Any] = getattr(private._global_node, "all_processes", {})
    return {said: there[name][0].process for name, said in _VITAL.items() if there.get(name)}


# ---------------------------------------------------------------- closed to others


def _closed(folder: Path) -> dict[str, str | None]:
    """Say what a session of our own finds in its environment, whatever was there; none removes a variable."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_AUTH_TOKEN_PATH": None,
        "RAY_ENABLE_K8S_TOKEN_AUTH": None,  # asks somebody else whether a token is good
        "RAY_REDIS_ADDRESS": None,  # would keep our state where others read it
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # one machine alone: Ray then takes loopback for its address
        "RAY_TMPDIR": str(folder),  # lock files too, else in a folder of /tmp that the first user of a machine owns
        "AUTOSCALER_METRIC_PORT": "-1",  # no port, so that no server is started
        # Ray ends a process whose raylet is gone; without this it asks after the parent, which `nohup` and others take away.
        # The raylet tells its workers its own.
        "RAY_RAYLET_PID": str(os.getpid()),
    }


@contextmanager
def variables(wanted: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables of the environment for as long as the block lasts; none removes one."""
    before = {name: os.environ.get(name) for name in wanted}
    _set(wanted)
    try:
        yield
    finally:
        _set(before)


def _set(wanted: Mapping[str, str | None]) -> None:
    for name, value in wanted.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _read_anew() -> None:
    """Have Ray, which reads the environment once, read it again."""
    from ray import _raylet

    inner: Any = _raylet
    inner.Config.initialize("")
    inner.AuthenticationTokenLoader.instance().reset_cache()


def _take_token() -> None:
    """Have Ray ask for the token that the environment names, and see that it does.

    Raises:
        RunError: If it does not.
    """
    from ray import _raylet

    _read_anew()
    inner: Any = _raylet
    token = inner.AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True)
    mode = inner.get_authentication_mode()
    if mode != inner.AuthenticationMode.TOKEN or token != os.environ["RAY_AUTH_TOKEN"]:
        raise RunError(
            "Ray would let in every user of this machine: it does not take a token. Install the version that"
            " constraints.txt names: `pip install -c constraints.txt ray`"
        )


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Keep Ray from replacing a loopback address by the machine's outer one; it looks at this when it is imported."""
    import ray._private.ray_constants as constants

    with _replaced(constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextmanager
def _without_agents() -> Iterator[None]:
    """Start Ray as one that was installed without its dashboard: its agent then serves nothing, no `/metrics` either."""
    import ray._private.utils as private

    with _replaced(private, "get_dashboard_dependency_error", lambda: ImportError("not wanted")):
        yield


@contextmanager
def _apart() -> Iterator[None]:
    """Start Ray's processes out of reach of what is sent to this one's group: `timeout`, a closed terminal, Ctrl-Z."""
    import ray._private.services as services

    with _replaced(services, "ConsolePopen", partial(subprocess.Popen, start_new_session=True)):
        yield


@contextmanager
def _paused_alike(folder: Path) -> Iterator[None]:
    """Let Ctrl-Z stop Ray's processes with this one, though they are in groups of their own, and `fg` let all go on."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTSTP) != signal.SIG_DFL:
        yield
        return

    def on_stop(number: int, frame: FrameType | None) -> None:
        theirs = holders(folder)
        _send(signal.SIGSTOP, theirs)
        os.kill(os.getpid(), signal.SIGSTOP)  # from here on when somebody lets this one go on
        _send(signal.SIGCONT, theirs)

    signal.signal(signal.SIGTSTP, on_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def _send(number: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def without_arguments() -> Iterator[None]:
    """Keep Ray from taking this process's command line into its own records: it ends where a file's name is no UTF-8."""
    import ray._private.utils as private

    with _replaced(private, "get_entrypoint_name", lambda: "eed-search"):
        yield


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Put something in the place of a module's name; of another Ray that lacks it, nothing."""
    if not hasattr(module, name):
        yield
        return
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


# ---------------------------------------------------------------- quiet


def quiet_environment() -> None:
    """Set what Ray and Tune read from the environment, before they are imported; what is set already stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    past_proxies()


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
    handler = _Log(path, delay=True, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):
            handler.close()


class _Log(logging.FileHandler):
    """A file for lines that nobody has to read: a full disk costs them, and is said elsewhere."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""
