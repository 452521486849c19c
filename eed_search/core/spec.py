"""The search-space file: what it may say, its defaults, and every mistake in it at once.

`load` reads YAML, applies `--set key.path=value`, and gives a frozen `Spec` or one `SpecError`
that lists all mistakes. Nothing here loads torch or Ray.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from eed_search.core.errors import SpecError
from eed_search.core.params import SCORES, Order, ParamValue, Recovery, Subsets

MAX_FILE_BYTES = 1 << 20


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

    low: float
    high: float
    log: bool = False
    step: float | None = None


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
            raise ValueError(f"{_shown(one)} is neither text nor a finite number")
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
_Threshold = Annotated[_Dimension, AfterValidator(_numbers(0, 2, "stop probability; above 1 runs every member"))]


class Space(_Section):
    """What one trial chooses. Each entry is one value (fixed), a list, or `{low, high, log, step}`."""

    num_members: _Count = Choice(values=(1, 2, 3))
    score: Annotated[_Dimension, AfterValidator(_names(*SCORES))] = Choice(values=SCORES)
    size: _Size = Choice(values=(0.25, 0.5))
    subsets: Annotated[_Dimension, AfterValidator(_names(*get_args(Subsets)))] = Choice(values=("all", "shared"))
    recovery: Annotated[_Dimension, AfterValidator(_names(*get_args(Recovery)))] = Choice(values=("labels", "distill"))
    order: Annotated[_Dimension, AfterValidator(_names(*get_args(Order)))] = Choice(values=("fast_first",))
    beta: _Weight = Range(low=1e-3, high=4, log=True)
    omega: _Weight = Range(low=0, high=10)
    gamma: _Weight = Range(low=0, high=4)
    gate_threshold: _Threshold = Range(low=0.2, high=1)


# ---------------------------------------------------------------- how each stage works


class Data(_Section):
    """Which images, and how many go where. Splits are fixed by the search's seed and never overlap."""

    source: Literal["digits", "npz", "cifar10"] = "digits"
    path: str | None = Field(None, description="folder of the data (npz, cifar10)")
    num_train: int | None = Field(None, ge=10, description="images to train on; all that are left by default")
    num_validation: int = Field(300, ge=10, description="images that rank trials, cut from the training data")
    num_fresh: int = Field(200, ge=10, description="images for the re-check, cut from the training data")
    num_test: int | None = Field(
        None, ge=10, description="images for claims; the whole test set by default (digits: as many as fresh)"
    )
    augment: Literal["none", "crop_flip"] = "none"


class Threat(_Section):
    """What the attacker may do."""

    norm: Literal["linf"] = "linf"
    eps: float = Field(ge=0, le=1, description="L∞ budget in pixel units on [0, 1]; 8/255 is 0.03137")


class Model(_Section):
    """The dense base network."""

    name: Literal["small_cnn", "resnet18"] = "small_cnn"
    width: int = Field(64, ge=4, le=1024, description="channels of the first stage")


class TrainingAttack(_Section):
    """The inner maximisation of adversarial training."""

    method: Literal["pgd", "fgsm_rs", "n_fgsm", "none"] = "pgd"
    steps: int = Field(7, ge=1, le=100, description="steps of pgd; the others take one")
    step_size: float | None = Field(
        None, gt=0, le=1, description="pixel units; eps/4 by default, 1.25 eps for fgsm_rs, eps for n_fgsm"
    )


class Recipe(_Section):
    """One training run."""

    epochs: float = Field(10, ge=0, le=10_000, description="passes over the training images; 0 skips")
    batch_size: int = Field(128, ge=2, le=65_536)
    lr: float = Field(0.1, gt=0, le=10, description="highest learning rate")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, le=1)
    schedule: Literal["cosine", "one_cycle", "multistep", "constant"] = "one_cycle"
    ema: float = Field(
        0.998, ge=0, lt=1, description="decay of the averaged weights, warming up; 0 takes the last weights"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="auto takes bfloat16 where the device has it"
    )
    attack: TrainingAttack = TrainingAttack()


class Joint(Recipe):
    """The joint fine-tune with L_EED; `beta`, `omega`, `gamma` belong to the search."""

    epochs: float = Field(5, ge=0, le=10_000, description="passes over the training images; 0 skips")
    lr: float = Field(0.02, gt=0, le=10, description="highest learning rate")
    alpha: float = Field(0.5, ge=0, le=100, description="weight of the ensemble's entropy reward in L_E")
    psi: float = Field(1.0, ge=0, le=100, description="scale of L_R")
    lambda_w: float = Field(1e-5, ge=0, le=1, description="scale of the L1 norm of kept weights in L_C")
    lambda_a: float = Field(0.25, ge=0, le=100, description="scale of the activation term in L_C")
    delta: float = Field(0.1, gt=0, le=100, description="where the activation surrogate a/(a+delta) is one half")


class Members(_Section):
    """How members are cut from the base and recover."""

    granularity: Literal["channel", "unstructured"] = "channel"
    block: int = Field(8, ge=1, le=256, description="channels are kept in multiples of this")
    score_samples: int = Field(256, ge=8, description="training images from which scores are taken")
    finetune: Recipe = Recipe()


class Pool(_Section):
    """Team mode `pool`: RD chooses the team from members of every score on every subset."""

    scores: tuple[Literal["nis", "erm", "ase", "bnsf"], ...] = Field(SCORES, min_length=1)
    num_subsets: int = Field(3, ge=1, le=3, description="disjoint parts, one member each, for each score")
    diversity_threshold: float = Field(0.7, ge=0, le=1, description="robust diversity that a team must reach")
    max_members: int = Field(4, ge=2, le=12, description="largest team")
    accuracy_slack: float = Field(
        0.1, ge=0, le=1, description="members this much below the most robust one are left out"
    )


class Team(_Section):
    """Who chooses the members."""

    mode: Literal["direct", "pool"] = "direct"
    pool: Pool = Pool()


class GateSpec(_Section):
    """The gate's stop probability q = conf^sharpness · exp(−KL/tau) and its rule."""

    rule: Literal["threshold", "map"] = "threshold"
    sharpness: float = Field(1.0, gt=0, le=100)
    tau: float = Field(1.0, gt=0, le=100)


class Evaluation(_Section):
    """The attack that ranks trials (badge `proxy`)."""

    steps: int = Field(20, ge=1, le=1000, description="PGD steps on each surrogate")
    step_size: float | None = Field(None, gt=0, le=1, description="pixel units; eps/4 by default")
    batch_size: int = Field(256, ge=1, le=65_536)


class LatencySpec(_Section):
    """The latency protocol."""

    threads: int = Field(1, ge=1, le=256, description="threads of the deployment runtime")
    rounds: int = Field(15, ge=3, le=1000, description="rounds in the search")
    final_rounds: int = Field(40, ge=3, le=1000, description="rounds for the frontier")
    final_calls: int = Field(1000, ge=100, le=100_000, description="single calls for p50 and p95 of the frontier")
    block_ms: float = Field(40, ge=1, le=10_000, description="shortest timed block")


class Constraints(_Section):
    """Limits that a point must keep to enter the frontier; none by default."""

    min_clean_accuracy: float | None = Field(None, ge=0, le=1)
    min_robust_accuracy: float | None = Field(None, ge=0, le=1)
    max_size_bytes: int | None = Field(None, ge=1)
    max_latency_ms: float | None = Field(None, gt=0)
    max_worst_case_latency_ms: float | None = Field(None, gt=0)
    max_worst_case_slowdown: float | None = Field(None, gt=0, description="worst case over the dense base's latency")


class Controls(_Section):
    """Small networks trained adversarially from scratch, shown beside the frontier."""

    sizes: tuple[float, ...] = Field((0.5, 0.25), description="fractions of channels; empty for none")
    recoveries: tuple[Recovery, ...] = Field(("labels", "distill"), min_length=1)


def _read_proposals(value: object) -> object:
    """Check the form of `search.first`; which names and values fit is checked against the space."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{_shown(value)} is not a list of proposals")
    for i, proposal in enumerate(value):
        if not isinstance(proposal, Mapping):
            raise ValueError(f"[{i}]: {_shown(proposal)} is not a table of parameters such as num_members: 2")
        for key, one in proposal.items():
            if not _is_scalar(one):
                raise ValueError(f"[{i}].{key}: {_shown(one)} is neither text nor a finite number")
    return value


def _shown(value: object) -> str:
    """Write a value as the file would."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


class Search(_Section):
    """How long and by what the space is searched."""

    trials: int = Field(16, ge=1, le=100_000)
    time_budget_s: float | None = Field(None, gt=0, description="no new trial after this long")
    sampler: Literal["tpe", "nsga2", "qmc", "random"] = "tpe"
    startup_trials: int = Field(8, ge=1, description="random trials before a model is trusted")
    space: Space = Space()
    first: Annotated[tuple[dict[str, ParamValue], ...], BeforeValidator(_read_proposals)] = Field(
        (), description="proposals tried first, flat; what is left out is drawn"
    )
    constraints: Constraints = Constraints()


class Resources(_Section):
    """What one trial takes; fractions share a device."""

    cpu: float = Field(1, ge=0, le=1024)
    gpu: float = Field(0, ge=0, le=64)


class Tracking(_Section):
    """Where MLflow keeps the runs."""

    uri: str | None = Field(None, description="an MLflow server or database; SQLite under the home by default")
    experiment: str = Field("eed-search", min_length=1)


class Spec(_Section):
    """A whole search-space file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="letters, digits, . _ -")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    data: Data = Data()
    threat: Threat
    model: Model = Model()
    base: Recipe = Recipe(epochs=30)
    members: Members = Members()
    team: Team = Team()
    joint: Joint = Joint()
    gate: GateSpec = GateSpec()
    evaluation: Evaluation = Evaluation()
    latency: LatencySpec = LatencySpec()
    controls: Controls = Controls()
    search: Search = Search()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()

    def to_plain(self) -> dict[str, Any]:
        """Write as the tables and lists that a file would hold, every default filled in."""
        plain = self.model_dump(mode="json")
        space = plain["search"]["space"]
        for name, dimension in space.items():
            if "values" in dimension:
                values = dimension["values"]
                space[name] = values[0] if len(values) == 1 else values
        return plain

    def to_yaml(self) -> str:
        """Write as a search-space file with every default filled in."""
        return yaml.safe_dump(self.to_plain(), sort_keys=False, allow_unicode=True)


# ---------------------------------------------------------------- loading


@dataclass(frozen=True)
class Override:
    """One `--set key.path=value`."""

    path: tuple[str, ...]
    value: Any

    @classmethod
    def parse(cls, text: str) -> Override:
        """Read `key.path=value`; the value is YAML, so numbers, lists and ranges work.

        Raises:
            SpecError: If there is no `=` or the value is not YAML.
        """
        path, sign, value = text.partition("=")
        if not sign or not all(path.split(".")):
            raise SpecError([f"--set {text!r}: must be key.path=value, such as search.trials=8"])
        try:
            return cls(tuple(path.split(".")), _read_yaml(value))
        except yaml.YAMLError as error:
            raise SpecError([f"--set {path}: {value!r} is not a YAML value ({_first_line(error)})"]) from error


def load(path: Path, overrides: Sequence[Override] = ()) -> Spec:
    """Read and check a search-space file.

    Args:
        path: The YAML file.
        overrides: Applied in order before the check, each creating the sections it needs.

    Returns:
        The file with every default filled in. A relative `data.path` is resolved against the
        current folder when the data are read.

    Raises:
        SpecError: With every mistake, one line each.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SpecError([f"{path}: larger than 1 MiB; a search-space file is a page of YAML"])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(
            [f"{path}: no such file; name a search-space file, or give none for the embedded digits"]
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([f"{path}: cannot be read ({error})"]) from error
    try:
        plain = _read_yaml(text)
    except yaml.YAMLError as error:
        raise SpecError([f"{path}: is not YAML: {_first_line(error)}"]) from error
    if not isinstance(plain, dict):
        held = "nothing" if plain is None else type(plain).__name__
        raise SpecError([f"{path}: holds {held}, not a table of sections"])
    problems = []
    for override in overrides:
        if problem := _apply(plain, override):
            problems.append(problem)
    if problems:
        raise SpecError(problems)
    return parse(plain, str(path.name))


def parse(plain: dict[str, Any], source: str) -> Spec:
    """Check a file's content.

    Args:
        plain: What the YAML holds.
        source: How messages call the file.

    Raises:
        SpecError: With every mistake, one line each.
    """
    try:
        spec = Spec.model_validate(plain)
    except ValidationError as error:
        problems = [_explain(detail) for detail in error.errors()]
        problems += _cross_check_around(plain, [detail["loc"] for detail in error.errors()])
        raise SpecError([f"{source}: {problem}" for problem in problems]) from error
    if problems := _cross_check(spec):
        raise SpecError([f"{source}: {problem}" for problem in problems])
    return spec


def _cross_check_around(plain: dict[str, Any], wrong: Sequence[tuple[int | str, ...]]) -> list[str]:
    """Cross-check what is left when the wrong keys take their defaults, so that no mistake waits for the next run."""
    left = _without(plain, {tuple(key for key in where if key not in ("Choice", "Range")) for where in wrong})
    left["name"] = left.get("name", "x")
    if not isinstance(left.get("threat"), dict) or "eps" not in left["threat"]:
        left["threat"] = {"eps": 0.1}
    try:
        problems = _cross_check(Spec.model_validate(left))
    except ValidationError:
        return []
    paths = {".".join(str(key) for key in where if isinstance(key, str)) for where in wrong}
    # A default that stands in for a wrong value may clash with the rest: not the file's mistake.
    return [problem for problem in problems if not any(path in problem for path in paths)]


def _without(table: dict[str, Any], wrong: set[tuple[int | str, ...]]) -> dict[str, Any]:
    """Copy a table without the keys at the places given; a wrong list entry takes its list with it."""
    kept: dict[str, Any] = {}
    for key, value in table.items():
        below = {where[1:] for where in wrong if where and where[0] == key}
        if not below:
            kept[key] = value
        elif isinstance(value, dict) and all(where and isinstance(where[0], str) for where in below):
            kept[key] = _without(value, below)
    return kept


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that refuses a key given twice and aliases that multiply, and reads 1e-3 as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not used in search-space files")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, Hashable):
                raise yaml.YAMLError(f"a list or table stands as a key, line {key.start_mark.line + 1}")
            if name in seen:
                raise yaml.YAMLError(f"the key {name!r} stands twice, line {key.start_mark.line + 1}")
            seen.add(name)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 and 0.5e1 as text, for want of a point or a sign; people mean the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def _read_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise yaml.YAMLError("lists or tables are nested too deeply") from error
    except ValueError as error:  # such as the date 2020-13-01
        raise yaml.YAMLError(str(error)) from error


def _first_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


def _apply(plain: dict[str, Any], override: Override) -> str:
    table = plain
    for key in override.path[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            return f"--set {'.'.join(override.path)}: {key} is a value, not a section"
        table = inner
    table[override.path[-1]] = override.value
    return ""


def _explain(detail: Any) -> str:
    location = [part for part in detail["loc"] if part not in ("Choice", "Range")]
    keys = [part for part in location if isinstance(part, str)]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
    kind, given = detail["type"], _shown(detail["input"])
    section = _section_at(keys[:-1])
    key = keys[-1] if keys else ""
    about = _about(section, key)
    if kind == "missing":
        return f"{where}: is missing; give a value{about}"
    if kind in ("extra_forbidden", "invalid_key"):
        known = list(section.model_fields) if section else []
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where}: is not a key here; {hint}known: {', '.join(known)}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{where}: {given} is outside the allowed {_bounds(section, key)}{about}"
    if kind in ("not_a_number", "float_type", "int_type", "finite_number"):
        return f"{where}: {given} is not a number; allowed: {_bounds(section, key)}{about}"
    if kind in ("int_from_float", "int_parsing_size"):
        return f"{where}: {given} is not a whole number; allowed: {_bounds(section, key)}{about}"
    if kind == "literal_error":
        expected = detail["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return f"{where}: {given} is not one of {expected}"
    if kind == "string_pattern_mismatch":
        return f"{where}: {given} is not allowed{about}"
    if kind in ("string_type", "bool_type", "bool_parsing"):
        return f"{where}: {given} is not {'text' if kind == 'string_type' else 'true or false'}{about}"
    if kind in ("tuple_type", "too_short", "string_too_short"):
        return f"{where}: {given}: {'must be a list' if kind == 'tuple_type' else 'is empty; give at least one value'}{about}"
    if kind == "value_error":
        message = str(detail["ctx"]["error"])
        goes_on = re.match(r"(\.\w+|\[\d+\][.\w]*): ", message)  # the message names a place below this one
        return f"{where}{message}" if goes_on else f"{where}: {message}"
    if kind in ("model_type", "model_attributes_type"):
        return f"{where}: {given} is not a section of keys"
    return f"{where}: {given}: {detail['msg'][0].lower()}{detail['msg'][1:]}{about}"


def _section_at(location: list[str]) -> type[BaseModel] | None:
    section: Any = Spec
    for key in location:
        info = section.model_fields.get(key) if section else None
        kind = info.annotation if info else None
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if info and section is None and Range in get_args(kind):
            section = Range
    return section if section is None or issubclass(section, BaseModel) else None


def _about(section: type[BaseModel] | None, key: str) -> str:
    info = section.model_fields.get(key) if section else None
    return f" ({info.description})" if info and info.description else ""


def _bounds(section: type[BaseModel] | None, key: str) -> str:
    info = section.model_fields.get(key) if section else None
    low = high = without = ""
    for rule in info.metadata if info else ():
        if (bound := getattr(rule, "ge", getattr(rule, "gt", None))) is not None:
            low = _number(bound)
        if (bound := getattr(rule, "le", getattr(rule, "lt", None))) is not None:
            high = _number(bound)
        if (bound := getattr(rule, "gt", getattr(rule, "lt", None))) is not None:
            without = _number(bound)
    if low and high:
        return f"{low}..{high}{f' without {without}' if without else ''}"
    return f"{'above ' if without else ''}{low}{'' if without else ' and more'}" if low else "a finite number"


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) or value < 10**6 else str(value)


def _cross_check(spec: Spec) -> list[str]:
    """Find what only shows when two keys are seen together."""
    problems = []
    data, space = spec.data, spec.search.space
    if data.source == "digits":
        if data.path is not None:
            problems.append("data.path: digits come with scikit-learn; leave path out, or take source npz or cifar10")
        if data.augment != "none":
            problems.append("data.augment: crop_flip would turn digits into other digits; take none")
        held = data.num_validation + data.num_fresh + (data.num_test or 0) + (data.num_train or 0)
        if held > 1797 or (data.num_train is None and held > 1697):
            problems.append(f"data: {held} images asked for; digits has 1,797 in all, and training needs at least 100")
    elif data.path is None:
        problems.append(f"data.path: is missing; source {data.source} needs a folder (in the file or by --data)")
    elif not Path(data.path).expanduser().is_dir():
        problems.append(f"data.path: {data.path} is not a folder; give the data's folder (in the file or by --data)")
    if spec.model.name == "resnet18" and spec.data.source == "digits":
        problems.append("model.name: resnet18 shrinks images eightfold, digits are 8×8; take small_cnn")
    if spec.members.granularity == "channel":
        sizes = space.size.values if isinstance(space.size, Choice) else (space.size.low,)
        named = [("search.space.size", size) for size in sizes]
        named += [(f"controls.sizes[{i}]", size) for i, size in enumerate(spec.controls.sizes) if 0 < size <= 1]
        for key, size in named:
            if isinstance(size, int | float) and round(size * spec.model.width / spec.members.block) < 1:
                problems.append(
                    f"{key}: {size:g} of {spec.model.width} channels is less than half a block of"
                    f" {spec.members.block}; take a larger size, a smaller members.block or a wider model"
                )
    problems += [
        f"controls.sizes[{i}]: {size:g} is outside the allowed 0..1 without 0 (fraction of channels kept)"
        for i, size in enumerate(spec.controls.sizes)
        if not 0 < size <= 1
    ]
    for i, proposal in enumerate(spec.search.first):
        problems += [f"search.first[{i}].{problem}" for problem in _proposal_problems(spec, proposal)]
    return problems


def _proposal_problems(spec: Spec, proposal: dict[str, ParamValue]) -> list[str]:
    problems = []
    for key, value in proposal.items():
        head, _, tail = key.partition(".")
        name = tail if re.fullmatch("member[1-8]", head) and tail in ("score", "size") else key
        dimension = getattr(spec.search.space, name, None)
        if dimension is None or (name in ("score", "size")) != (name != key):
            known = [*(n for n in Space.model_fields if n not in ("score", "size")), "member1.score", "member1.size"]
            close = difflib.get_close_matches(key, known, n=1)
            problems.append(
                f"{key}: is not a parameter;{f' did you mean {close[0]}?' if close else ''} known: {', '.join(known)}, …"
            )
        elif isinstance(dimension, Choice) and value not in dimension.values:
            problems.append(f"{key}: {value!r} is not one of search.space's {', '.join(map(str, dimension.values))}")
        elif isinstance(dimension, Range) and (isinstance(value, str) or not dimension.low <= value <= dimension.high):
            problems.append(f"{key}: {value!r} is outside search.space's {dimension.low:g}..{dimension.high:g}")
        elif name == "num_members" and value != int(value):
            problems.append(f"{key}: {value!r} is not a whole number")
    return problems
