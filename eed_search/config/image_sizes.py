"""Which images a built-in network can learn from: below its smallest size its last layers see one pixel and their padding."""

from __future__ import annotations

_SMALLEST: dict[str, tuple[int, str]] = {  # side in pixels, and by how much the network shrinks images
    "resnet18": (16, "eightfold"),
    "mobilenet_v2": (16, "eightfold"),
    "vgg16_bn": (32, "32-fold"),
}


def too_small(model: str, height: int, width: int) -> str:
    """Say why images are too small for a network; empty if they are not, or if its smallest size is not known.

    Args:
        model: As a search-space file names it.
        height: Height of the images, pixels.
        width: Width of the images, pixels.
    """
    side, shrinks = _SMALLEST.get(model, (0, ""))
    if min(height, width) >= side:
        return ""
    return (
        f"model.name: {model} shrinks images {shrinks} and learns from {side}×{side} and larger, these are {height}×{width};"
        " take small_cnn, or larger images"
    )
