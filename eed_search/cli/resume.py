"""`eed-search resume`: a search that was interrupted goes on, a finished one gets more trials."""

from __future__ import annotations

from pathlib import Path

from eed_search.cli.console import say
from eed_search.cli.fetch import bring
from eed_search.cli.homes import Found, find_by_state
from eed_search.cli.launch import check_target, check_there, conclude, load_pipeline, stopped_at_once, workers_at
from eed_search.cli.remote_cluster import RemoteCluster, flags
from eed_search.cluster.where import WhereAsked
from eed_search.cluster.where import find as find_place
from eed_search.runs.disk_space import shortage
from eed_search.search.execution.package import is_sent

_UNFINISHED = ("interrupted", "stopped", "failed")


def resume(
    run: str | None,
    *,
    home: Path,
    trials: int | None,
    allow_drift: bool,
    force: bool,
    asked: WhereAsked,
    storage: str | None = None,
) -> None:
    """Take a search up again and show its result.

    Args:
        run: Its name, or its folder; none takes the latest that is not finished.
        home: The folder that holds every search.
        trials: Trials in all, instead of what its file says.
        allow_drift: Go on although something changed.
        force: Take up a search that was cancelled.
        asked: Where to run.
        storage: Shared storage that the search is fetched from first, and copied to.

    Raises:
        RunError: If there is none, or it cannot be taken up; says why.
    """
    place = find_place(asked)
    check_there(place)
    if not is_sent():
        say(place.text)
    if place.kind == "submit":
        given = flags(trials=trials, allow_drift=allow_drift, force=force, storage=storage)
        RemoteCluster(place, asked, home).drive(["resume", *([run] if run else []), *given], name=run, files={})
        return
    if storage is not None:
        bring(run, storage, home)
    found = find_by_state(home, run, (*_UNFINISHED, *(["cancelled"] * force)), "waiting to be resumed")
    node = found.view.spec.get("latency", {}).get("node")
    check_target(place, node)
    for line in plan(found, trials):
        say(line)
    if lack := shortage(found.folder.parent, trials or found.view.spec.get("search", {}).get("trials", 0)):
        say(f"note: {lack}")

    from eed_search.cli.progress import progress

    with stopped_at_once(home), progress() as listener:
        pipeline = load_pipeline(listener)
        from eed_search.search.resume import resume as go_on

        with workers_at(place, node) as workers:
            view = go_on(
                found.folder,
                pipeline=pipeline,
                listener=listener,
                workers=workers,
                trials=trials,
                allow_drift=allow_drift,
                force=force,
                storage=storage,
            )
    conclude(view, found.folder, found.folder.parent)


def plan(found: Found, trials: int | None) -> list[str]:
    """Say what there is of a search, and what will be done."""
    view = found.view
    again = len(view.unfinished()) + len(view.stopped_trials())
    num_ended = len(view.trials) - len(view.without_result())
    total = trials or view.spec.get("search", {}).get("trials", 0)
    lines = [f"Resuming {found.folder.name} ({found.state}): {num_ended} of {total} trials are finished"]
    if again:
        lines.append(f"  {again} {'was' if again == 1 else 'were'} under way and run{'s' if again == 1 else ''} again")
    return lines
