"""What Ray Tune's loop calls in the driver: trial ends, lost trials, each step, and when to stop.

Tune leaves the error of a lost trial on the disk, as a pickle: whoever can write there runs code in whoever loads it. So
errors are taken from Tune in this process's memory, and no pickle of them is written or loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.analysis import ExperimentAnalysis
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

Errors = MutableMapping[str, BaseException]
"""Why trials were lost, by Tune's ids."""


@contextmanager
def kept_in_memory(errors: Errors) -> Iterator[None]:
    """Keep the errors that Tune is told of; it is left with their texts, which it writes and reads as text.

    Nor does it read back the trials of a search that has none.

    Args:
        errors: Filled meanwhile.
    """
    tunes_trial: Any = Trial  # whose methods are replaced
    analysis: Any = ExperimentAnalysis
    handle, load = tunes_trial.handle_error, analysis._load_trials

    def keep(self: Trial, exc: BaseException | None = None) -> None:
        if exc is not None:
            errors[self.trial_id] = exc
        handle(self, TuneError(str(exc)))

    tunes_trial.handle_error, analysis._load_trials = keep, lambda self: []
    try:
        yield
    finally:
        tunes_trial.handle_error, analysis._load_trials = handle, load


class DriverCallback(Callback):
    """Hands each trial's end to the driver.

    Tune swallows what a callback raises and blames the trial. Here the first such error is kept in
    `fatal`, and `StopWhen` ends the search, so that a full disk is not mistaken for a bad trial. What is no `Exception` passes.

    Args:
        on_start: Called with number and Tune's trial when its worker begins.
        on_end: Called with number and last result of a trial that ended or was stopped.
        on_error: Called with number and error of a trial that Ray lost.
        errors: Where that error is found.
        on_step: Called on each round of Tune's loop, some ten times a second.
    """

    def __init__(
        self,
        on_start: Callable[[int, Trial], None],
        on_end: Callable[[int, dict[str, Any]], None],
        on_error: Callable[[int, BaseException | None], None],
        errors: Errors,
        on_step: Callable[[], None],
    ) -> None:
        self._on_start, self._on_end, self._on_error, self._on_step = on_start, on_end, on_error, on_step
        self._errors = errors
        self.fatal: BaseException | None = None

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on a trial whose worker begins."""
        self._guard(lambda: self._on_start(_number(trial), trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on a trial that ended."""
        self._guard(lambda: self._on_end(_number(trial), dict(trial.last_result or {})))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on a trial that Ray lost."""
        self._guard(lambda: self._on_error(_number(trial), self._errors.pop(trial.trial_id, None)))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Pass on a round of the loop."""
        self._guard(self._on_step)

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its callbacks; the driver's objects stay out."""
        return {}

    def _guard(self, call: Callable[[], None]) -> None:
        if self.fatal is not None:
            return
        try:
            call()
        except Exception as error:
            self.fatal = error


class StopWhen(Stopper):
    """Ends all trials when asked to.

    Args:
        condition: Asked on each round of Tune's loop.
    """

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition: Callable[[], bool] | None = condition

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Ask."""
        return self._condition is not None and self._condition()

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its stoppers; the driver's objects stay out."""
        return {"_condition": None}


def trial_folder(trial: Trial) -> str:
    """Name a trial's folder by its number and attempt: Tune's own names hold every parameter."""
    attempt = int(trial.config["attempt"])
    return f"trial-{_number(trial):05d}{'' if attempt == 1 else f'-{attempt}'}"


def _number(trial: Trial) -> int:
    return int(trial.config["number"])
