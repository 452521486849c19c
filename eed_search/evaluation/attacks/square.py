"""Square: random squares on the hard deployed forward, kept by its scores; no gradient, so none can be masked.

torchattacks' Square draws each sample's start by its place in the batch; here all samples meet the same draws, so that
a result does not depend on the batch.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from eed_search.core.seeds import seed_of
from eed_search.evaluation.attacks.base import AttackSetup, NamedAttack, TeamAttack
from eed_search.evaluation.attacks.victim import Victim

Images = Float[Tensor, "batch channels height width"]


def square(setup: AttackSetup) -> NamedAttack:
    """Make the attack for the union of a tier."""
    attack = Square(setup.team, eps=setup.eps, queries=setup.queries, seed=setup.seed)
    return NamedAttack("Square" if setup.alone else "G6", "Square", attack)


class Square(TeamAttack):
    """Random squares that are kept where the true class loses lead.

    Args:
        team: See `TeamAttack`.
        eps: Budget in pixel units.
        queries: Forward passes for each sample.
        seed: Seed for stripes and squares.
        first_area: Share of the image that the first squares cover.

    Source:
        Andriushchenko et al. 2020, arXiv 1912.00049, L∞ version, margin loss, schedule rescaled to the queries.
    """

    _SCHEDULE: ClassVar[tuple[int, ...]] = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

    def __init__(
        self, team: nn.Module, *, eps: float, queries: int = 5000, seed: int = 0, first_area: float = 0.8
    ) -> None:
        super().__init__("Square on the deployed forward", team, eps=eps, steps=queries, restarts=1, seed=seed)
        self.first_area = first_area

    def run(self, images: Images, labels: Int[Tensor, " batch"]) -> Images:
        """Search; a sample once broken is left alone."""
        victim = Victim(self.model)
        generator = torch.Generator().manual_seed(seed_of(str(self.seed), "square"))
        _, channels, height, width = images.shape
        found = images.clone()
        where = torch.arange(len(labels), device=labels.device)
        low, high = (images - self.eps).clamp_(min=0), (images + self.eps).clamp_(max=1)
        best = torch.clamp(images + self.eps * _signs((channels, 1, width), generator, images), low, high)
        lead = torch.full((len(labels),), torch.inf, device=images.device)
        window: tuple[Any, ...] = (...,)
        with torch.no_grad():
            for query in range(self.steps):
                if query == 0:
                    kept = best.clone()
                else:
                    side = self._side(query, height, width)
                    top = int(torch.randint(0, height - side + 1, (1,), generator=generator))
                    left = int(torch.randint(0, width - side + 1, (1,), generator=generator))
                    window = (..., slice(top, top + side), slice(left, left + side))
                    kept = best[window].clone()
                    shift = 2 * self.eps * _signs((channels, 1, 1), generator, images)
                    best[window] = torch.clamp(kept + shift, low[window], high[window])
                view = victim.look(best)
                scores = view.executed(view.combined)
                others = scores.scatter(1, labels[:, None], -torch.inf).amax(-1)
                margin = scores.gather(1, labels[:, None])[:, 0] - others
                wrong = view.decision.labels != labels
                better = wrong | (margin < lead)
                best[window] = torch.where(better[:, None, None, None], best[window], kept)
                lead = torch.where(better, margin, lead)
                if bool(wrong.any()):
                    found[where[wrong]] = best[wrong]
                    left_over = ~wrong
                    where, labels, best, lead = (part[left_over] for part in (where, labels, best, lead))
                    low, high = low[left_over], high[left_over]
                    if len(where) == 0:
                        return found
        found[where] = best
        return found

    def _side(self, query: int, height: int, width: int) -> int:
        """Side of the square at a query: its area is halved at each mark of the schedule."""
        at = int(query / self.steps * 10000)
        area = self.first_area / 2 ** sum(at > mark for mark in self._SCHEDULE)
        return min(max(round(math.sqrt(area * height * width)), 1), height, width)


def _signs(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Random signs on the device and in the type of another tensor."""
    return torch.randint(0, 2, shape, generator=generator).mul(2).sub(1).to(like)
