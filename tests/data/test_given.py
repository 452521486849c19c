"""Images that a user gives: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eed_search.core.errors import DataError
from eed_search.data.given import read_given


def save(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    np.savez(folder / "given.npz", images=images, labels=labels)
    return folder / "given.npz"


def test_whole_numbers_are_channels_last_and_fractions_channels_first(tmp_path: Path) -> None:
    labels = np.arange(4)
    whole = read_given(save(tmp_path, np.full((4, 6, 5, 3), 51, np.uint8), labels), test=False)
    assert whole.split.images.shape == (4, 3, 6, 5)
    assert float(whole.split.images.max()) == pytest.approx(0.2)
    fractions = read_given(save(tmp_path, np.full((4, 3, 6, 5), 0.2), labels), test=False)
    assert bool((fractions.split.images == whole.split.images).all())
    assert fractions.name == "given"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.full((4, 1, 2, 2), 1.5), np.arange(4), r"values from 1.5 to 1.5; needs \[0, 1\]"),
        (np.full((4, 1, 2, 2), -0.1), np.arange(4), r"needs \[0, 1\]"),
        (np.full((4, 1, 2, 2), np.nan), np.arange(4), "holds NaN in 4 of 4"),
        (np.full((4, 1, 2, 2), 0.5), np.array([0, 1, -1, 2]), "label -1 occurs; labels count from 0"),
        (np.full((4, 1, 2, 2), 0.5), np.arange(3), "one whole number for each of the 4 images"),
        (np.full((4, 1, 2, 2), 0.5), np.arange(4.0), "`labels` is float64"),
        (np.zeros((0, 1, 2, 2)), np.arange(0), "needs at least one image"),
        (np.zeros((4, 1, 2, 2), int), np.arange(4), "`images` is int64"),
        (np.zeros((4, 1, 2, 2)), np.arange(4), "nearly black"),
        (np.ones((4, 2, 2, 1), np.uint8), np.arange(4), "floats cut off to uint8"),
        (
            np.full((4, 3, 8, 9), 7, np.uint8),
            np.arange(4),
            r"so 9 would be its channels.*write images.transpose\(0, 2, 3, 1\)",
        ),
        (np.full((4, 8, 9, 3), 0.5), np.arange(4), r"so 8 would be its channels.*write images.transpose\(0, 3, 1, 2\)"),
        (np.full((4, 1, 2, 2), 0.5), np.eye(4), r"write labels.argmax\(1\)"),
    ],
)
def test_what_means_nothing_is_refused(tmp_path: Path, images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_given(save(tmp_path, images, labels), test=True)


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("text.npz", "array.npy"):
        with pytest.raises(DataError, match=name):
            read_given(tmp_path / name, test=True)
    with pytest.raises(DataError, match=r"gone.npz: cannot be read \(No such file"):
        read_given(tmp_path / "gone.npz", test=True)


def test_a_folders_test_images_are_for_tier_2_alone(tmp_path: Path) -> None:
    for name in ("train", "test"):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros((4, 2, 2, 1), np.uint8), labels=np.arange(4))
    assert read_given(tmp_path, test=True).name == "test"
    with pytest.raises(DataError, match="test images are for tier 2 alone"):
        read_given(tmp_path, test=False)
