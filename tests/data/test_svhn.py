"""SVHN: torchvision's files, an npz stand-in, and how to get what is not there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.sources import load_images, readable
from eed_search.models.torchvision_door import torchvision


def data(folder: Path) -> Data:
    return Data(source="svhn", path=str(folder))


@pytest.fixture
def mat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in SVHN's own format: height × width × channels × samples, the digit 0 as label 10."""
    from scipy.io import savemat

    dataset, listed = torchvision("datasets").SVHN, {}
    for i, split in enumerate(("train", "test")):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3, 20)).astype(np.uint8)
        file = tmp_path / f"{split}_32x32.mat"
        savemat(file, {"X": pixels, "y": (np.arange(20) % 10 + 1)[:, None].astype(np.uint8)})
        listed[split] = ["nowhere", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(dataset, "split_list", listed)
    return tmp_path


def test_torchvision_s_files_are_read(mat: Path) -> None:
    """Channels last, label 10 as class 0."""
    raw = load_images(data(mat))
    assert raw.train.images.shape == (20, 32, 32, 3)
    assert raw.train.labels.tolist() == [*range(1, 10), 0] * 2
    expected = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20)).astype(np.uint8)
    np.testing.assert_array_equal(raw.train.images[7], expected[..., 7])
    assert raw.test is not None
    assert len(raw.test) == 20


def test_an_altered_file_is_refused(mat: Path) -> None:
    """Torchvision knows its sum; we say what to do."""
    with (mat / "test_32x32.mat").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"test_32x32\.mat is missing or altered .*get train_32x32\.mat and"):
        load_images(data(mat))


def test_npz_files_stand_in(tmp_path: Path) -> None:
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", images=np.zeros((20, 32, 32, 3), np.uint8), labels=np.arange(20) % 10)
    assert readable(data(tmp_path)) == []
    assert load_images(data(tmp_path)).num_classes == 10


def test_what_is_absent_is_not_downloaded_but_explained(tmp_path: Path) -> None:
    """`check` says the same, and so does half of it."""
    with pytest.raises(DataError, match=r"holds no SVHN \(train_32x32\.mat and .*housenumbers/ \(246 MB") as caught:
        load_images(data(tmp_path))
    assert readable(data(tmp_path)) == [str(caught.value)]
    (tmp_path / "train_32x32.mat").write_bytes(b"")
    assert "lacks test_32x32.mat; get" in readable(data(tmp_path))[0]
    assert not list(tmp_path.glob("test*"))
