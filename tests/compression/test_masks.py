"""Masks keep exact counts."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from eed_search.compression.masks import layer_masks, masked_size_bytes, top_mask


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.001, 1.0))
def test_a_mask_keeps_exactly_the_asked_count_even_with_ties(values, fraction):
    """max(1, round(fraction * n)) entries, however many scores are equal."""
    score = torch.tensor(values, dtype=torch.float32)
    mask = top_mask(score, fraction)
    assert int(mask.sum()) == max(1, round(fraction * len(values)))
    if not bool(mask.all()):
        assert float(score[mask].min()) >= float(score[~mask].max())


def test_of_equal_scores_the_earlier_entry_is_kept():
    """The tie-break is stable, so the same scores give the same mask everywhere."""
    assert top_mask(torch.ones(2, 3), 0.5).tolist() == [[True, True, True], [False, False, False]]


def test_every_layer_keeps_the_same_fraction():
    """The budget is layer-wise."""
    masks = layer_masks({"a": torch.rand(4, 5), "b": torch.rand(100)}, 0.25)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"a": 5, "b": 25}


def test_a_masked_network_ships_its_kept_weights_and_a_bitmap():
    """100 parameters, 80 of them masked to 8: (100 - 80 + 8) floats and 80 bits."""
    mask = torch.zeros(80, dtype=torch.bool)
    mask[:8] = True
    assert masked_size_bytes(100, {"w": mask}) == 4 * 28 + 10
