"""One search over three raylets: where things run, and what a lost node takes with it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.calling import ROOT, environment
from tests.cluster.raylets import NUM_TRIALS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run it once."""
    folder = tmp_path_factory.mktemp("raylets")
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.raylets", str(folder)],
        cwd=ROOT,
        env={k: v for k, v in environment().items() if not k.startswith("RAY_")} | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_no_trial_fails_with_a_node(found: dict[str, Any]) -> None:
    """The one that ran there is tried again elsewhere."""
    assert found["was_killed"]
    assert found["state"] == "finished"
    assert len(found["outcomes"]) == NUM_TRIALS
    assert set(found["outcomes"]) <= {"done", "infeasible"}
    assert found["lost"] >= 1


def test_the_control_is_there(found: dict[str, Any]) -> None:
    """Wherever it ran."""
    assert found["controls"] == 1


def test_everything_is_timed_on_the_named_kind_of_node(found: dict[str, Any]) -> None:
    """And no trial runs there meanwhile."""
    timed = {node for what, node in found["places"] if what in ("prepare", "probe", "final_latencies")}
    assert timed == {found["board"]}
    assert found["board"] not in {node for what, node in found["places"] if what.startswith("trial-")}


def test_the_base_is_trained_where_there_is_most(found: dict[str, Any]) -> None:
    """On the node with two processors, not where it is timed."""
    trained = {node for what, node in found["places"] if what == "train_base"}
    assert trained == {found["killed"]}


def test_trials_go_to_several_nodes(found: dict[str, Any]) -> None:
    """Both that have room."""
    assert len({node for what, node in found["places"] if what.startswith("trial-")}) == 2
