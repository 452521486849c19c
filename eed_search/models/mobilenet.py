"""MobileNet-V2 in its CIFAR form: inverted residuals behind a stride-1 stem, three halvings in all."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from eed_search.models.blocks import Normalise

_FULL = 32  # channels of the stem in the paper
_STAGES = (  # expansion, channels at full width, blocks, stride of the first: as in the paper, but 1 where it has the first 2
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_LAST = 1280


class InvertedResidual(nn.Module):
    """Widen by a 1×1 convolution, filter each channel by itself, narrow without a nonlinearity.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the depth-wise convolution.
        expansion: How many times wider the middle is; 1 leaves the first convolution out.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = channels_in * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(channels_in, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU6()]
        layers += [
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(),
            nn.Conv2d(middle, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and channels_in == channels

    def forward(self, features: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch out h2 w2"]:
        """One inverted residual step."""
        out: Tensor = self.layers(features)
        return features + out if self.residual else out


class MobileNetV2(nn.Module):
    """The CIFAR MobileNet-V2 with a width multiplier.

    Args:
        width: Channels of the stem (32 in the literature); all others scale with it, in multiples of 8.
        num_classes: Size of the output.
        in_channels: Channels of an image.
        mean: Mean of the training images, per channel.
        std: Standard deviation of the training images, per channel.

    Source:
        Sandler et al. 2018, arXiv 1801.04381, table 2; the CIFAR form keeps stride 1 in the stem and in the
        stage of 24 channels, so that 32×32 images end as 4×4. A narrow one narrows the last convolution
        too, which the paper keeps: at these sizes it would be most of the network.
    """

    def __init__(
        self, width: int, num_classes: int, in_channels: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6())
        blocks: list[nn.Module] = []
        channels_in = width
        for expansion, full, num_blocks, stride in _STAGES:
            channels = scaled(full, width)
            for i in range(num_blocks):
                blocks.append(InvertedResidual(channels_in, channels, stride if i == 0 else 1, expansion))
                channels_in = channels
        self.blocks = nn.Sequential(*blocks)
        last = scaled(_LAST, width)
        self.head = nn.Sequential(nn.Conv2d(channels_in, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images in [0, 1]."""
        features = self.head(self.blocks(self.stem(self.normalise(images))))
        logits: Tensor = self.classifier(self.flatten(self.pool(features)))
        return logits


def scaled(channels: int, width: int) -> int:
    """Scale a layer's channels: to the nearest multiple of 8, at least 8, never more than a tenth too few.

    Args:
        channels: At full width.
        width: Width of the stem; 32 is full width.

    Source:
        The rule that MobileNet implementations share, since Sandler et al. 2018, arXiv 1801.04381.
    """
    exact = channels * width / _FULL
    nearest = max(8, int(exact + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * exact else nearest
