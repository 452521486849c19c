"""One target's robust accuracy at a tier: attacks, sanity checks, cost, and the badge that they earn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

import eed_search
from eed_search.core.seeds import canonical_json
from eed_search.data.splits import Split
from eed_search.evaluation import probes
from eed_search.evaluation.attacks import slow_down, tier_attacks
from eed_search.evaluation.certify import Certificate, certify
from eed_search.evaluation.checker import Checker
from eed_search.evaluation.prefixes import Team
from eed_search.evaluation.steps import Arrays, Steps
from eed_search.evaluation.target import Target, Tier
from eed_search.evaluation.tiers import (
    BLACK_BOX,
    Named,
    Report,
    SlowDownAttack,
    evaluate,
    evaluation_key,
    split_key,
    with_broken,
)
from eed_search.models import count_macs, place
from eed_search.runs.attack_records import SCHEMA_VERSION, AttackResult, Check
from eed_search.runs.cost import Cost, latency_at
from eed_search.runs.records import Accuracy, Badge, Exits, RobustAccuracy, from_json, pack_bits, to_json
from eed_search.storage.store import write_atomic

_SLOW_DOWN_STEPS = {1: 50, 2: 100}
_RESULT = "result.json"


def assess(
    target: Target,
    tier: Tier,
    *,
    seed: int,
    home: Path,
    device: torch.device | None = None,
    report: Report = lambda text: None,
) -> AttackResult:
    """Attack a target and check the result.

    Args:
        target: What is attacked.
        tier: 1 or 2.
        seed: Seed for everything random.
        home: Finished parts are kept below `home/attacks/KEY`; a second call goes on from there.
        device: Where to compute; the CPU by default.
        report: Told what is going on.

    Returns:
        The result; equal for an evaluation that was interrupted and one that was not, but for `seconds`.

    Raises:
        StoreError: If the home cannot be written.
    """
    device = device or torch.device("cpu")
    team = place(target.team, device).eval()
    split = Split(target.split.images.to(device), target.split.labels.to(device))
    base = None if target.base is None else place(target.base, device).eval()

    blind = not probes.lets_gradients_through(team, split.images[:1])

    def make_attacks(team: Team, *, eps: float, seed: int) -> Sequence[Named]:
        attacks = tier_attacks(team, tier, eps=eps, num_classes=target.num_classes, seed=seed, base=base)
        return [one for one in attacks if one.id in BLACK_BOX or not blind]  # check 9 says what that is worth

    planned = make_attacks(team, eps=target.eps, seed=seed)
    described = [canonical_json(one.describe()) if hasattr(one, "describe") else one.name for one in planned]
    key = evaluation_key(team, split, tier=tier, eps=target.eps, seed=seed, attacks=described)
    folder = home / "attacks" / key
    if (finished := _read(folder)) is not None:
        return replace(finished, target=target.name)
    slower = None if blind else partial(_slow_down, eps=target.eps, steps=_SLOW_DOWN_STEPS[tier])
    found = evaluate(
        team, split, make_attacks, folder=folder, eps=target.eps, seed=seed, slow_down=slower, report=report
    )
    steps = Steps(folder)
    proof = _proof(team, target, steps, report)
    checker = Checker(target, team, split, found, proof.right, make_attacks, tier, seed, steps, report)
    result, images = _result(checker, checker.all(), proof, key), split_key(target.split)
    if target.split_name == "test" and (used := _others_on(images, folder)):
        note = "other evaluations in this home saw these test images: the best of several looks better than it is"
        result = replace(result, notes=(*result.notes, f"{used} {note}"))
    write_atomic(folder / _RESULT, json.dumps({"images": images, "result": to_json(result)}, indent=1).encode())
    return result


def _read(folder: Path) -> AttackResult | None:
    """A finished evaluation's result; none where it is not finished, damaged, or of another version."""
    try:
        result = from_json(AttackResult, json.loads((folder / _RESULT).read_bytes())["result"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if result.schema_version == SCHEMA_VERSION else None


def _others_on(images: str, folder: Path) -> int:
    """Finished tier 2 evaluations of the same images beside this one."""
    count = 0
    for path in folder.parent.glob(f"*/{_RESULT}"):
        try:
            kept = json.loads(path.read_bytes())
            count += path.parent != folder and kept["images"] == images and kept["result"]["tier"] == 2
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return count


def _slow_down(team: Team, seed: int, *, eps: float, steps: int) -> SlowDownAttack:
    return lambda images: slow_down(team, images, eps=eps, steps=steps, seed=seed, batch_size=len(images))


def _proof(team: Team, target: Target, steps: Steps, report: Report) -> Certificate:
    def compute() -> Arrays:
        proof = certify(team, target.split, eps=target.eps, report=report)
        tried = {} if proof.right is None else {"right": proof.right}
        return {"method": np.array(proof.method), **tried}

    kept = steps.get("certified", compute)
    return Certificate(kept.get("right"), str(kept["method"]))


# ---------------------------------------------------------------- the result


def _result(checker: Checker, checks: tuple[Check, ...], proof: Certificate, key: str) -> AttackResult:
    target, team, tier = checker.target, checker.team, checker.tier
    found = with_broken(checker.found, checker.broken)
    reasons = tuple(f"check {check.number}, {check.name}: {check.seen}" for check in checks if not check.passed)
    badge: Badge = "invalid" if reasons else "checked" if tier == 1 else "claim"
    union = f"union of {', '.join(use.name for use in found.attacks)}"

    def robust(flags: np.ndarray) -> RobustAccuracy:
        return RobustAccuracy.of(flags, attack=union, eps=target.eps, badge=badge)

    shape = (int(target.split.images.shape[1]), int(target.split.images.shape[2]), int(target.split.images.shape[3]))
    macs = np.cumsum([count_macs(member, shape) for member in team.members])

    def cost(run: Int[np.ndarray, " samples"]) -> Cost:
        shares = tuple(float((run == t).mean()) for t in range(1, len(macs) + 1))
        exits = Exits(shares, round(float(macs[run - 1].mean())))
        if target.timing is None:
            return Cost(exits.members_run, exits.macs)
        latency = latency_at(target.timing.measured, exits)
        return Cost(exits.members_run, exits.macs, latency, target.timing.dense_ms / latency)

    return AttackResult(
        schema_version=SCHEMA_VERSION,
        target=target.name,
        key=key,
        tier=tier,
        badge=badge,
        reasons=reasons,
        notes=target.notes,
        data=target.data,
        split=target.split_name,
        eps=target.eps,
        seed=checker.seed,
        num_members=len(team.members),
        clean=Accuracy.of(found.clean_right),
        robust=robust(found.robust_right),
        any_prefix=robust(found.prefix_right),
        static=robust(found.static_right),
        clean_cost=cost(found.clean_run),
        attacked_cost=cost(found.attacked_run),
        slowed_cost=None if found.slowed_run is None else cost(found.slowed_run),
        worst_cost=cost(np.full_like(found.clean_run, len(team.members))),
        attacks=found.attacks,
        checks=checks,
        robust_hex=pack_bits(found.robust_right),
        forward_passes=sum(use.forward_passes for use in found.attacks),
        gradient_passes=sum(use.gradient_passes for use in found.attacks),
        seconds=sum(use.seconds for use in found.attacks),
        versions={"eed_search": eed_search.__version__, "torch": torch.__version__, "device": _device_name(team)},
        certified=None if proof.right is None else Accuracy.of(proof.right),
        certified_by=proof.method,
        certified_hex="" if proof.right is None else pack_bits(proof.right),
    )


def _device_name(team: Team) -> str:
    device = next(team.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
