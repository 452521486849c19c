"""`eed-search stop` and `cancel`: end a search that runs in another process."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from eed_search.cli.console import say
from eed_search.cli.homes import Found, find_by_state, found_runs
from eed_search.cli.remote_cluster import remote_cluster
from eed_search.cli.result import command, where
from eed_search.cluster.where import WhereAsked
from eed_search.core.errors import RunError
from eed_search.core.pace import duration
from eed_search.runs import requests
from eed_search.runs.run_lock import driver_of, wait_until_gone

_STOP_S, _CANCEL_S, _KILL_S = 120.0, 20.0, 10.0


def stop(run: str | None, *, home: Path, asked: WhereAsked) -> None:
    """Ask a running search to stop, wait for it, and say what happened.

    What is finished is kept and reported; trials that run are ended, and run again at a resume.

    Raises:
        RunError: If none runs, several run and none is named, or it does not stop in time.
    """
    if remote := remote_cluster(asked, home):
        remote.ask(["stop", *([run] if run else [])])
        return
    found = _running(home, run)
    name = found.folder.name
    driver = driver_of(found.folder)
    if driver is None:
        raise RunError(f"run {name}: does not run ({found.state}), so there is nothing to stop{_next(found, home)}")
    requests.ask(found.folder, "stop")
    say(f"Asked {name} (process {driver.pid}) to stop; waiting for it …")
    if not wait_until_gone(driver, _STOP_S):
        raise RunError(
            f"run {name}: has not stopped within {duration(_STOP_S)}; it will when what it does now ends."
            f" `{command('cancel')} {name}{where(home)}` ends it at once"
        )
    requests.withdraw(found.folder)
    _tell(Found.at(found.folder), home)


def cancel(run: str | None, *, home: Path, asked: WhereAsked) -> None:
    """End a search at once and mark it as cancelled; of one that is, complete what its MLflow did not take then.

    Raises:
        RunError: If it is finished, none runs, or several run and none is named.
    """
    if remote := remote_cluster(asked, home):
        remote.ask(["cancel", *([run] if run else [])])
        return
    found = _running(home, run)
    name = found.folder.name
    lacking = _lacks_its_end(found)
    if found.state in ("finished", "cancelled") and not lacking:
        raise RunError(f"run {name}: is {found.state}, so there is nothing to cancel")
    if (driver := driver_of(found.folder)) is not None:
        requests.ask(found.folder, "cancel")
        say(f"Asked {name} (process {driver.pid}) to end at once …")
        if not wait_until_gone(driver, _CANCEL_S):
            say("It does not answer: killing it.")
            with suppress(ProcessLookupError):
                if driver.alive():  # that very process, not another one with its number
                    os.kill(driver.pid, signal.SIGKILL)
            if not wait_until_gone(driver, _KILL_S):
                raise RunError(f"run {name}: process {driver.pid} could not be ended; end it yourself and try again")
        requests.withdraw(found.folder)
    after = Found.at(found.folder)
    if after.state not in ("finished", "cancelled") or lacking:
        from eed_search.search.resume import mark_cancelled

        mark_cancelled(found.folder)
        after = Found.at(found.folder)
    _tell(after, home)


def _lacks_its_end(found: Found) -> bool:
    """Whether a search is cancelled, and its MLflow did not take that then."""
    return found.state == "cancelled" and not found.view.tracker.get("complete", True)


def _running(home: Path, run: str | None) -> Found:
    """Find the search that is meant; where none is named, exactly one must run."""
    if run is None:
        running = [one.folder.name for one in found_runs(home) if one.state == "running"]
        if len(running) > 1:
            raise RunError(f"{home}: several searches run: {', '.join(running)}; name one")
    return find_by_state(home, run, ("running",), "running")


def _tell(found: Found, home: Path) -> None:
    view, name = found.view, found.folder.name
    counts = view.num_trials()
    ended = len(view.trials) - len(view.without_result())
    say(f"{name}: {found.state} after {duration(view.seconds)}; {ended} trials are finished, {counts['done']} done")
    if found.state in ("stopped", "cancelled"):
        force = " --force" if found.state == "cancelled" else ""
        say(f"resume  {command('resume')} {name}{force}{where(home)}")
    say(f"report  {command('report')} {name}{where(home)}")


def _next(found: Found, home: Path) -> str:
    if found.state in ("finished", "cancelled"):
        return ""
    return f"; go on with `{command('resume')} {found.folder.name}{where(home)}`"
