"""ResNet-18 in its CIFAR form: a 3×3 stem without pooling, four stages of two basic blocks."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from eed_search.models.blocks import Normalise


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.relu2 = nn.ReLU()

    def forward(self, features: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch out h2 w2"]:
        """One residual step."""
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(features)))))
        out: Tensor = self.relu2(inner + self.shortcut(features))
        return out


class ResNet18(nn.Module):
    """The CIFAR ResNet-18 with a width multiplier.

    Args:
        width: Channels of the first stage (64 in the literature); the others double it.
        num_classes: Size of the output.
        in_channels: Channels of an image.
        mean: Mean of the training images, per channel.
        std: Standard deviation of the training images, per channel.

    Source:
        He et al. 2016, https://doi.org/10.1109/CVPR.2016.90; the CIFAR form is the one of the
        adversarial-training literature (stride 1 stem, no max pooling).
    """

    def __init__(
        self, width: int, num_classes: int, in_channels: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        blocks: list[nn.Module] = []
        channels_in = width
        for stage in range(4):
            channels = width * 2**stage
            blocks.append(BasicBlock(channels_in, channels, 1 if stage == 0 else 2))
            blocks.append(BasicBlock(channels, channels, 1))
            channels_in = channels
        self.stages = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels_in, num_classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images in [0, 1]."""
        features = self.relu1(self.bn1(self.conv1(self.normalise(images))))
        logits: Tensor = self.classifier(self.flatten(self.pool(self.stages(features))))
        return logits
