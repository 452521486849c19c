"""Batches of images that were read as bytes are those of float32 images, bit for bit and in the same order in memory."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from eed_search.data.splits import ByteSplit, Split, as_images
from eed_search.training.batches import Batches, augment_key, shifted

CPU = torch.device("cpu")


def drawn(num: int, height: int, width: int, channels: int, seed: int = 0) -> ByteSplit:
    """Random images."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num, height, width, channels), generator=generator, dtype=torch.uint8)
    return ByteSplit(pixels, torch.arange(num) % 3)


def batches(split: Split | ByteSplit, **given_: Any) -> Batches:
    """Batches of five."""
    usual = {"seed": 3, "augment": "none", "device": CPU, "memory_format": torch.channels_last}
    return Batches(split, 5, **(usual | given_))


@given(
    st.integers(2, 17),
    st.sampled_from([1, 3]),
    st.sampled_from(["none", "crop", "crop_flip"]),
    st.sampled_from([torch.channels_last, torch.contiguous_format]),
)
def test_bytes_and_floats_give_equal_batches(
    num: int, channels: int, augment: Any, memory_format: torch.memory_format
) -> None:
    """Values, labels and strides: kernels are chosen by these."""
    split = drawn(num, 6, 7, channels)
    given_ = {"augment": augment, "memory_format": memory_format}
    one, other = batches(split, **given_), batches(split.floats(), **given_)
    for _ in range(9):
        (images, labels), (expected, truth) = one.take(), other.take()
        assert torch.equal(images, expected)
        assert torch.equal(labels, truth)
        assert images.dtype == torch.float32
        assert channels == 1 or images.stride() == expected.stride()
        assert images.is_contiguous(memory_format=memory_format)


def test_grey_batches_lie_in_memory_as_they_always_did() -> None:
    """A grey image's strides can be read as either order; torch's choice of kernels hangs on them."""
    split = drawn(5, 6, 7, 1)
    before = torch.empty(5, 6, 7, 1).permute(0, 3, 1, 2)[torch.arange(5)].contiguous(memory_format=torch.channels_last)
    assert batches(split).take()[0].stride() == before.stride()


def _windows(wide: Tensor) -> list[Tensor]:
    """Every place where a shifted 8 by 8 image may come from."""
    return [wide[:, i : i + 8, j : j + 8] for i, j in itertools.product(range(9), repeat=2)]


@pytest.mark.parametrize("augment", ["crop", "crop_flip"])
def test_crops_and_flips_only_move_pixels(augment: Any) -> None:
    """Each result is a window of the image with its border: repeated for `crop`, black for `crop_flip`, which mirrors some."""
    split = drawn(40, 8, 8, 3)
    images = split.images
    moved = as_images(shifted(split.pixels, torch.Generator().manual_seed(1), augment))
    border: Any = {"mode": "replicate"} if augment == "crop" else {}
    mirrored = 0
    for found, wide in zip(moved, nn.functional.pad(images, (4, 4, 4, 4), **border), strict=True):
        as_it_is = any(torch.equal(found, window) for window in _windows(wide))
        in_mirror = any(torch.equal(found, window.flip(-1)) for window in _windows(wide))
        assert as_it_is or in_mirror
        mirrored += not as_it_is
    assert (10 < mirrored < 30) if augment == "crop_flip" else mirrored == 0
    assert not torch.equal(moved, images)


def test_a_crop_has_no_black_border() -> None:
    """What is white stays white: traffic signs and letters are not cut out of darkness."""
    white = ByteSplit(torch.full((30, 8, 8, 3), 255, dtype=torch.uint8), torch.zeros(30, dtype=torch.long))
    assert float(batches(white, augment="crop").take()[0].min()) == 1
    assert float(batches(white, augment="crop_flip").take()[0].min()) == 0


def test_only_the_crop_s_key_is_new() -> None:
    """Its results are; those of the others are found again."""
    assert [augment_key(one) for one in ("none", "crop", "crop_flip")] == ["none", "crop, replicated", "crop_flip"]


def test_a_split_of_bytes_is_the_split() -> None:
    """Parts of it and its floats hold the same images."""
    split = drawn(9, 4, 4, 3)
    index = torch.tensor([7, 0, 3])
    assert torch.equal(split.subset(index).images, split.floats().subset(index).images)
    assert split.images.is_contiguous()
    assert torch.equal(split.images, split.pixels.permute(0, 3, 1, 2).float() / 255)
    assert len(split.subset(index)) == 3
