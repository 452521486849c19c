"""Do the intervals of final latencies hold? The same networks are timed again and again, each time in fresh processes.

    python benchmarks/final_latency.py [--repeats 8] [--processes 5] [--width 64] [--out FILE.json]

Networks of an eighth, a quarter and half of the base's channels, each alone, are timed together with the dense base as a
search times its finalists. For each network two rows: what single processes found, each with its own interval; and
what the measurements say that several of them make. `spread` is the largest found over the smallest, `±` the
half width of an interval in the mean, `holds` how many intervals hold the median of all that was found undisturbed.

Results with their dates stand in docs/log.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from eed_search.config.spec import LatencySpec  # noqa: E402
from eed_search.deployment.runtime import GateSettings  # noqa: E402
from eed_search.evaluation import latency_processes  # noqa: E402
from eed_search.evaluation.cascade import Cascade, ProcessTiming  # noqa: E402
from eed_search.evaluation.timing import half_width  # noqa: E402
from eed_search.runs.records import Interval  # noqa: E402

SIZES = (0.125, 0.25, 0.5)
SHAPE = (1, 8, 8)
ALONE = GateSettings("threshold", 1.0)
PROTOCOL = {"final_rounds": 40, "final_calls": 1000}  # those of search_spaces/digits.yaml


@dataclass(frozen=True)
class Timing:
    """One measurement of all networks.

    Attributes:
        processes: Of its processes, in order: the base's milliseconds, and each network's ratio.
        ratios: What they agreed on.
        noisy: Whether that was called noisy.
    """

    processes: tuple[tuple[float, tuple[Interval, ...]], ...]
    ratios: tuple[Interval, ...]
    noisy: bool


def network(width: int) -> bytes:
    """Build and export one of the networks."""
    from eed_search.deployment.onnx_export import to_onnx
    from eed_search.models import build

    model = build("small_cnn", width=width, num_classes=10, in_channels=1, mean=(0.5,), std=(0.5,), seed=0)
    return to_onnx(model, SHAPE)


def measure(networks: Sequence[bytes], base: bytes, spec: LatencySpec) -> Timing:
    """Time the networks once, and keep what each process found."""
    images = np.random.default_rng(0).random((300, *SHAPE), dtype=np.float32)
    seen: list[ProcessTiming] = []
    real = latency_processes.in_fresh_process

    def keep(job: latency_processes.Job, *more: Any) -> ProcessTiming:
        seen.append(real(job, *more))
        return seen[-1]

    latency_processes.in_fresh_process = keep
    try:
        half = networks[-1]
        found = latency_processes.cascade_latencies(
            [Cascade([one], ALONE) for one in networks], images, base, half, spec, 1.0
        )
    finally:
        latency_processes.in_fresh_process = real
    return Timing(
        tuple((one.base_ms, tuple(latency.latency_ms for latency in one.latencies)) for one in seen),
        tuple(latency.latency_ms for latency in found),
        any(latency.noisy for latency in found),
    )


def table(timings: Sequence[Timing]) -> str:
    """Write both rows of each network, in Markdown."""
    fastest = min(base_ms for timing in timings for base_ms, _ in timing.processes)
    lines = ["| size | measured in | spread | ± | holds |", "|---:|---|---:|---:|---:|"]
    for i, size in enumerate(SIZES):
        single = [(base_ms, found[i]) for timing in timings for base_ms, found in timing.processes]
        truth = float(np.median([one.value for base_ms, one in single if base_ms <= latency_processes.ALIKE * fastest]))
        lines.append(_row(size, "one process", [one for _, one in single], truth))
        lines.append(_row(size, "several", [timing.ratios[i] for timing in timings], truth))
    num = sum(len(timing.processes) for timing in timings)
    lines += ["", f"{len(timings)} measurements, {num} processes; {sum(one.noisy for one in timings)} called noisy."]
    return "\n".join(lines)


def _row(size: float, where: str, found: Sequence[Interval], truth: float) -> str:
    values = [one.value for one in found]
    width = 100 * float(np.mean([half_width(one) for one in found]))
    holds = sum(one.low <= truth <= one.high for one in found)
    return f"| {size:g} | {where} | {max(values) / min(values):.3f} | {width:.1f} % | {holds} of {len(found)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=8, help="measurements (8)")
    parser.add_argument("--processes", type=int, default=5, help="that make one of them, 2 or more (5)")
    parser.add_argument("--width", type=int, default=64, help="of the dense base (64)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all that was found")
    options = parser.parse_args(argv)
    if options.repeats < 1 or options.processes < 2 or options.width < 8:
        parser.error("give 1 or more repeats, 2 or more processes, and a width of 8 or more")
    spec = LatencySpec(final_processes=options.processes, **PROTOCOL)
    base, networks = network(options.width), [network(round(size * options.width)) for size in SIZES]
    timings = []
    for number in range(options.repeats):
        timings.append(measure(networks, base, spec))
        print(
            f"{number + 1} of {options.repeats}: {[round(one.value, 4) for one in timings[-1].ratios]}", file=sys.stderr
        )
    print(table(timings))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps([asdict(one) for one in timings], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
