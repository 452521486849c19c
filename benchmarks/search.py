"""How good is the search, and how fast? Our method against its peers under a simulated clock.

    python benchmarks/search.py [--tasks 126026 167168] [--seeds 3] [--methods random tpe ours]
                                [--workers 4] [--budget 20] [--bench FOLDER] [--out results.json]
    python benchmarks/search.py --smoke          # 2 tasks, 3 seeds, all methods

A task is a surrogate of neural networks on tabular data (`problems.Lcbench`): accuracy after each of 52
epochs against the exact number of multiplications. A search gets `--budget` full trainings, spread over
`--workers` simulated workers; proposing and deciding take no simulated time. Every searcher and
scheduler is the object that Ray Tune would drive.

The score is the hypervolume regret: the share of the reference hypervolume (20,000 random
configurations after 52 epochs) that the networks reported so far miss. A network that was stopped early
is a network: each reported pair of accuracy and multiplications counts.

The method was made on the tasks 126026, 167168, 189354 and 168868. The other 30 are for the proof, once:
they need `--proof`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

# Run as a file, it finds its neighbours and the package from any folder.
sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from benchmarks.peers import PEERS, Pair, Problem  # noqa: E402
from benchmarks.problems import BENCH_FOLDER, DEVELOPMENT_TASKS, LEVELS, NUM_EPOCHS, Lcbench, Scale  # noqa: E402
from benchmarks.simulator import simulate  # noqa: E402
from eed_search.core.errors import EedSearchError  # noqa: E402
from eed_search.system.cores import usable_cores  # noqa: E402

OURS = "ours"
SMOKE_TASKS, SMOKE_SEEDS = DEVELOPMENT_TASKS[:2], 3
EARLY = 0.1  # share of the budget for the table's second column
SHARES = np.linspace(0.0, 1.0, 1001)
VERSIONS = ("ray", "optuna", "onnxruntime", "moocore", "numpy")


def ours(problem: Problem, levels: Sequence[float], seed: int, workers: int) -> Pair:
    """Make our pair: its race and its model are those of `eed-search launch`."""
    from eed_search.tune.pareto_racing import ParetoRacing
    from eed_search.tune.study_searcher import StudySearcher

    scheduler = ParetoRacing(problem.metrics, resource=problem.resource, levels=levels)
    searcher = StudySearcher(
        problem.space,
        problem.metrics,
        seed=seed,
        max_concurrent=workers,
        known=problem.known,
        resource=problem.resource,
        levels=levels,
        scheduler=scheduler,
    )
    return searcher, scheduler


METHODS: dict[str, Callable[[Problem, Sequence[float], int, int], Pair]] = {**PEERS, OURS: ours}


@dataclass(frozen=True)
class Cell:
    """One search: what is run.

    Args:
        task: OpenML task.
        seed: Of the searcher.
        method: One of `METHODS`.
        workers: Simulated.
        budget: Full trainings.
        bench: Folder of the benchmark's files.
        scale: The task's.
        levels: Epochs at which trials report and are compared.
    """

    task: str
    seed: int
    method: str
    workers: int
    budget: float
    bench: str
    scale: Scale
    levels: tuple[int, ...] = LEVELS


@dataclass(frozen=True)
class Outcome:
    """One search: what came of it.

    Args:
        task: OpenML task.
        seed: Of the searcher.
        method: One of `METHODS`.
        steps: (share of the budget spent, regret from then on), at each improvement; begins with (0, 1).
        num_trials: Proposed.
        num_complete: Trained to the last level.
        decision_ms: Median real time of a decision of the scheduler, in milliseconds.
        suggest_ms: Median real time of a proposal, in milliseconds.
        end: How the simulation ended; `time` unless the search ran dry.
    """

    task: str
    seed: int
    method: str
    steps: tuple[tuple[float, float], ...]
    num_trials: int
    num_complete: int
    decision_ms: float
    suggest_ms: float
    end: str

    def regret_at(self, shares: Float[np.ndarray, " shares"]) -> Float[np.ndarray, " shares"]:
        """Give the regret once these shares of the budget are spent."""
        when, regret = np.array(self.steps).T
        # An improvement at exactly this share counts, whatever the last bit of the division says.
        return np.asarray(regret[np.searchsorted(when, shares + 1e-9, side="right") - 1])


@lru_cache(maxsize=4)
def _problem(task: str, bench: str) -> Lcbench:
    return Lcbench(task, Path(bench))


def run_cell(cell: Cell) -> Outcome:
    """Run one search; its outcome depends on nothing but the cell."""
    problem = _problem(cell.task, cell.bench)
    searcher, scheduler = METHODS[cell.method](problem, cell.levels, cell.seed, cell.workers)
    total = cell.budget * NUM_EPOCHS
    simulation = simulate(
        searcher,
        scheduler,
        partial(problem.evaluate, levels=cell.levels),
        workers=cell.workers,
        max_time=total / cell.workers,
    )
    points = [(r.result["accuracy"], r.result["log_flops"]) for r in simulation.reports]
    spent = [r.time * cell.workers / total for r in simulation.reports]
    suggested = simulation.seconds["searcher.suggest"]
    return Outcome(
        task=cell.task,
        seed=cell.seed,
        method=cell.method,
        steps=regret_steps(spent, points, cell.scale),
        num_trials=len(simulation.trials),
        num_complete=sum(r.result["epoch"] >= cell.levels[-1] for r in simulation.reports),
        decision_ms=1e3 * float(np.median(simulation.decision_seconds or (0.0,))),
        suggest_ms=1e3 * float(np.median(suggested)),
        end=simulation.end,
    )


def regret_steps(
    spent: Sequence[float], points: Sequence[tuple[float, float]], scale: Scale
) -> tuple[tuple[float, float], ...]:
    """Give the regret after each report that improved it.

    Args:
        spent: Share of the budget at each report, ascending.
        points: Accuracy and cost of each report.
        scale: Of the task.

    Returns:
        (share, regret), regret falling; the first is (0, 1): nothing reported, everything missed.
    """
    steps = [(0.0, 1.0)]
    front: list[tuple[float, float]] = []
    for share, (accuracy, cost) in zip(spent, points, strict=True):
        if any(a >= accuracy and c <= cost for a, c in front):
            continue
        front = [(a, c) for a, c in front if a > accuracy or c < cost] + [(accuracy, cost)]
        regret = scale.regret(*np.array(front).T)
        if regret < steps[-1][1]:
            steps.append((share, regret))
    return tuple(steps)


def run(cells: Sequence[Cell], processes: int) -> list[Outcome]:
    """Run the cells in a pool of processes; the outcomes come in the order of the cells."""
    if processes == 1:
        return [run_cell(cell) for cell in cells]
    # Not by fork: Ray and onnxruntime have threads.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(run_cell, cells))


# ---------------------------------------------------------------- the table


def mean_curves(outcomes: Sequence[Outcome]) -> dict[str, dict[str, np.ndarray]]:
    """Give each method's regret at `SHARES` by task, mean over seeds; `mean` is over tasks."""
    curves: dict[str, dict[str, np.ndarray]] = {}
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.method == method]
        tasks = dict.fromkeys(outcome.task for outcome in mine)
        by_task = {task: np.mean([o.regret_at(SHARES) for o in mine if o.task == task], axis=0) for task in tasks}
        curves[method] = {"mean": np.mean(list(by_task.values()), axis=0), **by_task}
    return curves


def table(outcomes: Sequence[Outcome]) -> str:
    """Write the one table of a call, in Markdown, with what it means under it."""
    curves = mean_curves(outcomes)
    tasks = list(dict.fromkeys(outcome.task for outcome in outcomes))
    seeds = len({outcome.seed for outcome in outcomes})
    early = int(np.searchsorted(SHARES, EARLY))
    lines = [
        "| method | regret | at 10 % | " + " | ".join(tasks) + " | trials | complete |",
        "|---|" + "---:|" * (len(tasks) + 4),
    ]
    for method, by_task in sorted(curves.items(), key=lambda item: float(item[1]["mean"][-1])):
        mine = [outcome for outcome in outcomes if outcome.method == method]
        cells = [
            method,
            f"{by_task['mean'][-1]:.3f}",
            f"{by_task['mean'][early]:.3f}",
            *(f"{by_task[task][-1]:.3f}" for task in tasks),
            f"{np.mean([o.num_trials for o in mine]):.0f}",
            f"{np.mean([o.num_complete for o in mine]):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *verdict(curves)]
    lines += [
        "",
        f"Hypervolume regret at the end of the budget and after 10 % of it, mean of {len(tasks)} tasks and {seeds} seeds;"
        " by task at the end.",
        "Every reported (accuracy at its epoch, log10 multiplications) counts from its report on: a network that was",
        "stopped early is a network.",
    ]
    return "\n".join(lines)


def verdict(curves: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Compare ours with the best peer: final regret, time to reach it, and the worst task."""
    peers = {method: by_task for method, by_task in curves.items() if method != OURS}
    if OURS not in curves or not peers:
        return []
    own = curves[OURS]
    best = min(peers, key=lambda method: float(peers[method]["mean"][-1]))
    target = float(peers[best]["mean"][-1])
    lines = [f"ours / best peer ({best}): {own['mean'][-1] / target:.2f} of its final regret."]
    reached = np.flatnonzero(own["mean"] <= target)
    lines.append(
        f"ours reached {best}'s final regret after {SHARES[reached[0]]:.1%} of the budget."
        if reached.size
        else f"ours did not reach {best}'s final regret."
    )
    loss = {task: float(own[task][-1] - peers[best][task][-1]) for task in own if task != "mean"}
    worst = max(loss, key=lambda task: loss[task])
    lines.append(f"ours against {best}, worst task: {worst}, {loss[worst]:+.3f}.")
    return lines


# ---------------------------------------------------------------- the command


def refused(tasks: Sequence[str], proof: bool) -> str | None:
    """Say why these tasks may not be run, or nothing."""
    untouched = [task for task in tasks if task not in DEVELOPMENT_TASKS]
    if proof or not untouched:
        return None
    return (
        f"--tasks: {', '.join(untouched)} belong to the proof and must stay unseen while the method changes;"
        f" take {', '.join(DEVELOPMENT_TASKS)}, or add --proof once the method is frozen"
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(DEVELOPMENT_TASKS), metavar="TASK")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N-1 (default 5)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--workers", type=int, default=4, help="simulated workers (default 4)")
    parser.add_argument("--budget", type=float, default=20.0, help="in full trainings of 52 epochs (default 20)")
    parser.add_argument(
        "--levels",
        type=int,
        nargs="+",
        default=LEVELS,
        metavar="EPOCH",
        help=f"where trials report and are compared, by all methods (default {' '.join(map(str, LEVELS))})",
    )
    parser.add_argument("--bench", type=Path, default=BENCH_FOLDER, metavar="FOLDER", help="holds yahpo_lcbench/")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write every search's whole curve")
    parser.add_argument("--processes", type=int, default=usable_cores(), help="real ones (default: one a core)")
    parser.add_argument("--smoke", action="store_true", help="2 tasks, 3 seeds")
    parser.add_argument("--proof", action="store_true", help="allow the tasks kept for the proof")
    arguments = parser.parse_args(argv)
    levels = arguments.levels
    if sorted(set(levels)) != list(levels) or levels[0] < 1 or levels[-1] != NUM_EPOCHS:
        parser.error(f"--levels {levels}: must rise from 1 or more and end with {NUM_EPOCHS}")
    if arguments.smoke:
        arguments.tasks, arguments.seeds = list(SMOKE_TASKS), SMOKE_SEEDS
    for name in ("seeds", "workers", "processes"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name}: {getattr(arguments, name)}; give 1 or more")
    if not arguments.budget > 0:
        parser.error(f"--budget: {arguments.budget:g}; give more than 0 full trainings")
    if problem := refused(arguments.tasks, arguments.proof):
        parser.error(problem)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    arguments = _arguments(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    start = time.perf_counter()
    try:
        scales = {task: Lcbench(task, arguments.bench).scale for task in arguments.tasks}
    except EedSearchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    cells = [
        Cell(
            task,
            seed,
            method,
            arguments.workers,
            arguments.budget,
            str(arguments.bench),
            scales[task],
            tuple(arguments.levels),
        )
        for method in arguments.methods
        for task in arguments.tasks
        for seed in range(arguments.seeds)
    ]
    outcomes = run(cells, arguments.processes)
    print(table(outcomes))
    print(f"\n{len(cells)} searches in {time.perf_counter() - start:.0f} s.")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(_record(arguments, scales, outcomes), indent=1) + "\n")
    return 0


def _record(arguments: argparse.Namespace, scales: Mapping[str, Scale], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "workers": arguments.workers,
        "budget": arguments.budget,
        "levels": arguments.levels,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "scales": {task: asdict(scale) for task, scale in scales.items()},
        "searches": [asdict(outcome) for outcome in outcomes],
    }


if __name__ == "__main__":
    raise SystemExit(main())
