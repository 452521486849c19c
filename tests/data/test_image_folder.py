"""Folders of images: classes by name, sizes, colours, splits, and all that can be wrong with them at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.image_folder import digests
from eed_search.data.sources import load_images, readable
from eed_search.data.splits import load_splits


def draw(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(30):
        draw(tmp_path / ("dog" if i % 3 else "cat") / f"{i:02}.png", seed=i)
    return tmp_path


def data(folder: Path, **changes: object) -> Data:
    return Data.model_validate({"source": "image_folder", "path": str(folder)} | changes)


def test_classes_are_numbered_by_name(folder: Path) -> None:
    """Cats before dogs; pixels as they are in the files."""
    raw = load_images(data(folder))
    assert raw.test is None
    assert raw.train.labels.tolist() == [0] * 10 + [1] * 20
    assert raw.train.images.shape == (30, 8, 8, 3)
    np.testing.assert_array_equal(raw.train.images[0], np.asarray(Image.open(folder / "cat" / "00.png")))


def test_train_and_test_folders_are_the_splits(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("both")
    shutil.copytree(folder, root / "train")
    draw(root / "test" / "dog" / "a.JPG")
    raw = load_images(data(root))
    assert raw.test is not None
    assert raw.test.labels.tolist() == [1]
    assert len(raw.train) == 30


def test_a_share_is_cut_off_for_claims(folder: Path) -> None:
    """The same images each time, of each class in proportion, and in no other split."""
    small = {"num_validation": 10, "num_fresh": 10}
    raw = load_images(data(folder))
    with pytest.raises(DataError, match="4 of 30 images are left to train on"):
        load_splits(data(folder, test_share=0.2, **small), 0)
    for i in range(30, 60):
        draw(folder / ("dog" if i % 3 else "cat") / f"{i:02}.png", seed=i)
    one, again = (load_splits(data(folder, test_share=0.2, **small), 0) for _ in range(2))
    assert (len(one.test), len(one.train)) == (12, 28)
    assert one.test.labels.bincount().tolist() == [4, 8]
    assert one.key == again.key
    assert bool((one.test.images == again.test.images).all())
    assert len(raw.train) == 30


def test_images_are_scaled_and_their_middle_is_taken(folder: Path) -> None:
    """Of a wide image the middle square stays, in its proportions."""
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(folder / "cat" / "wide.png")
    raw = load_images(data(folder, image_size=5))
    assert raw.train.images.shape == (31, 5, 5, 3)
    assert raw.train.images[10].min() > 150  # squeezed, its sides would be black


def test_grey_images_have_one_channel(folder: Path) -> None:
    """One coloured image among them makes all RGB."""
    for path in folder.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert load_images(data(folder)).train.images.shape == (30, 8, 8, 1)
    draw(folder / "cat" / "99.png")
    assert load_images(data(folder)).train.images.shape == (31, 8, 8, 3)


def test_everything_wrong_with_the_images_is_said_at_once(folder: Path) -> None:
    """A broken file, one that ends too early, another size, another depth; each with what to do."""
    (folder / "cat" / "broken.png").write_bytes(b"no image")
    whole = (folder / "dog" / "01.png").read_bytes()
    (folder / "dog" / "01.png").write_bytes(whole[: len(whole) // 2])
    draw(folder / "dog" / "large.png", (9, 12))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "dog" / "deep.png")
    with pytest.raises(DataError) as caught:
        load_images(data(folder))
    said = str(caught.value).splitlines()
    assert len(said) == 4
    assert "cat/broken.png: is corrupt, or no PNG or JPEG" in said[0]
    assert "dog/01.png: is corrupt" in said[1]
    assert said[2].endswith("dog/deep.png: has pixels of kind I;16; save it with 8 bits a channel")
    assert "dog/large.png: is 9×12, " in said[3]
    assert said[3].endswith("00.png is 8×8; set data.image_size to scale all alike")


def test_a_folder_of_the_wrong_form_is_refused_before_an_image_is_opened(tmp_path: Path) -> None:
    """An empty class, a format that is not read; `check` says so too."""
    draw(tmp_path / "cat" / "a.png")
    assert readable(data(tmp_path)) == [
        f"data.path: {tmp_path} holds only the class cat; a classifier needs a sub-folder for each of two classes or more"
    ]
    (tmp_path / "dog").mkdir()
    (tmp_path / "cat" / "b.gif").write_bytes(b"")
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load_images(data(tmp_path))
    assert str(caught.value).splitlines() == [
        f"data.path: {tmp_path / 'dog'} holds no PNG or JPEG; add images, or take the class away",
        f"data.path: {tmp_path / 'cat' / 'b.gif'} is neither PNG nor JPEG; convert it, or take it away",
    ]
    draw(tmp_path / "train" / "cat" / "a.png")
    draw(tmp_path / "train" / "dog" / "a.png")
    draw(tmp_path / "test" / "cow" / "a.png")
    assert readable(data(tmp_path, test_share=0.5)) == [
        f"data.test_share: {tmp_path} has test images of its own in test/; leave it out",
        f"data.path: {tmp_path / 'test' / 'cow'} is a class that {tmp_path / 'train'} lacks; add it there, or take it away",
    ]


def test_an_empty_folder_says_what_it_needs(tmp_path: Path) -> None:
    assert "holds no sub-folder; a classifier needs" in readable(data(tmp_path))[0]


def test_a_changed_image_shows_in_its_class(folder: Path) -> None:
    """What a resumed search compares: one line for each class."""
    before = digests(folder)
    assert list(before) == ["cat", "dog"]
    draw(folder / "dog" / "01.png", seed=99)
    after = digests(folder)
    assert before["cat"] == after["cat"]
    assert before["dog"] != after["dog"]
