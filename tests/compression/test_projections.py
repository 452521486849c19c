"""Projections onto sparse sets: optimal, exact in count, and without side effects."""

from itertools import combinations

import pytest
import torch

from eed_search.compression.projections import column, irregular, masked, rows

SETS = {
    "irregular": lambda w: irregular(w, 2 / 108),
    "column": lambda w: column(w, 3 / 27),
    "filter": lambda w: rows([w], 2).view(-1, 1, 1, 1).expand(w.shape),
}


@pytest.fixture
def weight():
    return torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def allowed_supports(kind):
    """Every support that the set allows, as masks over the 4 x 27 matrix."""
    shape, count = {"irregular": (108, 2), "column": (27, 3), "filter": (4, 2)}[kind]
    for chosen in combinations(range(shape), count):
        mask = torch.zeros(4, 27, dtype=torch.bool)
        if kind == "irregular":
            mask.view(-1)[list(chosen)] = True
        elif kind == "column":
            mask[:, list(chosen)] = True
        else:
            mask[list(chosen)] = True
        yield mask


@pytest.mark.parametrize("kind", SETS)
def test_no_allowed_support_lies_nearer(kind, weight):
    """Brute force over all supports: the projection loses the least energy."""
    lost = (weight * ~SETS[kind](weight)).square().sum()
    matrix = weight.flatten(1)
    least = min((matrix * ~mask).square().sum() for mask in allowed_supports(kind))
    torch.testing.assert_close(lost, least)


@pytest.mark.parametrize("kind", SETS)
def test_projecting_twice_changes_nothing_and_the_input_is_untouched(kind, weight):
    before = weight.clone()
    once = masked({"w": weight}, {"w": SETS[kind](weight)})
    twice = masked(once, {"w": SETS[kind](once["w"])})
    assert torch.equal(once["w"], twice["w"])
    assert torch.equal(weight, before)
    once["w"].add_(1)
    assert torch.equal(weight, before)


def test_counts_are_exact_where_all_are_equal():
    """Ties are broken by index: no entry is both dropped and trainable, or kept twice."""
    ones = torch.ones(4, 3, 3, 3)
    assert int(irregular(ones, 0.25).sum()) == 27
    assert int(column(ones, 0.25).sum()) == 4 * 7
    assert rows([ones], 3).tolist() == [True, True, True, False]


def test_coupled_layers_keep_the_same_filters():
    """The energy of both layers decides."""
    first = torch.tensor([[3.0], [2.0], [0.0]])
    second = torch.tensor([[0.0], [1.0], [4.0]])
    assert rows([first, second], 2).tolist() == [True, False, True]
