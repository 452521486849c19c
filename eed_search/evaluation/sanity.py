"""The eleven sanity checks of a robust accuracy: what must hold if neither defence nor attack fools itself.

Each is a pure function from what was measured to a `Check`; `probes` makes the measurements. Where
flags are compared, they are of the SAME samples, and a difference counts only beyond sampling error
(one-sided exact test at 1 %).

Source:
    Carlini et al. 2019, arXiv 1902.06705 (checklist); Athalye et al. 2018, arXiv 1802.00420; Tramer et al. 2020,
    arXiv 2002.08347; Zimmermann et al. 2022, arXiv 2206.13991. Which quantities and limits: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from eed_search.core.statistics import clopper_pearson
from eed_search.runs.attack_records import Check

Flags = Bool[np.ndarray, " samples"]
Answers = tuple[Int[np.ndarray, " samples"], Int[np.ndarray, " samples"]]
"""Labels and members run."""

_SURE = 0.01  # chance of calling sound behaviour unsound, in each comparison
_MOST_DRIFT = 1e-3  # largest change of a log probability; another batch size gives another order of summation
_ROUNDING = 1e-6  # beyond eps, in pixel units
_MOST_BY_STEPS = 0.005
_MOST_BY_BLACK_BOX = 0.002
_MOST_ZERO = 0.01
_NAMES = {
    1: "without a budget the clean accuracy, exactly",
    2: "images within eps and within [0, 1]",
    3: "same answer alone, in any batch, in any order, every time",
    4: "a stronger attack finds more",
    5: "twice the steps find hardly more",
    6: "a larger eps breaks more, and a huge one everything",
    7: "attacks without gradients add hardly anything",
    8: "an undefended twin is broken",
    9: "gradients reach every member and the gate",
    10: "thresholds at both ends give the first member and the whole team",
    11: "what is deployed falls to the same images",
}


def not_applicable(number: int, why: str) -> Check:
    """A check that has nothing to check."""
    return Check(number, _NAMES[number], True, f"does not apply: {why}", applies=False)


def _check(number: int, passed: bool, seen: str) -> Check:
    return Check(number, _NAMES[number], bool(passed), seen)


def significantly_fewer(first: Flags, second: Flags) -> bool:
    """Whether the first is right on significantly fewer of the same samples than the second.

    Source:
        McNemar's test, exact and one-sided: samples on which the two differ are fair coins.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return False
    return bool(binomtest(only_second, only_first + only_second, 0.5, alternative="greater").pvalue < _SURE)


def surely_above(num: int, num_samples: int, limit: float) -> bool:
    """Whether a share lies above a limit beyond sampling error."""
    return num_samples > 0 and clopper_pearson(num, num_samples, 1 - 2 * _SURE)[0] > limit


def zero_eps(clean: Flags, at_zero: Flags, recorded: tuple[str, float, Flags] | None = None) -> Check:
    """1: with eps 0 the same samples are right as without an attack; and as many as were written down earlier.

    Args:
        clean: Right on some images as they are.
        at_zero: Right on them after an attack with eps 0.
        recorded: Who wrote a clean accuracy down, what it was, and which of its images are right now; none where
            nobody did.
    """
    num = int((clean != at_zero).sum())
    seen = f"{100 * clean.mean():.1f} % clean, {100 * at_zero.mean():.1f} % at eps 0, {num} samples differ"
    if recorded is None:
        return _check(1, num == 0, seen)
    who, was, now = recorded
    seen += f"; {who} says {100 * was:.1f} % where {100 * now.mean():.1f} % are right now"
    return _check(1, num == 0 and abs(was - float(now.mean())) < 0.5 / now.size, seen)


def inside_ball(farthest: float, outside: float, eps: float) -> Check:
    """2: no image that an attack gave is farther away than eps or outside [0, 1], in float64."""
    passed = farthest <= eps + _ROUNDING and outside <= _ROUNDING
    return _check(2, passed, f"farthest {farthest:.7f} of {eps:.7f}; at most {outside:.1g} outside [0, 1]")


def same_answers(answers: Mapping[str, Answers], compared: Flags, drift: float) -> Check:
    """3: label AND depth of a sample do not depend on its neighbours, their order, or on chance.

    Args:
        answers: Labels and members run by how the samples were asked; the first is what the others are compared with.
        compared: Samples whose answer rounding alone cannot change.
        drift: Largest difference of a member's log probability for one image, alone or asked again.
    """
    names = list(answers)
    first = answers[names[0]]
    differ = {
        name: int((((answers[name][0] != first[0]) | (answers[name][1] != first[1])) & compared).sum())
        for name in names[1:]
    }
    worst = max(differ, key=lambda name: differ[name])
    seen = (
        f"{int(compared.sum())} samples, {len(names)} ways: all equal"
        if not any(differ.values())
        else f"{worst}: {differ[worst]} of {int(compared.sum())} samples get another label or depth than {names[0]}"
    )
    return _check(
        3, not any(differ.values()) and drift < _MOST_DRIFT, f"{seen}; a log probability moves by {drift:.1g}"
    )


def stronger_is_lower(rows: Sequence[tuple[str, Flags]], missed: int = 0, impossible: int = 0) -> Check:
    """4: accuracy under noise ≥ FGSM ≥ PGD ≥ APGD ≥ union ≥ certified, and nothing found on the way is lost.

    Args:
        rows: From weakest to strongest, of the same samples.
        missed: Samples for which an attack asked a wrongly answered image within the budget and gave a right one back.
        impossible: Samples that an attack broke although no image within the budget can.
    """
    bad = [
        f"{weak} breaks more than {strong}"
        for (weak, first), (strong, second) in pairwise(rows)
        if significantly_fewer(first, second)
    ]
    if missed:
        bad.append(f"{missed} samples were broken on the way and given back unbroken")
    if impossible:
        bad.append(f"{impossible} certified samples were broken: the bounds or the attacks are at fault")
    seen = " ≥ ".join(f"{name} {100 * right.mean():.1f}" for name, right in rows)
    return _check(4, not bad, f"{seen} %" + (f"; {'; '.join(bad)}" if bad else ""))


def doubling_steps(num_broken: int, num_tried: int, share_tried: float) -> Check:
    """5: twice the steps lower the robust accuracy by at most 0.5 points, sampling error allowed for.

    Args:
        num_broken: Broken by twice the steps.
        num_tried: Samples, robust so far, that they were tried on.
        share_tried: Robust accuracy of all samples: what a broken one of those tried stands for.
    """
    by = share_tried * num_broken / num_tried if num_tried else 0.0
    failed = surely_above(num_broken, num_tried, _MOST_BY_STEPS / share_tried) if share_tried > 0 else False
    return _check(5, not failed, f"{num_broken} of {num_tried} robust samples more: {100 * by:.1f} points")


def larger_eps(rows: Sequence[tuple[float, Flags]], num_classes: int) -> Check:
    """6: success grows with eps; at 0.5 accuracy is at most chance, at 1.0 it is 0.

    Args:
        rows: Budget and which samples stay right, budgets ascending; 0.5 and 1.0 the last two.
        num_classes: Classes.
    """
    bad = [
        f"eps {large:.3g} breaks less than {small:.3g}"
        for (small, first), (large, second) in pairwise(rows)
        if significantly_fewer(first, second)
    ]
    for eps, limit in ((0.5, 1 / num_classes), (1.0, 0.01)):
        right = next(flags for budget, flags in rows if budget == eps)
        if surely_above(int(right.sum()), right.size, limit):
            bad.append(f"{100 * right.mean():.1f} % at eps {eps:g} where at most {100 * limit:.0f} % can be")
    seen = ", ".join(f"{eps:.3g}: {100 * right.mean():.1f}" for eps, right in rows)
    return _check(6, not bad, f"right at eps {seen} %" + (f"; {'; '.join(bad)}" if bad else ""))


def black_box_adds_little(num_broken: int, num_samples: int) -> Check:
    """7: attacks without gradients break at most 0.2 points that those with gradients left.

    Args:
        num_broken: Samples that only they broke.
        num_samples: All samples.
    """
    failed = surely_above(num_broken, num_samples, _MOST_BY_BLACK_BOX)
    return _check(7, not failed, f"{num_broken} of {num_samples} samples, {100 * num_broken / num_samples:.1f} points")


def twin_is_broken(robust: Flags, twin: Flags, most: float | None = None) -> Check:
    """8: a network of the same form, trained without a defence, keeps at most half the robust accuracy.

    Args:
        robust: Samples that the target holds.
        twin: Samples that the undefended one holds under the weaker attack of this check.
        most: Limit that is known for these images and this eps, as a fraction; none where none is.
    """
    limit = robust.mean() / 2 if most is None else min(robust.mean() / 2, most)
    failed = surely_above(int(twin.sum()), twin.size, limit)
    return _check(8, not failed, f"twin {100 * twin.mean():.1f} %, target {100 * robust.mean():.1f} %")


def gradients_arrive(shares: Mapping[str, float]) -> Check:
    """9: fewer than 1 % of the samples have a zero or non-finite gradient, in each member, the answer and the gate.

    Args:
        shares: Share of such samples by what the gradient was taken of.
    """
    worst = max(shares, key=lambda name: shares[name])
    bad = [f"{name} {100 * share:.0f} %" for name, share in shares.items() if share >= _MOST_ZERO]
    seen = f"no gradient: {', '.join(bad)} of samples" if bad else f"at most {100 * shares[worst]:.1f} % without one"
    return _check(9, not bad, seen)


def ends_of_threshold(lowest: Answers, first_member: Answers, highest: Answers, all_members: Answers) -> Check:
    """10: threshold 0 answers as member 1 does, an unreachable one as all members together do.

    Args:
        lowest: Labels and members run at threshold 0.
        first_member: Labels and members run of the first member alone.
        highest: At a threshold that is never reached.
        all_members: Labels and members run of all together.
    """
    differ = [
        int(((found[0] != expected[0]) | (found[1] != expected[1])).sum())
        for found, expected in ((lowest, first_member), (highest, all_members))
    ]
    return _check(10, not any(differ), f"{differ[0]} and {differ[1]} of {len(lowest[0])} samples differ")


def deployed_falls_too(num_saved: int, num_replayed: int, num_found: int, num_attacked: int) -> Check:
    """11: the exported model answers stored adversarial images as torch does, and Square finds no more on it.

    Args:
        num_saved: Adversarial images that it answers rightly, those within rounding of a tie left out.
        num_replayed: Adversarial images.
        num_found: Samples that Square broke on it.
        num_attacked: Robust samples that Square was tried on.
    """
    failed = num_saved > 0 or surely_above(num_found, num_attacked, _MOST_BY_BLACK_BOX)
    seen = (
        f"{num_saved} of {num_replayed} adversarial images answered rightly; Square broke {num_found} of {num_attacked}"
    )
    return _check(11, not failed, seen)


def share_without(gradients: Float[np.ndarray, "samples values"]) -> float:
    """Share of samples whose gradient is all zero or not finite."""
    broken = (gradients == 0).all(axis=1) | ~np.isfinite(gradients).all(axis=1)
    return float(broken.mean())
