"""A pipeline without torch: every value follows from the parameters; faults on demand.

`EED_STUB_FAULTS` maps trial numbers to a fault, as JSON: `raise`, `nan`, `missing`, `exit`, `wrong`,
`infinite`, `sleep`, `limit`. `EED_STUB_PIDS` names a folder where each call leaves its process id;
`EED_STUB_SECONDS` is how long a trial takes. `EED_STUB_HANGS=WHAT:FILE` lets the first call of `probe`, `recheck`,
`confirm` or `final` hang; the file remembers that it was. `EED_STUB_STORED` is how many kilobytes each trial keeps in the
real store; `EED_STUB_PHASE_SECONDS` how long each call takes.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from eed_search.core.errors import TrialFailure
from eed_search.core.seeds import seed_of
from eed_search.pipeline.search_context import SearchContext
from eed_search.runs.data_facts import DataFacts, Preprocessing
from eed_search.runs.records import (
    Accuracy,
    FreshCheck,
    Interval,
    Latency,
    Measurement,
    Reference,
    RobustAccuracy,
    RungResult,
    SweptPoint,
    TrialRecord,
    pack_bits,
)
from eed_search.storage.store import Artifact, StageUse, Store

NUM_SAMPLES = 100


class Probe:
    """Says that a network of n bytes takes n thousandths of the dense base's time."""

    def measure(self, onnx: bytes) -> float:
        _leave_pid("probe")
        return len(onnx) / 1000


def measurement(robust: float, latency_ms: float, artifact: str = "", num_members: int = 1) -> Measurement:
    """A whole measurement around two values; other values are another team's, unless one is named."""
    right = np.arange(NUM_SAMPLES) < NUM_SAMPLES * robust
    return Measurement(
        clean_accuracy=Accuracy.of(np.arange(NUM_SAMPLES) < 95),
        robust_accuracy=replace(RobustAccuracy.of(right, attack="PGD-20", eps=0.15, badge="proxy"), value=robust),
        difference_to_base=None,
        latency=latency(latency_ms),
        mean_members_run=1.0,
        num_members=num_members,
        exit_shares=(1.0,),
        macs=1000,
        worst_case_macs=1000,
        size_bytes=4000,
        robust_hex=pack_bits(right),
        artifact=artifact or f"team.1/{robust}-{latency_ms}",
    )


def latency(milliseconds: float, method: str = "additive") -> Latency:
    """A latency around one value; the dense base takes 1 ms."""
    return Latency(
        latency_ms=Interval(milliseconds, milliseconds, milliseconds),
        p50_ms=milliseconds,
        p95_ms=milliseconds,
        worst_case_ms=milliseconds,
        speedup=Interval(1 / milliseconds, 1 / milliseconds, 1 / milliseconds),
        worst_case_speedup=1 / milliseconds,
        method=method,  # type: ignore[arg-type]
    )


def read_data(spec, store_root, report):
    """Say that there are digits."""
    return DataFacts(
        "digits",
        tuple("0123456789"),
        Preprocessing("grey", 8, 8),
        {"train": 1097, "validation": 100},
        {"train": "a stub"},
    )


def prepare(spec, store_root, report):
    """Take no time, or fail, or hang."""
    report("training")
    _leave_pid("prepare")
    if fault := os.environ.get("EED_STUB_PREPARE"):
        if fault == "sleep":
            time.sleep(3600)
        raise TrialFailure("diverged", f"the base went wrong: {fault}")
    base = Reference("dense base", measurement(0.84, 1.0, "base.1/b"), 0.1)
    return SearchContext(spec, str(store_root), base, 0.0, 10, (1, 8, 8))


def make_probe(setting):
    """Make the probe."""
    return Probe()


def run(number, params, setting, probe, report, rung=None, incumbents=()):
    """Give what follows from the parameters, or the fault that was asked for; at a rung 4 or 2 points less."""
    report("members")
    _leave_pid("run")
    fault = json.loads(os.environ.get("EED_STUB_FAULTS", "{}")).get(str(number), "")
    if fault == "raise":
        raise RuntimeError("the stub was told to raise\nsecond line")
    if fault == "exit":
        os._exit(1)
    if fault == "wrong":
        return {"robust_accuracy": 1.0}
    if fault == "sleep":
        time.sleep(3600)
    time.sleep(float(os.environ.get("EED_STUB_SECONDS", "0")))
    ratio = probe.measure(b"x" * round(1000 * sum(m.size for m in params.members) / 2))
    robust = _robust(params.members)
    stored = _stored(number, setting)
    if rung is not None:
        right = np.arange(NUM_SAMPLES // 2) < NUM_SAMPLES // 2 * (robust - (0.04, 0.02)[rung])
        uses = (StageUse("member.1", "k", rung > 0, 0.1), *stored)
        return RungResult(rung, Accuracy.of(right), Interval(ratio, ratio, ratio), pack_bits(right), uses, 0.1)
    robust = {"nan": float("nan"), "infinite": float("inf")}.get(fault, robust)
    made = measurement(robust, ratio, f"team.1/{number}", len(params.members))
    record = TrialRecord(
        number,
        params.to_flat(),
        "done",
        measurement=None if fault == "missing" else made,
        constraints={"max_latency_ms": 0.5 if fault == "limit" else -0.5},
        stages=(StageUse("member.1", "k", False, 0.1), *stored),
        seconds=0.2,
        # teams of two have another threshold: more than twice as fast, and its bound 1 point below the trial's own
        swept=(SweptPoint(0.2, measurement(robust - 0.01, 0.45 * ratio, made.artifact, 2)),)
        if len(params.members) == 2 and fault not in ("nan", "infinite")
        else (),
    )
    report("evaluation")
    return record


def baseline(size, setting, probe, report):
    """Give a baseline; the one of size 0.25 fails."""
    _leave_pid("baseline")
    report("from scratch")
    if size == 0.25:
        raise RuntimeError("this baseline was told to fail")
    return Reference(f"scratch {round(100 * size)} % (labels)", measurement(0.6, size, "scratch.1/c"), 0.1, size)


def final_latencies(classifiers, repeats, setting, report):
    """Give final latencies 5 % above the search's, and 0.1 % more each time."""
    _leave_pid("final")
    given = zip(classifiers, repeats, strict=True)
    return [_final_latency(artifact, params, 1 + 0.001 * repeat) for (artifact, params), repeat in given]


def _final_latency(artifact, params, factor):
    if params is None:
        return latency(1.0 if artifact.startswith("base") else 0.5, "cascade")
    return latency(1.05 * factor * sum(m.size for m in params.members) / 2, "cascade")


def confirm(artifact, params, bound, setting, report):
    """Give a swept point 2 points less than its bound."""
    _leave_pid("confirm")
    report("attack")
    return measurement(_robust(params.members) - 0.03, 0.45 * _share(params.members), artifact, len(params.members))


def recheck(artifact, params, images, setting, report):
    """Give fresh accuracies a point below the search's."""
    _leave_pid("recheck")
    assert images[1] - images[0] == NUM_SAMPLES
    fresh = measurement(0.6 if params is None else _robust(params.members) - 0.01, 1.0)
    return FreshCheck(fresh.clean_accuracy, fresh.robust_accuracy, fresh.robust_hex)


def _stored(number, setting):
    """Keep something in the store, or read it again; says so only where it was altered meanwhile."""
    if not (kilobytes := int(os.environ.get("EED_STUB_STORED", "0"))):
        return ()
    store = Store(Path(setting.store_root))

    def compute(seed):
        return Artifact({"weights": np.random.default_rng(seed).integers(0, 256, 1000 * kilobytes, dtype=np.uint8)}, {})

    found = store.get("stored.1", {"number": number}, compute)
    assert np.array_equal(found.artifact.tensors["weights"], compute(seed_of(found.key)).tensors["weights"])
    return tuple(use for use in store.uses if use.altered)


def _robust(members):
    return 0.5 + 0.3 * max(m.size for m in members)


def _share(members):
    return sum(m.size for m in members) / 2


def _leave_pid(what):
    wanted, _, file = os.environ.get("EED_STUB_HANGS", "").partition(":")
    if what == wanted and not Path(file).exists():
        Path(file).touch()
        time.sleep(3600)
    if folder := os.environ.get("EED_STUB_PIDS"):
        (Path(folder) / f"{what}-{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(float(os.environ.get("EED_STUB_PHASE_SECONDS", "0")))
