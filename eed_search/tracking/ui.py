"""Opens MLflow's pages for a home: starts its server on loopback, gives the links, ends it again."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from eed_search.core.errors import RunError
from eed_search.runs.ledger import FILE_NAME, read_run
from eed_search.tracking import server
from eed_search.tracking.mlflow_runs import PARENT_TAG
from eed_search.tracking.mlflow_store import artifact_folder, connect, database_uri, home_uri, one_line
from eed_search.tracking.moved import settle

if TYPE_CHECKING:
    from mlflow.entities import Run

MAX_COMPARED = 200  # runs in one link: its length stays below what browsers and servers take
_MODE = "workflowType=machine_learning"  # else the pages open in MLflow's mode for language models


@dataclass(frozen=True)
class Links:
    """Where to look in MLflow.

    Attributes:
        search: The search's name.
        run: The page of the search itself: its settings, hypervolume over time, the report's files.
        frontier: Compares the frontier's runs; empty while there is none (it is marked at the end).
        beside_baselines: Compares them with the dense base and the baselines, which have no
            parameters of a search: for the scatter plot, not for parallel coordinates.
        trials: Compares all measured trials (the newest `MAX_COMPARED`); empty while there is none.
    """

    search: str
    run: str
    frontier: str
    beside_baselines: str
    trials: str


@dataclass(frozen=True)
class Ui:
    """A running MLflow server, or one that runs elsewhere.

    Attributes:
        url: Its address.
        links: The pages of the search asked for; none if the home holds no search yet.
    """

    url: str
    links: Links | None
    _server: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the server runs by itself: nothing was started, and nothing will end with this process."""
        return self._server is None

    def wait(self) -> None:
        """Block until the server ends; Ctrl-C raises KeyboardInterrupt as usual.

        Raises:
            RunError: If the server ends by itself.
        """
        if self._server is not None:
            code = self._server.wait()
            raise RunError(f"{self.url}: MLflow's server ended by itself (exit code {code}); start it again")


@contextmanager
def serve(home: Path, name: str | None, port: int = 5000) -> Iterator[Ui]:
    """Serve a home's MLflow database while the block runs.

    One worker, no job execution: 0.4 GB of memory instead of 2.2. Where the search wrote to another
    server (`tracking.uri`, or that of `eed-search mlflow-server`), nothing is started and the links lead there.

    Args:
        home: The folder that holds `mlflow.db`.
        name: The search to link to; none for the newest.
        port: Where to listen on loopback; 0 takes a free one.

    Yields:
        The address and the links.

    Raises:
        RunError: If there is no database or no such search, the port is taken, or the server does
            not start.
    """
    uri = _store(home, name)
    if urlsplit(uri).scheme in ("http", "https"):
        address = uri.rstrip("/")
        yield Ui(address, find_links(uri, address, name))
        return
    if uri == database_uri(home):
        settle(home)
    port = server.free_port(port, "eed-search ui")
    url = f"http://{server.HOST}:{port}"
    with tempfile.TemporaryFile() as log, server.ends_on_sigterm():
        process = server.start(uri, str(artifact_folder(home)), home, port, log)
        try:
            links = find_links(uri, url, name)  # while the server starts: both take seconds
            server.wait_until_ready(process, url, log)
            yield Ui(url, links, process)
        finally:
            server.stop(process)


def find_links(uri: str, url: str, name: str | None) -> Links | None:
    """Make the direct links of a search.

    Args:
        uri: The tracking store that is read.
        url: The server that the links lead to.
        name: The search; none for the newest.

    Returns:
        The links; none if no name was given and the store holds no search.

    Raises:
        RunError: If the store holds no search of that name.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = _search_runs(uri, name)
    except (MlflowException, OSError) as error:
        raise RunError(f"MLflow ({uri}) cannot be read: {one_line(error)}") from error
    if found is None:
        if name is None:
            return None
        raise RunError(f"{name}: MLflow ({uri}) holds no search of that name; launch it, or name another RUN or --home")
    parent, children = found
    experiment = str(parent.info.experiment_id)

    def compare(runs: list[Run]) -> str:
        return compare_link(url, experiment, [run.info.run_id for run in runs[:MAX_COMPARED]])

    measured = [run for run in children if "latency_ms" in run.data.metrics]
    trials = [run for run in measured if run.data.tags.get("kind") == "trial"]
    front = [run for run in trials if run.data.tags.get("frontier") == "yes"]
    references = [run for run in measured if run not in trials]
    return Links(
        search=parent.data.tags["search"],
        run=f"{url}/#/experiments/{experiment}/runs/{parent.info.run_id}?{_MODE}",
        frontier=compare(front) if front else "",
        beside_baselines=compare([*front, *references]) if front and references else "",
        trials=compare(trials) if trials else "",
    )


def _search_runs(uri: str, name: str | None) -> tuple[Run, list[Run]] | None:
    """Read a search's run and its children, newest first."""
    if name is not None and "'" in name:  # would end the text in the query; no search has such a name
        return None
    client = connect(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = "tags.kind = 'search'" + (f" and tags.search = '{name}'" if name else "")
    newest = ["attributes.start_time DESC"]
    searches = client.search_runs(experiments, query, max_results=1, order_by=newest)
    if not searches:
        return None
    parent = searches[0]
    children = f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'"
    return parent, list(client.search_runs([parent.info.experiment_id], children, max_results=5000, order_by=newest))


def compare_link(url: str, experiment_id: str, run_ids: list[str]) -> str:
    """Make the link of MLflow's page that compares runs."""
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":")), safe="") for ids in (run_ids, [experiment_id]))
    return f"{url}/#/compare-runs?runs={runs}&experiments={experiments}&{_MODE}"


def _store(home: Path, name: str | None) -> str:
    if name is not None and (home / name / FILE_NAME).is_file():
        uri = read_run(home / name).spec.get("tracking", {}).get("uri")
        if uri:
            return str(uri)
    uri = home_uri(home)
    if uri == database_uri(home) and not (home / "mlflow.db").is_file():
        raise RunError(f"{home}: holds no MLflow database (mlflow.db); launch a search first, or name another --home")
    return uri
