"""Where a search's work is done: what the driver asks for, and what it is told meanwhile.

`RayWorkers` runs it on every core of this machine; `LocalWorkers` one after another in the driver's
own process, for tests and for kills by the dozen. Decisions, ledger and trackers are the driver's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eed_search.config.params import TrialParams
from eed_search.config.spec import Resources, Spec
from eed_search.core.errors import FailureReason, MachineFault
from eed_search.evaluation.sequential_test import Incumbent
from eed_search.runs.data_facts import DataFacts
from eed_search.runs.records import FreshCheck, Latency, Measurement, Reference, RungResult, TrialRecord
from eed_search.search.execution.monitor import baseline_label, trial_label
from eed_search.search.outcome import attempt

if TYPE_CHECKING:
    from eed_search.evaluation.latency import Probe
    from eed_search.pipeline.context import Report
    from eed_search.pipeline.search_context import SearchContext
    from eed_search.search.sampling.trial_queue import TrialQueue

Poll = Callable[[], None]
OnStuck = Callable[[str, float, str], None]


class SessionLost(MachineFault):
    """What runs all the trials is gone."""


class Pipeline(Protocol):
    """What one trial does, as the search calls it; a module that the workers can import by name."""

    def share_gpus(self, spec: Spec, num_gpus: float, num_cpus: float) -> tuple[Spec, str]:
        """Replace `resources.gpu: auto` by a number, and say why."""

    def read_data(self, spec: Spec, store_root: Path, report: Report) -> DataFacts:
        """Read the images and say what was read."""

    def prepare(self, spec: Spec, store_root: Path, report: Report) -> SearchContext:
        """Train or load the dense base and measure it, with the whole machine."""

    def make_probe(self, setting: SearchContext) -> Probe:
        """Build the latency probe for the dense base of the setting."""

    def run(
        self,
        number: int,
        params: TrialParams,
        setting: SearchContext,
        probe: Probe,
        report: Report,
        rung: int | None,
        incumbents: Sequence[Incumbent],
    ) -> TrialRecord | RungResult:
        """Run one trial, to a rung or to its end; what it did before is read from the store."""

    def baseline(self, size: float, setting: SearchContext, probe: Probe, report: Report) -> Reference:
        """Train a small network from scratch and measure it."""

    def final_latencies(
        self,
        classifiers: Sequence[tuple[str, TrialParams | None]],
        repeats: Sequence[int],
        setting: SearchContext,
        report: Report,
    ) -> list[Latency]:
        """Time classifiers in turns, alone on the machine; no parameters for the base and baselines.

        `repeats` says how often each has been timed before: what is asked for once more is measured anew.
        """

    def confirm(
        self, artifact: str, params: TrialParams, bound: Measurement, setting: SearchContext, report: Report
    ) -> Measurement:
        """Attack a trained team at a swept gate threshold."""

    def recheck(
        self, artifact: str, params: TrialParams | None, images: tuple[int, int], setting: SearchContext, report: Report
    ) -> FreshCheck:
        """Evaluate one classifier on some of the fresh images; no parameters for the base and baselines."""


def call(pipeline: Pipeline, what: str, arguments: Mapping[str, Any], report: Report) -> Any:
    """Call one function of the pipeline, with a `report` and a `probe` of its own if it takes them."""
    function = getattr(pipeline, what)
    given = dict(arguments)
    takes = signature(function).parameters
    if "report" in takes:
        given["report"] = report
    if "probe" in takes:
        given["probe"] = pipeline.make_probe(given["setting"])
    return function(**given)


@dataclass(frozen=True)
class Work:
    """All that is done side by side: baselines, and trials as they are proposed.

    Attributes:
        spec: The search.
        setting: What all trials share.
        baselines: Sizes of the baselines that are still to be trained.
        trial_queue: Hands out the trials.
        folder: The run's; for logs and tracebacks.
        attempt: How often a driver has taken the run up: names folders that must be new.
    """

    spec: Spec
    setting: SearchContext
    baselines: Sequence[float]
    trial_queue: TrialQueue
    folder: Path
    attempt: int = 1


class Hooks(Protocol):
    """What the driver does when something happens; called in its own thread."""

    def on_attempt(self, number: int) -> None:
        """A trial starts."""

    def on_end(self, number: int, result: Mapping[str, Any] | None) -> None:
        """A trial came to a rung or its end with its last result, or was stopped without one."""

    def on_lost(self, number: int, reason: FailureReason, message: str, trace: str) -> None:
        """A trial's worker is gone, and its result with it."""

    def on_baseline(self, size: float, baseline: Reference | BaseException) -> None:
        """A baseline ended."""

    def on_stuck(self, who: str, seconds: float, stopped: str) -> None:
        """A trial or baseline has made no progress for half of its limit; `stopped` says so if its process stands still."""

    def on_step(self) -> None:
        """Some time has passed: at most about a second since the last call."""

    def stopping(self) -> bool:
        """Whether everything is to end."""


class Workers(Protocol):
    """The machine, or a part of it.

    `poll` is called about twice a second while something runs; what it raises ends that.
    """

    @property
    def num_cpus(self) -> float:
        """Processors."""

    @property
    def num_gpus(self) -> float:
        """Graphics processors."""

    def slots(self, resources: Resources) -> int:
        """Count the trials that fit at once.

        Raises:
            SpecError: If not even one fits.
        """

    def alone(
        self,
        pipeline: Pipeline,
        what: str,
        arguments: Mapping[str, Any],
        *,
        who: str,
        poll: Poll,
        limit_s: float | None,
        on_stuck: OnStuck,
    ) -> Any:
        """Call one function of the pipeline with the whole machine.

        Args:
            pipeline: What one trial does.
            what: The function's name.
            arguments: By name; `report` and `probe` are added where the function takes them.
            who: How it is called in the progress display.
            poll: Called meanwhile.
            limit_s: Seconds without progress after which its process is ended, or none.
            on_stuck: Told who has made no progress for half of that, for how many seconds, and that its process is
                stopped, if it is.

        Returns:
            What the function gives.

        Raises:
            TrialFailure: With the reason `timeout`, if it made no progress for so long.
            Exception: What the function or `poll` raised.
        """

    def side_by_side(self, pipeline: Pipeline, work: Work, hooks: Hooks) -> None:
        """Run baselines and trials until the trial queue has none any more, or the hooks say stop.

        Raises:
            Exception: What a hook raised.
        """

    def stages(self) -> dict[str, str]:
        """Say what is being done now, by who does it."""

    def when_stuck(self, give_up: Callable[[str], None]) -> None:
        """Say what ends this process if a call never comes back, because what does the work is gone.

        Args:
            give_up: Called in another thread with what is gone; does not return.
        """


@dataclass
class LocalWorkers:
    """Everything one after another, in this process: no Ray, no watchdog, one slot."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    _stages: dict[str, str] = field(default_factory=dict)

    def slots(self, resources: Resources) -> int:
        """One."""
        return 1

    def alone(
        self,
        pipeline: Pipeline,
        what: str,
        arguments: Mapping[str, Any],
        *,
        who: str,
        poll: Poll,
        limit_s: float | None,
        on_stuck: OnStuck,
    ) -> Any:
        """Call one function of the pipeline."""
        poll()
        return call(pipeline, what, arguments, self._report(who))

    def side_by_side(self, pipeline: Pipeline, work: Work, hooks: Hooks) -> None:
        """Run the baselines, then trial after trial."""
        probe = pipeline.make_probe(work.setting)
        for size in work.baselines:
            if hooks.stopping():
                return
            try:
                baseline: Reference | BaseException = pipeline.baseline(
                    size, work.setting, probe, self._report(baseline_label(size))
                )
            except Exception as error:
                baseline = error
            hooks.on_baseline(size, baseline)
            hooks.on_step()
        while not hooks.stopping() and (proposal := work.trial_queue.propose()) is not None:
            number = proposal.number
            hooks.on_attempt(number)
            report = self._report(trial_label(number))
            given = (proposal.params, work.setting, probe, report, proposal.rung, proposal.incumbents)
            found = attempt(pipeline, number, *given)
            hooks.on_end(number, found)
            hooks.on_step()

    def stages(self) -> dict[str, str]:
        """Give the last line of the one worker."""
        return dict(self._stages)

    def when_stuck(self, give_up: Callable[[str], None]) -> None:
        """Nothing is called that does not come back."""

    def _report(self, who: str) -> Report:
        def report(text: str) -> None:
            self._stages = {who: text}

        return report
