"""Networks: their form, their counting, and the door to torchvision."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from eed_search.core.errors import ModelError
from eed_search.models import build, count_macs, fit_to_state, signature
from eed_search.models.mobilenet import scaled
from eed_search.models.torchvision_door import torchvision

GREY = {"num_classes": 10, "in_channels": 1, "mean": (0.3,), "std": (0.4,)}
COLOUR = {"num_classes": 10, "in_channels": 3, "mean": (0.5,) * 3, "std": (0.25,) * 3}


def test_resnet18_at_full_width_has_the_literature_s_size() -> None:
    """11.17 million parameters and 556 million multiply-accumulates on 32×32 images."""
    model = build("resnet18", width=64, **COLOUR)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert count_macs(model, (3, 32, 32)) == 555_422_720


def test_vgg16_at_full_width_has_the_literature_s_size() -> None:
    """14.7 million parameters (convolutions without bias) and 313 million multiply-accumulates on 32×32 images."""
    model = build("vgg16_bn", width=64, **COLOUR)
    assert sum(p.numel() for p in model.parameters()) == 14_724_042
    assert count_macs(model, (3, 32, 32)) == 313_201_664


def test_mobilenet_v2_at_full_width_has_the_paper_s_layers() -> None:
    """Torchvision's, of the same table, has as many weights; only strides differ."""
    theirs = torchvision("models").mobilenet_v2(weights=None, num_classes=10)
    ours = build("mobilenet_v2", width=32, **COLOUR)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    assert count_macs(ours, (3, 32, 32)) == 87_976_448


@pytest.mark.parametrize("name", ["vgg16_bn", "mobilenet_v2"])
def test_a_narrow_network_has_a_narrow_first_stage(name) -> None:
    """`width` is the channels of the first stage; everything scales with it."""
    model = build(name, width=4, **COLOUR)
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert first.out_channels == 4
    assert sum(p.numel() for p in model.parameters()) < 70_000
    assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("channels", "width", "scaled_to"), [(24, 32, 24), (1280, 16, 640), (96, 4, 16), (16, 4, 8), (320, 24, 240)]
)
def test_mobilenet_s_layers_scale_in_eights(channels, width, scaled_to) -> None:
    """The nearest multiple of 8, at least 8, and never more than a tenth too few."""
    assert scaled(channels, width) == scaled_to


def test_macs_of_a_convolution_by_hand() -> None:
    """Output positions times weights."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(5 * 16, 2))
    assert count_macs(model, (3, 4, 4)) == 16 * 5 * 27 + 80 * 2


def test_normalisation_is_inside() -> None:
    """A network of another mean and std answers differently to the same pixels."""
    images = torch.rand(2, 1, 8, 8)
    one, other = build("small_cnn", width=4, **GREY), build("small_cnn", width=4, **{**GREY, "mean": (0.9,)})
    assert not torch.allclose(one.eval()(images), other.eval()(images))


def test_the_seed_fixes_the_weights_and_leaves_the_global_generator() -> None:
    """Building a network draws nothing that anyone else would have drawn."""
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = build("small_cnn", width=4, seed=3, **GREY)
    assert torch.equal(torch.rand(1), expected)
    again, other = build("small_cnn", width=4, seed=3, **GREY), build("small_cnn", width=4, seed=4, **GREY)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_an_unknown_model_is_refused() -> None:
    """With those that there are."""
    with pytest.raises(ModelError, match=r"model\.name: 'vgg' is not one of small_cnn, resnet18"):
        build("vgg", width=4, **GREY)


def test_the_signature_sees_shapes_and_no_weights() -> None:
    """Equal architectures share a latency, another width or image size does not."""
    one, same = build("small_cnn", width=4, seed=0, **GREY), build("small_cnn", width=4, seed=1, **GREY)
    wider = build("small_cnn", width=8, **GREY)
    assert signature(one, (1, 8, 8)) == signature(same, (1, 8, 8))
    assert len({signature(one, (1, 8, 8)), signature(one, (1, 16, 16)), signature(wider, (1, 8, 8))}) == 3


def test_a_network_is_resized_to_stored_weights() -> None:
    """The narrow network's weights load into a copy of the wide one, layer attributes included."""
    wide, narrow = build("resnet18", width=16, **COLOUR), build("resnet18", width=4, seed=1, **COLOUR).eval()
    fitted, images = fit_to_state(wide, narrow.state_dict()), torch.rand(2, 3, 16, 16)
    assert torch.equal(fitted(images), narrow(images))
    assert count_macs(fitted, (3, 16, 16)) == count_macs(narrow, (3, 16, 16))
    assert wide.conv1.out_channels == 16


@pytest.mark.whole
def test_torchvision_s_models_load_beside_this_torch() -> None:
    """In a fresh process, whatever build of torch is installed; its operators are not needed."""
    code = (
        "from eed_search.models.torchvision_door import torchvision\n"
        "import torch\n"
        "net = torchvision('models').resnet18(weights=None, num_classes=3)\n"
        "print(torchvision('datasets').CIFAR10.__name__, tuple(net(torch.zeros(2, 3, 32, 32)).shape))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "CIFAR10 (2, 3)"
