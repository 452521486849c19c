"""Stages that train: the dense base, controls, scores, members, the team."""

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
from eed_search.core.errors import ModelError
from eed_search.core.names import digest_of
from eed_search.core.params import MemberChoice, Recovery, Score, TrialParams, is_scored
from eed_search.core.plans import MemberPlan
from eed_search.core.seeds import seed_of
from eed_search.core.spec import Choice, Recipe
from eed_search.core.spec_file import is_sized_before, removes_channels
from eed_search.core.store import Artifact, Stored
from eed_search.ensemble.loss import Combiner, JointLoss
from eed_search.ensemble.loss import Members as MemberStack
from eed_search.ensemble.subsets import subset_indices
from eed_search.models import check_images
from eed_search.stages.bench import Bench, Stage
from eed_search.training import TrainingResult, train
from eed_search.training.checkpoints import Checkpoint, kept_while_computed

_MOST_NAMED = 20  # layers in one note
_TWIN_EPOCHS = 10.0  # enough for an undefended network to be accurate


@dataclass(frozen=True)
class TrainedMember:
    """A member with the key it lies under in the store."""

    member: Member = field(repr=False)
    key: str
    plan: MemberPlan


class Making(Bench):
    """Whatever is trained, and what is known of it before."""

    # ------------------------------------------------------------ the dense base

    def base(self) -> tuple[nn.Module, str]:
        """Train the dense base adversarially, or read it; gives it with its key."""
        spec = self.spec

        def compute(seed: int, unfinished: Checkpoint) -> Artifact:
            model = self._untrained(seed)
            done = self._train(
                model, spec.base, seed=seed, recovery="labels", teacher=None, name="base", unfinished=unfinished
            )
            return _to_artifact(to_arrays(Member(model.cpu())), {"losses": list(done.losses)})

        stored = kept_while_computed(self.store, *self.base_stage(), compute)
        return self.read_members(stored)[0].model, stored.key

    def base_stage(self) -> Stage:
        """What the dense base lies under."""
        return "base.1", self._training(self.spec.base) | {"model": self._model}

    def form(self, choice: MemberChoice) -> nn.Module | None:
        """The network that a choice will have, untrained; none where only its making tells."""
        return self.architecture(choice.size) if is_sized_before(self.spec, choice.method) else None

    def check_sizes(self) -> list[str]:
        """Find images that the base cannot take and sizes that no member can have, before anything is trained.

        Returns:
            What a reader of the result should know: which layers stay dense.

        Raises:
            ModelError: If the base cannot take the images, nothing of it can be compressed as the space says, or
                low rank cannot reach a size of the space.
        """
        base = self._untrained(0)
        check_images(base, self.spec.model.name, self.data.image_shape, self.data.num_classes)
        notes = []
        removed = any(removes_channels(self.spec, method) for method in self._methods)
        if removed and (dense := dense_layers(base, self.data.image_shape)):
            notes.append(f"layers that keep all channels, since none can be removed: {_listed(dense)}")
        if self.spec.controls.sizes and not removed:
            try:
                channel_groups(base, self.data.image_shape)
            except ModelError as error:
                raise ModelError(f"controls.sizes: {error}; or go without controls: []") from error
        if "cstar" in self._methods and (dense := unfactored_layers(base)):
            notes.append(f"layers that cstar leaves dense, since they are convolutions in groups: {_listed(dense)}")
        dimension = self.spec.search.space.size
        sizes = dimension.values if isinstance(dimension, Choice) else (dimension.low,)
        for size in sizes if "cstar" in self._methods else ():
            rank_budget(base, float(size), self.spec.members.cstar.block)
        return notes

    def known_forms(self) -> list[tuple[float | None, nn.Module]]:
        """Networks that members of the space have, as far as they are known before training, by size; masked ones by none."""
        space = self.spec.search.space
        sizes = space.size.values if isinstance(space.size, Choice) else ()
        smaller = any(is_sized_before(self.spec, method) for method in self._methods)
        found = [(float(size), self.architecture(float(size))) for size in sizes] if smaller else []
        masked = any(method != "cstar" and not removes_channels(self.spec, method) for method in self._methods)
        return [*found, (None, self._untrained(0))] if masked else [*found]

    def control(self, size: float, recovery: Recovery, base: nn.Module, base_key: str) -> Stored:
        """Train a network of a member's architecture from scratch, for as many epochs as a deployed member saw."""
        spec, recipe = self.spec, self.control_recipe()

        def compute(seed: int, unfinished: Checkpoint) -> Artifact:
            model = fresh(base, self.data.image_shape, size, spec.members.block, seed)
            name = f"control {recovery}"
            self._train(model, recipe, seed=seed, recovery=recovery, teacher=base, name=name, unfinished=unfinished)
            return _to_artifact(to_arrays(Member(model.cpu())))

        return kept_while_computed(self.store, *self.control_stage(size, recovery, base_key), compute)

    def control_recipe(self) -> Recipe:
        """The base's recipe, for as many epochs as base, member and joint fine-tune have together."""
        spec = self.spec
        before = max((recipe.epochs for m in self._methods if (recipe := settings_of(spec.members, m))), default=0)
        epochs = spec.base.epochs + before + spec.members.finetune.epochs + spec.joint.epochs
        return spec.base.model_copy(update={"epochs": epochs})

    def control_stage(self, size: float, recovery: Recovery, base_key: str) -> Stage:
        """What a control lies under."""
        return "control.1", self._training(self.control_recipe()) | {
            "model": self._model,
            "size": size,
            "block": self.spec.members.block,
            "recovery": recovery,
            "teacher": base_key if recovery == "distill" else None,
        }

    def undefended(self) -> nn.Module:
        """Train the base's architecture on clean images alone, or read it: what an attack must break with ease."""
        spec = self.spec
        plain = spec.base.attack.model_copy(update={"method": "none"})
        recipe = spec.base.model_copy(update={"attack": plain, "epochs": min(spec.base.epochs, _TWIN_EPOCHS)})
        settings = self._training(recipe) | {"model": self._model}

        def compute(seed: int, unfinished: Checkpoint) -> Artifact:
            model = self._untrained(seed)
            self._train(model, recipe, seed=seed, recovery="labels", teacher=None, name="twin", unfinished=unfinished)
            return _to_artifact(to_arrays(Member(model.cpu())))

        return self.read_members(kept_while_computed(self.store, "twin.1", settings, compute))[0].model

    # ------------------------------------------------------------ members

    def scores(self, score: Score, base: nn.Module, base_key: str) -> Stored:
        """Score every weight of the base."""
        spec = self.spec

        def compute(seed: int) -> Artifact:
            self.report(f"scores {score}")
            some = self.data.train.subset(torch.arange(min(spec.members.score_samples, len(self.data.train))))
            batch = ScoreBatch(
                some.images.to(self.device),
                some.labels.to(self.device),
                spec.threat.eps,
                spec.members.finetune.attack,
                seed,
            )
            return _to_artifact(score_function(score)(base.to(self.device), batch))

        return self.store.get(*self.scores_stage(score, base_key), compute)

    def scores_stage(self, score: Score, base_key: str) -> Stage:
        """What the scores of the base lie under."""
        spec = self.spec
        return "scores.1", {
            "base": base_key,
            "score": score,
            **digest_of("score", score),
            "num_samples": spec.members.score_samples,
            "eps": spec.threat.eps,
            "attack": spec.members.finetune.attack.model_dump(),
        }

    def member(self, plan: MemberPlan, base: nn.Module, base_key: str) -> TrainedMember:
        """Make a member of the base on its images, or read it."""
        spec, data, choice = self.spec, self.data, plan.choice
        scored = self.scores(choice.score, base, base_key) if is_scored(choice.method) else None
        stage, settings = self.member_stage(plan, base_key)

        def compute(seed: int, unfinished: Checkpoint) -> Artifact:
            split = data.train
            if plan.subsets == "shared":
                shuffle = seed_of(data.key, f"subset/{spec.seed}/{choice.family}")
                split = split.subset(subset_indices(len(split), plan.part, shuffle))
            arrays = scored.artifact.tensors if scored else {}
            work = Work(
                image_shape=data.image_shape,
                split=split,
                scores=lambda: {name: torch.from_numpy(array) for name, array in arrays.items()},
                eps=spec.threat.eps,
                recovery=plan.recovery,
                seed=seed,
                augment=self.spec.data.augment,
                device=self.device,
                report=lambda text: self.report(f"member {choice.title()}: {text}"),
                checkpoint=unfinished,
            )
            return _to_artifact(
                to_arrays(method_function(choice.method)(base, Target(choice.size, spec.members), work))
            )

        stored = kept_while_computed(self.store, stage, settings, compute)
        return TrainedMember(self.read_members(stored)[0], stored.key, plan)

    def member_stage(self, plan: MemberPlan, base_key: str) -> Stage:
        """What a member lies under."""
        spec, choice = self.spec, plan.choice
        settings = self._training(spec.members.finetune) | asdict(plan) | {"base": base_key}
        settings |= spec.members.model_dump(include={"granularity", "block"})
        if is_scored(choice.method):
            settings["scores"] = self.store.key(*self.scores_stage(choice.score, base_key))
        else:
            del settings["choice"]["score"], settings["granularity"]  # they look at neither
        if own := key_of(spec.members, choice.method):
            settings["method"] = own
        else:
            del settings["choice"]["method"]  # `prune` was there before the others: its keys stay
        return "member.1", settings

    # ------------------------------------------------------------ the team

    def team(self, members: Sequence[TrainedMember], params: TrialParams) -> Stored:
        """Fine-tune a team jointly with L_EED, or read it. Members keep their order."""
        spec, joint = self.spec, self.spec.joint
        weights = {"beta": params.beta, "omega": params.omega, "gamma": params.gamma}
        if len(members) == 1:
            weights["beta"] = 0.0  # the diversity of one member is a constant
        settings = self._training(joint) | weights | {"members": [m.key for m in members]}
        combine: Combiner = "logits" if spec.gate.rule == "margin" and len(members) > 1 else "probabilities"
        if combine != "probabilities":  # which was there first: its keys stay
            settings["combine"] = combine

        def compute(seed: int, unfinished: Checkpoint) -> Artifact:
            stack = MemberStack([m.member.model for m in members])
            masks = {f"models.{i}.{name}": mask for i, m in enumerate(members) for name, mask in m.member.masks.items()}
            train(
                stack,
                self.data.train,
                joint,
                JointLoss(spec.threat.eps, joint, **weights, combine=combine),
                seed=seed,
                augment=self.spec.data.augment,
                masks=masks,
                device=self.device,
                report=lambda text: self.report(f"joint fine-tune: {text}"),
                checkpoint=unfinished,
            )
            stack.cpu()
            tensors: dict[str, Tensor] = {}
            for i, (model, trained) in enumerate(zip(stack.models, members, strict=True), start=1):
                arrays = to_arrays(Member(model, trained.member.masks))
                tensors |= {f"member{i}/{name}": tensor for name, tensor in arrays.items()}
            return _to_artifact(tensors, {"num_members": len(members)})

        return kept_while_computed(self.store, "team.1", settings, compute)

    # ------------------------------------------------------------ shared by these stages

    @property
    def _methods(self) -> tuple[str, ...]:
        """The methods that the space names."""
        dimension = self.spec.search.space.method
        return tuple(str(method) for method in dimension.values) if isinstance(dimension, Choice) else ()

    def _training(self, recipe: Recipe) -> dict[str, Any]:
        """What every training stage's key holds."""
        return {
            "data": self.data.key,
            "augment": self.spec.data.augment,
            "eps": self.spec.threat.eps,
            "recipe": recipe.model_dump(),
            "seed": self.spec.seed,
        }

    def _train(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        seed: int,
        recovery: Recovery,
        teacher: nn.Module | None,
        name: str,
        unfinished: Checkpoint,
    ) -> TrainingResult:
        loss = recovery_loss(
            recovery, teacher if teacher is not None else model, recipe, self.spec.threat.eps, self.device
        )
        return train(
            model,
            self.data.train,
            recipe,
            loss,
            seed=seed,
            augment=self.spec.data.augment,
            device=self.device,
            report=lambda text: self.report(f"{name}: {text}"),
            checkpoint=unfinished,
        )


def _listed(layers: Sequence[str]) -> str:
    more = len(layers) - _MOST_NAMED
    return ", ".join(layers[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _to_artifact(tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> Artifact:
    return Artifact({name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}, meta or {})
