"""How far a long piece of work is."""

from __future__ import annotations

import pytest

from eed_search.core.pace import Pace, duration, in_counts, in_shares, now_and_then


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _walk(pace: Pace, clock: Clock, seconds: list[float], done: int = 0) -> None:
    for took in seconds:
        clock.now += took
        done += 1
        pace.at(done)


def test_the_time_left_is_that_of_the_measured_steps() -> None:
    """Twenty steps of 2 s are done of a hundred: 160 s are left."""
    clock = Clock()
    pace = Pace(100, clock=clock)
    _walk(pace, clock, [2.0] * 20)
    assert pace.left_s == pytest.approx(160)
    assert pace.left == ", about 2 min 40 s left"


def test_the_first_step_does_not_count() -> None:
    """It compiled for a minute; the others take a second each."""
    clock = Clock()
    pace = Pace(10, clock=clock)
    _walk(pace, clock, [60.0, 1.0, 1.0])
    assert pace.left_s == pytest.approx(7)


def test_only_the_last_half_minute_counts() -> None:
    """The machine was busy for ten minutes and is free now."""
    clock = Clock()
    pace = Pace(400, clock=clock)
    _walk(pace, clock, [6.0] * 100)
    _walk(pace, clock, [1.0] * 60, done=100)
    assert pace.left_s == pytest.approx(240)


def test_steps_longer_than_the_window_count_by_the_last_ones() -> None:
    """Steps of two minutes: a rate rests on the last two of them."""
    clock = Clock()
    pace = Pace(10, clock=clock)
    _walk(pace, clock, [500.0, 300.0, 120.0, 120.0])
    assert pace.left_s == pytest.approx(6 * 120)


def test_nothing_is_promised_before_a_step_was_measured() -> None:
    """After the first step nobody knows how long the others take."""
    clock = Clock()
    pace = Pace(10, clock=clock)
    assert pace.left == ""
    _walk(pace, clock, [1.0])
    assert pace.left_s is None
    assert pace.left == ""


def test_what_was_done_before_is_no_rate() -> None:
    """A training that goes on at step 900 of 1,000 has not done 900 steps in its first second."""
    clock = Clock()
    pace = Pace(1000, 900, clock=clock)
    _walk(pace, clock, [1.0] * 11, done=900)
    assert pace.left_s == pytest.approx(89)


def test_a_word_is_due_once_a_second() -> None:
    """However fast the steps are."""
    clock = Clock()
    pace = Pace(1000, clock=clock)
    due = []
    for step in range(1, 41):
        clock.now = step / 8
        if pace.at(step):
            due.append(step)
    assert due == [8, 16, 24, 32, 40]


def test_at_the_end_nothing_is_left() -> None:
    """Not `about 0 s left`."""
    clock = Clock()
    pace = Pace(4, clock=clock)
    _walk(pace, clock, [1.0] * 4)
    assert pace.left_s == 0
    assert pace.left == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (7.4, "about 7 s"),
        (43, "about 45 s"),
        (59, "about 1 min 00 s"),
        (128, "about 2 min 10 s"),
        (3720, "about 1 h 02 min"),
    ],
)
def test_the_time_left_has_no_more_digits_than_it_deserves(seconds: float, text: str) -> None:
    """Seconds below ten, then five seconds, then ten."""
    clock = Clock()
    pace = Pace(2 + seconds, clock=clock)
    _walk(pace, clock, [1.0, 1.0])
    assert pace.left == f", {text} left"


def test_shares_are_reported_in_per_cent() -> None:
    """With the time left, at most once a second."""
    clock, lines = Clock(), []
    at = in_shares(lines.append, "attack on the team", clock=clock)
    for step in range(1, 9):
        clock.now = step / 2
        at(step / 10)
    assert lines == [
        "attack on the team: 20 %",
        "attack on the team: 40 %, about 3 s left",
        "attack on the team: 60 %, about 2 s left",
        "attack on the team: 80 %, about 1 s left",
    ]


def test_a_log_hears_of_a_new_stage_at_once_and_of_one_stage_now_and_then() -> None:
    """The stage is what stands before the colon."""
    clock, lines = Clock(), []
    report = now_and_then(lines.append, 10.0, clock=clock)
    for second in range(25):
        clock.now = second
        report(f"base: epoch {second} of 25")
    report("attack on the dense base")
    report("attack on the dense base: 3 %")
    assert lines == [
        "base: epoch 0 of 25",
        "base: epoch 10 of 25",
        "base: epoch 20 of 25",
        "attack on the dense base",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(48, "48 s"), (185, "3 min 05 s"), (3725, "1 h 02 min")])
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    """Seconds, minutes with seconds, hours with minutes."""
    assert duration(seconds) == text


def test_what_has_no_known_end_is_counted() -> None:
    """No time left is promised; the count shows that it goes on."""
    clock, lines = Clock(), []
    at = in_counts(lines.append, "check 5 of 11", "passes", clock=clock)
    for step in range(1, 5):
        clock.now = step / 2
        at(3000 * step)
    assert lines == ["check 5 of 11: 6,000 passes", "check 5 of 11: 12,000 passes"]
