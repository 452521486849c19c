"""The race of one search: which trials go on at a rung, which wait, which are given up.

    rung 0  `members`  the recovered members behind the gate, before the joint fine-tune
    rung 1  `joint`    the same team after it
    end                all images, the whole attack, the sweep

A trial's work ends at each rung; the stage store makes going on cheap. Everything here follows from
the ledger's events in their order (`RungScheduler.replay`), so a search that was killed decides as the
undisturbed one would have. The decisions themselves are `race`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from eed_search.config.params import LatencyKind
from eed_search.core.statistics import next_gain, paired_difference
from eed_search.evaluation.sequential_test import DOMINATED
from eed_search.frontier.points import latency_kind
from eed_search.runs.cost import latency_of
from eed_search.runs.ledger import RungRecord, RunView
from eed_search.runs.records import Measurement, TrialRecord, unpack_bits
from eed_search.search.racing.promotion import PromotionRule, Verdict
from eed_search.search.racing.readings import Objectives, objectives_of
from eed_search.storage.store import StageUse

RUNGS = ("members", "joint")
_SIGNS = {"robust_accuracy": -1.0, "latency_ms": 1.0}
_ROBUST, _LATENCY = 0, 1  # places of both in a reading


@dataclass(frozen=True)
class _Finished:
    """What the finished trials had at one rung; an array has one entry for each.

    Attributes:
        numbers: The trials.
        latency: In the end.
        gains: Robust accuracy in the end minus that at the rung.
        num_right: Images that stayed right at the rung.
        sizes: Images that it was measured on.
        mean: Mean of the gains.
        error: How far one more gain may lie from the mean.
    """

    numbers: list[int]
    latency: Float[np.ndarray, " trials"]
    gains: Float[np.ndarray, " trials"]
    num_right: Int[np.ndarray, " trials"]
    sizes: Int[np.ndarray, " trials"]
    mean: float
    error: float


class RungScheduler:
    """What a search's trials have reported, and who goes on.

    Args:
        eta: One in so many trials goes on at each rung.
        kind: Which latency ranks; that at a rung comes with its report.
    """

    def __init__(self, eta: int, kind: LatencyKind = "clean") -> None:
        self._kind: LatencyKind = kind
        self._race = PromotionRule(len(_SIGNS), len(RUNGS) + 1, eta=eta)
        self._readings: list[tuple[int, int, Objectives]] = []
        self._first: dict[tuple[int, int], Objectives] = {}  # by trial and rung
        self._right: dict[tuple[int, int], Bool[np.ndarray, " samples"]] = {}  # by trial and rung
        self._done: dict[int, Objectives] = {}
        self._next_rung: dict[int, int] = {}
        # Each with the number of finished trials that it was found with: what these had at a rung, and who is behind.
        self._at_rung: dict[int, tuple[int, _Finished | None]] = {}
        self._known_behind: dict[tuple[int, int], tuple[int, bool]] = {}

    @classmethod
    def replay(cls, view: RunView, eta: int) -> RungScheduler:
        """Live through a run's trials again: what was decided stands, and only what was not is decided now."""
        racing = cls(eta, latency_kind(view))
        seen: dict[int, int] = {}
        for what, number in view.history:
            if what == "proposal":
                racing.proposed(number)
            elif what == "report":
                report = view.reports[number][seen.setdefault(number, 0)]
                seen[number] += 1
                racing._recalled(number, report)
            elif what == "resume":
                racing.resumed(number)
            else:
                racing.ended(view.trials[number])
        return racing

    # ------------------------------------------------------------ events

    def proposed(self, number: int) -> None:
        """A trial was proposed."""
        self._race.add(number)
        self._next_rung[number] = 0

    def reported(self, number: int, report: RungRecord) -> Verdict:
        """A trial came to a rung.

        Returns:
            `continue` or `pause`.

        Raises:
            ValueError: If a metric is missing or not finite.
        """
        return self._race.report(number, report.rung, self._enter(number, report))

    def _recalled(self, number: int, report: RungRecord) -> None:
        """A trial came to a rung, and what was made of it stands in the ledger."""
        if not report.decision or not self._race.is_new(number, report.rung):  # a driver was killed before it could say
            self.reported(number, report)
            return
        went_on: Verdict = "continue" if report.decision == "continue" else "pause"
        self._race.recall(number, report.rung, self._enter(number, report), went_on)

    def _enter(self, number: int, report: RungRecord) -> Objectives:
        rung, reading = report.rung, objectives_of(report.metrics, _SIGNS)
        if reading is None:
            raise ValueError(f"trial {number}: {report.metrics} at rung {rung} lacks a finite metric")
        self._next_rung[number] = rung + 1
        self._right[number, rung] = unpack_bits(report.robust_hex, report.num_samples)
        self._note(number, rung, reading)
        return reading

    def resumed(self, number: int) -> None:
        """A trial that waited goes on."""
        self._race.resume(number)

    def ended(self, record: TrialRecord) -> None:
        """A trial came to its end; one that is done is what others are held against, one given up only teaches."""
        if record.outcome == "done" and record.measurement is not None:
            reading = _objectives(record.measurement, self._kind)
            self._note(record.number, len(RUNGS), reading)
            self._done[record.number] = reading
            self._race.report(record.number, len(RUNGS), reading)
        elif (stop := record.stop) is not None:
            values = (-stop.robust_accuracy, stop.latency_ms.value)
            self._note(record.number, len(RUNGS), Objectives(values, values, values))
        self._race.end(record.number)

    # ------------------------------------------------------------ questions

    def next_rung(self, number: int) -> int | None:
        """Say to which rung a trial goes next; none: to its end."""
        rung = self._next_rung[number]
        return rung if rung < len(RUNGS) else None

    def paused(self) -> list[int]:
        """List the trials that wait."""
        return self._race.paused()

    def to_resume(self, *, nothing_new: bool) -> int | None:
        """Name the waiting trial that should go on now.

        Args:
            nothing_new: Nothing will be proposed any more: those that may still belong to the frontier go on.
        """
        chosen = self._race.next_to_resume()
        if chosen is None and nothing_new:
            chosen = next((n for n in self._race.undecided() if not self._behind(n)), None)
        return chosen

    def _behind(self, number: int) -> bool:
        """Whether a finished trial is as fast and surely more robust, image by image at the rung where both were.

        The difference in the end is expected to be that at the rung, plus what finished trials gained
        from there on average, minus what this one gained. Its error is that of the paired difference and
        that of one more gain (a prediction interval by Student's t). With fewer than three finished
        trials nobody is behind. (Ours.)
        """
        rung = self._next_rung[number] - 1
        known = self._known_behind.get((number, rung))
        if known is None or known[0] != len(self._done):
            known = self._known_behind[number, rung] = (len(self._done), self._compare(number, rung))
        return known[1]

    def _compare(self, number: int, rung: int) -> bool:
        done = self._finished(rung)
        if done is None:
            return False
        right, latency = self._right[number, rung], self._at(number, rung).value[_LATENCY]
        # Other images than before: the run was resumed although its data or their number had changed.
        comparable = (done.sizes == right.size) & (done.latency <= latency)
        expected = (int(right.sum()) - done.num_right) / right.size + done.mean - done.gains
        for i in np.flatnonzero(comparable & (expected + done.error < 0)):  # the others' interval is wider still
            difference, _, high = paired_difference(right, self._right[done.numbers[i], rung])
            if expected[i] + math.hypot(high - difference, done.error) < 0:
                return True
        return False

    def _finished(self, rung: int) -> _Finished | None:
        """What finished trials had at a rung, and gained from there on; none while there are too few."""
        before = self._at_rung.get(rung)
        if before is not None and before[0] == len(self._done):
            return before[1]
        found = None
        numbers = [n for n in self._done if (n, rung) in self._right]
        gains = np.array([self._at(n, rung).value[_ROBUST] - self._done[n].value[_ROBUST] for n in numbers])
        if (expected := next_gain(gains)) is not None:
            mean, error = expected
            found = _Finished(
                numbers,
                np.array([self._done[n].value[_LATENCY] for n in numbers]),
                gains,
                np.array([int(self._right[n, rung].sum()) for n in numbers]),
                np.array([self._right[n, rung].size for n in numbers]),
                float(mean),
                float(error),
            )
        self._at_rung[rung] = (len(self._done), found)
        return found

    def _note(self, number: int, rung: int, reading: Objectives) -> None:
        self._readings.append((number, rung, reading))
        self._first.setdefault((number, rung), reading)

    def _at(self, number: int, rung: int) -> Objectives:
        return self._first[number, rung]

    def readings(self) -> Iterator[tuple[int, int, tuple[float, ...]]]:
        """Give trial, rung (the last one is the end) and both objectives, minimised, of every report in order."""
        return ((number, rung, reading.value) for number, rung, reading in self._readings)


def dominated_record(number: int, view: RunView) -> TrialRecord:
    """Write down the end of a trial that waited until nothing was left to wait for."""
    last = view.reports[number][-1]
    text = (
        f"gave way after `{RUNGS[last.rung]}`: {100 * last.metrics['robust_accuracy']:.1f} % robust in"
        f" {last.metrics['latency_ms']:.3g} ms there; others are surely faster and more robust"
    )
    return TrialRecord(number, dict(view.proposals[number]), "pruned", DOMINATED, text)


def with_earlier(record: TrialRecord, reports: Sequence[RungRecord]) -> TrialRecord:
    """Add what a trial used up to its last rung, each stage once: reading its own work again is no reuse."""
    uses: dict[tuple[str, str], StageUse] = {}
    for use in (*(use for report in reports for use in report.stages), *record.stages):
        uses.setdefault((use.stage, use.key), use)
    if not reports:
        return record
    return replace(
        record, stages=tuple(uses.values()), seconds=record.seconds + sum(report.seconds for report in reports)
    )


def _objectives(measurement: Measurement, kind: LatencyKind) -> Objectives:
    robust, latency = measurement.robust_accuracy, latency_of(measurement, kind)
    return Objectives((-robust.value, latency.value), (-robust.high, latency.low), (-robust.low, latency.high))
