"""How much a cluster may grow, read from what `ray up` leaves on its head."""

from __future__ import annotations

from pathlib import Path

import pytest

from eed_search.search.execution.ray_cluster import may_come

FILE = """
max_workers: 5
head_node_type: head
available_node_types:
  head: {max_workers: 0, resources: {CPU: 4}}
  small: {min_workers: 0, max_workers: 4, resources: {CPU: 2}}
  gpu: {max_workers: 3, resources: {CPU: 8, GPU: 1}}
"""


def test_workers_are_counted_up_to_both_limits(tmp_path: Path) -> None:
    """The head is none of them; the larger ones come first."""
    (tmp_path / "c.yaml").write_text(FILE)
    nodes = may_come(tmp_path / "c.yaml")
    assert [(node.cpus, node.gpus) for node in nodes] == [(8, 1)] * 3 + [(2, 0)] * 2


@pytest.mark.parametrize("text", ["", "max_workers: many\n", "[1]", "max_workers: 3\n", "{"])
def test_what_cannot_be_read_counts_nothing(tmp_path: Path, text: str) -> None:
    """Then only the nodes that are there count."""
    (tmp_path / "c.yaml").write_text(text)
    assert may_come(tmp_path / "c.yaml") == []
    assert may_come(tmp_path / "none.yaml") == []
