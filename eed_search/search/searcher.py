"""The searcher between Ray Tune and Optuna, which tells Optuna the truth about every trial.

    finished and within every limit   → COMPLETE with both values
    over a limit                      → its constraints set, then PRUNED
    stopped before its end            → PRUNED; never COMPLETE with what it had so far
    NaN, infinite, missing or crashed → FAIL
    still open when the search ends   → PRUNED; nothing is left RUNNING

Ray's own OptunaSearch tells stopped trials as COMPLETE, leaves trials with a NaN RUNNING for ever,
and knows no constraints; so it is not used.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher

from eed_search.core.params import ParamValue
from eed_search.core.records import TrialRecord
from eed_search.core.spec import Spec
from eed_search.core.store import write_atomic
from eed_search.search.outcome import judge
from eed_search.search.proposals import first_proposals, suggest

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

STUDY_FILE = "study.sqlite"
OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {"robust_accuracy": "maximize", "latency_ms": "minimize"}

logger = logging.getLogger(__name__)


def _tpe(seed: int, startup: int) -> BaseSampler:
    # `group`: each set of parameters that occur together is modelled together, so that what a
    # second member is, is learnt only from teams that have one.
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True)


def _nsga2(seed: int, startup: int) -> BaseSampler:
    # A generation is filled by finished trials only, so it is kept small.
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, startup))


def _qmc(seed: int, startup: int) -> BaseSampler:
    del startup
    return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)


def _random(seed: int, startup: int) -> BaseSampler:
    del startup
    return optuna.samplers.RandomSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "qmc": _qmc,
    "random": _random,
}


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
    from sqlalchemy import URL

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    with warnings.catch_warnings():
        # TPE's `group`, QMC and the metric names are marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=_storage(url),
            sampler=SAMPLERS[spec.search.sampler](spec.seed, spec.search.startup_trials),
            study_name=name,
            directions=list(OBJECTIVES.values()),
            load_if_exists=True,
        )
        if not study.get_trials(deepcopy=False):
            study.set_metric_names(list(OBJECTIVES))
            for proposal in first_proposals(spec)[: spec.search.trials]:
                study.enqueue_trial(proposal)
    return study


def _storage(url: str) -> optuna.storages.RDBStorage:
    """Open the study's file without waiting for the disk at each of the many small writes.

    A killed process loses nothing by it; after a power cut the study is made again from the ledger.
    """
    from sqlalchemy import event

    storage = optuna.storages.RDBStorage(url)
    storage.engine.dispose()  # its first connections do not know the setting yet

    def relax(connection: Any, record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(storage.engine, "connect", relax)
    return storage


def close_study(study: optuna.Study) -> None:
    """Close the study's file."""
    storage: Any = getattr(study._storage, "_backend", study._storage)  # Optuna wraps it in a cache
    storage.remove_session()
    storage.engine.dispose()


class EedSearcher(Searcher):
    """Asks Optuna for proposals on Ray Tune's behalf, and tells it how they ended.

    It limits itself: at most `max_concurrent` trials are open, so each proposal knows every result
    that could be known; after `search.trials` proposals, or past the deadline, or when asked to
    stop, it is finished. Ray pickles its searcher: the study stays out of the pickle, `save` writes
    only which Ray trial is which Optuna trial, and `restore` reads that and closes what is
    left over. The study's file and the ledger hold all else.

    Args:
        study: From `open_study`.
        spec: The search.
        max_concurrent: Trials that may be open at once, at least 1.
        deadline: `time.monotonic()` after which nothing new is proposed, or none.
        on_proposal: Told the number and the flat parameters of each proposal before it runs.
        should_stop: Asked before each proposal.
    """

    def __init__(
        self,
        study: optuna.Study,
        spec: Spec,
        *,
        max_concurrent: int = 1,
        deadline: float | None = None,
        on_proposal: Callable[[int, dict[str, ParamValue]], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__()
        self._study = study
        self._spec = spec
        self._max_concurrent = max(1, max_concurrent)
        self._deadline = deadline
        self._on_proposal = on_proposal
        self._should_stop = should_stop
        self._open: dict[str, Trial] = {}
        self._params: dict[int, dict[str, ParamValue]] = {}
        self._num_proposed = sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Propose a trial.

        Args:
            trial_id: Ray's name for it.

        Returns:
            `{"number": …, "params": …}`; none while enough trials are open; `FINISHED` when the
            search has had its trials or its time, or is to stop.
        """
        if (
            self._num_proposed >= self._spec.search.trials
            or (self._deadline is not None and time.monotonic() >= self._deadline)
            or (self._should_stop is not None and self._should_stop())
        ):
            return str(Searcher.FINISHED)
        if len(self._open) >= self._max_concurrent:
            return None
        trial = self._study.ask()
        # Open from here on: whatever happens next, `close` will not leave it RUNNING.
        self._open[trial_id] = trial
        self._num_proposed += 1
        params = suggest(trial, self._spec)
        self._params[trial.number] = params
        if self._on_proposal is not None:
            self._on_proposal(trial.number, params)
        return {"number": trial.number, "params": dict(params)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: Optuna takes no intermediate values with two objectives."""

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended; a second call for the same trial is ignored.

        Args:
            trial_id: Ray's name for it.
            result: Its last result, with its record if it came to its end.
            error: Ray lost it.
        """
        trial = self._open.pop(trial_id, None)
        if trial is None:
            return
        if error:
            self._tell(trial, TrialState.FAIL, "infrastructure")
            return
        self._tell_record(trial, judge(trial.number, self._params.get(trial.number, {}), result))

    def close(self) -> None:
        """Tell Optuna that the trials which are still open were stopped."""
        for trial_id in list(self._open):
            self.on_trial_complete(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Write which Ray trial is which Optuna trial, as JSON."""
        numbers = {trial_id: trial.number for trial_id, trial in self._open.items()}
        write_atomic(Path(checkpoint_path), json.dumps({"study": self._study.study_name, "open": numbers}).encode())

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote; trials of the study that run for nobody any more are told FAIL.

        Raises:
            ValueError: If the file belongs to another study.
        """
        saved = json.loads(Path(checkpoint_path).read_text())
        if saved["study"] != self._study.study_name:
            raise ValueError(f"{checkpoint_path} belongs to study {saved['study']}, not {self._study.study_name}")
        running = {
            trial.number: trial for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        }
        self._open = {
            trial_id: Trial(self._study, running[number]._trial_id)
            for trial_id, number in saved["open"].items()
            if number in running
        }
        kept = {trial.number for trial in self._open.values()}
        for number in running.keys() - kept:
            self._study.tell(number, state=TrialState.FAIL)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the study and everything that lives in this process out of Ray's pickle."""
        left_out = ("_study", "_on_proposal", "_should_stop", "_open", "_params")
        return {**self.__dict__, **dict.fromkeys(left_out)}

    def _tell_record(self, trial: Trial, record: TrialRecord) -> None:
        for name, excess in record.constraints.items():
            trial.set_constraint(name, excess)
        if record.outcome == "done" and record.measurement is not None:
            measurement = record.measurement
            values = [measurement.robust_accuracy.value, measurement.latency.latency_ms.value]
            self._tell(trial, TrialState.COMPLETE, "", values)
        elif record.outcome == "failed":
            self._tell(trial, TrialState.FAIL, record.reason)
        else:
            self._tell(trial, TrialState.PRUNED, record.reason)

    def _tell(self, trial: Trial, state: TrialState, reason: str, values: list[float] | None = None) -> None:
        if reason:
            trial.set_user_attr("reason", reason)
        self._study.tell(trial, values, state=state)
