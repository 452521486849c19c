"""What does a decision cost? ParetoRacing under the simulated clock, with trials that cost nothing.

    python benchmarks/overhead.py [--trials 1000 10000] [--levels 10] [--workers 8]

Random trials report two metrics at each level. What is timed: `on_trial_result` (the decision) and
`choose_trial_to_run`, in real time, once for each report. What must hold at 1,000 trials: a median of
at most 5 ms a decision.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from ray.tune.search import Searcher  # noqa: E402

from eed_search.search.pareto_racing import ParetoRacing  # noqa: E402
from eed_search.search.simulator import simulate  # noqa: E402

BAR_MS = 5.0


class Chance(Searcher):
    """Proposes random trials, a given number of them."""

    def __init__(self, num_trials: int) -> None:
        super().__init__()
        self._left = num_trials
        self._dice = random.Random(0)

    def suggest(self, trial_id: str) -> Any:
        """Draw two numbers."""
        if self._left == 0:
            return Searcher.FINISHED
        self._left -= 1
        return {"best": self._dice.random(), "cost": self._dice.random()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""


def measure(num_trials: int, levels: int, workers: int) -> dict[str, float]:
    """Race random trials.

    Returns:
        Medians and 95th percentiles in milliseconds, decisions, and seconds in all.
    """

    def learn(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        for step in range(1, levels + 1):
            yield 1.0, {"accuracy": config["best"] * (1 - 0.5 / step), "cost": config["cost"], "step": step}

    scheduler = ParetoRacing(
        {"accuracy": "max", "cost": "min"}, resource="step", levels=tuple(range(1, levels + 1)), finish_undecided=False
    )
    start = time.perf_counter()
    found = simulate(Chance(num_trials), scheduler, learn, workers=workers)
    seconds = time.perf_counter() - start
    decide = 1000 * np.array(found.decision_seconds)
    choose = 1000 * np.array(found.seconds["scheduler.choose_trial_to_run"])
    return {
        "trials": float(num_trials),
        "decisions": float(len(decide)),
        "decision_ms": float(np.median(decide)),
        "decision_p95_ms": float(np.quantile(decide, 0.95)),
        "choice_ms": float(np.median(choose)),
        "choice_p95_ms": float(np.quantile(choose, 0.95)),
        "seconds": seconds,
        "ms_a_trial": 1000 * seconds / num_trials,
    }


def main() -> int:
    """Measure, print, and say whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    met = True
    for num_trials in options.trials:
        row = measure(num_trials, options.levels, options.workers)
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
        met = met and (num_trials > 1000 or row["decision_ms"] <= BAR_MS)
    print(f"median decision at most {BAR_MS:g} ms up to 1,000 trials: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
