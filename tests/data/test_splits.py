"""Splits are disjoint, fixed by the seed, and balanced."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.dealing import split_indices
from eed_search.data.splits import load_splits


def test_no_image_is_in_two_splits() -> None:
    """Digits: train, validation, fresh and test together are all 1,797 images, each once."""
    splits = load_splits(Data(num_test=200), seed=0)
    parts = [splits.train, splits.validation, splits.fresh, splits.test]
    assert [len(part) for part in parts] == [1097, 300, 200, 200]
    from sklearn.datasets import load_digits

    def as_rows(images: torch.Tensor) -> list[bytes]:
        return sorted(row.tobytes() for row in (images * 16).round().to(torch.uint8).flatten(1).numpy())

    everything = torch.from_numpy(load_digits().images / 16).float()
    assert as_rows(torch.cat([part.images[:, 0] for part in parts])) == as_rows(everything)


@pytest.mark.parametrize("seed", range(5))
def test_dealt_indices_are_disjoint_and_exact(seed: int) -> None:
    """Whatever the classes, each split has its count and no index twice."""
    labels = np.random.default_rng(seed).integers(0, 7, 500)
    dealt = split_indices(labels, {"a": 100, "b": 33, "c": 250}, seed)
    assert {name: len(index) for name, index in dealt.items()} == {"a": 100, "b": 33, "c": 250}
    assert len(np.unique(np.concatenate(list(dealt.values())))) == 383


def test_every_split_holds_the_classes_in_their_shares() -> None:
    """Within two samples of the exact share, in unbalanced data too."""
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    for index in split_indices(labels, {"a": 100, "b": 200}, 0).values():
        counts = np.bincount(labels[index], minlength=3)
        assert np.abs(counts - len(index) * np.array([0.6, 0.3, 0.1])).max() <= 2


def test_the_seed_fixes_the_splits() -> None:
    """Same seed, same images in the same order; another seed, others."""
    first, again, other = (load_splits(Data(), seed) for seed in (0, 0, 1))
    assert torch.equal(first.validation.images, again.validation.images)
    assert first.key == again.key != other.key
    assert not torch.equal(first.validation.labels, other.validation.labels)


def test_a_search_holds_no_image_for_claims() -> None:
    """The other splits and the key are as with them."""
    with_them, without = (load_splits(Data(), 0, test=test) for test in (True, False))
    assert (len(with_them.test), len(without.test)) == (200, 0)
    assert with_them.key == without.key
    assert torch.equal(with_them.train.images, without.train.images)


def test_pixels_are_on_zero_to_one() -> None:
    """The 16 grey levels of digits reach exactly 1."""
    images = load_splits(Data(), 0).train.images
    assert float(images.min()) == 0
    assert float(images.max()) == 1
    assert images.shape[1:] == (1, 8, 8)


def test_grey_images_lie_in_memory_as_they_always_did() -> None:
    """Their strides decide which kernels torch takes, so the last bits of every stage's result hang on them."""
    images = load_splits(Data(), 0).train.images
    taken = np.zeros((1797, 8, 8, 1), np.uint8)[np.arange(len(images))]
    before = torch.from_numpy(taken).permute(0, 3, 1, 2).float().contiguous()
    assert images.stride() == before.stride()


def test_moments_are_those_of_the_images() -> None:
    """To the digits that a network's normalisation keeps."""
    splits = load_splits(Data(), 0)
    std, mean = torch.std_mean(splits.train.images.double(), dim=(0, 2, 3))
    assert splits.mean == tuple(round(float(m), 4) for m in mean)
    assert splits.std == tuple(round(float(s), 4) for s in std)


def test_asking_for_more_than_there_is_names_the_keys() -> None:
    """The message says what to lower."""
    with pytest.raises(DataError, match=r"300 images asked for, the source has 200; lower num_train"):
        split_indices(np.zeros(200, int), {"a": 300}, 0)
