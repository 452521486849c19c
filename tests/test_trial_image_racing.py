"""A trial under attack on real digits: given up, gone on from there, and the same bits in the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eed_search import trial
from eed_search.evaluation.robust import RobustEvaluator
from eed_search.evaluation.sequential_test import DOMINATED, Incumbent, interim_sizes
from eed_search.runs.records import Interval, RungResult, TrialRecord, pack_bits
from eed_search.storage.store import Store
from tests.test_trial import Session, params, silent, spec_with

NUM = 40
CHOSEN = params(("nis", 0.5), ("bnsf", 1.0))
PERFECT = Incumbent("3.0", Interval(1e-6, 1e-6, 1e-6), 1.0, pack_bits(np.ones(NUM, bool)), NUM)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A larger budget than elsewhere: the team is wrong on a good part of the images."""
    return Session(tmp_path_factory.mktemp("home"), spec_with(threat={"eps": 0.3}))


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images that are attacked, each time one is."""
    images: list[int] = []
    attack = RobustEvaluator._attack

    def count(self: RobustEvaluator, where: slice) -> None:
        images.extend(range(where.start, where.stop))
        attack(self, where)

    monkeypatch.setattr(RobustEvaluator, "_attack", count)
    return images


def run(session: Session, *incumbents: Incumbent, **changes: Any) -> TrialRecord:
    chosen = replace(CHOSEN, **changes)
    found = trial.run(7, chosen, session.setting, session.probe, silent, None, incumbents)
    assert not isinstance(found, RungResult)
    return found


@pytest.mark.whole
def test_a_team_that_is_surely_beaten_is_given_up_and_later_goes_on_from_there(
    session: Session, attacked: list[int]
) -> None:
    """Beaten at a look, and again at the same one; without incumbents only the other images are attacked."""
    run(session, beta=0.5)  # the members, the base: not again below
    attacked.clear()
    beaten = run(session, PERFECT)
    assert (beaten.outcome, beaten.reason, beaten.measurement, beaten.swept) == ("pruned", DOMINATED, None, ())
    assert beaten.stop is not None
    seen = beaten.stop.num_images
    assert seen in interim_sizes(NUM)[:-1]
    assert attacked == list(range(seen))
    assert beaten.stop.beaten_by == ("3.0",)
    again = run(session, PERFECT)
    assert again.stop is not None
    assert again.stop.num_images == seen
    assert attacked == list(range(seen))  # nothing was attacked again
    whole = run(session)
    assert whole.outcome == "done", whole.message
    assert attacked == list(range(NUM))
    late = run(session, PERFECT)  # the store has all of it by now: decided as before all the same
    assert late.stop is not None
    assert late.stop.num_images == seen
    assert attacked == list(range(NUM))


def test_a_team_that_is_not_given_up_has_the_bits_that_it_has_without_rivals(
    session: Session, attacked: list[int]
) -> None:
    harmless = replace(PERFECT, latency_ms=Interval(1e6, 1e6, 1e6))
    alone = run(session, gate_threshold=0.6)
    assert alone.measurement is not None
    robust_evaluation = next(use for use in alone.stages if use.stage.startswith("judgement") and not use.hit)
    store = Store(Path(session.setting.store_root))
    folder = store._folder(robust_evaluation.stage, robust_evaluation.key)
    folder.rename(folder.with_name("elsewhere"))
    attacked.clear()
    raced = run(session, harmless, gate_threshold=0.6)
    assert attacked == list(range(NUM))
    assert raced.measurement is not None
    # latencies are taken again where they were noisy
    one, other = (replace(m, latency=alone.measurement.latency) for m in (raced.measurement, alone.measurement))
    assert one == other


def test_a_trial_that_was_killed_between_looks_attacks_no_image_twice(
    session: Session, attacked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    so_far = RobustEvaluator.so_far

    def killed(self: RobustEvaluator) -> Any:
        if self.num_attacked == 20:
            raise KeyboardInterrupt
        return so_far(self)

    with monkeypatch.context() as patch:
        patch.setattr(RobustEvaluator, "so_far", killed)
        with pytest.raises(KeyboardInterrupt):
            run(session, gate_threshold=0.7)
    done = 10  # what the look before had kept
    assert attacked == list(range(20))
    attacked.clear()
    assert run(session, gate_threshold=0.7).outcome == "done"
    assert attacked == list(range(done, NUM))
