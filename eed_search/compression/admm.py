"""ADMM inside adversarial training: train towards a constraint set while the loss still decides.

    W-step: descend the adversarial loss + Σ (ρ/2)·|W_l − Z_l + U_l|²
    Z-step: Z ← Proj(W + U)
    U-step: U ← U + W − Z

`Admm` holds Z, U and ρ; `train_towards` runs the steps. What the set is (sparse or of low rank) is the
projection's business, so R-ADMM and CSTAR share everything here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eed_search.config.spec import AdmmRecipe, Augment
from eed_search.data.splits import AnySplit
from eed_search.training.checkpoints import Checkpoint
from eed_search.training.loop import BatchLoss, Restorable, Training

Weights = Mapping[str, Tensor]
Project = Callable[[Weights], dict[str, Tensor]]


@dataclass(frozen=True)
class Residuals:
    """How far from the constraint set, and how still it stands; both relative to the layer's weights.

    Attributes:
        primal: max over layers of |W − Z| / |W|.
        dual: max over layers of |Z_new − Z| / |W|.
    """

    primal: float
    dual: float


class Admm:
    """The auxiliary weights Z, the scaled dual U and the penalty ρ of some named weights.

    Z and U are constants between updates: they are detached copies, so the penalty's gradient is
    ρ·(W − Z + U) after any number of updates. (Published code lets U keep its graph, which makes
    that gradient 1 + updates times too large.)

    The first Z is the projection of the weights themselves, U is zero.

    Args:
        weights: Those that may be constrained.
        project: Z-step, from all targets W + U together to the nearest allowed weights. A name that
            it leaves out is not constrained this time: no penalty, no dual.
        rho: Weight of the penalty, above 0.

    Attributes:
        z: Auxiliary weights by name, of the constrained weights.
        u: Scaled dual by name, of all weights.
        rho: Weight of the penalty.
        updates: Z- and U-steps done.

    Source:
        R-ADMM, Ye et al. 2019, arXiv 1903.12561, equations 6 to 9; Boyd et al. 2011, section 3.1.1 (scaled form).
    """

    def __init__(self, weights: Weights, project: Project, rho: float) -> None:
        own = {name: tensor.detach() for name, tensor in weights.items()}
        self.z = {name: tensor.detach().clone() for name, tensor in project(own).items()}
        self.u = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
        self.rho, self.updates = rho, 0
        self._project = project

    def penalty(self, weights: Weights) -> Float[Tensor, ""]:
        """Σ (ρ/2)·|W − Z + U|² over the constrained weights."""
        return torch.stack([(weights[n] - self.z[n] + self.u[n]).square().sum() for n in self.z]).sum() * (self.rho / 2)

    @torch.no_grad()
    def update(self, weights: Weights) -> Residuals:
        """Take one Z-step and one U-step."""
        targets = {name: weights[name].detach() + u for name, u in self.u.items()}
        previous, self.z = self.z, {name: t.detach().clone() for name, t in self._project(targets).items()}
        for name in self.u.keys() - self.z.keys():
            self.u[name] = torch.zeros_like(self.u[name])
        primal = dual = 0.0
        for name, z in self.z.items():
            gap = weights[name].detach() - z
            self.u[name] = self.u[name] + gap
            norm = float(weights[name].norm().clamp_min(1e-30))
            primal = max(primal, float(gap.norm()) / norm)
            dual = max(dual, float((z - previous.get(name, weights[name].detach())).norm()) / norm)
        self.updates += 1
        return Residuals(primal, dual)

    def scale_rho(self, rho: float) -> None:
        """Change ρ; U, which is the dual divided by ρ, is rescaled so that the dual itself stays."""
        for name in self.u:
            self.u[name] = self.u[name] * (self.rho / rho)
        self.rho = rho

    def state(self) -> dict[str, Tensor]:
        """Give Z, U, ρ and the number of updates by name."""
        kept = {"rho": torch.tensor(self.rho, dtype=torch.float64), "updates": torch.tensor(self.updates)}
        kept |= {f"z/{name}": tensor.cpu().clone() for name, tensor in self.z.items()}
        return kept | {f"u/{name}": tensor.cpu().clone() for name, tensor in self.u.items()}

    def restore(self, state: Weights) -> None:
        """Take over what `state` gave."""
        self.rho, self.updates = float(state["rho"]), int(state["updates"])
        self.z = {name: state[f"z/{name}"].to(u).clone() for name, u in self.u.items() if f"z/{name}" in state}
        self.u = {name: state[f"u/{name}"].to(u).clone() for name, u in self.u.items()}


@dataclass(frozen=True)
class PenalisedLoss:
    """A batch loss plus the penalty of ADMM; without constrained weights, the batch loss itself.

    Args:
        inner: The adversarial loss; attacks are made anew for each batch against the current weights.
        admm: Z, U and ρ, constant while batches are trained on.
    """

    inner: BatchLoss
    admm: Admm

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of a batch, plus the penalty."""
        loss = self.inner(model, images, labels, generator)
        if not self.admm.z:
            return loss
        return loss + self.admm.penalty(dict(model.named_parameters()))


def train_towards(
    model: nn.Module,
    admm: Admm,
    split: AnySplit,
    recipe: AdmmRecipe,
    batch_loss: BatchLoss,
    *,
    seed: int,
    augment: Augment = "none",
    device: torch.device | None = None,
    report: Callable[[str], None] = lambda text: None,
    checkpoint: Checkpoint | None = None,
    beside: Mapping[str, Restorable] | None = None,
    eps: float = 0.0,
) -> tuple[Residuals, ...]:
    """Train adversarially while ADMM pulls the constrained weights into their set.

    Stops when both residuals are within `recipe.tolerance`, or at the end of the recipe.

    Args:
        model: Trained in place; afterwards in evaluation mode on `device`.
        admm: Z, U and ρ on `device`; changed in place.
        split: Training images and labels.
        recipe: Recipe of the training, with the number of updates and the schedule of ρ.
        batch_loss: The adversarial loss.
        seed: Seed for order, augmentation and attacks.
        augment: How training images are shifted and mirrored.
        device: Where to compute; the CPU by default.
        report: Called with a line of progress after each update and each epoch, and within it about once a second.
        checkpoint: Where everything needed to go on is kept; goes on from what an earlier call left there.
        beside: What else changes meanwhile, by name, such as what the projection remembers.
        eps: Budget in pixel units of an attack of one step, which is guarded against collapse; 0: it is not.

    Returns:
        The residuals of every update of this call; with no constrained weight there is none, and this
        is plain adversarial training to the last bit.

    Raises:
        Diverged: If a loss or a weight becomes NaN or infinite.
    """
    run = Training(
        model,
        split,
        recipe,
        PenalisedLoss(batch_loss, admm),
        seed=seed,
        augment=augment,
        device=device,
        report=lambda text: report(f"ADMM: {text}"),
        checkpoint=checkpoint,
        beside={"admm": admm, **(beside or {})},
        eps=eps,
    )
    run.go_on()
    residuals = tuple(_updates(run, model, admm, recipe, report))
    run.finish()
    return residuals


def _updates(
    run: Training, model: nn.Module, admm: Admm, recipe: AdmmRecipe, report: Callable[[str], None]
) -> Iterator[Residuals]:
    """Train from update to update until the weights are in their set, or to the end."""
    while not run.done and admm.z:
        run.advance(run.num_steps * (admm.updates + 1) // recipe.updates - run.step)
        seen = admm.update(dict(model.named_parameters()))
        gaps = f"|W-Z|/|W| {seen.primal:.4f}, |Z'-Z|/|W| {seen.dual:.4f}"
        report(f"update {admm.updates}: {gaps}, rho {admm.rho:.3g}")
        yield seen
        if max(seen.primal, seen.dual) <= recipe.tolerance:
            return
        if not run.done:
            admm.scale_rho(min(recipe.rho_max, admm.rho * recipe.rho_growth))
    run.advance()
