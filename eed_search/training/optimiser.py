"""SGD with Nesterov momentum by torch's own function; torch's class would load a compiler that nothing here uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd


@dataclass
class _Group:
    parameters: list[nn.Parameter]
    weight_decay: float
    momenta: list[Tensor | None] = field(default_factory=list)


class Sgd:
    """Changes a network's weights along their gradients; weights of convolutions and linear layers decay, others do not.

    Args:
        model: Its parameters that want gradients are changed in place.
        momentum: Nesterov's; 0 takes none.
        weight_decay: L2 penalty.

    Source:
        Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning"; as in `torch.optim.SGD`.
    """

    def __init__(self, model: nn.Module, momentum: float, weight_decay: float) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = ([p for p in trained if p.ndim > 1], weight_decay), ([p for p in trained if p.ndim <= 1], 0.0)
        self._groups = [_Group(some, decay, [None] * len(some)) for some, decay in groups if some]
        self._momentum = momentum

    @property
    def momenta(self) -> list[Tensor | None]:
        """Momentum of each parameter, in a fixed order; none before its first step."""
        return [buffer for group in self._groups for buffer in group.momenta]

    def set_momenta(self, given: Sequence[Tensor | None]) -> None:
        """Take over momenta as `momenta` gives them, as copies where the weights are; none of any forgets them all."""
        left = list(given)
        for group in self._groups:
            some, left = left[: len(group.parameters)], left[len(group.parameters) :]
            group.momenta = [
                None if buffer is None else torch.empty_like(parameter).copy_(buffer).detach()
                for parameter, buffer in zip(group.parameters, some, strict=True)
            ]

    def forget_gradients(self) -> None:
        """Forget the gradients of the step before."""
        for group in self._groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Take one step; a parameter without a gradient stays."""
        for group in self._groups:
            moved = [i for i, parameter in enumerate(group.parameters) if parameter.grad is not None]
            some, momenta = [group.parameters[i] for i in moved], [group.momenta[i] for i in moved]
            sgd(
                list[Tensor](some),
                [parameter.grad for parameter in some if parameter.grad is not None],
                momenta,
                has_sparse_grad=False,
                weight_decay=group.weight_decay,
                momentum=self._momentum,
                lr=lr,
                dampening=0.0,
                nesterov=self._momentum > 0,
                maximize=False,
            )
            for i, buffer in zip(moved, momenta, strict=True):
                group.momenta[i] = buffer
