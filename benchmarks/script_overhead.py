"""What does the deployed script add to a plain run of the same networks?

    python benchmarks/script_overhead.py [--blocks 40] [--calls 200] [--out FILE.json]

Networks of several widths, untrained, batch 1, one thread, 32 x 32 images: `small_cnn` from the smallest on, and ResNet-18 of
the widths that members of `search_spaces/cifar10_small.yaml` have. Plain is what a practitioner would write:
`session.run` of the ONNX file and an argmax. Beside it, in turns within each block, the bundle's script runs the same network
alone, and three of them with a gate that never stops early. Printed: microseconds of a call (median over the blocks of
each block's lower quartile), the difference, and the ratio. The goals: a single network at most 1.1 times its plain run from
50 us on, below that at most 4 us more; three networks at most 1.15 times the sum of their plain runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from eed_search.deployment.onnx_export import to_onnx  # noqa: E402
from eed_search.deployment.runtime import GatedClassifier, GateSettings, new_session  # noqa: E402
from eed_search.models import build  # noqa: E402

NETWORKS = ("small_cnn 2", "small_cnn 4", "small_cnn 8", "small_cnn 16", "small_cnn 24", "resnet18 8", "resnet18 16")
SHAPE = (3, 32, 32)
NEVER = GateSettings("threshold", threshold=2.0)


@dataclass(frozen=True)
class Row:
    """One comparison, in microseconds.

    Attributes:
        what: Network and number of members.
        plain_us: Of the plain runs together.
        script_us: Of the script.
        within: Whether the goal is reached.
    """

    what: str
    plain_us: float
    script_us: float
    within: bool


def timed(calls: Sequence[Callable[[], object]], num_blocks: int, num_calls: int) -> list[float]:
    """Time several functions in turns; gives microseconds of a typical undisturbed call of each."""
    found: list[list[float]] = [[] for _ in calls]
    for block in range(num_blocks):
        order = list(range(len(calls)))
        for i in order if block % 2 else reversed(order):
            call, taken = calls[i], np.empty(num_calls)
            for k in range(num_calls):
                begin = time.perf_counter_ns()
                call()
                taken[k] = time.perf_counter_ns() - begin
            found[i].append(float(np.quantile(taken, 0.25)) / 1000)
    return [float(np.median(one)) for one in found]


def compare(network_and_width: str, num_blocks: int, num_calls: int) -> list[Row]:
    """Compare one network alone, and three of it."""
    torch.manual_seed(0)
    name, width = network_and_width.split()
    network = build(name, width=int(width), num_classes=10, in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3).eval()
    onnx = to_onnx(network, SHAPE)
    image = np.random.default_rng(0).random((1, *SHAPE), dtype=np.float32)
    sessions: list[Any] = [new_session(onnx) for _ in range(3)]
    alone = GatedClassifier.from_sessions(sessions[:1], NEVER)
    three = GatedClassifier.from_sessions(sessions, NEVER)

    def plain() -> None:
        sessions[0].run(None, {"images": image})[0].argmax()

    def plain_three() -> None:
        for session in sessions:
            session.run(None, {"images": image})[0].argmax()

    calls = (plain, lambda: alone.predict(image), plain_three, lambda: three.predict(image))
    timed(calls, 2, num_calls)
    one, one_script, all_three, three_script = timed(calls, num_blocks, num_calls)
    single = one_script <= 1.1 * one if one >= 50 else one_script - one <= 4
    return [
        Row(network_and_width, one, one_script, single),
        Row(f"{network_and_width} x 3", all_three, three_script, three_script <= 1.15 * all_three),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare networks of several widths and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME WIDTH")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [row for network in given.networks for row in compare(network, given.blocks, given.calls)]
    print(f"{'network':18} {'plain us':>9} {'script us':>9} {'more':>6} {'ratio':>6}  within the goal")
    for row in rows:
        more, ratio = row.script_us - row.plain_us, row.script_us / row.plain_us
        print(
            f"{row.what:18} {row.plain_us:9.1f} {row.script_us:9.1f} {more:6.1f} {ratio:6.3f}  {'yes' if row.within else 'no'}"
        )
    if given.out:
        table = {"machine": platform.processor(), "rows": [asdict(row) for row in rows]}
        given.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
