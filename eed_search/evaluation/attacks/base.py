"""The attacks as subclasses of torchattacks' `Attack`, so that they work anywhere torchattacks does."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchattacks.attack import Attack

from eed_search.core.seeds import seed_of
from eed_search.evaluation.attacks.apgd import climb
from eed_search.evaluation.attacks.objectives import Aim, Objective
from eed_search.evaluation.attacks.victim import Victim, frozen

Images = Float[Tensor, "batch channels height width"]


class TeamAttack(Attack):  # type: ignore[misc]  # torchattacks carries no types
    """An attack under L∞ that is judged on what would be deployed.

    Called with images in [0, 1] and labels, it gives adversarial images: for a sample that it
    breaks the image that the deployed forward gets wrong, for any other the strongest try. Samples
    already wrong come back as they are. The team is in evaluation mode meanwhile; the global random
    generator and the parameters' gradients are left alone.

    Args:
        name: For people.
        team: A `GatedEnsemble`, or any network from images in [0, 1] to logits.
        eps: Budget in pixel units, such as 8/255.
        steps: Gradient steps of one run; queries for a black-box attack.
        restarts: Random starts.
        seed: Of all that is random.
    """

    def __init__(self, name: str, team: nn.Module, *, eps: float, steps: int, restarts: int, seed: int) -> None:
        super().__init__(name, team)
        self.eps = eps
        self.steps = steps
        self.restarts = restarts
        self.seed = seed

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; torchattacks' own keeps every value ever set, models too, in one list for ever."""
        object.__setattr__(self, name, value)

    @abstractmethod
    def run(self, images: Images, labels: Int[Tensor, " batch"]) -> Images:
        """Attack samples that the team gets right."""

    def forward(self, inputs: Images, labels: Int[Tensor, " batch"]) -> Images:
        """Attack a batch; `Attack.__call__` leads here."""
        images = inputs.detach().to(self.device, torch.float32)
        labels = labels.detach().to(self.device)
        found = images.clone()
        with frozen(self.model):
            alive = (~Victim(self.model).wrong(images, labels)).nonzero().flatten()
            if len(alive) and self.eps > 0:
                found[alive] = self.run(images[alive], labels[alive])
        return found

    def describe(self) -> dict[str, Any]:
        """What the attack is and may spend, as plain data for a ledger."""
        return {
            "attack": self.attack,
            "norm": "Linf",
            "eps": self.eps,
            "steps": self.steps,
            "restarts": self.restarts,
            "seed": self.seed,
        }


class Climber(TeamAttack):
    """Auto-PGD on one objective or more in turn, on several targets in turn, each iterate judged on the gate.

    Args:
        name: For people.
        team: See `TeamAttack`.
        objectives: What to climb.
        eps: Budget in pixel units.
        steps: Gradient steps of each run.
        restarts: Random starts of each objective and target.
        targets: Wrong classes tried by targeted objectives, nearest first.
        seed: Of the random starts.
        source: Another network that an objective asks, kept in evaluation mode.
    """

    def __init__(
        self,
        name: str,
        team: nn.Module,
        objectives: Sequence[Objective],
        *,
        eps: float,
        steps: int,
        restarts: int = 1,
        targets: int = 9,
        seed: int = 0,
        source: nn.Module | None = None,
    ) -> None:
        super().__init__(name, team, eps=eps, steps=steps, restarts=restarts, seed=seed)
        self.objectives = tuple(objectives)
        self.targets = targets
        self.source = source

    def run(self, images: Images, labels: Int[Tensor, " batch"]) -> Images:
        """Climb; a sample once broken is left alone."""
        victim = Victim(self.model)
        found = images.clone()
        alive = torch.arange(len(labels), device=labels.device)
        with frozen(self.source):
            for number, objective in enumerate(self.objectives):
                with torch.no_grad():
                    view = victim.look(images)
                    order = _wrong_classes(objective.scores(view), labels)
                for rank in range(min(self.targets, order.shape[1]) if objective.targeted else 1):
                    targets = order[:, rank] if objective.targeted else labels
                    with torch.no_grad():
                        scale = objective.scale(Aim(view, images, labels, targets, order.new_zeros(len(labels), 0)))
                    for restart in range(self.restarts):
                        noise = self._noise(images, f"{number}/{rank}/{restart}")
                        broken, moved = climb(
                            victim,
                            objective,
                            images[alive],
                            labels[alive],
                            targets[alive],
                            scale[alive],
                            noise,
                            eps=self.eps,
                            steps=self.steps,
                        )
                        found[alive] = moved
                        alive = alive[~broken]
                        if len(alive) == 0:
                            return found
        return found

    def describe(self) -> dict[str, Any]:
        """What the attack is and may spend, as plain data for a ledger."""
        targeted = any(objective.targeted for objective in self.objectives)
        return super().describe() | {"runs": len(self.objectives)} | ({"targets": self.targets} if targeted else {})

    def _noise(self, images: Images, purpose: str) -> Tensor:
        """The start, one for all samples, so that no sample's path depends on its batch."""
        generator = torch.Generator().manual_seed(seed_of(str(self.seed), f"{self.attack}/{purpose}"))
        return torch.rand(images.shape[1:], generator=generator).mul(2).sub(1).to(images)


def _wrong_classes(scores: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Tensor:
    """Classes but the true one, best score first."""
    order = scores.scatter(1, labels[:, None], -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order[:, :-1]
