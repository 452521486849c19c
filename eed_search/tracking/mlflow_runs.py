"""The runs of one search in MLflow: each found again or made once, filled, ended; doubles removed.

A call that was not answered may have been heard, or be heard later: MLflow gives no key by which a run would be made
once. So whoever is not sure looks a run up by its tags before it is made again, and once more in the end. Of
doubles the best filled one stays, of equal ones that with the smallest id, and the others are deleted.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from eed_search.core.failpoints import fail_point
from eed_search.core.texts import as_utf8
from eed_search.runs.ledger import NO_RESULT

if TYPE_CHECKING:
    from mlflow.entities import Run

    from eed_search.tracking.mlflow_store import MlflowStore

T = TypeVar("T")
Step = tuple[float, int, Mapping[str, float | None]]  # when it was, in seconds since 1970, its number, and metrics

PARENT_TAG = "mlflow.parentRunId"
UID_TAG = "search_uid"
ENDS = {"done": "FINISHED", "infeasible": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_MAX_TEXT = 5000  # servers older than ours refuse longer tags
_PAGE = 100  # runs of one answer, each with all of its tags
_FEW = 20  # so many children are looked up one by one: of a thousand, all together take seconds
_LATE_S = 5.0  # a call that was not answered is heard within this time once its server answers again


@dataclass(frozen=True)
class Kind:
    """What runs belong to, and the tags that tell.

    Attributes:
        name: Tag `kind` of the parent's run.
        uid: Tag by which a parent's run is found.
        child: Tag with a child's point or title.
        by_parent: Whether children are found by their parent's run alone: earlier versions gave them no other sign.
        timed: Whether a child that is whole says how long it took.
    """

    name: str
    uid: str
    child: str
    by_parent: bool = False
    timed: bool = True


SEARCH = Kind("search", UID_TAG, "point")
BENCHMARK = Kind("benchmark", "benchmark_uid", "network", by_parent=True, timed=False)


@dataclass(frozen=True)
class Child:
    """A run below the search's own.

    Attributes:
        point: The point's id, or the reference's name.
        title: The run's name.
        params: Its parameters.
        metrics: Its metrics; those that are no finite numbers are left out.
        tags: Its tags.
        status: MLflow's word for its end.
        seconds: How long it took.
        at: When it ended, in seconds since 1970.
    """

    point: str
    title: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    tags: Mapping[str, Any]
    status: str
    seconds: float
    at: float

    @property
    def is_final(self) -> bool:
        """Whether no other end may follow: one that was stopped, or was out of time, may run again."""
        return self.tags.get("reason") not in NO_RESULT


@dataclass
class _Known:
    """A child that is in MLflow, and what stands in it."""

    run_id: str
    complete: bool = False
    frontier: str = ""


class Runs:
    """What MLflow holds of one search, or of one benchmark.

    Args:
        store: Where its runs lie.
        kind: What they belong to.
        uid: Names it among all that ever wrote to this MLflow.
        common: Tags of every child.

    Attributes:
        parent_id: MLflow's id of the search's own run; empty while there is none.
        num_calls: Calls that MLflow has answered: shows whether it is alive.
    """

    def __init__(self, store: MlflowStore, kind: Kind, uid: str, common: Mapping[str, Any]) -> None:
        self.parent_id = ""
        self.num_calls = 0
        self._client, self._experiment_id, self._at_once = store.client, store.experiment_id, store.at_once
        self._kind, self._uid, self._common = kind, uid, texts(common)
        self._children: dict[str, _Known] = {}
        self._looked = False
        self._doubted: set[str] = set()  # points of which a run may be made that nobody has heard of yet

    # ------------------------------------------------------------ the search's own run

    def find_parent(self, known: str = "") -> bool:
        """Find the search's own run; of doubles one is kept.

        Args:
            known: Its id, as the ledger has it; empty where it has none.

        Returns:
            Whether there is one.
        """
        found = self._search(f"tags.`{self._kind.uid}` = '{self._uid}' and tags.kind = '{self._kind.name}'")
        if not found:
            self._looked = True  # nor are there any children
            return False
        best = min(found, key=lambda run: (run.info.run_id != known, run.info.start_time, run.info.run_id))
        self.parent_id = str(best.info.run_id)
        self._delete([run for run in found if run is not best])
        self._client.update_run(self.parent_id, status="RUNNING")
        self._client.set_tag(self.parent_id, "state", "running")
        return True

    def make_parent(self, name: str, tags: Mapping[str, Any], params: Mapping[str, Any]) -> None:
        """Make the search's own run."""
        fail_point("tracker.create")
        run = self._client.create_run(
            self._experiment_id, tags=texts({"kind": self._kind.name, **tags, self._kind.uid: self._uid}), run_name=name
        )
        fail_point("tracker.created")
        self.parent_id = str(run.info.run_id)
        self.log("", params=params)

    def attach(self, path: Path, folder: str) -> None:
        """Attach a file to the search's own run."""
        self._client.log_artifact(self.parent_id, str(path), folder)
        self.num_calls += 1

    def end_parent(self, status: str, state: str) -> None:
        """End the search's own run."""
        self._client.set_tag(self.parent_id, "state", state)
        self._client.set_terminated(self.parent_id, status)
        self.num_calls += 1

    # ------------------------------------------------------------ children

    def look_up(self) -> None:
        """Find what MLflow holds of the search's children, once; of doubles one is kept."""
        if self._looked:
            return
        there: dict[str, list[Run]] = {}
        for run in self._search(self._below):
            if point := run.data.tags.get(self._kind.child):
                there.setdefault(point, []).append(run)
        for point, found in there.items():
            self._keep_best(point, found)
        self._looked = True

    def is_complete(self, point: str) -> bool:
        """Whether a child is there and has its last end."""
        return point in self._children and self._children[point].complete

    def put(self, children: Iterable[Child]) -> None:
        """Make, fill and end children, several at once; those that are half written are completed.

        Raises:
            Exception: The first that MLflow raised; what is not written then is written by another call.
        """
        last = {child.point: child for child in children}
        if len(last) > _FEW:
            self.look_up()
        self._each(self._put, last.values())

    def log(
        self,
        point: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        tags: Mapping[str, Any] | None = None,
        step: int = 0,
        at: float | None = None,
    ) -> None:
        """Write to a child, or to the search's own run where the point is empty; passed over where there is none.

        The same values for the same step and time are kept once, however often they come.
        """
        if point and not self._is_there(point):
            return
        run_id = self._children[point].run_id if point else self.parent_id
        self._log(run_id, params or {}, [(time.time() if at is None else at, step, metrics or {})], tags or {})

    def log_steps(self, steps: Sequence[Step]) -> None:
        """Write metrics of the search's own run."""
        if steps:
            self._log(self.parent_id, {}, steps, {})

    def mark(self, places: Mapping[str, str]) -> None:
        """Set the tag `frontier` of children by point, where it is another one now."""

        def mark(point: str) -> None:
            known = self._children[point]
            self._client.set_tag(known.run_id, "frontier", places[point])
            known.frontier = places[point]
            self.num_calls += 1

        self._each(mark, [p for p in places if p in self._children and self._children[p].frontier != places[p]])

    def end_open(self) -> None:
        """Remove doubles that came late, then end as KILLED what is still RUNNING below the search's own run."""
        if self._doubted:
            time.sleep(_LATE_S)
        for point in sorted(self._doubted):
            self._find(point)
            self._doubted.discard(point)
        query = f"tags.`{PARENT_TAG}` = '{self.parent_id}' and attributes.status = 'RUNNING'"
        for run in self._search(query):
            self._client.set_terminated(run.info.run_id, "KILLED")
            self.num_calls += 1

    # ------------------------------------------------------------ one child

    def _put(self, child: Child) -> None:
        if self.is_complete(child.point):
            return
        if made := not self._is_there(child.point):
            self._make(child)
        known = self._children[child.point]
        # What an earlier end of the same trial said is overwritten, by nothing too.
        tags = {} if made else texts(child.tags, empty=True)
        self._log(known.run_id, child.params, [(child.at, 0, child.metrics)], tags)
        self._client.set_terminated(known.run_id, child.status, end_time=int(1000 * child.at))
        self.num_calls += 1
        known.frontier = str(child.tags.get("frontier", ""))
        known.complete = child.is_final

    def _make(self, child: Child) -> None:
        start = int(1000 * (child.at - (child.seconds if math.isfinite(child.seconds) else 0)))
        mine = {PARENT_TAG: self.parent_id, self._kind.uid: self._uid, self._kind.child: child.point}
        tags = {**self._common, **texts({**mine, **child.tags})}
        again = child.point in self._doubted
        fail_point("tracker.create")
        self._doubted.add(child.point)
        run = self._client.create_run(self._experiment_id, start, tags, child.title)
        fail_point("tracker.created")
        self._children[child.point] = _Known(str(run.info.run_id))
        if not again:
            self._doubted.discard(child.point)

    def _is_there(self, point: str) -> bool:
        """Whether MLflow has a child; asked where it is not known, or not sure."""
        if point not in self._children and (point in self._doubted or not self._looked):
            self._find(point)
        return point in self._children

    def _find(self, point: str) -> None:
        found = self._search(f"{self._below} and tags.{self._kind.child} = '{point}'")
        if found:
            self._keep_best(point, found)

    def _keep_best(self, point: str, found: Sequence[Run]) -> None:
        """Take one of a point's runs for it, and delete the others."""
        best = min(found, key=lambda run: (not self._whole(run), -len(run.data.metrics), run.info.run_id))
        self._delete([run for run in found if run is not best])
        if best.data.tags.get(PARENT_TAG) != self.parent_id:  # the search's own run was doubled too
            self._client.set_tag(best.info.run_id, PARENT_TAG, self.parent_id)
        frontier = best.data.tags.get("frontier", "")
        self._children[point] = _Known(str(best.info.run_id), self._whole(best), frontier)

    def _delete(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self._client.delete_run(run.info.run_id)
            self.num_calls += 1

    @property
    def _below(self) -> str:
        """The query that finds all children."""
        if self._kind.by_parent:
            return f"tags.`{PARENT_TAG}` = '{self.parent_id}'"
        return f"tags.`{self._kind.uid}` = '{self._uid}'"

    def _whole(self, run: Run) -> bool:
        """Whether a child has all that belongs into it: its metrics come after its parameters, its end after both."""
        tags = run.data.tags
        ended = run.info.status == ENDS.get(tags.get("outcome", "done"))
        return ended and ("seconds" in run.data.metrics or not self._kind.timed) and tags.get("reason") not in NO_RESULT

    # ------------------------------------------------------------ MLflow itself

    def _search(self, query: str) -> list[Run]:
        found: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], query, max_results=_PAGE, page_token=token)
            found += page
            self.num_calls += 1
            token = page.token
            if not token:
                return found

    def _log(self, run_id: str, params: Mapping[str, Any], steps: Sequence[Step], tags: Mapping[str, Any]) -> None:
        """Write to a run in one call, or in as few as MLflow's limits allow."""
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run_id,
            metrics=[
                Metric(key, float(value), int(1000 * at), step)
                for at, step, metrics in steps
                for key, value in metrics.items()
                if value is not None and math.isfinite(value)
            ],
            params=[Param(key, value) for key, value in texts(params, empty=True).items()],
            tags=[RunTag(key, value) for key, value in texts(tags, empty=True).items()],
        )
        self.num_calls += 1

    def _each(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Do something for each item, several at once; the first error ends it and is raised."""
        left, errors = deque(items), deque[Exception]()

        def go_on() -> None:
            while left and not errors:
                with suppress(IndexError):  # another one was faster
                    item = left.popleft()
                    try:
                        work(item)
                    except Exception as error:
                        errors.append(error)

        others = [threading.Thread(target=go_on, daemon=True) for _ in range(min(self._at_once, len(left)) - 1)]
        for thread in others:
            thread.start()
        go_on()
        for thread in others:
            thread.join()
        if errors:
            raise errors[0]


def texts(table: Mapping[str, Any], *, empty: bool = False) -> dict[str, str]:
    """Turn values into texts that every MLflow server takes; leave empty ones out unless asked."""
    found = {_name(key): as_utf8(str(value))[:_MAX_TEXT] for key, value in table.items()}
    return found if empty else {key: text for key, text in found.items() if text}


def _name(key: str) -> str:
    """Keep to the characters that MLflow allows in names."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in key)[:250]
