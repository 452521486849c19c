"""What a run may claim of its points: differences on images that chose nothing, all of them together at 95 %.

The images that ranked the trials chose the points, so on them the best of twenty equals looks better than what it was
chosen from. Whatever is printed as a gain, a loss or a verdict comes from the slice of fresh images that chose nothing: under
`eed-search attack` at tier 1 where both sides have it, else under the search's own attack. One search makes many
comparisons, every reported point with the dense base and one with each baseline; each of m has a confidence of
1 - 0.05 / m, so that all of them hold together.

Source:
    Bonferroni's inequality on exact paired tests; which comparisons are made is fixed by the search's own figures, before a
    fresh image is looked at. Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from eed_search.core.statistics import images_to_decide, sure_difference
from eed_search.frontier.attacked import results
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Interval, Point, unpack_bits

if TYPE_CHECKING:
    from jaxtyping import Bool

ERROR = 0.05  # chance that any of all comparisons of a search is wrong, to either side
Source = Literal["checked", "fresh"]


@dataclass(frozen=True)
class Gain:
    """One classifier's robust accuracy minus another's, on images that chose nothing.

    Attributes:
        difference: As fractions, with an interval that holds together with those of all other comparisons of the search.
        num_images: That both were attacked on.
        source: `checked`: under `eed-search attack` at tier 1; `fresh`: under the search's own attack.
        decided_by: About how many such images would tell the two apart, were they what these say; none where they are told
            apart already, or equally often right.
    """

    difference: Interval
    num_images: int
    source: Source
    decided_by: int | None

    @property
    def sure(self) -> bool:
        """Whether the two are told apart."""
        return self.difference.low > 0 or self.difference.high < 0


def num_comparisons(num_points: int, num_baselines: int) -> int:
    """Count what one search compares: every reported point with the base, and one with each baseline."""
    return max(1, num_points + num_baselines)


def compared(
    first: Bool[np.ndarray, " images"], second: Bool[np.ndarray, " images"], num: int, source: Source = "fresh"
) -> Gain:
    """Compare two classifiers on the same images, as one of several comparisons.

    Args:
        first: Which images it gets right under attack.
        second: The same of the other.
        num: Comparisons that are reported together.
        source: Under which attack.
    """
    confidence = 1 - ERROR / num
    gain = Gain(Interval(*sure_difference(first, second, confidence=confidence)), first.size, source, None)
    if gain.sure:
        return gain
    return Gain(gain.difference, first.size, source, images_to_decide(first, second, confidence=confidence))


def gain_over(view: RunView, id_: str, other: str, num: int) -> Gain | None:
    """Compare two classifiers of a run, by point id or reference name; none where they were not attacked on fresh images alike.

    Args:
        view: The run.
        id_: Whose gain.
        other: Over whom.
        num: Comparisons that are reported together.
    """
    checked = results(view, "checked")
    pair = [checked.get(one) for one in (id_, other)]
    if all(one is not None and one.badge == "checked" for one in pair):
        first, second = (unpack_bits(one.robust_hex, one.robust.num_samples) for one in pair if one is not None)
        if first.size == second.size:
            return compared(first, second, num, "checked")
    fresh = [view.fresh.get(one) for one in (id_, other)]
    if all(one is not None and one.robust_hex for one in fresh):
        first, second = (
            unpack_bits(one.robust_hex, one.robust_accuracy.num_samples) for one in fresh if one is not None
        )
        if first.size == second.size:
            return compared(first, second, num)
    return None


def gains_over_base(view: RunView, front: Sequence[Point]) -> dict[str, Gain]:
    """Compare every reported point with the dense base; those without fresh images are left out.

    Args:
        view: The run.
        front: Its reported points.
    """
    if view.base is None:
        return {}
    num = num_comparisons(len(front), len(view.baselines))
    found = {point.id: gain_over(view, point.id, view.base.name, num) for point in front}
    return {id_: gain for id_, gain in found.items() if gain is not None}


def claim_over_base(view: RunView, front: Sequence[Point], point: Point) -> dict[str, object]:
    """Give what a bundle may claim of a point against the dense base, and, apart from it, what chose the point.

    Args:
        view: The run.
        front: Its reported points; another point is one comparison more.
        point: The exported one.
    """
    shown = front if any(one.id == point.id for one in front) else [*front, point]
    gain = gains_over_base(view, shown).get(point.id)
    chose = point.measurement.difference_to_base
    return {
        "difference_to_base": None if gain is None else asdict(gain.difference),
        "difference_to_base_on": None if gain is None else {"num_images": gain.num_images, "source": gain.source},
        "chose_difference_to_base": None if chose is None else asdict(chose),
    }
