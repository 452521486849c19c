"""What image racing saves, and what it costs: simulated searches on NAS-Bench-201, or a finished search lived again.

    python benchmarks/image_racing.py [--images 300 1000 2000] [--proposals random near] [--seeds 20] [--trials 60]
                                      [--workers 4] [--agreement 0.94] [--bench FOLDER] [--out results.json]
    python benchmarks/image_racing.py --run HOME/RUN [--out results.json]

**Simulated.** A trial's robust accuracy is that of an architecture of the table, its latency the table's with one per cent of noise
and an interval of two. Which images it gets right under attack is drawn: an image is as hard for all, up to what
`--agreement` leaves (0.94: two equally good networks answer a tenth of the images differently, as teams of real searches do).
Trials are proposed at random, or near what stands on the frontier so far (two of three change one edge of a frontier
member); both searches, raced and not, meet the same proposals. A trial is held against what is finished when it starts.

saved        images of all trials that were not attacked, over all
stopped      trials that were stopped, over all
lost         stopped trials that would stand on the frontier of all trials on all images, over the points of that frontier
truly lost   the same by true accuracy and true latency
hypervolume  of the raced search's frontier over that of the other, mean and least over seeds, on all images and in truth

**Lived again.** A finished search's trials are held, in their order, against what was finished when they were handed out. Their flags
lie in the ledger and in the home's store; nothing is attacked and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

# Run as a file, it finds its neighbours and the package from any folder.
sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from benchmarks.problems import BENCH_FOLDER, Nas201  # noqa: E402
from eed_search.core.errors import EedSearchError  # noqa: E402
from eed_search.evaluation.sequential_test import ERROR, Incumbent, beaten_by, interim_sizes  # noqa: E402
from eed_search.frontier.pareto import hypervolume, non_dominated  # noqa: E402
from eed_search.frontier.points import frontier, latency_kind, run_hypervolume  # noqa: E402
from eed_search.runs.cost import scaled  # noqa: E402
from eed_search.runs.ledger import RunView, read_run  # noqa: E402
from eed_search.runs.records import Interval, Measurement, TrialRecord, pack_bits, unpack_bits  # noqa: E402
from eed_search.search.racing.incumbents import choose, incumbents_of  # noqa: E402

NOISE, ARM = 0.01, 0.02  # of a latency: standard deviation, and half of its 95 % interval
_NEAR = 3  # every third proposal of `near` is random


@dataclass
class Row:
    """One setting over its seeds.

    Attributes:
        images: Validation images.
        proposals: `random` or `near`.
        saved: Share of images that were not attacked.
        stopped: Share of trials that were stopped.
        lost: Stopped trials that belong to the frontier on all images.
        front: Points of that frontier, over all seeds.
        truly_lost: Stopped trials that truly belong to the frontier.
        true_front: Points of the true frontier of all trials, over all seeds.
        hypervolume: Raced over not raced, on all images: mean over seeds.
        least_hypervolume: The least of them.
        true_hypervolume: The same in truth: mean over seeds.
        least_true_hypervolume: The least of them.
    """

    images: int
    proposals: str
    saved: float
    stopped: float
    lost: int
    front: int
    truly_lost: int
    true_front: int
    hypervolume: float
    least_hypervolume: float
    true_hypervolume: float
    least_true_hypervolume: float


@dataclass
class World:
    """One search's trials: what they truly are, and what is seen of them.

    Attributes:
        rows: Of the table, in the order of proposal.
        right: Which images each gets right under attack.
        latencies: As measured.
    """

    rows: list[int]
    right: Bool[np.ndarray, "trials images"]
    latencies: list[Interval]

    @property
    def measured(self) -> Float[np.ndarray, "trials 2"]:
        """Both objectives on all images, minimised."""
        return np.stack([1 - self.right.mean(axis=1), [one.value for one in self.latencies]], axis=1)


class Images:
    """Draws which images networks get right: an image is as hard for all, up to what their agreement leaves.

    Args:
        num: Images.
        agreement: Correlation of the hidden scores of two networks on an image, in [0, 1).
        rng: Draws.
    """

    def __init__(self, num: int, agreement: float, rng: np.random.Generator) -> None:
        self._hard = math.sqrt(agreement) * rng.standard_normal(num)
        self._own, self._rng = math.sqrt(1 - agreement), rng

    def right(self, accuracy: float) -> Bool[np.ndarray, " images"]:
        """Draw for a network of a true accuracy."""
        from scipy.special import ndtri

        score = self._hard + self._own * self._rng.standard_normal(len(self._hard))
        return np.asarray(score < ndtri(min(max(accuracy, 1e-6), 1 - 1e-6)))


def world(
    problem: Nas201, images: int, proposals: str, trials: int, workers: int, agreement: float, seed: int
) -> World:
    """Draw one search."""
    rng = np.random.default_rng([seed, images, proposals == "near"])
    draw = Images(images, agreement, rng)
    found = World([], np.zeros((0, images), bool), [])
    right: list[np.ndarray] = []
    for number in range(trials):
        row = int(rng.integers(len(problem.arch)))
        if proposals == "near" and number > 2 * workers and number % _NEAR:
            known = number - workers + 1
            objectives = np.stack(
                [[1 - one.mean() for one in right[:known]], [one.value for one in found.latencies[:known]]], axis=1
            )
            parents = np.flatnonzero(non_dominated(objectives))
            row = neighbour(problem, found.rows[int(rng.choice(parents))], rng)
        found.rows.append(row)
        right.append(draw.right(float(problem.accuracy[row])))
        value = float(problem.latency_ms[row] * math.exp(NOISE * rng.standard_normal()))
        found.latencies.append(Interval(value, value * (1 - ARM), value * (1 + ARM)))
    found.right = np.stack(right)
    return found


def neighbour(problem: Nas201, row: int, rng: np.random.Generator) -> int:
    """Change one edge of an architecture."""
    edges = [part for node in problem.arch[row].split("+") for part in node.strip("|").split("|")]
    config = {f"edge_{i}": edge.split("~")[0] for i, edge in enumerate(edges)}
    while True:
        changed = config | {f"edge_{rng.integers(6)}": str(rng.choice(problem.operations))}
        if changed != config and (found := problem.row(changed)) is not None:
            return found


def race(right: Bool[np.ndarray, "trials images"], latencies: Sequence[Interval], workers: int) -> list[int]:
    """Race the trials of one search, and say how many images each one has seen."""
    ends = interim_sizes(right.shape[1])
    seen: list[int] = []
    for number, (mine, latency) in enumerate(zip(right, latencies, strict=True)):
        done = [n for n in range(max(0, number - workers + 1)) if seen[n] == ends[-1]]
        values = np.array([[1 - right[n].mean(), latencies[n].value] for n in done]).reshape(-1, 2)
        incumbents = [
            Incumbent(str(n), latencies[n], float(right[n].mean()), pack_bits(right[n]), ends[-1])
            for n, on in zip(done, non_dominated(values), strict=True)
            if on
        ]
        stop = next((end for end in ends[:-1] if beaten_by([latency], [mine[:end]], incumbents, ends)), ends[-1])
        seen.append(stop)
    return seen


def run_row(
    problem: Nas201,
    images: int,
    proposals: str,
    seeds: Sequence[int],
    trials: int,
    workers: int,
    agreement: float,
) -> Row:
    """Run one setting over its seeds."""
    saved: list[float] = []
    stopped: list[float] = []
    ratios: list[float] = []
    true_ratios: list[float] = []
    lost = front = truly_lost = true_front = 0
    for seed in seeds:
        one = world(problem, images, proposals, trials, workers, agreement, seed)
        seen = np.array(race(one.right, one.latencies, workers))
        kept = seen == images
        saved.append(1 - seen.mean() / images)
        stopped.append(1 - kept.mean())
        measured = one.measured
        true = np.stack([1 - problem.accuracy[one.rows], problem.latency_ms[one.rows]], axis=1)
        on, truly_on = non_dominated(measured), non_dominated(true)
        front, lost = front + int(on.sum()), lost + int((on & ~kept).sum())
        true_front, truly_lost = true_front + int(truly_on.sum()), truly_lost + int((truly_on & ~kept).sum())
        raced = kept & _on(measured, kept)
        for values, into in ((measured, ratios), (true, true_ratios)):
            scaled = values / np.array([1.0, 1.0001 * values[:, 1].max()])
            into.append(hypervolume(scaled[raced]) / hypervolume(scaled[on]))
    return Row(
        images, proposals, float(np.mean(saved)), float(np.mean(stopped)), lost, front, truly_lost, true_front,
        float(np.mean(ratios)), float(np.min(ratios)), float(np.mean(true_ratios)), float(np.min(true_ratios)),
    )  # fmt: skip


def _on(values: Float[np.ndarray, "trials 2"], kept: Bool[np.ndarray, " trials"]) -> Bool[np.ndarray, " trials"]:
    """Mark the frontier of those that were kept."""
    on = np.zeros(len(values), bool)
    on[kept] = non_dominated(values[kept])
    return on


# ---------------------------------------------------------------- a finished search, lived again


@dataclass
class Lived:
    """What would have become of one trial.

    Attributes:
        trial: Its number.
        images: Validation images there are.
        seen: Of those, attacked until it was given up.
        ways: Thresholds that it was held against the incumbents with.
        passes: Surrogates that each image is attacked through: what an image weighs.
        beaten_by: Who beat it; empty where nobody did.
    """

    trial: int
    images: int
    seen: int
    ways: int
    passes: int
    beaten_by: tuple[str, ...]


def relive(view: RunView, store: Path) -> list[Lived]:
    """Hold each finished trial of a run against what was finished, and not given up, when it was handed out.

    Args:
        view: The run.
        store: The home's; without the flags of a team's swept thresholds only those in the ledger count.
    """
    flags = judgements(store)
    handed_out: dict[int, tuple[int, ...]] = {}
    ended: list[int] = []
    for what, number in view.history:
        if what == "result":
            ended.append(number)
        else:  # a trial that waited at a rung was handed out to its end when it went on for the last time
            handed_out[number] = tuple(ended)
    kept: dict[int, TrialRecord] = {}
    lived = []
    for number in ended:
        trial = view.trials[number]
        if trial.outcome != "done" or trial.measurement is None:
            continue
        there = replace(view, trials={n: kept[n] for n in handed_out[number] if n in kept})
        kind = latency_kind(view)
        incumbents = incumbents_of(there, choose(there, kind), kind)
        num = trial.measurement.robust_accuracy.num_samples
        latencies, right = ways(trial, flags)
        ends, end = interim_sizes(num), num
        found: tuple[str, ...] = ()
        for end in ends:
            if end < num and (found := beaten_by(latencies, [row[:end] for row in right], incumbents, ends)):
                break
        members = trial.measurement.num_members
        lived.append(Lived(number, num, end, len(right), members + 1 if members > 1 else 1, found))
        if not found:
            kept[number] = trial
    return sorted(lived, key=lambda one: one.trial)


def judgements(store: Path) -> dict[tuple[str, float], Path]:
    """Find the evaluations that swept thresholds, by team and by the gate threshold that was attacked."""
    found = {}
    for path in store.glob("judgement.*/*/manifest.json"):
        settings = json.loads(path.read_text())["settings"]
        if "sweep" in settings and settings["split"] == "validation":
            found[settings["networks"], float(settings["gate"]["threshold"])] = path.parent
    return found


def ways(
    trial: TrialRecord, flags: Mapping[tuple[str, float], Path]
) -> tuple[list[Interval], list[Bool[np.ndarray, " images"]]]:
    """Give every way in which a trained team can be deployed: its latency, and what it gets right under attack."""
    own = trial.measurement
    assert own is not None
    measured = [own, *(point.measurement for point in trial.swept)]
    latencies = [one.latency.latency_ms for one in measured]
    right = [unpack_bits(one.robust_hex, one.robust_accuracy.num_samples) for one in measured]
    key = own.artifact.partition("/")[2]
    folder = flags.get((key, float(trial.params["gate_threshold"])))
    if own.num_members == 1 or folder is None or (exit_ms := exits(measured)) is None:
        return latencies, right
    from safetensors.numpy import load_file

    arrays = load_file(folder / "tensors.safetensors")
    latencies, right = latencies[:1], right[:1]
    for run, robust in zip(arrays["swept_members_run"], arrays["swept_robust_right"], strict=True):
        shares = [float((run == member).mean()) for member in range(1, own.num_members + 1)]
        latencies.append(scaled(own.latency.latency_ms, float(np.dot(shares, exit_ms))))
        right.append(robust)
    return latencies, right


def exits(measured: Sequence[Measurement]) -> Float[np.ndarray, " members"] | None:
    """Give how long an image takes that stops at each member; none where the ledger does not tell."""
    own = measured[0]
    if own.latency.exit_ms:
        return np.array(own.latency.exit_ms)
    rows = [[*(one.exit_shares), one.latency.latency_ms.value] for one in measured]
    rows.append([*([0.0] * (own.num_members - 1)), 1.0, own.latency.worst_case_ms])
    shares, values = np.array(rows)[:, :-1], np.array(rows)[:, -1]
    solution, _, rank, _ = np.linalg.lstsq(shares, values, rcond=1e-6)
    close = np.allclose(shares @ solution, values, rtol=1e-3)
    return solution if rank == own.num_members and close else None


def run_report(view: RunView, lived: Sequence[Lived]) -> tuple[str, dict[str, float]]:
    """Say what a run would have saved, and what it would have lost."""
    given_up = [one for one in lived if one.beaten_by]
    left = {n: t for n, t in view.trials.items() if n not in {one.trial for one in given_up}}
    raced = replace(view, trials=left)
    before, after = run_hypervolume(view), run_hypervolume(raced)
    lost = [p.id for p in frontier(view) if p.trial not in left]
    images = sum(one.images for one in lived)
    passes = sum(one.images * one.passes for one in lived)
    totals = {
        "trials": len(lived),
        "given_up": len(given_up),
        "saved_images": 1 - sum(one.seen for one in lived) / max(1, images),
        "saved_passes": 1 - sum(one.seen * one.passes for one in lived) / max(1, passes),
        "hypervolume": before,
        "hypervolume_raced": after,
        "lost": len(lost),
    }
    lines = [
        f"{view.name}: {len(given_up)} of {len(lived)} finished trials given up; {totals['saved_images']:.1%} of the images"
        f" not attacked, {totals['saved_passes']:.1%} of the passes through surrogates.",
        f"Hypervolume {before:.5f} without, {after:.5f} with image racing; frontier points lost: {', '.join(lost) or 'none'}.",
        *(
            f"  trial {one.trial}: after {one.seen} of {one.images} images, by {', '.join(one.beaten_by)}"
            for one in given_up
        ),
    ]
    return "\n".join(lines), totals


# ---------------------------------------------------------------- the command


def table(rows: Sequence[Row], seeds: int, trials: int, workers: int) -> str:
    """Write the simulated settings as Markdown."""
    lines = [
        f"{seeds} seeds of {trials} trials, {workers} at once; promised error {ERROR:.0%}.",
        "",
        "| images | proposals | saved | stopped | lost / frontier | truly lost / true frontier | hypervolume | least"
        " | true hypervolume | least |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.images:,} | {row.proposals} | {row.saved:.1%} | {row.stopped:.1%} | {row.lost} / {row.front}"
        f" | {row.truly_lost} / {row.true_front} | {row.hypervolume:.5f} | {row.least_hypervolume:.5f}"
        f" | {row.true_hypervolume:.5f} | {row.least_true_hypervolume:.5f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[300, 1000, 2000], metavar="N")
    parser.add_argument("--proposals", nargs="+", choices=("random", "near"), default=["random", "near"])
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="number of seeds (default 20)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="SEED", help="the first of them (default 0)")
    parser.add_argument("--trials", type=int, default=60, metavar="N", help="of each search (default 60)")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="trials at once (default 4)")
    parser.add_argument("--agreement", type=float, default=0.94, metavar="SHARE", help="see above (default 0.94)")
    parser.add_argument("--accuracy", default="cifar100_test_acc", metavar="COLUMN", help="stands for robust accuracy")
    parser.add_argument("--latency", default="lat_ms_pixel2", metavar="COLUMN", help="device (default lat_ms_pixel2)")
    parser.add_argument("--bench", type=Path, default=BENCH_FOLDER, metavar="FOLDER", help="holds the table")
    parser.add_argument("--run", type=Path, metavar="HOME/RUN", help="live a finished search again instead")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write every count")
    arguments = parser.parse_args(argv)
    for name, least in (("seeds", 1), ("trials", 2), ("workers", 1), ("first_seed", 0)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name.replace('_', '-')}: {getattr(arguments, name)}; give {least} or more")
    if min(arguments.images) < 1:
        parser.error(f"--images: {min(arguments.images)}; give 1 or more")
    if not 0 <= arguments.agreement < 1:
        parser.error(f"--agreement: {arguments.agreement:g}; give a share from 0 to below 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table; 1 if more of the frontier is lost than promised."""
    arguments = _arguments(argv)
    start = time.perf_counter()
    try:
        found, missed = _lived_again(arguments) if arguments.run else _simulated(arguments)
    except EedSearchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{time.perf_counter() - start:.0f} s.")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(missed)


def _lived_again(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    view = read_run(arguments.run)
    lived = relive(view, arguments.run.parent / "store")
    text, totals = run_report(view, lived)
    print(text)
    return {"totals": totals, "trials": [asdict(one) for one in lived]}, False


def _simulated(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    problem = Nas201(arguments.latency, accuracy_column=arguments.accuracy, folder=arguments.bench)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    rows = [
        run_row(problem, images, proposals, seeds, arguments.trials, arguments.workers, arguments.agreement)
        for images in arguments.images
        for proposals in arguments.proposals
    ]
    print(table(rows, len(seeds), arguments.trials, arguments.workers))
    settings = {
        name: getattr(arguments, name)
        for name in ("seeds", "first_seed", "trials", "workers", "agreement", "accuracy", "latency")
    }
    return {"settings": settings, "error": ERROR, "rows": [asdict(row) for row in rows]}, any(
        row.lost > ERROR * row.front for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
