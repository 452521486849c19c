"""A search over several raylets of this machine, one of which is killed in the middle; prints what came of it as JSON.

    python -m tests.cluster.raylets FOLDER

A process of its own: Ray's test cluster is one to a process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.waiting import HANGS_S

NUM_TRIALS = 8


def main() -> None:
    folder = Path(sys.argv[1])
    places = folder / "places"
    places.touch()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "EED_PLACES": str(places), "EED_STUB_PAUSE": "1.5"}
    from ray.cluster_utils import Cluster

    from eed_search.config.spec import Baselines, LatencySpec, Resources, Search, Spec, Threat
    from eed_search.runs.ledger import FILE_NAME, Ledger
    from eed_search.search import Silent, run
    from eed_search.search.execution.ray_cluster import nodes, on_ray_cluster
    from tests.cluster import placed_pipeline

    small = {"object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **small})
    try:
        lost = cluster.add_node(num_cpus=2, **small)
        board = cluster.add_node(num_cpus=1, resources={"edge": 1}, **small)
        spec = Spec(
            name="nodes",
            threat=Threat(eps=0.15),
            search=Search(trials=NUM_TRIALS, racing=False),
            baselines=Baselines(sizes=(0.5,)),
            resources=Resources(cpu=1),
            latency=LatencySpec(node="edge"),
        )

        def lose() -> None:
            deadline = time.monotonic() + HANGS_S
            while time.monotonic() < deadline:
                time.sleep(0.2)
                with_trial = [line for line in places.read_text().splitlines() if line.startswith("trial-")]
                if len(with_trial) >= 4 and with_trial[-1].endswith(lost.node_id):
                    cluster.remove_node(lost, allow_graceful=False)
                    return

        loser = threading.Thread(target=lose, daemon=True)
        with on_ray_cluster(cluster.address, "edge") as workers:
            there = [(node.id, node.cpus) for node in nodes()]
            slots = workers.slots(spec.resources)
            loser.start()
            view = run(
                spec, home=folder / "home", name="one", pipeline=placed_pipeline, listener=Silent(), workers=workers
            )
        with Ledger(folder / "home" / "one" / FILE_NAME) as ledger:
            events = list(ledger.events())
        found: dict[str, Any] = {
            "state": view.state,
            "outcomes": sorted(trial.outcome for trial in view.trials.values()),
            "lost": sum(e.kind == "attempt" and e.data["state"] == "lost" for e in events),
            "notes": view.notes,
            "controls": len(view.baselines),
            "places": [line.split() for line in places.read_text().splitlines()],
            "board": board.node_id,
            "killed": lost.node_id,
            "was_killed": not loser.is_alive(),
            "nodes": there,
            "slots": slots,
        }
        print(json.dumps(found))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
