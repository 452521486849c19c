"""How a lost trial's error comes from Tune to the driver: in memory, never through a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import RayActorError
from ray.train._internal import storage as storage_module
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial
from ray.tune.result_grid import ResultGrid

from eed_search.search.execution.tune_callback import Errors, kept_in_memory


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A trial of Tune's with folders of its own, as in a session."""
    monkeypatch.setattr(storage_module, "_get_ray_train_session_dir", lambda: str(tmp_path / "session"))
    storage = StorageContext(storage_path=str(tmp_path), experiment_dir_name="ray", trial_dir_name="trial-00001")
    made = Trial("t", stub=True, storage=storage)
    Path(made.local_path).mkdir(parents=True, exist_ok=True)
    Path(storage.trial_fs_path).mkdir(parents=True, exist_ok=True)
    return made


def test_an_error_comes_as_the_object_that_ray_gave(trial: Trial) -> None:
    """And leaves its text, no pickle."""
    errors: Errors = {}
    error = RayActorError(error_msg="its process is gone")
    with kept_in_memory(errors):
        trial.handle_error(error)
    assert errors == {trial.trial_id: error}
    assert [path.name for path in Path(trial.local_path).iterdir()] == ["error.txt"]
    assert "its process is gone" in Path(trial.error_file).read_text()


def test_a_pickle_that_lies_there_is_not_loaded(trial: Trial) -> None:
    """Tune reads what its trials left, at the end of a search."""
    errors: Errors = {}
    with kept_in_memory(errors):
        trial.handle_error(RayActorError(error_msg="gone"))
        for folder in (trial.local_path, trial.storage.trial_fs_path):
            (Path(folder) / "error.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        Path(trial.storage.trial_fs_path, "error.txt").write_text("as text")
        assert ResultGrid._populate_exception(trial) == "as text"


def test_tune_is_as_it_was_afterwards() -> None:
    """For whoever uses it beside us."""
    before = Trial.handle_error
    with kept_in_memory({}):
        assert Trial.handle_error is not before
    assert Trial.handle_error is before
