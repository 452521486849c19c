"""A search's base and its images: what fits, what stays dense, and what is refused before any training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eed_search.config.loader import parse
from eed_search.core.errors import ModelError
from eed_search.pipeline.context import StageContext
from eed_search.pipeline.latency import sentinel
from eed_search.pipeline.training import check_sizes
from eed_search.storage.store import Store


def shop(
    folder: Path,
    model: str,
    *,
    side: int = 16,
    methods: tuple[str, ...] = ("prune",),
    baselines: tuple[float, ...] = (0.5,),
) -> StageContext:
    for split, count in (("train", 60), ("test", 20)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)
        np.savez(folder / f"{split}.npz", images=pixels, labels=np.arange(count) % 4)
    plain = {
        "name": "t",
        "threat": {"eps": 0.03},
        "data": {"source": "npz", "path": str(folder), "num_validation": 10, "num_fresh": 10},
        "model": {"name": model, "width": 8},
        "members": {"block": 4, "cstar": {"block": 1}},
        "baselines": {"sizes": list(baselines)},
        "search": {"space": {"method": list(methods), "size": 0.5}},
    }
    return StageContext(parse(plain, "x"), Store(folder / "store"), lambda text: None)


def test_layers_that_stay_dense_are_noted(tmp_path: Path) -> None:
    """All of MobileNet-V2's channels can be removed, its depth-wise layers cannot be factored."""
    (note,) = check_sizes(shop(tmp_path, "mobilenet_v2", methods=("prune", "cstar")))
    assert note.startswith("layers that cstar leaves dense, since they are convolutions in groups: blocks.0.layers.0, ")
    assert note.count("layers.") == 17
    (note,) = check_sizes(shop(tmp_path, "torchvision:regnet_y_400mf"))
    assert note.startswith(
        "layers that keep all channels, since none can be removed: network.trunk_output.block1.block1-0"
    )
    assert note.endswith(" and 28 more")


def test_a_network_of_which_nothing_can_be_removed_is_refused_for_channels_alone(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="shufflenet_v2_x0_5: which layers share channels cannot be traced"):
        check_sizes(shop(tmp_path, "torchvision:shufflenet_v2_x0_5"))
    with pytest.raises(
        ModelError, match=r"baselines\.sizes: .*traced.*; or go without them: baselines: \{sizes: \[\]\}"
    ):
        check_sizes(shop(tmp_path, "torchvision:shufflenet_v2_x0_5", methods=("cstar",)))
    without = shop(tmp_path, "torchvision:shufflenet_v2_x0_5", methods=("cstar",), baselines=())
    assert len(check_sizes(without)) == 1
    assert sentinel(without)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "vgg16_bn",
            r"shrinks images 32-fold and learns from 32×32 and larger, these are 16×16; take small_cnn, or larger",
        ),
        ("torchvision:alexnet", r"cannot take images of 16×16 with 3 channels \(.*larger"),
    ],
)
def test_images_that_are_too_small_are_refused(tmp_path: Path, model: str, said: str) -> None:
    """With the network, the images and what to do."""
    with pytest.raises(ModelError, match=rf"model\.name: {model} {said}"):
        check_sizes(shop(tmp_path, model))
