"""What can be attacked: a run's point, a bundle, a user's own torch model; each with its images.

    RUN:ID, ID           a point (7.0), `knee`, `fastest`, `most-robust`, or `base`; the newest run by default
    FOLDER               a bundle: its ONNX members are read back as networks with gradients
    module:callable      a function without arguments that gives a model in evaluation mode

Whatever is wrong with a model or its images is found here, before anything is attacked.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from eed_search.config.loader import parse
from eed_search.config.params import TrialParams
from eed_search.config.spec import Spec
from eed_search.core.errors import DataError, ModelError, RunError
from eed_search.core.seeds import seed_of
from eed_search.data.given import MIN_SAMPLES, read_given
from eed_search.data.splits import Split, Splits, load_splits
from eed_search.deployment.bundle import open_bundle
from eed_search.deployment.gates import from_settings, gate_of, to_settings
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.onnx_torch import differentiable
from eed_search.deployment.runtime import GatedClassifier
from eed_search.ensemble.gate import RUNS_ALL, DeployedGate, Gate, GatedEnsemble, MarginGate, StopRule
from eed_search.evaluation.sound import refuse_unsound
from eed_search.evaluation.target import Target, Tier, Timing
from eed_search.frontier.estimate import plan_of, select
from eed_search.frontier.points import points, with_final_latency
from eed_search.frontier.selection import Slice, plan_rounds
from eed_search.pipeline.context import open_context
from eed_search.pipeline.team import find_networks
from eed_search.pipeline.training import dense_base, undefended
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Measurement, from_json

_IDS = re.compile(r"\d+\.\d+|knee|fastest|most-robust|base")
_MOST_TIER_1 = 2000
_CIFAR_EPS = 8 / 255


@dataclass(frozen=True)
class AttackOptions:
    """What the user asked for beside the target.

    Attributes:
        tier: 1 or 2.
        eps: Budget in pixel units; none takes the search's.
        data: A file with images, or a folder that replaces `data.path`; none takes the search's images.
        num_samples: Most samples; none takes 2,000 at tier 1 and all at tier 2.
        seed: Seed for the choice of samples.
    """

    tier: Tier
    eps: float | None = None
    data: Path | None = None
    num_samples: int | None = None
    seed: int = 0


def is_point(text: str) -> bool:
    """Whether a target names a point of a run: `ID` or `RUN:ID`."""
    return bool(_IDS.fullmatch(text.rpartition(":")[2]))


# ---------------------------------------------------------------- a run's point


def from_run(
    name: str, view: RunView, id_: str, home: Path, options: AttackOptions, report: Callable[[str], None]
) -> Target:
    """Read a point's networks, gate and images; networks that the store has lost are made again.

    Args:
        name: For people.
        view: The run.
        id_: One of its points, `base`, `knee`, `fastest` or `most-robust`.
        home: Where its store lies.
        options: What the user asked for.
        report: Told what is being computed.

    Raises:
        RunError: If there is no such point.
        StoreError: If its networks are no longer in the store and this code makes others.
        DataError: If the images cannot be read or are too few.
    """
    found_id, measurement, params = _pick(view, id_)
    plain = dict(view.spec)
    if options.data is not None and options.data.is_dir():
        plain["data"] = plain["data"] | {"path": str(options.data)}
    spec = parse(plain, f"run {view.name}")
    context = open_context(spec, home / "store", report, whole_machine="OMP_NUM_THREADS" not in os.environ)
    members = [m.model.eval() for m in context.read_members(find_networks(context, measurement.artifact, params))]
    gate = gate_of(spec.gate, params.gate_threshold if params else RUNS_ALL)
    data = load_splits(spec.data, spec.seed) if options.tier == 2 else context.data  # which lacks those for claims
    samples = _samples(options, data, plan_of(view).last)
    whole = options.num_samples is None and options.eps in (None, spec.threat.eps)
    fresh = view.fresh.get(found_id if found_id != "base" else "dense base")
    recorded = None
    if (
        fresh is not None
        and samples.name == "fresh"
        and whole
        and fresh.clean_accuracy.num_samples == len(samples.split)
    ):
        recorded = ("the search", fresh.clean_accuracy.value)
    eps = spec.threat.eps if options.eps is None else options.eps
    base = dense_base(context)[0].eval()
    return Target(
        name=f"{name} {found_id}",
        team=_team(members, gate),
        split=samples.split,
        split_name=samples.name,
        data=samples.title or spec.data.source,
        num_classes=context.data.num_classes,
        eps=eps,
        base=base if found_id != "base" else None,
        twin=lambda: undefended(context),
        twin_at_most=0.01 if spec.data.source == "cifar10" and eps >= _CIFAR_EPS - 1e-9 else None,
        recorded=recorded,
        deploy=_deployer(members, gate, context.data.image_shape),
        timing=_timing(measurement),
        notes=(*samples.notes, *context.store.remade),
        id=found_id if found_id != "base" or view.base is None else view.base.name,
    )


def _pick(view: RunView, id_: str) -> tuple[str, Measurement, TrialParams | None]:
    """Find a point's id, measurement and parameters; none for the base."""
    if id_ == "base":
        if view.base is None:
            raise RunError(f"run {view.name}: has no dense base yet; wait for it")
        return "base", with_final_latency(view, view.base), None
    by_id = {point.id: point for point in points(view, unrankable=True, unconfirmed=True, twins=True)}
    point = by_id.get(id_) or (select(view, id_) if not id_[0].isdigit() else None)
    if point is None:
        raise RunError(
            f"run {view.name}: has no point {id_}; there: {', '.join(by_id) or 'none'}, base, knee, fastest, most-robust"
        )
    return point.id, point.measurement, TrialParams.from_flat(point.params)


def _timing(measurement: Measurement) -> Timing:
    latency = measurement.latency
    return Timing(measurement, latency.speedup.value * latency.latency_ms.value)


# ---------------------------------------------------------------- a bundle


def from_bundle(folder: Path, options: AttackOptions, report: Callable[[str], None]) -> Target:
    """Read a bundle's members back as networks with gradients.

    Args:
        folder: The bundle.
        options: What the user asked for.
        report: Told what is being computed.

    Raises:
        BundleError: If the bundle is missing or altered.
        ModelError: If a member holds an operator that cannot be differentiated.
        DataError: If the images cannot be read, are too few, or neither the bundle nor the user names any.
    """
    classifier, models, claims, config = open_bundle(folder)
    shape = classifier.image_shape
    members = differentiable(models, classifier.sessions, shape)
    gate = from_settings(classifier.gate)
    spec = _spec_of(config, options)
    splits = None
    if spec is not None and (options.data is None or options.data.is_dir()):
        report("data")
        splits = load_splits(spec.data, spec.seed)
        if splits.image_shape != shape:
            raise DataError(
                f"{folder}: takes images {list(shape)}, the data hold {list(splits.image_shape)}; give --data"
            )
    if options.eps is not None:
        eps = options.eps
    elif spec is not None:
        eps = spec.threat.eps
    else:
        raise DataError(f"{folder}: says no eps; give --eps, such as 8/255")
    data = None if spec is None else spec.data
    unseen = None if data is None else plan_rounds(data.num_validation, data.num_fresh).last
    samples = _samples(options, splits, unseen, num_classes=classifier.num_classes, shape=shape)
    return Target(
        name=str(folder),
        team=_team(list(members), gate),
        split=samples.split,
        split_name=samples.name,
        data=samples.title or (spec.data.source if spec else ""),
        num_classes=classifier.num_classes,
        eps=eps,
        deploy=lambda: classifier,
        timing=_claimed(claims),
        notes=samples.notes,
    )


def _spec_of(config: object, options: AttackOptions) -> Spec | None:
    plain = config.get("spec") if isinstance(config, dict) else None
    if not isinstance(plain, dict):
        return None
    data = plain.get("data")
    if options.data is not None and options.data.is_dir() and isinstance(data, dict):
        plain = plain | {"data": data | {"path": str(options.data)}}
    return parse(plain, "config.json")


def _claimed(claims: object) -> Timing | None:
    """The latency that the bundle claims; none where its claims are of another form."""
    if not isinstance(claims, dict):
        return None
    names = {one.name for one in fields(Measurement)}
    try:
        return _timing(from_json(Measurement, {key: value for key, value in claims.items() if key in names}))
    except ValueError:
        return None


# ---------------------------------------------------------------- a user's own model


def from_module(target: str, options: AttackOptions) -> Target:
    """Load a user's own model, and refuse one whose robust accuracy would mean nothing.

    Args:
        target: `module:callable`; the module is also looked for in the working folder.
        options: What the user asked for; `data` must be a file, or a folder with `test*.npz`.

    Raises:
        ModelError: If it cannot be loaded, is in train mode, answers equal images differently, lets no gradient
            through, or gives anything but finite logits.
        DataError: If the images or labels are wrong, too few, or not answered better than by chance.
    """
    if options.data is None:
        raise DataError(f"{target}: needs images; give --data FILE.npz with `images` and `labels`")
    if options.eps is None:
        raise DataError(f"{target}: needs a budget; give --eps, such as 8/255")
    model = _load(target)
    samples = _samples(options, None)
    num_classes = refuse_unsound(target, model, samples.split)
    gate: StopRule = Gate(RUNS_ALL)
    team = model if isinstance(model, GatedEnsemble) else GatedEnsemble([model], gate)
    rule = team.gate
    shape = tuple(samples.split.images.shape[1:])
    deploy = _deployer(list(team.members), rule, (shape[0], shape[1], shape[2]))
    return Target(
        name=target,
        team=team.eval(),
        split=samples.split,
        split_name=samples.name,
        data=samples.title,
        num_classes=num_classes,
        eps=options.eps,
        deploy=deploy if type(rule) in (Gate, MarginGate) else None,
        notes=samples.notes,
    )


def _load(target: str) -> nn.Module:
    module_name, _, name = target.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises
        raise ModelError(
            f"{target}: {module_name} cannot be imported ({type(error).__name__}: {error}); run from its folder or install it"
        ) from error
    make = getattr(module, name, None)
    if not callable(make):
        raise ModelError(f"{target}: {module_name} holds no function {name}; it must give the model, without arguments")
    try:
        model = make()
    except Exception as error:
        raise ModelError(
            f"{target}: fails ({type(error).__name__}: {error}); it is called without arguments"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{target}: gives {type(model).__name__}; needs a torch.nn.Module from images in [0, 1] to logits"
        )
    return model


# ---------------------------------------------------------------- shared


@dataclass(frozen=True)
class _Samples:
    split: Split
    name: Literal["fresh", "test", "given"]
    title: str
    notes: tuple[str, ...]


def _samples(
    options: AttackOptions,
    splits: Splits | None,
    unseen: Slice | None = None,
    *,
    num_classes: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> _Samples:
    """Choose the images: a given file's, or the split that the tier may see.

    Args:
        options: What the user asked for.
        splits: The data's.
        unseen: Those of the fresh images that have not helped to choose the frontier.
        num_classes: Classes that the model knows.
        shape: Shape of the images that the model takes.
    """
    name: Literal["fresh", "test", "given"]
    notes: tuple[str, ...] = ()
    if options.data is not None and (splits is None or not options.data.is_dir()):
        given = read_given(options.data, test=options.tier == 2)
        split, name, title = given.split, given.name, str(options.data)
        if name == "given":
            notes = ("that the model never saw these images is the user's word",)
        if num_classes is not None and int(split.labels.max()) >= num_classes:
            raise DataError(f"{title}: label {int(split.labels.max())} occurs, the model knows classes 0..{num_classes - 1}; give its own data")  # fmt: skip
        if shape is not None and tuple(split.images.shape[1:]) != shape:
            raise DataError(f"{title}: images are {list(split.images.shape[1:])}, the model takes {list(shape)}; give its own data")  # fmt: skip
        # a file may be sorted by class
        order = torch.randperm(
            len(split), generator=torch.Generator().manual_seed(seed_of(str(options.seed), "samples"))
        )
        split = split.subset(order)
    elif splits is not None:
        name, title = ("test", "") if options.tier == 2 else ("fresh", "")
        fresh = splits.fresh if unseen is None else splits.fresh.subset(torch.arange(*unseen))
        found = splits.test if options.tier == 2 else fresh
        split = found.subset(torch.arange(min(options.num_samples or len(found), len(found)))).floats()
    else:
        raise DataError("the target names no images; give --data FILE.npz with `images` and `labels`")
    most = options.num_samples or (_MOST_TIER_1 if options.tier == 1 else len(split))
    split = Split(split.images[:most], split.labels[:most])
    if len(split) < MIN_SAMPLES:
        asked = options.num_samples is not None and options.num_samples < MIN_SAMPLES
        where, do = ("--num-samples", "raise it") if asked else (title or f"the {name} split", "give more images")
        raise DataError(
            f"{where}: {len(split)} samples: too few to say anything (at least {MIN_SAMPLES}; the interval of {MIN_SAMPLES} is"
            f" already ±14 points); {do}"
        )
    return _Samples(split, name, title, notes)


def _team(members: list[nn.Module], gate: DeployedGate) -> GatedEnsemble[Any]:
    return GatedEnsemble(members, gate if len(members) > 1 else Gate(RUNS_ALL)).eval()


def _deployer(members: list[nn.Module], gate: StopRule, shape: tuple[int, int, int]) -> Callable[[], GatedClassifier]:
    def deploy() -> GatedClassifier:
        assert isinstance(gate, Gate | MarginGate)
        return GatedClassifier.from_onnx([to_onnx(member, shape) for member in members], to_settings(gate))

    return deploy
