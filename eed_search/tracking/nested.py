"""Runs under one parent in MLflow, for whatever is no search: a benchmark, with a run for each of its networks.

Every call may be repeated: runs are found again by their tags, and what is written twice is the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eed_search.core.errors import StoreError
from eed_search.core.modes import make_common_folder, make_folder
from eed_search.core.seeds import digest
from eed_search.core.spec import Tracking
from eed_search.core.texts import as_utf8
from eed_search.tracking.mlflow_log import (
    artifact_folder,
    connect,
    database_uri,
    home_uri,
    make_database,
    one_line,
)
from eed_search.tracking.mlflow_runs import PARENT_TAG
from eed_search.tracking.moved import settle

if TYPE_CHECKING:
    from mlflow import MlflowClient

UID_TAG, CHILD_TAG = "benchmark_uid", "network"
_MAX_BATCH = 100  # parameters in one call
_MAX_TEXT = 5000


@dataclass(frozen=True)
class Child:
    """One run below the parent.

    Attributes:
        title: Its name, unique below the parent.
        params: What it was made with.
        metrics: What was measured; finite.
        tags: What else there is to say.
    """

    title: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class NestedRuns:
    """Writes one parent with its children to MLflow.

    Args:
        tracking: Where, and in which experiment.
        home: Where the default database and the artifacts lie.
        name: The parent's name.
        params: The parent's parameters; with the name they say which run this is.

    Attributes:
        uri: The tracking URI.
        parent_run_id: MLflow's id of the parent; empty before `start`.
    """

    def __init__(self, tracking: Tracking, home: Path, name: str, params: Mapping[str, Any]) -> None:
        self.uri = tracking.uri or home_uri(home)
        self.parent_run_id = ""
        self._tracking, self._home, self._name, self._params = tracking, home, name, params
        self._uid = digest({"name": name, "params": dict(params)})
        self._experiment = ""
        self._mlflow: MlflowClient | None = None

    @property
    def _client(self) -> MlflowClient:
        assert self._mlflow is not None, "start comes first"
        return self._mlflow

    def start(self) -> None:
        """Reach MLflow before anything is trained, and open the parent's run or find it again.

        Raises:
            StoreError: If MLflow cannot be used.
        """
        try:
            make_folder(self._home)
            if self.uri == database_uri(self._home):
                make_common_folder(artifact_folder(self._home))
                make_database(self._home, self._name)
                settle(self._home)
            self._mlflow = connect(self.uri)
            self._experiment = self._find_experiment()
            found = self._find(f"tags.`{UID_TAG}` = '{self._uid}' and tags.kind = 'benchmark'")
            if found:
                self.parent_run_id = found[0]
                self._client.update_run(self.parent_run_id, status="RUNNING")
            else:
                tags = {"kind": "benchmark", UID_TAG: self._uid}
                run = self._client.create_run(self._experiment, tags=tags, run_name=self._name)
                self.parent_run_id = str(run.info.run_id)
                self._write(self.parent_run_id, params=self._params)
        except Exception as error:
            raise self._explain(error) from error

    def finish(self, children: Sequence[Child], files: Sequence[Path], lines: Sequence[str]) -> None:
        """Write every child's run, attach the files, say the verdict, close all.

        Args:
            children: All of them.
            files: Tables and pictures.
            lines: The verdict.

        Raises:
            StoreError: If MLflow cannot be used.
        """
        try:
            for child in children:
                self._child(child)
            note = "\n".join(f"- {line}" for line in lines)
            self._write(self.parent_run_id, tags={"mlflow.note.content": note, "verdict": " ".join(lines)})
            for file in files:
                self._client.log_artifact(self.parent_run_id, str(file), "results")
            self._client.set_terminated(self.parent_run_id, "FINISHED")
        except Exception as error:
            raise self._explain(error) from error

    def interrupted(self) -> None:
        """Mark the parent's run as ended before its time; silent where MLflow is gone."""
        try:
            self._client.set_terminated(self.parent_run_id, "KILLED")
        except Exception:  # the error that ended the work is the one to show
            return

    def _child(self, child: Child) -> None:
        content = digest({key: round(value, 9) for key, value in child.metrics.items()})
        query = f"tags.`{PARENT_TAG}` = '{self.parent_run_id}' and tags.`{CHILD_TAG}` = '{child.title}'"
        if found := self._find(query):
            run_id = found[0]
            if self._client.get_run(run_id).data.tags.get("content") == content:
                return  # written by an earlier process
        else:
            tags = {PARENT_TAG: self.parent_run_id, CHILD_TAG: child.title, "kind": "network", "benchmark": self._name}
            run_id = str(self._client.create_run(self._experiment, tags=tags, run_name=child.title).info.run_id)
        self._write(run_id, params=child.params, metrics=child.metrics, tags={**child.tags, "content": content})
        self._client.set_terminated(run_id, "FINISHED")

    def _find_experiment(self) -> str:
        name = self._tracking.experiment
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        where = artifact_folder(self._home).as_uri() if self.uri == database_uri(self._home) else None
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(name, artifact_location=where, tags=tags))

    def _find(self, query: str) -> list[str]:
        return [str(run.info.run_id) for run in self._client.search_runs([self._experiment], filter_string=query)]

    def _write(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(1000 * time.time())
        self._client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, 0) for key, value in (metrics or {}).items()],
            tags=[RunTag(key, as_utf8(value)[:_MAX_TEXT]) for key, value in (tags or {}).items()],
        )
        rows = [Param(key, as_utf8(str(value))[:_MAX_TEXT]) for key, value in (params or {}).items()]
        for i in range(0, len(rows), _MAX_BATCH):
            self._client.log_batch(run_id, params=rows[i : i + _MAX_BATCH])

    def _explain(self, error: Exception) -> StoreError:
        return StoreError(
            f"MLflow at {self.uri} cannot be used ({one_line(error)}); correct tracking.uri, choose another --home or start"
            " its server again, then run the same command: finished stages are kept"
        )
