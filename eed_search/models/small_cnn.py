"""A small convolutional network for 8×8 digits and other small images."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from eed_search.models.blocks import Normalise


class SmallCNN(nn.Module):
    """Three 3×3 convolutions with batch norm (the later two halve the image), then a mean and a classifier.

    Args:
        width: Channels of the first convolution; the others have twice and four times as many.
        num_classes: Size of the output.
        in_channels: Channels of an image.
        mean: Mean of the training images, per channel.
        std: Standard deviation of the training images, per channel.
    """

    def __init__(
        self, width: int, num_classes: int, in_channels: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        layers: list[nn.Module] = []
        channels = in_channels
        for factor, stride in ((1, 1), (2, 2), (4, 2)):
            layers += [
                nn.Conv2d(channels, factor * width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(factor * width),
                nn.ReLU(),
            ]
            channels = factor * width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images in [0, 1]."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.features(self.normalise(images)))))
        return logits
