"""A benchmark in MLflow: a run with a child for each of its networks; every call may be repeated."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from eed_search.config.spec import Tracking
from eed_search.core.errors import StoreError
from eed_search.core.seeds import digest
from eed_search.system.modes import make_folder
from eed_search.tracking.mlflow_runs import BENCHMARK, Child, Runs
from eed_search.tracking.mlflow_store import home_uri, one_line, open_store


class NestedRuns:
    """Writes one benchmark with its networks to MLflow.

    Args:
        tracking: Where, and in which experiment.
        home: Where the default database and the artifacts lie.
        name: The benchmark's name.
        params: Its parameters; with the name they say which run this is.

    Attributes:
        uri: The tracking URI.
    """

    def __init__(self, tracking: Tracking, home: Path, name: str, params: Mapping[str, Any]) -> None:
        self.uri = tracking.uri or home_uri(home)
        self._tracking, self._home, self._name, self._params = tracking, home, name, params
        self._its_runs: Runs | None = None

    @property
    def parent_run_id(self) -> str:
        """MLflow's id of the benchmark; empty before `start`."""
        return self._its_runs.parent_id if self._its_runs else ""

    @property
    def _runs(self) -> Runs:
        assert self._its_runs is not None, "start comes first"
        return self._its_runs

    def start(self) -> None:
        """Reach MLflow before anything is trained, and open the benchmark's run or find it again.

        Raises:
            StoreError: If MLflow cannot be used.
        """
        try:
            make_folder(self._home)
            store = open_store(self._tracking, self._home, self._name)
            uid = digest({"name": self._name, "params": dict(self._params)})
            self._its_runs = Runs(store, BENCHMARK, uid, common={"benchmark": self._name})
            if not self._runs.find_parent():
                self._runs.make_parent(self._name, {}, self._params)
        except Exception as error:
            raise self._explain(error) from error

    def finish(self, children: Sequence[Child], files: Sequence[Path], lines: Sequence[str]) -> None:
        """Write every network's run, attach the files, say the verdict, close all.

        Args:
            children: All of them.
            files: Tables and pictures.
            lines: The verdict.

        Raises:
            StoreError: If MLflow cannot be used.
        """
        try:
            self._runs.look_up()
            self._runs.put(children)
            note = "\n".join(f"- {line}" for line in lines)
            self._runs.log("", tags={"mlflow.note.content": note, "verdict": " ".join(lines)}, at=time.time())
            for file in files:
                self._runs.attach(file, "results")
            self._runs.end_open()
            self._runs.end_parent("FINISHED", "finished")
        except Exception as error:
            raise self._explain(error) from error

    def interrupted(self) -> None:
        """Mark the benchmark's run as ended before its time; silent where MLflow is gone."""
        with suppress(Exception):  # the error that ended the work is the one to show
            self._runs.end_parent("KILLED", "stopped")

    def _explain(self, error: Exception) -> StoreError:
        return StoreError(
            f"MLflow at {self.uri} cannot be used ({one_line(error)}); correct tracking.uri, choose another --home or start"
            " its server again, then run the same command: finished stages are kept"
        )
