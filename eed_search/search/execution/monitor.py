"""What the workers are doing now: they post one line each, the driver reads them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eed_search.system.processes import Worker, this_worker

if TYPE_CHECKING:
    from eed_search.pipeline.context import Report


@dataclass(frozen=True)
class Post:
    """A worker's latest line.

    Attributes:
        text: What it is doing.
        count: How many lines it has posted: grows as long as it makes progress.
        process: Where it works; none where it does not say.
    """

    text: str
    count: int
    process: Worker | None = None

    @property
    def stopped(self) -> str:
        """Say that its process stands still and what lets it go on; nothing where it does not, or runs elsewhere."""
        if self.process is None or not self.process.is_stopped():
            return ""
        return f"its process {self.process.pid} is stopped, `kill -CONT {self.process.pid}` lets it go on"


def ended_line(seconds: float, last: Post | None) -> str:
    """Say why a worker was ended, and what to do if that was wrong.

    Args:
        seconds: How long it made no progress.
        last: Its last line.
    """
    seen = f"no progress for {seconds:.0f} s{f' after: {last.text}' if last else ''}"
    if last and last.stopped and last.process:
        return f"{seen}; its process {last.process.pid} was stopped by a signal, by job control or by a debugger; ended"
    return f"{seen}; ended. If it was only slow, raise search.trial_timeout_s"


class Monitor:
    """One line of text for each worker; runs as a Ray actor that takes no processor."""

    def __init__(self) -> None:
        self._posts: dict[str, Post] = {}

    def post(self, who: str, text: str, process: Worker | None = None) -> None:
        """Replace a worker's line; an empty text removes it."""
        if text:
            before = self._posts.get(who)
            self._posts[who] = Post(text, 1 + (before.count if before else 0), process)
        else:
            self._posts.pop(who, None)

    def posts(self) -> dict[str, Post]:
        """Give every worker's line."""
        return dict(self._posts)


def reporter(monitor: Any, who: str) -> Report:
    """Make the function by which one worker says what it is doing.

    It sends and does not wait: a monitor that is gone costs a trial nothing.
    """

    def report(text: str) -> None:
        monitor.post.remote(who, text, this_worker())

    return report


def trial_label(number: int) -> str:
    """How a trial is called in the progress display."""
    return f"trial {number}"


def baseline_label(size: float) -> str:
    """How a baseline is called in the progress display."""
    return f"baseline {round(100 * size)} %"
