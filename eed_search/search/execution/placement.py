"""Where under Ray each kind of work goes: on this machine alone, or over the nodes of a cluster.

Trials and baselines go wherever there is room. What must not share its machine (the dense base's training, the checks of
the frontier) gets one node to itself; what is timed goes to the target: the driver's own node, or the kind of node that
`latency.node` names. Latencies of different machines do not compare, so all of a search's come from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eed_search.core.errors import RunError

PROBE_RESOURCE = "latency_probe"
TIMED = frozenset({"prepare", "final_latencies"})
_SLIVER = 0.001  # amount of a node's custom resource: enough to be placed there
# The probe is started again as often as it hangs or dies; what waits for it then is measured by the next one.
_AGAIN = {"max_restarts": -1, "max_task_retries": 2}
_WAIT_S, _LOOK_S = 120.0, 0.5


@dataclass(frozen=True)
class Node:
    """A node of a cluster that is there now.

    Attributes:
        id: Ray's.
        address: Address of its Ray process.
        resources: What it has, by name: `CPU`, `GPU`, custom ones such as `edge`.
    """

    id: str
    address: str
    resources: Mapping[str, float]

    @property
    def cpus(self) -> float:
        """Processors that Ray may use."""
        return self.resources.get("CPU", 0.0)

    @property
    def gpus(self) -> float:
        """Graphics processors."""
        return self.resources.get("GPU", 0.0)


class Placement(Protocol):
    """Options for Ray's tasks and actors, by what they do."""

    @property
    def tries(self) -> int:
        """How often a task that has a machine to itself is started when its process or its machine is lost."""

    @property
    def takes_turns(self) -> frozenset[str]:
        """Functions of the pipeline that only time, and wait until no other search does so on their machine."""

    def whole(self, what: str) -> dict[str, Any]:
        """For a task that has one machine to itself; `what` is the pipeline's function."""

    def probe(self) -> dict[str, Any]:
        """For the one actor that measures latencies."""

    def monitor(self) -> dict[str, Any]:
        """For the actor that takes the workers' lines."""


@dataclass(frozen=True)
class OneMachine:
    """Everything on this machine.

    Attributes:
        num_cpus: Its processors.
        num_gpus: Its graphics processors.
    """

    num_cpus: float
    num_gpus: float
    tries: int = 3
    takes_turns: frozenset[str] = frozenset()  # `prepare` trains as well: too long to make others wait

    def whole(self, what: str) -> dict[str, Any]:
        """All of it."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "max_retries": 0}

    def probe(self) -> dict[str, Any]:
        """The session's one slot for measuring."""
        return {"num_cpus": 0, "resources": {PROBE_RESOURCE: 1}, **_AGAIN}

    def monitor(self) -> dict[str, Any]:
        """No processor of its own."""
        return {"num_cpus": 0, "max_restarts": -1}


class Cluster:
    """The nodes of a cluster.

    Args:
        nodes: Gives those that are there now.
        driver: The id of the node that the driver runs on.
        kind: The custom resource that marks the nodes whose latency counts; none takes the driver's node.
        note: Told what is waited for.
    """

    tries = 3
    takes_turns = TIMED

    def __init__(
        self,
        nodes: Callable[[], Sequence[Node]],
        driver: str,
        kind: str | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._nodes, self._driver, self._kind, self._note = nodes, driver, kind, note

    def whole(self, what: str) -> dict[str, Any]:
        """One node with all its processors: the target for what is timed, else the largest.

        Raises:
            RunError: If no node is of the kind whose latency counts.
        """
        node = self.target() if what in TIMED else max(self._nodes(), key=lambda one: (one.gpus, one.cpus, one.id))
        return {"num_cpus": node.cpus, "num_gpus": node.gpus, "max_retries": 0, **only_on(node)}

    def probe(self) -> dict[str, Any]:
        """The target; a node of a kind of its own is kept free of trials meanwhile."""
        node = self.target()
        if self._kind is None:
            return {"num_cpus": 0, **_AGAIN, **only_on(node)}
        # Placed by its kind, so that another board of that kind takes over where one is lost.
        return {
            "num_cpus": node.cpus,
            "resources": {self._kind: _SLIVER},
            "max_restarts": -1,
            "max_task_retries": -1,
        }

    def monitor(self) -> dict[str, Any]:
        """Beside the driver: it lives as long as the search does."""
        node = next(one for one in self._nodes() if one.id == self._driver)
        return {"num_cpus": 0, "max_restarts": -1, **only_on(node)}

    def target(self) -> Node:
        """Find the node whose latency counts; one that is on its way is waited for.

        Raises:
            RunError: If none of the kind is there in time; says how one joins.
        """
        if self._kind is None:
            return next(one for one in self._nodes() if one.id == self._driver)
        deadline = time.monotonic() + _WAIT_S
        said = False
        while True:
            nodes = self._nodes()
            if found := [one for one in nodes if one.resources.get(self._kind, 0) > 0]:
                return min(found, key=lambda one: one.id)
            if not said:
                self._note(f"waits for a node with the resource {self._kind} (latency.node)")
                said = True
            if time.monotonic() > deadline:
                there = ", ".join(sorted({n for one in nodes for n in one.resources if _is_custom(n)})) or "none"
                raise RunError(
                    f"latency.node: {self._kind}: no node of the cluster has this resource (there: {there}). Let one join:"
                    f" `ray start --address=HEAD:6379 --num-cpus=0 --resources='{{\"{self._kind}\": 1}}'` on it, or take"
                    " latency.node out of the file"
                )
            time.sleep(_LOOK_S)


def fitting(nodes: Sequence[Node], cpu: float, gpu: float) -> int:
    """Count the trials that fit at once, node by node: a trial does not span two."""
    counts = []
    for node in nodes:
        parts = [there / asked for asked, there in ((cpu, node.cpus), (gpu, node.gpus)) if asked > 0]
        counts.append(int(min(parts, default=node.cpus) + 1e-9))
    return sum(counts)


def only_on(node: Node) -> dict[str, Any]:
    """Options for what must run on one node and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False)}


def _is_custom(name: str) -> bool:
    """Whether a resource is one that somebody gave a node, not Ray's own."""
    return not name.startswith(("node:", "accelerator_type:", "object_store_memory", "memory", "CPU", "GPU"))
