"""Ranks under a budget: kept, nested, and priced by energy for each parameter."""

from itertools import pairwise, product

import pytest
import torch
from torch import nn

from eed_search.compression.lowrank import Rank, factored, nearest
from eed_search.compression.ranks import candidate, choose_ranks, descent, fewest_parameters, ranks_within
from eed_search.core.errors import ModelError


def weights_of(seed=0):
    """Layers with quickly and slowly falling spectra, a narrow stem, a matrix."""
    generator = torch.Generator().manual_seed(seed)

    def layer(*shape, decay):
        weight = torch.randn(shape, generator=generator, dtype=torch.float64)
        scale = decay ** torch.arange(shape[0], dtype=torch.float64)
        return weight * scale.view(-1, *[1] * (len(shape) - 1))

    return {
        "stem": layer(16, 3, 3, 3, decay=1.0),
        "fast": layer(32, 16, 3, 3, decay=0.8),
        "slow": layer(32, 32, 3, 3, decay=1.0),
        "head": layer(10, 32, decay=0.9),
    }


def parameters(weights, ranks):
    """What ships, counted on real layers."""
    total = 0
    for name, weight in weights.items():
        outputs, inputs = weight.shape[:2]
        layer = (
            nn.Linear(inputs, outputs, bias=False)
            if weight.ndim == 2
            else nn.Conv2d(inputs, outputs, weight.shape[2], bias=False)
        )
        made = factored(layer, ranks[name]) if name in ranks else layer
        total += sum(p.numel() for p in made.parameters())
    return total


DENSE = sum(w.numel() for w in weights_of().values())


@pytest.mark.parametrize(("ratio", "block"), [(2, 1), (4, 1), (8, 1), (16, 1), (2, 4), (4, 4), (8, 4)])
def test_the_budget_holds_as_counted_on_real_layers(ratio, block):
    weights = weights_of()
    ranks = choose_ranks(weights, DENSE // ratio, block)
    assert parameters(weights, ranks) <= DENSE // ratio


@pytest.mark.parametrize("ratio", [32, 64])
def test_the_budget_holds_on_wide_layers(ratio):
    generator = torch.Generator().manual_seed(0)
    weights = {f"l{i}": torch.randn(128, 128, 3, 3, generator=generator) for i in range(2)}
    dense = 2 * 128 * 128 * 9
    assert 0 < parameters(weights, choose_ranks(weights, dense // ratio)) <= dense // ratio


def test_ranks_are_nested_over_budgets():
    """A smaller budget has nowhere a larger rank; what is dense under it is dense under a larger one."""
    weights = weights_of()
    steps = descent({name: candidate(w, 1) for name, w in weights.items()})
    ladder = [ranks_within(steps, DENSE, int(DENSE / r)) for r in (1, 1.2, 1.5, 2, 3, 4, 6, 8, 12, 16)]
    for larger, smaller in pairwise(ladder):
        for name, rank in larger.items():
            assert smaller[name].out <= rank.out
            assert smaller[name].into <= rank.into
    assert ladder[0] == {}


def test_one_pass_gives_the_ranks_of_every_budget():
    weights = weights_of()
    steps = descent({name: candidate(w, 1) for name, w in weights.items()})
    for ratio in (1.5, 3, 7):
        assert ranks_within(steps, DENSE, int(DENSE / ratio)) == choose_ranks(weights, int(DENSE / ratio))


def test_a_budget_below_the_smallest_ranks_is_refused():
    """28 + 57 + 73 + 42 at ranks of one."""
    with pytest.raises(ModelError, match="the smallest ranks leave 200 parameters in the layers, 100 are allowed"):
        choose_ranks(weights_of(), 100)


@pytest.mark.parametrize("block", [1, 4, 16])
def test_the_smallest_ranks_follow_from_the_shapes(block):
    """What a budget can reach is known before any weight is."""
    weights = weights_of()
    steps = descent({name: candidate(w, block) for name, w in weights.items()})
    assert steps[-1].parameters == sum(fewest_parameters(w.shape, block) for w in weights.values())


def test_a_layer_that_factors_would_make_larger_stays_dense_until_it_pays():
    """64x3x3x3: 1,728 dense, 2,466 at its full ranks 27 and 3."""
    one = candidate(torch.randn(64, 3, 3, 3, generator=torch.Generator().manual_seed(0)), 1)
    assert one.parameters(Rank(27, 3)) == 2466 > one.dense == 1728
    assert all(step.parameters < 1728 for step in descent({"stem": one}))


def test_a_layer_whose_factors_never_pay_stays_dense():
    one = candidate(torch.randn(2, 2, 1, 1, generator=torch.Generator().manual_seed(0)), 2)
    assert descent({"tiny": one}) == []


def test_the_lost_energy_is_that_of_the_truncated_hosvd():
    weight = weights_of()["fast"]
    one = candidate(weight, 1)
    for out, into in product((1, 7, 32), (2, 16)):
        lost = (weight - nearest(weight, Rank(out, into), sweeps=0)).square().sum()
        assert one.lost(Rank(out, into)) == pytest.approx(float(lost), abs=1e-8)


def test_ranks_come_in_blocks():
    ranks = choose_ranks(weights_of(), DENSE // 3, 4)
    assert ranks
    for name, rank in ranks.items():
        full = 3 if name == "stem" else 4
        assert rank.out % 4 == 0
        assert rank.into % full == 0


def test_the_layer_that_loses_least_goes_first():
    """Half of a spectrum that is nearly empty costs next to nothing."""
    ranks = choose_ranks(weights_of(), int(0.9 * DENSE))
    assert "fast" in ranks
    assert "stem" not in ranks
