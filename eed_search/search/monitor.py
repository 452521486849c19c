"""What the workers are doing now: they post one line each, the driver reads them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eed_search.stages import Report


class Monitor:
    """One line of text for each worker; runs as a Ray actor that takes no processor."""

    def __init__(self) -> None:
        self._stages: dict[str, str] = {}

    def post(self, who: str, text: str) -> None:
        """Replace a worker's line; an empty text removes it."""
        if text:
            self._stages[who] = text
        else:
            self._stages.pop(who, None)

    def stages(self) -> dict[str, str]:
        """Give every worker's line."""
        return dict(self._stages)


def reporter(monitor: Any, who: str) -> Report:
    """Make the function by which one worker says what it is doing.

    It sends and does not wait: a monitor that is gone costs a trial nothing.
    """

    def report(text: str) -> None:
        monitor.post.remote(who, text)

    return report
