"""What do the store, the gate before training and the threshold sweep save? The digits search with each switched off.

    python benchmarks/economy.py [--seeds 3] [--trials 20] [--trials-off 40] [--limit 0.7] [--home DIR]
                                 [--variants on off store gate sweep store-given off-given]
                                 [--target HYPERVOLUME] [--out FILE.json]
    python benchmarks/economy.py --tiny           # seconds of training, one process: shows that it runs

Each search is real: `eed-search launch` with its trials on Ray's workers (`--tiny`: one after another in this process),
in a home of its own. All have the same limit: at most `--limit` times the dense base's latency when every member runs,
so that the gate has something to turn away, and no baselines. What is switched off is done as one would without it:

store        every trial has a store of its own and makes all its stages, the base first; going on from a rung it finds its own work
gate         the limit is looked at when everything is trained and measured
sweep        a trained team is one point
off          all three; `on`: none
store-given  as `store`, but the base is there: what one has who trains it beforehand and shares nothing else
off-given    as `off`, but the base is there

Time is the run's, from its ledger, to the first event at which the hypervolume reaches a target: a swept threshold counts
from its confirmation on, a point whose latency was too noisy from its final one on. `found` dates both by their trial's
end, at what the finals then measured, plus the seconds that confirmations took.

The target is one hypervolume for all: what a search with everything on ends with, the mean over the seeds, unless `--target`
names another. `--trials-off` lets the others search on for it. A search that ends below it counts with the seconds
until its last trial's end, and the seconds of all seeds are divided by the number of those that got there: the expected
running time (Hansen et al. 2021, COCO). A low target is reached by the first few trials of any search, whatever is
switched off, so a second table says what other targets would have told.

Searches that lie finished in `--home` are read, not run again: a benchmark that was cut short goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Run as a file, it finds its neighbours and the package from any folder; so do Ray's workers.
sys.path[:0] = [str(ROOT)]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

from benchmarks.economy_pipeline import Pipeline  # noqa: E402
from eed_search.config.loader import Override, load  # noqa: E402
from eed_search.config.spec import Spec  # noqa: E402
from eed_search.core.errors import EedSearchError, RunError  # noqa: E402
from eed_search.frontier.points import run_hypervolume  # noqa: E402
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView, fold, read_run  # noqa: E402

SWITCHES = ("store", "gate", "sweep")
GIVEN = "store but the base"
VARIANTS: dict[str, frozenset[str]] = {
    "on": frozenset(),
    **{name: frozenset({name}) for name in SWITCHES},
    "off": frozenset(SWITCHES),
    "store-given": frozenset({GIVEN}),
    "off-given": frozenset({GIVEN, "gate", "sweep"}),
}
"""What is switched off, by the variant's name."""
FACTOR = 5.0  # the target: all on against all off
_SAME = 1e-9  # of a hypervolume
TINY = {
    "data.num_train": 128,
    "base.epochs": 3,
    "base.attack.steps": 1,
    "members.finetune.epochs": 3,
    "members.finetune.attack.steps": 1,
    "joint.epochs": 1,
    "evaluation.steps": 3,
    "latency.rounds": 3,
    "latency.final_rounds": 3,
    "latency.final_calls": 100,
    "latency.final_processes": 1,
    "latency.block_ms": 5,
}


@dataclass(frozen=True)
class Search:
    """One search: what came of it.

    Attributes:
        variant: Of `VARIANTS`.
        seed: Of the search.
        seconds: All in all.
        base_s: Until the trials began.
        searched_s: Until the last trial ended, plus the confirmations' seconds: without the rest of the finals.
        strict: (seconds, hypervolume from then on), at each growth; as the ledger told it then.
        found: The same with what the finals said dated by the trials, plus the confirmations' seconds.
        trials: By outcome.
        stages: (computed, reused), by stage.
    """

    variant: str
    seed: int
    seconds: float
    base_s: float
    searched_s: float
    strict: tuple[tuple[float, float], ...]
    found: tuple[tuple[float, float], ...]
    trials: dict[str, int]
    stages: dict[str, tuple[int, int]]

    @property
    def hypervolume(self) -> float:
        """What the search shows in the end; 0 if it found no point."""
        return max((value for _, value in self.found), default=0.0)


def reached(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Give the first time at which a curve has a value, or none."""
    return next((seconds for seconds, value in curve if value >= target - _SAME), None)


# ---------------------------------------------------------------- run and read


def spec_of(variant: str, seed: int, trials: int, limit: float, *, tiny: bool) -> Spec:
    """Give the digits search with one limit and without baselines, and without the sweep where that is off."""
    changes: dict[str, Any] = {
        "seed": seed,
        "search.trials": trials,
        "search.constraints.max_worst_case_slowdown": limit,
        "baselines.sizes": [],
        "name": f"economy-{variant}",
        **(TINY if tiny else {}),
    }
    if "sweep" in VARIANTS[variant]:
        changes["gate.sweep"] = 0
    overrides = [Override(tuple(key.split(".")), value) for key, value in changes.items()]
    return load(ROOT / "search_spaces" / "digits.yaml", overrides)


def run_search(spec: Spec, variant: str, home: Path, *, tiny: bool) -> None:
    """Run one search to its end, unless it lies there finished."""
    from eed_search.search import LocalWorkers, Silent, run

    folder = home / "run"
    if (folder / FILE_NAME).is_file():
        if read_run(folder).state == "finished":
            return
        shutil.rmtree(home)  # cut short: its times would hold the pause
    off = VARIANTS[variant]
    pipeline: Any = Pipeline(store=off.isdisjoint({"store", GIVEN}), gate="gate" not in off, base=GIVEN in off)
    view = run(
        spec, home=home, name="run", pipeline=pipeline, listener=Silent(), workers=LocalWorkers() if tiny else None
    )
    if view.state != "finished":
        raise RunError(f"{folder}: ended as {view.state}; run the benchmark again, which goes on with this search")


def read_search(folder: Path, variant: str, seed: int) -> Search:
    """Follow a ledger event by event."""
    final = read_run(folder)
    view, strict, base_s = RunView(), list[tuple[float, float]](), 0.0
    ends: dict[int, tuple[float, int]] = {}
    confirming: dict[str, float] = {}
    before, retimed = 0.0, False
    with Ledger(folder / FILE_NAME) as ledger:
        for event in ledger.events():
            if retimed and event.kind != "latency":  # all of them came at once
                retimed = False
                _grow(strict, view.seconds, run_hypervolume(view))
            fold(view, event)
            now = view.seconds
            retimed |= event.kind == "latency"
            if event.kind == "stage" and event.data["text"] == "baselines and trials":
                base_s = now
            if event.kind == "result" and event.trial is not None:
                ends[event.trial] = (now, len(ends))
            if event.kind == "confirmed":
                confirming[event.data["id"]] = now - before
            if event.kind in ("result", "confirmed"):
                _grow(strict, now, run_hypervolume(view))
            if event.kind in ("stage", "confirmed"):
                before = now
    return Search(
        variant,
        seed,
        final.seconds,
        base_s,
        max((seconds for seconds, _ in ends.values()), default=final.seconds) + sum(confirming.values()),
        tuple(strict),
        tuple(_as_found(final, ends, confirming)),
        final.num_trials(),
        final.stage_counts(),
    )


def _as_found(
    final: RunView, ends: dict[int, tuple[float, int]], confirming: dict[str, float]
) -> list[tuple[float, float]]:
    """Follow the hypervolume with what the finals said of a trial counted from the trial's end on."""
    curve: list[tuple[float, float]] = []
    spent = 0.0
    for number, (seconds, _) in sorted(ends.items(), key=lambda item: item[1][1]):
        spent += sum(took for id_, took in confirming.items() if id_.partition(".")[0] == str(number))
        there = {n: final.trials[n] for n, (at, _) in ends.items() if at <= seconds and n in final.trials}
        _grow(curve, seconds + spent, run_hypervolume(replace(final, trials=there)))
    return curve


def _grow(curve: list[tuple[float, float]], seconds: float, value: float) -> None:
    if value > (curve[-1][1] if curve else 0.0):
        curve.append((seconds, value))


# ---------------------------------------------------------------- the table


def table(searches: Sequence[Search], target: float | None = None) -> str:
    """Write the tables of a call, in Markdown, with what they mean under them.

    Args:
        searches: Of any seeds and variants.
        target: The hypervolume to be reached; by default what searches with everything on end with.
    """
    by_variant = {name: [one for one in searches if one.variant == name] for name in VARIANTS}
    target = usual(by_variant["on"] or searches) if target is None else target
    lines = [
        "| off | time | as found | without the base | got there | in all | hypervolume | members made / used | infeasible |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, mine in by_variant.items():
        if not mine:
            continue
        made, reused = (sum(one.stages.get("member", (0, 0))[i] for one in mine) for i in (0, 1))
        cells = [
            ", ".join(sorted(VARIANTS[name])) or "nothing",
            str(expected(mine, "strict", target)),
            str(expected(mine, "found", target)),
            str(expected(mine, "found", target, without_base=True)),
            f"{sum(one.hypervolume >= target - _SAME for one in mine)} of {len(mine)}",
            f"{sum(one.seconds for one in mine) / len(mine):.0f} s",
            f"{sum(one.hypervolume for one in mine) / len(mine):.3f}",
            f"{made} / {made + reused}",
            f"{sum(one.trials['infeasible'] for one in mine)} of {sum(sum(one.trials.values()) for one in mine)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Seconds until the hypervolume was {target:.3f}: those of all seeds over the number of them that got there, `>` where"
        " none did.",
        *verdict(by_variant, target),
        *other_targets(by_variant),
    ]
    return "\n".join(lines)


def usual(searches: Sequence[Search]) -> float:
    """Give the hypervolume that searches end with, the mean; 0 if none found a point."""
    ends = [one.hypervolume for one in searches if one.found]
    return sum(ends) / len(ends) if ends else 0.0


@dataclass(frozen=True)
class Expected:
    """Seconds until a hypervolume is there, when a search that ends below it is begun again.

    Attributes:
        seconds: The expected time; where nobody got there, what all spent.
        reached: Whether anybody got there.
    """

    seconds: float
    reached: bool

    def __str__(self) -> str:
        return f"{'' if self.reached else '> '}{self.seconds:.0f} s"

    def __truediv__(self, other: Expected) -> str:
        return f"{'' if self.reached else 'more than '}{self.seconds / max(other.seconds, 1e-9):.1f}"


def expected(searches: Sequence[Search], curve: str, target: float, *, without_base: bool = False) -> Expected:
    """Give the expected time to a hypervolume, over searches that differ in their seed.

    Args:
        searches: One or more.
        curve: `strict` or `found`.
        target: The hypervolume.
        without_base: Count from the trials' begin on.
    """
    times = [reached(getattr(one, curve), target) for one in searches]
    spent = [
        (one.searched_s if at is None else at) - (one.base_s if without_base else 0.0)
        for at, one in zip(times, searches, strict=True)
    ]
    there = sum(at is not None for at in times)
    return Expected(sum(spent) / max(there, 1), there > 0)


def verdict(by_variant: dict[str, list[Search]], target: float) -> list[str]:
    """Compare all on with all off, where both were run."""
    lines = []
    for name, given in (("off", ""), ("off-given", ", each trial given the base,")):
        if not by_variant["on"] or not by_variant[name]:
            continue
        for words, without_base in ((given, False), (given + " without the first base's time", True)):
            on = expected(by_variant["on"], "found", target, without_base=without_base)
            off = expected(by_variant[name], "found", target, without_base=without_base)
            if not on.reached:
                lines.append(f"All on against all off{words}: no search with all on reached the target.")
                continue
            factor = off.seconds / max(on.seconds, 1e-9)
            lines.append(
                f"All on is {off / on} times as fast as all off{words} (as found); the target is {FACTOR:g}:"
                f" {'reached' if factor >= FACTOR else 'missed'}."
            )
    return lines


def other_targets(by_variant: dict[str, list[Search]]) -> list[str]:
    """Say what all on against all off would be at any hypervolume, in steps of a hundredth, that some search with all on has."""
    on, off = by_variant["on"], by_variant["off"]
    if not on or not off:
        return []
    highest = max(one.hypervolume for one in on)
    lowest = min(one.found[0][1] for one in (*on, *off) if one.found)
    lines = ["", "| hypervolume | all on | all off | times |", "|---:|---:|---:|---:|"]
    for hundredths in range(math.ceil(100 * lowest), math.floor(100 * highest) + 1):
        one, other = (expected(mine, "found", hundredths / 100) for mine in (on, off))
        lines.append(f"| {hundredths / 100:.2f} | {one} | {other} | {other / one} |")
    return lines


# ---------------------------------------------------------------- the command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N-1 (default 3)")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="of a search with all on (default 20)")
    parser.add_argument(
        "--trials-off", type=int, metavar="N", help="of a search with something off (default: twice as many)"
    )
    parser.add_argument("--limit", type=float, default=0.7, help="worst-case latency over the base's (default 0.7)")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--home", type=Path, metavar="DIR", help="keeps the searches; a temporary folder by default")
    parser.add_argument("--target", type=float, metavar="HYPERVOLUME", help="in 0..1; by default the searches' own")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write every search's curves")
    parser.add_argument("--tiny", action="store_true", help="one seed, 5 trials, little training, no Ray")
    arguments = parser.parse_args(argv)
    if arguments.tiny:
        arguments.seeds, arguments.trials, arguments.trials_off = 1, 5, 5
    if arguments.trials_off is None:
        arguments.trials_off = 2 * arguments.trials
    for name in ("seeds", "trials", "trials_off"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: {getattr(arguments, name)}; give 1 or more")
    if not arguments.limit > 0:
        parser.error(f"--limit: {arguments.limit:g}; give more than 0")
    if arguments.target is not None and not 0 < arguments.target < 1:
        parser.error(f"--target: {arguments.target:g}; give a hypervolume between 0 and 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table after each search."""
    arguments = _arguments(argv)
    home = arguments.home or Path(tempfile.mkdtemp(prefix="economy-"))
    searches: list[Search] = []
    try:
        for seed in range(arguments.seeds):
            for variant in arguments.variants:
                folder = home.expanduser().resolve() / f"{variant}-{seed}"
                trials = arguments.trials_off if VARIANTS[variant] else arguments.trials
                spec = spec_of(variant, seed, trials, arguments.limit, tiny=arguments.tiny)
                print(f"seed {seed}, off: {', '.join(sorted(VARIANTS[variant])) or 'nothing'} ...", file=sys.stderr)
                run_search(spec, variant, folder, tiny=arguments.tiny)
                searches.append(read_search(folder / "run", variant, seed))
    except EedSearchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        if arguments.home is None:
            shutil.rmtree(home, ignore_errors=True)
    print(table(searches, arguments.target))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps([asdict(one) for one in searches], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
