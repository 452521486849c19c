"""What the answers of a base and a pruned network say: transfer rate, gaps, intervals, equivalence.

Samples are compared one by one. Each seed has its own networks and its own test images; an interval
covers both: it is the hull of the closed form on the pooled samples (Wilson for a share, Agresti and
Min for a paired difference) and of a bootstrap that draws seeds, then samples within a seed. With one
seed only the closed form is left, and the interval says nothing about other seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from eed_search.core.statistics import paired_difference, wilson

Verdict = Literal["comparable", "not comparable", "undecided"]
Flags = Bool[np.ndarray, " samples"]
_DRAWS = 2000
_LEVELS = (0.95, 0.90)


@dataclass(frozen=True)
class Estimate:
    """A number with two intervals.

    Attributes:
        value: The estimate; none where there is nothing to count.
        low: Lower end, 95 %.
        high: Upper end, 95 %.
        low90: Lower end, 90 %: what two one-sided tests at 5 % look at.
        high90: Upper end, 90 %.
        num: Samples that it rests on, over all seeds.
    """

    value: float | None
    low: float | None
    high: float | None
    low90: float | None
    high90: float | None
    num: int

    @classmethod
    def nothing(cls) -> Estimate:
        """The estimate from no samples."""
        return cls(None, None, None, None, None, 0)


@dataclass(frozen=True)
class Answers:
    """One seed's answers to one attack at one budget, sample by sample.

    Attributes:
        base_clean: B(x) = y.
        clean: M(x) = y.
        agree: M(x) = B(x).
        base: B(x') = y on the inputs crafted on B.
        static: M(x') = y on the same inputs.
        adaptive: M(x'') = y on inputs crafted on M.
    """

    base_clean: Flags
    clean: Flags
    agree: Flags
    base: Flags
    static: Flags
    adaptive: Flags

    @property
    def eligible(self) -> Flags:
        """Both right without an attack, and the attack broke the base: failed attacks are dropped."""
        return np.asarray(self.base_clean & self.clean & ~self.base)

    @property
    def transferred(self) -> Flags:
        """Eligible, and the pruned network is wrong too."""
        return np.asarray(self.eligible & ~self.static)


@dataclass(frozen=True)
class Compared:
    """A pruned network against its base under one attack at one budget, over all seeds.

    Attributes:
        base_clean: Accuracy of the base without an attack.
        clean: Accuracy of the pruned network without an attack.
        agreement: Share of clean images to which both give the same answer.
        base: Accuracy of the base under its own inputs.
        static: Accuracy of the pruned network under the base's inputs.
        adaptive: Accuracy of the pruned network under inputs crafted on itself.
        transfer: T, the conditional transfer rate.
        gap_static: `static` minus `base`.
        gap_adaptive: `adaptive` minus `base`.
        weaker: By how much the adaptive attack is weaker than the replayed inputs: `adaptive` minus
            `static`; above 0 it has failed somewhere.
    """

    base_clean: Estimate
    clean: Estimate
    agreement: Estimate
    base: Estimate
    static: Estimate
    adaptive: Estimate
    transfer: Estimate
    gap_static: Estimate
    gap_adaptive: Estimate
    weaker: Estimate


def compare(answers: Mapping[int, Answers]) -> Compared:
    """Compare a pruned network with its base.

    Args:
        answers: By seed; at least one.
    """
    order = sorted(answers)
    each = [answers[seed] for seed in order]
    always = [np.ones_like(one.clean) for one in each]

    def rate(hits: list[Flags]) -> Estimate:
        return share(hits, always)

    return Compared(
        base_clean=rate([one.base_clean for one in each]),
        clean=rate([one.clean for one in each]),
        agreement=rate([one.agree for one in each]),
        base=rate([one.base for one in each]),
        static=rate([one.static for one in each]),
        adaptive=rate([one.adaptive for one in each]),
        transfer=share([one.transferred for one in each], [one.eligible for one in each]),
        gap_static=difference([one.static for one in each], [one.base for one in each]),
        gap_adaptive=difference([one.adaptive for one in each], [one.base for one in each]),
        weaker=difference([one.adaptive for one in each], [one.static for one in each]),
    )


def share(hits: Sequence[Flags], among: Sequence[Flags]) -> Estimate:
    """Share of `among` that are hits.

    Args:
        hits: For each seed, a subset of `among`.
        among: For each seed, what is counted.

    Source:
        Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953; the bootstrap over seeds and
        samples and the hull are ours.
    """
    num_hits, num = sum(int(one.sum()) for one in hits), sum(int(one.sum()) for one in among)
    if num == 0:
        return Estimate.nothing()
    closed = [wilson(num_hits, num, level) for level in _LEVELS]
    if len(hits) == 1:
        return _estimate(num_hits / num, closed, num)
    drawn_hits, drawn = (
        replicates([one.astype(float) for one in hits]),
        replicates([one.astype(float) for one in among]),
    )
    return _hull(num_hits / num, closed, drawn_hits[drawn > 0] / drawn[drawn > 0], num)


def difference(first: Sequence[Flags], second: Sequence[Flags]) -> Estimate:
    """Difference of two shares on the same samples, seeds pooled.

    Source:
        Agresti and Min 2005, https://doi.org/10.1002/sim.1781; the bootstrap and the hull are ours.
    """
    pooled = np.concatenate(first), np.concatenate(second)
    closed = [paired_difference(*pooled, confidence=level) for level in _LEVELS]
    value, num = closed[0][0], pooled[0].size
    ends = [(low, high) for _, low, high in closed]
    if len(first) == 1:
        return _estimate(value, ends, num)
    sizes = [np.ones(one.size) for one in first]
    drawn = replicates([a.astype(float) - b for a, b in zip(first, second, strict=True)]) / replicates(sizes)
    return _hull(value, ends, drawn, num)


def mean_gap(gaps: Sequence[Sequence[Float[np.ndarray, " samples"]]]) -> Estimate:
    """Mean of a gap over several networks, attacks or models that share their seeds and test images.

    Args:
        gaps: For each of them, for each seed, sample by sample, in {-1, 0, 1}.

    Returns:
        With intervals from the bootstrap over seeds and samples alone: all of them see the same draw.
    """
    if not gaps:
        return Estimate.nothing()
    seeds = range(len(gaps[0]))
    means = [np.mean([one[seed] for one in gaps], axis=0) for seed in seeds]
    drawn = replicates(means) / replicates([np.ones(one.size) for one in means])
    value = float(sum(one.sum() for one in means) / sum(one.size for one in means))
    ends = [_percentiles(drawn, level) for level in _LEVELS]
    return _estimate(value, ends, sum(one.size for one in means))


def verdict(gap: Estimate, margin: float) -> Verdict:
    """Test equivalence: two one-sided tests at 5 %, by the 90 % interval.

    Args:
        gap: A difference of accuracies.
        margin: What counts as comparable, a fraction fixed beforehand.

    Returns:
        `comparable` if the interval lies within the margin, `not comparable` if it lies outside, else
        `undecided`.

    Source:
        Schuirmann 1987, https://doi.org/10.1007/BF01068419.
    """
    if gap.low90 is None or gap.high90 is None:
        return "undecided"
    if -margin < gap.low90 and gap.high90 < margin:
        return "comparable"
    if gap.low90 > margin or gap.high90 < -margin:
        return "not comparable"
    return "undecided"


# ---------------------------------------------------------------- the bootstrap


def replicates(values: Sequence[Float[np.ndarray, " samples"]]) -> Float[np.ndarray, " draws"]:
    """Sums of values under the draws that belong to these sample counts: equal counts see equal draws.

    Args:
        values: For each seed, one value a sample.
    """
    weights = _draws(tuple(one.size for one in values))
    return sum((draw @ one for draw, one in zip(weights, values, strict=True)), np.zeros(_DRAWS))


@lru_cache(maxsize=16)
def _draws(sizes: tuple[int, ...]) -> tuple[Float[np.ndarray, "draws samples"], ...]:
    """How often each sample is counted: seeds are drawn first, then samples within each seed drawn."""
    generator = np.random.default_rng(0)
    times = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=_DRAWS)
    return tuple(
        generator.multinomial(num * times[:, i], np.full(num, 1 / num)).astype(np.float64)
        for i, num in enumerate(sizes)
    )


def _percentiles(drawn: Float[np.ndarray, " draws"], level: float) -> tuple[float, float]:
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def _hull(value: float, closed: Sequence[tuple[float, float]], drawn: np.ndarray, num: int) -> Estimate:
    both = [
        (min(low, found[0]), max(high, found[1]))
        for (low, high), level in zip(closed, _LEVELS, strict=True)
        for found in [_percentiles(drawn, level)]
    ]
    return _estimate(value, both, num)


def _estimate(value: float, ends: Sequence[tuple[float, float]], num: int) -> Estimate:
    (low, high), (low90, high90) = ends
    return Estimate(value, low, high, low90, high90, num)
