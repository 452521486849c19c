"""The joint loss L_EED = L_E + omega * L_R + gamma * L_C, term by term."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from eed_search.config.spec import Joint
from eed_search.ensemble.gate import log_prefix_mean, prefix_means
from eed_search.training.attacks import perturb

MemberLogits = Float[Tensor, "members batch classes"]
Labels = Int[Tensor, " batch"]
Combiner = Literal["probabilities", "logits"]
"""Member outputs whose mean is the ensemble's answer: as the gate combines (`MarginGate`: logits)."""


def log_mean(logits: MemberLogits, combine: Combiner = "probabilities") -> Float[Tensor, "batch classes"]:
    """Log probabilities of what all members answer together."""
    if combine == "logits":
        return prefix_means(logits.log_softmax(-1))[-1].log_softmax(-1)
    everyone = torch.full((logits.shape[1],), len(logits), device=logits.device)
    return log_prefix_mean(logits.log_softmax(-1), everyone)


def entropy(logits: MemberLogits, combine: Combiner = "probabilities") -> Float[Tensor, " batch"]:
    """Shannon entropy of the ensemble's prediction, in nats: the H of L_E.

    Source:
        ADP, Pang et al. 2019, arXiv 1901.08846, section 3.2.
    """
    logs = log_mean(logits, combine)
    return -(logs.exp() * logs).sum(-1)


def log_determinant_diversity(logits: MemberLogits, labels: Labels) -> Float[Tensor, " batch"]:
    """ADP's diversity: log det of the Gram matrix of the normalised NON-true-class predictions.

    1e-6 is added to the diagonal: without it the value is minus infinity for near-identical members
    and for more members than wrong classes. One member gives log(1 + 1e-6), a constant.

    Source:
        ADP, Pang et al. 2019, arXiv 1901.08846, equation 4.
    """
    probabilities = logits.softmax(-1)
    wrong = torch.ones_like(probabilities).scatter(-1, labels.expand(len(logits), -1)[..., None], 0)
    rest = functional.normalize(probabilities * wrong, dim=-1, eps=1e-12).transpose(0, 1)
    with torch.autocast(logits.device.type, enabled=False):  # bfloat16 would swallow the 1e-6
        gram = rest @ rest.transpose(1, 2)
        return torch.logdet(gram + 1e-6 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype))


def ensemble_loss(
    logits: MemberLogits, labels: Labels, *, alpha: float, beta: float, combine: Combiner = "probabilities"
) -> Float[Tensor, ""]:
    """L_E: cross-entropy of every member, minus the rewards for entropy and diversity; mean over the batch.

    Args:
        logits: On adversarial images.
        labels: True classes.
        alpha: Weight of the entropy reward.
        beta: Weight of the diversity reward.
        combine: Member outputs whose mean is the ensemble's answer.

    Source:
        EED, arXiv 2504.04747 (which writes both rewards with a plus; they are rewards), after ADP.
    """
    fit = functional.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="sum") / len(labels)
    loss = fit - alpha * entropy(logits, combine).mean()
    if beta and len(logits) > 1:
        loss = loss - beta * log_determinant_diversity(logits, labels).mean()
    return loss


def regularised_loss(
    logits: MemberLogits, labels: Labels, *, psi: float, combine: Combiner = "probabilities"
) -> Float[Tensor, ""]:
    """L_R: -psi * log(1 - p), p the highest probability any member gives any wrong class; mean over the batch.

    Only samples that the ENSEMBLE gets wrong count; the others add 0. log(1 - p_c) is taken as
    logsumexp over all classes but c minus logsumexp over all: clipping p would kill the gradient on
    exactly the worst samples.

    Source:
        EED, arXiv 2504.04747, after iGAT (Deng and Mu 2023, arXiv 2310.18477), which excludes the true class.
    """
    wrong = log_mean(logits, combine).argmax(-1) != labels
    true_class = functional.one_hot(labels, logits.shape[-1]).bool()
    others = logits.log_softmax(-1).masked_fill(true_class, -torch.inf)
    member, rival = _highest(others)
    chosen = logits.gather(0, member[None, :, None].expand(1, -1, logits.shape[-1]))[0]
    rest = chosen.masked_fill(functional.one_hot(rival, logits.shape[-1]).bool(), -torch.inf)
    log_remainder = torch.logsumexp(rest, -1) - torch.logsumexp(chosen, -1)
    return -psi * torch.where(wrong, log_remainder, 0.0).mean()


def _highest(values: MemberLogits) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    best, rival = values.max(-1)
    member = best.argmax(0)
    return member, rival.gather(0, member[None])[0]


def weight_norm(models: Sequence[nn.Module]) -> Float[Tensor, ""]:
    """L_W: sum of |w| over the weights of convolutions and linear layers (masked ones are zero)."""
    return torch.stack([p.abs().sum() for model in models for p in model.parameters() if p.ndim > 1]).sum()


def activation_level(activations: Sequence[Tensor], *, delta: float) -> Float[Tensor, ""]:
    """L_A: mean over hidden post-ReLU activations of a / (a + delta), a smooth count of active units.

    0 for networks whose activation functions are no ReLU modules.

    Source:
        Ours. The paper's count of non-zero entries has no gradient, and softmax outputs are never zero.
    """
    if not activations:
        return torch.zeros(())
    return torch.stack([(a / (a + delta)).mean() for a in activations]).mean()


class ActivationRecorder:
    """Collects the outputs of every ReLU of some models while it is entered."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.activations: list[Tensor] = []
        self._relus = [m for model in models for m in model.modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> ActivationRecorder:
        self._handles = [relu.register_forward_hook(self._keep) for relu in self._relus]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.activations.append(output)


class Members(nn.Module):
    """Several members as one module, so that one optimiser trains them; gives their stacked logits."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> MemberLogits:
        """Logits of every member."""
        return torch.stack([model(images).float() for model in self.models])


@dataclass(frozen=True)
class JointLoss:
    """L_EED of one batch, on images that fool the ensemble's mean; a batch loss for `train`.

    Args:
        eps: Budget in pixel units.
        joint: Inner attack, alpha, psi, lambda_w, lambda_a, delta.
        beta: Weight of the diversity reward.
        omega: Weight of L_R.
        gamma: Weight of L_C.
        combine: Member outputs whose mean is the ensemble's answer: the inner attack, the entropy and L_R use it.

    Source:
        EED, arXiv 2504.04747.
    """

    eps: float
    joint: Joint
    beta: float
    omega: float
    gamma: float
    combine: Combiner = "probabilities"

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of a batch. `model` is a `Members`."""
        model.eval()
        moved = perturb(
            self._against_mean(model, labels), images, eps=self.eps, attack=self.joint.attack, generator=generator
        )
        model.train()
        members = list(model.models.children()) if isinstance(model.models, nn.ModuleList) else [model]
        with ActivationRecorder(members if self.gamma else []) as recorder:
            logits = model(moved)
        loss = ensemble_loss(logits, labels, alpha=self.joint.alpha, beta=self.beta, combine=self.combine)
        if self.omega:
            loss = loss + self.omega * regularised_loss(logits, labels, psi=self.joint.psi, combine=self.combine)
        if self.gamma:
            level = activation_level(recorder.activations, delta=self.joint.delta)
            loss = loss + self.gamma * (self.joint.lambda_w * weight_norm(members) + self.joint.lambda_a * level)
        return loss

    def _against_mean(self, model: nn.Module, labels: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda images: functional.nll_loss(log_mean(model(images), self.combine), labels, reduction="sum")
