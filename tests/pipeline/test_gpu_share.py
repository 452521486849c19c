"""`resources.gpu: auto` becomes a number with a reason, by what is there and what a trial needs."""

from __future__ import annotations

from typing import Any

import pytest

from eed_search.config.loader import parse
from eed_search.config.spec import Spec
from eed_search.core.errors import SpecError
from eed_search.pipeline.gpu_share import Gpus, gpus_here, share_gpus, trial_bytes
from eed_search.search.execution.ray_glue import Machine

GB = 10**9


def spec(gpu: Any = "auto", cpu: float = 1, **model: Any) -> Spec:
    plain: dict[str, Any] = {"name": "s", "resources": {"gpu": gpu, "cpu": cpu}, "threat": {"eps": 0.1}}
    return parse(plain | ({"model": model} if model else {}), "here")


@pytest.mark.parametrize(
    ("num_gpus", "num_cpus", "here", "share", "said"),
    [
        (0, 4, Gpus(0), 0, "resources.gpu: auto takes 0: no GPU is there, so trials train on the processor"),
        (2, 64, Gpus(0), 1, "auto takes 1: the GPUs are on other machines, where their memory is not known"),
        (
            1,
            64,
            Gpus(1, 80 * GB, "H"),
            0.125,
            r"auto takes 0.125: 8 trials on each H: a trial needs up to 1\.\d of 80 GB",
        ),
        (1, 3, Gpus(1, 80 * GB, "H"), 0.3333, "3 trials on each H: .* and there are cores for 3 trials on each GPU"),
        (2, 4, Gpus(2, 80 * GB, "H"), 0.5, "cores for 2 trials on each GPU"),
        (1, 64, Gpus(1, 2 * GB, "T"), 1, r"auto takes 1: 1 trial on each T: a trial needs up to 1\.\d of 2 GB"),
        (1, 64, Gpus(1, GB // 2, "T"), 1, "1 trial on each T"),
    ],
)
def test_the_share_follows_from_memory_and_cores(
    num_gpus: int, num_cpus: int, here: Gpus, share: float, said: str
) -> None:
    settled, why = share_gpus(spec(), num_gpus, num_cpus, lambda: here)
    assert settled.resources.gpu == settled.resources.gpus == share
    import re

    assert re.search(said, why)
    if share:
        assert Machine(num_cpus, num_gpus).slots(settled.resources) == max(1, round(num_gpus / share))


@pytest.mark.parametrize("gpu", [0, 0.5, 2])
def test_a_number_stays(gpu: float) -> None:
    given = spec(gpu)
    assert share_gpus(given, 0, 4, gpus_here) == (given, "")


def test_a_wider_network_needs_more() -> None:
    """Four times the weights and twice the outputs, plus what CUDA takes."""
    small, large = (trial_bytes(spec(name="small_cnn", width=width)) for width in (32, 64))
    assert 1.5 < (large - 1e9) / (small - 1e9) < 4


@pytest.mark.parametrize("gpu", ["all", -1, 65, "0.5 GPU"])
def test_what_is_no_amount_is_refused(gpu: Any) -> None:
    with pytest.raises(SpecError, match=r"resources\.gpu: .* is no amount; allowed: auto, or a number from 0 to 64$"):
        spec(gpu)


def test_unlooked_at_it_is_the_processor() -> None:
    assert spec().resources.gpus == 0
