"""Stages that attack: what networks are worth through their gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from eed_search.core.pace import in_shares
from eed_search.data.splits import Split
from eed_search.ensemble.gate import DeployedGate, GatedEnsemble
from eed_search.evaluation.robust import RobustEvaluation, RobustEvaluator, craft
from eed_search.evaluation.sequential_test import interim_sizes
from eed_search.evaluation.slowdown import NO_GATE, Slowed, slowed
from eed_search.pipeline.context import StageContext
from eed_search.pipeline.stage import Stage
from eed_search.pipeline.training import TrainedMember
from eed_search.storage.store import Artifact, Stored
from eed_search.training.checkpoints import Checkpoint, checkpoint_of

Beaten = Callable[[RobustEvaluation], object]
"""Told what is known after a look at a part of the images; true where nothing more needs to be."""
_SWEPT = 15  # gate thresholds that a sweep replays
_NO_PART = {"batch_size", "slow_down_steps"}  # settings that the attack on accuracy does not look at


def robust_evaluation(
    context: StageContext,
    members: Sequence[nn.Module],
    key: str,
    gate: DeployedGate,
    *,
    name: str,
    split: Literal["validation", "fresh"] = "validation",
    part: tuple[int, int] | None = None,
    sweep: bool = False,
    share: float = 1.0,
    sequential: bool = False,
    beaten: Beaten = lambda seen: False,
) -> RobustEvaluation:
    """Evaluate members behind a gate on a split, clean and under attack, or read it.

    Args:
        context: The search's file, data, device and store.
        members: In gate order.
        key: Under which they lie in the store.
        gate: The rule.
        name: What is evaluated, for the progress line.
        split: The validation images, which rank, or the fresh ones, which check.
        part: First image of the split to take, and one past the last; all by default.
        sweep: Replay other gate thresholds on the way.
        share: Share of the images, from the first on, and of the attack's steps; the same for all.
        sequential: Attack test by test (`evaluation.sequential_test`); cut off or given up, it goes on from its last one.
        beaten: Asked after each interim test but the last; where it says so the evaluation is given up.

    Returns:
        The whole evaluation; up to where it was given up else, whether the store has more or not.
    """
    steps = max(1, round(share * context.spec.evaluation.steps))
    num_swept = _SWEPT if sweep and len(members) > 1 and gate.has_threshold else 0
    images: Split = getattr(context.data, split)
    first, end = part or (0, len(images))
    num = max(1, round(share * (end - first)))
    settings: dict[str, Any] = {
        "networks": key,
        "data": context.data.key,
        "split": split,
        "eps": context.spec.threat.eps,
        "gate": asdict(gate) if len(members) > 1 else None,
        "attack": context.spec.evaluation.model_dump(exclude=_NO_PART) | {"steps": steps},
    }
    settings |= {"share": share} if share < 1 else {}
    settings |= {"sweep": num_swept, "until": "wrong at every threshold"} if num_swept else {}
    settings |= {"images": [first, end]} if (first, end) != (0, len(images)) else {}
    ends = interim_sizes(num) if sequential else (num,)

    def compute(seed: int) -> Artifact:
        some = images.subset(torch.arange(first, first + num))
        return _judged(context, name, GatedEnsemble(members, gate), some, steps, num_swept, ends, unfinished, beaten)

    stage = Stage("judgement", settings, lambda it: _read(it.artifact), compute, keeps=lambda it: _read(it).finished)
    unfinished = checkpoint_of(context.store, stage.key(context.store)) if sequential else None
    found = stage.made_in(context.store)
    if unfinished is not None and found.finished:
        unfinished.clear()
    return next((seen for end in ends[:-1] if beaten(seen := found.until(end))), found)


def _judged(
    context: StageContext,
    name: str,
    team: GatedEnsemble[DeployedGate],
    images: Split,
    steps: int,
    sweep: int,
    ends: Sequence[int],
    unfinished: Checkpoint | None,
    beaten: Beaten,
) -> Artifact:
    """Attack part after part of the images, from where an earlier attempt was cut off, until nothing more needs to be known."""
    title = f"attack on {name}"
    context.report(title)
    examination = RobustEvaluator(
        team,
        images,
        eps=context.spec.threat.eps,
        settings=context.spec.evaluation.model_copy(update={"steps": steps}),
        sweep=sweep,
        seed=context.spec.seed,  # not the stage's own: every classifier meets the same random starts
        device=context.device,
        tell=in_shares(context.report, title),
    )
    if unfinished is not None and (state := unfinished.load()) is not None:
        examination.restore(state)
    num = ends[-1]
    for end in ends:
        if end > examination.num_attacked:
            examination.attack(end)
            if end < num and unfinished is not None:
                unfinished.save(examination.state())
                context.report(f"{title}: {100 * end / num:.0f} %")
        if end < num and beaten(examination.so_far().until(end)):
            break
    found = examination.so_far()
    return Artifact({k: v for k, v in asdict(found).items() if isinstance(v, np.ndarray)}, {"attack": found.attack})


def _read(artifact: Artifact) -> RobustEvaluation:
    return RobustEvaluation(**artifact.tensors, attack=artifact.meta["attack"])


def slow_down(
    context: StageContext,
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
        context: The search's file, data, device and store.
        members: In gate order; of a single one nothing can be slowed down.
        key: Under which they lie in the store.
        gate: The rule.
        name: What is attacked, for the progress line.
        thresholds: Other gate thresholds to replay on the way.
        share: Share of the images, from the first on, and of the attack's steps.
    """
    spec = context.spec
    num = max(1, round(share * len(context.data.validation)))
    others = np.zeros(0) if thresholds is None else thresholds
    if len(members) == 1:
        return Slowed(np.ones(num, np.int64), np.ones((len(others), num), np.int64), NO_GATE)
    steps = max(1, round(share * spec.evaluation.slow_down_steps))
    settings = {
        "networks": key,
        "data": context.data.key,
        "eps": spec.threat.eps,
        "gate": asdict(gate),
        "steps": steps,
        "thresholds": others.tolist(),
        "num_images": num,
    }

    def compute(seed: int) -> Artifact:
        context.report(f"slow-down attack on {name}")
        found = slowed(
            GatedEnsemble(members, gate),
            context.data.validation.subset(torch.arange(num)),
            eps=spec.threat.eps,
            steps=steps,
            batch_size=spec.evaluation.batch_size,
            seed=spec.seed,  # not the stage's own: every team meets the same random starts
            device=context.device,
            thresholds=others,
            tell=in_shares(context.report, f"slow-down attack on {name}"),
        )
        return Artifact({"run": found.run, "swept_run": found.swept_run}, {"attack": found.attack})

    def decode(stored: Stored) -> Slowed:
        arrays = stored.artifact.tensors
        return Slowed(arrays["run"], arrays["swept_run"], stored.artifact.meta["attack"])

    return Stage("slowdown", settings, decode, compute).made_in(context.store)


def transfer_failures(
    context: StageContext, base: nn.Module, base_key: str, member: TrainedMember
) -> Bool[np.ndarray, " samples"]:
    """Which validation images, attacked on the dense BASE, a member gets wrong."""
    spec = context.spec
    settings = {
        "data": context.data.key,
        "eps": spec.threat.eps,
        "base": base_key,
        "attack": spec.evaluation.model_dump(exclude=_NO_PART),
        "seed": spec.seed,
    }

    def attack(seed: int) -> Artifact:
        images = craft(
            base,
            context.data.validation,
            eps=spec.threat.eps,
            settings=spec.evaluation,
            seed=seed,
            device=context.device,
            tell=in_shares(context.report, "attack on the dense base, to be replayed"),
        )
        return Artifact({"images": images.numpy()})

    crafted = Stage("crafted", settings, lambda stored: stored, attack).made_in(context.store)

    def compare(seed: int) -> Artifact:
        images = torch.from_numpy(crafted.artifact.tensors["images"])
        model = member.member.model.to(context.device).eval()
        with torch.no_grad():
            labels = torch.cat([model(part.to(context.device)).argmax(-1).cpu() for part in images.split(256)])
        model.cpu()
        return Artifact({"failed": (labels != context.data.validation.labels).numpy()})

    def decode(stored: Stored) -> Bool[np.ndarray, " samples"]:
        return stored.artifact.tensors["failed"]

    return Stage("transfer", {"member": member.key, "crafted": crafted.key}, decode, compare).made_in(context.store)
