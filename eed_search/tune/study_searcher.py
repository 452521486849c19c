"""A Ray Tune searcher around an Optuna study, for any space and two to four metrics.

Optuna is told the truth: a complete trial → COMPLETE with its values; stopped before → PRUNED; over a limit → its
constraints, then PRUNED; a metric that is missing or not finite, or a crash → FAIL. Proposals come
from one of Optuna's samplers by name, or from the portfolio: two thirds a model that knows the
objectives known beforehand, one third a sampler.
"""

from __future__ import annotations

import pickle
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from eed_search.config.registry import BUILT_IN
from eed_search.core.errors import SpecError
from eed_search.runs.records import metric_problem
from eed_search.search.sampling.drawing import Params, RandomTrial
from eed_search.search.sampling.samplers import PORTFOLIO, explores, make_sampler
from eed_search.search.sampling.surrogate import Model, Observation, Space
from eed_search.storage.store import write_atomic
from eed_search.tune.arguments import (
    Mode,
    count_problems,
    level_problems,
    limit_problems,
    metric_problems,
    name_problems,
)
from eed_search.tune.pareto_racing import ParetoRacing

_SEARCHER = "searcher"  # attribute of an Optuna trial: whose it is, as others may use the study too
_KEPT = ("_name", "_num_proposed", "_observations", "_reached", "_final")  # what `save` writes as it is


class StudySearcher(Searcher):
    """Proposes trials and tells Optuna how they ended.

    Ray writes its state along with the trials' and gives both back in `tune.Tuner.restore`; what came after
    its last write is lost. `space`, `known` and `cost` are pickled with the searcher.

    Args:
        space: Draws a configuration from an Optuna trial (define by run).
        metrics: Direction by metric, two to four.
        sampler: `portfolio`, or the name of an Optuna sampler.
        seed: Seed for every draw; the n-th proposal depends on it, on n and on what was reported before.
        num_trials: Proposals in all; no end by default.
        max_concurrent: Trials that may run at once; paused ones do not count. No limit but Ray's own by
            default.
        scheduler: Whose paused trials leave room, and whose promotions take it before a fresh proposal.
        startup: Proposals that the sampler makes before the model is asked.
        known: Metrics of a configuration that are exact before it runs, by name.
        limits: By metric, the worst final value that is allowed. Optuna is told by how much a complete trial broke it;
            of a trial that was stopped before, only where the metric is known or one of the scheduler's fixed ones.
        resource: The reported number that says how far a trial is; none when every report is final.
        levels: Values of the resource at which trials are compared; the last completes a trial.
        cost: What a configuration would still cost; the model divides by it.
        study: Study of the same metrics and directions; one in memory by default.

    Raises:
        SpecError: All that is wrong with the arguments, at once. To see which metrics are known, one configuration is
            drawn.
    """

    def __init__(
        self,
        space: Space,
        metrics: Mapping[str, Mode],
        *,
        sampler: str = PORTFOLIO,
        seed: int = 0,
        num_trials: int | None = None,
        max_concurrent: int | None = None,
        startup: int = 10,
        known: Callable[[dict[str, Any]], Mapping[str, float]] | None = None,
        limits: Mapping[str, float] | None = None,
        resource: str | None = None,
        levels: Sequence[float] = (),
        cost: Callable[[dict[str, Any]], float] | None = None,
        scheduler: ParetoRacing | None = None,
        study: optuna.Study | None = None,
    ) -> None:
        super().__init__()
        problems = metric_problems(metrics) + limit_problems(metrics, limits or {})
        problems += level_problems(metrics, resource, levels)
        if sampler not in BUILT_IN["sampler"]:
            problems.append(f"sampler: {sampler!r} is unknown; allowed: {', '.join(sorted(BUILT_IN['sampler']))}")
        problems += count_problems("seed", seed, 0, "the same one gives the same proposals")
        problems += count_problems("startup", startup, 0, "so many proposals come before the model's")
        problems += count_problems("num_trials", num_trials, 1, "leave it out for no end", optional=True)
        problems += count_problems("max_concurrent", max_concurrent, 1, "leave it out for no limit", optional=True)
        if known is not None:
            drawn = space(RandomTrial(np.random.default_rng(seed if seed >= 0 else 0)))
            problems += name_problems("known", known(drawn), metrics)
        if study is not None:
            problems += _study_problems(study, metrics)
        if problems:
            raise SpecError(problems)
        self._space, self._sampler_name, self._seed = space, sampler, seed
        self._signs = {name: 1.0 if mode == "min" else -1.0 for name, mode in metrics.items()}
        self._num_trials, self._max_concurrent, self._startup = num_trials, max_concurrent, startup
        self._limits = dict(limits or {})
        self._resource, self._levels = resource, tuple(levels)
        self._study = study or _memory_study(metrics)
        self._open: dict[str, optuna.Trial] = {}
        self._told: set[int] = set()  # open ones that Optuna was told of before the search was cut off
        self._name = uuid.uuid4().hex
        self._scheduler = scheduler
        self._known = known
        self._final = set(scheduler.fixed if scheduler else ())  # metrics that are final in every report
        self._num_proposed = 0
        self._observations: list[Observation] = []
        self._reached: dict[int, int] = {}  # by trial: the highest level that it has reported at
        names = list(self._signs)
        self._model = Model(
            space,
            len(names),
            max(1, len(levels)),
            known=None
            if known is None
            else lambda c: {names.index(n): self._signs[n] * v for n, v in known(c).items()},
            allowed=None if known is None else lambda c: all(self._keeps(n, v) for n, v in known(c).items()),
            cost=cost,
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Propose a trial.

        Args:
            trial_id: Ray's name for it.

        Returns:
            A configuration; none while enough trials run; `FINISHED` after `num_trials`.
        """
        if self._num_trials is not None and self._num_proposed >= self._num_trials:
            return str(Searcher.FINISHED)
        if self._max_concurrent is not None and self._num_busy() >= self._max_concurrent:
            return None
        number = self._num_proposed
        asks_model = self._sampler_name == PORTFOLIO and not explores(number, self._startup)
        if asks_model and (params := self._from_model(number)) is not None:
            self._study.enqueue_trial(params)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = make_sampler(self._sampler_name, self._seed, number, self._startup)
        trial = self._study.ask()
        trial.set_user_attr(_SEARCHER, self._name)
        self._open[trial_id] = trial
        self._num_proposed += 1
        config = self._space(trial)
        if self._known is not None:
            self._final.update(self._known(config))
        return config

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Let the model learn from a report."""
        self._observe(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended; a second call for the same trial is ignored.

        Args:
            trial_id: Ray's name for it.
            result: Its last report, if it ended by itself or by the scheduler's decision while it ran.
            error: It crashed.
        """
        if result:
            self._observe(trial_id, result)
        trial = self._open.pop(trial_id, None)
        if trial is None or trial.number in self._told:
            return
        if error:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        if not result:
            self._study.tell(trial, state=TrialState.PRUNED)
            return
        problems = [text for name in self._signs if (text := metric_problem(name, result.get(name)))]
        if problems:
            trial.set_user_attr("reason", problems[0])
            self._study.tell(trial, state=TrialState.FAIL)
            return
        complete = not self._levels or self._level(result) == len(self._levels) - 1
        for name in self._limits:
            if complete or name in self._final:
                trial.set_constraint(name, self._excess(name, result[name]))
        if complete and all(self._keeps(name, result[name]) for name in self._limits):
            self._study.tell(trial, [float(result[name]) for name in self._signs])
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Write what was proposed, reported and told so far; Ray asks for it whenever it writes its own state."""
        kept = {name: getattr(self, name) for name in _KEPT}
        numbers = {trial_id: trial.number for trial_id, trial in self._open.items()}
        state = {"kept": kept, "open": numbers, "trials": self._study.get_trials(deepcopy=False)}
        write_atomic(Path(checkpoint_path), pickle.dumps(state))

    def restore(self, checkpoint_path: str) -> None:
        """Take up what `save` wrote.

        A study in memory gets back the trials it had then. In a stored one, trials of this searcher that
        are RUNNING but were proposed later become FAIL, since Ray does not know them any more; one that ended
        later keeps what it was told, however it ends this time.
        """
        state = pickle.loads(Path(checkpoint_path).read_bytes())  # noqa: S301  # our own, as the module says
        for name, value in state["kept"].items():
            setattr(self, name, value)
        for trial in state["trials"][len(self._study.get_trials(deepcopy=False)) :]:
            self._study.add_trial(trial)
        # A trial's sampler is told that it begins; this one does nothing then.
        self._study.sampler = optuna.samplers.RandomSampler()
        numbers = {number: trial_id for trial_id, number in state["open"].items()}
        self._open, self._told = {}, set()
        for trial in self._study.get_trials(deepcopy=False):
            if trial.number in numbers:
                self._open[numbers[trial.number]] = optuna.Trial(self._study, trial._trial_id)
                if trial.state.is_finished():
                    self._told.add(trial.number)
            elif trial.state == TrialState.RUNNING and trial.user_attrs.get(_SEARCHER) == self._name:
                self._study.tell(trial.number, state=TrialState.FAIL)

    # ------------------------------------------------------------ inside

    def _num_busy(self) -> int:
        """Count the trials that run or are about to."""
        if self._scheduler is None:
            return len(self._open)
        return len(self._open.keys() - self._scheduler.paused()) + self._scheduler.may_resume()

    def _from_model(self, number: int) -> Params | None:
        paused = self._scheduler.paused() if self._scheduler else set[str]()
        running = [trial.params for trial_id, trial in self._open.items() if trial_id not in paused]
        return self._model.propose(self._observations, running, np.random.default_rng([self._seed, number]))

    def _observe(self, trial_id: str, result: Mapping[str, Any]) -> None:
        trial = self._open.get(trial_id)
        if trial is None or any(metric_problem(name, result.get(name)) for name in self._signs):
            return
        level = self._level(result) if self._levels else 0
        if level <= self._reached.get(trial.number, -1):
            return  # as in the race, the first report at a level or past it is the one that counts
        self._reached[trial.number] = level
        values = tuple(sign * float(result[name]) for name, sign in self._signs.items())
        self._observations.append(Observation(trial.number, dict(trial.params), level, values))

    def _level(self, result: Mapping[str, Any]) -> int:
        if self._resource is None or metric_problem(self._resource, result.get(self._resource)):
            return -1
        return sum(bool(result[self._resource] >= level) for level in self._levels) - 1

    def _excess(self, name: str, value: float) -> float:
        return self._signs[name] * (float(value) - self._limits[name])

    def _keeps(self, name: str, value: float) -> bool:
        return name not in self._limits or self._excess(name, value) <= 0


def _memory_study(metrics: Mapping[str, Mode]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=_directions(metrics))


def _directions(metrics: Mapping[str, Mode]) -> list[Literal["maximize", "minimize"]]:
    return ["maximize" if mode == "max" else "minimize" for mode in metrics.values()]


def _study_problems(study: optuna.Study, metrics: Mapping[str, Mode]) -> list[str]:
    has, needed = [direction.name.lower() for direction in study.directions], _directions(metrics)
    if has == needed:
        return []
    return [f"study: directions {', '.join(has)}; the metrics {', '.join(metrics)} need {', '.join(needed)}"]
