"""Stages that train: the dense base, baselines, scores, members, the team."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eed_search.compression.channels import channel_groups, dense_layers
from eed_search.compression.contract import Target, Work
from eed_search.compression.cstar import rank_budget, unfactored_layers
from eed_search.compression.member import Member, fresh, recovery_loss, to_arrays
from eed_search.compression.methods import key_of, method_function, settings_of
from eed_search.compression.scores import ScoreBatch, score_function
from eed_search.config.names import digest_of
from eed_search.config.params import MemberChoice, Recovery, Score, TrialParams, is_scored
from eed_search.config.plans import MemberPlan
from eed_search.config.removal import is_sized_before, removes_channels
from eed_search.config.spec import Choice, Recipe
from eed_search.core.errors import ModelError
from eed_search.core.seeds import seed_of
from eed_search.ensemble.loss import Combiner, JointLoss
from eed_search.ensemble.loss import Members as MemberStack
from eed_search.ensemble.subsets import subset_indices
from eed_search.models import check_images
from eed_search.pipeline.context import StageContext
from eed_search.pipeline.stage import Stage
from eed_search.storage.store import Artifact, Stored
from eed_search.training import TrainingResult, train
from eed_search.training.batches import augment_key
from eed_search.training.checkpoints import Checkpoint

_MOST_NAMED = 20  # layers in one note
_TWIN_EPOCHS = 10.0  # enough for an undefended network to be accurate


@dataclass(frozen=True)
class TrainedMember:
    """A member with the key it lies under in the store."""

    member: Member = field(repr=False)
    key: str
    plan: MemberPlan


Network = tuple[nn.Module, str]
"""A network with the key that it lies under."""


# ---------------------------------------------------------------- the dense base


def base_stage(context: StageContext) -> Stage[Network]:
    """Adversarial training of the dense base."""

    def trains(seed: int, unfinished: Checkpoint) -> Artifact:
        model = context.untrained(seed)
        recipe = context.spec.base
        done = _train(context, model, recipe, seed, "labels", None, name="base", unfinished=unfinished)
        return _to_artifact(to_arrays(Member(model.cpu())), {"losses": list(done.losses)})

    settings = _training(context, context.spec.base) | {"model": context.model}
    return Stage("base", settings, lambda stored: _network(context, stored), trains=trains)


def dense_base(context: StageContext) -> Network:
    """Train the dense base adversarially, or read it."""
    return base_stage(context).made_in(context.store)


def twin_stage(context: StageContext) -> Stage[Network]:
    """Training of the base's architecture on clean images alone."""
    spec = context.spec
    plain = spec.base.attack.model_copy(update={"method": "none"})
    recipe = spec.base.model_copy(update={"attack": plain, "epochs": min(spec.base.epochs, _TWIN_EPOCHS)})

    def trains(seed: int, unfinished: Checkpoint) -> Artifact:
        model = context.untrained(seed)
        _train(context, model, recipe, seed, "labels", None, name="twin", unfinished=unfinished)
        return _to_artifact(to_arrays(Member(model.cpu())))

    settings = _training(context, recipe) | {"model": context.model}
    return Stage("twin", settings, lambda stored: _network(context, stored), trains=trains)


def undefended(context: StageContext) -> nn.Module:
    """Train the base's architecture on clean images alone, or read it: what an attack must break with ease."""
    return twin_stage(context).made_in(context.store)[0]


# ---------------------------------------------------------------- baselines


def baseline_recipe(context: StageContext) -> Recipe:
    """The base's recipe, for as many epochs as base, member and joint fine-tune have together."""
    spec = context.spec
    recipes = [recipe for m in methods(context) if (recipe := settings_of(spec.members, m))]
    before = max((recipe.epochs for recipe in recipes), default=0)
    epochs = spec.base.epochs + before + spec.members.finetune.epochs + spec.joint.epochs
    return spec.base.model_copy(update={"epochs": epochs})


def baseline_stage(
    context: StageContext, size: float, recovery: Recovery, base: nn.Module | None = None
) -> Stage[Stored]:
    """Training of a member's architecture from scratch, for as many epochs as a deployed member saw.

    Args:
        context: The search's file, data, device and store.
        size: Fraction of channels, in (0, 1].
        recovery: From labels, or from the base.
        base: The dense base where it is at hand; else it is read.
    """
    recipe = baseline_recipe(context)

    def trains(seed: int, unfinished: Checkpoint) -> Artifact:
        teacher = dense_base(context)[0] if base is None else base
        model = fresh(teacher, context.data.image_shape, size, context.spec.members.block, seed)
        name = f"baseline {recovery}"
        _train(context, model, recipe, seed, recovery, teacher, name=name, unfinished=unfinished)
        return _to_artifact(to_arrays(Member(model.cpu())))

    settings = _training(context, recipe) | {
        "model": context.model,
        "size": size,
        "block": context.spec.members.block,
        "recovery": recovery,
        "teacher": base_stage(context).key(context.store) if recovery == "distill" else None,
    }
    return Stage("control", settings, lambda stored: stored, trains=trains)


# ---------------------------------------------------------------- members


def scores_stage(context: StageContext, score: Score, base: nn.Module | None = None) -> Stage[Stored]:
    """Importance of every weight of the base, which is read where it is not given."""
    spec = context.spec

    def compute(seed: int) -> Artifact:
        context.report(f"scores {score}")
        some = context.data.train.subset(torch.arange(min(spec.members.score_samples, len(context.data.train))))
        images, labels = some.images.to(context.device), some.labels.to(context.device)
        scored = dense_base(context)[0] if base is None else base
        batch = ScoreBatch(images, labels, spec.threat.eps, spec.members.finetune.attack, seed)
        return _to_artifact(score_function(score)(scored.to(context.device), batch))

    settings = {
        "base": base_stage(context).key(context.store),
        "score": score,
        **digest_of("score", score),
        "num_samples": spec.members.score_samples,
        "eps": spec.threat.eps,
        "attack": spec.members.finetune.attack.model_dump(),
    }
    return Stage("scores", settings, lambda stored: stored, compute)


def member(context: StageContext, plan: MemberPlan, base: nn.Module) -> TrainedMember:
    """Make a member of the base on its images, or read it; the scores that it needs come first, as a stage of their own."""
    choice = plan.choice
    scores = scores_stage(context, choice.score, base).made_in(context.store) if is_scored(choice.method) else None
    return member_stage(context, plan, base, scores).made_in(context.store)


def member_stage(
    context: StageContext, plan: MemberPlan, base: nn.Module | None = None, scores: Stored | None = None
) -> Stage[TrainedMember]:
    """Making of a member of the base, by its method and on its images.

    Args:
        context: The search's file, data, device and store.
        plan: What it is to be.
        base: The dense base where it is at hand; else it is read.
        scores: Its importance scores, likewise.
    """
    spec, data, choice = context.spec, context.data, plan.choice
    scored = scores_stage(context, choice.score) if is_scored(choice.method) else None

    def trains(seed: int, unfinished: Checkpoint) -> Artifact:
        split = data.train
        if plan.subsets == "shared":
            shuffle = seed_of(data.key, f"subset/{spec.seed}/{choice.family}")
            split = split.subset(subset_indices(len(split), plan.part, shuffle))
        known = scores or (scored.made_in(context.store) if scored else None)
        arrays = known.artifact.tensors if known else {}
        work = Work(
            image_shape=data.image_shape,
            split=split,
            scores=lambda: {name: torch.from_numpy(array) for name, array in arrays.items()},
            eps=spec.threat.eps,
            recovery=plan.recovery,
            seed=seed,
            augment=spec.data.augment,
            device=context.device,
            report=lambda text: context.report(f"member {choice.title()}: {text}"),
            checkpoint=unfinished,
        )
        dense = dense_base(context)[0] if base is None else base
        return _to_artifact(to_arrays(method_function(choice.method)(dense, Target(choice.size, spec.members), work)))

    settings = (
        _training(context, spec.members.finetune) | asdict(plan) | {"base": base_stage(context).key(context.store)}
    )
    settings |= spec.members.model_dump(include={"granularity", "block"})
    if scored:
        settings["scores"] = scored.key(context.store)
    else:
        del settings["choice"]["score"], settings["granularity"]  # they look at neither
    if own := key_of(spec.members, choice.method):
        settings["method"] = own
    else:
        del settings["choice"]["method"]  # `prune` was there before the others: its keys stay

    def decode(stored: Stored) -> TrainedMember:
        return TrainedMember(context.read_members(stored)[0], stored.key, plan)

    return Stage("member", settings, decode, trains=trains)


# ---------------------------------------------------------------- the team


def team_stage(context: StageContext, members: Sequence[TrainedMember], params: TrialParams) -> Stage[Stored]:
    """Joint fine-tuning of a team with L_EED; members keep their order."""
    spec, joint = context.spec, context.spec.joint
    weights = {"beta": params.beta, "omega": params.omega, "gamma": params.gamma}
    if len(members) == 1:
        weights["beta"] = 0.0  # the diversity of one member is a constant
    settings = _training(context, joint) | weights | {"members": [m.key for m in members]}
    combine: Combiner = "logits" if spec.gate.rule == "margin" and len(members) > 1 else "probabilities"
    if combine != "probabilities":  # which was there first: its keys stay
        settings["combine"] = combine

    def trains(seed: int, unfinished: Checkpoint) -> Artifact:
        stack = MemberStack([m.member.model for m in members])
        masks = {f"models.{i}.{name}": mask for i, m in enumerate(members) for name, mask in m.member.masks.items()}
        train(
            stack,
            context.data.train,
            joint,
            JointLoss(spec.threat.eps, joint, **weights, combine=combine),
            seed=seed,
            augment=spec.data.augment,
            masks=masks,
            device=context.device,
            report=lambda text: context.report(f"joint fine-tune: {text}"),
            checkpoint=unfinished,
            eps=spec.threat.eps,
        )
        stack.cpu()
        tensors: dict[str, Tensor] = {}
        for i, (model, trained) in enumerate(zip(stack.models, members, strict=True), start=1):
            arrays = to_arrays(Member(model, trained.member.masks))
            tensors |= {f"member{i}/{name}": tensor for name, tensor in arrays.items()}
        return _to_artifact(tensors, {"num_members": len(members)})

    return Stage("team", settings, lambda stored: stored, trains=trains)


# ---------------------------------------------------------------- known before anything is trained


def known_profile(context: StageContext, choice: MemberChoice) -> nn.Module | None:
    """The network that a choice will have, untrained; none where only its making tells."""
    return context.architecture(choice.size) if is_sized_before(context.spec, choice.method) else None


def known_profiles(context: StageContext) -> list[tuple[float | None, nn.Module]]:
    """Networks that members of the space have, as far as they are known before training, by size; masked ones by none."""
    space = context.spec.search.space
    sizes = space.size.values if isinstance(space.size, Choice) else ()
    smaller = any(is_sized_before(context.spec, method) for method in methods(context))
    found = [(float(size), context.architecture(float(size))) for size in sizes] if smaller else []
    masked = any(method != "cstar" and not removes_channels(context.spec, method) for method in methods(context))
    return [*found, (None, context.untrained(0))] if masked else [*found]


def check_sizes(context: StageContext) -> list[str]:
    """Find images that the base cannot take and sizes that no member can have, before anything is trained.

    Returns:
        What a reader of the result should know: which layers stay dense.

    Raises:
        ModelError: If the base cannot take the images, nothing of it can be compressed as the space says, or
            low rank cannot reach a size of the space.
    """
    spec, data = context.spec, context.data
    network = context.untrained(0)
    check_images(network, spec.model.name, data.image_shape, data.num_classes)
    notes = []
    removed = any(removes_channels(spec, method) for method in methods(context))
    if removed and (dense := dense_layers(network, data.image_shape)):
        notes.append(f"layers that keep all channels, since none can be removed: {_listed(dense)}")
    if spec.baselines.sizes and not removed:
        try:
            channel_groups(network, data.image_shape)
        except ModelError as error:
            raise ModelError(f"baselines.sizes: {error}; or go without them: baselines: {{sizes: []}}") from error
    if "cstar" in methods(context) and (dense := unfactored_layers(network)):
        notes.append(f"layers that cstar leaves dense, since they are convolutions in groups: {_listed(dense)}")
    dimension = spec.search.space.size
    sizes = dimension.values if isinstance(dimension, Choice) else (dimension.low,)
    for size in sizes if "cstar" in methods(context) else ():
        rank_budget(network, float(size), spec.members.cstar.block)
    return notes


def methods(context: StageContext) -> tuple[str, ...]:
    """The methods that the space names."""
    dimension = context.spec.search.space.method
    return tuple(str(method) for method in dimension.values) if isinstance(dimension, Choice) else ()


# ---------------------------------------------------------------- shared by these stages


def _training(context: StageContext, recipe: Recipe) -> dict[str, Any]:
    """What every training stage's key holds."""
    return {
        "data": context.data.key,
        "augment": augment_key(context.spec.data.augment),
        "eps": context.spec.threat.eps,
        "recipe": recipe.model_dump(),
        "seed": context.spec.seed,
    }


def _train(
    context: StageContext,
    model: nn.Module,
    recipe: Recipe,
    seed: int,
    recovery: Recovery,
    teacher: nn.Module | None,
    *,
    name: str,
    unfinished: Checkpoint,
) -> TrainingResult:
    eps = context.spec.threat.eps
    loss = recovery_loss(recovery, teacher if teacher is not None else model, recipe, eps, context.device)
    return train(
        model,
        context.data.train,
        recipe,
        loss,
        seed=seed,
        augment=context.spec.data.augment,
        device=context.device,
        report=lambda text: context.report(f"{name}: {text}"),
        checkpoint=unfinished,
        eps=eps,
    )


def _network(context: StageContext, stored: Stored) -> Network:
    return context.read_members(stored)[0].model, stored.key


def _listed(layers: Sequence[str]) -> str:
    more = len(layers) - _MOST_NAMED
    return ", ".join(layers[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _to_artifact(tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> Artifact:
    return Artifact({name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}, meta or {})
