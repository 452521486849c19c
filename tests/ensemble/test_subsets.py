"""The members' training images."""

import pytest

from eed_search.ensemble.subsets import subset_indices


def test_parts_share_exactly_a_quarter():
    """Two parts have the shared quarter in common and nothing else; three cover everything."""
    parts = [set(subset_indices(1000, part, seed=1).tolist()) for part in range(3)]
    assert [len(part) for part in parts] == [500, 500, 500]
    assert len(parts[0] & parts[1]) == 250
    assert parts[0] & parts[1] == parts[1] & parts[2]
    assert len(parts[0] | parts[1] | parts[2]) == 1000


def test_another_seed_shuffles_anew():
    """Each score gets its own shuffle."""
    assert set(subset_indices(1000, 0, 1).tolist()) != set(subset_indices(1000, 0, 2).tolist())


@pytest.mark.parametrize(("count", "part"), [(3, 0), (100, 3), (100, -1)])
def test_impossible_parts_are_refused(count, part):
    """Too few images, or a part that does not exist."""
    with pytest.raises(ValueError, match=r"need part 0\.\.2"):
        subset_indices(count, part, 0)
