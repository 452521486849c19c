"""The two ways to remove columns compute what the masked convolution computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.columns import Gathered, Shifts
from eed_search.compression.projections import column


@pytest.mark.parametrize("form", [Shifts, Gathered])
@pytest.mark.parametrize("kept", [1.0, 0.3, 0.01])
def test_both_forms_equal_the_masked_convolution(form: type[Shifts], kept: float) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 7, 3, padding=1, bias=False)
    mask = column(layer.weight.detach(), kept)
    layer.weight.data = layer.weight.detach() * mask
    images = torch.rand(2, 5, 6, 6)

    with torch.no_grad():
        torch.testing.assert_close(form(layer.weight.detach(), mask)(images), layer(images))
