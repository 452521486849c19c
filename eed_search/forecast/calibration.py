"""What a unit of each kind of work costs on this machine: a few batches of the real thing, for a forecast.

Untrained networks cost what trained ones do, so nothing has to be trained first, and nothing is kept.
Where a batch is large for the time there is, a smaller one is timed and scaled by its images. Of several
equal steps the shortest counts, by the processor's time where one thread works: what other work on the
machine takes is not this search's cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eed_search.compression.member import Member, recovery_loss
from eed_search.compression.methods import settings_of
from eed_search.compression.scores import ScoreBatch, score_function
from eed_search.config.params import Recovery, is_scored
from eed_search.config.removal import removes_channels
from eed_search.config.spec import Choice, Evaluation, Range, Recipe, Spec
from eed_search.deployment.onnx_export import to_onnx
from eed_search.ensemble.loss import JointLoss
from eed_search.ensemble.loss import Members as MemberStack
from eed_search.evaluation.latency import LatencyProbe
from eed_search.evaluation.robust import craft
from eed_search.evaluation.timing import time_block
from eed_search.pipeline.context import StageContext
from eed_search.pipeline.training import baseline_recipe
from eed_search.training import train
from eed_search.training.loop import BatchLoss

_BUDGET_S, _LIMIT_S = 0.5, 2.0  # for one kind of training step
_NUM_STEPS, _TRY_STEPS, _TRY_BATCH = 5, 4, 8
_ATTACK_IMAGES, _ATTACK_STEPS, _ATTACK_TRIES = 64, 2, 4
_SCORE_SAMPLES = (8, 24)
_ROUNDS = 3
_NUM_CALLS, _NUM_IMAGES = 24, 8  # the probe's images are numbered 0..7
_MOST_SIZES = 4  # beyond that, sizes between are interpolated


@dataclass(frozen=True)
class Curve:
    """A quantity by a member's size; linear in between.

    Attributes:
        sizes: Fractions kept, ascending.
        values: One for each.
    """

    sizes: tuple[float, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Mapping[float, float]) -> Curve:
        """Take measured values by size."""
        sizes = tuple(sorted(values))
        return cls(sizes, tuple(values[size] for size in sizes))

    def at(self, size: float) -> float:
        """Give the value at a size; outside those measured, the nearest one's."""
        return float(np.interp(size, self.sizes, self.values))


@dataclass(frozen=True)
class UnitCosts:
    """Seconds for one unit of each kind of work on this machine, with as many threads as the search takes.

    Attributes:
        num_train: Training images.
        num_validation: Images that rank.
        num_fresh: Images of the last check.
        image_bytes: One image as float32.
        base_step_s: An optimiser step of the dense base, on the whole machine.
        base_attack_s: One PGD step on one image of the dense base, on the whole machine.
        finetune_step_s: An optimiser step of a member's fine-tune, by recovery, over sizes.
        method_image_s: A method's own training before the fine-tune, for each training image.
        baseline_step_s: An optimiser step of a baseline's training, by recovery, over sizes.
        baseline_recipe: How baselines are trained.
        joint_step_s: An optimiser step of the joint fine-tune of a team of one, over sizes.
        team_factor: A joint step of a whole team over the sum of its members' steps.
        scores_s: All scores of the base, by the score's name.
        attack_s: One PGD step on one image, over sizes.
        call_ms: One image in the deployment runtime, over sizes; 1 is the dense base.
        settled: Whether a latency's interval was narrow after the first few rounds.
        num_bytes: Float32 weights that one network keeps in the store, over sizes.
        seconds: That the calibration took.
    """

    num_train: int
    num_validation: int
    num_fresh: int
    image_bytes: int
    base_step_s: float
    base_attack_s: float
    finetune_step_s: dict[Recovery, Curve]
    method_image_s: dict[str, float]
    baseline_step_s: dict[Recovery, Curve]
    baseline_recipe: Recipe
    joint_step_s: Curve
    team_factor: float
    scores_s: dict[str, float]
    attack_s: Curve
    call_ms: Curve
    settled: bool
    num_bytes: Curve
    seconds: float


def calibrate(context: StageContext, *, cores: int, report: Callable[[str], None] = lambda text: None) -> UnitCosts:
    """Time a few batches of each stage and a few latency rounds; changes and keeps nothing.

    Args:
        context: Gives data, device and architectures; its store is not asked.
        cores: Cores of the whole machine; a trial takes `resources.cpu` of them.
        report: Told what is being measured.

    Raises:
        ModelError: If a network cannot be built, cut or exported.
    """
    before = torch.get_num_threads()
    try:
        return _Calibration(context, cores, report).run()
    finally:
        torch.set_num_threads(before)


def measured_sizes(spec: Spec) -> list[float]:
    """Choose the sizes to measure: all of a short list, else both ends and the middle; 1 if only weights go."""
    smaller = [removes_channels(spec, method) for method in _methods(spec)]
    whole = set() if all(smaller) else {1.0}
    if not any(smaller):
        return [1.0]
    size = spec.search.space.size
    if isinstance(size, Range):
        found = {size.low, (size.low + size.high) / 2, size.high}
    else:
        values = sorted(float(value) for value in size.values)
        found = set(values if len(values) <= _MOST_SIZES else (values[0], values[len(values) // 2], values[-1]))
    return sorted(found | whole)


class _Calibration:
    """One calibration; equal measurements are taken once."""

    def __init__(self, context: StageContext, cores: int, report: Callable[[str], None]) -> None:
        self._context, self._spec, self._report = context, context.spec, report
        self._whole, self._share = cores, min(cores, max(1, int(context.spec.resources.cpu)))
        self._known: dict[tuple[Any, ...], float] = {}

    def run(self) -> UnitCosts:
        start = time.perf_counter()
        context, spec, data = self._context, self._spec, self._context.data
        base = context.architecture(1.0)
        sizes = measured_sizes(spec)
        baselines = sorted({float(size) for size in spec.baselines.sizes})
        self._report("dense base")
        # More threads are not slower by themselves, only where other work holds a core up.
        base_step = min(self._step_s(1.0, spec.base, "labels", n) for n in {self._share, self._whole})
        base_attack = min(self._attack_s(base, n) for n in {self._share, self._whole})
        self._report("scores")
        names = _score_names(spec)
        scores = {name: self._score_s(name, base) for name in names}
        self._report("member fine-tuning")
        recovery = spec.search.space.recovery
        recoveries: list[Recovery] = [
            v for v in ("labels", "distill") if isinstance(recovery, Choice) and v in recovery.values
        ]
        finetune = {r: self._steps(sizes, spec.members.finetune, r) for r in recoveries}
        baseline = {r: self._steps(baselines, spec.base, r) for r in spec.baselines.recoveries} if baselines else {}
        self._report("joint fine-tuning")
        joint = {size: self._joint_s([size]) for size in sizes}
        team = [sizes[i % len(sizes)] for i in range(_most_members(spec))]
        factor = (
            self._joint_s(team) / sum(joint[size] for size in team) if len(team) > 1 and min(joint.values()) else 1.0
        )
        self._report("attack")
        attack = {size: self._attack_s(context.architecture(size), self._share) for size in {*sizes, *baselines, 1.0}}
        self._report("latency")
        calls, settled = self._calls({*sizes, *baselines})
        return UnitCosts(
            num_train=len(data.train),
            num_validation=len(data.validation),
            num_fresh=len(data.fresh),
            image_bytes=4 * int(np.prod(data.image_shape)),
            base_step_s=base_step,
            base_attack_s=base_attack,
            finetune_step_s=finetune,
            method_image_s={method: self._method_image_s(method) for method in _methods(spec)},
            baseline_step_s=baseline,
            baseline_recipe=baseline_recipe(context),
            joint_step_s=Curve.of(joint),
            team_factor=factor,
            scores_s=scores,
            attack_s=Curve.of(attack),
            call_ms=Curve.of(calls),
            settled=settled,
            num_bytes=Curve.of({s: float(_num_bytes(context.architecture(s))) for s in {*sizes, *baselines, 1.0}}),
            seconds=time.perf_counter() - start,
        )

    def _steps(self, sizes: Sequence[float], recipe: Recipe, recovery: Recovery) -> Curve:
        return Curve.of({size: self._step_s(size, recipe, recovery, self._share) for size in sizes})

    def _step_s(self, size: float, recipe: Recipe, recovery: Recovery, threads: int) -> float:
        """Time an optimiser step of one network; recipes that differ in epochs and rates alone cost the same."""
        if recipe.epochs == 0:
            return 0.0
        same = (size, recovery, threads, recipe.batch_size, recipe.precision, str(recipe.attack), recipe.ema > 0)
        if same not in self._known:
            context = self._context

            def loss() -> Any:
                return recovery_loss(recovery, context.architecture(1.0), recipe, self._spec.threat.eps, context.device)

            self._known[same] = self._training_s(lambda: context.architecture(size), recipe, loss, threads)
        return self._known[same]

    def _method_image_s(self, method: str) -> float:
        """Seconds that a method's own training takes for each image of a member's: it trains the dense network."""
        recipe = settings_of(self._spec.members, method)
        if recipe is None:
            return 0.0
        step = self._step_s(1.0, recipe, "labels", self._share)
        return step * recipe.epochs / min(recipe.batch_size, len(self._context.data.train))

    def _joint_s(self, sizes: Sequence[float]) -> float:
        """Time an optimiser step of a team's joint fine-tune, every term of the loss in it."""
        joint = self._spec.joint
        if joint.epochs == 0:
            return 0.0

        def team() -> nn.Module:
            return MemberStack([self._context.architecture(size) for size in sizes])

        def loss() -> Any:
            beta = 0.1 if len(sizes) > 1 else 0.0
            return JointLoss(self._spec.threat.eps, joint, beta=beta, omega=1.0, gamma=0.1)

        return self._training_s(team, joint, loss, self._share)

    def _training_s(
        self, network: Callable[[], nn.Module], recipe: Recipe, loss: Callable[[], Any], threads: int
    ) -> float:
        """Seconds of one full batch; from a smaller one, by its images, where a full one takes long."""
        torch.set_num_threads(threads)
        full = min(recipe.batch_size, len(self._context.data.train))
        small = min(_TRY_BATCH, full)
        tried = self._time_steps(network(), recipe, loss(), small, _TRY_STEPS)
        size = max(small, min(full, int(small * _BUDGET_S / (_NUM_STEPS * tried))))
        found = self._time_steps(network(), recipe, loss(), size, _NUM_STEPS) if size > small else tried
        return found * full / size

    def _time_steps(self, network: nn.Module, recipe: Recipe, loss: Any, batch_size: int, num_steps: int) -> float:
        data, device = self._context.data.train, self._context.device
        num = min(len(data), batch_size * num_steps)
        few = recipe.model_copy(
            update={"batch_size": batch_size, "epochs": num_steps * batch_size / num, "lr": 1e-6, "clip_norm": None}
        )
        clock = _Clock(loss, _now(device))
        with suppress(_LongEnough):
            train(
                network,
                data.subset(torch.arange(num)),
                few,
                clock,
                seed=0,
                augment=self._spec.data.augment,
                device=device,
            )
        return clock.shortest_s()

    def _attack_s(self, network: nn.Module, threads: int) -> float:
        """Time PGD on one network: seconds for one image and one step."""
        torch.set_num_threads(threads)
        validation, device = self._context.data.validation, self._context.device
        num = min(_ATTACK_IMAGES if device.type == "cpu" else len(validation), len(validation))
        some = validation.subset(torch.arange(num))
        settings = Evaluation(steps=_ATTACK_STEPS, batch_size=self._spec.evaluation.batch_size)
        now = _now(device)
        taken = []
        for _ in range(_ATTACK_TRIES):  # the first allocates
            start = now()
            craft(network, some, eps=self._spec.threat.eps, settings=settings, seed=0, device=device)
            taken.append(now() - start)
        return min(taken) / (num * _ATTACK_STEPS)

    def _score_s(self, name: str, base: nn.Module) -> float:
        """Time a score on few samples twice; from there on it grows by the sample."""
        torch.set_num_threads(self._share)
        spec, train_split, device = self._spec, self._context.data.train, self._context.device
        now = _now(device)
        taken = []
        for num in _SCORE_SAMPLES:
            index = torch.arange(min(num, len(train_split)))
            some = train_split.subset(index)
            batch = ScoreBatch(
                some.images.to(device), some.labels.to(device), spec.threat.eps, spec.members.finetune.attack, 0
            )
            start = now()
            score_function(name)(base.to(device), batch)
            taken.append(now() - start)
        base.cpu()
        few, more = _SCORE_SAMPLES
        samples = min(spec.members.score_samples, len(train_split))
        return max(taken[1], taken[0] + max(0.0, taken[1] - taken[0]) * (samples - few) / (more - few))

    def _calls(self, sizes: set[float]) -> tuple[dict[float, float], bool]:
        """Time single calls in the deployment runtime, and see whether a few rounds are enough."""
        context, shape = self._context, self._context.data.image_shape
        protocol = self._spec.latency.model_copy(update={"rounds": _ROUNDS})
        dense = to_onnx(context.architecture(1.0), shape)
        probe = LatencyProbe(dense, None, shape, protocol)
        networks = {size: to_onnx(context.architecture(size), shape) for size in sorted(sizes - {1.0})} | {1.0: dense}
        calls = {}
        for size, onnx in networks.items():
            call = probe.call_of(onnx)
            images = [i % _NUM_IMAGES for i in range(_NUM_CALLS)]
            time_block(call, images[:_NUM_IMAGES])
            calls[size] = time_block(call, images).typical_ms
        estimate = probe.measure(next(iter(networks.values())))
        return calls, estimate.num_rounds == _ROUNDS and not estimate.noisy


class _LongEnough(Exception):
    """A step was timed, and another would take too long."""


class _Clock:
    """A batch loss that notes when it is asked: from one call to the next is one optimiser step."""

    def __init__(self, loss: BatchLoss, now: Callable[[], float]) -> None:
        self._loss, self._now = loss, now
        self._times: list[float] = []

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        self._times.append(self._now())
        if len(self._times) > 1 and self._times[-1] - self._times[0] > _LIMIT_S:
            raise _LongEnough
        return self._loss(model, images, labels, generator)

    def shortest_s(self) -> float:
        """Shortest step."""
        return min(later - earlier for earlier, later in zip(self._times, self._times[1:], strict=False))


def _now(device: torch.device) -> Callable[[], float]:
    """Give the clock that counts: the processor's for one thread, else the wall's, once the device is done."""

    def after_device() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else after_device


def _num_bytes(network: nn.Module) -> int:
    return Member(network).size_bytes


def _methods(spec: Spec) -> list[str]:
    method = spec.search.space.method
    return [str(value) for value in method.values] if isinstance(method, Choice) else []


def _score_names(spec: Spec) -> list[str]:
    if not any(is_scored(method) for method in _methods(spec)):
        return []
    if spec.team.mode == "pool":
        return list(spec.team.pool.scores)
    score = spec.search.space.score
    return [str(value) for value in score.values] if isinstance(score, Choice) else []


def _most_members(spec: Spec) -> int:
    if spec.team.mode == "pool":
        return spec.team.pool.max_members
    num = spec.search.space.num_members
    return int(num.high if isinstance(num, Range) else max(float(value) for value in num.values))
