"""What the portfolio's model learns from a study, and what it then proposes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from eed_search.core.spec import Spec
from eed_search.search.proposals import suggest
from eed_search.search.racing import RUNGS, Racing
from eed_search.search.samplers import PORTFOLIO
from eed_search.search.study import EXPECTED, OBJECTIVES, SWEPT, own_trials

if TYPE_CHECKING:
    from eed_search.search.model import Model, Observation

_EXPLORES = 3  # every third proposal of the portfolio is drawn at random


def make_model(
    spec: Spec, cost: Callable[[dict[str, Any]], float] | None = None, racing: Racing | None = None
) -> Model:
    """Make the model of a search, which proposes no trained team twice.

    Args:
        spec: The search.
        cost: What a configuration would still cost, which it divides by.
        racing: The race, whose rungs it learns from.
    """
    from eed_search.search.model import Model

    return Model(
        lambda trial: suggest(trial, spec),
        len(OBJECTIVES),
        (len(RUNGS) if racing else 0) + 1,
        cost=cost,
        same=lambda params: _trained(params, spec),
    )


def _trained(params: dict[str, Any], spec: Spec) -> Hashable:
    """Name what a trial trains: the sweep reads a team's other gate thresholds anyway, so one trial of it is enough."""
    return frozenset(item for item in params.items() if item[0] != "gate_threshold" or not spec.gate.sweep)


def model_proposal(
    study: optuna.Study, spec: Spec, number: int, model: Model, racing: Racing | None = None
) -> dict[str, Any] | None:
    """Ask the model where the frontier is expected to grow most.

    Args:
        study: Its complete trials teach; its running ones count as if they had ended as predicted.
        spec: The search.
        number: The proposal's; it seeds the draws.
        model: From `make_model`.
        racing: What trials have reported on their way teaches too.

    Returns:
        Parameters under Optuna's names; none where the portfolio's sampler is to be asked.
    """
    if spec.search.sampler != PORTFOLIO or number < spec.search.startup_trials or number % _EXPLORES == _EXPLORES - 1:
        return None
    trials = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.WAITING for trial in trials):
        return None  # first proposals come first
    own = own_trials(study)
    seen = _reports(trials, own, racing)
    heard = {one.trial for one in seen}
    running = [dict(t.params) for n, t in enumerate(own) if t.state == TrialState.RUNNING and n not in heard]
    before = [dict(trial.params) for trial in own]
    return model.propose(seen, running, np.random.default_rng([spec.seed, number]), before)


def _reports(trials: Sequence[FrozenTrial], own: Sequence[FrozenTrial], racing: Racing | None) -> list[Observation]:
    """List what the model learns from in the order in which it came; a team's swept thresholds after the team."""
    from eed_search.search.model import Observation

    numbers = {trial.number: n for n, trial in enumerate(own)}
    numbers |= {trial.number: len(own) + i for i, trial in enumerate(t for t in trials if SWEPT in t.user_attrs)}
    ended = [
        (trial, values) for trial in trials if (values := trial.values or trial.user_attrs.get(EXPECTED)) is not None
    ]
    ended.sort(key=lambda one: (one[0].datetime_complete or datetime.max, one[0].number))
    if racing is None:
        return [
            Observation(numbers[trial.number], dict(trial.params), 0, (-values[0], values[1]))
            for trial, values in ended
        ]
    swept: dict[int, list[Observation]] = {}
    for trial, values in ended:
        if id_ := trial.user_attrs.get(SWEPT):
            point = Observation(numbers[trial.number], dict(trial.params), len(RUNGS), (-values[0], values[1]))
            swept.setdefault(int(id_.partition(".")[0]), []).append(point)
    found = []
    for number, rung, read in racing.readings():
        found.append(Observation(number, dict(own[number].params), rung, read))
        if rung == len(RUNGS):
            found += swept.pop(number, [])
    return found
