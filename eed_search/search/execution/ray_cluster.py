"""A search on a Ray that already runs: the driver joins it, trials go to every node, our code goes with them.

Its workers are what `local_ray` gives, but for the places (`placement.Cluster`) and for what a lost node takes with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from eed_search.config.spec import Resources
from eed_search.core.errors import RunError
from eed_search.search.execution import ray_glue
from eed_search.search.execution.package import is_sent, pack
from eed_search.search.execution.placement import Cluster, Node, fitting, only_on
from eed_search.search.execution.ray_session import (
    logs_not_on_terminal,
    quiet_environment,
    variables,
    without_arguments,
)
from eed_search.search.execution.ray_workers import RayWorkers
from eed_search.search.execution.reachable import check_ray
from eed_search.search.execution.workers import Pipeline, Poll
from eed_search.system.private import clear_leftovers, temporary_folder

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
_HEAD_MARK = "node:__internal_head__"
WORKER_VARIABLES = {"RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextmanager
def on_ray_cluster(address: str, latency_node: str | None = None) -> Iterator[ClusterWorkers]:
    """Join a running Ray for the length of a search; leaves it as it was.

    Args:
        address: `auto`, or HOST:PORT of Ray on one of its nodes.
        latency_node: The custom resource of the nodes whose latency counts; none takes this one.

    Raises:
        RunError: If there is none, or it refuses.
    """
    quiet_environment()
    import ray

    check_ray(address, "")
    clear_leftovers()
    with logs_not_on_terminal(), temporary_folder("join") as folder:
        options: dict[str, Any] = {}
        if not is_sent():
            (code := folder / "code").mkdir()
            options["runtime_env"] = {"working_dir": str(pack(code, {})), "env_vars": WORKER_VARIABLES}
        try:
            with without_arguments():
                ray.init(address=address, log_to_driver=False, configure_logging=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            ray.shutdown()
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RunError(
                f"no Ray to join at {address} ({first}); `ray status` on one of its nodes shows it, `ray up FILE` starts"
                " one, `--local` searches on this machine alone"
            ) from error
        try:
            with variables({"RAY_TMPDIR": str(folder)}):  # for lock files; while joining it says where to look for Ray
                yield ClusterWorkers(latency_node)
        finally:
            ray.shutdown()


def nodes() -> list[Node]:
    """List the nodes that are there now."""
    import ray

    return [Node(one["NodeID"], one["NodeManagerAddress"], one["Resources"]) for one in ray.nodes() if one["Alive"]]


class ClusterMachine(ray_glue.Machine):
    """What the nodes have between them now; it grows and shrinks."""

    def __init__(self) -> None:
        there = nodes()
        super().__init__(sum(one.cpus for one in there), sum(one.gpus for one in there))

    def slots(self, resources: Resources) -> int:
        """Count the trials that fit at once, on the nodes that are there or on those that the autoscaler may start.

        What waits for a node is what makes the autoscaler start one, so the larger of both counts.

        Raises:
            SpecError: If not even one fits on a node.
        """
        there, later = nodes(), may_come(BOOTSTRAP)
        every = [*there, *later]
        ray_glue.Machine(max(one.cpus for one in every), max(one.gpus for one in every)).slots(resources)
        heads = [one for one in there if one.resources.get(_HEAD_MARK)]
        fit = [fitting(those, resources.cpu, resources.gpus) for those in (there, [*heads, *later])]
        return max(1, *fit)


def may_come(file: Path) -> list[Node]:
    """List the workers that the autoscaler may have at once.

    Args:
        file: The cluster's file as `ray up` completed it and left it on the head; none elsewhere.
    """
    with suppress(OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        given = yaml.safe_load(file.expanduser().read_text(encoding="utf-8"))
        left = int(given["max_workers"])
        found = []
        kinds = {name: kind for name, kind in given["available_node_types"].items() if name != given["head_node_type"]}
        for name, kind in sorted(kinds.items(), key=lambda one: _size(one[1]), reverse=True):
            count = min(left, int(kind.get("max_workers", 0)))
            resources = {what: float(amount) for what, amount in (kind.get("resources") or {}).items()}
            found += [Node(f"{name}-{i}", "", resources) for i in range(count)]
            left -= count
        return found
    return []


def _size(kind: Mapping[str, Any]) -> tuple[float, float]:
    resources = kind.get("resources") or {}
    return float(resources.get("GPU", 0)), float(resources.get("CPU", 0))


class ClusterWorkers(RayWorkers):
    """Every node of a running Ray.

    Args:
        latency_node: The custom resource of the nodes whose latency counts; none takes the driver's.
    """

    def __init__(self, latency_node: str | None = None) -> None:
        import ray

        here = ray.get_runtime_context().get_node_id()
        self._waiting: dict[str, str] = {}
        placement = Cluster(nodes, here, latency_node, note=lambda text: self._waiting.update({"cluster": text}))
        super().__init__(ClusterMachine(), placement)
        self._separate = latency_node is not None or len(nodes()) > 1

    def stages(self) -> dict[str, str]:
        """Give every worker's line, and what is waited for."""
        return super().stages() | self._waiting

    def alone(
        self, pipeline: Pipeline, what: str, arguments: Mapping[str, Any], *, who: str, poll: Poll, **watched: Any
    ) -> Any:
        """Call one function of the pipeline with one node to itself.

        Training and timing have different places here, so the dense base is trained first, where there is most; timing
        then finds it in the store.
        """
        if what == "prepare":
            self._check_storage(arguments)
            if self._separate and hasattr(pipeline, "train_base"):
                super().alone(pipeline, "train_base", arguments, who=who, poll=poll, **watched)
        try:
            return super().alone(pipeline, what, arguments, who=who, poll=poll, **watched)
        finally:
            self._waiting.clear()

    def _check_storage(self, arguments: Mapping[str, Any]) -> None:
        """See whether all nodes write to the same place, before hours of work show that they do not.

        Raises:
            RunError: If one does not; names it.
        """
        import ray

        if arguments["spec"].storage.url:
            return  # files go by URL: nothing has to be shared
        home = Path(arguments["store_root"]).parent
        with tempfile.NamedTemporaryFile(dir=home, prefix=".shared-") as mark:
            look = ray.remote(_writes_beside)
            asked = {one.address: look.options(num_cpus=0, **only_on(one)).remote(mark.name) for one in nodes()}
            for address, ref in asked.items():
                problem = ray.get(ref)
                if problem:
                    raise RunError(
                        f"{home}: the node {address} {problem}; take a folder that all nodes share (`--home /mnt/shared/runs`), or"
                        " storage by URL (`--set storage.url=s3://…`)"
                    )


def _writes_beside(mark: str) -> str:
    """Say what keeps this node from the folder that holds a file of the driver's; nothing if it sees and can write it."""
    if not Path(mark).exists():
        return "does not see it as the head does"
    try:
        with tempfile.TemporaryFile(dir=Path(mark).parent):
            return ""
    except OSError as error:
        return f"cannot write it ({error.strerror})"
