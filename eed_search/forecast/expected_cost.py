"""What a search would cost: pure arithmetic over measured unit costs and the proposals that can be foreseen.

What a model will propose is not known beforehand, nor which trials racing gives up. So there are two ends: no
member is asked for that is not there yet, and every rung lets only its share go on (low); as many new members as
chance would ask for, and every trial to its end (high). At both, every image counts as attacked to the last step,
though many break earlier.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eed_search.config.params import MemberChoice, is_scored
from eed_search.config.plans import NUM_PARTS, MemberPlan
from eed_search.config.removal import removes_channels
from eed_search.config.spec import Choice, Range, Recipe, Spec
from eed_search.evaluation.cascade import FEWEST_BLOCKS, FEWEST_ROUNDS, WARM_UP_SHARE, WORST_SHARE
from eed_search.evaluation.latency import REFERENCE_SHARE
from eed_search.evaluation.latency_processes import SPARE
from eed_search.evaluation.sequential_test import interim_sizes
from eed_search.evaluation.timing import NUM_DOUBLINGS, WARM_UP_S
from eed_search.forecast.foreseen import Draw
from eed_search.forecast.space_size import plans_of
from eed_search.frontier.selection import plan_rounds
from eed_search.runs.disk_space import LEDGER_BYTES, fixed_bytes

if TYPE_CHECKING:
    from eed_search.config.params import Score
    from eed_search.forecast.cached_stages import CachedStages
    from eed_search.forecast.calibration import UnitCosts

_RUNG_ATTACK = 0.25  # share of a trial's evaluation: half of the images, half of the steps
_CONTENDERS, _REPORTED = (3, 14), (2, 8)  # points that finals are reckoned for, low and high
_PROCESS_S = 0.9  # that a process for final latencies takes to start, measured


@dataclass(frozen=True)
class Span:
    """A value between two ends."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        return Span(self.low * factor, self.high * factor)


# ---------------------------------------------------------------- one job after the other


@dataclass
class _Made:
    """What is there already while trials are gone through in order."""

    scores: set[Score]
    members: set[MemberPlan]
    judged: set[MemberPlan]
    crafted: bool = False


@dataclass
class _Work:
    """Seconds of work by stage, and how often each was computed and read."""

    seconds: dict[str, float] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)
    reused: dict[str, int] = field(default_factory=dict)

    def add(self, stage: str, seconds: float, count: int = 1) -> float:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.computed[stage] = self.computed.get(stage, 0) + count
        return seconds

    def reuse(self, stage: str, count: int = 1) -> None:
        self.reused[stage] = self.reused.get(stage, 0) + count


class _Reckoner:
    """Prices jobs, given what is there."""

    def __init__(self, spec: Spec, units: UnitCosts, cached: CachedStages) -> None:
        self.spec, self.units, self.cached = spec, units, cached
        self.work = _Work()
        self._made = _Made(set(cached.scores), set(cached.members), set(cached.members), bool(cached.members))

    def training_s(self, step_s: float, recipe: Recipe, images: float) -> float:
        """Seconds of a training run; a batch smaller than the recipe's costs by its images."""
        return step_s * recipe.epochs * images / min(recipe.batch_size, self.units.num_train)

    def attack_s(self, sizes: Sequence[float], images: int) -> float:
        """Seconds of an evaluation: every surrogate attacks every image to the last step."""
        surrogates = 1 if len(sizes) == 1 else 1 + len(sizes)
        each = sum(self.units.attack_s.at(size) for size in sizes)
        return surrogates * (self.spec.evaluation.steps + 1) * images * each

    def slow_down_s(self, sizes: Sequence[float], images: int) -> float:
        """Seconds of the attack on the gate's cost: two runs; nothing for a single network."""
        if len(sizes) == 1:
            return 0.0
        each = sum(self.units.attack_s.at(size) for size in sizes)
        return 2 * (self.spec.evaluation.slow_down_steps + 1) * images * each

    def latency_s(self, size: float, doubled: int) -> float:
        """Seconds of one network's latency: warm-up, and rounds of three blocks."""
        latency = self.spec.latency
        blocks = sum(max(latency.block_ms, self.units.call_ms.at(one)) for one in (1.0, 0.5, size))
        return WARM_UP_S + latency.rounds * (1 << doubled) * blocks / 1000

    def base(self, doubled: int) -> float:
        """Prepare the search: train the base, evaluate it, time it and every size."""
        spec, units = self.spec, self.units
        total = 0.0
        if self.cached.base:
            self.work.reuse("base")
        else:
            total += self.work.add("base", self.training_s(units.base_step_s, spec.base, units.num_train))
        steps = spec.evaluation.steps + 1
        total += self.work.add("attacks", steps * units.num_validation * units.base_attack_s)
        sizes = [float(v) for v in spec.search.space.size.values] if isinstance(spec.search.space.size, Choice) else []
        rounds_s = spec.latency.rounds * spec.latency.block_ms / 1000
        reference = 3 * WARM_UP_S + (REFERENCE_SHARE + 1) * rounds_s  # base and sentinel warm, then base and gate timed
        timed = reference + sum(self.latency_s(size, doubled) for size in sizes)
        return total + self.work.add("latency", timed, 1 + len(sizes))

    def baseline(self, size: float) -> float:
        """Train the baselines of one size, and evaluate them."""
        spec, units, total = self.spec, self.units, 0.0
        for recovery in spec.baselines.recoveries:
            if (size, recovery) in self.cached.baselines:
                self.work.reuse("baselines")
                continue
            step = units.baseline_step_s[recovery].at(size)
            total += self.work.add("baselines", self.training_s(step, units.baseline_recipe, units.num_train))
            total += self.work.add("attacks", self.attack_s([size], units.num_validation))
        return total

    def trial(self, draw: Draw, *, only_old_members: bool, num_rungs: int, given_up: bool = False) -> float:
        """Run a trial; its members are made where they are not there yet.

        Args:
            draw: What it tries.
            only_old_members: Whether a model that is free to choose chooses members that are there.
            num_rungs: How many rungs it gets beyond: 0 leaves it with its members, 1 with its joint
                fine-tune, 2 lets it come to its end.
            given_up: Whether the last attack ends with its first look at the images.
        """
        spec, units, made, total = self.spec, self.units, self._made, 0.0
        plans = plans_of(draw.params, spec)
        sizes = sizes_of(draw, spec)
        old = only_old_members and not draw.certain and bool(made.members)
        for plan in plans:
            if old or plan in made.members:
                self.work.reuse("members")
                continue
            made.members.add(plan)
            if is_scored(plan.choice.method) and plan.choice.score not in made.scores:
                made.scores.add(plan.choice.score)
                total += self.work.add("scores", units.scores_s.get(plan.choice.score, 0.0))
            step = units.finetune_step_s[plan.recovery].at(_weight(plan.choice, spec))
            images = units.num_train * (0.25 + 0.75 / NUM_PARTS if plan.subsets == "shared" else 1.0)
            own = units.method_image_s.get(plan.choice.method, 0.0) * images
            total += self.work.add("members", own + self.training_s(step, spec.members.finetune, images))
        if len(plans) > 1:
            for plan in plans:
                if old or plan in made.judged:
                    continue
                made.judged.add(plan)
                total += self.work.add("attacks", self.attack_s([_weight(plan.choice, spec)], units.num_validation))
            if not made.crafted:
                made.crafted = True
                total += self.work.add("attacks", self.attack_s([1.0], units.num_validation))
        if isinstance(spec.search.space.size, Range):
            total += self.work.add("latency", sum(self.latency_s(size, 0) for size in sizes), len(sizes))
        if spec.team.mode == "pool":  # how large the chosen team is, is not known
            sizes = sizes[: spec.team.pool.max_members]
        attack = self.attack_s(sizes, units.num_validation)
        if spec.search.racing:
            total += self.work.add("attacks", _RUNG_ATTACK * attack)
        if num_rungs == 0:
            return total
        step = sum(units.joint_step_s.at(size) for size in sizes) * (units.team_factor if len(sizes) > 1 else 1.0)
        total += self.work.add("joint fine-tuning", self.training_s(step, spec.joint, units.num_train))
        if spec.search.racing:
            total += self.work.add("attacks", _RUNG_ATTACK * attack)
        if num_rungs == 1:
            return total
        if given_up:
            return total + self.work.add("attacks", self.attack_s(sizes, interim_sizes(units.num_validation)[0]))
        return total + self.work.add("attacks", attack + self.slow_down_s(sizes, units.num_validation))

    def finals(self, sizes: Sequence[float], num_contenders: int, num_reported: int, doubled: int) -> float:
        """Confirm, time and check so many points of a team of these sizes, and what is reported of them.

        At the low end nobody's order in latency is open; at the high end that of all reported points is, at every round.
        """
        spec, units = self.spec, self.units
        plan = plan_rounds(units.num_validation, units.num_fresh)
        total = 0.0
        if spec.gate.sweep and len(sizes) > 1:
            confirmed = num_contenders // 2
            each = self.attack_s(sizes, units.num_validation) + self.slow_down_s(sizes, units.num_validation)
            total += self.work.add("attacks", confirmed * each, confirmed)
        references = [1.0, *(float(size) for size in spec.baselines.sizes)]
        timed = len(references) + num_contenders
        total += self.work.add("latency", self.together_s(references, sizes, num_contenders, doubled), timed)
        if plan.validation_rounds:
            repeats = plan.num_timings[-1] if doubled else 1
            seconds = repeats * self.together_s([], sizes, num_reported, doubled)
            total += self.work.add("latency", seconds, repeats * num_reported)
        num_last = plan.last[1] - plan.last[0]
        fresh = [self.attack_s([size], num_last) for size in references]
        fresh += [self.attack_s(sizes, num_last)] * num_reported
        for number, (first, end) in enumerate(plan.validation_rounds):
            fresh += [self.attack_s(sizes, end - first)] * (num_reported if number else num_contenders)
        return total + self.work.add("attacks", sum(fresh), len(fresh))

    def together_s(self, references: Sequence[float], sizes: Sequence[float], num_teams: int, doubled: int) -> float:
        """Time networks and so many teams of these sizes in the same rounds."""
        units, latency = self.units, self.spec.latency
        calls = max(1, math.ceil(latency.final_calls / latency.final_rounds))
        team_ms = sum(units.call_ms.at(size) for size in sizes)
        entrants = [units.call_ms.at(size) for size in (1.0, 0.5, *references)]  # base and sentinel beside them
        blocks = [max(latency.block_ms, calls * ms) for ms in entrants]
        blocks += [max(latency.block_ms, calls * team_ms), max(WORST_SHARE * latency.block_ms, team_ms)] * num_teams
        num = latency.final_processes
        rounds = max(FEWEST_ROUNDS, math.ceil(latency.final_rounds / num)) * (1 << doubled)
        batches = min(latency.rounds, max(FEWEST_BLOCKS, math.ceil(latency.rounds / num)))
        seconds = len(blocks) * WARM_UP_SHARE * WARM_UP_S + rounds * sum(blocks) / 1000
        seconds += (len(references) + num_teams) * batches * latency.block_ms / 1000  # throughput
        if num == 1:
            return seconds
        return (num + (SPARE if doubled else 0)) * (seconds + _PROCESS_S)


def makespan(jobs: Iterable[float], slots: int) -> float:
    """Seconds until all jobs are done, each started in order on the slot that is free first."""
    free = [0.0] * max(1, slots)
    for seconds in jobs:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


# ---------------------------------------------------------------- the whole


@dataclass(frozen=True)
class StageCost:
    """One stage of a forecast.

    Attributes:
        stage: Its name.
        computed: How often it is computed.
        reused: How often it is read instead, in the high end.
        seconds: Seconds of work, on one slot.
    """

    stage: str
    computed: Span
    reused: int
    seconds: Span


@dataclass(frozen=True)
class Forecast:
    """What a search would cost.

    Attributes:
        trials: Proposed at most.
        slots: Trials at once.
        stages: Cost by stage, in the order of a search.
        base_s: Wall-clock of the dense base's part, alone on the machine.
        trials_s: Wall-clock of baselines and trials side by side.
        revalidation_s: Wall-clock of what is done to the frontier, alone on the machine.
        store_bytes: What the store grows by.
        run_bytes: What the run's folder, its ledger included, and MLflow take.
        ledger_bytes: Bytes of the ledger, part of `run_bytes`.
        num_drawn: Proposals that were drawn for it.
    """

    trials: int
    slots: int
    stages: tuple[StageCost, ...]
    base_s: Span
    trials_s: Span
    revalidation_s: Span
    store_bytes: Span
    run_bytes: int
    ledger_bytes: int
    num_drawn: int

    @property
    def wall_s(self) -> Span:
        """From the first event to the last; without the start of Ray and its workers."""
        return self.base_s + self.trials_s + self.revalidation_s


_STAGES = ("base", "baselines", "scores", "members", "joint fine-tuning", "attacks", "latency")


def forecast(spec: Spec, units: UnitCosts, proposals: Sequence[Draw], cached: CachedStages, slots: int) -> Forecast:
    """Reckon what a search would cost.

    Args:
        spec: The search.
        units: Measured on this machine.
        proposals: From `foreseen.draws`, at least one.
        cached: What the store holds of it.
        slots: Trials at once.

    Returns:
        Both ends of everything; where `search.time_budget_s` cuts the trials, the wall-clock ends
        with the trials that run then, while the stages count all.
    """
    low, low_s = _one_end(spec, units, proposals, cached, slots, high=False)
    high, high_s = _one_end(spec, units, proposals, cached, slots, high=True)
    stages = tuple(
        StageCost(
            name,
            Span(low.computed.get(name, 0), high.computed.get(name, 0)),
            high.reused.get(name, 0),
            Span(low.seconds.get(name, 0.0), high.seconds.get(name, 0.0)),
        )
        for name in _STAGES
    )
    base_s, trials_s, revalidation_s = (Span(*sorted(pair)) for pair in zip(low_s, high_s, strict=True))
    num = spec.search.trials
    return Forecast(
        trials=num,
        slots=slots,
        stages=stages,
        base_s=base_s,
        trials_s=trials_s,
        revalidation_s=revalidation_s,
        store_bytes=_store_bytes(spec, units, proposals, low, high),
        run_bytes=fixed_bytes(num),
        ledger_bytes=num * LEDGER_BYTES,
        num_drawn=len(proposals),
    )


def _one_end(
    spec: Spec, units: UnitCosts, proposals: Sequence[Draw], cached: CachedStages, slots: int, *, high: bool
) -> tuple[_Work, tuple[float, float, float]]:
    reckoner = _Reckoner(spec, units, cached)
    doubled = NUM_DOUBLINGS if high and not units.settled else 0
    base_s = reckoner.base(doubled)
    jobs = [reckoner.baseline(size) for size in spec.baselines.sizes]
    trials = []
    for number, draw in enumerate(proposals):
        num_rungs = 2 if high or not spec.search.racing else _rungs_beyond(number, spec.search.eta)
        given_up = not high and spec.search.image_racing and number > 0  # the first one has no incumbents
        trials.append(reckoner.trial(draw, only_old_members=not high, num_rungs=num_rungs, given_up=given_up))
    if left := spec.search.trials - len(trials):
        late = trials[-max(1, len(trials) // 4) :]
        each = sum(late) / len(late)
        reckoner.work.add("trials beyond those drawn", each * left, left)
        trials += [each] * left
    trials_s = makespan([*jobs, *trials], slots)
    if spec.search.time_budget_s is not None:
        until = max(0.0, spec.search.time_budget_s - base_s) + max(trials, default=0.0)
        trials_s = max(makespan(jobs, slots), min(trials_s, until))
    team = sorted((sizes_of(draw, spec) for draw in proposals), key=len)[len(proposals) // 2]
    revalidation_s = reckoner.finals(team, _CONTENDERS[high], _REPORTED[high], doubled)
    return reckoner.work, (base_s, trials_s, revalidation_s)


def _rungs_beyond(number: int, eta: int) -> int:
    """Say how far a trial comes if each rung lets one in `eta` go on and none after that."""
    return int(number % eta == 0) + int(number % eta**2 == 0)


def sizes_of(draw: Draw, spec: Spec) -> list[float]:
    """List the sizes of a proposal's members as far as they cost time; 1 where no channel is removed."""
    return [_weight(plan.choice, spec) for plan in plans_of(draw.params, spec)]


def _weight(choice: MemberChoice, spec: Spec) -> float:
    return choice.size if removes_channels(spec, choice.method) else 1.0


def _store_bytes(spec: Spec, units: UnitCosts, proposals: Sequence[Draw], low: _Work, high: _Work) -> Span:
    """Bytes of networks, scores and answers; each network weighs its float32 weights."""
    sizes = [size for draw in proposals for size in sizes_of(draw, spec)]
    member = sum(units.num_bytes.at(size) for size in sizes) / len(sizes)
    teams = spec.search.trials * member * len(sizes) / len(proposals)
    dense = units.num_bytes.at(1.0)

    def of(work: _Work) -> float:
        made = work.computed
        fixed = (made.get("base", 0) + made.get("scores", 0)) * dense + units.num_validation * units.image_bytes
        baselines = made.get("baselines", 0) * sum(units.num_bytes.at(s) for s in spec.baselines.sizes)
        answers = made.get("attacks", 0) * 20 * units.num_validation  # flags of each image at each threshold
        return fixed + baselines / max(1, len(spec.baselines.sizes)) + made.get("members", 0) * member + teams + answers

    return Span(of(low), of(high))


def foreseen_members(proposals: Collection[Draw], spec: Spec) -> set[MemberPlan]:
    """Collect the members of all proposals."""
    return {plan for draw in proposals for plan in plans_of(draw.params, spec)}
