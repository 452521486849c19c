"""The racing decisions, rule by rule, and that they depend on nothing but the events."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from eed_search.search.racing.promotion import PromotionRule, Verdict
from eed_search.search.racing.readings import Objectives


def _at(*value: float, width: float = 0.0) -> Objectives:
    return Objectives(value, tuple(v - width / 2 for v in value), tuple(v + width / 2 for v in value))


def _started(num: int, **options: Any) -> PromotionRule:
    race = PromotionRule(2, 3, **options)
    for trial in range(num):
        race.add(trial)
    return race


def test_nobody_goes_on_before_eta_trials_have_come() -> None:
    race = _started(3)
    assert race.report(0, 0, _at(0, 0)) == "pause"
    assert race.report(1, 0, _at(1, 1)) == "pause"
    assert race.next_to_resume() is None


def test_the_best_of_three_goes_on_at_once_when_it_comes_last() -> None:
    race = _started(3)
    race.report(0, 0, _at(1, 1))
    race.report(1, 0, _at(2, 2))
    assert race.report(2, 0, _at(0, 0)) == "continue"
    assert race.next_to_resume() is None


def test_a_better_paused_trial_takes_the_place_instead() -> None:
    race = _started(3)
    race.report(0, 0, _at(0, 0))
    race.report(1, 0, _at(2, 2))
    assert race.report(2, 0, _at(1, 1)) == "pause"
    assert race.next_to_resume() == 0
    race.resume(0)
    assert race.next_to_resume() is None


def test_the_highest_level_comes_first() -> None:
    race = _started(12)
    for trial in range(9):
        race.report(trial, 0, _at(trial, trial))
    while (trial := race.next_to_resume()) is not None:
        race.resume(trial)
        race.report(trial, 1, _at(trial, trial))
        if race.paused() and len([t for t in (0, 1, 2) if race.has_reported(t)]) == 3 and trial == 2:
            break
    assert race.next_to_resume() == 0  # three came to level 1, one may go on; level 0 is used up
    for trial in (9, 10, 11):
        race.report(trial, 0, _at(trial, trial))
    assert race.next_to_resume() == 0


def test_the_last_level_completes() -> None:
    race = _started(1)
    assert race.report(0, 2, _at(1, 1)) == "done"
    assert race.complete() == [0]


def test_a_level_reported_twice_changes_nothing() -> None:
    race = _started(1)
    assert race.report(0, 0, _at(1, 1)) == "pause"
    race.resume(0)
    assert race.report(0, 0, _at(5, 5)) == "continue"


@pytest.mark.parametrize("level", [0, 2])
def test_over_the_limit_of_a_fixed_objective_with_confidence_is_infeasible_at_any_level(level: int) -> None:
    race = _started(2, limits=(None, 3.0), fixed=[1])
    assert race.report(0, level, _at(0.0, 3.2, width=0.2)) == "infeasible"
    assert race.report(1, level, _at(0.0, 3.05, width=0.2)) == ("pause" if level == 0 else "done")


def test_what_a_trial_may_still_gain_breaks_no_limit() -> None:
    """Accuracy 0.5 after the first epoch says nothing about whether it ends above 0.9."""
    race = _started(4, limits=(-0.9, None))
    assert race.report(0, 0, _at(-0.5, 1.0)) == "pause"
    assert race.report(1, 1, _at(-0.8, 1.0)) == "pause"
    assert race.report(2, 2, _at(-0.95, 1.0)) == "done"
    assert race.report(3, 2, _at(-0.85, 1.0)) == "infeasible"


@pytest.mark.parametrize(("gains", "verdict"), [((0.1, 0.11), "pause"), ((0.1, 0.11, 0.12), "infeasible")])
def test_over_a_limit_by_more_than_three_complete_trials_gained_is_infeasible(
    gains: tuple[float, ...], verdict: str
) -> None:
    """Gains of 0.11 with a deviation of 0.01: the next is below 0.11 + 4.303 * 0.01 * sqrt(4 / 3) = 0.1597 for sure."""
    race = _started(9, limits=(-0.9, None))
    for trial, gain in enumerate(gains):
        race.report(trial, 0, _at(-0.8, 1.0))
        race.resume(trial)
        race.report(trial, 2, _at(-0.8 - gain, 1.0))
    assert race.report(7, 0, _at(-0.7404, 9.0)) == "pause"
    assert race.report(8, 0, _at(-0.7402, 9.0)) == verdict


def test_the_interval_of_a_reading_makes_its_prediction_less_sure() -> None:
    race = _started(9, limits=(-0.9, None))
    for trial, gain in enumerate((0.1, 0.11, 0.12)):
        race.report(trial, 0, _at(-0.8, 1.0))
        race.resume(trial)
        race.report(trial, 2, _at(-0.8 - gain, 1.0))
    assert race.report(7, 0, _at(-0.74, 9.0, width=0.2)) == "pause"
    assert race.report(8, 0, _at(-0.6, 9.0, width=0.2)) == "infeasible"


def test_a_trial_that_failed_and_came_back_keeps_its_place() -> None:
    race = _started(3)
    race.report(0, 0, _at(1, 1))
    race.resume(0)
    race.end(0)
    race.add(0)
    assert race.report(0, 0, _at(1, 1)) == "continue"


def _with_complete(gains: list[float]) -> PromotionRule:
    """A race whose complete trials each gained so much in the first objective from level 0 to the end."""
    race = _started(len(gains) + 4)
    for trial, gain in enumerate(gains):
        race.report(trial, 0, _at(1.0, 5.0 - trial))
        race.resume(trial)
        race.report(trial, 2, _at(1.0 - gain, 5.0 - trial))
    return race


def test_the_prediction_adds_what_complete_trials_gained() -> None:
    race = _with_complete([0.4, 0.6])
    race.report(2, 0, _at(0.9, 1.0, width=0.4))
    predicted = race.predict([2])
    assert predicted.mean[0] == pytest.approx([0.4, 1.0])
    spread = np.std([0.4, 0.6], ddof=1)
    assert predicted.deviation[0] == pytest.approx([np.hypot(spread, 0.1), 0.1])


def test_the_guard_keeps_what_may_still_belong_to_the_frontier() -> None:
    race = _with_complete([0.5, 0.5, 0.6])
    race.report(3, 0, _at(1.2, 9.0))  # a bit worse than the others were, and slower than all of them
    race.report(4, 0, _at(1.0, 3.5))  # may end between them
    assert list(race.undecided()) == [4]


def test_from_five_complete_trials_on_the_expected_improvement_ranks() -> None:
    race = _with_complete([0.5] * 5)  # frontier: (0.5, 1.0)
    race.report(5, 0, _at(0.9, 1.0))  # 0.4 at 1.0: better than the frontier
    race.report(6, 0, _at(1.2, 0.9))  # not dominated either, but adds less
    assert race.best_paused() == 5


def test_trials_that_wait_are_ranked_where_every_complete_one_broke_a_limit() -> None:
    """Then there is no frontier to improve, and front and spread go on to rank."""
    race = PromotionRule(2, 2, limits=(None, 3.0))
    for trial in range(8):
        race.add(trial)
    for trial in range(5):
        race.report(trial, 1, _at(1.0, 3.2, width=0.6))
    race.report(5, 0, _at(2.0, 2.0))
    race.report(6, 0, _at(1.0, 1.0))
    race.report(7, 0, _at(3.0, 3.0))
    assert race.next_to_resume() == 6


def test_the_same_events_give_the_same_decisions() -> None:
    def play() -> list[object]:
        rng, race, said = np.random.default_rng(5), PromotionRule(2, 4), list[object]()
        for trial in range(60):
            race.add(trial)
            said.append(race.report(trial, 0, _at(*rng.random(2))))
            for _ in range(3):
                nxt = race.next_to_resume()
                said.append(nxt)
                if nxt is not None:
                    race.resume(nxt)
                    level = 1 + max(k for k in range(3) if nxt in race._levels[k].trials)
                    said.append(race.report(nxt, level, _at(*rng.random(2))))
        return said

    first = play()
    assert "done" in first
    assert "pause" in first
    assert first == play()


@pytest.mark.parametrize("cut", [0, 1, 17, 50, 93])
def test_a_race_that_is_told_what_was_decided_goes_on_as_the_other_one(cut: int) -> None:
    """Cut off after any report, with reports and verdicts alone recalled."""
    rng, readings = np.random.default_rng(3), dict[tuple[int, int], Objectives]()
    for trial in range(60):
        for level in range(4):
            readings[trial, level] = _at(*rng.random(2), width=0.1)

    def play(cut: int) -> list[tuple[int, int, Verdict]]:
        race, told = PromotionRule(2, 4, limits=(None, 0.97), fixed=[1]), list[tuple[int, int, Verdict]]()
        fresh = iter(range(60))
        while (trial := race.next_to_resume()) is not None or (trial := next(fresh, None)) is not None:
            if trial in race.paused():
                race.resume(trial)
            else:
                race.add(trial)
            level = max((k for t, k, _ in told if t == trial), default=-1) + 1
            verdict: Verdict = "continue"
            while verdict == "continue":
                verdict = race.report(trial, level, readings[trial, level])
                told.append((trial, level, verdict))
                level += 1
                if len(told) == cut:
                    race = PromotionRule(2, 4, limits=(None, 0.97), fixed=[1])
                    for number in range(trial + 1 if level == 1 else max(t for t, _, _ in told) + 1):
                        race.add(number)
                    for number, at, said in told:
                        race.recall(number, at, readings[number, at], said)
        return told

    assert play(cut) == play(-1)


@pytest.mark.parametrize(("level", "value", "verdict"), [(2, 1.0, "done"), (0, 4.0, "infeasible")])
def test_what_ended_a_trial_is_said_again(level: int, value: float, verdict: str) -> None:
    """It was cut off before it could act on it, and comes back."""
    race = _started(1, limits=(None, 3.0), fixed=[1])
    assert race.report(0, level, _at(1.0, value)) == verdict
    race.add(0)
    assert race.report(0, level, _at(1.0, value)) == verdict


def _computing_s(what: Callable[[], object]) -> float:
    """Seconds that this process computes for it, whatever else the machine does."""
    start = time.process_time()
    what()
    return time.process_time() - start


def _with_many(num_waiting: int, num_complete: int, **options: Any) -> PromotionRule:
    rng, race = np.random.default_rng(1), PromotionRule(2, 3, **options)
    for trial in range(num_waiting + num_complete):
        race.add(trial)
        race.report(trial, 0, _at(*rng.random(2), width=0.05))
        if trial < num_complete:
            race.resume(trial)
            race.report(trial, 2, _at(*(race.predict([trial]).mean[0] - rng.random(2) / 10), width=0.05))
        elif trial not in race.paused():
            race.end(trial)
    return race


@pytest.mark.parametrize("num_complete", [0, 1, 12])
def test_the_guard_agrees_with_its_slow_definition_after_each_event(num_complete: int) -> None:
    race = _with_many(30, num_complete, limits=(None, 0.9))
    rng, asked = np.random.default_rng(2), 0
    while (trial := next(race.undecided(), None)) is not None and asked < 25:
        last = [race._trials[t].readings[2] for t in race.complete()]
        front = [r.high for r in last if r.value[1] <= 0.9]
        kept = []
        for one in race.paused():
            found = race.predict([one])
            point = found.mean[0] - 1.645 * found.deviation[0]
            if not any((np.array(f) <= point).all() and (np.array(f) < point).any() for f in front):
                kept.append(one)
        assert sorted(race.undecided()) == kept
        race.resume(trial)
        level = race._trials[trial].level + 1 + int(rng.integers(2))
        race.report(trial, min(level, 2), _at(*rng.random(2), width=0.05))
        asked += 1
    assert asked > 5


@pytest.mark.realtime
def test_to_ask_again_who_may_belong_to_the_frontier_costs_next_to_nothing() -> None:
    """Fifty questions cost less than all that came before; computed anew each time they cost twenty times as much."""
    races: list[PromotionRule] = []
    before_s = _computing_s(lambda: races.append(_with_many(1000, 200)))
    assert _computing_s(lambda: [list(races[0].undecided()) for _ in range(50)]) < before_s


@pytest.mark.realtime
def test_a_decision_among_a_thousand_trials_costs_less_than_a_thousand_equations() -> None:
    """Which is what a model of all of them would have to solve."""
    rng, race = np.random.default_rng(0), PromotionRule(2, 10)
    matrix = rng.random((1000, 1000))
    equations_s = min(_computing_s(lambda: np.linalg.solve(matrix, matrix[0])) for _ in range(3))
    seconds = []
    for trial in range(1000):
        race.add(trial)
        level, verdict = 0, "continue"
        while verdict == "continue":
            start = time.process_time()
            verdict = race.report(trial, level, _at(*rng.random(2)))
            waiting = race.next_to_resume()
            seconds.append(time.process_time() - start)
            level += 1
        if waiting is not None:
            race.resume(waiting)
            race.report(waiting, 1 + max(k for k in range(9) if waiting in race._levels[k].trials), _at(*rng.random(2)))
    assert np.median(seconds) < equations_s


@pytest.mark.parametrize(
    ("arguments", "told"), [((1, 3), "two to four"), ((5, 3), "two to four"), ((2, 0), "at least one")]
)
def test_what_makes_no_sense_is_refused(arguments: tuple[int, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PromotionRule(*arguments)


def test_a_frontier_of_no_complete_trial_is_refused() -> None:
    with pytest.raises(ValueError, match="min_complete 0: at least 1"):
        PromotionRule(2, 3, min_complete=0)
