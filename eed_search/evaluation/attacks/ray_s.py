"""RayS: a search for the nearest flip along sign directions on the hard deployed forward; sees labels alone."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from eed_search.evaluation.attacks.base import AttackSetup, NamedAttack, TeamAttack
from eed_search.evaluation.attacks.victim import Victim

Images = Float[Tensor, "batch channels height width"]


def ray_s(setup: AttackSetup) -> NamedAttack:
    """Make the attack for the union of a tier, with a share of Square's queries: a tenth, of a network alone a 25th."""
    attack = RayS(setup.team, eps=setup.eps, queries=setup.queries // (25 if setup.alone else 10), seed=setup.seed)
    return NamedAttack("RayS" if setup.alone else "G6", "RayS", attack)


class RayS(TeamAttack):
    """Search for the sign direction along which the label flips soonest; sees labels alone.

    Args:
        team: See `TeamAttack`.
        eps: Budget in pixel units.
        queries: Forward passes for each sample, at least 20.
        seed: Unused but recorded: nothing in it is random.

    Source:
        Chen and Gu 2020, arXiv 2006.12792, algorithms 1 to 3. All samples walk through the same blocks; a
        sample stops once its radius is within `eps`.
    """

    def __init__(self, team: nn.Module, *, eps: float, queries: int = 1000, seed: int = 0) -> None:
        super().__init__("RayS on the deployed labels", team, eps=eps, steps=queries, restarts=1, seed=seed)

    def run(self, images: Images, labels: Int[Tensor, " batch"]) -> Images:
        """Search; a sample once broken is left alone."""
        victim = Victim(self.model)
        size = images[0].numel()
        found = images.clone()
        alive = torch.arange(len(labels), device=labels.device)
        signs = torch.ones(len(labels), size, device=images.device)
        radius = torch.full((len(labels),), torch.inf, device=images.device)
        spent = torch.zeros(len(labels), dtype=torch.long, device=images.device)

        def flips(rows: Tensor, directions: Tensor, radii: Tensor) -> Tensor:
            """Whether images moved along directions are wrong; counts the query."""
            spent[rows] += 1
            moved = torch.clamp(images[rows] + (radii[:, None] * directions).view_as(images[rows]), 0, 1)
            return victim.wrong(moved, labels[rows])

        def shorten(rows: Tensor, directions: Tensor) -> None:
            """Where a direction flips sooner than the best so far, keep it and bisect its radius."""
            reach = radius[rows].clamp(max=1.0)
            hit = flips(rows, directions, reach)
            rows, directions, upper = rows[hit], directions[hit], reach[hit]
            lower = torch.zeros_like(upper)
            for _ in range(10):
                if len(rows) == 0:
                    return
                middle = (lower + upper) / 2
                flipped = flips(rows, directions, middle)
                upper, lower = torch.where(flipped, middle, upper), torch.where(flipped, lower, middle)
            radius[rows] = upper
            signs[rows] = directions

        level, block = 0, 0
        shorten(alive, signs[alive])
        while True:
            alive = alive[(radius[alive] > self.eps) & (spent[alive] < self.steps)]
            if len(alive) == 0:
                break
            length = math.ceil(size / 2**level)
            turned = signs[alive]
            turned[:, block * length : (block + 1) * length] *= -1
            shorten(alive, turned)
            block += 1
            if block * length >= size:
                level, block = (level + 1, 0) if length > 1 else (0, 0)
        inside = radius.clamp(max=self.eps)
        found = torch.clamp(images + (inside[:, None] * signs).view_as(images), 0, 1)
        return found
