"""What a search-space file may say: its sections, their defaults and the values they allow.

A `Spec` is frozen and checked, one value at a time. Reading a file is in `loader`, what only shows when two
keys are seen together in `cross_checks`. Nothing here loads torch or Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from eed_search.config import names
from eed_search.config.addresses import password_problem
from eed_search.config.params import LatencyKind, ParamValue, Recovery
from eed_search.config.recipes import AdmmRecipe, Cstar, Joint, Learned, Members, Radmm, Recipe, TrainingAttack
from eed_search.config.registry import BUILT_IN
from eed_search.config.section import Section, is_scalar, shown
from eed_search.config.space import Choice, Dimension, Range, Space

__all__ = [
    "AdmmRecipe",
    "Augment",
    "Baselines",
    "Choice",
    "Constraints",
    "Cstar",
    "Data",
    "Dimension",
    "Evaluation",
    "GateSpec",
    "Joint",
    "LatencySpec",
    "Learned",
    "Members",
    "Model",
    "Pool",
    "Radmm",
    "Range",
    "Recipe",
    "Resources",
    "Search",
    "SharedStorage",
    "Space",
    "Spec",
    "Team",
    "Threat",
    "Tracking",
    "TrainingAttack",
    "read_eps",
]

Augment = Literal["none", "crop", "crop_flip"]


class Data(Section):
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
        description="crop shifts training images at random by up to 4 pixels (what comes in repeats the border), crop_flip (with black"
        " borders) mirrors half of them too: not for signs, letters, digits",
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


class Threat(Section):
    """What the attacker may do."""

    norm: Literal["linf"] = Field("linf", description="how far a perturbation goes: its largest change of a pixel")
    eps: float = Field(ge=0, le=1, description="L∞ budget in pixel units on [0, 1], such as 0.15 or 8/255")

    @field_validator("eps", mode="before")
    @classmethod
    def _may_be_a_fraction(cls, value: object) -> object:
        return read_eps(value)


class Model(Section):
    """The dense base network."""

    name: Annotated[str, AfterValidator(names.checked("model"))] = Field("small_cnn", description="architecture")
    width: int = Field(64, ge=4, le=1024, description="channels of the first stage")


class Pool(Section):
    """Team mode `pool`: RD chooses the team from members of every score on every subset."""

    scores: tuple[Annotated[str, AfterValidator(names.checked("score"))], ...] = Field(
        tuple(BUILT_IN["score"]), min_length=1, description="importance scores of the pool's members"
    )
    num_subsets: int = Field(3, ge=1, le=3, description="disjoint parts, one member each, for each score")
    diversity_threshold: float = Field(0.7, ge=0, le=1, description="robust diversity that a team must reach")
    max_members: int = Field(4, ge=2, le=12, description="largest team")
    accuracy_slack: float = Field(
        0.1, ge=0, le=1, description="members this much below the most robust one are left out"
    )


class Team(Section):
    """Who chooses the members."""

    mode: Literal["direct", "pool"] = Field(
        "direct", description="direct: the search names each member; pool: robust diversity chooses from a pool"
    )
    pool: Pool = Field(Pool(), description="team mode pool")


class GateSpec(Section):
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


class Evaluation(Section):
    """The attack that ranks trials (badge `proxy`)."""

    steps: int = Field(20, ge=1, le=1000, description="PGD steps on each surrogate")
    step_size: float | None = Field(None, gt=0, le=1, description="pixel units; eps/4 by default")
    batch_size: int = Field(256, ge=1, le=65_536, description="images attacked at once")
    slow_down_steps: int = Field(
        10, ge=1, le=1000, description="steps of each run of the attack that slows the gate down"
    )


class LatencySpec(Section):
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


class Constraints(Section):
    """Limits that a point must keep to enter the frontier; none by default."""

    min_clean_accuracy: float | None = Field(None, ge=0, le=1, description="fraction of clean images right")
    min_robust_accuracy: float | None = Field(None, ge=0, le=1, description="fraction of attacked images right")
    max_size_bytes: int | None = Field(None, ge=1, description="bytes of all members together, as they ship")
    max_latency_ms: float | None = Field(None, gt=0, description="mean over clean images, at batch 1")
    max_worst_case_latency_ms: float | None = Field(None, gt=0, description="when every member runs")
    max_worst_case_slowdown: float | None = Field(None, gt=0, description="worst case over the dense base's latency")
    max_attacked_latency_ms: float | None = Field(None, gt=0, description="under the slower of two attacks")
    max_attacked_slowdown: float | None = Field(
        None, gt=0, description="attacked latency over the dense base's; below 1 is a speed-up that stays"
    )


class Baselines(Section):
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
            if not is_scalar(one):
                raise ValueError(f"[{i}].{key}: {shown(one)} is neither text nor a finite number")
    return value


class Search(Section):
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
    sampler: Annotated[str, AfterValidator(names.checked("sampler"))] = Field(
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


_MOST_GPUS = 64


def _read_gpus(given: Any) -> Any:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if given == "auto" or (number and 0 <= given <= _MOST_GPUS):
        return given
    raise ValueError(f"{given!r} is no amount; allowed: auto, or a number from 0 to {_MOST_GPUS}")


class Resources(Section):
    """What one trial takes; fractions share a device."""

    cpu: float = Field(1, ge=0, le=1024, description="processor cores; its threads are as many")
    gpu: Annotated[int | float | Literal["auto"], BeforeValidator(_read_gpus)] = Field(
        0,
        description="graphics processors; 0 trains on the processor, auto takes as much of a GPU that is there as a trial's"
        " memory needs",
    )

    @property
    def gpus(self) -> float:
        """Graphics processors as a number; 0 for `auto` that nobody has looked into yet."""
        return 0.0 if self.gpu == "auto" else self.gpu


def _read_address(uri: str | None) -> str | None:
    if uri is not None and (problem := password_problem(uri)):
        raise ValueError(problem)
    return uri


class Tracking(Section):
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


class SharedStorage(Section):
    """Where machines share finished stages and ledger copies; none for one machine."""

    url: Annotated[str | None, AfterValidator(_read_url)] = Field(
        None, description="file:///mnt/shared, s3://bucket/folder or gs://bucket/folder"
    )


class Spec(Section):
    """A whole search-space file."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="name of search and folder: letters, digits, . _ -"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed for splits, training, attacks and proposals")
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
