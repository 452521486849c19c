"""Low rank: exact where it must be, an orthogonal projection everywhere, and layers that answer alike."""

import pytest
import torch
from torch import nn

from eed_search.compression.lowrank import Rank, factor_layers, factored, nearest, tucker
from eed_search.compression.member import Member, from_arrays, to_arrays
from eed_search.core.errors import ModelError
from eed_search.models import fit_to_state, signature
from eed_search.models.factored import can_be_factored

from .conftest import batch_of

CONVOLUTIONS = [
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "bias": False},
    {"kernel_size": (3, 5), "padding": (0, 2)},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "bias": False},
]


@pytest.fixture
def weight():
    return torch.randn(12, 10, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(12, 10, 3, 3), (4, 2, 3, 3), (30, 2, 3, 3), (6, 8, 1, 1), (9, 7)])
def test_full_rank_reconstructs_to_1e_10(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    taps = weight[0, 0].numel()
    rank = Rank(min(shape[0], shape[1] * taps), min(shape[1], shape[0] * taps))
    torch.testing.assert_close(nearest(weight, rank), weight, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_the_chain_equals_the_convolution_at_full_rank(options):
    """Stride, padding, dilation and bias are where they belong."""
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, **options).double()
    images = torch.randn(2, 6, 9, 9, dtype=torch.float64)
    rank = Rank(6, 6) if layer.weight.shape[2:].numel() == 1 else Rank(8, 6)
    torch.testing.assert_close(factored(layer, rank)(images), layer(images), rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_the_chain_equals_the_convolution_with_the_projected_weight(options):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, **options).double()
    images = torch.randn(2, 6, 9, 9, dtype=torch.float64)
    rank = Rank(3, 3)
    made = factored(layer, rank)
    with torch.no_grad():
        layer.weight.copy_(nearest(layer.weight, rank))
    torch.testing.assert_close(made(images), layer(images), rtol=0, atol=1e-10)


def test_a_linear_layer_takes_the_truncated_svd():
    """No matrix of rank 2 lies nearer (Eckart and Young)."""
    torch.manual_seed(0)
    layer = nn.Linear(7, 5).double()
    error = (layer.weight - nearest(layer.weight, Rank(2, 2))).square().sum()
    torch.testing.assert_close(error, torch.linalg.svdvals(layer.weight)[2:].square().sum())
    made = factored(layer, Rank(2, 2))
    rows = torch.randn(3, 7, dtype=torch.float64)
    torch.testing.assert_close(made(rows), rows @ nearest(layer.weight, Rank(2, 2)).T + layer.bias)


def test_an_output_rank_above_what_the_input_rank_spans_is_allowed(weight):
    """r1 = 12 above r2·K² = 9: the core is padded, the answer is that of the input rank alone."""
    core, left, _ = tucker(weight, Rank(12, 1))
    assert core.shape == (12, 1, 3, 3)
    torch.testing.assert_close(left.T @ left, torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(nearest(weight, Rank(12, 1)), nearest(weight, Rank(9, 1)), rtol=0, atol=1e-8)


def test_projecting_twice_changes_nothing_and_the_input_is_untouched(weight):
    before = weight.clone()
    once = nearest(weight, Rank(4, 3))
    torch.testing.assert_close(nearest(once, Rank(4, 3)), once, rtol=0, atol=1e-10)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("sweeps", [0, 3])
def test_pythagoras(weight, sweeps):
    """|T|² = |P(T)|² + |T - P(T)|²: the projection is orthogonal; the core holds all of P(T)'s energy."""
    near = nearest(weight, Rank(4, 3), sweeps)
    torch.testing.assert_close(weight.square().sum(), near.square().sum() + (weight - near).square().sum())
    core, left, right = tucker(weight, Rank(4, 3), sweeps)
    torch.testing.assert_close(core.square().sum(), near.square().sum())
    for basis in (left, right):
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))


@pytest.mark.parametrize("rank", [Rank(2, 2), Rank(4, 3), Rank(9, 2)])
def test_alternating_never_fits_worse_than_the_truncated_hosvd(weight, rank):
    errors = [float((weight - nearest(weight, rank, sweeps)).norm()) for sweeps in (0, 1, 3, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("ranks", [{"features.3": Rank(4, 3)}, {"features.6": Rank(9, 5), "classifier": Rank(3, 3)}])
def test_a_factored_member_comes_back_from_its_arrays(cnn, ranks):
    """The base gives the graph, the stored names and shapes the factors."""
    member = Member(factor_layers(cnn, ranks))
    back = from_arrays(cnn, to_arrays(member))
    images = batch_of((1, 8, 8)).images
    assert torch.equal(back.model(images), member.model(images))
    assert signature(back.model, (1, 8, 8)) == signature(member.model, (1, 8, 8)) != signature(cnn, (1, 8, 8))
    assert back.size_bytes == member.size_bytes < Member(cnn).size_bytes


def test_factors_of_a_layer_that_is_not_there_are_refused(cnn):
    state = dict(factor_layers(cnn, {"features.3": Rank(4, 3)}).state_dict())
    state["elsewhere.into.weight"] = torch.zeros(1)
    with pytest.raises(ModelError, match=r"elsewhere\.into\.weight is unknown"):
        fit_to_state(cnn, state)


def test_grouped_convolutions_have_no_factored_form():
    assert can_be_factored(nn.Conv2d(4, 8, 3))
    assert can_be_factored(nn.Linear(3, 2))
    assert not can_be_factored(nn.Conv2d(4, 4, 3, groups=4))
    assert not can_be_factored(nn.BatchNorm2d(4))
