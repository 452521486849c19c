"""Any of torchvision's classifiers by name, untrained, as a base: other classes, normalisation inside."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from eed_search.config.torchvision_names import TORCHVISION, problem
from eed_search.core.errors import ModelError
from eed_search.models.blocks import Normalise
from eed_search.models.torchvision_door import torchvision


class TorchvisionNetwork(nn.Module):
    """One of torchvision's classifiers with fresh weights; grey images are given to it three times over.

    Args:
        name: As torchvision calls it, such as `resnet50`.
        width: Not used: these networks have a width of their own.
        num_classes: Size of the output.
        in_channels: Channels of an image, 1 or 3.
        mean: Mean of the training images, per channel.
        std: Standard deviation of the training images, per channel.

    Raises:
        ModelError: If torchvision has no classifier of that name, or it cannot be built.
    """

    def __init__(
        self,
        name: str,
        width: int,
        num_classes: int,
        in_channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.title = f"{TORCHVISION}{name}"
        if wrong := problem(self.title):
            raise ModelError(f"model.name: {wrong}")
        make = torchvision("models").get_model_builder(name)
        wanted: dict[str, object] = {"weights": None, "num_classes": num_classes}
        if name in ("googlenet", "inception_v3"):  # whose side outputs are for training from scratch on ImageNet
            wanted |= {"aux_logits": False, "init_weights": False}
        self.normalise = Normalise(mean, std)
        self.network: nn.Module = make(**wanted)
        self.copies = 3 // in_channels

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images in [0, 1]."""
        inputs = self.normalise(images)
        if self.copies > 1:
            inputs = inputs.repeat(1, self.copies, 1, 1)
        logits: Tensor = self.network(inputs)
        return logits
