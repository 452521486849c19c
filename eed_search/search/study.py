"""The Optuna study of a search: a view of the ledger that proposes, and can be made again at any time.

A trial's end is told truthfully, once:

    finished and within every limit   → COMPLETE with both values
    over a limit                      → its constraints set, then PRUNED
    stopped before its end            → PRUNED; never COMPLETE with what it had so far
    given up under attack             → PRUNED, with what it would have had as the user attribute `expected`
    NaN, infinite, missing or crashed → FAIL

A swept gate threshold of a finished trial stands in the study too, as a trial of its own with that
threshold (user attribute `swept`); its robust accuracy is an upper bound until it is confirmed.

Each proposal is a pure function of the ledger before it: the sampler is made anew for each, from
the search's seed and the proposal's number, and the rest of its state lies in the study. So a
search that was killed and resumed proposes what the undisturbed one would have, given the same
results in the same order.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optuna
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from eed_search.core.cost import latency_of
from eed_search.core.errors import RunError
from eed_search.core.ledger import STOPPED, RungReport, RunView
from eed_search.core.looks import Rival
from eed_search.core.params import LatencyKind, ParamValue
from eed_search.core.records import Measurement, TrialRecord
from eed_search.core.spec import Spec
from eed_search.search.proposals import first_proposals, suggest
from eed_search.search.race import Verdict
from eed_search.search.racing import RUNGS, Racing
from eed_search.search.samplers import PORTFOLIO, make_sampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from eed_search.search.model import Model, Observation

STUDY_FILE = "study.sqlite"
SWEPT = "swept"  # user attribute of a study's trial that is another threshold of a team: the point's id
EXPECTED = "expected"  # user attribute of one whose attack was given up: what it would have had, for the model
_THRESHOLD = "gate_threshold"
OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {"robust_accuracy": "maximize", "latency_ms": "minimize"}


# ---------------------------------------------------------------- samplers

# These keep nothing in the study for a trial that has ended: a study can be made again without them.
_KEEP_NOTHING = frozenset({"tpe", "random", PORTFOLIO})
_EXPLORES = 3  # every third proposal of the portfolio is drawn at random


def sampler_for(spec: Spec, number: int) -> BaseSampler:
    """Make the sampler of one proposal; the same for the same search and number."""
    return make_sampler(spec.search.sampler, spec.seed, number, spec.search.startup_trials)


def make_model(
    spec: Spec, cost: Callable[[dict[str, Any]], float] | None = None, racing: Racing | None = None
) -> Model:
    """Make the model of a search; `cost` is what a configuration would still cost, which it divides by."""
    from eed_search.search.model import Model

    return Model(lambda trial: suggest(trial, spec), len(OBJECTIVES), (len(RUNGS) if racing else 0) + 1, cost=cost)


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
    return model.propose(seen, running, np.random.default_rng([spec.seed, number]))


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


def own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """List the trials that were proposed, in that order: the nth is the search's trial n."""
    found = study.get_trials(deepcopy=False)
    return [trial for trial in found if trial.state != TrialState.WAITING and SWEPT not in trial.user_attrs]


# ---------------------------------------------------------------- open, close, make again


def open_study(path: Path, name: str, spec: Spec) -> optuna.Study:
    """Make the study of a search, in a SQLite file of its own that optuna-dashboard opens.

    A study of that name that is already in the file is taken up again. The proposals of
    `search.first` are queued in a new study only.

    Args:
        path: The file.
        name: The study's name: the run's.
        spec: Sampler, seed and first proposals.

    Returns:
        A study that maximises robust accuracy and minimises `latency_ms`.
    """
    study = _create(_storage(path), name)
    if not study.get_trials(deepcopy=False):
        for proposal in first_proposals(spec)[: spec.search.trials]:
            study.enqueue_trial(proposal)
    return study


def close_study(study: optuna.Study) -> None:
    """Close the study's file."""
    storage: Any = getattr(study._storage, "_backend", study._storage)  # Optuna wraps it in a cache
    storage.remove_session()
    storage.engine.dispose()


def rebuild_study(view: RunView, spec: Spec, path: Path) -> optuna.Study:
    """Make the study again from the ledger; what stands in the file is thrown away.

    Proposals and ends are replayed in their order, so that everything a sampler keeps in the study
    (the position in a sequence, generations) is what it was. Trials without an end are RUNNING, for
    `Proposer` to hand out again; first proposals that were never made are queued.

    Args:
        view: The run.
        spec: Its search-space file, perhaps with more trials than before.
        path: The study's file.

    Returns:
        The study, open.

    Raises:
        RunError: If a trial's parameters do not fit the search space.
    """
    replayed = _replay(view, spec)
    new = path.with_name(f".{path.name}.new")
    _remove(new)
    study = _create(_storage(new), view.name)
    _copy(replayed, study)
    close_study(study)
    # With the old file go its journals: SQLite would roll them back into the new one.
    _remove(path)
    new.rename(path)
    return _create(_storage(path), view.name)


def _create(storage: RDBStorage | InMemoryStorage, name: str) -> optuna.Study:
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


def _storage(path: Path) -> RDBStorage:
    """Open the study's file without waiting for the disk at each of the many small writes.

    A killed process loses nothing by it; after a power cut the study is made again from the ledger.
    """
    from sqlalchemy import URL, event

    storage = RDBStorage(URL.create("sqlite", database=str(path)).render_as_string(hide_password=False))
    storage.engine.dispose()  # its first connections do not know the setting yet

    def relax(connection: Any, record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(storage.engine, "connect", relax)
    return storage


def _remove(path: Path) -> None:
    for end in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


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


def _replay(view: RunView, spec: Spec) -> optuna.Study:
    """Live through the search again, in memory, with every draw given."""
    study = _create(InMemoryStorage(), view.name)
    open_: dict[int, Trial] = {}
    plain = optuna.samplers.RandomSampler(seed=0)
    first = first_proposals(spec)[: spec.search.trials]
    for number, proposal in enumerate(first):  # as `open_study` did, so that Optuna's own numbers are what they were
        study.enqueue_trial(view.drawn.get(number, proposal))
    num_proposed = 0
    for what, number in view.history:
        if what == "result":
            tell(study, open_.pop(number), view.trials[number], spec.search.latency_objective)
        if what != "proposal":
            continue
        if number != num_proposed:
            raise RunError(f"run {view.name}: its ledger lacks proposal {num_proposed}; restore it from a copy")
        num_proposed += 1
        ended = number in view.trials
        study.sampler = plain if ended and spec.search.sampler in _KEEP_NOTHING else sampler_for(spec, number)
        if number >= len(first):
            study.enqueue_trial(view.drawn[number])
        trial = _Replayed(study, study.ask()._trial_id)
        trial.given_before = frozenset(first[number]) if number < len(first) else frozenset()
        if (problem := _misfit(trial, view.proposals[number], spec)) != "":
            raise RunError(
                f"run {view.name}: trial {number} does not fit the search space any more ({problem}); put search.space"
                " back, or launch the changed file under another name: finished stages are reused"
            )
        open_[number] = trial
    return study


def _misfit(trial: Trial, params: Mapping[str, ParamValue], spec: Spec) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Optuna takes a value that is out of range with a warning
            again = suggest(trial, spec)
    except (ValueError, KeyError, UserWarning) as error:
        return str(error).splitlines()[0]
    odd = [key for key in {**again, **params} if again.get(key) != params.get(key)]
    return f"{odd[0]}: was {params.get(odd[0])}, would be {again.get(odd[0])}" if odd else ""


def _copy(source: optuna.Study, target: optuna.Study) -> None:
    """Write a study from memory into a file, one write for each trial."""
    trials = source.get_trials(deepcopy=False)
    target.add_trials(trials)
    ids = {old._trial_id: new._trial_id for old, new in zip(trials, target.get_trials(deepcopy=False), strict=True)}
    for key, value in source._storage.get_study_system_attrs(source._study_id).items():
        if ":parent:" in key:  # NSGA-II names the parents of a generation by the storage's own numbers
            value = [ids[one] for one in value]
        target._storage.set_study_system_attr(target._study_id, key, value)


# ---------------------------------------------------------------- propose and tell


@dataclass(frozen=True)
class Proposal:
    """What a trial is to try.

    Attributes:
        number: Of the trial.
        params: Its flat parameters.
        attempt: How often this process has handed it out, this time included.
        rung: At which rung its work ends this time; none: at its end.
        rivals: Points that it is held against while its trained team is attacked.
    """

    number: int
    params: dict[str, ParamValue]
    attempt: int = 1
    rung: int | None = None
    rivals: tuple[Rival, ...] = ()


class Proposer:
    """Asks Optuna for proposals, hands unfinished ones out again first, and tells it how they ended.

    It limits itself: at most `max_concurrent` trials are out, so each proposal knows every result
    that could be known. In a race a trial comes back at each rung: one that goes on is handed out again
    before anything new, one that waits when the race says so. It is finished after `search.trials`
    proposals, or past the deadline, when none is out any more (one that is out may be lost, and handed
    out again) and none that waits may still belong to the frontier; or when asked to stop.

    Args:
        study: From `open_study` or `rebuild_study`.
        spec: The search.
        unfinished: Parameters of the trials that the study holds as RUNNING, by number.
        max_concurrent: Trials that may be out at once, at least 1.
        deadline: `time.monotonic()` after which nothing is handed out, or none.
        on_proposal: Told number, flat parameters and what Optuna drew, before a new proposal is
            handed out; not again for one that is handed out again.
        should_stop: Asked before each proposal.
        cost: What flat parameters would still cost, for the portfolio.
        enough: Whether no new proposal is wanted, before the number of trials is reached.
        racing: The race, with what has happened in it; without one trials run to their end.
        on_resume: Told number and rung of a trial that waited, before it is handed out again.
        rivals: Asked for the points that a trial is held against, when it is handed out to its end.
    """

    def __init__(
        self,
        study: optuna.Study,
        spec: Spec,
        *,
        unfinished: Mapping[int, Mapping[str, ParamValue]] | None = None,
        max_concurrent: int = 1,
        deadline: float | None = None,
        on_proposal: Callable[[int, dict[str, ParamValue], dict[str, ParamValue]], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        enough: Callable[[], bool] | None = None,
        cost: Callable[[dict[str, Any]], float] | None = None,
        racing: Racing | None = None,
        on_resume: Callable[[int, int], None] | None = None,
        rivals: Callable[[int], tuple[Rival, ...]] | None = None,
    ) -> None:
        self._study = study
        self._racing = racing
        self._on_resume = on_resume
        self._rivals = rivals
        self._model = make_model(spec, cost, racing)
        self._enough = enough
        self._spec = spec
        self._max_concurrent = max(1, max_concurrent)
        self._deadline = deadline
        self._on_proposal = on_proposal
        self._should_stop = should_stop
        self._trials: dict[int, Trial] = {}  # proposed and not told
        self._params: dict[int, dict[str, ParamValue]] = {n: dict(p) for n, p in (unfinished or {}).items()}
        self._again = deque(sorted(self._params.keys() - set(racing.paused() if racing else ())))
        self._out: set[int] = set()
        self._handed_out: Counter[int] = Counter()
        own = own_trials(study)
        self._num_proposed = len(own)
        for number in self._params:
            self._trials[number] = Trial(study, own[number]._trial_id)

    def make_room(self, max_concurrent: int) -> None:
        """Let so many trials be out at once from now on: a cluster grows and shrinks."""
        self._max_concurrent = max(1, max_concurrent)

    def propose(self) -> Proposal | None:
        """Hand a proposal out; none while enough are out, or when `finished`."""
        if self.finished or len(self._out) >= self._max_concurrent:
            return None
        if self._again:
            number = self._again.popleft()
        elif (waiting := self._to_resume()) is not None:
            number = self._resume(waiting)
        elif self._may_ask():
            number = self._ask()
        else:
            return None
        self._out.add(number)
        self._handed_out[number] += 1
        rung = self._racing.next_rung(number) if self._racing else None
        rivals = self._rivals(number) if self._rivals and rung is None else ()
        return Proposal(number, dict(self._params[number]), self._handed_out[number], rung, rivals)

    @property
    def finished(self) -> bool:
        """Whether nothing will be handed out any more."""
        if self._should_stop is not None and self._should_stop():
            return True
        if self._out:
            return False
        return self._late() or not (self._again or self._may_ask() or self._to_resume() is not None)

    def params(self, number: int) -> dict[str, ParamValue]:
        """Give the flat parameters of a trial that was proposed."""
        return dict(self._params[number])

    def report(self, number: int, report: RungReport) -> Verdict:
        """Take in that a trial has come to a rung; one that may go on is handed out before anything new.

        Raises:
            ValueError: If a metric is missing or not finite, or there is no race.
        """
        if self._racing is None:
            raise ValueError(f"trial {number} reported at rung {report.rung}, but there is no race")
        verdict = self._racing.reported(number, report)
        self._out.discard(number)
        if verdict != "pause":
            self._again.append(number)
        return verdict

    def paused(self) -> list[int]:
        """List the trials that wait at a rung."""
        return self._racing.paused() if self._racing else []

    def again(self, number: int) -> None:
        """Take a trial back that was lost, to hand it out again before anything new."""
        self._out.discard(number)
        if number in self._trials and number not in self._again:
            self._again.append(number)

    def tell(self, record: TrialRecord) -> None:
        """Tell Optuna how a trial ended; a second call for the same trial is ignored."""
        self._out.discard(record.number)
        if record.number in self._again:
            self._again.remove(record.number)
        if self._racing is not None and record.number in self._trials:
            self._racing.ended(record)
        if (trial := self._trials.pop(record.number, None)) is not None:
            tell(self._study, trial, record, self._spec.search.latency_objective)

    def close(self) -> None:
        """Tell Optuna that the trials without an end were stopped: nothing is left RUNNING."""
        for number in list(self._trials):
            self.tell(TrialRecord(number, self._params.get(number, {}), "pruned", STOPPED))

    def _to_resume(self) -> int | None:
        if self._racing is None or self._late():
            return None
        return self._racing.to_resume(nothing_new=not self._may_ask())

    def _resume(self, number: int) -> int:
        assert self._racing is not None
        rung = self._racing.next_rung(number)
        if self._on_resume is not None:
            self._on_resume(number, (len(RUNGS) if rung is None else rung) - 1)
        self._racing.resumed(number)
        return number

    def _may_ask(self) -> bool:
        if self._num_proposed >= self._spec.search.trials or self._late():
            return False
        return self._enough is None or not self._enough()

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _ask(self) -> int:
        number = self._num_proposed  # Optuna's own numbers count waiting and swept ones too
        chosen = model_proposal(self._study, self._spec, number, self._model, self._racing)
        if chosen is not None:
            self._study.enqueue_trial(chosen)
        self._study.sampler = sampler_for(self._spec, number)
        trial = self._study.ask()
        # Kept from here on: whatever happens next, `close` will not leave it RUNNING.
        self._trials[number] = trial
        self._num_proposed += 1
        params = suggest(trial, self._spec)
        self._params[number] = params
        if self._racing is not None:
            self._racing.proposed(number)
        if self._on_proposal is not None:
            self._on_proposal(number, dict(params), dict(trial.params))
        return number


def tell(study: optuna.Study, trial: Trial, record: TrialRecord, kind: LatencyKind = "clean") -> None:
    """Tell Optuna how a trial ended, as the module says; `latency_ms` is the one that ranks."""
    for name, excess in record.constraints.items():
        trial.set_constraint(name, excess)
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
        _add_swept(study, trial, record, kind)


def _values(measurement: Measurement, kind: LatencyKind) -> list[float]:
    return [measurement.robust_accuracy.value, latency_of(measurement, kind).value]


def _add_swept(study: optuna.Study, trial: Trial, record: TrialRecord, kind: LatencyKind) -> None:
    """Add a finished trial's other gate thresholds, where the space holds them."""
    space = trial.distributions.get(_THRESHOLD)
    for place, point in enumerate(record.swept, start=1):
        if space is None or not space._contains(point.gate_threshold):
            continue
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE,
                values=_values(point.measurement, kind),
                params=trial.params | {_THRESHOLD: point.gate_threshold},
                distributions=trial.distributions,
                user_attrs={SWEPT: f"{record.number}.{place}"},
                constraints=record.constraints or None,  # it keeps every limit, as the trial's own threshold does
            )
        )
