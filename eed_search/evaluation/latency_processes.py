"""Final latencies: several fresh processes, one after another, and what they agree on.

Where a process's code and data come to lie differs from one to the next, and with it a small network's time: by
some percent, more than the interval that any of them measures for itself (docs/log.md, 2026-11-22). A deployed program
is such a process. So the rounds are shared among several, and the interval is that of their medians. A
process in which the dense base was slower than in the fastest was disturbed from beginning to end; another takes its place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from eed_search.config.spec import LatencySpec
from eed_search.core.pace import Pace
from eed_search.deployment.runtime import GateSettings
from eed_search.evaluation.cascade import Cascade, Images, ProcessTiming, time_in_process
from eed_search.evaluation.timing import inverse, median_interval
from eed_search.runs.records import Denominator, Latency, from_json, to_json
from eed_search.system.private import temporary_folder

At = Callable[[int, int], None]
"""Told how many rounds are done, and of how many."""
ALIKE = 1.03  # times the fastest process's base up to which another counts as undisturbed
SPARE = 3  # processes that may take the place of disturbed ones
_JOB, _ARRAYS, _FOUND, _SAID, _AT = "job.json", "job.npz", "found.json", "said", "at"
_EVERY_S = 1.0  # between two looks at how far a process is, and between two words of it
_SHOWN = 500  # characters of what a broken process said last


@dataclass(frozen=True)
class Job:
    """What a latency process is given: the arguments of `time_in_process`. It travels as JSON and arrays, never as code.

    Attributes:
        cascades: Those to time.
        images: float32 in [0, 1].
        reference_onnx: The dense base.
        sentinel_onnx: A network of known cost, or none.
        spec: Settings of the measurement.
        reference_ms: Wall time of the dense base from a quiet window.
        denominator: How the dense base runs.
    """

    cascades: tuple[Cascade, ...]
    images: Images
    reference_onnx: bytes
    sentinel_onnx: bytes | None
    spec: LatencySpec
    reference_ms: float
    denominator: Denominator

    def sit(self, tell: At = lambda done, of: None) -> ProcessTiming:
        """Do it in this process."""
        return time_in_process(
            self.cascades,
            self.images,
            self.reference_onnx,
            self.sentinel_onnx,
            self.spec,
            self.reference_ms,
            denominator=self.denominator,
            tell=tell,
        )

    def write(self, folder: Path) -> None:
        """Leave it in a folder for another process."""
        arrays = {"images": self.images, "reference": _as_array(self.reference_onnx)}
        if self.sentinel_onnx is not None:
            arrays["sentinel"] = _as_array(self.sentinel_onnx)
        for i, cascade in enumerate(self.cascades):
            arrays |= {f"member-{i}-{j}": _as_array(onnx) for j, onnx in enumerate(cascade.member_onnx)}
        np.savez(folder / _ARRAYS, allow_pickle=False, **arrays)
        plain = {
            "cascades": [
                {"gate": asdict(one.gate), "plain": one.plain, "num_members": len(one.member_onnx)}
                for one in self.cascades
            ],
            "spec": self.spec.model_dump(mode="json"),
            "reference_ms": self.reference_ms,
            "denominator": self.denominator,
        }
        (folder / _JOB).write_text(json.dumps(plain), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Read what `write` left."""
        plain = json.loads((folder / _JOB).read_bytes())
        with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
            return cls(
                tuple(
                    Cascade(
                        [arrays[f"member-{i}-{j}"].tobytes() for j in range(one["num_members"])],
                        GateSettings(**one["gate"]),
                        one["plain"],
                    )
                    for i, one in enumerate(plain["cascades"])
                ),
                arrays["images"],
                arrays["reference"].tobytes(),
                arrays["sentinel"].tobytes() if "sentinel" in arrays.files else None,
                LatencySpec(**plain["spec"]),
                plain["reference_ms"],
                plain["denominator"],
            )


def _as_array(onnx: bytes) -> np.ndarray:
    return np.frombuffer(onnx, np.uint8)


def cascade_latencies(
    cascades: Sequence[Cascade],
    images: Images,
    reference_onnx: bytes,
    sentinel_onnx: bytes | None,
    spec: LatencySpec,
    reference_ms: float,
    report: Callable[[str], None] = lambda text: None,
    denominator: Denominator = "plain",
) -> list[Latency]:
    """Time deployed cascades as `time_in_process` does, in `spec.final_processes` fresh processes.

    Args:
        cascades: Those to time.
        images: float32 in [0, 1]; the mean is over these.
        reference_onnx: The dense base.
        sentinel_onnx: A network of known cost; none does without.
        spec: Threads, final processes, rounds and calls, block length. One process: the caller's own.
        reference_ms: Wall time of the dense base from a quiet window.
        denominator: How the dense base runs, as in `time_in_process`.
        report: Told which process it is, at which round, and how long the rest takes.

    Returns:
        One for each cascade. The interval is that of the processes' medians; `noisy` too where fewer processes than
        wanted were undisturbed, with three to spare.

    Raises:
        RuntimeError: If a process breaks; with what it said.
    """
    wanted = spec.final_processes
    job = Job(tuple(cascades), images, reference_onnx, sentinel_onnx, spec, reference_ms, denominator)
    if wanted == 1:
        return list(job.sit().latencies)
    timings: list[ProcessTiming] = []
    pace = Pace(wanted)
    while len(timings) < wanted + SPARE and len(undisturbed(timings)) < wanted:
        number = len(timings) + 1
        title = f"process {number}"
        title += f" of {wanted}" if number <= wanted else f", for a disturbed one of {wanted}"
        report(title)

        def at(done: int, of: int, title: str = title, number: int = number) -> None:
            pace.at(number - 1 + done / of)
            report(f"{title}: round {done} of {of}{pace.left if number <= wanted else ''}")

        timings.append(in_fresh_process(job, at))
    kept = sorted(timings, key=lambda one: one.base_ms)[:wanted]
    all_undisturbed = len(undisturbed(kept)) == wanted
    return [
        agreed([one.latencies[i] for one in kept], reference_ms, all_undisturbed=all_undisturbed)
        for i in range(len(cascades))
    ]


def undisturbed(timings: Sequence[ProcessTiming]) -> list[ProcessTiming]:
    """Keep the processes in which the dense base was about as fast as in the fastest."""
    fastest = min((one.base_ms for one in timings), default=0.0)
    return [one for one in timings if one.base_ms <= ALIKE * fastest]


def agreed(latencies: Sequence[Latency], reference_ms: float, *, all_undisturbed: bool) -> Latency:
    """Make one latency of what several processes found for one cascade.

    Args:
        latencies: One or more.
        reference_ms: The dense base's latency.
        all_undisturbed: Whether all the processes were undisturbed.

    Returns:
        Medians of all numbers; the intervals are those of the medians over processes.
    """
    found = median_interval(np.array([one.latency_ms.value for one in latencies]))
    worst = float(np.median([one.worst_case_ms for one in latencies]))
    speeds = [one.images_per_second.value for one in latencies if one.images_per_second is not None]
    script = [one.script_speedup.value for one in latencies if one.script_speedup is not None]
    return Latency(
        latency_ms=found,
        p50_ms=_median([one.p50_ms for one in latencies]),
        p95_ms=_median([one.p95_ms for one in latencies]),
        worst_case_ms=worst,
        speedup=inverse(found, reference_ms),
        worst_case_speedup=reference_ms / worst,
        method="cascade",
        noisy=not all_undisturbed or any(one.noisy for one in latencies),
        images_per_second=median_interval(np.array(speeds)) if speeds else None,
        num_calls=sum(one.num_calls for one in latencies),
        exit_ms=tuple(float(np.median(times)) for times in zip(*(one.exit_ms for one in latencies), strict=True)),
        denominator=latencies[0].denominator,
        script_speedup=median_interval(np.array(script)) if script else None,
    )


def _median(values: Sequence[float | None]) -> float | None:
    """Give the median; none where one of them is not known."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if len(known) == len(values) else None


# ---------------------------------------------------------------- the processes


def in_fresh_process(job: Job, at: At = lambda done, of: None) -> ProcessTiming:
    """Run one latency process in an interpreter of its own; it ends with this process, whatever ends that.

    Args:
        job: What it does.
        at: Told how many rounds are done, and of how many, whenever the process has come on.

    Raises:
        RuntimeError: If it breaks.
    """
    with temporary_folder("latency") as folder:
        job.write(folder)
        with (folder / _SAID).open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
            )
        try:
            _wait(process, folder / _AT, at)
        finally:
            process.kill()
            process.communicate()
        if process.returncode != 0:
            last = (folder / _SAID).read_text(encoding="utf-8", errors="replace").strip()[-_SHOWN:]
            raise RuntimeError(f"a process for the final latencies ended with {process.returncode}: {last}")
        plain = json.loads((folder / _FOUND).read_bytes())
    return ProcessTiming(tuple(from_json(Latency, one) for one in plain["latencies"]), float(plain["base_ms"]))


def _wait(process: subprocess.Popen[bytes], file: Path, at: At) -> None:
    """Wait for a process's end, and pass on what it writes about its rounds; one that hangs writes nothing."""
    last = ""
    while True:
        try:
            process.wait(_EVERY_S)
            return
        except subprocess.TimeoutExpired:
            with suppress(OSError, ValueError):  # not there yet, or being written
                done, of = map(int, (text := file.read_text(encoding="utf-8")).split("/"))
                if text != last:
                    last = text
                    at(done, of)


def main(folder: Path) -> None:
    """Be one of the processes: read the job, do it, leave what was found."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    wrote = time.monotonic()

    def tell(done: int, of: int) -> None:  # between two rounds, so that nothing is timed meanwhile
        nonlocal wrote
        if time.monotonic() - wrote >= _EVERY_S:
            wrote = time.monotonic()
            (folder / _AT).write_text(f"{done}/{of}", encoding="utf-8")

    found = Job.read(folder).sit(tell)
    plain = {"latencies": [to_json(one) for one in found.latencies], "base_ms": found.base_ms}
    (folder / _FOUND).write_text(json.dumps(plain), encoding="utf-8")


def _end_with_parent() -> None:
    """Wait for the end of the pipe from whoever started this process, and end then."""
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written to it
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
