"""Ranks for all layers at once, under one budget of parameters.

Greedy, from the dense network: take again and again the move that loses the least energy for each
parameter it saves, until the budget holds. One pass gives the ranks of every budget, and they are nested: a smaller
budget's ranks are nowhere above a larger one's.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eed_search.compression.lowrank import Rank, basis
from eed_search.core.errors import ModelError

Ranks = dict[str, Rank]


@dataclass(frozen=True)
class Candidate:
    """What the choice knows of one layer.

    Attributes:
        kept_energy: |P(T)|² by (r1 - 1, r2 - 1), from the truncated HOSVD; for a matrix, (r - 1, 0).
        grid_out: Allowed r1, ascending.
        grid_in: Allowed r2, ascending; for a matrix, empty.
        shape: Shape of the weight.
    """

    kept_energy: Float[Tensor, "r1 r2"]
    grid_out: tuple[int, ...]
    grid_in: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def dense(self) -> int:
        """Parameters of the dense weight."""
        return int(torch.Size(self.shape).numel())

    def parameters(self, rank: Rank) -> int:
        """Parameters of the factors: I·r2 + r1·r2·K² + O·r1, or (I + O)·r for a matrix."""
        outputs, inputs = self.shape[:2]
        if not self.grid_in:
            return (outputs + inputs) * rank.out
        kernel = int(torch.Size(self.shape[2:]).numel())
        return inputs * rank.into + rank.out * rank.into * kernel + outputs * rank.out

    def lost(self, rank: Rank | None) -> float:
        """|T - P(T)|² at some ranks; nothing while dense."""
        if rank is None:
            return 0.0
        column = rank.into - 1 if self.grid_in else 0
        return max(0.0, float(self.kept_energy[-1, -1] - self.kept_energy[rank.out - 1, column]))

    def all_ranks(self) -> Iterator[Rank]:
        """Every allowed pair of ranks."""
        for out in self.grid_out:
            for into in self.grid_in or (out,):
                yield Rank(out, into)

    def smaller(self, rank: Rank) -> Iterator[Rank]:
        """The ranks one step below, in either mode."""
        if (i := self.grid_out.index(rank.out)) > 0:
            out = self.grid_out[i - 1]
            yield Rank(out, rank.into if self.grid_in else out)
        if self.grid_in and (i := self.grid_in.index(rank.into)) > 0:
            yield Rank(rank.out, self.grid_in[i - 1])


def candidate(weight: Float[Tensor, "outputs inputs ..."], block: int) -> Candidate:
    """Decompose one weight once, so that any ranks can be judged.

    Args:
        weight: Weight of a linear layer or a convolution without groups.
        block: Ranks are multiples of this, or the full rank where that is smaller.
    """
    kernel = weight.detach().double().flatten(2) if weight.ndim > 2 else weight.detach().double()[..., None]
    outputs, inputs, taps = kernel.shape
    full_out, full_in = min(outputs, inputs * taps), min(inputs, outputs * taps)
    if taps == 1:
        energy = torch.linalg.svdvals(kernel[..., 0]).square().cumsum(0)[:, None].cpu()
        return Candidate(energy, _grid(min(outputs, inputs), block), (), tuple(weight.shape))
    left = basis(kernel.flatten(1), full_out)
    right = basis(kernel.movedim(1, 0).flatten(1), full_in)
    core = torch.einsum("oik,oa,ib->abk", kernel, left, right)
    energy = core.square().sum(-1).cumsum(0).cumsum(1).cpu()
    return Candidate(energy, _grid(full_out, block), _grid(full_in, block), tuple(weight.shape))


def _grid(full: int, block: int) -> tuple[int, ...]:
    return tuple(range(block, full + 1, block)) or (full,)


@dataclass(frozen=True)
class Step:
    """One state on the way from dense to the smallest ranks.

    Attributes:
        layer: Whose ranks went down.
        rank: To what.
        parameters: Parameters of all layers together, afterwards.
    """

    layer: str
    rank: Rank
    parameters: int


def descent(candidates: Mapping[str, Candidate]) -> list[Step]:
    """Every move from the dense network to the smallest ranks, in greedy order.

    A factored layer is larger than the dense one until well below full rank, so a dense layer's first
    move jumps past its break-even point: to the ranks that lose the least for each parameter saved. Afterwards one
    mode goes down by one block at a time. A layer whose factors never pay stays dense. Equal moves are
    taken in the order of the layers' names.

    Source:
        Ours; CSTAR (arXiv 2212.01957) states the joint budget, its rule was not at hand.
    """
    total = sum(one.dense for one in candidates.values())
    ranks: dict[str, Rank | None] = dict.fromkeys(candidates)
    heap: list[tuple[float, str, Rank]] = []

    def offer(name: str) -> None:
        if move := _best_move(candidates[name], ranks[name]):
            heapq.heappush(heap, (move[0], name, move[1]))

    for name in sorted(candidates):
        offer(name)
    steps = []
    while heap:
        _, name, rank = heapq.heappop(heap)
        one, before = candidates[name], ranks[name]
        total += one.parameters(rank) - (one.dense if before is None else one.parameters(before))
        ranks[name] = rank
        steps.append(Step(name, rank, total))
        offer(name)
    return steps


def _best_move(one: Candidate, now: Rank | None) -> tuple[float, Rank] | None:
    lost, size = one.lost(now), one.dense if now is None else one.parameters(now)
    moves = one.all_ranks() if now is None else one.smaller(now)
    rated = [
        ((one.lost(rank) - lost) / (size - one.parameters(rank)), -one.parameters(rank), rank)
        for rank in moves
        if one.parameters(rank) < size
    ]
    if not rated:
        return None
    price, _, rank = min(rated, key=lambda row: row[:2])
    return price, rank


def choose_ranks(weights: Mapping[str, Tensor], budget: int, block: int = 1) -> Ranks:
    """Choose the ranks of all layers under one budget.

    Args:
        weights: Weights of the layers that may be factored, by layer name.
        budget: Parameters that they may have together.
        block: Ranks are multiples of this.

    Returns:
        Ranks of the layers to factor; the others stay dense. Empty if the dense layers fit.

    Raises:
        ModelError: If the smallest ranks exceed the budget.
    """
    candidates = {name: candidate(weight, block) for name, weight in weights.items()}
    return ranks_within(descent(candidates), sum(one.dense for one in candidates.values()), budget)


def fewest_parameters(shape: Sequence[int], block: int) -> int:
    """Parameters of a layer at its smallest ranks, or dense where no ranks pay.

    Args:
        shape: Shape of the weight: outputs, inputs, kernel.
        block: Ranks are multiples of this.
    """
    outputs, inputs, taps = shape[0], shape[1], int(torch.Size(shape[2:]).numel())
    out, into = _grid(min(outputs, inputs * taps), block)[0], _grid(min(inputs, outputs * taps), block)[0]
    factors = (outputs + inputs) * out if taps == 1 else inputs * into + out * into * taps + outputs * out
    return min(factors, outputs * inputs * taps)


def ranks_within(steps: list[Step], dense: int, budget: int) -> Ranks:
    """Follow a descent until a budget holds.

    Args:
        steps: What `descent` gave.
        dense: Parameters before its first step.
        budget: Parameters allowed.

    Raises:
        ModelError: If its last step still exceeds the budget.
    """
    ranks: Ranks = {}
    total = dense
    for step in steps:
        if total <= budget:
            break
        ranks[step.layer] = step.rank
        total = step.parameters
    if total > budget:
        raise ModelError(
            f"low rank: the smallest ranks leave {total} parameters in the layers, {budget} are allowed;"
            " take a larger size or a smaller members.cstar.block"
        )
    return ranks
