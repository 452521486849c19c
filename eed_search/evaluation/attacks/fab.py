"""FAB: walk along the boundary to its nearest point; torchattacks' own, with its side effects kept away."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchattacks import FAB

from eed_search.evaluation.attacks.base import TeamAttack
from eed_search.evaluation.attacks.victim import kept_generator

Images = Float[Tensor, "batch channels height width"]


class BoundaryAttack(TeamAttack):
    """Targeted FAB on the team's own logits.

    torchattacks' class seeds the global generator and needs the number of classes; both are seen to here.

    Args:
        team: See `TeamAttack`.
        eps: Budget in pixel units.
        steps: Steps for each target.
        targets: Wrong classes tried, nearest first.
        seed: Seed for the random starts (there is none with one restart).

    Source:
        Croce and Hein 2020, arXiv 1907.02044; the implementation is torchattacks'.
    """

    def __init__(self, team: nn.Module, *, eps: float, steps: int = 100, targets: int = 9, seed: int = 0) -> None:
        super().__init__("FAB-T", team, eps=eps, steps=steps, restarts=1, seed=seed)
        self.targets = targets

    @property
    def most_passes(self) -> int:
        """Not known before: torchattacks searches along a line after each step."""
        return 0

    def run(self, images: Images, labels: Int[Tensor, " batch"]) -> Images:
        """Walk; the nearest wrong image is kept if it is within the budget."""
        walk = FAB(
            self.model,
            eps=self.eps,
            steps=self.steps,
            seed=self.seed % 2**32,
            multi_targeted=True,
            n_classes=self.targets + 1,
        )
        with kept_generator(images.device), torch.enable_grad():
            moved: Tensor = walk(images.contiguous(), labels).detach()  # it views them
        return torch.clamp(torch.clamp(moved, images - self.eps, images + self.eps), 0, 1)

    def describe(self) -> dict[str, Any]:
        """What the attack is and may spend, as plain data for a ledger."""
        return super().describe() | {"targets": self.targets}
