"""How busy does one driver keep a cluster, and how much memory do a thousand trials cost it?

    python benchmarks/throughput.py [--slots 64] [--raylets 4] [--trials 256] [--seconds 60] [--sampler portfolio]

A whole search (Tune, Optuna, ledger, MLflow on SQLite) over several raylets of this machine, joined as a cluster is.
A trial sleeps and computes nothing: it imports no torch, so what is measured is the driver. Each writes down when it
began and ended. `busy` is the share of the slots' time in which a trial slept, from when as many trials ran as there
are slots (starting the workers' processes is the machine's work) until the last one began. `driver_mib` is the
driver's largest resident size. `--slots 8 --trials 1000 --seconds 0.5` asks for the second figure alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"


def busy_share(spans: list[tuple[float, float]], slots: int) -> tuple[float, float]:
    """Say how busy the slots were while there was enough to do.

    Args:
        spans: When each trial began and ended, in seconds.
        slots: How many can run at once.

    Returns:
        The share of the slots' time in use, and the seconds of the window; zeros if the slots were never all in use.
    """
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans], key=lambda c: (c[0], -c[1]))
    running, full = 0, None
    for at, change in changes:
        running += change
        if running >= slots:
            full = at
            break
    last = max((start for start, _ in spans), default=0.0)
    if full is None or last <= full:
        return 0.0, 0.0
    used = sum(max(0.0, min(end, last) - max(start, full)) for start, end in spans)
    return used / (slots * (last - full)), last - full


def main() -> None:
    """Run it and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--raylets", type=int, default=4)
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sampler", default="portfolio")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eed-throughput-", ignore_cleanup_errors=True) as folder:
        print(json.dumps(measure(Path(folder), **vars(given))))


def measure(folder: Path, *, slots: int, raylets: int, trials: int, seconds: float, sampler: str) -> dict[str, Any]:
    """Run one search and take its figures."""
    spans_file = folder / "spans"
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "EED_SPANS": str(spans_file),
        "EED_SLEEP": str(seconds),
    }
    from ray.cluster_utils import Cluster

    from eed_search.config.spec import Baselines, Resources, Search, Spec, Threat
    from eed_search.search import Silent, run
    from eed_search.search.execution.ray_cluster import on_ray_cluster
    from tests.cluster import sleeping_pipeline

    each = [slots // raylets + (i < slots % raylets) for i in range(raylets)]
    small = {"object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": each[0], **small})
    try:
        for cpus in each[1:]:
            cluster.add_node(num_cpus=cpus, **small)
        spec = Spec(
            name="throughput",
            threat=Threat(eps=0.15),
            search=Search.model_validate(
                {"trials": trials, "racing": False, "sampler": sampler, "trial_timeout_s": None}
            ),
            baselines=Baselines(sizes=()),
            resources=Resources(cpu=1),
        )
        begin = time.monotonic()
        with on_ray_cluster(cluster.address) as workers:
            view = run(
                spec, home=folder / "home", name="one", pipeline=sleeping_pipeline, listener=Silent(), workers=workers
            )
        wall = time.monotonic() - begin
    finally:
        cluster.shutdown()
    spans = [(float(a), float(b)) for a, b in (line.split() for line in spans_file.read_text().splitlines())]
    share, window = busy_share(spans, slots)
    return {
        "slots": slots,
        "raylets": raylets,
        "trials": len(view.trials),
        "done": sum(trial.outcome == "done" for trial in view.trials.values()),
        "seconds_each": seconds,
        "sampler": sampler,
        "busy": round(share, 4),
        "window_s": round(window, 1),
        "wall_s": round(wall, 1),
        "driver_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
