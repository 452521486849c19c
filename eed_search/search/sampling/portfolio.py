"""The portfolio: what its model learns from a study, what it then proposes, and what is drawn beside it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from eed_search.config.spec import Spec
from eed_search.frontier.static_constraints import DECIDED, StaticConstraints
from eed_search.search.racing.rung_scheduler import RUNGS, RungScheduler
from eed_search.search.sampling.proposals import suggest
from eed_search.search.sampling.samplers import PORTFOLIO, explores
from eed_search.search.sampling.study import EXPECTED, OBJECTIVES, SWEPT, own_trials, sampler_for

if TYPE_CHECKING:
    from eed_search.search.sampling.surrogate import Model, Observation, Violation

_LATENCY = list(OBJECTIVES).index("latency_ms")


def load(spec: Spec) -> None:
    """Load what the portfolio's model needs, which takes seconds: while something else runs, rather than when it is asked."""
    if spec.search.sampler == PORTFOLIO:
        import sklearn.gaussian_process  # noqa: F401


class Portfolio:
    """Makes the proposals of sampler `portfolio`: a third at random, the others by a model.

    Both keep the limits that are known before a trial runs, and neither asks for a trained team twice: the sweep reads
    a team's other gate thresholds anyway. For other samplers it proposes nothing.

    Args:
        spec: The search.
        cost: What flat parameters would still cost, which the model divides by; the same for all by default.
        racing: The race, whose rungs teach the model too.
        beforehand: What is known of a trial before it runs.
    """

    def __init__(
        self,
        spec: Spec,
        cost: Callable[[dict[str, Any]], float] | None = None,
        racing: RungScheduler | None = None,
        beforehand: StaticConstraints | None = None,
    ) -> None:
        self._spec, self._racing = spec, racing
        self._beforehand = beforehand or StaticConstraints(spec, (), 1.0, 0.0)
        self._model = self._make_model(cost)

    def propose(self, study: optuna.Study, number: int) -> dict[str, Any] | None:
        """Choose what a study is to try next.

        Args:
            study: Its complete trials teach; its running ones count as if they had ended as predicted.
            number: The proposal's; it seeds the draws.

        Returns:
            Parameters under Optuna's names; none where the study's own sampler is to be asked.
        """
        search = self._spec.search
        trials = study.get_trials(deepcopy=False)
        if search.sampler != PORTFOLIO or any(trial.state == TrialState.WAITING for trial in trials):
            return None  # first proposals come first
        own = own_trials(study)
        before = [dict(trial.params) for trial in own]
        if explores(number, search.startup_trials):
            return self._explore(number, before)
        seen = self._reports(trials, own)
        heard = {one.trial for one in seen}
        running = [dict(t.params) for n, t in enumerate(own) if t.state == TrialState.RUNNING and n not in heard]
        rng = np.random.default_rng([self._spec.seed, number])
        return self._model.propose(seen, running, rng, before, self._limits(own))

    def _make_model(self, cost: Callable[[dict[str, Any]], float] | None) -> Model:
        from eed_search.search.sampling.surrogate import Model

        def ends(params: dict[str, Any]) -> dict[int, tuple[float, float]]:
            found = self._beforehand.latency_ms(params)
            return {} if found is None else {_LATENCY: found}

        return Model(
            lambda trial: suggest(trial, self._spec),
            len(OBJECTIVES),
            (len(RUNGS) if self._racing else 0) + 1,
            ends=ends,
            allowed=self._beforehand.keeps_limits,
            cost=cost,
            same=self._trained,
        )

    def _trained(self, params: dict[str, Any]) -> Hashable:
        """Name what a trial trains; where nothing is swept, another gate threshold is another trial."""
        swept = self._spec.gate.sweep > 0
        return frozenset(item for item in params.items() if not (swept and item[0] == "gate_threshold"))

    def _explore(self, number: int, before: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """Draw at random; none where the study's own draw, which a forecast foresees, is as good."""
        alone = optuna.create_study(directions=list(OBJECTIVES.values()), sampler=sampler_for(self._spec, number))
        if self._model.welcomes(suggest(alone.ask(), self._spec), before):
            return None
        return self._model.draw(np.random.default_rng([self._spec.seed, number]), before)

    def _limits(self, own: Sequence[FrozenTrial]) -> dict[str, list[Violation]]:
        """List by how much ended trials broke each limit that is not known beforehand."""
        from eed_search.search.sampling.surrogate import Violation

        known = DECIDED if self._beforehand.is_complete else ()
        ended = sorted((t for t in own if t.datetime_complete), key=lambda t: (t.datetime_complete, t.number))
        found: dict[str, list[Violation]] = {}
        for trial in ended:
            for name, value in trial.constraints.items():
                if name not in known:
                    found.setdefault(name, []).append(Violation(dict(trial.params), value))
        return found

    def _reports(self, trials: Sequence[FrozenTrial], own: Sequence[FrozenTrial]) -> list[Observation]:
        """List what the model learns from in the order in which it came; a team's swept thresholds after the team."""
        from eed_search.search.sampling.surrogate import Observation

        numbers = {trial.number: n for n, trial in enumerate(own)}
        numbers |= {trial.number: len(own) + i for i, trial in enumerate(t for t in trials if SWEPT in t.user_attrs)}
        ended = [
            (trial, values)
            for trial in trials
            if (values := trial.values or trial.user_attrs.get(EXPECTED)) is not None
        ]
        ended.sort(key=lambda one: (one[0].datetime_complete or datetime.max, one[0].number))
        if self._racing is None:
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
        for number, rung, read in self._racing.readings():
            found.append(Observation(number, dict(own[number].params), rung, read))
            if rung == len(RUNGS):
                found += swept.pop(number, [])
        return found
