"""The watchdog: progress is a new line, not time."""

from __future__ import annotations

from eed_search.search.execution.watchdog import Alarm, Watchdog


def test_half_the_limit_is_said_once_and_the_limit_ends() -> None:
    """First a word, then the end."""
    dog = Watchdog(10)
    dog.begin("trial 0", 100)
    dog.look({"trial 0": 1}, 101)
    assert dog.look({"trial 0": 1}, 105) == []
    assert dog.look({"trial 0": 1}, 106.5) == [Alarm("trial 0", 5.5, False)]
    assert dog.look({"trial 0": 1}, 108) == []
    assert dog.look({"trial 0": 1}, 111) == [Alarm("trial 0", 10, True)]


def test_a_new_line_is_progress() -> None:
    """The clock starts again, and so does the word."""
    dog = Watchdog(10)
    dog.begin("a", 0)
    dog.look({"a": 1}, 6)
    assert dog.look({"a": 2}, 9) == []
    assert dog.look({"a": 2}, 15) == [Alarm("a", 6, False)]


def test_silence_from_the_beginning_counts() -> None:
    """A worker that never posts a line is stuck too."""
    dog = Watchdog(10)
    dog.begin("a", 0)
    assert dog.look({}, 10) == [Alarm("a", 10, True)]


def test_whoever_has_ended_is_not_watched() -> None:
    """Nor is anybody without a limit."""
    dog = Watchdog(10)
    dog.begin("a", 0)
    assert dog.watches("a")
    dog.end("a")
    assert not dog.watches("a")
    assert dog.look({}, 100) == []
    free = Watchdog(None)
    free.begin("a", 0)
    assert free.look({}, 1e9) == []


def test_a_monitor_that_started_again_is_no_alarm() -> None:
    """Its counts begin anew: another number is progress."""
    dog = Watchdog(10)
    dog.begin("a", 0)
    dog.look({"a": 7}, 1)
    assert dog.look({"a": 1}, 12) == []


def test_whoever_waited_for_what_hung_has_its_whole_limit_again() -> None:
    dog = Watchdog(10)
    dog.begin("a", 0)
    dog.excuse(9)
    assert dog.look({}, 13) == []
    assert [alarm.over for alarm in dog.look({}, 19)] == [True]


def test_who_is_halfway_to_the_limit_is_suspected() -> None:
    """Until a new line of theirs, or an end."""
    watchdog = Watchdog(10)
    watchdog.begin("a", 0)
    assert [watchdog.suspects("a", now) for now in (4.9, 5.0)] == [False, True]
    assert not watchdog.suspects("nobody", 9)
    watchdog.look({"a": 1}, 6)
    assert not watchdog.suspects("a", 9)
    watchdog.end("a")
    assert not watchdog.suspects("a", 20)
    assert not Watchdog(None).suspects("a", 20)
