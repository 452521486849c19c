"""Groups: named in npz files or by a CSV file, they lie on one side of every split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.dealing import split_groups
from eed_search.data.reading import read
from eed_search.data.sources import load_images
from tests.data.test_wild_folders import SMALL, data, fill

GTSRB = Path(__file__).parents[3] / "shared" / "data" / "gtsrb"


def pixels(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 8, 8, 3)).astype(np.uint8)


def npz(folder: Path, **changes: object) -> Data:
    return Data.model_validate({"source": "npz", "path": str(folder)} | SMALL | changes)


def saved(folder: Path, num: int = 200, **arrays: object) -> Path:
    """Save training and test images of four classes."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "train.npz", images=pixels(num), labels=np.arange(num) // 5 % 4, **arrays)
    np.savez(folder / "test.npz", images=pixels(40, 1), labels=np.arange(40) % 4)
    return folder


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("text", [False, True])
def test_no_group_is_in_two_splits(tmp_path: Path, seed: int, text: bool) -> None:
    """Numbers or text; each split has as many images as asked for."""
    groups = np.arange(200) // 5
    saved(tmp_path, groups=np.array([f"patient {g}" for g in groups]) if text else groups)
    dealt = read(npz(tmp_path), seed)
    held = [set(groups[index].tolist()) for name, (_, index) in dealt.splits.items() if name != "test"]
    assert sum(map(len, held)) == len(set.union(*held))
    assert dealt.facts.num_images == {"train": 180, "validation": 10, "fresh": 10, "test": 10}
    assert dealt.facts.num_groups == 40
    assert "40 groups, none divided" in dealt.facts.line()


def test_groups_of_uneven_size_leave_the_rest_out() -> None:
    """The last group of a split gives only what is asked for; nobody gets the others."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 300)
    labels = groups % 3
    dealt = split_groups(labels, groups, {"validation": 50, "fresh": 20, "train": 230}, 0)
    assert [len(dealt[name]) for name in ("validation", "fresh")] == [50, 20]
    held = [set(groups[index].tolist()) for index in dealt.values()]
    assert sum(map(len, held)) == len(set.union(*held)) == 30
    assert len(dealt["train"]) < 230


def test_groups_keep_the_shares_of_the_classes() -> None:
    """Within a group's size of the exact share."""
    groups = np.arange(1000) // 5
    labels = (groups >= 120).astype(int) + (groups >= 180)
    (index, *_) = split_groups(labels, groups, {"validation": 200, "train": 800}, 1).values()
    assert np.abs(np.bincount(labels[index]) - np.array([120, 60, 20])).max() <= 10


def test_too_few_groups_are_said() -> None:
    """Two groups cannot be three splits."""
    with pytest.raises(DataError, match="2 groups of together 20 images cannot be dealt into"):
        split_groups(np.zeros(20, int), np.arange(20) // 10, {"validation": 5, "fresh": 5, "test": 5, "train": 5}, 0)


def test_a_group_of_two_given_splits_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, groups=np.arange(200) // 5)
    np.savez(tmp_path / "test.npz", images=pixels(40, 1), labels=np.arange(40) % 4, groups=np.arange(40) + 39)
    with pytest.raises(DataError, match=r"a group has images in train \(image 195\) and in test \(image 0\)"):
        read(npz(tmp_path), 0)


def test_a_csv_file_names_the_groups_of_an_image_folder(tmp_path: Path) -> None:
    """By path; with or without a heading, beside the file or in the data's folder."""
    fill(tmp_path / "d")
    rows = [f"{name}/{i:03}.png,{name}{i // 4}" for name in "ab" for i in range(40)]
    (tmp_path / "d" / "groups.csv").write_text("\n".join(["path,group", *rows]))
    for path in ("groups.csv", str(tmp_path / "d" / "groups.csv")):
        dealt = read(data(tmp_path / "d", groups=path), 0)
        names = dealt.raw.train.names
        held = [{(names[i][0], int(names[i][2:5]) // 4) for i in index} for _, index in dealt.splits.values()]
        assert sum(map(len, held)) == len(set.union(*held)) == 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a/000.png,1", r"names no group for 79 of 80 images \(a/001\.png, .* and 74 more\)"),
        ("a/000.png,1,2", "row 1 is 'a/000.png,1,2'; needs two columns"),
        ("a/000.png,1\na/000.png,2", "gives a/000.png the groups 1 and 2; give it one"),
    ],
)
def test_a_wrong_csv_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    fill(tmp_path / "d")
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read(data(tmp_path / "d", groups=str(tmp_path / "g.csv")), 0)


def test_class_names_of_npz_files_are_kept(tmp_path: Path) -> None:
    """They say how many classes there are, and classes without images are named."""
    saved(tmp_path, class_names=np.array(["stop", "yield", "50", "70", "100"]))
    dealt = read(npz(tmp_path), 0)
    assert dealt.raw.class_names == ("stop", "yield", "50", "70", "100")
    assert "no image at all of class 100" in dealt.facts.line()


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        (np.arange(200) % 10 + 1, None, ""),
        (np.where(np.arange(200) == 7, 1_000_000, np.arange(200) % 10), None, r"labels reach 1000000, and only 11 of"),
        (np.where(np.arange(200) % 2, 0, 300), None, r"number the classes from 0 without gaps"),
        (np.full(200, 3), None, "all labels are 3; a classifier needs at least two classes"),
        (np.arange(200) % 4, ["a", "b"], r"label 3 occurs, and `class_names` has 2 names \(labels 0\.\.1\)"),
        (np.arange(200) % 2, ["a", "a"], "`class_names` holds 'a' twice"),
        (np.eye(4, dtype=int)[np.arange(200) % 4], None, r"write labels\.argmax\(1\)"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_meant_are_refused(tmp_path: Path, labels: np.ndarray, names: list[str] | None, said: str) -> None:  # fmt: skip
    """Labels from 1 leave class 0 without images, which is said; a million classes are no one's wish."""
    more = {} if names is None else {"class_names": np.array(names)}
    np.savez(tmp_path / "train.npz", images=pixels(200), labels=labels, **more)
    np.savez(tmp_path / "test.npz", images=pixels(20, 1), labels=np.ones(20, int))
    if said:
        with pytest.raises(DataError, match=said):
            load_images(npz(tmp_path))
    else:
        assert "no image at all of class 0" in read(npz(tmp_path), 0).facts.line()


@pytest.mark.parametrize("name", ["val.npz", "validation-0.npz", "dev.npz"])
def test_validation_files_are_the_validation_split(tmp_path: Path, name: str) -> None:
    np.savez(saved(tmp_path) / name, images=pixels(12, 2), labels=np.arange(12) % 4)
    facts = read(npz(tmp_path), 0).facts
    assert facts.num_images == {"train": 190, "validation": 10, "fresh": 10, "test": 10}
    assert facts.came_from["validation"] == name


@pytest.mark.skipif(not GTSRB.is_dir(), reason="needs GTSRB as npz beside the checkout, in ../shared/data/gtsrb")
def test_real_traffic_signs_are_split_by_sign() -> None:
    """1,307 signs of ten frames: none in two splits, and the three training images that the test set holds too are left out."""
    dealt = read(Data(source="npz", path=str(GTSRB), num_validation=1000, num_fresh=1000), 0)
    groups = dealt.raw.train.groups
    held = [set(groups[index].tolist()) for name, (_, index) in dealt.splits.items() if name != "test"]
    assert sum(map(len, held)) == len(set.union(*held)) == 1307
    assert dealt.facts.left_out[0] == (3, "of train: of the same content as test or validation images")
