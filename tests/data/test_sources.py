"""Sources: what they give, and what they say of bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.sources import load_images, readable

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


def save(folder: Path, name: str, **arrays: Any) -> None:
    np.savez(folder / name, **arrays)


def images(count: int = 20, shape: tuple[int, ...] = (8, 8, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    labels = np.arange(20) % 4
    save(tmp_path, "train-0.npz", images=images(), labels=labels)
    save(tmp_path, "train-1.npz", images=images(), labels=labels)
    save(tmp_path, "test.npz", images=images(), labels=labels)
    return tmp_path


def load(folder: Path) -> Any:
    return load_images(Data(source="npz", path=str(folder)))


def test_npz_files_are_joined_in_order_of_name(folder: Path) -> None:
    """Two training shards make one training set."""
    raw = load(folder)
    assert len(raw.train) == 40
    assert len(raw.test) == 20
    assert raw.num_classes == 4


def test_the_identity_is_that_of_the_bytes(folder: Path) -> None:
    """One pixel changed, another identity: no stage is reused by mistake."""
    before = load(folder).identity
    assert load(folder).identity == before
    changed = images()
    changed[0, 0, 0, 0] ^= 1
    save(folder, "test.npz", images=changed, labels=np.arange(20) % 4)
    assert load(folder).identity != before


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, r"holds \['x'\]; needs `images` \(uint8, NHWC\) and `labels`"),
        ({"images": images().astype(np.float32), "labels": np.zeros(20, int)}, r"`images` is float32 of shape \(20, 8, 8, 3\)"),
        ({"images": images(shape=(3, 8, 8)), "labels": np.zeros(20, int)}, r"needs uint8, NHWC, 1 or 3 channels"),
        ({"images": images(), "labels": np.zeros(19, int)}, r"length 19; needs one integer for each of the 20"),
        ({"images": images(), "labels": np.zeros(20)}, r"`labels` is float64"),
        ({"images": images(), "labels": np.full(20, -1)}, r"label -1; labels count from 0"),
        ({"images": images(), "labels": np.full(20, 9)}, r"test label 9 never occurs in training \(classes 0..3\)"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_what_is_wrong(folder: Path, arrays: dict[str, Any], message: str) -> None:
    """Where, what was given, what is needed."""
    save(folder, "test.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_a_corrupt_file_is_named(folder: Path) -> None:
    """Cut off in the middle, as a broken copy is."""
    whole = (folder / "train-1.npz").read_bytes()
    (folder / "train-1.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-1\.npz: is corrupt or not an npz file"):
        load(folder)


def test_pickled_arrays_are_refused(folder: Path) -> None:
    """Nothing is unpickled."""
    save(folder, "test.npz", images=np.array([{"a": 1}], dtype=object), labels=np.zeros(1, int))
    with pytest.raises(DataError, match=r"test\.npz: is corrupt or not an npz file"):
        load(folder)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    """An empty folder says which files it needs."""
    with pytest.raises(DataError, match=r"holds no train\*\.npz"):
        load(tmp_path)


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="needs CIFAR-10 as npz beside the checkout, in ../shared/data/cifar10")
def test_real_cifar10_is_read() -> None:
    """50,000 and 10,000 images of ten classes, equally many each."""
    raw = load(CIFAR10)
    assert raw.train.images.shape == (50_000, 32, 32, 3)
    assert np.bincount(raw.train.labels).tolist() == [5000] * 10
    assert np.bincount(raw.test.labels).tolist() == [1000] * 10


def test_torchvision_s_cifar10_is_read(tmp_path: Path) -> None:
    """A folder in CIFAR-10's own format, read by torchvision beside whatever torch is installed."""
    import hashlib
    import pickle

    from eed_search.models.torchvision_door import torchvision

    dataset = torchvision("datasets").CIFAR10
    root = tmp_path / dataset.base_folder
    root.mkdir()
    generator = np.random.default_rng(0)
    listed = []
    for name in [name for name, _ in dataset.train_list] + [name for name, _ in dataset.test_list]:
        data = generator.integers(0, 256, (10, 3072)).astype(np.uint8)
        content = pickle.dumps({"data": data, "labels": list(range(10))})
        (root / name).write_bytes(content)
        listed.append([name, hashlib.md5(content).hexdigest()])
    meta = pickle.dumps({"label_names": list("abcdefghij")})
    (root / dataset.meta["filename"]).write_bytes(meta)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "train_list", listed[:5])
        patch.setattr(dataset, "test_list", listed[5:])
        patch.setattr(dataset, "meta", {**dataset.meta, "md5": hashlib.md5(meta).hexdigest()})
        raw = load_images(Data(source="cifar10", path=str(tmp_path)))
    assert raw.train.images.shape == (50, 32, 32, 3)
    assert raw.test is not None
    assert len(raw.test) == 10


def test_cifar10_that_is_altered_is_refused(tmp_path: Path) -> None:
    """Torchvision checks sums; we say what to do."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="holds no CIFAR-10 and it cannot be downloaded"):
        load_images(Data(source="cifar10", path=str(tmp_path)))


@pytest.mark.parametrize("source", ["npz", "svhn", "image_folder"])
def test_a_folder_that_is_not_there_is_said(tmp_path: Path, source: str) -> None:
    """Before anything is read."""
    assert readable(Data(source=source, path=str(tmp_path / "none"))) == [
        f"data.path: {tmp_path / 'none'} is not a folder; give the data's folder (in the file or by --data)"
    ]


def test_a_download_makes_its_folder(tmp_path: Path) -> None:
    """CIFAR-10 goes where it is asked to; a file cannot be that place."""
    assert readable(Data(source="cifar10", path=str(tmp_path / "none"))) == []
    (tmp_path / "file").touch()
    (problem,) = readable(Data(source="cifar10", path=str(tmp_path / "file")))
    assert problem.startswith(f"data.path: {tmp_path / 'file'} is not a folder")
