"""Where each kind of work goes, for made-up nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from eed_search.core.errors import RunError
from eed_search.search.execution import placement
from eed_search.search.execution.placement import Cluster, Node, OneMachine, fitting

HEAD = Node("a" * 56, "10.0.0.1", {"CPU": 2.0, "node:10.0.0.1": 1.0})
GPU = Node("b" * 56, "10.0.0.2", {"CPU": 8.0, "GPU": 2.0})
WIDE = Node("c" * 56, "10.0.0.3", {"CPU": 64.0})
BOARD = Node("d" * 56, "10.0.0.4", {"CPU": 4.0, "edge": 1.0})


def cluster(*nodes: Node, kind: str | None = None) -> Cluster:
    """Make one whose driver runs on the head."""
    return Cluster(lambda: nodes, HEAD.id, kind)


def place(options: dict[str, Any]) -> str:
    """Give the node that options name."""
    return str(options["scheduling_strategy"].node_id)


def test_training_with_a_machine_to_itself_goes_to_the_gpus() -> None:
    """More processors do not outweigh them."""
    options = cluster(HEAD, GPU, WIDE).whole("train_base")
    assert place(options) == GPU.id
    assert (options["num_cpus"], options["num_gpus"]) == (8.0, 2.0)


@pytest.mark.parametrize("what", ["prepare", "final_latencies"])
def test_what_is_timed_goes_to_the_drivers_node(what: str) -> None:
    """The same for all of a search."""
    assert place(cluster(HEAD, GPU, WIDE).whole(what)) == HEAD.id
    assert place(cluster(HEAD, GPU, WIDE).probe()) == HEAD.id


@pytest.mark.parametrize("what", ["prepare", "final_latencies"])
def test_what_is_timed_goes_to_the_kind_of_node_that_is_named(what: str) -> None:
    """With all of its processors: nothing else runs there."""
    options = cluster(HEAD, GPU, BOARD, kind="edge").whole(what)
    assert place(options) == BOARD.id
    assert options["num_cpus"] == 4.0


def test_the_probe_keeps_a_named_kind_of_node_free_of_trials() -> None:
    """And may move to another board of that kind, with the measurements that wait for it."""
    options = cluster(HEAD, GPU, BOARD, kind="edge").probe()
    assert (options["num_cpus"], options["max_restarts"], options["max_task_retries"]) == (4.0, -1, -1)
    assert 0 < options["resources"]["edge"] < 1


def test_a_kind_that_is_nowhere_is_an_error_that_says_how_one_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a wait that is said."""
    monkeypatch.setattr(placement, "_WAIT_S", 0.0)
    monkeypatch.setattr(placement, "_LOOK_S", 0.0)
    said: list[str] = []
    nodes = [HEAD, Node("e" * 56, "10.0.0.5", {"CPU": 1.0, "board": 1.0})]
    with pytest.raises(RunError, match=r"edge: no node .*\(there: board\).*--resources='\{\"edge\": 1\}'"):
        Cluster(lambda: nodes, HEAD.id, "edge", said.append).whole("prepare")
    assert said == ["waits for a node with the resource edge (latency.node)"]


def test_a_node_that_comes_later_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may only just be starting."""
    monkeypatch.setattr(placement, "_LOOK_S", 0.0)
    looks: list[Sequence[Node]] = [[HEAD], [HEAD], [HEAD, BOARD]]
    assert Cluster(lambda: looks.pop(0), HEAD.id, "edge").target() == BOARD


def test_a_trial_does_not_span_two_nodes() -> None:
    """So the nodes are counted one by one."""
    assert fitting([HEAD, GPU], cpu=3, gpu=0) == 2
    assert fitting([HEAD, GPU], cpu=1, gpu=0.5) == 4
    assert fitting([HEAD, GPU, WIDE], cpu=1, gpu=0) == 74
    assert fitting([HEAD, GPU], cpu=0, gpu=0.25) == 8


def test_one_machine_is_taken_whole_and_waits_for_nobody() -> None:
    """What a lost process was doing is done again, twice, as a trial is."""
    machine = OneMachine(4.0, 1.0)
    assert machine.whole("prepare") == {"num_cpus": 4.0, "num_gpus": 1.0, "max_retries": 0}
    assert (machine.tries, machine.takes_turns) == (3, frozenset())
