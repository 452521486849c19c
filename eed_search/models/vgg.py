"""VGG-16 with batch norm in its CIFAR form: thirteen 3×3 convolutions, five halvings, one linear layer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from eed_search.models.blocks import Normalise

_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # multiples of the width; a max pool ends each stage


class VGG16BN(nn.Module):
    """The CIFAR VGG-16 with batch norm and a width multiplier; needs images of 32×32 or more.

    Args:
        width: Channels of the first stage (64 in the literature); the others have up to eight times as many.
        num_classes: Size of the output.
        in_channels: Channels of an image.
        mean: Mean of the training images, per channel.
        std: Standard deviation of the training images, per channel.

    Source:
        Simonyan and Zisserman 2015, arXiv 1409.1556, configuration D; the CIFAR form is the one of the
        pruning literature (batch norm, one linear layer after the last pool instead of three).
    """

    def __init__(
        self, width: int, num_classes: int, in_channels: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in _STAGES:
            for factor in stage:
                layers += [
                    nn.Conv2d(channels, factor * width, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(factor * width),
                    nn.ReLU(),
                ]
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images in [0, 1]."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.features(self.normalise(images)))))
        return logits
