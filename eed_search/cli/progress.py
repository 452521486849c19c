"""What a person sees while a search runs: a live page on a terminal, else one line for each event.

Both are alive whatever the driver waits for: a thread beats once a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eed_search.cli.console import console, is_terminal, say
from eed_search.core.pace import duration
from eed_search.frontier.points import frontier, run_hypervolume
from eed_search.runs.cost import attacked_speedup
from eed_search.runs.ledger import num_ended
from eed_search.search.listener import Listener, Status
from eed_search.tracking.text import how_fast, per_cent, states_line, team_title, times, with_arm

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from eed_search.runs.data_facts import DataFacts
    from eed_search.runs.ledger import RungRecord, RunView
    from eed_search.runs.records import Measurement, Reference, TrialRecord

_OFTEN_S, _SELDOM_S = 15.0, 60.0  # between two lines of a log, in a phase's first minutes and after them
_FIRST_MINUTES_S = 300.0
_STALE_S = 5.0  # without a word from the driver, what it said last may be over
_BAR = 30
_MOST_POINTS = 8
_MOST_RUNNING = 8


@contextmanager
def progress() -> Iterator[Listener]:
    """Give the listener that suits the output, and clear the live page at the end."""
    if not is_terminal():
        plain = PlainProgress(say)
        with _each_second(plain.beat):
            yield plain
        return
    from rich.live import Live

    with Live(console=console(), refresh_per_second=1, transient=True) as live:
        listener = LiveProgress(live)
        listener.on_stage("starting")
        yield listener


@contextmanager
def _each_second(beat: Callable[[], None]) -> Iterator[None]:
    """Call a function once a second from a thread, as long as the block lasts."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(1.0):
            try:
                beat()
            except (OSError, ValueError):  # nobody reads any more; the driver's next line will say so
                return

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class PlainProgress:
    """One line for each event, and what is being done where there is none: for logs and pipes.

    That is said every 15 s in the first five minutes of a phase as long as it changes, else each minute.

    Args:
        line: Prints one line.
        clock: Gives seconds; the first call is the start.
    """

    def __init__(self, line: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._line = line
        self._clock = clock
        self._start = self._spoke = self._phase_began = self._heard = clock()
        self._status = Status(0.0)
        self._phase = "starting"
        self._last_beat = ""
        self._lock = threading.Lock()

    def on_stage(self, text: str) -> None:
        """Print the phase."""
        self._phase, self._status = (
            text,
            Status(0.0, {}, self._status.counts, self._status.num_trials, self._status.eta_s),
        )
        self._phase_began = self._heard = self._clock()
        self._say(text)

    def on_data(self, facts: DataFacts) -> None:
        """Print what was read."""
        self._say(f"read {facts.line()}")

    def on_note(self, text: str) -> None:
        """Print a note when it is made; the result shows it again."""
        self._say(f"note: {text}")

    def on_base(self, base: Reference) -> None:
        """Print what the dense base measured."""
        self._say(reference_line(base))

    def on_baseline(self, baseline: Reference) -> None:
        """Print what a baseline measured."""
        self._say(reference_line(baseline))

    def on_rung(self, number: int, report: RungRecord, view: RunView) -> None:
        """Print what a trial measured on its way, and whether it goes on."""
        self._say(rung_line(number, report, view))

    def on_result(self, record: TrialRecord, view: RunView) -> None:
        """Print the trial's end and how far the search is."""
        self._say(trial_line(record))
        total = max(self._status.num_trials, len(view.trials))
        parts = [f"{len(view.trials)} of {total} trials", _count(len(frontier(view)))]
        parts.append(f"hypervolume {run_hypervolume(view):.3f}")
        if self._status.eta_s is not None and len(view.trials) < total:
            parts.append(f"about {duration(self._status.eta_s)} left")
        self._say(f"  {', '.join(parts)}")

    def on_tick(self, status: Status) -> None:
        """Print what is running if nothing was printed for a while."""
        self._status, self._heard = status, self._clock()
        self.beat()

    def beat(self) -> None:
        """Print what is being done if nothing was printed for a while; any thread may call it."""
        with self._lock:
            now = self._clock()
            if now - self._spoke < _OFTEN_S:
                return
            text = self._doing(now)
            often = text != self._last_beat and now - self._phase_began < _FIRST_MINUTES_S
            if now - self._spoke >= (_OFTEN_S if often else _SELDOM_S):
                self._last_beat = text
                self._print(f"  {text}", now)

    def _doing(self, now: float) -> str:
        """Say what every worker does; how long the driver has been silent where it is."""
        silent = now - self._heard
        running = sorted(self._status.stages.items(), key=_by_number)
        if silent >= _STALE_S or not running:
            return f"{self._phase}, for {duration(now - self._phase_began)}"
        more = f"; and {len(running) - _MOST_RUNNING} more" if len(running) > _MOST_RUNNING else ""
        return "; ".join(f"{who}: {stage}" for who, stage in running[:_MOST_RUNNING]) + more

    def _say(self, text: str) -> None:
        with self._lock:
            self._print(text, self._clock())

    def _print(self, text: str, now: float) -> None:
        self._spoke = now
        self._line(f"[{clock_time(now - self._start)}] {text}")


class LiveProgress:
    """A page that is drawn again each second; base, baselines and failures stay above it.

    Args:
        live: The region of the terminal; one that refreshes by itself shows the time while the driver is busy.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._start = time.monotonic()
        self._phase = "starting"
        self._status = Status(0.0)
        self._view: RunView | None = None

    def on_stage(self, text: str) -> None:
        """Show the phase."""
        self._phase = text
        self._draw()

    def on_data(self, facts: DataFacts) -> None:
        """Keep what was read in sight."""
        self._keep(f"read {facts.line()}")

    def on_note(self, text: str) -> None:
        """Keep a note in sight."""
        self._keep(f"note: {text}")

    def on_base(self, base: Reference) -> None:
        """Keep what the dense base measured in sight."""
        self._keep(reference_line(base))

    def on_baseline(self, baseline: Reference) -> None:
        """Keep what a baseline measured in sight."""
        self._keep(reference_line(baseline))

    def on_rung(self, number: int, report: RungRecord, view: RunView) -> None:
        """Draw again."""
        self._view = view
        self._draw()

    def on_result(self, record: TrialRecord, view: RunView) -> None:
        """Update the best points; a trial that gave none is kept in sight."""
        self._view = view
        if record.outcome != "done":
            self._keep(trial_line(record))
        self._draw()

    def on_tick(self, status: Status) -> None:
        """Draw again."""
        self._status = status
        self._draw()

    def _keep(self, text: str) -> None:
        from rich.text import Text

        passed = clock_time(time.monotonic() - self._start)
        self._live.console.print(Text(f"[{passed}] {text}"))

    def _draw(self) -> None:
        # The thread that refreshes reads only what was laid out here, and the time.
        head = Head(self._phase, lambda: time.monotonic() - self._start)
        self._live.update(page(head, self._status, self._view), refresh=True)


@dataclass(frozen=True)
class Head:
    """The page's first line, whose time is that of the moment in which it is drawn.

    Attributes:
        phase: What the search is doing.
        passed_s: Gives the seconds since the start.
    """

    phase: str
    passed_s: Callable[[], float]

    def __rich__(self) -> Text:
        """Draw it."""
        from rich.text import Text

        return Text(f"[{clock_time(self.passed_s())}] {self.phase}", style="bold", overflow="ellipsis", no_wrap=True)


def page(head: Head, status: Status, view: RunView | None) -> Group:
    """Lay the live page out: phase, bar, what runs, best points.

    Args:
        head: Its first line.
        status: The latest status.
        view: The search so far; none before the first trial has ended.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Head | Text | Table] = [head]
    if status.num_trials:
        parts.append(Text(_bar(status), overflow="ellipsis", no_wrap=True))
    running = sorted(status.stages.items(), key=_by_number)[:_MOST_RUNNING]
    widest = max((len(who) for who, _ in running), default=0)
    parts += [Text(f"  {who:<{widest}}  {stage}", overflow="ellipsis", no_wrap=True) for who, stage in running]
    if view is not None and (front := frontier(view)):
        parts.append(Text(f"best points so far, hypervolume {run_hypervolume(view):.3f}", style="bold"))
        best = Table.grid(padding=(0, 2))
        for _ in range(5):
            best.add_column(no_wrap=True, justify="right")
        best.add_column(no_wrap=True, overflow="ellipsis")
        best.add_row("", "robust", "speed-up", "attacked", "clean", "team")
        for point in front[:_MOST_POINTS]:
            m = point.measurement
            attacked = times(attacked_speedup(m)).replace("×", " ×")
            cells = (f"  {point.id}", per_cent(m.robust_accuracy), f"{with_arm(m.latency.speedup)} ×", attacked)
            best.add_row(*map(Text, (*cells, f"{100 * m.clean_accuracy.value:.1f} %", team_title(point.params))))
        parts.append(best)
        if len(front) > _MOST_POINTS:
            parts.append(Text(f"  … and {len(front) - _MOST_POINTS} more"))
    return Group(*parts)


def reference_line(reference: Reference) -> str:
    """Write what the base or a baseline measured in one line."""
    robust, speed, clean = _figures(reference.measurement)
    return f"{reference.name}: {robust}, {clean}, {speed} ({duration(reference.seconds)})"


def rung_line(number: int, report: RungRecord, view: RunView) -> str:
    """Write in one line what a trial measured on its way, and whether it goes on."""
    from eed_search.search.racing.rung_scheduler import RUNGS

    took = f", {report.metrics['latency_ms']:.3g} ms"  # a speed-up would want its attacked one beside it
    then = "waits" if report.decision == "pause" else "goes on"
    return f"trial {number} after its {RUNGS[report.rung]}: robust {100 * report.metrics['robust_accuracy']:.1f} %{took}; {then}"


def trial_line(record: TrialRecord) -> str:
    """Write a trial's end in one line."""
    line = f"trial {record.number} {record.outcome}"
    if record.reason:
        line += f" ({record.reason})"
    title = team_title(record.params)
    if record.outcome == "done" and record.measurement is not None:
        line += f": {', '.join(_figures(record.measurement))}"
    elif record.message:
        line += f": {record.message}"
    return f"{line}; {title}" if title else line


def clock_time(seconds: float) -> str:
    """Print a time as `3:05` or `1:02:05`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:2d}:{second:02d}"


def _figures(m: Measurement) -> tuple[str, str, str]:
    return (
        f"robust {per_cent(m.robust_accuracy)}",
        how_fast(m),
        f"clean {100 * m.clean_accuracy.value:.1f} %",
    )


def _by_number(item: tuple[str, str]) -> tuple[str, int]:
    words, _, number = item[0].rpartition(" ")
    return (words, int(number)) if number.isdigit() else (item[0], 0)


def _bar(status: Status) -> str:
    ended = num_ended(status.counts)
    filled = round(_BAR * min(1.0, ended / status.num_trials))
    shown = ("paused", "infeasible", "pruned", "failed", "stopped", "out_of_time")
    odd = states_line({state: status.counts[state] for state in shown if state in status.counts})
    left = f", about {duration(status.eta_s)} left" if status.eta_s is not None and ended < status.num_trials else ""
    return (
        f"{'━' * filled}{'╌' * (_BAR - filled)} {ended} of {status.num_trials} trials{f', {odd}' if odd else ''}{left}"
    )


def _count(number: int) -> str:
    return f"{number} point{'' if number == 1 else 's'} on the frontier"
