"""The attacks inside adversarial training: PGD, FGSM with a random start, N-FGSM.

They follow the gradient at images that are already clipped, then project. Differentiating through
a clip would lose the gradient at saturated pixels and make robustness look far better than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor

from eed_search.config.spec import TrainingAttack

Objective = Callable[[Tensor], Tensor]
ONE_STEP = ("fgsm_rs", "n_fgsm")

_two_steps: ContextVar[bool] = ContextVar("two_steps", default=False)


@contextmanager
def at_least_two_steps(needed: bool) -> Iterator[None]:
    """Let attacks of one step take two of PGD's, where training with one has collapsed.

    Args:
        needed: Whether it has.
    """
    before = _two_steps.set(needed)
    try:
        yield
    finally:
        _two_steps.reset(before)


def perturb(
    objective: Objective,
    images: Float[Tensor, "batch channels height width"],
    *,
    eps: float,
    attack: TrainingAttack,
    generator: torch.Generator,
) -> Float[Tensor, "batch channels height width"]:
    """Move images inside the L∞ ball so that a loss grows.

    Args:
        objective: From images to one loss summed over the batch; the caller puts the network into
            evaluation mode, so that batch-norm statistics are neither used up nor polluted.
        images: In [0, 1].
        eps: Budget in pixel units.
        attack: Method, steps, step size.
        generator: Source of the random start, on the images' device.

    Returns:
        Images in [0, 1], detached. Within `eps` for `pgd` and `fgsm_rs`; within 3 `eps` for
        `n_fgsm`, which by design neither clips its noise (twice eps) nor projects.

    Source:
        pgd: Madry et al. 2018, arXiv 1706.06083. fgsm_rs: Wong et al. 2020, arXiv 2001.03994.
        n_fgsm: de Jorge et al. 2022, arXiv 2202.01181.
    """
    if attack.method == "none" or eps == 0:
        return images
    if attack.method in ONE_STEP and _two_steps.get():
        attack = TrainingAttack(method="pgd", steps=2, step_size=eps / 2)
    noise = torch.rand(images.shape, generator=generator, device=images.device).mul_(2).sub_(1)
    if attack.method == "n_fgsm":
        start = images + 2 * eps * noise
        step = attack.step_size or eps
        return (start + step * _sign(objective, start)).clamp_(0, 1)
    low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
    steps = attack.steps if attack.method == "pgd" else 1
    step = attack.step_size or (eps / 4 if attack.method == "pgd" else 1.25 * eps)
    moved = torch.clamp(images + eps * noise, low, high)
    for _ in range(steps):
        moved = torch.clamp(moved + step * _sign(objective, moved), low, high)
    return moved


def _sign(objective: Objective, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(objective(images), images)
    return gradient.sign_()
