"""What does a decision cost? The race under a simulated clock, with trials that cost nothing.

    python benchmarks/overhead.py [--trials 1000 10000] [--levels 10] [--workers 8] [--only defaults stopped launch]

- `defaults`: `ParetoRacing` as it comes; in the end the paused trials are finished that may still belong to the frontier.
- `stopped`: `finish_undecided=False`; in the end they are stopped.
- `launch`: `RungScheduler`, as `eed-search launch` uses it: two rungs, 300 images, trials held against each other image by image.

Random trials report two metrics, the first with noise of 0.02, at each level. What is timed, in real time: the decision on a report
(`on_trial_result`, `RungScheduler.reported`) and the choice of what to run next (`choose_trial_to_run`, `RungScheduler.to_resume`), each
time it is asked for. What must hold at 1,000 trials: a median of at most 5 ms each.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from ray.tune.search import Searcher  # noqa: E402

from benchmarks.simulator import simulate  # noqa: E402
from eed_search.core.statistics import clopper_pearson  # noqa: E402
from eed_search.runs.ledger import RungRecord  # noqa: E402
from eed_search.runs.records import pack_bits  # noqa: E402
from eed_search.search.racing.rung_scheduler import RungScheduler  # noqa: E402
from eed_search.tune.pareto_racing import ParetoRacing  # noqa: E402
from tests.tracking.factories import make_measurement, make_trial  # noqa: E402

BAR_MS = 5.0
NOISE = 0.02  # standard deviation of what is measured
NUM_IMAGES = 300
WARM_UP = 60  # trials, not reported: the first ones load libraries
VARIANTS = ("defaults", "stopped", "launch")


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


def race(num_trials: int, levels: int, workers: int, finish_undecided: bool) -> tuple[Sequence[float], Sequence[float]]:
    """Race random trials with `ParetoRacing`.

    Returns:
        Seconds of each decision, and of each choice.
    """

    def learn(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        dice = random.Random(config["best"])
        for step in range(1, levels + 1):
            accuracy = config["best"] * (1 - 0.5 / step) + dice.gauss(0, NOISE)
            yield 1.0, {"accuracy": accuracy, "cost": config["cost"], "step": step}

    scheduler = ParetoRacing(
        {"accuracy": "max", "cost": "min"},
        resource="step",
        levels=tuple(range(1, levels + 1)),
        finish_undecided=finish_undecided,
    )
    found = simulate(Chance(num_trials), scheduler, learn, workers=workers)
    return found.decision_seconds, found.seconds["scheduler.choose_trial_to_run"]


def launch(num_trials: int) -> tuple[Sequence[float], Sequence[float]]:
    """Race random trials with `RungScheduler`, one worker.

    Returns:
        Seconds of each decision, and of each choice.
    """
    racing, dice = RungScheduler(3), np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"reported": [], "to_resume": []}
    trials: list[tuple[float, float, np.ndarray]] = []

    def timed(method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        answer = method(*arguments, **options)
        seconds[method.__name__].append(time.perf_counter() - start)
        return answer

    while True:
        number = timed(racing.to_resume, nothing_new=len(trials) == num_trials)
        if number is not None:
            racing.resumed(number)
        elif (number := len(trials)) < num_trials:
            trials.append((dice.uniform(0.5, 0.8), dice.uniform(0.2, 0.8), dice.random(NUM_IMAGES)))
            racing.proposed(number)
        else:
            return seconds["reported"], seconds["to_resume"]
        robust, latency, luck = trials[number]
        verdict = "continue"
        while verdict == "continue":
            rung = racing.next_rung(number)
            if rung is None:
                racing.ended(make_trial(number, measurement=make_measurement(robust + dice.normal(0, NOISE), latency)))
                break
            right = np.linspace(0, 0.8, NUM_IMAGES) + 0.2 * luck < robust
            low, high = clopper_pearson(int(right.sum()), NUM_IMAGES)
            metrics = {"robust_accuracy": float(right.mean()), "robust_accuracy_low": low, "robust_accuracy_high": high}
            report = RungRecord(
                rung, metrics | {"latency_ms": latency}, robust_hex=pack_bits(right), num_samples=NUM_IMAGES
            )
            verdict = timed(racing.reported, number, report)


def measure(variant: str, num_trials: int, levels: int, workers: int) -> dict[str, float]:
    """Time one variant.

    Returns:
        Medians, 95th percentiles and the largest of both in milliseconds, how many there were, and seconds in all.
    """
    start = time.perf_counter()
    if variant == "launch":
        timed = launch(num_trials)
    else:
        timed = race(num_trials, levels, workers, finish_undecided=variant == "defaults")
    row = {"trials": float(num_trials), "seconds": time.perf_counter() - start}
    for name, seconds in zip(("decision", "choice"), timed, strict=True):
        ms = 1000 * np.array(seconds)
        row |= {f"{name}s": float(len(ms)), f"{name}_ms": float(np.median(ms))}
        row |= {f"{name}_mean_ms": float(ms.mean()), f"{name}_p95_ms": float(np.quantile(ms, 0.95))}
        row[f"{name}_max_ms"] = float(ms.max())
    return row


def main() -> int:
    """Measure, print, and say whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=VARIANTS)
    options = parser.parse_args()
    met = True
    for variant in options.only:
        measure(variant, WARM_UP, options.levels, options.workers)
    for num_trials in options.trials:
        for variant in options.only:
            row = measure(variant, num_trials, options.levels, options.workers)
            print(variant, "  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
            met = met and (num_trials > 1000 or max(row["decision_ms"], row["choice_ms"]) <= BAR_MS)
    print(f"median decision and choice at most {BAR_MS:g} ms up to 1,000 trials: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
