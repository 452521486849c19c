"""Removed channels: counts, groups, and equality with the silenced network."""

import copy

import pytest
import torch
from torch import nn

from eed_search.compression.channels import (
    channel_groups,
    channel_scores,
    choose_channels,
    dense_layers,
    remove_channels,
)
from eed_search.compression.scores import score_function
from eed_search.config.kept_channels import kept_channels
from eed_search.config.registry import BUILT_IN
from eed_search.core.errors import ModelError
from eed_search.models import count_macs

from .conftest import batch_of


@pytest.mark.parametrize(
    ("channels", "fraction", "block", "kept"),
    [
        (64, 0.5, 8, 32),
        (64, 0.4, 16, 32),
        (64, 0.01, 8, 8),
        (64, 1.0, 8, 64),
        (6, 0.5, 8, 6),
        (20, 0.9, 8, 16),
        (8, 0.5, 8, 8),
    ],
)
def test_channels_are_kept_in_blocks(channels, fraction, block, kept):
    """The nearest multiple of the block, at least one block, at most all."""
    assert kept_channels(channels, fraction, block) == kept


def norms_behind(model: nn.Module) -> dict[str, str]:
    """In these networks each batch norm directly follows its convolution by name order."""
    found, last = {}, ""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            last = name
        elif isinstance(module, nn.BatchNorm2d):
            found[last] = name
    return found


def silence_channels(model, chosen, norms):
    """The slow definition: zero the dropped channels' filter, bias, and the batch norm's scale and shift.

    A zeroed filter alone is not enough: its batch norm would still emit beta - gamma * mean / sigma.
    `norms` names, for each layer with a batch norm behind it, that norm.
    """
    silenced = copy.deepcopy(model).eval()
    modules = dict(silenced.named_modules())
    with torch.no_grad():
        for group, keep in chosen:
            for name in group.producers:
                for part in (modules[name], modules[norms[name]] if name in norms else None):
                    for parameter in part.parameters(recurse=False) if part is not None else ():
                        parameter[~keep] = 0
    return silenced


@pytest.mark.parametrize("score", BUILT_IN["score"])
@pytest.mark.parametrize(
    ("fixture", "shape"),
    [("cnn", (1, 8, 8)), ("resnet", (3, 16, 16)), ("vgg", (3, 32, 32)), ("mobilenet", (3, 16, 16))],
)
def test_removal_equals_silencing(fixture, shape, score, request):
    """The smaller network gives what the network with zeroed channels (batch norm included) gives."""
    model = request.getfixturevalue(fixture)
    batch = batch_of(shape)
    chosen = choose_channels(model, shape, score_function(score)(model, batch), 0.5, 4)
    smaller, silenced = remove_channels(model, shape, chosen), silence_channels(model, chosen, norms_behind(model))
    torch.testing.assert_close(smaller(batch.images), silenced(batch.images), atol=1e-5, rtol=0)
    assert (
        float((smaller(batch.images) - model(batch.images)).detach().abs().max()) > 1e-3
    )  # the test could see a difference
    assert count_macs(smaller, shape) < 0.45 * count_macs(model, shape)


def test_zeroing_filters_alone_would_not_be_enough(cnn, digits_batch):
    """A dead filter still emits its batch norm's shift: the trap that the equality above guards."""
    chosen = choose_channels(cnn, (1, 8, 8), score_function("erm")(cnn, digits_batch), 0.5, 4)
    right, wrong = silence_channels(cnn, chosen, norms_behind(cnn)), silence_channels(cnn, chosen, {})
    assert float((right(digits_batch.images) - wrong(digits_batch.images)).detach().abs().max()) > 1e-3


def test_residual_sums_tie_channels_together(resnet):
    """The stem and both blocks of the first stage share one group."""
    groups = {group.producers: group.num_channels for group in channel_groups(resnet, (3, 16, 16))}
    assert groups[("conv1", "stages.0.conv2", "stages.1.conv2")] == 8
    assert groups[("stages.0.conv1",)] == 8
    assert not any("classifier" in producers for producers in groups)


def test_a_depth_wise_layer_goes_with_the_channels_it_filters(mobilenet):
    """It makes no channels of its own: the layer before it and it are one group."""
    groups = {group.producers: group for group in channel_groups(mobilenet, (3, 16, 16))}
    assert groups[("blocks.1.layers.0", "blocks.1.layers.3")].norms == ("blocks.1.layers.1", "blocks.1.layers.4")
    assert groups[("blocks.0.layers.0", "stem.0")].num_channels == 4
    assert groups[("blocks.0.layers.3", "blocks.1.layers.6", "blocks.2.layers.6")].num_channels == 8


def test_no_layer_of_a_group_drowns_the_others(resnet, colour_batch):
    """Multiplying one layer's scores does not change the group's ranking."""
    scores = dict(score_function("erm")(resnet, colour_batch))
    group = next(g for g in channel_groups(resnet, (3, 16, 16)) if "conv1" in g.producers)
    before = channel_scores(group, scores)
    scores["conv1.weight"] = scores["conv1.weight"] * 1e6
    torch.testing.assert_close(channel_scores(group, scores), before)


def test_a_model_without_removable_channels_is_refused():
    """One linear layer has only its classes."""
    with pytest.raises(ModelError, match="no channel can be removed; take granularity unstructured"):
        channel_groups(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))


def test_a_network_with_attention_is_refused_at_once():
    """Tracing Swin's windows took more than six minutes without an end."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(2), nn.MultiheadAttention(36, 4))
    with pytest.raises(
        ModelError, match=r"a network with attention \(2\) cannot be removed; take granularity unstructured"
    ):
        channel_groups(model, (1, 8, 8))


class SideBySide(nn.Module):
    """Two convolutions, their outputs side by side, with or without a batch norm over both."""

    def __init__(self, norm: bool, groups: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.third = nn.Conv2d(16, 8, 3, padding=1, groups=groups)
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        both = torch.cat([self.first(images), self.second(images)], 1)
        return self.head(torch.relu(self.third(torch.relu(self.norm(both)))).mean((2, 3)))


def test_layers_side_by_side_lose_their_own_channels():
    """What follows loses the right inputs of each."""
    torch.manual_seed(0)
    model, images = SideBySide(norm=False).eval(), torch.rand(2, 1, 8, 8)
    chosen = choose_channels(model, (1, 8, 8), score_function("erm")(model, batch_of((1, 8, 8))), 0.5, 4)
    assert {group.producers for group, _ in chosen} == {("first",), ("second",), ("third",)}
    smaller, silenced = remove_channels(model, (1, 8, 8), chosen), silence_channels(model, chosen, {})
    torch.testing.assert_close(smaller(images), silenced(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("norm", "groups", "dense"), [(True, 1, ["first", "second"]), (False, 2, ["first", "second", "third"])]
)
def test_a_norm_over_several_layers_and_grouped_convolutions_stay_dense(norm, groups, dense):
    """They would not be the silenced network any more; they are named, and if that is all, it is an error."""
    model = SideBySide(norm, groups).eval()
    if dense[-1] == "third":
        with pytest.raises(ModelError, match="SideBySide: no channel can be removed"):
            dense_layers(model, (1, 8, 8))
    else:
        assert dense_layers(model, (1, 8, 8)) == dense
