"""How much of a reported frontier is truly one? NAS-Bench-201, where the truth is known.

    python benchmarks/front.py [--images 100 500 2000] [--noise 0 2 5] [--seeds 20] [--architectures 200]
                               [--fresh 17] [--latency lat_ms_pixel2] [--bench FOLDER] [--out results.json]

A search has measured some architectures: each one's accuracy on so many images, each one's latency with so many
per cent of noise (standard deviation). Three frontiers of them are held against the true one:

raw      what the search's own figures say
timed    final latencies for all that come to stand on the frontier, the accuracies of the search; fresh images
         would be shown beside it and move nothing
ours     what `eed-search launch` reports, by its own functions (`frontier.selection`): whatever may be on the frontier by
         the search's figures is measured again in looks of growing size, on fresh images and by fresh final
         latencies, as long as it may be there; reported is what is there with a probability of at least 0.75.
         The intervals come from one more measurement, which chose nothing.

Precision is the share of the reported points that are on the true frontier, recall the share of the true ones
that are reported; both over all seeds together. Coverage: how many of the intervals shown hold the truth.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

# Run as a file, it finds its neighbours and the package from any folder.
sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from benchmarks.problems import BENCH_FOLDER, Nas201  # noqa: E402
from eed_search.core.errors import EedSearchError  # noqa: E402
from eed_search.core.statistics import clopper_pearson  # noqa: E402
from eed_search.frontier import selection  # noqa: E402
from eed_search.frontier.pareto import non_dominated  # noqa: E402
from eed_search.frontier.selection import ROUND_SIZES, SURE  # noqa: E402
from eed_search.runs.records import Interval  # noqa: E402

FRESH = 17.0  # fresh images there are, as multiples of the search's: enough for every look and the last slice
ROUNDS, FINAL_ROUNDS, DOUBLINGS, FINAL_HALF_WIDTH = 30, 80, 2, 0.01  # the latency protocol's, of its defaults
PRECISION_RATIO, WHERE_BELOW, COVERAGE = 1.5, 0.6, 0.93  # the targets
_Z95 = 1.959963984540054


@dataclass
class Tally:
    """Counts over seeds of one frontier.

    Attributes:
        reported: Points reported.
        hits: Of those, truly on the frontier.
        true: Points of the true frontier.
        accuracy_held: Reported accuracies whose interval holds the truth.
        latency_held: The same of latencies.
        images: Fresh images spent, over those that the search spent.
        timings: Final latencies taken to choose, of all architectures together.
    """

    reported: int = 0
    hits: int = 0
    true: int = 0
    accuracy_held: int = 0
    latency_held: int = 0
    images: float = 0.0
    timings: float = 0.0

    @property
    def precision(self) -> float:
        """Share of the reported points that are right; 0 if there are none."""
        return self.hits / max(1, self.reported)

    @property
    def recall(self) -> float:
        """Share of the true points that are reported."""
        return self.hits / max(1, self.true)

    @property
    def coverage(self) -> float:
        """Share of the intervals that hold the truth, of accuracies and latencies alike."""
        return (self.accuracy_held + self.latency_held) / max(1, 2 * self.reported)


@dataclass
class World:
    """Architectures that a search has met, with the truth and a way to measure them.

    Attributes:
        accuracy: True, fractions.
        latency_ms: True.
        num_images: Of the search.
        noise: Standard deviation of the search's latencies, relative.
        rng: Draws every measurement.
        validation_rounds: Of the re-validation.
        fresh: Images that it may take, as multiples of the search's.
    """

    accuracy: Float[np.ndarray, " n"]
    latency_ms: Float[np.ndarray, " n"]
    num_images: int
    noise: float
    rng: np.random.Generator
    validation_rounds: tuple[int, ...] = ROUND_SIZES
    fresh: float = FRESH

    @property
    def num_fresh(self) -> int:
        """Fresh images there are."""
        return max(1, round(self.fresh * self.num_images))

    @property
    def final_noise(self) -> float:
        """Noise of a final latency: of more rounds, doubled up to twice until its interval is within 1 %."""
        for doubled in range(DOUBLINGS + 1):
            found = self.noise * math.sqrt(ROUNDS / (FINAL_ROUNDS << doubled))
            if _Z95 * found <= FINAL_HALF_WIDTH:
                break
        return found

    def answers(self, which: np.ndarray, num_images: int) -> Bool[np.ndarray, "some images"]:
        """Classify fresh images with some of the architectures."""
        return self.rng.random((len(which), num_images)) < self.accuracy[which, None]

    def timed(self, which: np.ndarray, noise: float) -> Float[np.ndarray, " some"]:
        """Measure some latencies."""
        return self.latency_ms[which] * np.exp(noise * self.rng.standard_normal(len(which)))


@dataclass(frozen=True)
class Seen:
    """What the search has measured.

    Attributes:
        right: Answers on its images.
        latency_ms: Its latencies.
    """

    right: Bool[np.ndarray, "n images"]
    latency_ms: Float[np.ndarray, " n"]

    @property
    def accuracy(self) -> Float[np.ndarray, " n"]:
        """Share of right answers."""
        return np.asarray(self.right.mean(axis=1))


@dataclass(frozen=True)
class Reported:
    """A frontier as it is shown.

    Attributes:
        which: Architectures.
        accuracy: Intervals.
        latency_ms: Intervals.
        images: Fresh images spent for it, all architectures together.
        timings: Final latencies taken to choose.
    """

    which: np.ndarray
    accuracy: list[Interval] = field(default_factory=list)
    latency_ms: list[Interval] = field(default_factory=list)
    images: int = 0
    timings: int = 0


def front_of(accuracy: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
    """Number the points that no other dominates."""
    return np.flatnonzero(non_dominated(np.stack([-accuracy, latency_ms], axis=1)))


def accuracy_intervals(right: Bool[np.ndarray, "some images"]) -> list[Interval]:
    """Give each share with its exact interval."""
    num = right.shape[1]
    return [Interval(hits / num, *clopper_pearson(int(hits), num)) for hits in right.sum(axis=1)]


def latency_intervals(latency_ms: np.ndarray, noise: float) -> list[Interval]:
    """Give each latency with the interval that its noise makes."""
    width = math.exp(_Z95 * noise)
    return [Interval(float(ms), float(ms) / width, float(ms) * width) for ms in latency_ms]


# ---------------------------------------------------------------- the frontiers


def raw(world: World, seen: Seen) -> Reported:
    """Take the search's figures at their word."""
    which = front_of(seen.accuracy, seen.latency_ms)
    times = latency_intervals(seen.latency_ms[which], world.noise)
    return Reported(which, accuracy_intervals(seen.right[which]), times)


def timed(world: World, seen: Seen) -> Reported:
    """Time whatever comes to stand on the frontier, until nothing new does; accuracies stay the search's."""
    latency, timed = seen.latency_ms.copy(), np.zeros(len(seen.latency_ms), bool)
    while (new := [i for i in front_of(seen.accuracy, latency) if not timed[i]]) != []:
        latency[new] = world.timed(np.array(new), world.final_noise)
        timed[new] = True
    which = front_of(seen.accuracy, latency)
    return Reported(which, accuracy_intervals(seen.right[which]), latency_intervals(latency[which], world.final_noise))


def ours(world: World, seen: Seen) -> Reported:
    """Measure again what touches the frontier, as long as it may be on it; report what surely enough is.

    As `launch` does it (`search.revalidation`): every decision is one of `frontier.selection`.
    """
    plan = selection.plan_rounds(world.num_images, world.num_fresh, world.validation_rounds)
    final = world.final_noise
    accuracy, latencies = accuracy_intervals(seen.right), latency_intervals(seen.latency_ms, world.noise)
    timings: dict[int, list[Interval]] = {}
    images = 0

    def take(some: Sequence[int]) -> None:
        for i, one in zip(some, latency_intervals(world.timed(np.array(some), final), final), strict=True):
            timings.setdefault(i, []).append(one)
            latencies[i] = one

    while True:  # what is timed may bring another one back
        sure = selection.opening(seen.right, accuracy, latencies)
        some = [int(i) for i in np.flatnonzero(sure >= selection.worth_measuring(plan, SURE))]
        if not (new := [i for i in some if i not in timings]):
            break
        take(new)
    look = selection.validation_round(0, {str(i): float(sure[i]) for i in np.flatnonzero(sure)}, plan)
    right = {int(id_): seen.right[int(id_)] for id_ in look.left}
    for number, (start, stop) in enumerate(plan.validation_rounds, start=1):
        if look.settled:
            break
        left = [int(id_) for id_ in look.left]
        fresh = world.answers(np.array(left), stop - start)
        images += fresh.size
        right = {i: np.concatenate([right[i], row]) for i, row in zip(left, fresh, strict=True)}
        while (again := selection.to_time([timings[i] for i in left], plan.num_timings[number])).any():
            take([i for i, one in zip(left, again, strict=True) if one])
        known = [selection.pooled(timings[i]) for i in left]
        sure = selection.probabilities(np.stack([right[i] for i in left]), known, number)
        look = selection.validation_round(number, {str(i): float(one) for i, one in zip(left, sure, strict=True)}, plan)
    on = selection.reported([look.probability[id_] for id_ in look.left], SURE)
    which = np.array([int(id_) for id_, one in zip(look.left, on, strict=True) if one])
    last = world.answers(which, plan.last[1] - plan.last[0])
    if plan.validation_rounds:
        times = latency_intervals(world.timed(which, final), final)
    else:
        times = [selection.pooled(timings[i]) for i in which]
    return Reported(which, accuracy_intervals(last), times, images + last.size, sum(map(len, timings.values())))


def touching(world: World, seen: Seen) -> Bool[np.ndarray, " n"]:
    """Mark what may be on the frontier by the search's intervals."""
    return selection.touching(accuracy_intervals(seen.right), latency_intervals(seen.latency_ms, world.noise))


RULES: dict[str, Callable[[World, Seen], Reported]] = {"raw": raw, "timed": timed, "ours": ours}


# ---------------------------------------------------------------- one row of the table


@dataclass(frozen=True)
class Row:
    """One setting, all seeds.

    Attributes:
        images: Of the search.
        noise: Of its latencies, in per cent.
        tallies: By rule.
    """

    images: int
    noise: float
    tallies: dict[str, Tally]

    @property
    def ratio(self) -> float:
        """Our precision over the raw frontier's."""
        return self.tallies["ours"].precision / max(self.tallies["raw"].precision, 1e-9)

    def missed(self) -> list[str]:
        """Name the targets that are missed."""
        raw_, own = self.tallies["raw"], self.tallies["ours"]
        found = []
        if raw_.precision < WHERE_BELOW and self.ratio < PRECISION_RATIO:
            found.append("precision")
        if own.recall < raw_.recall:
            found.append("recall")
        if own.coverage < COVERAGE:
            found.append("coverage")
        return found


def run_row(
    problem: Nas201,
    images: int,
    noise_per_cent: float,
    seeds: Sequence[int],
    num_architectures: int,
    validation_rounds: tuple[int, ...] = ROUND_SIZES,
    fresh: float = FRESH,
) -> Row:
    """Repeat one setting over seeds; each draws its own architectures and measurements."""
    tallies = {name: Tally() for name in RULES}
    for seed in seeds:
        rng = np.random.default_rng([seed, images, round(10 * noise_per_cent)])
        some = rng.choice(len(problem.accuracy), min(num_architectures, len(problem.accuracy)), replace=False)
        world = World(
            problem.accuracy[some],
            problem.latency_ms[some],
            images,
            noise_per_cent / 100,
            rng,
            validation_rounds,
            fresh,
        )
        everyone = np.arange(len(some))
        seen = Seen(world.answers(everyone, images), world.timed(everyone, world.noise))
        true = set(front_of(world.accuracy, world.latency_ms).tolist())
        for name, rule in RULES.items():
            _count(tallies[name], rule(world, seen), world, true)
    for tally in tallies.values():
        tally.images /= len(seeds)
        tally.timings /= len(seeds)
    return Row(images, noise_per_cent, tallies)


def _count(tally: Tally, found: Reported, world: World, true: set[int]) -> None:
    tally.reported += len(found.which)
    tally.hits += len(true & set(found.which.tolist()))
    tally.true += len(true)
    slack = 1 + 1e-12  # without noise both ends are the truth itself, up to the last bit
    for i, share, ms in zip(found.which, found.accuracy, found.latency_ms, strict=True):
        tally.accuracy_held += int(share.low <= world.accuracy[i] <= share.high)
        tally.latency_held += int(ms.low / slack <= world.latency_ms[i] <= ms.high * slack)
    tally.images += found.images / (world.num_images * len(world.accuracy))
    tally.timings += found.timings


# ---------------------------------------------------------------- the table


def table(rows: Sequence[Row], num_seeds: int, num_architectures: int, latency: str) -> str:
    """Write the one table of a call, in Markdown, with what it means under it."""
    lines = [
        "| images | latency noise | raw | timed | ours | precision ratio | coverage raw | coverage ours | fresh images | timings | missed |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        by = row.tallies
        pairs = [f"{by[name].precision:.2f} / {by[name].recall:.2f}" for name in RULES]
        cells = [
            f"{row.images:,}",
            f"{row.noise:g} %",
            *pairs,
            f"{row.ratio:.2f}",
            f"{by['raw'].coverage:.1%}",
            f"{by['ours'].coverage:.1%}",
            f"{by['ours'].images:.1f} ×",
            f"{by['ours'].timings:.0f}",
            ", ".join(row.missed()) or "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    failed = sum(bool(row.missed()) for row in rows)
    lines += [
        "",
        f"Precision / recall of the frontier of {num_architectures} architectures drawn from NAS-Bench-201, CIFAR-10 accuracy",
        f"against {latency}, {num_seeds} seeds together. Fresh images: spent on re-validation, over what the search spent on all. Timings: final latencies taken to choose.",
        f"Targets: {PRECISION_RATIO} times the raw precision where that is below {WHERE_BELOW}, recall not below the raw one,"
        f" coverage at least {COVERAGE:.0%}: {len(rows) - failed} of {len(rows)} settings reach all.",
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------- the command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 500, 2000], metavar="N")
    parser.add_argument("--noise", type=float, nargs="+", default=[0, 2, 5], metavar="PER_CENT")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="number of seeds (default 20)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="SEED", help="the first of them (default 0)")
    parser.add_argument("--architectures", type=int, default=200, metavar="N", help="that a search met (default 200)")
    parser.add_argument(
        "--looks",
        type=int,
        nargs="+",
        default=ROUND_SIZES,
        metavar="N",
        help="fresh images of each look, over the search's",
    )
    parser.add_argument(
        "--fresh", type=float, default=FRESH, metavar="N", help="fresh images there are, over the search's (default 17)"
    )
    parser.add_argument("--latency", default="lat_ms_pixel2", metavar="COLUMN", help="device (default lat_ms_pixel2)")
    parser.add_argument("--bench", type=Path, default=BENCH_FOLDER, metavar="FOLDER", help="holds the table")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write every count")
    arguments = parser.parse_args(argv)
    for name, least in (("seeds", 1), ("architectures", 2), ("first_seed", 0)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name.replace('_', '-')}: {getattr(arguments, name)}; give {least} or more")
    if min(arguments.images) < 1:
        parser.error(f"--images: {min(arguments.images)}; give 1 or more")
    if min(arguments.looks) < 1:
        parser.error(f"--looks: {min(arguments.looks)}; give 1 or more")
    if not 0 < arguments.fresh < math.inf:
        parser.error(f"--fresh: {arguments.fresh:g}; give a number above 0")
    if min(arguments.noise) < 0:
        parser.error(f"--noise: {min(arguments.noise):g}; give 0 or more per cent")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table; 0 if every target is reached."""
    arguments = _arguments(argv)
    start = time.perf_counter()
    try:
        problem = Nas201(arguments.latency, folder=arguments.bench)
    except EedSearchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    rows = [
        run_row(problem, images, noise, seeds, arguments.architectures, tuple(arguments.looks), arguments.fresh)
        for images in arguments.images
        for noise in arguments.noise
    ]
    num = min(arguments.architectures, len(problem.accuracy))
    print(table(rows, len(seeds), num, arguments.latency))
    print(f"\n{time.perf_counter() - start:.0f} s.")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return int(any(row.missed() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
