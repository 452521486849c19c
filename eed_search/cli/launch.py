"""`eed-search launch`: the main job, from a search-space file to the frontier on the screen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from eed_search.cli.check import summary
from eed_search.cli.console import say
from eed_search.cli.guard import INTERRUPTED
from eed_search.cli.remote_cluster import RemoteCluster, cluster_home, default_name
from eed_search.cli.space_file import Changes, find, read
from eed_search.cluster.where import Place, WhereAsked
from eed_search.cluster.where import find as find_place
from eed_search.config.loader import to_text
from eed_search.config.sent_plugins import pack
from eed_search.core.errors import RunError, SpecError
from eed_search.runs.disk_space import shortage
from eed_search.search.execution.package import is_sent

if TYPE_CHECKING:
    from eed_search.runs.ledger import RunView
    from eed_search.search.execution.workers import Pipeline, Workers
    from eed_search.search.listener import Listener

SPACE_FILE = "search_space.yaml"


def launch(file: Path | None, changes: Changes, *, home: Path, name: str | None, asked: WhereAsked) -> None:
    """Run a search here or on a cluster, and show its result.

    Args:
        file: The search-space file, or a packaged one's name; none takes the embedded digits.
        changes: What the command line changes in it.
        home: Everything that the search writes lies under it.
        name: The search's name; none lets the search choose.
        asked: Where to run.

    Raises:
        SpecError: With every mistake of the file; nothing was started.
        RunError: If no trial gave a point, or the cluster is not reached.
    """
    place = find_place(asked)
    check_there(place)
    here = place.kind != "submit"
    spec = read(file, changes, data_here=here, import_plugins=here)
    check_target(place, spec.latency.node)
    if not is_sent():
        say(place.text)
        say(f"Searching {find(file)}")
        for line in summary(spec):
            say(f"  {line}")
    if place.kind == "submit":
        packed = pack(spec.plugins, cluster_home(home))
        spec = spec.model_copy(update={"plugins": packed.entries})
        name = name or default_name(spec.name)
        files = {SPACE_FILE: to_text(spec).encode("utf-8", "backslashreplace"), **packed.files}
        RemoteCluster(place, asked, home).drive(["launch", SPACE_FILE, "--name", name], name=name, files=files)
        return

    if lack := shortage(home, spec.search.trials):
        say(f"note: {lack}")
    from eed_search.cli.progress import progress

    with stopped_at_once(home), progress() as listener:
        pipeline = load_pipeline(listener)
        from eed_search.search import run

        with workers_at(place, spec.latency.node) as workers:
            view = run(spec, home=home, name=name, pipeline=pipeline, listener=listener, workers=workers)
    conclude(view, home / view.name, home)


def check_there(place: Place) -> None:
    """Refuse a Ray to join that does not answer, before anything else is done.

    Raises:
        RunError: If so; says what is wrong within seconds.
    """
    if place.kind == "join":
        from eed_search.search.execution.reachable import check_ray

        check_ray(place.address, place.source)


def check_target(place: Place, latency_node: str | None) -> None:
    """Refuse a kind of node whose latency counts where there is only this machine.

    Raises:
        SpecError: If so.
    """
    if place.kind == "here" and latency_node is not None:
        raise SpecError(
            [
                f"latency.node: {latency_node}: names a kind of a cluster's nodes, and this is one machine; launch on a"
                " cluster (--cluster FILE, --address), or `--set latency.node=null`"
            ]
        )


def load_pipeline(listener: Listener) -> Pipeline:
    """Load torch and what a trial does, and say so: on a busy machine it takes a while, as Ray's start does after it."""
    listener.on_stage("loading torch")
    from eed_search import trial

    listener.on_stage("starting Ray")
    return trial


@contextmanager
def workers_at(place: Place, latency_node: str | None) -> Iterator[Workers | None]:
    """Give the workers of a place; none for this machine's own, which a search starts itself.

    Raises:
        RunError: If there is no Ray to join.
    """
    if place.kind == "here":
        yield None
        return
    from eed_search.search.execution.ray_cluster import on_ray_cluster

    with on_ray_cluster(place.address, latency_node) as workers:
        yield workers


@contextmanager
def stopped_at_once(home: Path) -> Iterator[None]:
    """Say what is kept when a second interrupt ends the search; the first lets it end and return."""
    try:
        yield
    except KeyboardInterrupt:
        from eed_search.cli.result import command, where

        print(f"Stopped at once. What was finished is kept: {command('resume')}{where(home)}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def conclude(view: RunView, folder: Path, home: Path) -> None:
    """Show how a search ended, and end with the exit code that belongs to it.

    Raises:
        RunError: If it was finished and no trial gave a point.
    """
    from eed_search.cli.result import show
    from eed_search.frontier.points import points
    from eed_search.search.interrupts import exit_code
    from eed_search.tracking.summary import summarise

    say()
    show(summarise(view), folder, home)
    if view.state in ("stopped", "cancelled"):
        raise typer.Exit(exit_code(view.reason))
    if not points(view):
        raise RunError(
            f"run {view.name}: no trial gave a point; the lines above say why. Correct the file and launch it again"
        )
