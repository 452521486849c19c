"""Pruning schemes: their scores by hand, exact counts, and what they cannot handle."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from eed_search.core.errors import ModelError
from eed_search.models import build
from eed_search.transfer.schemes import Evidence, geometric_median, l1_filter, l2_filter, prune, taylor
from eed_search.transfer.spec import SCHEMES, Scheme

SHAPE = (1, 8, 8)
FILTER_SCHEMES = [scheme for scheme in SCHEMES if scheme != "unstructured_magnitude"]


def _network(name: str = "small_cnn") -> nn.Module:
    return build(name, width=8, num_classes=10, in_channels=1, mean=(0.3,), std=(0.4,), seed=1).eval()


def _evidence(seed: int = 0) -> Evidence:
    generator = torch.Generator().manual_seed(0)
    return Evidence(torch.rand(40, *SHAPE, generator=generator), torch.arange(40) % 10, seed)


def _chain(*, norm: bool) -> nn.Module:
    torch.manual_seed(0)
    between = nn.BatchNorm2d(6) if norm else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), between, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)
    ).eval()


def test_norms_by_hand() -> None:
    """A filter (3, −4) has l1 norm 7 and l2 norm 5."""
    filters = torch.tensor([[3.0, -4.0], [0.0, 1.0]])
    assert l1_filter(filters).tolist() == [7.0, 1.0]
    assert l2_filter(filters).tolist() == [5.0, 1.0]


def test_the_geometric_median_goes_first() -> None:
    """Of five filters on a line the middle one can be replaced by the others, whatever its norm."""
    filters = torch.tensor([[8.0], [9.0], [10.0], [11.0], [12.0]])
    assert geometric_median(filters).tolist() == [10.0, 7.0, 6.0, 7.0, 10.0]


def test_taylor_is_what_the_loss_changes_by() -> None:
    """(Σ g·w)² is the squared slope of the loss when a filter is scaled."""
    network, evidence = _chain(norm=False).double(), _evidence()
    evidence = Evidence(evidence.images[:32].double(), evidence.labels[:32], 0)
    found = taylor(network, evidence)["0"]
    conv = network[0]
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight.detach().clone()
    for i in range(6):
        slopes = []
        for factor in (1 + 1e-6, 1 - 1e-6):
            conv.weight.data = weight.clone()
            conv.weight.data[i] *= factor
            with torch.no_grad():
                slopes.append(float(functional.cross_entropy(network(evidence.images), evidence.labels)))
        assert found[i] == pytest.approx(((slopes[0] - slopes[1]) / 2e-6) ** 2, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("scheme", FILTER_SCHEMES)
@pytest.mark.parametrize("model", ["small_cnn", "resnet18"])
def test_filters_are_removed_for_good(scheme: Scheme, model: str) -> None:
    """Half of every layer's filters go; the network is smaller and still works."""
    network = _network(model)
    pruned = prune(network, SHAPE, scheme, 0.5, 1, _evidence())
    convs = [m.out_channels for m in pruned.model.modules() if isinstance(m, nn.Conv2d)]
    assert convs == [m.out_channels // 2 for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert pruned.model(torch.rand(2, *SHAPE)).shape == (2, 10)
    assert pruned.left_dense == ()


def test_masks_are_exact_and_keep_the_form() -> None:
    """A quarter of each layer's weights become zero: those of least magnitude."""
    network = _network()
    pruned = prune(network, SHAPE, "unstructured_magnitude", 0.25, 1, _evidence())
    for name, mask in pruned.masks.items():
        weight = network.get_parameter(name)
        assert int(mask.sum()) == round(0.75 * mask.numel())
        assert weight[~mask].abs().max() <= weight[mask].abs().min()
        assert not pruned.model.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ratio_0_is_a_copy(scheme: Scheme) -> None:
    """Nothing is removed, nothing masked, every answer the same to the last bit."""
    network, images = _network(), torch.rand(8, *SHAPE)
    pruned = prune(network, SHAPE, scheme, 0, 1, _evidence())
    assert not pruned.changed
    assert torch.equal(pruned.model(images), network(images))


def test_batch_norm_s_scale_decides() -> None:
    """Filters of the smallest |γ| go, whatever their weights."""
    network = _chain(norm=True)
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.weight.data = torch.tensor([1.0, -3.0, 0.1, 2.0, 0.2, -0.3])
    pruned = prune(network, SHAPE, "bn_gamma", 0.5, 1, _evidence())
    kept = pruned.model[1].weight.tolist()  # type: ignore[index]
    assert kept == [1.0, -3.0, 2.0]


def test_layers_without_batch_norm_stay_dense_and_are_named() -> None:
    """One layer has a batch norm, the other has none: only the first is pruned."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 10),
    ).eval()  # fmt: skip
    pruned = prune(network, SHAPE, "bn_gamma", 0.5, 1, _evidence())
    assert pruned.left_dense == ("3",)
    assert [m.out_channels for m in pruned.model.modules() if isinstance(m, nn.Conv2d)] == [3, 4]


def test_a_scheme_that_can_do_nothing_is_an_error() -> None:
    """Without any batch norm there is no γ to go by."""
    with pytest.raises(
        ModelError, match=r"bn_gamma at 0.5 removes no filter of Sequential: no layer has what the scheme"
    ):
        prune(_chain(norm=False), SHAPE, "bn_gamma", 0.5, 1, _evidence())


def test_a_block_as_wide_as_every_layer_is_an_error() -> None:
    """Filters are kept in whole blocks."""
    with pytest.raises(ModelError, match="every layer is within one block of 64"):
        prune(_network(), SHAPE, "l1_filter", 0.25, 64, _evidence())


def test_random_filters_are_nested_and_follow_the_seed() -> None:
    """What stays at 75 % stays at 25 % too; another seed keeps others."""
    network = _network()

    def kept(ratio: float, seed: int) -> set[tuple[float, ...]]:
        conv = next(m for m in prune(network, SHAPE, "random_filter", ratio, 1, _evidence(seed)).model.modules() if isinstance(m, nn.Conv2d))  # fmt: skip
        return {tuple(row.flatten().tolist()) for row in conv.weight}

    assert kept(0.75, 0) < kept(0.25, 0)
    assert kept(0.5, 0) != kept(0.5, 1)
