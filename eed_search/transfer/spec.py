"""What a benchmark file may say: models, pruning schemes, ratios, attacks, budgets, seeds, and the margin.

Reading one is in `spec_file`. Nothing here loads torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from eed_search.config.section import Section
from eed_search.config.spec import Data, LatencySpec, Model, Recipe, Tracking, TrainingAttack, read_eps

Scheme = Literal[
    "l1_filter", "l2_filter", "geometric_median", "bn_gamma", "taylor", "random_filter", "unstructured_magnitude"
]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
CONTROLS: tuple[Scheme, ...] = ("random_filter", "unstructured_magnitude")
"""What the paper's claim is not about: filters removed at random, and masks that make nothing faster."""

AttackName = Literal["fgsm", "bim", "pgd", "mifgsm", "deepfool", "cw", "square", "autoattack"]
MINIMUM_NORM: tuple[AttackName, ...] = ("deepfool", "cw")
MIN_CLASSES = 4  # fewest classes for the targeted losses in AutoAttack
_STEPS: dict[str, int] = {"bim": 10, "pgd": 20, "mifgsm": 10, "deepfool": 50, "cw": 200, "autoattack": 100}
_QUERIES: dict[str, int] = {"square": 1000, "autoattack": 5000}
_STEPS_IN_NAME = ("bim", "pgd", "mifgsm")


def _within(low: float, high: float, unit: str, *, below: bool = False) -> Any:
    """Check one number of a list; pydantic's own bounds would be named without their unit."""

    def check(value: float) -> float:
        if not low <= value <= high or (below and value == high):
            raise ValueError(
                f"{value:g} is outside the allowed {low:g}..{high:g}{f' without {high:g}' * below} ({unit})"
            )
        return value

    return AfterValidator(check)


Eps = Annotated[float, _within(0, 1, "L∞ budget in pixel units on [0, 1]"), BeforeValidator(read_eps)]


def _read_attack(value: object) -> object:
    """Read `pgd`, `pgd20` or a table; the number is the steps."""
    if isinstance(value, str):
        found = re.fullmatch(r"([a-z]+?)(\d+)", value)
        if found and found[1] in _STEPS_IN_NAME:
            return {"name": found[1], "steps": int(found[2])}
        return {"name": value}
    return value


class AttackChoice(Section):
    """One attack with what it may spend; `pgd20` is short for `{name: pgd, steps: 20}`."""

    name: AttackName
    steps: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="gradient steps; bim 10, pgd 20, mifgsm 10, deepfool 50, cw 200, autoattack 100 by default",
    )
    queries: int | None = Field(
        None, ge=1, le=100_000, description="forward passes of Square; square 1000, autoattack 5000 by default"
    )
    c: float | None = Field(None, gt=0, le=10_000, description="cw's weight of the answer against the distance; 10")
    eps: tuple[Eps, ...] | None = Field(None, min_length=1, description="budgets of this attack alone")

    @property
    def label(self) -> str:
        """How results call it: with what it spends where that is not the usual."""
        name, steps, queries = self.name, self.spent_steps, self.spent_queries
        if name in _STEPS_IN_NAME:
            return f"{name}{steps}"
        usual = steps == _STEPS.get(name) and queries == _QUERIES.get(name)
        spent = [str(number) for number in (steps, queries) if number is not None]
        return name if usual else f"{name}-{'-'.join(spent)}"

    @property
    def spent_steps(self) -> int | None:
        """Steps, the default where none is given; none for attacks without."""
        return self.steps or _STEPS.get(self.name)

    @property
    def spent_queries(self) -> int | None:
        """Queries, the default where none is given; none for attacks without."""
        return self.queries or _QUERIES.get(self.name)

    @property
    def spent_c(self) -> float | None:
        """C&W's constant, 10 where none is given; none for the others."""
        return (self.c or 10.0) if self.name == "cw" else None


@dataclass(frozen=True)
class Case:
    """One attack at one budget: what is crafted once on each base.

    Attributes:
        attack: The attack.
        eps: L∞ budget in pixel units; none for minimum-norm attacks.
    """

    attack: AttackChoice
    eps: float | None

    @property
    def label(self) -> str:
        """Name it for progress lines and columns: `pgd20 @ 8/255`."""
        return self.attack.label if self.eps is None else f"{self.attack.label} @ {eps_text(self.eps)}"

    def settings(self) -> dict[str, Any]:
        """All that its inputs depend on, defaults filled in."""
        attack = self.attack
        spent = {"steps": attack.spent_steps, "queries": attack.spent_queries, "c": attack.spent_c}
        return {"attack": attack.name, "eps": self.eps} | spent


def eps_text(eps: float) -> str:
    """Print a budget: as 255ths where it is a whole number of grey levels, else as it is."""
    levels = eps * 255
    if eps and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


class BenchmarkData(Data):
    """Which images: networks are trained on `num_train`, attacked and judged on `num_test`."""

    num_validation: int = Field(10, ge=10, description="images set aside that a benchmark does not look at")
    num_fresh: int = Field(10, ge=10, description="images set aside that a benchmark does not look at")
    num_test: int | None = Field(200, ge=10, description="images attacked and judged")


class PlainTraining(Recipe):
    """One training run; on clean images unless `attack` says otherwise."""

    attack: TrainingAttack = TrainingAttack(method="none")


_Ratio = Annotated[float, _within(0, 1, "share of every layer's filters or weights removed", below=True)]
_Seed = Annotated[int, _within(0, 2**31 - 1, "seed")]
_Attack = Annotated[AttackChoice, BeforeValidator(_read_attack)]


class BenchmarkSpec(Section):
    """A whole benchmark file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="letters, digits, . _ -")
    seeds: tuple[_Seed, ...] = Field((0, 1, 2), min_length=1, description="whole repetitions; three or more for claims")
    data: BenchmarkData = BenchmarkData()
    models: tuple[Model, ...] = Field(min_length=1, description="base networks")
    schemes: tuple[Scheme, ...] = Field(SCHEMES, min_length=1)
    ratios: tuple[_Ratio, ...] = Field(
        (0.25, 0.5, 0.75), min_length=1, description="shares of every layer's filters (or weights) removed"
    )
    finetuned: tuple[bool, ...] = Field((False, True), min_length=1, description="without, and with fine-tuning")
    block: int = Field(1, ge=1, le=256, description="filters are kept in multiples of this")
    score_samples: int = Field(256, ge=8, description="training images of the Taylor score")
    attacks: tuple[_Attack, ...] = Field(tuple(AttackChoice(name=name) for name in get_args(AttackName)), min_length=1)
    eps: tuple[Eps, ...] = Field(
        (2 / 255, 4 / 255, 8 / 255, 16 / 255), min_length=1, description="L∞ budgets in pixel units on [0, 1]"
    )
    margin: float = Field(0.02, gt=0, lt=1, description="what counts as comparable: a difference below this share")
    base: PlainTraining = PlainTraining(epochs=30)
    finetune: PlainTraining = PlainTraining(epochs=5, lr=0.02)
    train_eps: float = Field(0, ge=0, le=1, description="budget of base.attack and finetune.attack")
    batch_size: int = Field(250, ge=1, le=65_536, description="images attacked at once")
    latency: LatencySpec | None = Field(LatencySpec(), description="null measures none")
    threads: int | None = Field(None, ge=1, le=1024, description="number of torch's threads; every core by default")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tracking: Tracking = Tracking(experiment="eed-search-benchmark")
    plugins: tuple[str, ...] = Field((), description="your own code: files beside this one, or modules")

    def cases(self) -> tuple[Case, ...]:
        """List every attack at every budget, in the file's order."""
        found: list[Case] = []
        for attack in self.attacks:
            budgets: tuple[float | None, ...] = attack.eps or self.eps
            found += [Case(attack, eps) for eps in ((None,) if attack.name in MINIMUM_NORM else budgets)]
        return tuple(found)

    def to_plain(self) -> dict[str, Any]:
        """Write as the tables and lists that a file would hold, every default filled in."""
        return self.model_dump(mode="json")


def problems(spec: BenchmarkSpec) -> list[str]:
    """Find what only shows when two keys are seen together."""
    found = []
    for i, attack in enumerate(spec.attacks):
        where = f"attacks[{i}]"
        if attack.name in MINIMUM_NORM and attack.eps is not None:
            found.append(
                f"{where}.eps: {attack.name} looks for the nearest wrong image and has no budget; leave it out"
            )
        if attack.steps is not None and attack.name not in _STEPS:
            found.append(f"{where}.steps: {attack.name} takes none; leave it out")
        if attack.queries is not None and attack.name not in _QUERIES:
            found.append(f"{where}.queries: {attack.name} asks none; leave it out")
        if attack.c is not None and attack.name != "cw":
            found.append(f"{where}.c: belongs to cw; leave it out")
    twice: list[tuple[str, tuple[Any, ...]]] = [
        ("seeds", spec.seeds),
        ("schemes", spec.schemes),
        ("ratios", spec.ratios),
        ("finetuned", spec.finetuned),
        ("eps", spec.eps),
        ("models", tuple(model_label(model) for model in spec.models)),
        ("attacks", tuple(attack.label for attack in spec.attacks)),
    ]
    for key, values in twice:
        double = sorted({value for value in values if values.count(value) > 1}, key=str)
        if double:
            found.append(f"{key}: {double[0]!r} stands twice; name each once")
    for key, recipe in (("base", spec.base), ("finetune", spec.finetune)):
        if recipe.attack.method != "none" and spec.train_eps == 0:
            found.append(f"{key}.attack.method: {recipe.attack.method} needs a budget; give train_eps")
    if spec.train_eps and spec.base.attack.method == spec.finetune.attack.method == "none":
        found.append("train_eps: neither base.attack nor finetune.attack uses it; give a method, or leave it out")
    if True in spec.finetuned and not math.ceil(spec.finetune.epochs):
        found.append("finetune.epochs: 0 does not fine-tune; take finetuned: [false]")
    return found


def model_label(model: Model) -> str:
    """Name a base network: `resnet18-16` is the one of width 16."""
    return f"{model.name}-{model.width}"
