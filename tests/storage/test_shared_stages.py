"""Stages on shared storage: what one machine made, the other reads; two at once make it once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from eed_search.core.errors import StorageError
from eed_search.search.outcome import failure_of
from eed_search.storage.shared_stages import SharedStages
from eed_search.storage.shared_storage import Storage
from eed_search.storage.store import Artifact, Store
from tests.storage.links import point
from tests.waiting import HANGS_S

SETTINGS = {"epochs": 3}


def make(seed: int) -> Artifact:
    return Artifact({"weight": np.full(3, seed % 97, np.float32)}, {"accuracy": 0.5})


def never(seed: int) -> Artifact:
    raise AssertionError("must be fetched, not computed")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(f"file://{tmp_path}/shared")


def machine(tmp_path: Path, name: str, storage: Storage, **options: bool) -> Store:
    return Store(tmp_path / name, shared=SharedStages(storage), **options)


def test_another_machine_fetches_what_one_made(tmp_path: Path, storage: Storage) -> None:
    made = machine(tmp_path, "one", storage).get("member.1", SETTINGS, make)
    found = machine(tmp_path, "two", storage).get("member.1", SETTINGS, never)

    np.testing.assert_array_equal(found.artifact.tensors["weight"], made.artifact.tensors["weight"])
    assert (found.key, found.artifact.meta) == (made.key, made.artifact.meta)


def test_a_record_s_artifact_is_fetched_by_its_name(tmp_path: Path, storage: Storage) -> None:
    made = machine(tmp_path, "one", storage).get("member.1", SETTINGS, make)
    two = machine(tmp_path, "two", storage)

    assert two.has("member.1", made.key)
    assert two.load(f"member.1/{made.key}").seconds == pytest.approx(made.seconds, abs=1e-3)


def test_what_is_not_worth_keeping_is_not_shared(tmp_path: Path, storage: Storage) -> None:
    made = machine(tmp_path, "one", storage).get("latency.1", SETTINGS, make, keep=lambda artifact: False)

    assert not machine(tmp_path, "two", storage).has("latency.1", made.key)


def test_an_artifact_without_its_manifest_does_not_count(tmp_path: Path, storage: Storage) -> None:
    made = machine(tmp_path, "one", storage).get("member.1", SETTINGS, make)
    storage.delete(f"stages/member.1/{made.key}/manifest.json")

    assert not machine(tmp_path, "two", storage).has("member.1", made.key)


def test_an_altered_shared_file_is_computed_again_and_mended(tmp_path: Path, storage: Storage) -> None:
    made = machine(tmp_path, "one", storage).get("member.1", SETTINGS, make)
    storage.write(f"stages/member.1/{made.key}/tensors.safetensors", b"altered")

    again = machine(tmp_path, "two", storage).get("member.1", SETTINGS, make)
    third = machine(tmp_path, "three", storage).get("member.1", SETTINGS, never)

    np.testing.assert_array_equal(again.artifact.tensors["weight"], made.artifact.tensors["weight"])
    np.testing.assert_array_equal(third.artifact.tensors["weight"], made.artifact.tensors["weight"])


def test_two_machines_at_once_compute_it_once(tmp_path: Path, storage: Storage) -> None:
    computed: list[int] = []

    def slowly(seed: int) -> Artifact:
        computed.append(seed)
        time.sleep(0.3)
        return make(seed)

    stores = [machine(tmp_path, name, storage) for name in ("one", "two")]
    threads = [threading.Thread(target=store.get, args=("member.1", SETTINGS, slowly)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS_S)

    assert len(computed) == 1
    assert sorted(use.hit for store in stores for use in store.uses) == [False, True]
    assert storage.names(f"leases/member.1/{stores[0].key('member.1', SETTINGS)}") == []


def test_a_store_for_reading_only_fetches_nothing(tmp_path: Path, storage: Storage) -> None:
    made = machine(tmp_path, "one", storage).get("member.1", SETTINGS, make)

    assert not machine(tmp_path, "two", storage, read_only=True).has("member.1", made.key)
    assert not (tmp_path / "two").exists()


def test_storage_that_comes_back_was_waited_for(tmp_path: Path, storage: Storage) -> None:
    """It is away when the artifact is to be copied, and there again after the first pause."""
    shared, there, file = (tmp_path / name for name in ("shared", "there", "file"))
    there.mkdir(), file.write_text("not a folder"), point(shared, there)
    pauses: list[float] = []

    def away(seed: int) -> Artifact:
        point(shared, file)
        return make(seed)

    def back(pause_s: float) -> None:
        pauses.append(pause_s)
        point(shared, there)

    Store(tmp_path / "one", shared=SharedStages(storage, sleep=back)).get("member.1", SETTINGS, away)
    assert pauses == [1.0]
    machine(tmp_path, "two", storage).get("member.1", SETTINGS, never)


def test_storage_that_stays_away_is_the_infrastructure_s_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    shared = SharedStages(Storage(f"file://{tmp_path}/file/below"), patience_s=0)

    with pytest.raises(StorageError, match="cannot be") as caught:
        Store(tmp_path / "one", shared=shared).get("member.1", SETTINGS, make)
    assert failure_of(caught.value)[0] == "infrastructure"
