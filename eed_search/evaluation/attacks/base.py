"""The attacks as subclasses of torchattacks' `Attack`, so that they work anywhere torchattacks does."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchattacks.attack import Attack

from eed_search.core.seeds import seed_of
from eed_search.evaluation.attacks.apgd import climb
from eed_search.evaluation.attacks.objectives import Aim, Objective
from eed_search.evaluation.attacks.victim import Victim, device_of, frozen, num_members

Images = Float[Tensor, "batch channels height width"]
_TOGETHER = 128  # rows climbing at once where few samples are left: their targets go side by side
_FIRST_SHARE = 0.25  # share of the steps for the first look at every target; 0.4 broke no more of 800 CIFAR-10 samples
_FINALISTS = 3  # targets of a sample that get all steps


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
        seed: Seed for all that is random.
    """

    def __init__(self, name: str, team: nn.Module, *, eps: float, steps: int, restarts: int, seed: int) -> None:
        device_of(team)  # torchattacks would end in a bare StopIteration
        super().__init__(name, team)
        self.eps = eps
        self.steps = steps
        self.restarts = restarts
        self.seed = seed

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; torchattacks' own keeps every value ever set, models too, in one list for ever."""
        object.__setattr__(self, name, value)

    @property
    def most_passes(self) -> int:
        """Forward passes that a sample takes if nothing breaks it; 0 where that is not known before."""
        return self.steps

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
                # Channels last: backward passes of convolutions were 1.4 to 1.8 times as fast on a CPU.
                given = images[alive].contiguous(memory_format=torch.channels_last)
                found[alive] = self.run(given, labels[alive])
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
    """Auto-PGD on one objective or more in turn, each iterate judged on the gate.

    A targeted objective first tries many wrong classes briefly, then for each sample the three that
    came nearest, then the nearest alone: most of the work goes where a break is close.

    Args:
        name: For people.
        team: See `TeamAttack`.
        objectives: What to climb.
        eps: Budget in pixel units.
        steps: Gradient steps of a full run.
        restarts: Full runs from random starts; a targeted objective spends them on each sample's nearest class.
        targets: Wrong classes tried by targeted objectives.
        seed: Seed for the random starts.
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
                    order = wrong_classes(objective.scores(view), labels)
                    goals = order[:, : self.targets].T if objective.targeted else labels[None]
                    bare = images.new_zeros(len(labels), 0)
                    scales = torch.stack([objective.scale(Aim(view, images, labels, t, bare)) for t in goals])
                reached = torch.full(goals.shape, -torch.inf, device=images.device)
                for turn, (width, steps) in enumerate(self._rounds(len(goals), targeted=objective.targeted)):
                    noise = self._noise(images, f"{number}/{turn}")
                    nearest = reached.argsort(dim=0, descending=True, stable=True)[:width]
                    tried = 0
                    while tried < width and len(alive):
                        ranks = nearest[tried : tried + max(_TOGETHER // len(alive), 1), alive]
                        tried += len(ranks)
                        broken, moved, loss = (
                            part.unflatten(0, ranks.shape)
                            for part in climb(
                                victim,
                                objective,
                                images[alive].repeat(len(ranks), 1, 1, 1),
                                labels[alive].repeat(len(ranks)),
                                goals[ranks, alive].flatten(),
                                scales[ranks, alive].flatten(0, 1),
                                noise,
                                eps=self.eps,
                                steps=steps,
                            )
                        )
                        reached[ranks, alive] = torch.maximum(reached[ranks, alive], loss)
                        first = broken.to(torch.uint8).argmax(0)  # the nearest class that broke it, else the first
                        found[alive] = moved[first, torch.arange(len(alive), device=first.device)]
                        alive = alive[~broken.any(0)]
        return found

    @property
    def most_passes(self) -> int:
        """Forward passes that a sample takes if nothing breaks it; 0 where that is not known before."""
        return sum(
            1 + sum(width * (steps + 1) for width, steps in self._rounds(self.targets, targeted=objective.targeted))
            for objective in self.objectives
        )

    def _rounds(self, targets: int, *, targeted: bool) -> list[tuple[int, int]]:
        """How many classes are tried with how many steps, round after round."""
        last = [(1, self.steps)] * self.restarts
        if not targeted:
            return last
        if targets <= _FINALISTS:
            return [(targets, max(self.steps // 2, 1)), *last]
        return [(targets, max(int(_FIRST_SHARE * self.steps), 1)), (_FINALISTS, self.steps), *last]

    def describe(self) -> dict[str, Any]:
        """What the attack is and may spend, as plain data for a ledger."""
        targeted = any(objective.targeted for objective in self.objectives)
        return super().describe() | {"runs": len(self.objectives)} | ({"targets": self.targets} if targeted else {})

    def _noise(self, images: Images, purpose: str) -> Tensor:
        """The start, one for all samples, so that no sample's path depends on its batch."""
        generator = torch.Generator().manual_seed(seed_of(str(self.seed), f"{self.attack}/{purpose}"))
        return torch.rand(images.shape[1:], generator=generator).mul(2).sub(1).to(images)


def wrong_classes(scores: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Tensor:
    """Classes but the true one, best score first."""
    order = scores.scatter(1, labels[:, None], -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order[:, :-1]


@dataclass(frozen=True)
class NamedAttack:
    """An attack of a tier.

    Attributes:
        id: Its family, `G0` to `G7`; for a network without a gate `APGD`, `FAB`, `Square` or `RayS`.
        name: For people.
        attack: Called with images in [0, 1] and labels; gives adversarial images.
    """

    id: str
    name: str
    attack: Attack

    def describe(self) -> dict[str, Any]:
        """What the attack is and may spend, as plain data for a ledger."""
        plain = {"attack": self.name, "eps": self.attack.eps}
        own = self.attack.describe() if isinstance(self.attack, TeamAttack) else plain
        return {"id": self.id, "name": self.name} | own


@dataclass(frozen=True)
class AttackSetup:
    """What an attack of the registry is made from.

    Attributes:
        team: What is attacked: a `GatedEnsemble`, or any network from images in [0, 1] to logits.
        tier: 1 checks a frontier, 2 is a claim.
        eps: L∞ budget in pixel units.
        steps: Gradient steps of an attack that climbs.
        targets: Classes that a targeted attack may aim at.
        queries: Forward passes for each sample of an attack without gradients.
        seed: For everything random in it.
    """

    team: nn.Module
    tier: int
    eps: float
    steps: int
    targets: int
    queries: int
    seed: int

    @property
    def alone(self) -> bool:
        """Whether there is no gate: one network, or one member."""
        return num_members(self.team) == 1
