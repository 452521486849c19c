"""Makes a finished search without training anything: numbers obey the laws that real ones obey."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from eed_search.config.loader import parse
from eed_search.config.params import MemberChoice, TrialParams
from eed_search.config.spec import Spec
from eed_search.core.statistics import paired_difference
from eed_search.runs.attack_records import SCHEMA_VERSION as ATTACK_SCHEMA
from eed_search.runs.attack_records import AttackResult, AttackUse
from eed_search.runs.cost import Cost
from eed_search.runs.events import TrialEnded, to_row
from eed_search.runs.ledger import Event, RunView
from eed_search.runs.records import (
    Accuracy,
    Exits,
    Interval,
    Latency,
    Measurement,
    Reference,
    RobustAccuracy,
    TrialRecord,
    UnderAttack,
    pack_bits,
)
from eed_search.storage.store import StageUse

NUM_SAMPLES = 300
BASE_MS = 0.8
BASE_BYTES = 1_200_000
BASE_MACS = 9_000_000


def make_spec(**changes: Any) -> Spec:
    """Build the digits search's file."""
    return parse({"name": "digits", "threat": {"eps": 0.15}, "search": {"trials": 20}, **changes}, "digits.yaml")


def right(share: float, seed: int = 0) -> np.ndarray:
    """Choose which images stay right: nested, so a higher share keeps those of a lower one, bar a few."""
    difficulty = np.linspace(0, 1, NUM_SAMPLES, endpoint=False)
    noise = np.random.default_rng(seed).normal(0, 0.03, NUM_SAMPLES)
    order = np.argsort(difficulty + noise)
    bits = np.zeros(NUM_SAMPLES, bool)
    bits[order[: round(share * NUM_SAMPLES)]] = True
    return bits


def around(value: float, share: float = 0.02) -> Interval:
    """Put an interval of ±share around a value."""
    return Interval(value, value * (1 - share), value * (1 + share))


def make_latency(ms: float, worst: float | None = None, *, method: str = "additive", noisy: bool = False) -> Latency:
    """Build the latency of a classifier that takes `ms` on average."""
    worst = worst or ms
    return Latency(
        latency_ms=around(ms),
        p50_ms=0.95 * ms,
        p95_ms=worst,
        worst_case_ms=worst,
        speedup=around(BASE_MS / ms),
        worst_case_speedup=BASE_MS / worst,
        method=method,  # type: ignore[arg-type]
        noisy=noisy,
        images_per_second=around(2000 / ms) if method == "cascade" else None,
    )


def make_measurement(robust: float, ms: float, *, members: int = 1, seed: int = 0, **changes: Any) -> Measurement:
    """Build everything measured on one classifier."""
    bits, base_bits = right(robust, seed), right(0.84)
    shares = tuple(np.diff([0, *(1 - 0.4**t for t in range(1, members)), 1.0]))
    macs, worst_macs = round(BASE_MACS * ms / BASE_MS), round(BASE_MACS * members * ms / BASE_MS)

    def pushed(part: float) -> Exits:
        """This part of the images goes on to the last member."""
        moved = [*((1 - part) * np.array(shares[:-1])), shares[-1] + part * (1 - shares[-1])]
        return Exits(tuple(map(float, moved)), round(macs + part * (worst_macs - macs)))

    slowed = UnderAttack(pushed(0.25), pushed(0.5), "S1 slow-down, 10 steps") if members > 1 else None
    facts: dict[str, Any] = {
        "clean_accuracy": Accuracy.of(right(min(1.0, robust + 0.15))),
        "robust_accuracy": RobustAccuracy.of(bits, attack="gated-pgd-20", eps=0.15, badge="proxy"),
        "difference_to_base": Interval(*paired_difference(bits, base_bits)),
        "latency": make_latency(ms, ms * members**0.7),
        "mean_members_run": float(np.dot(shares, range(1, members + 1))),
        "num_members": members,
        "exit_shares": tuple(map(float, shares)),
        "macs": macs,
        "worst_case_macs": worst_macs,
        "under_attack": slowed,
        "size_bytes": round(BASE_BYTES * members * ms / BASE_MS),
        "robust_hex": pack_bits(bits),
        "artifact": f"team.1/{hashlib.md5(f'{robust} {ms} {members} {seed}'.encode()).hexdigest()}",
    }
    return Measurement(**{**facts, **changes})


def make_attack(robust: float, tier: int = 1, num: int = 200, **changes: Any) -> AttackResult:
    """Build what `eed-search attack` finds on a team of two; invalid with `badge` and `reasons`."""
    bits = np.arange(num) < round(robust * num)
    badge = changes.get("badge", "checked" if tier == 1 else "claim")

    def cost(run: float, ms: float) -> Cost:
        return Cost(run, round(1000 * run), ms, BASE_MS / ms)

    def figure(share: float) -> RobustAccuracy:
        right = np.arange(num) < round(share * num)
        return RobustAccuracy.of(right, attack="union of APGD-CE, Square", eps=changes.get("eps", 0.15), badge=badge)

    facts: dict[str, Any] = {
        "schema_version": ATTACK_SCHEMA,
        "target": "digits",
        "key": f"{tier}-{robust}-{num}-{changes.get('seed', 0)}",
        "tier": tier,
        "badge": badge,
        "reasons": (),
        "notes": (),
        "data": "digits",
        "split": "fresh" if tier == 1 else "test",
        "eps": 0.15,
        "seed": 0,
        "num_members": 2,
        "clean": Accuracy.of(np.arange(num) < 0.95 * num),
        "robust": figure(robust),
        "any_prefix": figure(robust - 0.05),
        "static": figure(robust),
        "clean_cost": cost(1.1, 0.2),
        "attacked_cost": cost(1.5, 0.25),
        "slowed_cost": cost(1.9, 0.4),
        "worst_cost": cost(2.0, 0.5),
        "attacks": (AttackUse("G0", "APGD-CE on the executed path", 50, 1, num, num - int(bits.sum()), 9, 9, 1.0),),
        "checks": (),
        "robust_hex": pack_bits(bits),
        "forward_passes": 9,
        "gradient_passes": 9,
        "seconds": 1.0,
        "versions": {},
        "certified": Accuracy.of(np.zeros(num, bool)),
        "certified_by": "none: too deep",
        "certified_hex": pack_bits(np.zeros(num, bool)),
    }
    return AttackResult(**{**facts, **changes})


def make_trial(number: int, **changes: Any) -> TrialRecord:
    """Build a finished trial whose numbers follow from its number."""
    rng = np.random.default_rng(number)
    num_members = int(rng.integers(1, 4))
    sizes = rng.choice([0.25, 0.5], num_members)
    names = rng.choice(["nis", "erm", "ase", "bnsf"], num_members)
    params = TrialParams(
        members=tuple(MemberChoice(str(n), float(s)) for n, s in zip(names, sizes, strict=True)),  # type: ignore[arg-type]
        subsets="all",
        recovery="distill" if number % 2 else "labels",
        order="fast_first",
        beta=float(np.exp(rng.uniform(-6, 1))),
        omega=float(rng.uniform(0, 10)),
        gamma=float(rng.uniform(0, 4)),
        gate_threshold=float(rng.uniform(0.2, 1)),
    )
    ms = float(BASE_MS * (0.08 + sizes[0] ** 2 + 0.25 * (sizes[1:] ** 2).sum()) * rng.uniform(0.95, 1.1))
    robust = float(min(0.87, 0.72 + 0.16 * ms / BASE_MS + 0.03 * (num_members - 1) + rng.normal(0, 0.02)))
    stages = tuple(StageUse("member.1", f"{n}-{s}", number > 4, 1.5) for n, s in zip(names, sizes, strict=True))
    facts: dict[str, Any] = {
        "number": number,
        "params": params.to_flat(),
        "outcome": "done",
        "measurement": make_measurement(robust, ms, members=num_members, seed=number + 1),
        "robust_diversity": float(rng.uniform(0.2, 0.8)) if num_members > 1 else None,
        "stages": (StageUse("base.1", "b", True, 0.1), *stages),
        "seconds": 6.0 + num_members,
    }
    return TrialRecord(**{**facts, **changes})


def make_view(num_trials: int = 20, **changes: Any) -> RunView:
    """Build a finished search: mostly done trials, one of each other outcome, one baseline of each size."""
    trials = {i: make_trial(i) for i in range(num_trials)}
    if num_trials > 6:
        broken = make_trial(3)
        trials[3] = make_trial(
            3,
            outcome="infeasible",
            reason="min_clean_accuracy",
            message="clean accuracy 0.91 is below 0.95",
            constraints={"min_clean_accuracy": 0.04},
            measurement=broken.measurement,
        )
        trials[5] = make_trial(5, outcome="failed", reason="diverged", message="loss is nan", measurement=None)
        trials[6] = make_trial(6, outcome="pruned", reason="rung 1", measurement=None)
    facts: dict[str, Any] = {
        "name": "digits",
        "spec": make_spec().to_plain(),
        "facts": {
            "num_classes": 10,
            "image_shape": [1, 8, 8],
            "reference_ms": BASE_MS,
            "versions": {"torch": "2.13.0"},
            "machine": {"cpu": "two cores"},
            "command": "eed-search launch",
        },
        "state": "finished",
        "base": Reference("dense base", make_measurement(0.84, BASE_MS, difference_to_base=None), 12.0),
        "baselines": [
            Reference("scratch 50 % (labels)", make_measurement(0.79, 0.26, seed=101), 14.0, 0.5, "labels"),
            Reference("scratch 25 % (distill)", make_measurement(0.76, 0.125, seed=102), 11.0, 0.25, "distill"),
        ],
        "proposals": {i: t.params for i, t in trials.items()},
        "trials": trials,
        "seconds": 212.0,
    }
    return RunView(**{**facts, **changes})


def ended(record: TrialRecord, seq: int = 9) -> Event:
    """Build the event that a trial's end is."""
    kind, data, trial = to_row(TrialEnded(record))
    return Event(seq, kind, trial, data, 1e9)
