"""The simulated clock calls searcher and scheduler as Ray Tune's controller does, and never hangs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from benchmarks.simulator import Evaluate, simulate
from eed_search.core.errors import RunError

CONTINUE, PAUSE, STOP = TrialScheduler.CONTINUE, TrialScheduler.PAUSE, TrialScheduler.STOP


class TrialQueue(Searcher):
    """Proposes 0, 1, 2, … and writes down what it is told."""

    def __init__(self, log: list[str] | None = None, last: int | None = None) -> None:
        super().__init__()
        self.log = [] if log is None else log
        self.last = last
        self.completed: dict[str, tuple[Any, bool]] = {}

    def suggest(self, trial_id: str) -> Any:
        if self.last is not None and int(trial_id) > self.last:
            return Searcher.FINISHED
        self.log.append(f"suggest {trial_id[-1]}")
        return {"x": int(trial_id)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.log.append(f"searcher.on_trial_result {trial_id[-1]}")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.log.append(f"searcher.on_trial_complete {trial_id[-1]}")
        self.completed[trial_id] = (result, error)


class Decider(FIFOScheduler):
    """Decides by a table of (trial, its how-manieth report), and writes down what it is told."""

    def __init__(self, log: list[str] | None = None, decisions: dict[tuple[int, int], str] | None = None) -> None:
        super().__init__()
        self.log = [] if log is None else log
        self.decisions = decisions or {}

    def set_search_properties(self, metric: Any, mode: Any, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.log.append(f"on_trial_add {trial.trial_id[-1]}")

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self.log.append(f"scheduler.on_trial_result {trial.trial_id[-1]}")
        return self.decisions.get((int(trial.trial_id), result["training_iteration"]), CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.log.append(f"scheduler.on_trial_complete {trial.trial_id[-1]}")

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.log.append(f"on_trial_remove {trial.trial_id[-1]}")

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.log.append(f"on_trial_error {trial.trial_id[-1]} {trial.status}")


def every(*durations: float) -> Evaluate:
    """Each trial reports its `x` after each of these durations."""

    def evaluate(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        for duration in durations:
            yield duration, {"score": float(config["x"])}

    return evaluate


def happened(simulation: Any) -> list[tuple[float, int, str]]:
    return [(report.time, report.number, report.decision) for report in simulation.reports]


def test_one_trial_from_proposal_to_end_sees_tunes_order_of_calls() -> None:
    log: list[str] = []
    simulate(TrialQueue(log), Decider(log), every(1.0), workers=1, max_trials=1)
    assert log == [
        "suggest 0",
        "on_trial_add 0",
        "scheduler.on_trial_result 0",
        "searcher.on_trial_result 0",
        "scheduler.on_trial_complete 0",
        "searcher.on_trial_complete 0",
    ]


def test_after_stop_the_searcher_hears_only_of_the_end_with_the_last_result() -> None:
    log: list[str] = []
    searcher = TrialQueue(log)
    simulation = simulate(searcher, Decider(log, {(0, 1): STOP}), every(1.0, 1.0), workers=1, max_trials=1)
    assert log[2:] == ["scheduler.on_trial_result 0", "scheduler.on_trial_complete 0", "searcher.on_trial_complete 0"]
    result, error = searcher.completed["00000"]
    assert (result["score"], result["done"], error) == (0.0, True, False)
    assert happened(simulation) == [(1.0, 0, STOP)]


def test_the_searcher_is_asked_one_trial_ahead_even_if_no_worker_is_free() -> None:
    log: list[str] = []
    simulate(TrialQueue(log), Decider(log), every(1.0), workers=1, max_trials=2)
    assert log[:4] == ["suggest 0", "on_trial_add 0", "suggest 1", "on_trial_add 1"]


def test_a_concurrency_limiter_sets_how_many_trials_wait() -> None:
    inner = TrialQueue()
    simulate(ConcurrencyLimiter(inner, max_concurrent=3), FIFOScheduler(), every(1.0), workers=1, max_trials=5)
    assert inner.log[:3] == ["suggest 0", "suggest 1", "suggest 2"]
    assert inner.log[3] == "searcher.on_trial_result 0"


def test_a_paused_trial_goes_on_where_it_was() -> None:
    simulation = simulate(TrialQueue(), Decider(decisions={(0, 1): PAUSE}), every(1.0, 2.0), workers=1, max_trials=2)
    # FIFO takes a waiting trial before a paused one.
    assert happened(simulation) == [(1.0, 0, PAUSE), (2.0, 1, CONTINUE), (4.0, 1, CONTINUE), (6.0, 0, CONTINUE)]
    assert [trial.busy for trial in simulation.trials] == [3.0, 3.0]
    assert simulation.reports[-1].result["time_total_s"] == 3.0


def test_a_trial_the_scheduler_names_takes_the_worker_before_one_that_waits_longer() -> None:
    class PausedFirst(Decider):
        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            paused = [trial for trial in tune_controller.get_trials() if trial.status == "PAUSED"]
            pending = [trial for trial in tune_controller.get_trials() if trial.status == "PENDING"]
            return next(iter([*paused, *pending]), None)

    simulation = simulate(
        TrialQueue(), PausedFirst(decisions={(0, 1): PAUSE}), every(1.0, 2.0), workers=1, max_trials=2
    )
    assert happened(simulation)[:2] == [(1.0, 0, PAUSE), (3.0, 0, CONTINUE)]


def test_a_scheduler_cannot_hold_back_a_trial_that_waits() -> None:
    class Never(Decider):
        def choose_trial_to_run(self, tune_controller: Any) -> None:
            return None

    simulation = simulate(TrialQueue(), Never(), every(1.0), workers=2, max_trials=3)
    assert [report.time for report in simulation.reports] == [1.0, 1.0, 2.0]


def test_two_workers_run_two_trials_and_ties_go_by_trial_number() -> None:
    simulation = simulate(TrialQueue(), Decider(), every(1.0, 1.0), workers=2, max_trials=3)
    assert [(report.time, report.number) for report in simulation.reports] == [
        (1.0, 0),
        (1.0, 1),
        (2.0, 0),
        (2.0, 1),
        (3.0, 2),
        (4.0, 2),
    ]


def test_an_exception_makes_the_trial_error_and_the_search_goes_on() -> None:
    def evaluate(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        yield 1.0, {"score": 0.0}
        if config["x"] == 0:
            raise ValueError("loss is NaN")
        yield 1.0, {"score": 1.0}

    log: list[str] = []
    searcher = TrialQueue(log)
    simulation = simulate(searcher, Decider(log), evaluate, workers=1, max_trials=2)
    assert [trial.status for trial in simulation.trials] == ["ERROR", "TERMINATED"]
    assert str(simulation.trials[0].error) == "loss is NaN"
    assert searcher.completed["00000"] == (None, True)
    assert "on_trial_error 0 RUNNING" in log
    assert "scheduler.on_trial_complete 0" not in log
    assert simulation.end == "finished"


def test_a_trial_that_raises_at_once_is_an_error_too() -> None:
    def evaluate(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        raise MemoryError("no room")

    simulation = simulate(TrialQueue(), Decider(), evaluate, workers=1, max_trials=2)
    assert [trial.status for trial in simulation.trials] == ["ERROR", "ERROR"]


def test_a_report_that_says_done_ends_the_trial_unasked() -> None:
    def evaluate(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        yield 1.0, {"score": 0.0, "done": True}
        raise AssertionError("nobody asks for more")

    log: list[str] = []
    simulation = simulate(TrialQueue(log), Decider(log), evaluate, workers=1, max_trials=1)
    assert "scheduler.on_trial_result 0" not in log
    assert log[-2:] == ["scheduler.on_trial_complete 0", "searcher.on_trial_complete 0"]
    assert happened(simulation) == [(1.0, 0, STOP)]


def test_all_paused_and_nobody_resumes_them_ends_as_stuck() -> None:
    class NeverResume(Decider):
        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            return next((trial for trial in tune_controller.get_trials() if trial.status == "PENDING"), None)

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            return PAUSE

    simulation = simulate(TrialQueue(), NeverResume(), every(1.0, 1.0), workers=2, max_trials=3)
    assert simulation.end == "stuck"
    assert [trial.status for trial in simulation.trials] == ["PAUSED"] * 3


def test_a_scheduler_may_stop_the_paused_trials_when_nothing_else_is_left() -> None:
    class StopPaused(Decider):
        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            trials = tune_controller.get_trials()
            pending = next((trial for trial in trials if trial.status == "PENDING"), None)
            if pending is None and tune_controller.search_alg.is_finished():
                for trial in trials:
                    if trial.status == "PAUSED" and not any(other.status == "RUNNING" for other in trials):
                        tune_controller.stop_trial(trial)
            return pending

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            return PAUSE

    log: list[str] = []
    searcher = TrialQueue(log)
    simulation = simulate(searcher, StopPaused(log), every(1.0, 1.0), workers=2, max_trials=2)
    assert simulation.end == "finished"
    assert searcher.completed == {"00000": (None, False), "00001": (None, False)}
    assert log[-4:] == [
        "on_trial_remove 0",
        "searcher.on_trial_complete 0",
        "on_trial_remove 1",
        "searcher.on_trial_complete 1",
    ]


def test_a_searcher_that_has_nothing_for_now_does_not_hang_the_search() -> None:
    class Nothing(TrialQueue):
        def suggest(self, trial_id: str) -> None:
            return None

    assert simulate(Nothing(), Decider(), every(1.0), workers=1, max_trials=1).end == "stuck"


def test_a_searcher_that_is_finished_ends_the_search() -> None:
    simulation = simulate(TrialQueue(last=1), Decider(), every(1.0), workers=4)
    assert simulation.end == "finished"
    assert len(simulation.trials) == 2


def test_when_the_time_is_up_everything_ends_and_nobody_is_told() -> None:
    log: list[str] = []
    simulation = simulate(TrialQueue(log), Decider(log), every(1.0, 1.0, 1.0), workers=2, max_time=2.5)
    assert (simulation.end, simulation.time) == ("time", 2.5)
    assert {trial.status for trial in simulation.trials} == {"TERMINATED"}
    assert not [call for call in log if "complete" in call]
    assert [trial.busy for trial in simulation.trials[:2]] == [2.5, 2.5]


def test_what_is_reported_at_the_last_moment_counts() -> None:
    simulation = simulate(TrialQueue(), Decider(), every(1.0, 1.0), workers=1, max_time=2.0)
    assert [report.time for report in simulation.reports] == [1.0, 2.0]


def test_a_running_trial_that_the_scheduler_stops_loses_its_work_and_frees_its_worker() -> None:
    class StopsOther(Decider):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if trial.trial_id == "00000":
                tune_controller.stop_trial(tune_controller.get_trial("00001"))
            return CONTINUE

    def evaluate(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        yield (5.0 if config["x"] == 1 else 1.0), {"score": 0.0}

    simulation = simulate(TrialQueue(), StopsOther(), evaluate, workers=2, max_trials=3)
    assert [(report.time, report.number) for report in simulation.reports] == [(1.0, 0), (2.0, 2)]
    assert simulation.trials[1].busy == 1.0


def test_a_running_trial_that_the_scheduler_pauses_does_the_lost_work_again() -> None:
    class PausesOther(Decider):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if trial.trial_id == "00000":
                tune_controller.pause_trial(tune_controller.get_trial("00001"))
            return CONTINUE

    def evaluate(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        yield (5.0 if config["x"] == 1 else 1.0), {"score": 0.0}

    simulation = simulate(TrialQueue(), PausesOther(), evaluate, workers=2, max_trials=2)
    assert [(report.time, report.number) for report in simulation.reports] == [(1.0, 0), (6.0, 1)]


def test_the_same_search_twice_is_the_same() -> None:
    def once() -> Any:
        scheduler = ASHAScheduler(metric="score", mode="max", max_t=4, grace_period=1, reduction_factor=2)
        return simulate(TrialQueue(), scheduler, every(1.0, 1.0, 1.0, 1.0), workers=3, max_trials=20)

    first, second = once(), once()
    assert first.reports == second.reports
    assert first.trials == second.trials


def test_every_call_of_the_scheduler_is_timed() -> None:
    simulation = simulate(TrialQueue(), Decider(), every(1.0, 1.0), workers=1, max_trials=3)
    assert len(simulation.decision_seconds) == len(simulation.reports) == 6
    assert min(simulation.decision_seconds) >= 0
    assert len(simulation.seconds["searcher.suggest"]) == 3


def test_reports_are_shown_once_their_decision_is_carried_out() -> None:
    seen = []
    simulation = simulate(TrialQueue(), Decider(), every(1.0), workers=1, max_trials=2, on_report=seen.append)
    assert tuple(seen) == simulation.reports


def test_an_exception_of_the_listener_ends_the_simulation_and_closes_the_trials() -> None:
    closed = []

    def evaluate(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        try:
            while True:
                yield 1.0, {"score": 0.0}
        finally:
            closed.append(config["x"])

    def killed(report: Any) -> None:
        if report.time == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(TrialQueue(), Decider(), evaluate, workers=2, max_trials=2, on_report=killed)
    assert closed == [0, 1]


@pytest.mark.parametrize("duration", [-1.0, float("nan"), float("inf")])
def test_a_duration_that_is_no_duration_is_refused(duration: float) -> None:
    with pytest.raises(RunError, match=r"trial 0: evaluate gave .* as the time to its next report"):
        simulate(TrialQueue(), Decider(), every(duration), workers=1, max_trials=1)


def test_no_workers_are_refused() -> None:
    with pytest.raises(RunError, match="workers: 0; at least 1 trial must run at a time"):
        simulate(TrialQueue(), Decider(), every(1.0), workers=0, max_trials=1)


def test_an_unknown_decision_is_refused() -> None:
    with pytest.raises(RunError, match="on_trial_result gave 'MAYBE'; CONTINUE, PAUSE, STOP and NOOP are allowed"):
        simulate(TrialQueue(), Decider(decisions={(0, 1): "MAYBE"}), every(1.0), workers=1, max_trials=1)


def test_a_scheduler_that_runs_a_running_trial_is_refused() -> None:
    class Twice(Decider):
        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            return next(iter(tune_controller.get_trials()), None)

    with pytest.raises(RunError, match="trial 0: choose_trial_to_run named it although it is RUNNING"):
        simulate(TrialQueue(), Twice(), every(1.0), workers=1, max_trials=1)


def test_a_report_without_the_schedulers_metric_is_refused() -> None:
    scheduler = ASHAScheduler(metric="accuracy", mode="max")
    with pytest.raises(RunError, match="trial 0: its report lacks accuracy, which the scheduler asks for"):
        simulate(TrialQueue(), scheduler, every(1.0), workers=1, max_trials=1)


# ---------------------------------------------------------------- the contract, kept by Ray's own schedulers


def scores(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Every other trial is a good one."""
    for step in range(1, 10):
        yield 1.0, {"score": (1.0 if config["x"] % 2 else 0.0) + step * 0.01}


RAYS_OWN = {
    "fifo": FIFOScheduler,
    "asha": lambda: ASHAScheduler(metric="score", mode="max", max_t=9, grace_period=1, reduction_factor=3),
    "hyperband": lambda: HyperBandScheduler(metric="score", mode="max", max_t=9, reduction_factor=3),
}


@pytest.mark.parametrize("name", RAYS_OWN)
def test_rays_own_schedulers_run_to_the_end(name: str) -> None:
    searcher = TrialQueue()
    simulation = simulate(searcher, RAYS_OWN[name](), scores, workers=3, max_trials=12)
    assert simulation.end == "finished"
    assert {trial.status for trial in simulation.trials} == {"TERMINATED"}
    assert len(searcher.completed) == 12


def epochs(simulation: Any, numbers: Sequence[int]) -> int:
    return sum(simulation.trials[number].num_reports for number in numbers)


def test_fifo_trains_every_trial_to_its_end() -> None:
    simulation = simulate(TrialQueue(), FIFOScheduler(), scores, workers=3, max_trials=6)
    assert [trial.num_reports for trial in simulation.trials] == [9] * 6
    assert simulation.time == 18.0


def test_asha_gives_good_trials_more_reports_than_bad_ones() -> None:
    simulation = simulate(TrialQueue(), RAYS_OWN["asha"](), scores, workers=3, max_trials=30)
    assert epochs(simulation, range(1, 30, 2)) > 3 * epochs(simulation, range(0, 30, 2))


def test_hyperband_pauses_and_resumes() -> None:
    simulation = simulate(TrialQueue(), RAYS_OWN["hyperband"](), scores, workers=3, max_trials=12)
    paused = {report.number for report in simulation.reports if report.decision == PAUSE}
    again = {report.number for report in simulation.reports if report.result["training_iteration"] > 1}
    assert paused & again
