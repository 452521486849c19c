"""What is attacked, seen from all sides at once: every prefix's logits, the stops, the hard answer.

One pass through the members gives both the surrogates that an attack follows and the decision of
the deployed gate, so judging every iterate costs nothing extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from eed_search.ensemble.gate import Decision, GatedEnsemble, StopRule, at_prefix, prefix_means


class _Alone:
    """The stop rule of a network without a gate."""

    def combine(self, logs: Tensor) -> Tensor:
        return logs

    def surplus(self, combined: Tensor) -> Tensor:
        return torch.ones_like(combined[..., 0])

    def soft_stops(self, combined: Tensor) -> Tensor:
        return torch.ones_like(combined[..., 0])

    def decide_logs(self, logs: Tensor) -> Decision:
        first = torch.ones(logs.shape[1], dtype=torch.long, device=logs.device)
        return Decision(logs[0].argmax(-1), first, first)


class View:
    """What one pass shows; the parts are computed when first asked for.

    Args:
        logs: The members' log-softmax outputs; a plain network's logits as one member.
        rule: The stop rule.
    """

    def __init__(self, logs: Float[Tensor, "members batch classes"], rule: StopRule) -> None:
        self.logs = logs
        self.rule = rule

    @cached_property
    def combined(self) -> Float[Tensor, "members batch classes"]:
        """Logits of the answer that each prefix would give, as deployed."""
        return self.rule.combine(self.logs)

    @cached_property
    def mean_logits(self) -> Float[Tensor, "members batch classes"]:
        """Mean logits of each prefix, up to a constant: the surrogate whose gradient never saturates."""
        return prefix_means(self.logs)

    @cached_property
    def surplus(self) -> Float[Tensor, "members batch"]:
        """How far each prefix is past its stop."""
        return self.rule.surplus(self.combined)

    @cached_property
    def decision(self) -> Decision:
        """What the deployed gate does, hard and without gradient."""
        with torch.no_grad():
            return self.rule.decide_logs(self.logs.detach())

    def executed(self, scores: Float[Tensor, "members batch classes"]) -> Float[Tensor, "batch classes"]:
        """The row of the prefix that answers each sample."""
        if len(scores) == 1:  # nothing to choose
            return scores[0]
        return at_prefix(scores, self.decision.answer)


class Victim:
    """A gated team, or any network from images in [0, 1] to logits, ready to be attacked.

    Args:
        team: The module; in evaluation mode while it is attacked.
    """

    def __init__(self, team: nn.Module) -> None:
        self.team = team
        self.rule: StopRule = team.gate if isinstance(team, GatedEnsemble) else _Alone()

    def look(self, images: Float[Tensor, "batch channels height width"]) -> View:
        """Pass images through every member."""
        if isinstance(self.team, GatedEnsemble):
            return View(self.team.member_log_probabilities(images), self.rule)
        return View(self.team(images).float()[None], self.rule)

    def wrong(
        self, images: Float[Tensor, "batch channels height width"], labels: Int[Tensor, " batch"]
    ) -> Bool[Tensor, " batch"]:
        """Judge images on the hard deployed forward."""
        with torch.no_grad():
            return self.look(images).decision.labels != labels


def device_of(team: nn.Module) -> torch.device:
    """Where a network computes.

    Raises:
        ValueError: If it has no parameters to tell.
    """
    first = next(team.parameters(), None)
    if first is None:
        raise ValueError(f"{type(team).__name__} has no parameters, so neither a device nor weights to attack")
    return first.device


def num_members(team: nn.Module) -> int:
    """Members of a gated team; 1 for any other module."""
    return len(team.members) if isinstance(team, GatedEnsemble) else 1


@contextmanager
def frozen(*modules: nn.Module | None) -> Iterator[None]:
    """Evaluation mode and no gradients for parameters inside; everything as before outside."""
    kept = [m for m in modules if m is not None]
    modes = [(part, part.training) for m in kept for part in m.modules()]
    wanted = [(p, p.requires_grad) for m in kept for p in m.parameters()]
    for module in kept:
        module.eval()
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for parameter, grad in wanted:
            parameter.requires_grad_(grad)


@contextmanager
def kept_generator(device: torch.device) -> Iterator[None]:
    """The global random generators as before outside, whatever seeds them inside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


class PassMeter:
    """Counts sample passes, forward and backward, through a team while it is open.

    A pass of a gated team is one of all its members, since a batch shares no exit.

    Args:
        team: What is counted.
        tell: Told the forward passes so far at each of them.
    """

    def __init__(self, team: nn.Module, tell: Callable[[int], None] = lambda passes: None) -> None:
        self._module = team.members[0] if isinstance(team, GatedEnsemble) else team
        self._tell = tell
        self.forward = 0
        self.backward = 0

    def __enter__(self) -> PassMeter:
        self._hook = self._module.register_forward_hook(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _see(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.forward += len(output)
        self._tell(self.forward)
        if output.requires_grad:
            output.register_hook(self._see_gradient)

    def _see_gradient(self, gradient: Tensor) -> None:
        self.backward += len(gradient)
