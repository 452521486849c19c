"""Looking at two classifiers on growing parts of the same images, to stop as soon as one is surely behind.

All classifiers meet the same images in the same, shuffled order, so that what they get right of the first ones is compared
image by image. Six interim tests, each about twice as far as the one before, the last at all images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from eed_search.runs.records import Interval, unpack_bits

DOMINATED = "outraced"  # the reason of a trial that was given up because others are surely better
NUM_INTERIM = 6
ERROR = 0.05  # chance that a classifier that is in truth as good as the other is ever called behind, at most


def interim_sizes(num_images: int) -> tuple[int, ...]:
    """Say after how many images each interim test is made: the last is all of them, each other half of the next, rounded up."""
    return tuple(sorted({math.ceil(num_images / 2**k) for k in range(NUM_INTERIM)}))


def surely_behind(
    mine: Bool[np.ndarray, " seen"], theirs: Bool[np.ndarray, " seen"], ends: Sequence[int], *, error: float = ERROR
) -> bool:
    """Say whether one classifier is surely right less often than another, on the images seen so far.

    Only images that the two answer differently count. If mine were as good, each of them would be mine with a
    probability of at least a half. For that walk the chance to have been stopped at any interim test so far is exact; the interim test's
    bound is the largest that keeps it within what may be spent by then, a share of `error` that grows with the tests.

    Args:
        mine: Right or not, image by image, up to a interim test's end.
        theirs: The same images in the same order.
        ends: After how many images each interim test is made, ascending; only tests before the last can stop anything.
        error: In (0, 1): the chance to be called behind at any interim test although as good, at most.

    Returns:
        Whether a bound is crossed at any interim test up to the images seen.

    Source:
        Exact test for paired samples: McNemar 1947, https://doi.org/10.1007/BF02295996. Repeated tests by spending:
        Lan and DeMets 1983, https://doi.org/10.1093/biomet/70.3.659. The spending by equal shares and the exact walk are ours.
    """
    if mine.shape != theirs.shape or mine.ndim != 1:
        raise ValueError(f"need two rows of equal lengths, got {mine.shape} and {theirs.shape}")
    chances = np.ones(1)  # chance of each number of images that are mine, not having been stopped before
    start = spent = 0
    for number, end in enumerate(ends[:-1], start=1):
        if end > len(mine):
            break
        won, lost = mine[start:end] & ~theirs[start:end], theirs[start:end] & ~mine[start:end]
        chances = np.convolve(chances, _fair(int(won.sum() + lost.sum())))
        reached = spent + np.cumsum(chances)
        bound = int(np.searchsorted(reached, error * number / (len(ends) - 1), side="right"))
        if int((mine[:end] & ~theirs[:end]).sum()) < bound:
            return True
        spent = reached[bound - 1] if bound else spent
        chances[:bound] = 0.0
        start = end
    return False


def _fair(num: int) -> Float[np.ndarray, " counts"]:
    """Chances of 0 to `num` heads."""
    logs = [math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1) for k in range(num + 1)]
    return np.exp(np.array(logs) - num * math.log(2))


@dataclass(frozen=True)
class Incumbent:
    """A point that a trial under attack is held against.

    Attributes:
        id: Id of the point.
        latency_ms: With its interval.
        robust_accuracy: On all images.
        robust_hex: Which of them it gets right under attack.
        num_images: How many images that are.
    """

    id: str
    latency_ms: Interval
    robust_accuracy: float
    robust_hex: str
    num_images: int

    def right(self, num: int) -> Bool[np.ndarray, " seen"]:
        """Say which of the first images it gets right."""
        return unpack_bits(self.robust_hex, self.num_images)[:num]

    def is_as_fast(self, latency_ms: Interval) -> bool:
        """Whether it is surely not slower: the intervals do not touch, or both are the very same measurement."""
        return self.latency_ms.high <= latency_ms.low or self.latency_ms == latency_ms


def incumbent_for(latency_ms: Interval, incumbents: Sequence[Incumbent]) -> Incumbent | None:
    """Choose the most robust incumbent that is surely as fast, before any image is attacked; the first of equals.

    One only: to be beaten by it is enough, and no correction for several is needed.
    """
    fast = [incumbent for incumbent in incumbents if incumbent.is_as_fast(latency_ms)]
    return max(fast, key=lambda incumbent: incumbent.robust_accuracy, default=None)


def beaten_by(
    latencies_ms: Sequence[Interval],
    right: Sequence[Bool[np.ndarray, " seen"]],
    incumbents: Sequence[Incumbent],
    ends: Sequence[int],
) -> tuple[str, ...]:
    """Say who beats a team in every way that it can be deployed, on the images seen so far.

    Args:
        latencies_ms: Latency of each way: its own gate threshold and the swept ones.
        right: Which images each way gets right under attack so far, or an upper bound of it.
        incumbents: Points to be held against.
        ends: After how many images each interim test is made.

    Returns:
        The incumbents' ids, each once; empty as long as some way may still be worth it.
    """
    beaten: dict[str, None] = {}
    for latency, mine in zip(latencies_ms, right, strict=True):
        incumbent = incumbent_for(latency, incumbents)
        if incumbent is None or incumbent.num_images != ends[-1]:  # other images: the data changed at a resume
            return ()
        if not surely_behind(mine, incumbent.right(len(mine)), ends):
            return ()
        beaten[incumbent.id] = None
    return tuple(beaten)
