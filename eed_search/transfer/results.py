"""A benchmark's rows: every pruned network under every attack, and the means that the verdict rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eed_search.runs.records import Interval
from eed_search.transfer.grid import Choice
from eed_search.transfer.metrics import Answers, Compared, Estimate, Verdict, compare, difference, mean_gap, verdict
from eed_search.transfer.spec import CONTROLS, MINIMUM_NORM, BenchmarkSpec, Case

CLEAN = "clean"
ADAPTIVE_FAILED, ADAPTIVE_WEAKER = "adaptive-failed", "adaptive-weaker"
FLOOR, NEAREST, RISES, NOISY = "floor", "minimum-norm", "rises-with-eps", "noisy-latency"
FLAGS = {
    ADAPTIVE_FAILED: "the attack on the pruned network breaks fewer images than the replayed ones, beyond noise:"
    " it has failed, and the adaptive columns read too high",
    ADAPTIVE_WEAKER: "the same, within noise",
    FLOOR: "base and pruned network both keep at most the margin under their own attacks: the adaptive gap is near 0"
    " because nothing is left, not because robustness was kept",
    NEAREST: "the inputs stop at the base's own boundary, so any other network looks robust to them: read the adaptive"
    " column and the distances",
    RISES: "the pruned network is more accurate at a larger budget, beyond noise: the attack has failed at the larger",
    NOISY: "the latency's interval stayed wide",
}


@dataclass(frozen=True)
class Timed:
    """A network's latency against its base's.

    Attributes:
        latency_ms: Batch 1 in onnxruntime: the base's wall time times the ratio.
        speedup: Base's latency over this one's.
        noisy: The interval stayed wide; do not rank by it.
    """

    latency_ms: Interval
    speedup: Interval
    noisy: bool


@dataclass(frozen=True)
class Observation:
    """One pruned network of one seed.

    Attributes:
        model: Label of its base.
        choice: How it was pruned.
        seed: The repetition.
        num_parameters: Weights that are not masked out.
        macs: Multiply-accumulates of one image.
        base_parameters: Parameters of its base.
        base_macs: Multiply-accumulates of its base.
        timed: Its latency; none where it cannot be exported.
        left_dense: Layers that its scheme could not handle.
        answers: By case, `clean` first.
        inputs: Hash of the base-crafted inputs, by case.
        distances: Median l2 of successful inputs on the base and on itself, by case.
    """

    model: str
    choice: Choice
    seed: int
    num_parameters: int
    macs: int
    base_parameters: int
    base_macs: int
    timed: Timed | None
    left_dense: tuple[str, ...]
    answers: Mapping[str, Answers] = field(repr=False)
    inputs: Mapping[str, str] = field(repr=False)
    distances: Mapping[str, tuple[float | None, float | None]] = field(repr=False)


@dataclass(frozen=True)
class Row:
    """A pruned network under one attack at one budget, over all seeds.

    Attributes:
        model: Label of its base.
        choice: How it was pruned.
        attack: Label of the attack; `clean` for no attack.
        eps: L∞ budget; none without.
        seeds: The repetitions that it rests on.
        num_parameters: Mean over seeds, as `macs`.
        macs: Multiply-accumulates.
        base_parameters: Parameters of the base.
        base_macs: Multiply-accumulates of the base.
        timed: Latency of the first seed's network; none where it cannot be exported.
        compared: Accuracies, transfer rate, gaps.
        static: Verdict on `gap_static`.
        adaptive: Verdict on `gap_adaptive`.
        l2_base: Median l2 distance of the inputs that broke the base, mean over seeds; none where none did.
        l2_adaptive: The same for the pruned network's own inputs.
        flags: Names out of `FLAGS`.
        left_dense: Layers that the scheme could not handle.
        inputs: Hash of each seed's base-crafted inputs.
    """

    model: str
    choice: Choice
    attack: str
    eps: float | None
    seeds: tuple[int, ...]
    num_parameters: int
    macs: int
    base_parameters: int
    base_macs: int
    timed: Timed | None
    compared: Compared
    static: Verdict
    adaptive: Verdict
    l2_base: float | None
    l2_adaptive: float | None
    flags: tuple[str, ...]
    left_dense: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Mean:
    """Several filter-pruned networks together under one attack, or under all L∞ attacks.

    Attributes:
        finetuned: Whether they were trained again after the cut.
        attack: Label; `all` for every L∞ attack at every budget above 0.
        eps: L∞ budget; none without.
        num_rows: Networks, times attacks for `all`.
        base: Mean accuracy of the bases under their own inputs.
        transfer: Mean transfer rate; none where nothing broke a base.
        gap_static: Mean gap.
        gap_adaptive: Mean gap.
        static: Verdict on the mean.
        adaptive: Verdict on the mean.
        static_counts: How many of the rows have which verdict.
        adaptive_counts: The same for the adaptive column.
        num_floor: Rows whose adaptive gap says nothing, since nothing is left.
    """

    finetuned: bool
    attack: str
    eps: float | None
    num_rows: int
    base: float
    transfer: float | None
    gap_static: Estimate
    gap_adaptive: Estimate
    static: Verdict
    adaptive: Verdict
    static_counts: Mapping[Verdict, int]
    adaptive_counts: Mapping[Verdict, int]
    num_floor: int

    @property
    def is_floor(self) -> bool:
        """Whether the adaptive gap says nothing in any row."""
        return self.num_floor == self.num_rows

    @property
    def is_nearest(self) -> bool:
        """Whether the inputs stop at the base's boundary, so that the static gap says nothing."""
        return self.attack.partition("-")[0] in MINIMUM_NORM


def make_rows(spec: BenchmarkSpec, observations: Sequence[Observation]) -> list[Row]:
    """Put the seeds of each network together.

    Args:
        spec: The file.
        observations: In the order of the table; seeds of one network anywhere.
    """
    grouped: dict[tuple[str, Choice], list[Observation]] = {}
    for one in observations:
        grouped.setdefault((one.model, one.choice), []).append(one)
    cases: list[Case | None] = [None, *spec.cases()]
    return [_row(spec, group, case) for group in grouped.values() for case in cases if _label(case) in group[0].answers]


def _label(case: Case | None) -> str:
    return CLEAN if case is None else case.label


def _row(spec: BenchmarkSpec, group: Sequence[Observation], case: Case | None) -> Row:
    label = _label(case)
    group = sorted(group, key=lambda one: one.seed)
    first = group[0]
    compared = compare({one.seed: one.answers[label] for one in group})
    flags = [] if case is None else _flags(spec, group, case, compared)
    if first.timed is not None and first.timed.noisy:
        flags.append(NOISY)
    distances = [one.distances.get(label, (None, None)) for one in group]
    return Row(
        first.model,
        first.choice,
        CLEAN if case is None else case.attack.label,
        None if case is None else case.eps,
        tuple(one.seed for one in group),
        round(float(np.mean([one.num_parameters for one in group]))),
        round(float(np.mean([one.macs for one in group]))),
        first.base_parameters,
        first.base_macs,
        first.timed,
        compared,
        verdict(compared.gap_static, spec.margin),
        verdict(compared.gap_adaptive, spec.margin),
        _mean([base for base, _ in distances]),
        _mean([own for _, own in distances]),
        tuple(flags),
        first.left_dense,
        tuple(one.inputs[label] for one in group if label in one.inputs),
    )


def _flags(spec: BenchmarkSpec, group: Sequence[Observation], case: Case, found: Compared) -> list[str]:
    flags = []
    weaker = found.weaker
    if weaker.value is not None and weaker.low is not None and weaker.value > 0:
        flags.append(ADAPTIVE_FAILED if weaker.low > 0 else ADAPTIVE_WEAKER)
    if case.eps != 0 and max(found.base.value or 0.0, found.adaptive.value or 0.0) <= spec.margin:
        flags.append(FLOOR)
    if case.attack.name in MINIMUM_NORM:
        flags.append(NEAREST)
    if case.eps is not None:
        smaller = [c for c in spec.cases() if c.attack == case.attack and c.eps is not None and c.eps < case.eps]
        for other in smaller:
            rise = difference(
                [one.answers[case.label].adaptive for one in group],
                [one.answers[other.label].adaptive for one in group],
            )
            if rise.low is not None and rise.low > 0:
                flags.append(RISES)
                break
    return flags


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


# ---------------------------------------------------------------- means over networks


def make_means(spec: BenchmarkSpec, rows: Sequence[Row], observations: Sequence[Observation]) -> list[Mean]:
    """Average over the filter-pruned networks: for each attack and budget, and over all L∞ attacks together.

    Baselines (random filters, masks) and ratio 0 are left out; so are minimum-norm attacks from `all`, where
    any network other than the base looks robust.
    """
    found: list[Mean] = []
    for finetuned in spec.finetuned:
        counted = [row for row in rows if _counts(row) and row.choice.finetuned == finetuned]
        bounded = [row for row in counted if row.eps]  # neither clean, nor minimum-norm, nor budget 0
        found += _mean_row(spec, bounded, observations, finetuned, "all", None)
        for attack, eps in dict.fromkeys((row.attack, row.eps) for row in counted):
            some = [row for row in counted if (row.attack, row.eps) == (attack, eps)]
            found += _mean_row(spec, some, observations, finetuned, attack, eps)
    return found


def _counts(row: Row) -> bool:
    return row.choice.scheme not in CONTROLS and row.choice.ratio > 0


def _mean_row(
    spec: BenchmarkSpec,
    rows: Sequence[Row],
    observations: Sequence[Observation],
    finetuned: bool,
    attack: str,
    eps: float | None,
) -> list[Mean]:
    seeds = sorted(set.intersection(*(set(row.seeds) for row in rows))) if rows else []
    if not seeds:
        return []
    by_place = {(one.model, one.choice, one.seed): one.answers for one in observations}
    labels = {(c.attack.label, c.eps): c.label for c in spec.cases()} | {(CLEAN, None): CLEAN}
    static, adaptive = [], []
    for row in rows:
        each = [by_place[row.model, row.choice, seed][labels[row.attack, row.eps]] for seed in seeds]
        static.append([one.static.astype(float) - one.base for one in each])
        adaptive.append([one.adaptive.astype(float) - one.base for one in each])
    gap_static, gap_adaptive = mean_gap(static), mean_gap(adaptive)
    return [
        Mean(
            finetuned,
            attack,
            eps,
            len(rows),
            float(np.mean([row.compared.base.value or 0.0 for row in rows])),
            _mean([row.compared.transfer.value for row in rows]),
            gap_static,
            gap_adaptive,
            verdict(gap_static, spec.margin),
            verdict(gap_adaptive, spec.margin),
            Counter(row.static for row in rows),
            Counter(row.adaptive for row in rows),
            sum(FLOOR in row.flags for row in rows),
        )
    ]
