"""The Optuna study of a search: a view of the ledger, which can be made again at any time.

A trial's end is told truthfully, once:

    finished and within every limit   → COMPLETE with both values
    over a limit                      → its constraints set, then PRUNED
    stopped before its end            → PRUNED; never COMPLETE with what it had so far
    given up under attack             → PRUNED, with what it would have had as the user attribute `expected`
    NaN, infinite, missing or crashed → FAIL

A swept gate threshold of a finished trial stands in the study too, as a trial of its own with that
threshold (user attribute `swept`); its robust accuracy is an upper bound. A study that is made again for more trials
after the finals holds what confirmed it instead, and not what broke a limit then.

The study is in memory; its file (`study_file`) follows in the background.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from eed_search.config.params import LatencyKind, ParamValue
from eed_search.config.spec import Spec
from eed_search.core.errors import RunError
from eed_search.frontier.points import breaks_a_limit
from eed_search.runs.cost import latency_of
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Measurement, SweptPoint, TrialRecord
from eed_search.search.sampling import distributions
from eed_search.search.sampling.proposals import first_proposals, suggest
from eed_search.search.sampling.samplers import PORTFOLIO, make_sampler
from eed_search.search.sampling.study_file import StudyInFile, close_database

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


STUDY_FILE = "study.sqlite"
SWEPT = "swept"  # user attribute of a study's trial that is another threshold of a team: the point's id
EXPECTED = "expected"  # user attribute of one whose attack was given up: what it would have had, for the model
_THRESHOLD = "gate_threshold"
OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {"robust_accuracy": "maximize", "latency_ms": "minimize"}


# ---------------------------------------------------------------- samplers

# These keep nothing in the study, the last one nothing for a trial that has ended: a study can be made again without them.
_KEEP_NOTHING = frozenset({"random", PORTFOLIO})
_KEEP_NOTHING_LONG = _KEEP_NOTHING | {"tpe"}


def sampler_for(spec: Spec, number: int) -> BaseSampler:
    """Make the sampler of one proposal; the same for the same search and number."""
    return make_sampler(spec.search.sampler, spec.seed, number, spec.search.startup_trials)


def own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """List the trials that were proposed, in that order: the nth is the search's trial n."""
    found = study.get_trials(deepcopy=False)
    return [trial for trial in found if trial.state != TrialState.WAITING and SWEPT not in trial.user_attrs]


# ---------------------------------------------------------------- open, close, make again


def open_study(path: Path, name: str, spec: Spec) -> optuna.Study:
    """Make the study of a search, with a SQLite file of its own that optuna-dashboard opens.

    A study of that name that is already in the file is taken up again. The proposals of
    `search.first` are queued in a new study only.

    Args:
        path: The file.
        name: The study's name: the run's.
        spec: Sampler, seed and first proposals.

    Returns:
        A study that maximises robust accuracy and minimises `latency_ms`.
    """
    storage = StudyInFile(path)
    storage.load(name)
    study = _create(storage, name)
    if not study.get_trials(deepcopy=False):
        for proposal in first_proposals(spec)[: spec.search.trials]:
            study.enqueue_trial(proposal)
    storage.show()
    return study


def close_study(study: optuna.Study) -> str:
    """Close the study's file, once it shows all of the study.

    Returns:
        Why the file lacks something; empty if it lacks nothing.
    """
    if isinstance(storage := study._storage, StudyInFile):
        storage.close()
        return storage.problem
    behind: Any = getattr(storage, "_backend", storage)  # Optuna wraps it in a cache
    close_database(behind)
    return ""


def rebuild_study(view: RunView, spec: Spec, path: Path) -> optuna.Study:
    """Make the study again from the ledger; what the file says otherwise is thrown away.

    Proposals and ends are replayed in their order, so that everything a sampler keeps in the study
    (the position in a sequence, generations) is what it was. Trials without an end are RUNNING, for
    `TrialQueue` to hand out again; first proposals that were never made are queued.

    Args:
        view: The run.
        spec: Its search-space file, perhaps with more trials than before.
        path: The study's file.

    Returns:
        The study, open.

    Raises:
        RunError: If a trial's parameters do not fit the search space.
    """
    storage = StudyInFile(path)
    study = _replay(view, spec, storage)
    storage.show()
    return study


def _create(storage: StudyInFile, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        # Metric names are marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=storage,
            sampler=optuna.samplers.RandomSampler(seed=0),  # replaced at each proposal
            study_name=name,
            directions=list(OBJECTIVES.values()),
            load_if_exists=True,
        )
        if not study.get_trials(deepcopy=False):
            study.set_metric_names(list(OBJECTIVES))
    return study


class _Replayed(Trial):
    """A trial whose every draw is given, and whose sampler is asked all the same where it was asked before.

    Optuna asks a sampler for a trial's parameters at the first one that is not given; samplers
    that keep something in the study do so then.
    """

    given_before: frozenset[str] = frozenset()

    def _is_fixed_param(self, name: str, distribution: Any) -> bool:
        if name not in self.given_before:
            self.relative_params  # noqa: B018 - a property that asks the sampler
        return bool(super()._is_fixed_param(name, distribution))


class _Given:
    """Answers where an Optuna trial would be asked, a hundred times faster: every draw is known, no sampler is asked.

    Args:
        drawn: What was drawn, by name.

    Attributes:
        params: What was asked for, by name.
        distributions: From what, by name.
    """

    def __init__(self, drawn: Mapping[str, ParamValue]) -> None:
        self.params: dict[str, ParamValue] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self._drawn = drawn

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> ParamValue:
        """Give a real number."""
        return self._give(name, distributions.real(low, high, log, step))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> ParamValue:
        """Give a whole number."""
        return self._give(name, distributions.whole(low, high, log, step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> ParamValue:
        """Give one of the choices."""
        return self._give(name, distributions.choice(choices))

    def _give(self, name: str, distribution: BaseDistribution) -> ParamValue:
        if name not in self._drawn:
            raise ValueError(f"{name}: was not drawn")
        value = self._drawn[name]
        if not distribution._contains(distribution.to_internal_repr(value)):
            raise ValueError(f"{name}: {value} is not in {distribution}")
        self.params[name], self.distributions[name] = value, distribution
        return value


def _replay(view: RunView, spec: Spec, storage: StudyInFile) -> optuna.Study:
    """Live through the search again, with every draw given."""
    study = _create(storage, view.name)
    open_: dict[int, Trial] = {}
    first = first_proposals(spec)[: spec.search.trials]
    for number, proposal in enumerate(first):  # as `open_study` did, so that Optuna's own numbers are what they were
        study.enqueue_trial(view.drawn.get(number, proposal))
    num_proposed = 0
    for what, number in view.history:
        if what == "result":
            kind, swept = spec.search.latency_objective, _swept_now(view, spec, number)
            tell(study, open_.pop(number), view.trials[number], kind, swept)
        if what != "proposal":
            continue
        if number != num_proposed:
            raise RunError(f"run {view.name}: its ledger lacks proposal {num_proposed}; restore it from a copy")
        num_proposed += 1
        given = first[number] if number < len(first) else None
        plain = spec.search.sampler in (_KEEP_NOTHING_LONG if number in view.trials else _KEEP_NOTHING)
        if plain and given is None:
            open_[number] = _added(study, view, spec, number)
        else:
            sampler = optuna.samplers.RandomSampler(seed=0) if plain else sampler_for(spec, number)
            open_[number] = _asked(study, view, spec, number, sampler, given)
    return study


def _added(study: optuna.Study, view: RunView, spec: Spec, number: int) -> Trial:
    """Add a proposal as it was made."""
    given = _Given(view.drawn[number])
    _check(given, view, spec, number)
    begun = optuna.trial.create_trial(state=TrialState.RUNNING, params=given.params, distributions=given.distributions)
    return Trial(study, study._storage.create_new_trial(study._study_id, begun))


def _asked(
    study: optuna.Study,
    view: RunView,
    spec: Spec,
    number: int,
    sampler: BaseSampler,
    given: Mapping[str, ParamValue] | None,
) -> Trial:
    """Ask for a proposal as it was asked for.

    Args:
        study: The study up to it.
        view: The run.
        spec: Its search-space file.
        number: The proposal's.
        sampler: Who is asked.
        given: What the file gave of it; none if it gave nothing.
    """
    study.sampler = sampler
    if given is None:
        study.enqueue_trial(view.drawn[number])
    trial = _Replayed(study, study.ask()._trial_id)
    trial.given_before = frozenset(given or ())
    _check(trial, view, spec, number)
    return trial


def _check(trial: Any, view: RunView, spec: Spec, number: int) -> None:
    """Draw a proposal again.

    Raises:
        RunError: If it does not become what it was.
    """
    if problem := _misfit(trial, view.proposals[number], spec):
        raise RunError(
            f"run {view.name}: trial {number} does not fit the search space any more ({problem}); put search.space"
            " back, or launch the changed file under another name: finished stages are reused"
        )


def _swept_now(view: RunView, spec: Spec, number: int) -> dict[str, SweptPoint]:
    """Give a trial's swept thresholds, with what an attack at each found where trials follow that may learn from it.

    Those that break a limit by it are left out. What the last finals confirmed nobody learns from: the study is then
    what it was while the trials ran.
    """
    found = {}
    num = max(len(view.proposals), spec.search.trials)
    for id_, point in _swept_of(view.trials[number]).items():
        confirmed = view.confirmed.get(id_)
        if confirmed is None or view.proposed_before[id_] >= num:
            found[id_] = point
        elif not breaks_a_limit(view, confirmed):
            found[id_] = replace(point, measurement=confirmed)
    return found


def _misfit(trial: Any, params: Mapping[str, ParamValue], spec: Spec) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Optuna takes a value that is out of range with a warning
            again = suggest(trial, spec)
    except (ValueError, KeyError, UserWarning) as error:
        return str(error).splitlines()[0]
    odd = [key for key in {**again, **params} if again.get(key) != params.get(key)]
    return f"{odd[0]}: was {params.get(odd[0])}, would be {again.get(odd[0])}" if odd else ""


# ---------------------------------------------------------------- tell


def tell(
    study: optuna.Study,
    trial: Trial,
    record: TrialRecord,
    kind: LatencyKind = "clean",
    swept: Mapping[str, SweptPoint] | None = None,
) -> None:
    """Tell Optuna how a trial ended, as the module says.

    Args:
        study: The study.
        trial: What it was asked for.
        record: How it ended.
        kind: Which latency ranks.
        swept: Its other gate thresholds by id; by default as the record has them.
    """
    for name, violation in record.constraints.items():
        trial.set_constraint(name, violation)
    if record.reason:
        trial.set_user_attr("reason", record.reason)
    if record.stop:
        trial.set_user_attr(EXPECTED, [record.stop.robust_accuracy, record.stop.latency_ms.value])
    values: list[float] | None = None
    state = TrialState.FAIL if record.outcome == "failed" else TrialState.PRUNED
    if record.outcome == "done" and record.measurement is not None:
        state, values = TrialState.COMPLETE, _values(record.measurement, kind)
    study.tell(trial, values, state=state)
    if state == TrialState.COMPLETE:
        _add_swept(study, trial, _swept_of(record) if swept is None else swept, record.constraints, kind)


def _values(measurement: Measurement, kind: LatencyKind) -> list[float]:
    return [measurement.robust_accuracy.value, latency_of(measurement, kind).value]


def _swept_of(record: TrialRecord) -> dict[str, SweptPoint]:
    return {f"{record.number}.{place}": point for place, point in enumerate(record.swept, start=1)}


def _add_swept(
    study: optuna.Study,
    trial: Trial,
    swept: Mapping[str, SweptPoint],
    constraints: Mapping[str, float],
    kind: LatencyKind,
) -> None:
    """Add a finished trial's other gate thresholds, where the space holds them."""
    space = trial.distributions.get(_THRESHOLD)
    for id_, point in swept.items():
        if space is None or not space._contains(point.gate_threshold):
            continue
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE,
                values=_values(point.measurement, kind),
                params=trial.params | {_THRESHOLD: point.gate_threshold},
                distributions=trial.distributions,
                user_attrs={SWEPT: id_},
                constraints=dict(constraints) or None,  # it keeps every limit, as the trial's own threshold does
            )
        )
