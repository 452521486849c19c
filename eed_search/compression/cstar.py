"""Method `cstar`: adversarial training towards low rank, then layers made of the factors.

From the dense base: ADMM towards Tucker-2 ranks that are chosen for all layers jointly under one budget,
until the ranks settle and the weights have come to them; factor; fine-tune adversarially. A member is
physically smaller: three thin convolutions where there was a wide one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eed_search.compression.admm import Admm, train_towards
from eed_search.compression.contract import Target, Work
from eed_search.compression.lowrank import Rank, factor_layers, nearest
from eed_search.compression.member import Member, recovery_loss
from eed_search.compression.prune import retrain
from eed_search.compression.ranks import Ranks, choose_ranks, fewest_parameters
from eed_search.compression.scores import weight_layers
from eed_search.core.errors import ModelError
from eed_search.core.seeds import seed_of
from eed_search.models.factored import can_be_factored

_SETTLED = 3  # equal choices in a row


class RankBudget:
    """The set of all weights whose factored form fits a budget, as ADMM's projection.

    Ranks are chosen anew at each projection until they come out the same three times in a row; then
    they are frozen.

    Args:
        layers: Names of the layers that may be factored.
        budget: Parameters that their weights may have together.
        block: Ranks are multiples of this.

    Attributes:
        ranks: Ranks of the latest choice, by layer; the others stay dense.
    """

    def __init__(self, layers: list[str], budget: int, block: int) -> None:
        self._layers, self._budget, self._block = layers, budget, block
        self.ranks: Ranks = {}
        self._times = 0

    @property
    def settled(self) -> bool:
        """Whether the ranks are frozen."""
        return self._times >= _SETTLED

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Project the targets of all layers together; dense ones are left out."""
        if not self.settled:
            chosen = choose_ranks({name: weights[f"{name}.weight"] for name in self._layers}, self._budget, self._block)
            self._times = self._times + 1 if chosen == self.ranks else 1
            self.ranks = chosen
        return {f"{name}.weight": nearest(weights[f"{name}.weight"], rank) for name, rank in self.ranks.items()}

    def state(self) -> dict[str, Tensor]:
        """Give the ranks and how often they came out in a row."""
        none = Rank(0, 0)
        rows = [[rank.out, rank.into] for rank in (self.ranks.get(name, none) for name in self._layers)]
        return {"ranks": torch.tensor(rows), "times": torch.tensor(self._times)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        rows = zip(self._layers, state["ranks"].tolist(), strict=True)
        self.ranks = {name: Rank(out, into) for name, (out, into) in rows if out}
        self._times = int(state["times"])


VERSION = 2
"""Version of this method's code: raise it when the result for equal settings changes."""


def cstar(base: nn.Module, target: Target, work: Work) -> Member:
    """Make a member by CSTAR; see `Compress` for the arguments.

    `size` is the share of everything that ships (weights, biases, batch norm) that stays. Layers that
    would grow, and convolutions with groups, stay dense.

    Source:
        CSTAR, Phan et al. 2023, arXiv 2212.01957, algorithm 1; the choice of ranks is ours.
    """
    recipe = target.settings.cstar
    model = copy.deepcopy(base)
    layers, budget = rank_budget(model, target.size, recipe.block)
    allowed = RankBudget(layers, budget, recipe.block)
    model.to(work.device)
    admm = Admm({f"{n}.weight": model.get_submodule(n).get_parameter("weight") for n in layers}, allowed, recipe.rho)
    train_towards(
        model,
        admm,
        work.split,
        recipe,
        recovery_loss(work.recovery, base, recipe, work.eps, work.device),
        seed=work.seed,
        augment=work.augment,
        device=work.device,
        report=work.report,
        checkpoint=work.checkpoint,
        beside={"ranks": allowed},
        eps=work.eps,
    )
    model.cpu()
    dense = [name for name in weight_layers(model) if name not in allowed.ranks]
    work.report(f"{len(allowed.ranks)} layers factored; dense: {', '.join(dense) or 'none'}")
    member = Member(factor_layers(model, allowed.ranks))
    return retrain(member, base, target, work, seed=seed_of(str(work.seed), "retrain"))


def unfactored_layers(model: nn.Module) -> list[str]:
    """Name the layers that have no factored form: convolutions in groups."""
    return [name for name, layer in weight_layers(model).items() if not can_be_factored(layer)]


def rank_budget(model: nn.Module, size: float, block: int) -> tuple[list[str], int]:
    """Name the layers that may be factored, and give the parameters that their weights may have together.

    Args:
        model: The dense base.
        size: Share of all its parameters and statistics that may stay.
        block: Ranks are multiples of this.

    Raises:
        ModelError: If no layer can be factored, or the smallest ranks exceed the size.
    """
    layers = {name: layer for name, layer in weight_layers(model).items() if can_be_factored(layer)}
    if not layers:
        raise ModelError(f"{type(model).__name__}: no layer can be factored; take method prune or radmm")
    total = sum(t.numel() for t in model.state_dict().values() if t.is_floating_point())
    rest = total - sum(layer.weight.numel() for layer in layers.values())
    budget = int(size * total) - rest
    if (fewest := sum(fewest_parameters(layer.weight.shape, block) for layer in layers.values())) > budget:
        raise ModelError(
            f"{type(model).__name__}: size {size:g} is below what low rank can reach, {(rest + fewest) / total:.3g}: of"
            f" {total} parameters {rest} are biases, batch norm and grouped convolutions, {fewest} stay at the smallest"
            " ranks; take a larger size or a smaller members.cstar.block"
        )
    return list(layers), budget
