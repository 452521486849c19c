"""What the machine does wrong is no trial's end: whichever phase it hits, a resume comes to the undisturbed result."""

from __future__ import annotations

import errno
import os
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import compare
from eed_search.config.spec import Baselines, Search, Spec, Threat
from eed_search.core.errors import MachineFault, StorageError
from eed_search.runs.ledger import read_run
from eed_search.search import LocalWorkers, Silent
from eed_search.search.driver import run
from eed_search.search.resume import resume
from tests.search import stub_pipeline

pytestmark = [  # MLflow and what it brings leave connections to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Faulty:
    """The stub, whose nth call of one function meets an error of the machine."""

    def __init__(self, what: str, nth: int, error: Exception) -> None:
        self._what, self._left, self._error = what, nth, error

    def __getattr__(self, name: str) -> Any:
        function = getattr(stub_pipeline, name)

        @wraps(function)
        def called(*arguments: Any, **keywords: Any) -> Any:
            if name == self._what:
                self._left -= 1
                if self._left == 0:
                    raise self._error
            return function(*arguments, **keywords)

        return called


def search(home: Path, pipeline: Any) -> None:
    """Run a small search whose finals confirm a swept threshold."""
    spec = Spec(
        name="s",
        threat=Threat(eps=0.15),
        search=Search(trials=5, startup_trials=3, first=({"num_members": 2},)),
        baselines=Baselines(sizes=(0.5,)),
    )
    run(spec, home=home, name="run", pipeline=pipeline, listener=Silent(), workers=LocalWorkers())


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the undisturbed search."""
    home = tmp_path_factory.mktemp("calm")
    search(home, stub_pipeline)
    return home


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/x")


@pytest.mark.parametrize(
    ("what", "nth", "error"),
    [
        pytest.param("read_data", 1, FULL, marks=pytest.mark.slow),
        pytest.param("prepare", 1, FULL, marks=pytest.mark.slow),
        pytest.param("baseline", 1, FULL, marks=pytest.mark.whole),
        pytest.param("run", 1, FULL, marks=pytest.mark.slow),
        pytest.param("run", 4, FULL, marks=pytest.mark.whole),
        pytest.param("run", 6, StorageError("storage s3://bucket: x cannot be read (away)"), marks=pytest.mark.whole),
        pytest.param("run", 3, OSError(errno.EROFS, os.strerror(errno.EROFS)), marks=pytest.mark.slow),
        pytest.param("final_latencies", 1, FULL, marks=pytest.mark.whole),
        pytest.param("confirm", 1, FULL, marks=pytest.mark.slow),
        pytest.param("recheck", 2, FULL, marks=pytest.mark.slow),
    ],
)
def test_a_fault_of_the_machine_is_nobodys_end(
    calm: Path, tmp_path: Path, what: str, nth: int, error: Exception
) -> None:
    """One clear error; nothing is written down that a resume would not take back."""
    with pytest.raises(MachineFault) as caught:
        search(tmp_path, Faulty(what, nth, error))
    text = str(caught.value)
    assert text.startswith("run run: ")
    assert (error.strerror if isinstance(error, OSError) else str(error)) in text
    assert "\n" not in text
    view = read_run(tmp_path / "run")
    assert view.state == "failed"
    assert {trial.reason for trial in view.trials.values() if trial.outcome in ("failed", "pruned")} <= {"stopped"} | {
        trial.reason for trial in read_run(calm / "run").trials.values()
    }
    pipeline: Any = stub_pipeline
    resume(tmp_path / "run", pipeline=pipeline, listener=Silent(), workers=LocalWorkers())
    assert compare(calm, tmp_path) == []
