"""The stages of a trial: each a pure function of its settings, what it is made from, and a seed.

    base → scores → member → (own attack) → team → judgement, slowdown;  architecture → latency

Each asks the store first, so trials share whatever they have in common. The number behind a
stage's name is its code's version: raise it when the result for equal settings changes.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eed_search.compression.channels import channel_groups, dense_layers
from eed_search.compression.checkpoint import FileCheckpoint
from eed_search.compression.contract import Target, Work
from eed_search.compression.cstar import rank_budget, unfactored_layers
from eed_search.compression.member import Member, fresh, from_arrays, recovery_loss, to_arrays
from eed_search.compression.methods import key_of, method_function, settings_of
from eed_search.compression.scores import ScoreBatch, score_function
from eed_search.core import plugins
from eed_search.core.errors import ModelError, TrialFailure
from eed_search.core.looks import look_ends
from eed_search.core.names import digest_of
from eed_search.core.params import MemberChoice, Recovery, Score, TrialParams, is_scored
from eed_search.core.plans import MemberPlan
from eed_search.core.records import Interval, Latency, from_json, to_json
from eed_search.core.seeds import seed_of
from eed_search.core.shared_stages import SharedStages
from eed_search.core.spec import Choice, Data, Recipe, Spec
from eed_search.core.spec_file import is_sized_before, removes_channels
from eed_search.core.storage import Storage
from eed_search.core.store import Artifact, Store, Stored
from eed_search.data.splits import Split, Splits, load_splits
from eed_search.deployment.gates import to_settings
from eed_search.deployment.onnx_export import to_onnx
from eed_search.ensemble.gate import DeployedGate, GatedEnsemble
from eed_search.ensemble.loss import Combiner, JointLoss
from eed_search.ensemble.loss import Members as MemberStack
from eed_search.ensemble.subsets import subset_indices
from eed_search.evaluation.cascade import Cascade, cascade_latencies
from eed_search.evaluation.latency import Probe, RatioEstimate
from eed_search.evaluation.robust import Examination, Judgement, craft
from eed_search.evaluation.slowed import NO_GATE, Slowed, slowed
from eed_search.models import build, check_images, signature
from eed_search.training import train

Report = Callable[[str], None]
Beaten = Callable[[Judgement], object]
"""Told what is known after a look at a part of the images; true where nothing more needs to be."""
Stage = tuple[str, dict[str, Any]]
"""A stage's name with its version, and its settings: together they are its key in the store."""
_JUDGEMENT = "judgement.2"
_SWEPT = 15  # gate thresholds that a sweep replays
_NO_PART = {"batch_size", "slow_down_steps"}  # settings that the attack on accuracy does not look at
_MOST_NAMED = 20  # layers in one note
_TWIN_EPOCHS = 10.0  # enough for an undefended network to be accurate


@dataclass(frozen=True)
class TrainedMember:
    """A member with the key it lies under in the store."""

    member: Member = field(repr=False)
    key: str
    plan: MemberPlan


@dataclass(frozen=True)
class Deployed:
    """Members in gate order with their gate, and where they lie in the store."""

    members: Sequence[Member]
    gate: DeployedGate
    artifact: str


class Workshop:
    """One search's data, device and store: everything a stage needs besides its own settings.

    Args:
        spec: The search-space file.
        store: Where finished stages lie.
        report: Told which stage is being computed, and how far it is.
    """

    def __init__(self, spec: Spec, store: Store, report: Report) -> None:
        self.spec, self.store, self.report = spec, store, report
        plugins.load(spec.plugins)  # the user's own code: every worker imports it
        on_gpu = spec.resources.gpu > 0 and torch.cuda.is_available()
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.data: Splits = _splits(spec.data, spec.seed)

    # ------------------------------------------------------------ the dense base

    def base(self) -> tuple[nn.Module, str]:
        """Train the dense base adversarially, or read it; gives it with its key."""
        spec = self.spec

        def compute(seed: int) -> Artifact:
            model = self._untrained(seed)
            self._train(model, self.data.train, spec.base, seed=seed, recovery="labels", teacher=None, name="base")
            return _to_artifact(to_arrays(Member(model.cpu())))

        stored = self.store.get(*self.base_stage(), compute)
        return self.read_members(stored)[0].model, stored.key

    def base_stage(self) -> Stage:
        """What the dense base lies under."""
        return "base.1", self._training(self.spec.base) | {"model": self._model}

    def read_members(self, stored: Stored) -> list[Member]:
        """Read the networks of any artifact that holds some: a base, a control, a member, a team."""
        tensors = {name: torch.from_numpy(array) for name, array in stored.artifact.tensors.items()}
        count = int(stored.artifact.meta.get("num_members", 0))
        graph = self._untrained(0)
        if not count:
            return [from_arrays(graph, tensors)]
        return [from_arrays(graph, tensors, f"member{i}/") for i in range(1, count + 1)]

    def architecture(self, size: float) -> nn.Module:
        """A channel member's network at a size, untrained: enough for latency, size and MACs."""
        spec = self.spec
        if spec.members.granularity == "unstructured":
            return self._untrained(0)
        return fresh(self._untrained(0), self.data.image_shape, size, spec.members.block, 0)

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

    def known_forms(self) -> list[nn.Module]:
        """Networks that members of the space have, as far as they are known before training."""
        space = self.spec.search.space
        sizes = space.size.values if isinstance(space.size, Choice) else ()
        smaller = any(is_sized_before(self.spec, method) for method in self._methods)
        found = [self.architecture(float(size)) for size in sizes] if smaller else []
        masked = any(method != "cstar" and not removes_channels(self.spec, method) for method in self._methods)
        return [*found, self._untrained(0)] if masked else found

    def control(self, size: float, recovery: Recovery, base: nn.Module, base_key: str) -> Stored:
        """Train a network of a member's architecture from scratch, for as many epochs as a deployed member saw."""
        spec, recipe = self.spec, self.control_recipe()

        def compute(seed: int) -> Artifact:
            model = fresh(base, self.data.image_shape, size, spec.members.block, seed)
            self._train(
                model, self.data.train, recipe, seed=seed, recovery=recovery, teacher=base, name=f"control {recovery}"
            )
            return _to_artifact(to_arrays(Member(model.cpu())))

        return self.store.get(*self.control_stage(size, recovery, base_key), compute)

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

        def compute(seed: int) -> Artifact:
            model = self._untrained(seed)
            self._train(model, self.data.train, recipe, seed=seed, recovery="labels", teacher=None, name="twin")
            return _to_artifact(to_arrays(Member(model.cpu())))

        return self.read_members(self.store.get("twin.1", settings, compute))[0].model

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
        unfinished = self._unfinished(stage, settings)

        def compute(seed: int) -> Artifact:
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
                augment=self._augment,
                device=self.device,
                report=lambda text: self.report(f"member {choice.title()}: {text}"),
                checkpoint=unfinished,
            )
            try:
                member = method_function(choice.method)(base, Target(choice.size, spec.members), work)
            except TrialFailure:  # another attempt would fail alike
                unfinished.clear()
                raise
            return _to_artifact(to_arrays(member))

        stored = self.store.get(stage, settings, compute)
        unfinished.clear()
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

        def compute(seed: int) -> Artifact:
            stack = MemberStack([m.member.model for m in members])
            masks = {f"models.{i}.{name}": mask for i, m in enumerate(members) for name, mask in m.member.masks.items()}
            train(
                stack,
                self.data.train,
                joint,
                JointLoss(spec.threat.eps, joint, **weights, combine=combine),
                seed=seed,
                augment=self._augment,
                masks=masks,
                device=self.device,
                report=lambda text: self.report(f"joint fine-tune: {text}"),
            )
            stack.cpu()
            tensors: dict[str, Tensor] = {}
            for i, (model, trained) in enumerate(zip(stack.models, members, strict=True), start=1):
                arrays = to_arrays(Member(model, trained.member.masks))
                tensors |= {f"member{i}/{name}": tensor for name, tensor in arrays.items()}
            return _to_artifact(tensors, {"num_members": len(members)})

        return self.store.get("team.1", settings, compute)

    # ------------------------------------------------------------ what it is worth

    def judgement(
        self,
        members: Sequence[nn.Module],
        key: str,
        gate: DeployedGate,
        *,
        name: str,
        split: Literal["validation", "fresh"] = "validation",
        part: tuple[int, int] | None = None,
        sweep: bool = False,
        share: float = 1.0,
        in_looks: bool = False,
        beaten: Beaten = lambda seen: False,
    ) -> Judgement:
        """Evaluate members behind a gate on a split, clean and under attack, or read it.

        Args:
            members: In gate order.
            key: Under which they lie in the store.
            gate: The rule.
            name: What is evaluated, for the progress line.
            split: The validation images, which rank, or the fresh ones, which check.
            part: First image of the split to take, and one past the last; all by default.
            sweep: Replay other gate thresholds on the way.
            share: Of the images, from the first on, and of the attack's steps; the same for all.
            in_looks: Attack in the looks of `core.looks`, and keep what is known after each: an evaluation
                that was cut off, or given up, goes on from there.
            beaten: Asked after each look but the last; where it says so the evaluation is given up.

        Returns:
            The whole evaluation; up to where it was given up else, whether the store has more or not.
        """
        spec = self.spec
        evaluation = spec.evaluation.model_copy(update={"steps": max(1, round(share * spec.evaluation.steps))})
        num_swept = _SWEPT if sweep and len(members) > 1 and gate.has_threshold else 0
        settings = {
            "networks": key,
            "data": self.data.key,
            "split": split,
            "eps": spec.threat.eps,
            "gate": asdict(gate) if len(members) > 1 else None,
            "attack": evaluation.model_dump(exclude=_NO_PART),
        }
        settings |= {"share": share} if share < 1 else {}
        settings |= {"sweep": num_swept, "until": "wrong at every threshold"} if num_swept else {}

        images: Split = getattr(self.data, split)
        if part not in (None, (0, len(images))):
            settings["images"] = list(part)
            images = images.subset(torch.arange(*part))
        num = max(1, round(share * len(images)))
        ends = look_ends(num) if in_looks else (num,)
        unfinished = self._unfinished(_JUDGEMENT, settings)

        def compute(seed: int) -> Artifact:
            self.report(f"attack on {name}")
            examination = Examination(
                GatedEnsemble(members, gate),
                images.subset(torch.arange(num)),
                eps=spec.threat.eps,
                settings=evaluation,
                sweep=num_swept,
                seed=spec.seed,  # not the stage's own: every classifier meets the same random starts
                device=self.device,
            )
            if in_looks and (state := unfinished.load()) is not None:
                examination.restore(state)
            for end in ends:
                if end > examination.num_attacked:
                    examination.attack(end)
                    if end < num:
                        unfinished.save(examination.state())
                        self.report(f"attack on {name}: {end} of {num} images")
                if end < num and beaten(examination.so_far().until(end)):
                    break
            found = examination.so_far()
            arrays = {k: v for k, v in asdict(found).items() if isinstance(v, np.ndarray)}
            return Artifact(arrays, {"attack": found.attack})

        def read(artifact: Artifact) -> Judgement:
            return Judgement(**artifact.tensors, attack=artifact.meta["attack"])

        stored = self.store.get(_JUDGEMENT, settings, compute, keep=lambda artifact: read(artifact).finished)
        found = read(stored.artifact)
        if in_looks and found.finished:
            unfinished.clear()
        return next((seen for end in ends[:-1] if beaten(seen := found.until(end))), found)

    def slowed(
        self,
        members: Sequence[nn.Module],
        key: str,
        gate: DeployedGate,
        *,
        name: str,
        thresholds: Float[np.ndarray, " thresholds"] | None = None,
        share: float = 1.0,
    ) -> Slowed:
        """Slow a team's gate down on the validation images, or read how far that went.

        Args:
            members: In gate order; of a single one nothing can be slowed down.
            key: Under which they lie in the store.
            gate: The rule.
            name: What is attacked, for the progress line.
            thresholds: Other gate thresholds to replay on the way.
            share: Of the images, from the first on, and of the attack's steps.
        """
        spec = self.spec
        num = max(1, round(share * len(self.data.validation)))
        others = np.zeros(0) if thresholds is None else thresholds
        if len(members) == 1:
            return Slowed(np.ones(num, np.int64), np.ones((len(others), num), np.int64), NO_GATE)
        steps = max(1, round(share * spec.evaluation.slow_down_steps))
        settings = {
            "networks": key,
            "data": self.data.key,
            "eps": spec.threat.eps,
            "gate": asdict(gate),
            "steps": steps,
            "thresholds": others.tolist(),
            "num_images": num,
        }

        def compute(seed: int) -> Artifact:
            self.report(f"slow-down attack on {name}")
            found = slowed(
                GatedEnsemble(members, gate),
                self.data.validation.subset(torch.arange(num)),
                eps=spec.threat.eps,
                steps=steps,
                batch_size=spec.evaluation.batch_size,
                seed=spec.seed,  # not the stage's own: every team meets the same random starts
                device=self.device,
                thresholds=others,
            )
            return Artifact({"run": found.run, "swept_run": found.swept_run}, {"attack": found.attack})

        artifact = self.store.get("slowdown.1", settings, compute).artifact
        return Slowed(artifact.tensors["run"], artifact.tensors["swept_run"], artifact.meta["attack"])

    def transfer_failures(self, base: nn.Module, base_key: str, member: TrainedMember) -> Bool[np.ndarray, " samples"]:
        """Which validation images, attacked on the dense BASE, a member gets wrong."""
        spec = self.spec
        settings = {
            "data": self.data.key,
            "eps": spec.threat.eps,
            "base": base_key,
            "attack": spec.evaluation.model_dump(exclude=_NO_PART),
            "seed": spec.seed,
        }

        def attack(seed: int) -> Artifact:
            images = craft(
                base, self.data.validation, eps=spec.threat.eps, settings=spec.evaluation, seed=seed, device=self.device
            )
            return Artifact({"images": images.numpy()})

        crafted = self.store.get("crafted.1", settings, attack)

        def compare(seed: int) -> Artifact:
            images = torch.from_numpy(crafted.artifact.tensors["images"])
            model = member.member.model.to(self.device).eval()
            with torch.no_grad():
                labels = torch.cat([model(part.to(self.device)).argmax(-1).cpu() for part in images.split(256)])
            model.cpu()
            return Artifact({"failed": (labels != self.data.validation.labels).numpy()})

        stored = self.store.get("transfer.1", {"member": member.key, "crafted": crafted.key}, compare)
        return stored.artifact.tensors["failed"]

    def latency(self, model: nn.Module, probe: Probe, reference_signature: str) -> RatioEstimate:
        """Measure a network's latency against the dense base, once for each architecture on each machine."""
        spec = self.spec
        settings = {
            "architecture": signature(model, self.data.image_shape),
            "reference": reference_signature,
            "runtime": _runtime_version(),
            "protocol": spec.latency.model_dump(exclude={"final_rounds", "final_calls", "node"}),
            "machine": getattr(probe, "machine", "") or machine_name(),  # the probe may be on another node
        }

        def compute(seed: int) -> Artifact:
            self.report("latency")
            estimate = probe.measure(to_onnx(model, self.data.image_shape))
            return Artifact(meta={"estimate": asdict(estimate)})

        stored = self.store.get("latency.4", settings, compute, keep=lambda found: not found.meta["estimate"]["noisy"])
        meta = stored.artifact.meta["estimate"]
        return RatioEstimate(
            **(meta | {name: Interval(**value) for name, value in meta.items() if isinstance(value, dict)})
        )

    def cascades(
        self, teams: Sequence[Deployed], base: nn.Module, dense_ms: float, repeats: Sequence[int] | None = None
    ) -> list[Latency]:
        """Time deployed cascades together on the validation images; those in the store are not timed again.

        Args:
            teams: What is deployed; equal single networks are timed once.
            base: The dense base.
            dense_ms: Its latency in this search.
            repeats: How often each was timed before: for that number it is timed once. 0 for all by default.
        """
        spec, shape = self.spec, self.data.image_shape
        shared = {
            "reference": signature(base, shape),
            "dense_ms": dense_ms,
            "runtime": _runtime_version(),
            "protocol": spec.latency.model_dump(exclude={"node"}),
            "machine": machine_name(),
        }
        settings = [
            shared
            | {
                "networks": [signature(m.model, shape) for m in team.members],
                # a single network's time depends on its architecture, a team's on whom the gate asks too
                "team": [team.artifact, asdict(team.gate), self.data.key] if len(team.members) > 1 else None,
            }
            | ({"repeat": repeat} if repeat else {})
            for team, repeat in zip(teams, repeats or [0] * len(teams), strict=True)
        ]
        keys = [self.store.key("cascade.4", one) for one in settings]
        untimed = {key: team for key, team in zip(keys, teams, strict=True) if not self.store.has("cascade.4", key)}
        timed = self._time_cascades(list(untimed.values()), base, dense_ms) if untimed else []
        found = {key: to_json(one) for key, one in zip(untimed, timed, strict=True)}

        def kept(key: str, one: dict[str, Any]) -> Latency:
            # noisy ones too: `dense_ms` is this search's own, so the time is not carried to another
            stored = self.store.get("cascade.4", one, lambda seed: Artifact(meta=found[key]))
            return from_json(Latency, stored.artifact.meta)

        return [kept(key, one) for key, one in zip(keys, settings, strict=True)]

    def _time_cascades(self, teams: Sequence[Deployed], base: nn.Module, dense_ms: float) -> list[Latency]:
        shape = self.data.image_shape
        cascades = [
            Cascade(
                [to_onnx(m.model, shape) for m in team.members],
                to_settings(team.gate),
            )
            for team in teams
        ]
        images = self.data.validation.images.numpy()
        return cascade_latencies(cascades, images, to_onnx(base, shape), self.sentinel(), self.spec.latency, dense_ms)

    def sentinel(self) -> bytes:
        """A half-width network: if it does not time as half, the machine is not to be trusted."""
        try:
            network = self.architecture(0.5)
        except ModelError:  # no channel of it can be removed; any network of unchanging cost will do
            network = self._untrained(0)
        return to_onnx(network, self.data.image_shape)

    # ------------------------------------------------------------ shared by the stages

    def _unfinished(self, stage: str, settings: dict[str, Any]) -> FileCheckpoint:
        """Where a stage that takes long keeps what it has done so far."""
        return FileCheckpoint(self.store.root / "unfinished" / f"{self.store.key(stage, settings)}.safetensors")

    @property
    def _model(self) -> dict[str, Any]:
        """What a key holds of the base's architecture."""
        return self.spec.model.model_dump() | digest_of("model", self.spec.model.name)

    @property
    def _augment(self) -> bool:
        return self.spec.data.augment == "crop_flip"

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

    def _untrained(self, seed: int) -> nn.Module:
        data, model = self.data, self.spec.model
        return build(
            model.name,
            width=model.width,
            num_classes=data.num_classes,
            in_channels=data.image_shape[0],
            mean=data.mean,
            std=data.std,
            seed=seed,
        )

    def _train(
        self,
        model: nn.Module,
        split: Split,
        recipe: Recipe,
        *,
        seed: int,
        recovery: Recovery,
        teacher: nn.Module | None,
        name: str,
    ) -> None:
        loss = recovery_loss(
            recovery, teacher if teacher is not None else model, recipe, self.spec.threat.eps, self.device
        )
        train(
            model,
            split,
            recipe,
            loss,
            seed=seed,
            augment=self._augment,
            device=self.device,
            report=lambda text: self.report(f"{name}: {text}"),
        )


def open_workshop(spec: Spec, store_root: Path | str, report: Report, *, whole_machine: bool = False) -> Workshop:
    """Open a search's store and data, and take as many threads as the trial has cores.

    Args:
        spec: The search-space file.
        store_root: Folder of the stage store.
        report: Told which stage is being computed, and how far it is.
        whole_machine: Take every core: nothing else runs.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # said each time: a worker that prepared the search with every core runs trials afterwards
    torch.set_num_threads(cores if whole_machine else min(cores, max(1, int(spec.resources.cpu))))
    store = Store(
        Path(store_root),
        on_stage=lambda stage: report(stage.partition(".")[0]),
        on_wait=lambda stage: report(f"waits for another worker's {stage.partition('.')[0]}"),
        shared=SharedStages(Storage(spec.storage.url)) if spec.storage.url else None,
    )
    return Workshop(spec, store, report)


@lru_cache(maxsize=2)
def _splits(data: Data, seed: int) -> Splits:
    """Read the data once a process: workers run many trials."""
    return load_splits(data, seed)


@lru_cache(maxsize=1)
def machine_name() -> str:
    """Name the kind of machine that latencies belong to: processor model and host."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = models[0] if models else processor
    return f"{processor} at {platform.node()}"


def _listed(layers: Sequence[str]) -> str:
    more = len(layers) - _MOST_NAMED
    return ", ".join(layers[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _runtime_version() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def _to_artifact(tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> Artifact:
    return Artifact({name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}, meta or {})
