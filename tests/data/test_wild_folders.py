"""Folders of images as people have them: hidden copies, splits by many names, copies under new names, rare classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.image_folder import problems
from eed_search.data.reading import Dealt, read
from eed_search.data.sources import load_images
from eed_search.data.splits import load_splits
from eed_search.runs.data_facts import DataFacts
from tests.data.test_image_folder import draw

SMALL = {"num_validation": 10, "num_fresh": 10, "num_test": 10}


def fill(folder: Path, classes: str = "ab", num: int = 40, first: int = 0) -> Path:
    """Draw images, each of its own content."""
    for k, name in enumerate(classes):
        for i in range(num):
            draw(folder / name / f"{i:03}.png", seed=first + 1000 * k + i)
    return folder


def data(folder: Path, **changes: object) -> Data:
    return Data.model_validate({"source": "image_folder", "path": str(folder)} | SMALL | changes)


def contents(dealt: Dealt, split: str) -> list[bytes]:
    images, index = dealt.splits[split]
    return [one.tobytes() for one in images.images[index]]


@pytest.mark.parametrize(
    "hidden",
    [
        "a/.ipynb_checkpoints/0-checkpoint.png",
        "a/@eaDir/x.jpg",
        "__MACOSX/a/0.png",
        "a/deep/.cache/0.png",
        "b/._0.png",
        ".thumbs/0.png",
        "a/$RECYCLE.BIN/0.png",
        "System Volume Information/0.png",
        "b/sub/@eaDir/deeper/0.jpeg",
    ],
)
def test_hidden_and_system_folders_are_left_out_and_counted(tmp_path: Path, hidden: str) -> None:
    """At any depth; as if they were not there."""
    before = load_images(data(fill(tmp_path)))
    (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / "a" / "000.png", tmp_path / hidden)
    after = read(data(tmp_path), 0)
    assert after.raw.identity == before.identity
    assert after.raw.class_names == ("a", "b")
    ((count, why),) = after.facts.left_out
    assert count == 1
    assert why.startswith("hidden or in folders of the system (")


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val"])
def test_a_validation_folder_is_the_validation_split(tmp_path: Path, name: str) -> None:
    """Nothing is cut from train/ for it, and the line says where it is from."""
    fill(tmp_path / "train")
    fill(tmp_path / name, num=8, first=5000)
    dealt = read(data(tmp_path), 0)
    assert dealt.facts.num_images == {"train": 60, "validation": 10, "fresh": 10, "test": 10}
    assert dealt.facts.came_from["validation"] == f"{name}/"
    given = {one.tobytes() for one in load_images(data(tmp_path)).sets.validation.images}
    assert set(contents(dealt, "validation")) <= given
    assert not set(contents(dealt, "train")) & given
    assert "6 of validation: more than data.num_validation" in dealt.facts.line()


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["Training/a", "Training/b", "Testing/a", "Testing/b"], "rename Testing to test, Training to train"),
        (["train/a", "train/b", "Testing/a"], "Testing in .* looks like a split, not like a class; rename Testing to test"),
        (["training_set/a", "training_set/b", "test_set/a"], "rename test_set to test, training_set to train"),
        (["train2017/a", "val2017/a"], "rename train2017 to train, val2017 to val"),
        (["test/a", "test/b", "val/a", "val/b"], "test and val in .* a train/ with a sub-folder for each class is needed"),
        (["train", "test"], "look like splits, not like classes; a train/ with"),
        (["Training/a", "Training/b"], "Training in .* looks like a split"),
        (["train/a", "train/b", "val/a", "valid/a"], "val and valid, which are the same split; keep one"),
        (["a/train", "a/test", "b/train"], "a holds test and train: splits inside of a class"),
        (["images/train/a", "images/train/b"], r"only the class images"),
    ],
)  # fmt: skip
def test_folders_that_look_like_splits_are_no_classes(tmp_path: Path, folders: list[str], said: str) -> None:
    """Refused with the fix, before an image is read."""
    for i, folder in enumerate(folders):
        draw(tmp_path / folder / "0.png", seed=i)
    with pytest.raises(DataError, match=said):
        load_images(data(tmp_path))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """Of vehicles, say: alone among names that are no splits."""
    for name in ("train", "bus", "car"):
        draw(tmp_path / name / "0.png")
    assert problems(data(tmp_path)) == []
    assert load_images(data(tmp_path)).class_names == ("bus", "car", "train")


def test_numbers_sort_as_numbers(tmp_path: Path) -> None:
    """Class 10 comes after class 9; text sorts as text."""
    for name in ("10", "9", "1"):
        draw(tmp_path / name / "0.png")
    assert load_images(data(tmp_path)).class_names == ("1", "9", "10")
    draw(tmp_path / "x" / "0.png")
    assert load_images(data(tmp_path)).class_names == ("1", "10", "9", "x")


def test_copies_under_new_names_are_in_one_split(tmp_path: Path) -> None:
    """By their pixels, so also where a copy was saved anew; by the files' bytes where only some images are decoded."""
    fill(tmp_path)
    for i in range(0, 40, 3):
        Image.open(tmp_path / "a" / f"{i:03}.png").save(tmp_path / "a" / f"copy{i}.png", compress_level=1)
        shutil.copy(tmp_path / "b" / f"{i:03}.png", tmp_path / "b" / f"copy{i}.png")
    for seed in range(5):
        dealt = read(data(tmp_path), seed)
        assert dealt.facts.num_twins == 4 * 14
        splits = [set(contents(dealt, name)) for name in ("train", "validation", "fresh", "test")]
        assert sum(map(len, splits)) == len(set().union(*splits))
    for path in (tmp_path / "a").glob("copy*"):
        path.unlink()
    some = load_splits(data(tmp_path, num_train=30), 0)
    rows = [{one.numpy().tobytes() for one in part.images} for part in (some.train, some.validation, some.test)]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]


def test_what_is_tested_on_is_not_trained_on(tmp_path: Path) -> None:
    """A copy of a test image in train/ is left out of training, and counted."""
    fill(tmp_path / "train")
    fill(tmp_path / "test", num=10, first=7000)
    shutil.copy(tmp_path / "test" / "b" / "003.png", tmp_path / "train" / "b" / "new.png")
    dealt = read(data(tmp_path, num_test=None), 0)
    assert not set(contents(dealt, "train")) & set(contents(dealt, "test"))
    assert dealt.facts.left_out == ((1, "of train: of the same content as test or validation images"),)


def test_one_content_under_two_labels_is_refused_with_its_files(tmp_path: Path) -> None:
    """Or left out on demand, all copies of it."""
    fill(tmp_path)
    shutil.copy(tmp_path / "a" / "004.png", tmp_path / "b" / "z.png")
    with pytest.raises(DataError, match=r"1 image of the same content under different labels(.|\n)*a/004\.png \(a\) = b/z\.png \(b\)"):  # fmt: skip
        read(data(tmp_path), 0)
    dealt = read(data(tmp_path, contradictions="leave_out"), 0)
    assert sum(dealt.facts.num_images.values()) == 79
    assert dealt.facts.left_out[0][0] == 2


@pytest.mark.parametrize("num", [1, 2, 3])
def test_a_class_too_small_for_every_split_is_named(tmp_path: Path, num: int) -> None:
    """With its count and what it needs."""
    fill(tmp_path)
    fill(tmp_path, "c", num, first=9000)
    with pytest.raises(DataError, match=rf"class c has {num} image.*train, validation, fresh and test, so it needs 4"):
        read(data(tmp_path), 0)


def test_a_class_that_a_split_lacks_is_said(tmp_path: Path) -> None:
    """Rare, but trained: a word in the line."""
    fill(tmp_path, num=200)
    fill(tmp_path, "c", 4, first=9000)
    assert "no validation image of class c" in read(data(tmp_path), 0).facts.line() or "no fresh image of class c" in read(data(tmp_path), 0).facts.line()  # fmt: skip


def test_only_what_is_used_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With num_train the others' pixels are never asked for."""
    fill(tmp_path, num=100)
    from PIL import ImageOps

    decoded = []
    turn = ImageOps.exif_transpose
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image: decoded.append(1) or turn(image))
    splits = load_splits(data(tmp_path, num_train=20), 0)
    assert len(decoded) == len(splits.train) + len(splits.validation) + len(splits.fresh) + len(splits.test) == 50


def test_the_line_survives_the_ledger(tmp_path: Path) -> None:
    """Through JSON and back."""
    import json

    facts = read(data(fill(tmp_path)), 0).facts
    assert DataFacts.of(json.loads(json.dumps(facts.to_plain()))) == facts
    assert facts.line() == (
        "2 classes (a, b), images 8×8 RGB; train 50, validation 10, fresh 10, test 10, all cut from the folder"
    )


def test_the_old_deal_stands_where_nothing_is_new() -> None:
    """Digits hold no twins: as many images of each split as ever, from the counts alone."""
    splits = load_splits(Data(num_test=200), 0)
    assert splits.facts is not None
    assert splits.facts.num_twins == 0
    assert np.array_equal(splits.test.labels[:5].numpy(), load_splits(Data(num_test=200), 0).test.labels[:5].numpy())
