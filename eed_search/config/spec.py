"""What a search-space file may say: its sections, their defaults and the values they allow.

A `Spec` is frozen and checked, one value at a time. Reading a file, with what only shows when two
keys are seen together, is in `spec_file`. Nothing here loads torch or Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from eed_search.config import names
from eed_search.config.addresses import password_problem, without_passwords
from eed_search.config.params import SCORES, LatencyKind, Order, ParamValue, Recovery, Subsets


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: object, info: ValidationInfo) -> object:
        """Refuse text and truth values for numbers; pydantic would convert them."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = set(get_args(annotation) or (annotation,)) - {type(None)}
        if kinds <= {int, float} and isinstance(value, bool | str):
            raise PydanticCustomError("not_a_number", "is not a number")
        return value


# ---------------------------------------------------------------- what may vary


class Choice(_Section):
    """One of a list of values; one value means fixed."""

    values: tuple[ParamValue, ...]


class Range(_Section):
    """A number between two ends, both included."""

    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    log: bool = Field(False, description="drawn evenly on a logarithmic scale")
    step: float | None = Field(None, description="only low, low + step, low + 2 step and so on")


Dimension = Choice | Range


def _is_scalar(value: object) -> bool:
    return (isinstance(value, str | int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _read_dimension(value: object) -> object:
    if isinstance(value, Choice | Range):
        return value
    if isinstance(value, dict):
        if set(value) == {"values"}:  # how a resolved file was dumped
            return _read_dimension(list(value["values"]))
        return Range.model_validate(value)
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError("an empty list; give at least one value")
    for one in values:
        if not _is_scalar(one):
            raise ValueError(f"{shown(one)} is neither text nor a finite number")
    if len(set(values)) < len(values):
        raise ValueError(f"{values} names a value twice")
    return Choice(values=tuple(values))


def _numbers(low: float, high: float, unit: str, *, open_low: bool = False, integer: bool = False) -> Any:
    def check(dimension: Dimension) -> Dimension:
        ends: dict[str, ParamValue]
        if isinstance(dimension, Range):
            ends = {".low": dimension.low, ".high": dimension.high}
        elif len(dimension.values) == 1:
            ends = {"": dimension.values[0]}
        else:
            ends = {f"[{i}]": value for i, value in enumerate(dimension.values)}
        allowed = f"{low:g}..{high:g}{f' without {low:g}' if open_low else ''} ({unit})"
        for where, value in ends.items():
            prefix = f"{where}: " if where else ""
            if isinstance(value, str):
                raise ValueError(f"{prefix}{value!r} is not a number; allowed: {allowed}")
            if not (low < value if open_low else low <= value) or value > high:
                raise ValueError(f"{prefix}{value:g} is outside the allowed {allowed}")
            if integer and value != int(value):
                raise ValueError(f"{prefix}{value:g} is not a whole number; allowed: {allowed}")
        if isinstance(dimension, Range):
            if dimension.low > dimension.high:
                raise ValueError(f"low {dimension.low:g} is above high {dimension.high:g}")
            if dimension.log and dimension.low <= 0:
                raise ValueError("low must be above 0 where log is true")
            if dimension.step is not None and (dimension.step <= 0 or dimension.log):
                raise ValueError("step must be above 0, and without log")
            if integer and dimension.step is not None and dimension.step != int(dimension.step):
                raise ValueError(f".step: {dimension.step:g} is not a whole number; allowed: whole steps ({unit})")
        return dimension

    return check


def _registry(kind: names.Kind) -> Any:
    one = names.checked(kind)

    def check(dimension: Dimension) -> Dimension:
        if isinstance(dimension, Range):
            raise ValueError(f"a range of numbers; allowed: one or a list of {', '.join(names.known(kind))}")
        for value in dimension.values:
            one(value)
        return dimension

    return check


def _names(*allowed: str) -> Any:
    def check(dimension: Dimension) -> Dimension:
        if isinstance(dimension, Range):
            raise ValueError(f"a range of numbers; allowed: one or a list of {', '.join(allowed)}")
        for value in dimension.values:
            if value not in allowed:
                raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
        return dimension

    return check


_Dimension = Annotated[Dimension, BeforeValidator(_read_dimension)]
_Size = Annotated[_Dimension, AfterValidator(_numbers(0, 1, "fraction of channels or weights kept", open_low=True))]
_Count = Annotated[_Dimension, AfterValidator(_numbers(1, 8, "members", integer=True))]
_Weight = Annotated[_Dimension, AfterValidator(_numbers(0, 1000, "weight of a loss term"))]
MOST_STOP = 2.0
"""Largest gate threshold where it is a stop probability: above 1 every member runs."""
_Threshold = Annotated[
    _Dimension,
    AfterValidator(_numbers(0, 100, "stop probability, at most 2; with gate.rule margin the lead in logits")),
]


class Space(_Section):
    """What one trial chooses. Each entry is one value (fixed), a list, or `{low, high, log, step}`."""

    num_members: _Count = Field(Choice(values=(1, 2, 3)), description="members of a team; team.mode direct only")
    method: Annotated[_Dimension, AfterValidator(_registry("method"))] = Field(
        Choice(values=("prune",)), description="how each member is made"
    )
    score: Annotated[_Dimension, AfterValidator(_registry("score"))] = Field(
        Choice(values=SCORES), description="importance score that decides what each member keeps; team.mode direct only"
    )
    size: _Size = Field(
        Choice(values=(0.25, 0.5)), description="fraction of channels or weights that each member keeps"
    )
    subsets: Annotated[_Dimension, AfterValidator(_names(*get_args(Subsets)))] = Field(
        Choice(values=("all", "shared")),
        description="training images of each member: all, or shared: a quarter for everyone and one of three disjoint parts",
    )
    recovery: Annotated[_Dimension, AfterValidator(_names(*get_args(Recovery)))] = Field(
        Choice(values=("labels", "distill")),
        description="what members learn from as they regain their robustness: labels, or distill: the dense base's answers",
    )
    order: Annotated[_Dimension, AfterValidator(_names(*get_args(Order)))] = Field(
        Choice(values=("fast_first",)), description="whom the gate asks first: the cheapest member or the most robust"
    )
    beta: _Weight = Field(
        Range(low=1e-3, high=4, log=True), description="weight of the diversity reward in the joint loss L_EED"
    )
    omega: _Weight = Field(
        Range(low=0, high=10), description="weight of L_R, which pushes down the ensemble's most confident wrong class"
    )
    gamma: _Weight = Field(Range(low=0, high=4), description="weight of L_C, the compactness regulariser")
    gate_threshold: _Threshold = Field(
        Range(low=0.2, high=1),
        description="the gate stops at the first member whose stop probability reaches this (rule margin: lead in logits)",
    )


# ---------------------------------------------------------------- how each stage works


Augment = Literal["none", "crop", "crop_flip"]


class Data(_Section):
    """Which images, and how many go where. Splits are fixed by the search's seed and never overlap."""

    source: Annotated[str, AfterValidator(names.checked("source"))] = Field(
        "digits", description="where the images come from"
    )
    path: str | None = Field(None, description="folder of the data")
    image_size: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="side to which image_folder scales and crops its images; as they are by default",
    )
    num_train: int | None = Field(None, ge=10, description="images to train on; all that are left by default")
    num_validation: int = Field(300, ge=10, description="images that rank trials, cut from the training data")
    num_fresh: int = Field(200, ge=10, description="images for the re-check, cut from the training data")
    num_test: int | None = Field(
        None, ge=10, description="images for claims; the whole test set by default (digits: as many as fresh)"
    )
    test_share: float | None = Field(
        None, gt=0, lt=1, description="instead of num_test: share for claims, where the source has no test set"
    )
    augment: Augment = Field(
        "none",
        description="crop shifts training images at random by up to 4 pixels, crop_flip mirrors half of them too (not for"
        " signs, letters, digits)",
    )
    groups: str | None = Field(
        None,
        description="image_folder: CSV file of rows `path,group`; images of one group (object, patient, video) are never in"
        " two splits",
    )
    contradictions: Literal["refuse", "leave_out"] = Field(
        "refuse", description="what to do with images of the same content under different labels"
    )


def read_eps(value: object) -> object:
    """Read a budget such as 0.03 or `8/255`."""
    if isinstance(value, bool):
        raise ValueError(f"{shown(value)} is not a number; write 0.03 or 8/255")
    if not isinstance(value, str):
        return value
    parts = value.split("/")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) != 2 or numbers[1] == 0:
        raise ValueError(f"{value!r} is not a number; write 0.03 or 8/255")
    return numbers[0] / numbers[1]


class Threat(_Section):
    """What the attacker may do."""

    norm: Literal["linf"] = Field("linf", description="how far a perturbation goes: its largest change of a pixel")
    eps: float = Field(ge=0, le=1, description="L∞ budget in pixel units on [0, 1], such as 0.15 or 8/255")

    @field_validator("eps", mode="before")
    @classmethod
    def _may_be_a_fraction(cls, value: object) -> object:
        return read_eps(value)


class Model(_Section):
    """The dense base network."""

    name: Annotated[str, AfterValidator(names.checked("model"))] = Field("small_cnn", description="architecture")
    width: int = Field(64, ge=4, le=1024, description="channels of the first stage")


class TrainingAttack(_Section):
    """The inner maximisation of adversarial training."""

    method: Literal["pgd", "fgsm_rs", "n_fgsm", "none"] = Field(
        "pgd", description="how training images are attacked; none trains on clean ones"
    )
    steps: int = Field(7, ge=1, le=100, description="steps of pgd; the others take one")
    step_size: float | None = Field(
        None, gt=0, le=1, description="pixel units; eps/4 by default, 1.25 eps for fgsm_rs, eps for n_fgsm"
    )


class Recipe(_Section):
    """One training run."""

    epochs: float = Field(10, ge=0, le=10_000, description="passes over the training images; 0 skips")
    batch_size: int = Field(128, ge=2, le=65_536, description="training images in a step")
    lr: float = Field(0.1, gt=0, le=10, description="highest learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD, Nesterov's")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="L2 penalty on the weights")
    schedule: Literal["cosine", "one_cycle", "multistep", "constant"] = Field(
        "one_cycle", description="how the learning rate changes over the run"
    )
    ema: float = Field(
        0.998, ge=0, lt=1, description="decay of the averaged weights, warming up; 0 takes the last weights"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="auto takes bfloat16 where the device has it"
    )
    attack: TrainingAttack = Field(TrainingAttack(), description="how the training images are attacked")


class Joint(Recipe):
    """The joint fine-tune with L_EED; `beta`, `omega`, `gamma` belong to the search."""

    epochs: float = Field(5, ge=0, le=10_000, description="passes over the training images; 0 skips")
    lr: float = Field(0.02, gt=0, le=10, description="highest learning rate")
    alpha: float = Field(0.5, ge=0, le=100, description="weight of the ensemble's entropy reward in L_E")
    psi: float = Field(1.0, ge=0, le=100, description="scale of L_R")
    lambda_w: float = Field(1e-5, ge=0, le=1, description="scale of the L1 norm of kept weights in L_C")
    lambda_a: float = Field(0.25, ge=0, le=100, description="scale of the activation term in L_C")
    delta: float = Field(0.1, gt=0, le=100, description="where the activation surrogate a/(a+delta) is one half")


class AdmmRecipe(Recipe):
    """Adversarial training while ADMM pulls the weights into their set; `members.finetune` follows."""

    epochs: float = Field(20, gt=0, le=10_000, description="passes over the training images")
    lr: float = Field(0.1, gt=0, le=10, description="highest learning rate")
    ema: float = Field(0, ge=0, lt=1, description="decay of the averaged weights, warming up; 0 takes the last weights")
    updates: int = Field(10, ge=1, le=10_000, description="updates of Z and U, spread evenly over the epochs")
    rho: float = Field(0.1, gt=0, le=1000, description="first weight of the penalty")
    rho_growth: float = Field(1.8, ge=1, le=100, description="factor of the penalty's weight at each update")
    rho_max: float = Field(10, gt=0, le=1000, description="largest weight of the penalty")
    tolerance: float = Field(
        0.05, ge=0, le=1, description="stop when |W-Z|/|W| and |Z'-Z|/|W| of every layer are below"
    )


class Radmm(AdmmRecipe):
    """Method `radmm`: concurrent adversarial training and ADMM pruning."""

    set: Literal["irregular", "filter", "column"] = Field(
        "filter", description="what is removed: single weights, channels, or columns of the weight matrix"
    )


class Cstar(AdmmRecipe):
    """Method `cstar`: adversarial training towards low rank, then factored layers."""

    block: int = Field(4, ge=1, le=256, description="ranks are taken in multiples of this")


class Learned(Recipe):
    """Method `learned`: which weights or channels stay is learned under a budget; `members.finetune` follows."""

    epochs: float = Field(20, gt=0, le=10_000, description="passes over the training images")
    lr: float = Field(0.1, gt=0, le=10, description="highest learning rate")
    weight_decay: float = Field(0, ge=0, le=1, description="L2 penalty on the learned importance")
    ema: float = Field(0, ge=0, lt=1, description="decay of the averaged weights, warming up; 0 takes the last weights")
    budget: Literal["global", "layer"] = Field(
        "global", description="global: each layer's share is learned; layer: all keep the same"
    )
    min_share: float = Field(0.1, ge=0, lt=1, description="smallest share of a layer, as a fraction of the size")
    phi: float = Field(0.01, gt=0, le=100, description="what the budget's weight gains at each step over budget")


class Members(_Section):
    """How members are cut from the base and recover."""

    granularity: Literal["channel", "unstructured"] = Field(
        "channel",
        description="what prune and learned remove: channels, which saves time, or single weights, which does not",
    )
    block: int = Field(8, ge=1, le=256, description="channels are kept in multiples of this")
    score_samples: int = Field(256, ge=8, description="training images from which scores are taken")
    finetune: Recipe = Field(Recipe(), description="how a member regains its robustness; comes last for every method")
    radmm: Radmm = Field(Radmm(), description="method radmm")
    cstar: Cstar = Field(Cstar(), description="method cstar")
    learned: Learned = Field(Learned(), description="method learned")


class Pool(_Section):
    """Team mode `pool`: RD chooses the team from members of every score on every subset."""

    scores: tuple[Annotated[str, AfterValidator(names.checked("score"))], ...] = Field(
        SCORES, min_length=1, description="importance scores of the pool's members"
    )
    num_subsets: int = Field(3, ge=1, le=3, description="disjoint parts, one member each, for each score")
    diversity_threshold: float = Field(0.7, ge=0, le=1, description="robust diversity that a team must reach")
    max_members: int = Field(4, ge=2, le=12, description="largest team")
    accuracy_slack: float = Field(
        0.1, ge=0, le=1, description="members this much below the most robust one are left out"
    )


class Team(_Section):
    """Who chooses the members."""

    mode: Literal["direct", "pool"] = Field(
        "direct", description="direct: the search names each member; pool: robust diversity chooses from a pool"
    )
    pool: Pool = Field(Pool(), description="team mode pool")


class GateSpec(_Section):
    """How members combine and when the gate stops.

    Rules `threshold` and `map` take mean probabilities and the stop probability q = conf^sharpness · exp(−KL/tau);
    `margin` takes mean logits and stops where the best class leads the second by `gate_threshold`.
    """

    rule: Literal["threshold", "map", "margin"] = Field(
        "threshold", description="stops by stop probability, where no later stop is more probable, or by lead in logits"
    )
    sharpness: float = Field(1.0, gt=0, le=100, description="power of the confidence in the stop probability")
    tau: float = Field(
        1.0,
        gt=0,
        le=100,
        description="temperature: the more a member moves the mean answer (KL), the lower its stop probability",
    )
    sweep: int = Field(
        3, ge=0, le=20, description="other thresholds of each trained team that may enter the frontier, at most"
    )


class Evaluation(_Section):
    """The attack that ranks trials (badge `proxy`)."""

    steps: int = Field(20, ge=1, le=1000, description="PGD steps on each surrogate")
    step_size: float | None = Field(None, gt=0, le=1, description="pixel units; eps/4 by default")
    batch_size: int = Field(256, ge=1, le=65_536, description="images attacked at once")
    slow_down_steps: int = Field(
        10, ge=1, le=1000, description="steps of each run of the attack that slows the gate down"
    )


class LatencySpec(_Section):
    """The latency protocol."""

    threads: int = Field(1, ge=1, le=256, description="threads of the deployment runtime")
    rounds: int = Field(30, ge=3, le=1000, description="rounds in the search")
    final_rounds: int = Field(80, ge=3, le=1000, description="rounds for the frontier")
    final_calls: int = Field(
        5000, ge=100, le=100_000, description="single calls for p50 and p95 of the frontier; none given below 1000"
    )
    final_processes: int = Field(
        5,
        ge=1,
        le=50,
        description="processes that share the frontier's rounds, one after another: a small network's time differs by some percent"
        " from one to the next",
    )
    block_ms: float = Field(10, ge=1, le=10_000, description="shortest timed block")
    node: str | None = Field(
        None,
        pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$",
        description="on a cluster: the custom resource of the nodes whose latency counts, such as edge",
    )


class Constraints(_Section):
    """Limits that a point must keep to enter the frontier; none by default."""

    min_clean_accuracy: float | None = Field(None, ge=0, le=1, description="fraction of clean images right")
    min_robust_accuracy: float | None = Field(None, ge=0, le=1, description="fraction of attacked images right")
    max_size_bytes: int | None = Field(None, ge=1, description="of all members together, as they ship")
    max_latency_ms: float | None = Field(None, gt=0, description="mean over clean images, at batch 1")
    max_worst_case_latency_ms: float | None = Field(None, gt=0, description="when every member runs")
    max_worst_case_slowdown: float | None = Field(None, gt=0, description="worst case over the dense base's latency")
    max_attacked_latency_ms: float | None = Field(None, gt=0, description="under the slower of two attacks")
    max_attacked_slowdown: float | None = Field(
        None, gt=0, description="attacked latency over the dense base's; below 1 is a speed-up that stays"
    )


class Baselines(_Section):
    """Small networks trained adversarially from scratch, shown beside the frontier."""

    sizes: tuple[float, ...] = Field((0.5, 0.25), description="fractions of channels; empty for none")
    recoveries: tuple[Recovery, ...] = Field(
        ("labels", "distill"),
        min_length=1,
        description="labels, or distill: the dense base's answers; of each size the more robust one is shown",
    )


def _read_proposals(value: object) -> object:
    """Check the form of `search.first`; which names and values fit is checked against the space."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{shown(value)} is not a list of proposals")
    for i, proposal in enumerate(value):
        if not isinstance(proposal, Mapping):
            raise ValueError(f"[{i}]: {shown(proposal)} is not a table of parameters such as num_members: 2")
        for key, one in proposal.items():
            if not _is_scalar(one):
                raise ValueError(f"[{i}].{key}: {shown(one)} is neither text nor a finite number")
    return value


def shown(value: object) -> str:
    """Write a value as the file would, for a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return without_passwords(repr(value))


class Search(_Section):
    """How long and by what the space is searched."""

    trials: int = Field(16, ge=1, le=100_000, description="teams that are tried")
    time_budget_s: float | None = Field(None, gt=0, description="no new trial after this long")
    patience: int | None = Field(
        None, ge=1, description="no new trial after this many in a row that added nothing to the hypervolume"
    )
    trial_timeout_s: float | None = Field(
        14_400,
        gt=0,
        description="a trial or baseline without progress for this long has failed (timeout); null for no limit",
    )
    racing: bool = Field(True, description="compare trials on their way, and give up those that are surely beaten")
    image_racing: bool = Field(
        True, description="give up the attack on a trained team that is surely beaten on the images seen so far"
    )
    eta: int = Field(3, ge=2, le=10, description="one in so many trials goes on at each rung; the others wait")
    front_probability: float = Field(
        0.75,
        ge=0,
        le=1,
        description="how sure a point must be on the true frontier to be reported as its; the others may belong",
    )
    sampler: Literal["portfolio", "tpe", "nsga2", "qmc", "random", "gp"] = Field(
        "portfolio", description="who proposes: our model two times of three, or one of Optuna's samplers"
    )
    startup_trials: int = Field(8, ge=1, description="random trials before a model is trusted")
    latency_objective: LatencyKind = Field(
        "clean", description="the latency that ranks: of clean images, under attack, or with every member run"
    )
    space: Space = Field(Space(), description="what a trial chooses")
    first: Annotated[tuple[dict[str, ParamValue], ...], BeforeValidator(_read_proposals)] = Field(
        (), description="proposals tried first, flat; what is left out is drawn"
    )
    constraints: Constraints = Field(Constraints(), description="limits that a point must keep")


class Resources(_Section):
    """What one trial takes; fractions share a device."""

    cpu: float = Field(1, ge=0, le=1024, description="processor cores; its threads are as many")
    gpu: float = Field(0, ge=0, le=64, description="graphics processors; 0 trains on the processor")


def _read_address(uri: str | None) -> str | None:
    if uri is not None and (problem := password_problem(uri)):
        raise ValueError(problem)
    return uri


class Tracking(_Section):
    """Where MLflow keeps the runs."""

    uri: Annotated[str | None, AfterValidator(_read_address)] = Field(
        None, description="an MLflow server or database; SQLite under the home by default"
    )
    experiment: str = Field("eed-search", min_length=1, description="MLflow experiment that the runs belong to")


def _read_url(url: str | None) -> str | None:
    from eed_search.storage.shared_storage import url_problem

    if url is not None and (problem := url_problem(url)):
        raise ValueError(problem)
    return url


class SharedStorage(_Section):
    """Where machines share finished stages and ledger copies; none for one machine."""

    url: Annotated[str | None, AfterValidator(_read_url)] = Field(
        None, description="file:///mnt/shared, s3://bucket/folder or gs://bucket/folder"
    )


class Spec(_Section):
    """A whole search-space file."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="of the search and its folder: letters, digits, . _ -"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="of splits, training, attacks and proposals")
    plugins: tuple[str, ...] = Field((), description="your own code: files beside this one, or modules")
    data: Data = Field(Data(), description="which images")
    threat: Threat = Field(description="what the attacker may do")
    model: Model = Field(Model(), description="the dense base network")
    base: Recipe = Field(Recipe(epochs=30), description="how the dense base is trained")
    members: Members = Field(Members(), description="how members are cut from the base and recover")
    team: Team = Field(Team(), description="who chooses the members")
    joint: Joint = Field(Joint(), description="the joint fine-tune of a team")
    gate: GateSpec = Field(GateSpec(), description="how members combine and when the gate stops")
    evaluation: Evaluation = Field(Evaluation(), description="the attack that ranks trials")
    latency: LatencySpec = Field(LatencySpec(), description="the latency protocol")
    baselines: Baselines = Field(Baselines(), description="small networks trained from scratch, for comparison")
    search: Search = Field(Search(), description="how long and by what the space is searched")
    resources: Resources = Field(Resources(), description="what one trial takes")
    storage: SharedStorage = Field(SharedStorage(), description="where machines share finished stages")
    tracking: Tracking = Field(Tracking(), description="where MLflow keeps the runs")

    def to_plain(self) -> dict[str, Any]:
        """Write as the tables and lists that a file would hold, every default filled in."""
        plain = self.model_dump(mode="json")
        space = plain["search"]["space"]
        for name, dimension in space.items():
            if "values" in dimension:
                values = dimension["values"]
                space[name] = values[0] if len(values) == 1 else values
        return plain
