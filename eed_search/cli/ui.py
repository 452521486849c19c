"""`eed-search ui`: MLflow's pages of a search, on this machine only, until Ctrl-C."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event

from eed_search.cli.console import say
from eed_search.cli.homes import find_run
from eed_search.cli.remote_cluster import remote_cluster
from eed_search.cluster.where import WhereAsked


def ui(run: str | None, *, port: int, home: Path, asked: WhereAsked) -> None:
    """Serve a home's MLflow pages and print the links worth opening.

    Args:
        run: The search; none takes the latest.
        port: Port on this machine; 0 takes a free one.
        home: The folder that holds every search.
        asked: Where the search is.

    Raises:
        RunError: If there is no such search, the port is taken, or MLflow's server does not start.
    """
    if remote := remote_cluster(asked, home):
        remote.pages(["ui", *([run] if run else [])], port)
        return
    folder = find_run(home, run, or_prefix=True)
    say("Starting MLflow, which takes some seconds …")

    from eed_search.tracking.ui import serve

    with serve(folder.parent, folder.name, port) as served:
        say(f"MLflow    {served.url}")
        if served.links is not None:
            say(f"search    {served.links.run}")
            if served.links.frontier:
                say(f"frontier  {served.links.frontier}")
            say(f"trials    {served.links.trials}")
        if served.is_elsewhere and not os.environ.get("EED_SEARCH_JOB"):
            say("It runs already; nothing was started.")
            return
        say("Reachable from this machine only. Ctrl-C ends it.")
        try:
            if served.is_elsewhere:
                Event().wait()  # the tunnel of whoever sent this job lasts as long as the job
            served.wait()
        except KeyboardInterrupt:
            say("MLflow has ended.")
