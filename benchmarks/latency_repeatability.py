"""Can the latency probe be trusted? Two fresh processes measure the same networks and are compared.

    python benchmarks/latency_repeatability.py [--repeats 20] [--width 64] [--out FILE.json]

Each process measures, with the search's own probe: the dense base against itself (A/A), the dense
base with an injected slow-down of 5 % (every call spins on for a twentieth of its own time), and a
ladder of narrower networks. What must hold:

- the A/A ratio lies within 1 ± 0.02 in at least 19 of 20 measurements, in each process;
- the slow-down is found (the whole interval above 1.02, A/A's bound) in at least 19 of 20, in each process;
- both processes rank the ladder alike: Kendall's τ at least 0.95.

Run on 2026-11-21, before only undisturbed rounds counted (20 repeats, AMD EPYC, 2 cores, onnxruntime 1.31.1, nothing else running): A/A within the bounds in 20 and 20 of
20, slow-down found in 19 and 20 of 20, τ 1.0: passed.

All raw ratios, the versions, the processor and its load go into the JSON file.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REQUIRED_SHARE, AA_TOLERANCE, SLOW_DOWN, REQUIRED_TAU = 19 / 20, 0.02, 0.05, 0.95
IMAGE_SHAPE = (1, 8, 8)
RESULT = Path(__file__).parent / "results" / "latency_repeatability.json"


def measure(repeats: int, width: int) -> dict[str, Any]:
    """Take every measurement once; runs in a fresh process.

    Args:
        repeats: Measurements of A/A and of the slow-down.
        width: Of the dense base; the ladder takes every eighth of it.
    """
    from eed_search.config.spec import LatencySpec
    from eed_search.deployment.onnx_export import to_onnx
    from eed_search.evaluation.latency import Call, LatencyProbe, RatioEstimate
    from eed_search.models import build

    def network(channels: int) -> bytes:
        model = build("small_cnn", width=channels, num_classes=10, in_channels=1, mean=(0.5,), std=(0.5,), seed=0)
        return to_onnx(model, IMAGE_SHAPE)

    def slowed(call: Call) -> Call:
        def longer(image: int) -> None:
            start = time.perf_counter_ns()
            call(image)
            end = time.perf_counter_ns()
            until = end + int(SLOW_DOWN * (end - start))
            while time.perf_counter_ns() < until:
                pass

        return longer

    def plain(estimate: RatioEstimate) -> dict[str, Any]:
        ratio = estimate.ratio
        return {
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "noisy": estimate.noisy,
            "samples": [round(sample, 5) for sample in estimate.samples],
        }

    load_before = os.getloadavg()
    start = time.perf_counter()
    dense = network(width)
    probe = LatencyProbe(dense, network(width // 2), IMAGE_SHAPE, LatencySpec())
    again = probe.call_of(dense)
    same, slow = [], []
    for _ in range(repeats):  # in turns, so that both meet the same hours of the machine
        same.append(plain(probe.measure_call(again)))
        slow.append(plain(probe.measure_call(slowed(again))))
    widths = [width * eighth // 8 for eighth in range(1, 9)]
    return {
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "seconds": round(time.perf_counter() - start, 1),
        "same": same,
        "slowed": slow,
        "ladder": {str(channels): plain(probe.measure(network(channels))) for channels in widths},
    }


def evaluate_robustness(processes: list[dict[str, Any]]) -> dict[str, Any]:
    """Hold two processes' measurements against what must hold."""
    from scipy.stats import kendalltau

    ladders = [[one["ladder"][width]["ratio"] for width in processes[0]["ladder"]] for one in processes]
    return {
        "same_within": [sum(abs(m["ratio"] - 1) <= AA_TOLERANCE for m in one["same"]) for one in processes],
        "slow_down_found": [sum(m["low"] > 1 + AA_TOLERANCE for m in one["slowed"]) for one in processes],
        "repeats": len(processes[0]["same"]),
        "kendall_tau": round(float(kendalltau(*ladders).statistic), 4),
        "noisy": [sum(m["noisy"] for m in (*one["same"], *one["slowed"])) for one in processes],
    }


def passed(verdict: dict[str, Any]) -> bool:
    """Say whether all three demands hold."""
    need = REQUIRED_SHARE * verdict["repeats"]
    counts = [*verdict["same_within"], *verdict["slow_down_found"]]
    return all(count >= need for count in counts) and verdict["kendall_tau"] >= REQUIRED_TAU


def machine() -> dict[str, Any]:
    """Describe processor and versions."""
    from eed_search.system.cores import usable_cores

    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    packages = ("eed-search", "torch", "onnxruntime", "onnx", "numpy")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def main() -> int:
    """Start two fresh processes one after the other, judge them, and store everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=20, help="measurements of each kind in each process (20)")
    parser.add_argument("--width", type=int, default=64, help="width of the dense small_cnn, a multiple of 8 (64)")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file for raw samples and verdict")
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)  # the fresh process's own output
    options = parser.parse_args()
    if options.repeats < 1 or options.width < 8 or options.width % 8:
        parser.error("--repeats must be at least 1 and --width a multiple of 8")
    if options.process is not None:
        options.process.write_text(json.dumps(measure(options.repeats, options.width)))
        return 0
    processes = []
    for number in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part.json"
            sizes = ["--repeats", str(options.repeats), "--width", str(options.width)]
            subprocess.run([sys.executable, __file__, *sizes, "--process", str(part)], check=True)
            processes.append(json.loads(part.read_text()))
        print(f"process {number}: {processes[-1]['seconds']} s, load {processes[-1]['load_after'][0]:.1f}", flush=True)
    verdict = evaluate_robustness(processes)
    stored = {
        "date": time.strftime("%Y-%m-%d"),
        "repeats": options.repeats,
        "width": options.width,
        "passed": passed(verdict),
        "verdict": verdict,
        "machine": machine(),
        "processes": processes,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(stored, indent=1) + "\n")
    num = verdict["repeats"]
    for n in (0, 1):
        print(
            f"process {n + 1}: A/A within 1 ± {AA_TOLERANCE} in {verdict['same_within'][n]} of {num};"
            f" 5 % slow-down found in {verdict['slow_down_found'][n]} of {num}; noisy {verdict['noisy'][n]} of {2 * num}"
        )
    print(f"Kendall τ of the ladder: {verdict['kendall_tau']}")
    print(f"{'passed' if stored['passed'] else 'FAILED'}; raw samples: {options.out}")
    return 0 if stored["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
