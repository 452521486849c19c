"""What was measured on a classifier, put together: accuracies, latency, cost under attack, and thresholds worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import nn

from eed_search.compression.member import Member
from eed_search.config.spec import Spec
from eed_search.core.statistics import paired_difference
from eed_search.evaluation.latency import RatioEstimate, additive_latency
from eed_search.evaluation.robust import RobustEvaluation
from eed_search.evaluation.slowdown import NO_GATE, Slowed
from eed_search.frontier.pareto import hypervolume, normalise
from eed_search.frontier.points import violations
from eed_search.models import count_macs
from eed_search.pipeline.context import StageContext
from eed_search.pipeline.search_context import SearchContext
from eed_search.pipeline.stage import artifact_name
from eed_search.runs.cost import latency_of
from eed_search.runs.records import (
    Accuracy,
    Exits,
    Interval,
    Latency,
    Measurement,
    RobustAccuracy,
    SweptPoint,
    UnderAttack,
    pack_bits,
    unpack_bits,
)

_SLACK = 1.1  # how far beyond the slowest threshold hypervolume is measured to
_WORTHWHILE = 1e-3  # share of the square that another threshold must add to be kept


def worthwhile_thresholds(
    team: Sequence[Member],
    judged: RobustEvaluation,
    slow: Slowed,
    ratios: Sequence[RatioEstimate],
    setting: SearchContext,
    own: Measurement,
) -> tuple[SweptPoint, ...]:
    """Keep the other thresholds that would add most to the hypervolume, and keep every limit."""
    spec = setting.spec
    found = []
    for i, threshold in enumerate(judged.thresholds):
        replayed = RobustEvaluation(
            judged.swept_clean_right[i],
            judged.swept_robust_right[i],
            judged.executed_right,
            judged.swept_members_run[i],
            judged.swept_attacked_run[i],
            f"{judged.attack}, aimed at another threshold: upper bound",
        )
        replayed_slow = Slowed(slow.swept_run[i], slow.swept_run[:0], f"{slow.attack}, aimed at another threshold")
        measured = measure(team, replayed, replayed_slow, ratios, setting, artifact=own.artifact, at_least=True)
        violation = violations(dict(spec.search.constraints), measured, setting.base)
        if all(value <= 0 for value in violation.values()):
            found.append(SweptPoint(float(threshold), measured))
    dense = setting.base.measurement.latency.latency_ms.value
    all_rows = [own, *(point.measurement for point in found)]
    latencies = np.array([latency_of(m, spec.search.latency_objective).value for m in all_rows])
    rows = normalise(
        np.array([m.robust_accuracy.value for m in all_rows]),
        latencies,
        num_classes=setting.num_classes,
        # a team slower than the dense base has thresholds worth comparing too
        dense_latency_ms=max(dense, _SLACK * float(latencies.max())),
    )
    chosen = [0]
    while len(chosen) <= min(spec.gate.sweep, len(found)):
        gains = [hypervolume(rows[[*chosen, i]]) for i in range(len(rows))]
        best = int(np.argmax(gains))
        if gains[best] <= hypervolume(rows[chosen]) + _WORTHWHILE:
            break
        chosen.append(best)
    return tuple(found[i - 1] for i in sorted(chosen[1:]))


def measure(
    team: Sequence[Member],
    judged: RobustEvaluation,
    slow: Slowed,
    ratios: Sequence[RatioEstimate],
    setting: SearchContext,
    *,
    artifact: str,
    at_least: bool = False,
) -> Measurement:
    """Put together everything measured on one classifier."""
    num = len(team)
    shares = exit_shares(judged.members_run, num)
    macs = [count_macs(m.model, setting.image_shape) for m in team]
    base = setting.base.measurement
    latency = additive_latency(
        ratios, shares, base.latency.latency_ms.value, setting.gate_ms if num > 1 else 0.0, setting.denominator
    )
    return Measurement(
        clean_accuracy=Accuracy.of(judged.clean_right),
        latency=latency,
        mean_members_run=float(judged.members_run.mean()),
        num_members=num,
        exit_shares=tuple(shares),
        macs=_mean_macs(shares, macs),
        worst_case_macs=sum(macs),
        size_bytes=sum(m.size_bytes for m in team),
        artifact=artifact,
        under_attack=under_attack(judged, slow, macs, at_least=at_least),
        **robustness_of(judged, setting),
    )


def under_attack(judged: RobustEvaluation, slow: Slowed, macs: Sequence[int], *, at_least: bool = False) -> UnderAttack:
    """Say how deep the gate goes under both attacks."""

    def exits(run: Int[np.ndarray, " samples"]) -> Exits:
        shares = exit_shares(run, len(macs))
        return Exits(tuple(shares), _mean_macs(shares, macs))

    return UnderAttack(exits(judged.attacked_run), exits(slow.run), slow.attack, at_least)


def exit_shares(run: Int[np.ndarray, " samples"], num_members: int) -> list[float]:
    """Give the share of the images that stop at each member."""
    return [float((run == t).mean()) for t in range(1, num_members + 1)]


def _mean_macs(shares: Sequence[float], macs: Sequence[int]) -> int:
    """Multiply-accumulates for an average image: each member's, in the share of the images that reach it."""
    return round(sum((1 - sum(shares[:t])) * one for t, one in enumerate(macs)))


def robustness_of(judged: RobustEvaluation, setting: SearchContext) -> dict[str, Any]:
    """The fields of a measurement that the attack decides."""
    base = setting.base.measurement
    base_right = unpack_bits(base.robust_hex, base.robust_accuracy.num_samples)
    return {
        "robust_accuracy": robust_accuracy(judged, setting.spec),
        "difference_to_base": Interval(*paired_difference(judged.robust_right, base_right)),
        "robust_hex": pack_bits(judged.robust_right),
    }


def robust_accuracy(judged: RobustEvaluation, spec: Spec) -> RobustAccuracy:
    """Give the robust accuracy that ranks trials; it is no claim."""
    return RobustAccuracy.of(judged.robust_right, attack=judged.attack, eps=spec.threat.eps, badge="proxy")


def measure_base(
    base: nn.Module, key: str, judged: RobustEvaluation, reference: Interval, context: StageContext
) -> Measurement:
    """Put together everything measured on the dense base, which every other classifier is compared with.

    Args:
        base: The network.
        key: That it lies under in the store.
        judged: Under attack, on the images that rank.
        reference: Its latency in ms.
        context: The search's file, data, device and store.
    """
    ms, macs = reference.value, count_macs(base, context.data.image_shape)
    latency = Latency(reference, ms, ms, ms, Interval(1, 1, 1), 1.0, "additive", exit_ms=(ms,), denominator="plain")
    always = Exits((1.0,), macs)
    return Measurement(
        clean_accuracy=Accuracy.of(judged.clean_right),
        robust_accuracy=robust_accuracy(judged, context.spec),
        difference_to_base=None,
        latency=latency,
        mean_members_run=1.0,
        num_members=1,
        exit_shares=(1.0,),
        macs=macs,
        worst_case_macs=macs,
        size_bytes=Member(base).size_bytes,
        robust_hex=pack_bits(judged.robust_right),
        artifact=artifact_name("base", key),
        under_attack=UnderAttack(always, always, NO_GATE),
    )
