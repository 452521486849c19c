"""The climb: Auto-PGD on any objective, every iterate judged on the hard deployed forward.

torchattacks' APGD judges the logits that it climbs, and so cannot follow one function and judge
another; nor does it drop a sample once broken. This one does both. A sample's path depends on
nothing but the sample and the seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eed_search.evaluation.attacks.objectives import Aim, Objective
from eed_search.evaluation.attacks.victim import Victim

Images = Float[Tensor, "batch channels height width"]


@dataclass
class _State:
    """Where each sample still climbing stands; all first dimensions are samples."""

    labels: Tensor
    targets: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    now: Tensor
    step: Tensor

    def __post_init__(self) -> None:
        """Nothing was looked at yet, so the start is the best point."""
        self.where = torch.arange(len(self.step), device=self.step.device)
        self.before = self.best = self.now
        self.gradient = self.best_gradient = torch.zeros_like(self.now)
        self.best_loss = self.last_loss = self.checked_loss = torch.full_like(self.step, -torch.inf)
        self.rises = torch.zeros_like(self.step)
        self.halved = torch.ones_like(self.step, dtype=torch.bool)

    def keep(self, flags: Tensor) -> None:
        """Forget the samples that are done."""
        for name, values in list(vars(self).items()):
            setattr(self, name, values[flags])


def climb(
    victim: Victim,
    objective: Objective,
    images: Images,
    labels: Int[Tensor, " batch"],
    targets: Int[Tensor, " batch"],
    scale: Float[Tensor, "batch parts"],
    noise: Float[Tensor, "channels height width"],
    *,
    eps: float,
    steps: int,
) -> tuple[Bool[Tensor, " batch"], Images, Float[Tensor, " batch"]]:
    """Move images inside the L∞ ball until the deployed answer is wrong.

    Args:
        victim: What is attacked, in evaluation mode.
        objective: What to climb.
        images: In [0, 1].
        labels: True classes.
        targets: Classes to reach, for an objective that wants them.
        scale: What the objective noted of the clean images.
        noise: Start in units of `eps`, in [-1, 1], the same for every sample.
        eps: Budget in pixel units.
        steps: Gradient steps; `steps + 1` iterates are judged.

    Returns:
        Which samples broke; for each the iterate that broke it, or else the one of the largest loss; that loss.

    Source:
        Auto-PGD: Croce and Hein 2020, arXiv 2003.01690, algorithm 1 (momentum 0.75, first step twice
        eps, halved and restarted from the best point by conditions 1 and 2 at its checkpoints).
    """
    low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
    step = torch.full((len(labels),), 2 * eps, device=images.device)
    state = _State(labels, targets, scale, low, high, project(images + eps * noise, low, high), step)
    broken, found = torch.zeros_like(step, dtype=torch.bool), images.clone()
    interval, least, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    check = interval
    for iterate in range(steps + 1):
        wrong, loss, state.gradient = look(victim, objective, state)
        hit = state.where[wrong]
        broken[hit] = True
        found[hit] = state.now[wrong]
        if bool(wrong.any()):
            loss = loss[~wrong]
            state.keep(~wrong)
        if len(loss) == 0:
            break
        _remember(state, loss, first=iterate == 0)
        if iterate == check:
            _check_step(state, interval)
            interval = max(interval - shrink, least)
            check += interval
        if iterate < steps:
            _move(state, first=iterate == 0)
    found[state.where] = state.best
    reached = torch.full_like(broken, torch.inf, dtype=images.dtype)
    reached[state.where] = state.best_loss
    return broken, found, reached


def project(images: Images, low: Images, high: Images) -> Images:
    """Bring images back into the ball and into [0, 1]."""
    return torch.clamp(images, low, high)


def look(victim: Victim, objective: Objective, state: _State) -> tuple[Tensor, Tensor, Tensor]:
    """Judge the iterates on the gate and take loss and gradient there.

    The gradient is taken at the already clipped image: through a clip it would vanish on saturated pixels.
    """
    images = state.now.detach().requires_grad_(True)
    with torch.enable_grad():
        view = victim.look(images)
        loss = objective.loss(Aim(view, images, state.labels, state.targets, state.scale))
        (gradient,) = torch.autograd.grad(loss.sum(), images)
    return view.decision.labels != state.labels, loss.detach(), gradient


def _remember(state: _State, loss: Tensor, *, first: bool) -> None:
    """Count rises and keep the best point."""
    if not first:
        state.rises = state.rises + (loss > state.last_loss)
    state.last_loss = loss
    better = loss > state.best_loss
    state.best_loss = torch.where(better, loss, state.best_loss)
    wide = better[:, None, None, None]
    state.best = torch.where(wide, state.now, state.best)
    state.best_gradient = torch.where(wide, state.gradient, state.best_gradient)


def _check_step(state: _State, interval: int) -> None:
    """Halve the step, and go back to the best point, where the climb swings or stands still."""
    swings = state.rises <= 0.75 * interval
    stands = ~state.halved & (state.checked_loss >= state.best_loss)
    state.halved = swings | stands
    state.checked_loss = state.best_loss
    state.rises = torch.zeros_like(state.rises)
    state.step = torch.where(state.halved, state.step / 2, state.step)
    wide = state.halved[:, None, None, None]
    state.now = torch.where(wide, state.best, state.now)
    state.gradient = torch.where(wide, state.best_gradient, state.gradient)


def _move(state: _State, *, first: bool) -> None:
    """One step along the gradient's sign with momentum."""
    step = state.step[:, None, None, None]
    target = project(state.now + step * state.gradient.sign(), state.low, state.high)
    if not first:
        mixed = state.now + 0.75 * (target - state.now) + 0.25 * (state.now - state.before)
        target = project(mixed, state.low, state.high)
    state.before, state.now = state.now, target
