"""How far a long piece of work is, in words: now and then, with the time left by the steps of late."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

Clock = Callable[[], float]
EVERY_S = 1.0  # between two words
_WINDOW_S = 30.0  # that a rate rests on: a machine is not as busy now as it was
_FEWEST = 3  # measured moments that it rests on where steps are longer than that
_MINUTE, _HOUR = 60, 3600


class Pace:
    """Says when a word is due, and how long the rest takes.

    The rate is that of the last half minute, and the first step never counts: it compiles, allocates and warms
    caches up.

    Args:
        total: Work in all, in any unit.
        done: How much of it was done before.
        clock: Gives seconds.
        every_s: Seconds between two words.
    """

    def __init__(self, total: float, done: float = 0.0, *, clock: Clock = time.monotonic, every_s: float = EVERY_S):
        self._total, self._done, self._clock, self._every_s = total, done, clock, every_s
        self._spoke = clock()
        self._seen: deque[tuple[float, float]] = deque()  # moments with what was done, oldest first

    def at(self, done: float) -> bool:
        """Take in how much is done by now; true where a word is due.

        Args:
            done: In the unit of the total; never less than before.
        """
        now, self._done = self._clock(), done
        if not self._seen or now - self._seen[-1][0] >= min(self._every_s, EVERY_S):
            self._seen.append((now, done))
        while len(self._seen) > _FEWEST and now - self._seen[1][0] >= _WINDOW_S:
            self._seen.popleft()
        if now - self._spoke < self._every_s:
            return False
        self._spoke = now
        return True

    @property
    def step_s(self) -> float | None:
        """Seconds that one unit of work takes of late; none as long as too little was measured to say."""
        if len(self._seen) < 2:
            return None
        (start, before), (end, by_now) = self._seen[0], self._seen[-1]
        return (end - start) / (by_now - before) if end > start and by_now > before else None

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes; none as long as nothing can be said."""
        step_s = self.step_s
        return None if step_s is None else max(0.0, self._total - self._done) * step_s

    @property
    def left(self) -> str:
        """The time left for the end of a line, such as `, about 2 min 10 s left`; empty where nothing can be said."""
        seconds = self.left_s
        return f", about {duration(_rounded(seconds))} left" if seconds is not None and seconds >= 0.5 else ""


def in_shares(report: Callable[[str], None], what: str, *, clock: Clock = time.monotonic) -> Callable[[float], None]:
    """Make the function that is told which share of a piece of work is done, and reports it now and then.

    Args:
        report: Takes a line such as `attack on the team: 43 %, about 20 s left`.
        what: The beginning of the line.
        clock: Gives seconds.
    """
    pace = Pace(1.0, clock=clock)

    def at(share: float) -> None:
        if pace.at(share):
            report(f"{what}: {100 * share:.0f} %{pace.left}")

    return at


def in_counts(
    report: Callable[[str], None], what: str, unit: str, *, clock: Clock = time.monotonic
) -> Callable[[int], None]:
    """Make the function that is told how much was done of something without a known end, and reports it now and then.

    Args:
        report: Takes a line such as `check 5 of 11: 12,000 passes`.
        what: The beginning of the line.
        unit: Unit of what is counted.
        clock: Gives seconds.
    """
    pace = Pace(0.0, clock=clock)

    def at(count: int) -> None:
        if pace.at(count):
            report(f"{what}: {count:,} {unit}")

    return at


def now_and_then(
    line: Callable[[str], None], every_s: float, *, clock: Clock = time.monotonic
) -> Callable[[str], None]:
    """Make a report for a log: a new stage is said at once, how far it is only every few seconds.

    Args:
        line: Prints one line.
        every_s: Seconds between two lines about one stage, which is what stands before `: `.
        clock: Gives seconds.
    """
    spoke, stage = 0.0, None

    def report(text: str) -> None:
        nonlocal spoke, stage
        what, now = text.partition(": ")[0], clock()
        if what != stage or now - spoke >= every_s:
            spoke, stage = now, what
            line(text)

    return report


def duration(seconds: float) -> str:
    """Print a time, such as `48 s`, `3 min 05 s` or `1 h 02 min`."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"


def _rounded(seconds: float) -> float:
    """Give no more digits than a guess deserves."""
    step = 1 if seconds < 10 else 5 if seconds < _MINUTE else 10
    return step * round(seconds / step)
