"""The attacks of each tier, and their union: a sample counts as robust only if none breaks it.

Every break is judged once more on the hard deployed forward, by the suite and not by the attack,
and an image outside the ball breaks nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from eed_search.config import registry
from eed_search.evaluation.attacks.base import AttackSetup, Climber, NamedAttack
from eed_search.evaluation.attacks.fab import BoundaryAttack
from eed_search.evaluation.attacks.objectives import (
    AllPrefixes,
    Expected,
    MemberLosses,
    Objective,
    Prefix,
    Route,
    Transfer,
)
from eed_search.evaluation.attacks.polish import RoutePolish
from eed_search.evaluation.attacks.victim import PassMeter, Victim, device_of, frozen, kept_generator, num_members

Images = Float[Tensor, "samples channels height width"]
_ROUNDING = 1e-6  # what float32 may add to the budget


class _Budget(NamedTuple):
    steps: int
    targets: int
    queries: int


_BUDGETS = {0: _Budget(20, 0, 0), 1: _Budget(50, 3, 1000), 2: _Budget(100, 9, 5000)}
_PROGRAMS = {1: 6, 2: 12}  # linear programs a route


def tier_attacks(
    team: nn.Module, tier: int, *, eps: float, num_classes: int, seed: int, base: nn.Module | None = None
) -> list[NamedAttack]:
    """The attacks of a tier in the order to run them: what breaks most for its cost first.

    Args:
        team: A `GatedEnsemble`, or any network from images in [0, 1] to logits. A team of one member has
            no gate to attack and meets the standard attacks.
        tier: 0 ranks trials, 1 checks a frontier, 2 is a claim.
        eps: L∞ budget in pixel units.
        num_classes: Classes of the task; at least 2.
        seed: Seed for everything random in them.
        base: The dense network that the members came from; adds transfer from it at tier 2.

    Returns:
        One attack or more.

    Raises:
        ValueError: If the tier is none of 0, 1, 2, or there are fewer than two classes.
    """
    if tier not in _BUDGETS:
        raise ValueError(f"tier: {tier} is not one of 0, 1, 2")
    if num_classes < 2:
        raise ValueError(f"num_classes: {num_classes}; a classifier has at least 2")
    steps, most_targets, queries = _BUDGETS[tier]
    make = _Maker(team, eps, steps, min(most_targets, num_classes - 1), seed)
    alone = num_members(team) == 1
    found = list(_standard(make, tier) if alone else _gated(make, num_members(team), tier, base))
    if tier > 0:
        setup = AttackSetup(team, tier, eps, steps, make.targets, queries, seed)
        found += [registry.load("attack", name)(setup) for name in registry.BUILT_IN["attack"]]
    return found


@dataclass(frozen=True)
class _Maker:
    """Makes the attacks on one team that share a budget."""

    team: nn.Module
    eps: float
    steps: int
    targets: int
    seed: int

    def climb(
        self, family: str, name: str, *objectives: Objective, steps: int = 0, source: nn.Module | None = None
    ) -> NamedAttack:
        """Climb objectives in turn; 0 takes the budget's steps."""
        spent = {"steps": steps or self.steps, "targets": self.targets}
        attack = Climber(name, self.team, objectives, eps=self.eps, seed=self.seed, source=source, **spent)
        return NamedAttack(family, name, attack)


def _standard(make: _Maker, tier: int) -> Iterator[NamedAttack]:
    """The attacks with gradients on a network without a gate."""
    yield make.climb("APGD", "APGD-CE", Prefix(0, "ce"))
    if tier > 0:
        yield make.climb("APGD", "APGD-DLR", Prefix(0, "dlr"))
        # Near the edge each finds what the other misses, whatever the starts (docs/log.md).
        yield make.climb("APGD", "APGD-T", Prefix(0, "margin_t"), *([Prefix(0, "dlr_t")] if tier == 2 else []))
    if tier == 2:
        # Its nearest target only, half the steps: more take long and broke nothing after the others (docs/log.md).
        fab = BoundaryAttack(make.team, eps=make.eps, steps=make.steps // 2, targets=1, seed=make.seed)
        yield NamedAttack("FAB", "FAB", fab)


def _gated(make: _Maker, members: int, tier: int, base: nn.Module | None) -> Iterator[NamedAttack]:
    """The gate-aware attacks with gradients."""
    climb = make.climb
    if tier == 0:
        yield climb("G0", "APGD-CE on the executed path", Prefix(0, "ce"))
        yield climb("G2", "mean of all members", Prefix(members, "ce"), steps=10)
        yield climb("G2", "one class for all prefixes", AllPrefixes(), steps=10)
        return
    prefixes = range(1, members + 1)
    yield climb("G2", "mean of all members", Prefix(members, "ce"))
    yield climb("G2", "one class for all prefixes", AllPrefixes())
    yield climb("G0", "APGD-CE on the executed path", Prefix(0, "ce"))
    yield climb("G0", "APGD-DLR on the executed path", Prefix(0, "dlr", "mean_logits"))
    yield climb("G1", "APGD-CE on each shorter prefix", *(Prefix(k, "ce") for k in prefixes[:-1]))
    yield climb("G1", "APGD-DLR on each prefix", *(Prefix(k, "dlr", "mean_logits") for k in prefixes))
    yield climb("G3", "expected output", Expected(sharp=False), Expected(sharp=True))
    name, spent = "routes by linear programs", {"steps": _PROGRAMS[tier], "targets": make.targets}
    programs = RoutePolish(name, make.team, eps=make.eps, seed=make.seed, **spent)
    yield NamedAttack("G4", name, programs)  # before the climbs on the same routes, which cost more
    yield climb("G4", "early-wrong", *(Route(k) for k in prefixes[:-1]))
    yield climb("G1", "APGD-T on each prefix", *(Prefix(k, "margin_t") for k in prefixes))
    if tier == 2:
        yield climb("G0", "APGD-T on the executed path", Prefix(0, "margin_t"))
        yield climb("G5", "force-deep", *(Route(k) for k in prefixes[1:]))
        yield climb("G1", "APGD-T on each prefix's mean logits", *(Prefix(k, "dlr_t", "mean_logits") for k in prefixes))
        yield climb("G7", "transfer from the static ensemble", MemberLosses())
        if base is not None:
            yield climb("G7", "transfer from the dense base", Transfer(base, "ce"), Transfer(base, "dlr"), source=base)


@dataclass(frozen=True)
class UnionResult:
    """What a union of attacks did, sample by sample.

    Attributes:
        clean_right: Samples that the deployed forward gets right without attack; only these are attacked.
        broken_by: Index of the first attack that broke a sample; -1 if none did, or if it was wrong already.
        adversarial: The image that broke each broken sample; the clean image elsewhere.
        forward_passes: Sample passes through the team, for each attack.
        backward_passes: The same backward.
        seconds: Wall time of each attack.
        strays: Images of each attack that left the ball or [0, 1]; they break nothing. Not 0: a fault in
            the attack.
    """

    clean_right: Bool[Tensor, " samples"]
    broken_by: Int[Tensor, " samples"]
    adversarial: Images
    forward_passes: tuple[int, ...]
    backward_passes: tuple[int, ...]
    seconds: tuple[float, ...]
    strays: tuple[int, ...]

    @property
    def robust(self) -> Bool[Tensor, " samples"]:
        """Right on the clean image and on everything tried."""
        return self.clean_right & (self.broken_by < 0)


def break_samples(
    team: nn.Module,
    attacks: Sequence[NamedAttack],
    images: Images,
    labels: Int[Tensor, " samples"],
    *,
    batch_size: int,
) -> UnionResult:
    """Run attacks one after another, each on what the earlier ones left.

    Args:
        team: What is attacked; put into evaluation mode meanwhile.
        attacks: In order; made for `team`. Any attack of torchattacks fits too.
        images: In [0, 1], on any device.
        labels: True classes.
        batch_size: Images attacked at a time; survivors are gathered anew for each attack.

    Returns:
        Flags, images and costs, on the images' device.
    """
    device = device_of(team)
    victim = Victim(team)
    broken_by = torch.full((len(labels),), -1, dtype=torch.long, device=images.device)
    adversarial = images.clone()
    forward, backward, seconds, strays = [], [], [], []
    with frozen(team):
        right = [~victim.wrong(i.to(device), t.to(device)) for i, t in _batches(images, labels, batch_size)]
        clean_right = torch.cat(right).to(images.device) if right else torch.zeros(0, dtype=torch.bool)
        for number, named in enumerate(attacks):
            begin, outside = time.perf_counter(), 0
            alive = (clean_right & (broken_by < 0)).nonzero().flatten()
            with PassMeter(team) as meter:
                for rows in alive.split(batch_size):
                    given, target = images[rows].to(device), labels[rows].to(device)
                    with kept_generator(device):
                        moved = named.attack(given, target).detach()
                    inside = _inside(given, moved, named.attack.eps)
                    outside += int((~inside).sum())
                    hit = (inside & victim.wrong(moved, target)).to(images.device)
                    broken_by[rows[hit]] = number
                    adversarial[rows[hit]] = moved.to(images.device)[hit]
            forward.append(meter.forward)
            backward.append(meter.backward)
            seconds.append(time.perf_counter() - begin)
            strays.append(outside)
    return UnionResult(
        clean_right, broken_by, adversarial, tuple(forward), tuple(backward), tuple(seconds), tuple(strays)
    )


def _batches(images: Images, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(size), labels.split(size), strict=True)) if len(labels) else []


def _inside(given: Images, moved: Images, eps: float) -> Bool[Tensor, " samples"]:
    """Whether moved images lie in the ball and in [0, 1], reckoned in float64."""
    exact = moved.double()
    far = (exact - given.double()).abs().flatten(1).amax(1) > eps + _ROUNDING
    outside = ((exact < 0) | (exact > 1)).flatten(1).any(1)
    return ~(far | outside | exact.isnan().flatten(1).any(1))
