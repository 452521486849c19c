"""Importance scores against their definitions."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from eed_search.compression.bnsf import bnsf
from eed_search.compression.scores import (
    ase,
    erm,
    fisher_diagonal,
    neuron_importance,
    nis,
    score_function,
    weight_layers,
)
from eed_search.config.registry import BUILT_IN
from eed_search.core.errors import ModelError

from .conftest import batch_of


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("name", BUILT_IN["score"])
def test_a_score_has_one_finite_non_negative_number_for_each_weight(name, resnet, colour_batch):
    """Every score covers every convolution and linear layer."""
    scores = score_function(name)(resnet, colour_batch)
    assert list(scores) == [f"{layer}.weight" for layer in weight_layers(resnet)]
    for parameter, score in scores.items():
        assert score.shape == resnet.get_parameter(parameter).shape
        assert bool(torch.isfinite(score).all())
        assert float(score.min()) >= 0


@pytest.mark.parametrize("name", BUILT_IN["score"])
def test_a_score_leaves_the_model_untouched(name, cnn, digits_batch):
    """Weights, statistics and mode are the same afterwards."""
    before = {key: value.clone() for key, value in cnn.state_dict().items()}
    score_function(name)(cnn, digits_batch)
    assert all(torch.equal(before[key], value) for key, value in cnn.state_dict().items())
    assert not cnn.training


def test_erm_by_hand():
    """I = sqrt(6 / fan_in) |w| / max |w|."""
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[1.0, -2.0, 0.0], [0.5, 4.0, -1.0]])
    found = erm(chain(layer), batch_of((3,)))["0.weight"]
    expected = math.sqrt(6 / 3) * torch.tensor([[0.25, 0.5, 0.0], [0.125, 1.0, 0.25]])
    torch.testing.assert_close(found, expected)


def test_bnsf_by_hand():
    """|gamma w / sqrt(var + eps)|, and plain |w| where no batch norm follows."""
    conv, norm, linear = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0.0), nn.Linear(2, 2)
    conv.weight.data = torch.tensor([2.0, -3.0]).view(2, 1, 1, 1)
    norm.weight.data, norm.running_var = torch.tensor([0.5, -4.0]), torch.tensor([4.0, 16.0])
    model = chain(conv, norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    found = bnsf(model, batch_of((1, 4, 4)))
    torch.testing.assert_close(found["0.weight"].flatten(), torch.tensor([0.5, 3.0]))
    torch.testing.assert_close(found["4.weight"], linear.weight.abs())


def test_nis_of_two_layers_by_hand():
    """The hidden importance is |W2|ᵀ 1, the weight form |W1| times it (up to the layer's scale)."""
    first, second = nn.Linear(2, 2, bias=True), nn.Linear(2, 3, bias=True)
    first.weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    second.weight.data = torch.tensor([[1.0, 0.5], [-1.0, 0.5], [2.0, -1.0]])
    model = chain(first, nn.ReLU(), second)
    importance = neuron_importance(model, torch.Size([2]))
    torch.testing.assert_close(importance["0"], torch.tensor([4.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(importance["2"], torch.ones(3, dtype=torch.float64))
    found = nis(model, batch_of((2,)))["0.weight"]
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0], [1.5, 2.0]]))


def recursion(model: nn.Module) -> dict[str, torch.Tensor]:
    """NIS written out for the small CNN: backwards, |W| times the batch norm's |gamma| / sigma."""
    layers = list(weight_layers(model).items())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    importance = {layers[-1][0]: torch.ones(layers[-1][1].out_features, dtype=torch.float64)}
    following = layers[-1][1].weight.double().abs().T @ importance[layers[-1][0]]
    for (name, layer), norm in zip(reversed(layers[:-1]), reversed(norms), strict=True):
        scale = (norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)).abs()
        importance[name] = scale * following
        following = layer.weight.double().abs().sum((2, 3)).T @ importance[name]
    return importance


def test_nis_equals_the_recursion_on_a_convolutional_chain(cnn):
    """The gradient form and the paper's backward recursion agree to rounding."""
    found, expected = neuron_importance(cnn, torch.Size([1, 8, 8])), recursion(cnn)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=0)


def test_nis_does_not_saturate():
    """What an activation function does to large numbers is no matter: the logits' reach is a sum of products."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 1)
    first.weight.data, second.weight.data = torch.full((2, 2), 100.0), torch.tensor([[3.0, 5.0]])
    importance = neuron_importance(chain(first, nn.ReLU6(), second), torch.Size([2]))
    torch.testing.assert_close(importance["0"], torch.tensor([3.0, 5.0], dtype=torch.float64))


class Residual(nn.Module):
    """x → a(x) + b(a(x)) → head: one residual sum, one fork."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(2, 2, False), nn.Linear(2, 2, False), nn.Linear(2, 1, False)

    def forward(self, x):
        inner = self.a(x)
        return self.head(functional.relu(inner + self.b(inner)))


def test_nis_of_a_residual_block_by_hand():
    """The sum hands its score to both branches; the fork adds them up."""
    model = Residual().eval()
    model.b.weight.data = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    model.head.weight.data = torch.tensor([[3.0, -1.0]])
    importance = neuron_importance(model, torch.Size([2]))
    torch.testing.assert_close(importance["b"], torch.tensor([3.0, 1.0], dtype=torch.float64))
    # through the skip: (3, 1); through b: |B|ᵀ (3, 1) = (5, 3)
    torch.testing.assert_close(importance["a"], torch.tensor([8.0, 4.0], dtype=torch.float64))


def test_nis_follows_a_permutation_of_neurons(cnn):
    """Swapping two channels swaps their importance."""
    before = neuron_importance(cnn, torch.Size([1, 8, 8]))
    order = torch.tensor([1, 0, *range(2, 8)])
    conv, norm, following = cnn.features[0], cnn.features[1], cnn.features[3]
    for tensor in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data = tensor.data[order]
    following.weight.data = following.weight.data[:, order]
    after = neuron_importance(cnn, torch.Size([1, 8, 8]))
    torch.testing.assert_close(after["features.0"], before["features.0"][order])
    torch.testing.assert_close(after["features.3"], before["features.3"])


def test_scaling_a_layer_scales_the_importance_below_it(cnn):
    """On a chain, W times c multiplies the raw importance of every earlier layer by c."""
    before = neuron_importance(cnn, torch.Size([1, 8, 8]))
    cnn.features[6].weight.data *= 7
    after = neuron_importance(cnn, torch.Size([1, 8, 8]))
    torch.testing.assert_close(after["features.0"], 7 * before["features.0"])
    torch.testing.assert_close(after["features.6"], before["features.6"])


def test_nis_of_a_deep_network_does_not_overflow(resnet, colour_batch):
    """Where the raw product over 18 layers leaves float32, every layer still has finite scores that differ."""
    for layer in weight_layers(resnet).values():
        layer.weight.data *= 1000
    raw = neuron_importance(resnet, torch.Size([3, 16, 16]))["conv1"]
    assert float(raw.max()) > torch.finfo(torch.float32).max
    for score in nis(resnet, colour_batch).values():
        assert bool(torch.isfinite(score).all())
        assert float(score.max()) > float(score.min())


def test_the_fisher_diagonal_equals_the_per_sample_loop(cnn, digits_batch):
    """Mean of squared per-sample gradients, not the square of the mean."""
    found = fisher_diagonal(cnn, digits_batch.images, digits_batch.labels, chunk=4)["features.3.weight"]
    expected = torch.zeros_like(found)
    for image, label in zip(digits_batch.images, digits_batch.labels, strict=True):
        cnn.zero_grad()
        functional.cross_entropy(cnn(image[None]), label[None]).backward()
        expected += cnn.features[3].weight.grad ** 2 / len(digits_batch.labels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


def test_labels_drawn_from_the_model_give_the_gauss_newton_diagonal():
    """In expectation over its own labels, the Fisher diagonal is sum_c p_c (d log p_c)²."""
    torch.manual_seed(0)
    model, image = chain(nn.Linear(3, 3, False)), torch.rand(1, 3)
    probabilities = model(image).softmax(-1)[0]
    expected = torch.zeros(3, 3)
    for label, share in enumerate(probabilities):
        expected += share.detach() * fisher_diagonal(model, image, torch.tensor([label]))["0.weight"]
    # softmax regression: H_(k,j)(k,j) = p_k (1 - p_k) x_j²
    exact = (probabilities * (1 - probabilities))[:, None] * image**2
    torch.testing.assert_close(expected, exact.detach())


def test_ase_is_half_the_curvature_times_the_squared_weight(cnn, digits_batch):
    """Without perturbation the score is the Fisher diagonal at the clean images."""
    from dataclasses import replace

    found = ase(cnn, replace(digits_batch, eps=0.0))["classifier.weight"]
    fisher = fisher_diagonal(cnn, digits_batch.images, digits_batch.labels)["classifier.weight"]
    torch.testing.assert_close(found, 0.5 * fisher * cnn.classifier.weight.detach() ** 2)


def test_a_model_without_weights_is_refused():
    """Nothing to score is an error, not an empty table."""
    with pytest.raises(ModelError, match="has no convolution or linear layer"):
        weight_layers(nn.Sequential(nn.Flatten()))
