"""A benchmark in MLflow: one run for each base, scheme, ratio and fine-tuning, under one parent.

Every call may be repeated: runs are found again by their tags, and what is written twice is the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eed_search.core.errors import StoreError
from eed_search.core.seeds import digest
from eed_search.tracking.mlflow_log import (
    PARENT_TAG,
    artifact_folder,
    connect,
    database_uri,
    home_uri,
    make_database,
    one_line,
)
from eed_search.tracking.text import flatten
from eed_search.transfer.results import CLEAN, Row
from eed_search.transfer.spec import BenchmarkSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

UID_TAG, NETWORK_TAG = "benchmark_uid", "network"
_MAX_BATCH = 100  # parameters in one call
_MAX_TEXT = 5000


class BenchmarkTracker:
    """Writes one benchmark to MLflow.

    Args:
        spec: The file.
        home: Where the default database and the artifacts lie.
        name: The benchmark's name.

    Attributes:
        uri: The tracking URI.
        parent_run_id: MLflow's id of the benchmark; empty before `start`.
    """

    def __init__(self, spec: BenchmarkSpec, home: Path, name: str) -> None:
        self.uri = spec.tracking.uri or home_uri(home)
        self.parent_run_id = ""
        self._spec, self._home, self._name = spec, home, name
        self._uid = digest({"name": name, "spec": spec.to_plain()})
        self._experiment = ""
        self._mlflow: MlflowClient | None = None

    @property
    def _client(self) -> MlflowClient:
        assert self._mlflow is not None, "start comes first"
        return self._mlflow

    def start(self) -> None:
        """Reach MLflow before anything is trained, and open the benchmark's run or find it again.

        Raises:
            StoreError: If MLflow cannot be used.
        """
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            if self.uri == database_uri(self._home):
                artifact_folder(self._home).mkdir(parents=True, exist_ok=True)
                make_database(self._home, self._name)
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
                self._write(self.parent_run_id, params=flatten(self._spec.to_plain()))
        except Exception as error:
            raise self._explain(error) from error

    def finish(self, rows: Sequence[Row], files: Sequence[Path], lines: Sequence[str]) -> None:
        """Write every network's run, attach the files, say the verdict, close all.

        Args:
            rows: Of the whole benchmark.
            files: Tables and pictures.
            lines: The verdict.

        Raises:
            StoreError: If MLflow cannot be used.
        """
        grouped: dict[str, list[Row]] = {}
        for row in rows:
            grouped.setdefault(f"{row.model} {row.choice.title}", []).append(row)
        try:
            for title, group in grouped.items():
                self._network(title, group)
            note = "\n".join(f"- {line}" for line in lines)
            self._write(self.parent_run_id, tags={"mlflow.note.content": note, "verdict": " ".join(lines)})
            for file in files:
                self._client.log_artifact(self.parent_run_id, str(file), "results")
            self._client.set_terminated(self.parent_run_id, "FINISHED")
        except Exception as error:
            raise self._explain(error) from error

    def interrupted(self) -> None:
        """Mark the benchmark's run as ended before its time; silent where MLflow is gone."""
        try:
            self._client.set_terminated(self.parent_run_id, "KILLED")
        except Exception:  # the error that ended the benchmark is the one to show
            return

    def _network(self, title: str, rows: Sequence[Row]) -> None:
        metrics = network_metrics(rows)
        content = digest({key: round(value, 9) for key, value in metrics.items()})
        query = f"tags.`{PARENT_TAG}` = '{self.parent_run_id}' and tags.`{NETWORK_TAG}` = '{title}'"
        if found := self._find(query):
            run_id = found[0]
            if self._client.get_run(run_id).data.tags.get("content") == content:
                return  # written by an earlier process
        else:
            tags = {PARENT_TAG: self.parent_run_id, NETWORK_TAG: title, "kind": "network", "benchmark": self._name}
            run_id = str(self._client.create_run(self._experiment, tags=tags, run_name=title).info.run_id)
        first = rows[0]
        params = {
            "model": first.model,
            "scheme": first.choice.scheme,
            "ratio": first.choice.ratio,
            "finetuned": "yes" if first.choice.finetuned else "no",
            "seeds": " ".join(map(str, first.seeds)),
        }
        flags = sorted({f"{row.attack} {row.eps or ''}: {flag}" for row in rows for flag in row.flags})
        self._write(
            run_id,
            params=params,
            metrics=metrics,
            tags={"flags": "; ".join(flags), "left_dense": ", ".join(first.left_dense), "content": content},
        )
        self._client.set_terminated(run_id, "FINISHED")

    def _find_experiment(self) -> str:
        name = self._spec.tracking.experiment
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
            tags=[RunTag(key, value[:_MAX_TEXT]) for key, value in (tags or {}).items()],
        )
        rows = [Param(key, str(value)[:_MAX_TEXT]) for key, value in (params or {}).items()]
        for i in range(0, len(rows), _MAX_BATCH):
            self._client.log_batch(run_id, params=rows[i : i + _MAX_BATCH])

    def _explain(self, error: Exception) -> StoreError:
        return StoreError(
            f"MLflow at {self.uri} cannot be used ({one_line(error)}); correct tracking.uri, choose another --home or start"
            " its server again, then run the same command: finished stages are kept"
        )


def network_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """Name a network's numbers for MLflow: `transfer/pgd20 0.0314`, one name for each attack and budget.

    Args:
        rows: Of one network.
    """
    first = rows[0]
    found: dict[str, float | None] = {"parameters": first.num_parameters, "macs": first.macs}
    if first.timed is not None:
        found |= {"latency_ms": first.timed.latency_ms.value, "speedup": first.timed.speedup.value}
    for row in rows:
        c = row.compared
        if row.attack == CLEAN:
            found |= {"clean_accuracy": c.clean.value, "base_clean_accuracy": c.base_clean.value}
            found |= {"clean_agreement": c.agreement.value}
            continue
        place = row.attack if row.eps is None else f"{row.attack} {row.eps:.4g}"
        for name in ("base", "static", "adaptive", "transfer", "gap_static", "gap_adaptive"):
            found[f"{name}/{place}"] = getattr(c, name).value
        found[f"l2_base/{place}"], found[f"l2_adaptive/{place}"] = row.l2_base, row.l2_adaptive
    return {key: float(value) for key, value in found.items() if value is not None and math.isfinite(value)}
