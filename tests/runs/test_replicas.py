"""A run on shared storage: another machine takes it up; two cannot drive it; storage that is away costs nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from eed_search.config.spec import Baselines, Search, SharedStorage, Spec, Threat
from eed_search.core.errors import RunError, StoreError
from eed_search.runs.home import SPACE_FILE
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView, read_run
from eed_search.runs.replicas import Copier, Copies, copied
from eed_search.runs.run_folder import claim
from eed_search.search import LocalWorkers, Silent
from eed_search.search.driver import run
from eed_search.search.resume import resume
from eed_search.storage.shared_storage import Storage
from tests.search import stub_pipeline
from tests.storage.links import point
from tests.waiting import until

NUM_TRIALS = 3


def spec_with(storage: Storage) -> Spec:
    return Spec(
        name="s",
        threat=Threat(eps=0.15),
        search=Search(trials=NUM_TRIALS, startup_trials=3, first=({"num_members": 1},), racing=False),
        baselines=Baselines(sizes=()),
        storage=SharedStorage(url=storage.url),
    )


def search(home: Path, storage: Storage) -> RunView:
    pipeline: Any = stub_pipeline
    return run(spec_with(storage), home=home, name="s", pipeline=pipeline, listener=Silent(), workers=LocalWorkers())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Storage that holds one finished search, whose machine is gone."""
    folder = tmp_path_factory.mktemp("shared")
    home = tmp_path_factory.mktemp("home")
    storage = Storage(f"file://{folder}/searches")
    search(home, storage)
    shutil.rmtree(home)
    return storage


@pytest.fixture
def storage(shared: Storage, tmp_path: Path) -> Storage:
    """A copy of it that a test may change."""
    shutil.copytree(shared.url.removeprefix("file://"), tmp_path / "searches")
    return Storage(f"file://{tmp_path}/searches")


@pytest.mark.whole
def test_a_finished_search_is_fetched_whole(storage: Storage, tmp_path: Path) -> None:
    folder = Copies(storage, "s").fetch(tmp_path / "home")

    view = read_run(folder)
    assert (view.state, len(view.trials)) == ("finished", NUM_TRIALS)
    assert (folder / SPACE_FILE).is_file()
    assert storage.names("runs/s/files/report")


@pytest.mark.whole
def test_another_machine_goes_on_with_it(storage: Storage, tmp_path: Path) -> None:
    folder = Copies(storage, "s").fetch(tmp_path / "home")
    before = read_run(folder).trials

    pipeline: Any = stub_pipeline
    view = resume(
        folder,
        pipeline=pipeline,
        listener=Silent(),
        workers=LocalWorkers(),
        trials=NUM_TRIALS + 2,
        allow_drift=True,
    )
    assert len(view.trials) == NUM_TRIALS + 2
    assert {number: view.trials[number] for number in before} == before


def test_what_it_adds_is_copied_too(storage: Storage, tmp_path: Path) -> None:
    folder = Copies(storage, "s").fetch(tmp_path / "home")
    spec = spec_with(storage)
    with copied(spec, folder, every_s=0.05), Ledger(folder / FILE_NAME, write=True) as ledger:
        news = ledger.append("note", {"text": "news"})
        until(lambda: Copies(storage, "s").last_event() == news)

    assert "news" in read_run(Copies(storage, "s").fetch(tmp_path / "other")).notes


def test_two_generations_are_kept_and_the_older_one_serves(storage: Storage, tmp_path: Path) -> None:
    copies = Copies(storage, "s")
    folder = copies.fetch(tmp_path / "home")
    for text in ("one", "two"):
        with Ledger(folder / FILE_NAME, write=True) as ledger:
            ledger.append("note", {"text": text})
        copies.save(folder)
    ledgers = [name for name in storage.names("runs/s") if name.startswith("ledger")]
    storage.write(f"runs/s/{ledgers[-1]}", b"altered")

    notes = read_run(copies.fetch(tmp_path / "other")).notes
    assert len(ledgers) == 2
    assert "one" in notes
    assert "two" not in notes


def test_a_newer_ledger_at_home_stays(storage: Storage, tmp_path: Path) -> None:
    folder = Copies(storage, "s").fetch(tmp_path / "home")
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("note", {"text": "newer"})
    Copies(storage, "s").fetch(tmp_path / "home")

    assert "newer" in read_run(folder).notes


def test_two_machines_cannot_drive_one_run(storage: Storage, tmp_path: Path) -> None:
    folder = Copies(storage, "s").fetch(tmp_path / "home")

    with (
        Copies(storage, "s").driving(),
        pytest.raises(RunError, match=r"run s: another machine drives it \(.*process \d+\)"),
        copied(spec_with(storage), folder),
    ):
        pass


def test_a_driver_that_was_taken_for_dead_ends_and_copies_nothing(storage: Storage, tmp_path: Path) -> None:
    folder = Copies(storage, "s").fetch(tmp_path / "home")
    latest = storage.read("runs/s/latest.json")
    with Copies(storage, "s").driving(beat_s=0.05) as lease:
        storage.delete(f"runs/s/driver/{storage.names('runs/s/driver')[0]}")
        copier = Copier(Copies(storage, "s"), folder, lease)
        until(lambda: copier.lost)
        assert "another machine's" in copier.save(folder / "report")
    assert storage.read("runs/s/latest.json") == latest


def test_a_name_that_the_storage_knows_is_refused(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--name s: .* holds a run of that name; go on with it by `eed-search resume s"):
        search(tmp_path / "home", storage)


def test_without_a_name_the_next_number_is_free_in_both_places(storage: Storage, tmp_path: Path) -> None:
    storage.write("runs/s-1/latest.json", b"[]")

    assert claim(tmp_path / "home", spec_with(storage), None).name == "s-2"


def test_storage_that_cannot_be_written_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(StoreError, match="cannot be written"):
        search(tmp_path / "home", Storage(f"file://{tmp_path}/file/below"))
    assert not (tmp_path / "home").exists()


def test_storage_that_goes_away_is_noted_and_the_search_goes_on(storage: Storage, tmp_path: Path) -> None:
    folder = Copies(storage, "s").fetch(tmp_path / "home")
    searches, there, file = (tmp_path / name for name in ("searches", "there", "file"))
    searches.rename(there), file.write_text("not a folder"), point(searches, there)
    with copied(spec_with(storage), folder, every_s=0.05) as copier:
        assert copier
        point(searches, file)
        with Ledger(folder / FILE_NAME, write=True) as ledger:
            ledger.append("note", {"text": "news"})
        notes: list[str] = []
        until(lambda: notes.append(copier.take_note()) or notes[-1])
        point(searches, there)

    assert "The search goes on" in notes[-1]
    assert copier.take_note() == ""


def test_a_run_that_is_not_there_names_those_that_are(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run t: is not there; runs there: s"):
        Copies(storage, "t").fetch(tmp_path / "home")
