"""The rules for own machines reached by ssh: what Ray's launcher needs there, and what no file can show."""

from __future__ import annotations

from collections.abc import Iterator

from eed_search.cluster.cluster_file import ClusterFile
from eed_search.cluster.finding import Finding
from eed_search.cluster.shell import Call, calls


def findings(cluster: ClusterFile) -> Iterator[Finding]:
    """Judge what is special to `provider.type: local`.

    Args:
        cluster: A file of own machines.

    Yields:
        A finding for each setting.
    """
    starts = [call for call in calls(_texts(cluster.raw.get("head_start_ray_commands"))) if call.runs("ray", "start")]
    if starts and "coordinator_address" not in cluster.raw["provider"]:
        yield _autoscaler(starts[0])
        yield _address(cluster, starts[0])
    yield Finding(
        "note",
        "firewall",
        "cannot be judged from the file: Ray listens on every address of the nodes, and its traffic is not encrypted",
        "let only these machines reach each other; from outside leave the ssh port alone open",
    )


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _autoscaler(start: Call) -> Finding:
    what = "head_start_ray_commands: RAY_enable_autoscaler_v2"
    if start.environment.get("RAY_enable_autoscaler_v2") == "0":
        return Finding("ok", what, "the autoscaler that can count own machines")
    text = "Ray's new autoscaler counts the head as a worker on own machines, and leaves one of them out"
    return Finding("wrong", what, text, "write RAY_enable_autoscaler_v2=0 right before ray start")


def _address(cluster: ClusterFile, start: Call) -> Finding:
    what = "head_start_ray_commands: --node-ip-address"
    given = start.options("--node-ip-address")
    if given == [cluster.head_address]:
        return Finding("ok", what, f"{cluster.head_address}, as provider.head_ip")
    text = (
        f"is {given[0]}, not provider.head_ip" if given else "is not set: Ray may choose one that workers cannot reach"
    )
    return Finding("wrong", what, text, f"set --node-ip-address={cluster.head_address}")
