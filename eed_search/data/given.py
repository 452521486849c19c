"""Images that a user gives to be attacked: an npz file, or the test files of a folder."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.sources import load_images
from eed_search.data.splits import Split

MIN_SAMPLES = 50  # fewer say nothing: the 95 % interval at a half is ±14 points
_COLOURS = (1, 3, 4)  # channels that images usually have
_FORMS = "uint8 [samples, height, width, channels] or float in [0, 1] [samples, channels, height, width]"


@dataclass(frozen=True)
class Given:
    """What was read.

    Attributes:
        split: Images in [0, 1], NCHW, and labels.
        name: `test` for a folder's test files, `given` for a file.
    """

    split: Split
    name: Literal["test", "given"]


def read_given(path: Path, *, test: bool) -> Given:
    """Read images and labels.

    Args:
        path: An npz file with `images` (uint8, samples × height × width × channels; or float in [0, 1],
            samples × channels × height × width) and `labels`; or a folder with `train*.npz` and `test*.npz`.
        test: Whether test images may be read.

    Raises:
        DataError: If the file cannot be read, pixels lie outside [0, 1], a label is negative or not whole, or a
            folder is given where test images may not be read.
    """
    if path.is_dir():
        if not test:
            raise DataError(
                f"--data {path}: its test images are for tier 2 alone; give a FILE.npz of other unseen images, or --tier 2"
            )
        raw = load_images(Data(source="npz", path=str(path)))
        assert raw.test is not None
        pixels = torch.from_numpy(raw.test.images).permute(0, 3, 1, 2).float().div_(255).contiguous()
        return Given(Split(pixels, torch.from_numpy(raw.test.labels)), "test")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            names = set(arrays.files) if hasattr(arrays, "files") else set()
            if not {"images", "labels"} <= names:
                raise DataError(f"--data {path}: holds {sorted(names)}; needs `images` and `labels`")
            images, labels = arrays["images"], arrays["labels"]
    except OSError as error:
        raise DataError(f"--data {path}: cannot be read ({error.strerror}); give an npz file") from error
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"--data {path}: is no npz file of plain arrays; save one by numpy.savez(FILE, images=..., labels=...)"
        ) from error
    return Given(Split(_pixels(path, images), _labels(path, labels, len(images))), "given")


def _pixels(path: Path, images: np.ndarray) -> torch.Tensor:
    whole = images.dtype == np.uint8
    if not whole and not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"--data {path}: `images` is {images.dtype}; needs {_FORMS}")
    if images.ndim != 4 or not len(images):
        raise DataError(f"--data {path}: `images` has shape {images.shape}; needs at least one image: {_FORMS}")
    here, there = images.shape[3 if whole else 1], images.shape[1 if whole else 3]
    if here not in _COLOURS and there in _COLOURS:
        axes = "0, 2, 3, 1" if whole else "0, 3, 1, 2"
        raise DataError(
            f"--data {path}: `images` is {images.dtype} of shape {images.shape}, so {here} would be its channels; needs"
            f" {_FORMS}: write images.transpose({axes})"
        )
    _refuse_range(path, images)
    if whole:
        return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255).contiguous()
    return torch.from_numpy(images.astype(np.float32)).contiguous()


def _refuse_range(path: Path, images: np.ndarray) -> None:
    low, high = float(images.min()), float(images.max())
    if low != low:
        count = int(np.isnan(images).any(axis=(1, 2, 3)).sum())
        raise DataError(f"--data {path}: `images` holds NaN in {count} of {len(images)}; give finite pixels")
    if images.dtype != np.uint8 and not (low >= 0 and high <= 1):
        do = "divide by 255" if low >= 0 and high <= 255 else "eps is in pixel units, so normalisation belongs inside the model"  # fmt: skip
        raise DataError(f"--data {path}: `images` holds values from {low:.3g} to {high:.3g}; needs [0, 1]: {do}")
    step = 1 if images.dtype == np.uint8 else 1 / 255
    if high <= step * (1 + 1e-6):
        raise DataError(
            f"--data {path}: the brightest pixel of `images` is {high:.3g}, at most one grey level: nearly black. Were they"
            " divided by 255 twice, or floats cut off to uint8?"
        )


def _labels(path: Path, labels: np.ndarray, num_images: int) -> torch.Tensor:
    flat = labels.reshape(-1)
    if not np.issubdtype(labels.dtype, np.integer) or len(flat) != num_images:
        one_hot = labels.ndim == 2 and len(labels) == num_images
        raise DataError(
            f"--data {path}: `labels` is {labels.dtype} of shape {labels.shape}; needs one whole number for each of the"
            f" {num_images} images{': write labels.argmax(1)' if one_hot else ''}"
        )
    labels = flat
    if int(labels.min()) < 0:
        raise DataError(f"--data {path}: label {int(labels.min())} occurs; labels count from 0")
    return torch.from_numpy(labels.astype(np.int64))
