"""The watchdog: tells which workers have made no progress for too long. Kills nobody itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOFT = 0.5  # share of the limit after which it is said


@dataclass
class _Watched:
    count: int
    since: float
    said: bool = False


@dataclass(frozen=True)
class Alarm:
    """A worker without progress.

    Attributes:
        who: The worker.
        seconds: Since its last progress.
        over: Past the limit, and to be ended; else only past half of it, which is said once.
    """

    who: str
    seconds: float
    over: bool


class Watchdog:
    """Watches how many lines each worker has posted.

    Args:
        limit_s: Seconds without progress after which a worker counts as hung; none for no limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._watched: dict[str, _Watched] = {}

    def begin(self, who: str, now: float) -> None:
        """Watch a worker that has just begun."""
        self._watched[who] = _Watched(0, now)

    def watches(self, who: str) -> bool:
        """Whether a worker is watched."""
        return who in self._watched

    def end(self, who: str) -> None:
        """Watch a worker no longer."""
        self._watched.pop(who, None)

    def excuse(self, now: float) -> None:
        """Count everybody's time from now on: they may have waited for what hung."""
        for one in self._watched.values():
            one.since, one.said = now, False

    def suspects(self, who: str, now: float) -> bool:
        """Whether a worker has made no progress for half of the limit."""
        one = self._watched.get(who)
        return one is not None and self.limit_s is not None and now - one.since >= SOFT * self.limit_s

    def look(self, counts: Mapping[str, int], now: float) -> list[Alarm]:
        """Compare with the last look.

        Args:
            counts: Lines posted, by worker; those that are not there count as unchanged.
            now: Seconds on the same clock as `begin`.
        """
        if self.limit_s is None:
            return []
        alarms = []
        for who, one in list(self._watched.items()):
            if (count := counts.get(who, one.count)) != one.count:
                self._watched[who] = _Watched(count, now)
                continue
            idle = now - one.since
            if idle >= self.limit_s:
                alarms.append(Alarm(who, idle, True))
            elif idle >= SOFT * self.limit_s and not one.said:
                one.said = True
                alarms.append(Alarm(who, idle, False))
        return alarms
