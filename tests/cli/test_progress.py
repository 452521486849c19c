"""What a person sees while a search runs."""

from __future__ import annotations

import io
import re
import threading

from rich.console import Console
from rich.live import Live

from eed_search.cli.progress import Head, LiveProgress, PlainProgress, page, trial_line
from eed_search.cli.progress import progress as shown_progress
from eed_search.frontier.points import frontier
from eed_search.search.listener import Status
from tests.tracking.factories import make_trial, make_view


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _plain() -> tuple[PlainProgress, list[str], Clock]:
    lines: list[str] = []
    clock = Clock()
    return PlainProgress(lines.append, clock), lines, clock


def _drawn(status: Status, *, trials: int = 20) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(page(Head("trials and baselines", lambda: 95.0), status, make_view(trials)))
    return console.export_text()


def test_each_event_is_a_line_with_its_time() -> None:
    """Phases, base, baselines and trials: one line each, after the minutes and seconds that have passed."""
    progress, lines, clock = _plain()
    view = make_view()
    assert view.base is not None
    progress.on_stage("dense base")
    clock.now = 83
    progress.on_base(view.base)
    progress.on_baseline(view.baselines[0])
    assert lines == [
        "[ 0:00] dense base",
        "[ 1:23] dense base: robust 84.0 ±4.6 %, clean 99.0 %, 1.00 ±0.02 × as fast (1.00× attacked) (12 s)",
        "[ 1:23] scratch 50 % (labels): robust 79.0 ±5.1 %, clean 94.0 %, 3.08 ±0.06 × as fast (3.08× attacked) (14 s)",
    ]


def test_a_trial_says_how_far_the_search_is() -> None:
    """After a trial: how many are done, the frontier, the hypervolume, the time left."""
    progress, lines, clock = _plain()
    view = make_view(8)
    progress.on_tick(Status(3700, {}, {}, 20, 125.0))
    clock.now = 3700
    progress.on_result(view.trials[7], view)
    front = len(frontier(view))
    assert lines[0].startswith("[1:01:40] trial 7 done: robust ")
    assert lines[1].startswith(f"[1:01:40]   8 of 20 trials, {front} points on the frontier, hypervolume 0.")
    assert lines[1].endswith(", about 2 min 05 s left")


def test_the_last_trial_has_no_time_left() -> None:
    """Nothing is promised when nothing is left."""
    progress, lines, _ = _plain()
    view = make_view(8)
    progress.on_tick(Status(10, {}, {}, 8, 12.0))
    progress.on_result(view.trials[7], view)
    assert "left" not in lines[-1]


def test_a_failed_trial_gives_its_reason() -> None:
    """Reason and message in the line."""
    view = make_view()
    assert trial_line(view.trials[5]).startswith("trial 5 failed (diverged): loss is nan; ")
    assert trial_line(view.trials[3]).startswith(
        "trial 3 infeasible (min_clean_accuracy): clean accuracy 0.91 is below 0.95"
    )


def _tick(progress: PlainProgress, clock: Clock, second: int, text: str) -> None:
    clock.now = second
    progress.on_tick(Status(second, {"dense base": text}, {}, 20))


def test_a_log_shows_how_far_a_long_stage_is() -> None:
    """Every 15 s in the first minutes, each line with the epoch, the loss and the time left of that moment."""
    progress, lines, clock = _plain()
    progress.on_stage("dense base")
    for second in range(46):
        _tick(progress, clock, second, f"base: epoch {second / 10:g} of 30, loss {2 - second / 100:.3g}")
    assert lines[1:] == [
        "[ 0:15]   dense base: base: epoch 1.5 of 30, loss 1.85",
        "[ 0:30]   dense base: base: epoch 3 of 30, loss 1.7",
        "[ 0:45]   dense base: base: epoch 4.5 of 30, loss 1.55",
    ]


def test_after_five_minutes_a_line_a_minute_is_enough() -> None:
    """A log of hours stays readable; a new phase is watched closely again."""
    progress, lines, clock = _plain()
    progress.on_stage("dense base")
    for second in range(601):
        _tick(progress, clock, second, f"base: epoch {second} of 2000")
    assert [line[1:6].strip() for line in lines[1:]] == [
        *(f"{second // 60}:{second % 60:02d}" for second in range(15, 300, 15)),
        *(f"{second // 60}:{second % 60:02d}" for second in (345, 405, 465, 525, 585)),
    ]
    lines.clear()
    progress.on_stage("finals")
    for second in range(601, 617):
        _tick(progress, clock, second, f"latency {second}")
    assert [line[1:6] for line in lines] == ["10:00", "10:15"]


def test_what_does_not_change_is_said_once_a_minute() -> None:
    """A log shows that the search is alive, and what each worker does, in the order of trials."""
    progress, lines, clock = _plain()
    for second in range(180):
        clock.now = second
        progress.on_tick(Status(second, {"trial 10": "evaluation", "trial 2": "members"}, {}, 20))
    assert lines == [
        "[ 0:15]   trial 2: members; trial 10: evaluation",
        "[ 1:15]   trial 2: members; trial 10: evaluation",
        "[ 2:15]   trial 2: members; trial 10: evaluation",
    ]


def test_a_log_names_the_phase_while_the_driver_is_busy() -> None:
    """Ray starts, MLflow migrates, the report is written: no tick comes, and there is no silence."""
    progress, lines, clock = _plain()
    progress.on_stage("starting Ray")
    for second in range(46):
        clock.now = second
        progress.beat()
    assert lines == [
        "[ 0:00] starting Ray",
        "[ 0:15]   starting Ray, for 15 s",
        "[ 0:30]   starting Ray, for 30 s",
        "[ 0:45]   starting Ray, for 45 s",
    ]


def test_what_workers_did_before_a_phase_is_not_said_of_it() -> None:
    """No tick comes while the report is written: the last trial's stage is over."""
    progress, lines, clock = _plain()
    _tick(progress, clock, 10, "attack on the team")
    progress.on_stage("report")
    clock.now = 12
    progress.beat()
    clock.now = 27
    progress.beat()
    assert lines == ["[ 0:10] report", "[ 0:27]   report, for 17 s"]


def test_a_log_names_eight_workers_and_counts_the_others() -> None:
    """A line stays a line on a cluster of any size."""
    progress, lines, clock = _plain()
    clock.now = 20
    progress.on_tick(Status(20, {f"trial {i}": "members" for i in range(100)}, {}, 100))
    assert lines[0].endswith("trial 7: members; and 92 more")


def test_the_thread_that_beats_ends_with_the_search() -> None:
    """And leaves nothing behind."""
    before = threading.active_count()
    with shown_progress():
        during = threading.active_count()
    assert (during, threading.active_count()) == (before + 1, before)


def test_the_page_shows_the_time_of_the_moment_it_is_drawn_in() -> None:
    """What stands below it is from the last tick; the clock runs on while the driver is busy."""
    clock = Clock()
    console = Console(width=80, file=io.StringIO(), record=True)
    drawn = page(Head("report", clock), Status(0.0), None)
    clock.now = 95
    console.print(drawn)
    assert "[ 1:35] report" in console.export_text()


def test_the_live_page_shows_everything() -> None:
    """Phase, bar, what each worker does in the order of trials, best points with teams, hypervolume, time left."""
    status = Status(
        95, {"trial 10": "evaluation", "trial 9": "members"}, {"done": 7, "failed": 1, "running": 2}, 20, 60.0
    )
    text = _drawn(status)
    assert "[ 1:35] trials and baselines" in text
    assert "━━━━━━━━━━━━╌" in text
    assert "8 of 20 trials, 1 failed, about 1 min 00 s left" in text
    assert text.index("trial 9") < text.index("trial 10")
    for point in frontier(make_view()):
        assert re.search(
            rf"^ +{point.id}  \d\d\.\d ±\d\.\d %  \d\.\d\d ±0\.\d\d ×  +\d\.\d\d ×  +\d+\.\d %  \w+-\d\d",
            text,
            re.MULTILINE,
        )
    assert "hypervolume 0.730" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_live_page_has_room_for_any_number_of_workers() -> None:
    """At most eight workers are listed, long texts are cut, lines stay lines."""
    status = Status(0, {f"trial {i}": "x" * 200 for i in range(100)}, {}, 100)
    lines = [line for line in _drawn(status).splitlines() if line.startswith("  trial")]
    assert [line.split()[1] for line in lines] == list("01234567")
    assert max(map(len, lines)) <= 80


def test_the_live_page_before_the_first_trial() -> None:
    """Only the phase."""
    assert _drawn(Status(0.0), trials=0).strip() == "[ 1:35] trials and baselines"


def test_base_controls_and_failures_stay_above_the_live_page() -> None:
    """What must not be missed is printed once; finished trials show as points."""
    file = io.StringIO()
    console = Console(width=100, file=file, force_terminal=True, color_system=None)
    view = make_view()
    assert view.base is not None
    with Live(console=console, auto_refresh=False, transient=True) as live:
        progress = LiveProgress(live)
        progress.on_stage("dense base")
        progress.on_base(view.base)
        progress.on_baseline(view.baselines[0])
        progress.on_result(view.trials[5], view)
        progress.on_result(make_trial(7), view)
        progress.on_tick(Status(1.0, {"trial 8": "members"}, view.num_trials(), 20))
    text = file.getvalue()
    assert text.count("dense base: robust 84.0 ±4.6 %") == 1
    assert text.count("scratch 50 % (labels): robust") == 1
    assert text.count("trial 5 failed (diverged): loss is nan") == 1
    assert "trial 7 done" not in text
    assert "  trial 8  members" in text


def test_trials_that_wait_have_not_ended() -> None:
    """They are counted apart, and the time that is left stays in sight."""
    counts = {"done": 12, "infeasible": 0, "pruned": 0, "failed": 0, "running": 2, "paused": 6}
    text = _drawn(Status(60.0, {}, counts, 20, 125.0))
    assert "12 of 20 trials, 6 waiting, about 2 min" in text
