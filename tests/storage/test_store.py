"""The store: a stage is computed once, read back as it was, and an altered file is found."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from eed_search.core.errors import StoreError
from eed_search.core.seeds import canonical_json, digest, seed_of
from eed_search.storage.store import Artifact, Store, write_atomic
from tests.waiting import HANGS_S

SETTINGS = {"epochs": 3, "lr": 0.1, "upstream": ["a", "b"]}


def _make(seed: int) -> Artifact:
    generator = np.random.default_rng(seed)
    tensors = {
        "weight": generator.normal(size=(3, 4)).astype(np.float32),
        "turned": generator.normal(size=(4, 3)).astype(np.float32).T,  # not contiguous
        "count": np.array(7, dtype=np.int64),
    }
    return Artifact(tensors, {"accuracy": 0.5, "names": ["x", "ε"]})


def _never(seed: int) -> Artifact:
    raise AssertionError("must be read, not computed")


def _folder(store: Store) -> Path:
    (folder,) = (path for path in (store.root / "member.1").iterdir() if path.is_dir() and "altered" not in path.name)
    return folder


def test_the_same_key_reads_the_same_artifact(tmp_path: Path) -> None:
    """What was computed is read, bit for bit, by another object over the same folder."""
    made = Store(tmp_path).get("member.1", SETTINGS, _make)
    read = Store(tmp_path).get("member.1", dict(reversed(SETTINGS.items())), _never)
    assert read.key == made.key
    assert read.artifact.meta == made.artifact.meta
    assert read.artifact.tensors.keys() == made.artifact.tensors.keys()
    for name, tensor in made.artifact.tensors.items():
        assert read.artifact.tensors[name].dtype == tensor.dtype
        assert (read.artifact.tensors[name] == tensor).all()


def test_an_artifact_is_found_by_its_reference(tmp_path: Path) -> None:
    """Records name artifacts as stage/key."""
    store = Store(tmp_path)
    made = store.get("member.1", SETTINGS, _make)
    assert store.load(f"member.1/{made.key}").artifact.meta == made.artifact.meta


def test_a_reference_to_nothing_says_what_to_do(tmp_path: Path) -> None:
    """A deleted artifact is named."""
    with pytest.raises(StoreError, match=r"no sound artifact member.1/abc; it was deleted or altered. Launch"):
        Store(tmp_path).load("member.1/abc")


@pytest.mark.parametrize(
    ("stage", "settings"),
    [("member.2", SETTINGS), ("member.1", {**SETTINGS, "lr": 0.2}), ("member.1", {**SETTINGS, "more": None})],
)
def test_another_stage_or_setting_is_another_artifact(tmp_path: Path, stage: str, settings: dict[str, object]) -> None:
    """Version, value and keys all count."""
    store = Store(tmp_path)
    first = store.get("member.1", SETTINGS, _make)
    other = store.get(stage, settings, _make)
    assert other.key != first.key
    assert [use.hit for use in store.uses] == [False, False]


def test_the_seed_is_the_keys(tmp_path: Path) -> None:
    """A stage's randomness follows from what it is."""
    seeds: list[int] = []
    stored = Store(tmp_path).get("member.1", SETTINGS, lambda seed: (seeds.append(seed), _make(seed))[1])
    assert seeds == [seed_of(stored.key)]
    assert stored.key == digest({"stage": "member.1", "settings": SETTINGS})


@pytest.mark.realtime
def test_uses_count_what_was_made_and_what_was_found(tmp_path: Path) -> None:
    """Every request is written down with its seconds; finding costs no computation."""
    stages: list[str] = []
    store = Store(tmp_path, stages.append)

    def slow(seed: int) -> Artifact:
        time.sleep(0.05)
        return _make(seed)

    store.get("member.1", SETTINGS, slow)
    found = store.get("member.1", SETTINGS, _never)
    assert [(use.stage, use.hit) for use in store.uses] == [("member.1", False), ("member.1", True)]
    assert store.uses[0].seconds >= 0.05
    assert found.seconds >= 0.05  # what it took once
    assert stages == ["member.1"]


@pytest.mark.parametrize("name", ["tensors.safetensors", "meta.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "empty"])
def test_an_altered_file_is_set_aside_and_computed_again(tmp_path: Path, name: str, damage: str) -> None:
    """A flipped bit, a cut or a missing file is found; the damaged folder is kept, the result is sound."""
    notes: list[str] = []
    store = Store(tmp_path, on_altered=notes.append)
    made = store.get("member.1", SETTINGS, _make)
    file = _folder(store) / name
    data = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes({"flip": bytes(data), "truncate": bytes(data[: len(data) // 2]), "empty": b""}[damage])
    again = store.get("member.1", SETTINGS, _make)
    assert (again.artifact.tensors["weight"] == made.artifact.tensors["weight"]).all()
    assert again.artifact.meta == made.artifact.meta
    assert [use.hit for use in store.uses] in ([False, False], [False, True])
    if not store.uses[-1].hit:
        aside = tmp_path / "member.1" / f"{made.key}.altered-1"
        assert aside.is_dir()
        says = (
            "cannot be read"
            if damage == "delete" or name == "manifest.json"
            else "has another hash than its manifest says"
        )
        if (name, damage) == ("manifest.json", "flip"):  # the bit lies in the hash of another file
            name, says = "meta.json", "has another hash than its manifest says"
        where = f"{tmp_path.name}/member.1/{made.key}/{name}"
        assert notes == [f"{where} {says}: altered; set aside as {aside.name}, made again"]
        assert notes == store.remade == [store.uses[-1].altered]
    assert Store(tmp_path).get("member.1", SETTINGS, _never).key == made.key


def test_an_altered_artifact_is_not_loaded(tmp_path: Path) -> None:
    """Loading by reference refuses it, and keeps it aside."""
    store = Store(tmp_path)
    made = store.get("member.1", SETTINGS, _make)
    (_folder(store) / "meta.json").write_text("{}")
    with pytest.raises(StoreError, match=f"no sound artifact member.1/{made.key}"):
        store.load(f"member.1/{made.key}")
    assert (tmp_path / "member.1" / f"{made.key}.altered-1" / "meta.json").read_text() == "{}"


def test_a_gone_artifact_is_not_found_and_said_so(tmp_path: Path) -> None:
    """Who can make it again asks whether it is there; what was altered is said once."""
    store = Store(tmp_path)
    assert store.find("member.1/abc") is None
    made = store.get("member.1", SETTINGS, _make)
    assert store.find(f"member.1/{made.key}") is not None
    (_folder(store) / "meta.json").write_text("{}")
    assert store.find(f"member.1/{made.key}") is None
    gone, altered = store.remade
    assert gone == f"{tmp_path.name}/member.1/abc was gone; made again"
    assert altered.startswith(
        f"{tmp_path.name}/member.1/{made.key}/meta.json has another hash than its manifest says: altered"
    )


def test_the_use_that_follows_says_what_was_altered(tmp_path: Path) -> None:
    """Also where the artifact was found altered before: by its reference, not by the request that makes it again."""
    store = Store(tmp_path)
    made = store.get("member.1", SETTINGS, _make)
    (_folder(store) / "tensors.safetensors").write_bytes(b"")
    assert not store.has("member.1", made.key)
    for _ in range(2):
        store.get("member.1", SETTINGS, _make)
    assert [bool(use.altered) for use in store.uses] == [False, True, False]


@pytest.mark.parametrize("manifest", ["[]", "1", "null", '{"key": 1, "sha256": []}'])
def test_a_manifest_of_another_form_is_altered(tmp_path: Path, manifest: str) -> None:
    """Any JSON may stand there."""
    store = Store(tmp_path)
    store.get("member.1", SETTINGS, _make)
    (_folder(store) / "manifest.json").write_text(manifest)
    store.get("member.1", SETTINGS, _make)
    assert "manifest.json cannot be read: altered" in store.uses[-1].altered


def test_altered_twice_keeps_both(tmp_path: Path) -> None:
    """Nothing set aside is overwritten."""
    store = Store(tmp_path)
    for _ in range(2):
        store.get("member.1", SETTINGS, _make)
        (_folder(store) / "meta.json").write_text("{}")
    store.get("member.1", SETTINGS, _make)
    assert len(list((tmp_path / "member.1").glob("*.altered-*"))) == 2


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    """An exception passes through, and the next request computes."""
    store = Store(tmp_path)

    def fail(seed: int) -> Artifact:
        raise FloatingPointError("nan")

    with pytest.raises(FloatingPointError, match="nan"):
        store.get("member.1", SETTINGS, fail)
    assert store.uses == []
    store.get("member.1", SETTINGS, _make)
    assert [path.name for path in (tmp_path / "member.1").iterdir() if path.is_dir()] == [store.uses[0].key]


def _ask(root: Path, marks: Path, together: Barrier) -> None:
    def compute(seed: int) -> Artifact:
        (marks / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(0.2)
        return _make(seed)

    together.wait(HANGS_S)
    stored = Store(root).get("member.1", SETTINGS, compute)
    (marks.parent / f"answer-{os.getpid()}").write_bytes(stored.artifact.tensors["weight"].tobytes())


def test_processes_that_ask_at_once_compute_once(tmp_path: Path) -> None:
    """One computes, the others wait and read the same bytes."""
    marks = tmp_path / "marks"
    marks.mkdir()
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(3)
    workers = [context.Process(target=_ask, args=(tmp_path / "store", marks, together)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(HANGS_S)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(list(marks.iterdir())) == 1
    assert len({file.read_bytes() for file in tmp_path.glob("answer-*")}) == 1


def test_who_waits_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another thread computes the very artifact, the waiting one speaks up; then it reads."""
    monkeypatch.setattr("eed_search.storage.store._WAIT_S", 0.05)
    begun, go_on, waits = threading.Event(), threading.Event(), list[str]()

    def slowly(seed: int) -> Artifact:
        begun.set()
        assert go_on.wait(HANGS_S)
        return _make(seed)

    def on_wait(stage: str) -> None:
        waits.append(stage)
        go_on.set()

    first = threading.Thread(target=lambda: Store(tmp_path).get("member.1", SETTINGS, slowly))
    first.start()
    assert begun.wait(HANGS_S)
    second = Store(tmp_path, on_wait=on_wait)
    second.get("member.1", SETTINGS, _never)
    first.join()
    assert set(waits) == {"member.1"}
    assert second.uses[0].hit


def test_an_artifact_holds_no_pickle(tmp_path: Path) -> None:
    """What lies on the disk is safetensors and JSON, readable without running code."""
    store = Store(tmp_path)
    store.get("member.1", SETTINGS, _make)
    assert {file.name for file in _folder(store).iterdir()} == {"tensors.safetensors", "meta.json", "manifest.json"}
    manifest = json.loads((_folder(store) / "manifest.json").read_text())
    assert manifest["settings"] == SETTINGS


# ---------------------------------------------------------------- single files


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """The new bytes are there, the temporary file is not."""
    file = tmp_path / "deep" / "file.txt"
    write_atomic(file, b"one")
    write_atomic(file, b"two")
    assert file.read_bytes() == b"two"
    assert list(file.parent.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one clear error; the old file stays whole and nothing is left behind."""
    file = tmp_path / "file.txt"
    write_atomic(file, b"one")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreError,
        match=r"file.txt: cannot be written \(No space left on device\); free the disk or choose another --home$",
    ):
        write_atomic(file, b"two")
    assert file.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A store cannot lie below a file."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/store: cannot be made \(Not a directory\); choose another --home$"):
        Store(tmp_path / "file" / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    """No write permission is one clear error."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match=r"cannot be made \(Permission denied\)"):
            Store(tmp_path / "store")
    finally:
        tmp_path.chmod(0o700)


# ---------------------------------------------------------------- keys and seeds


def test_equal_values_have_equal_digests() -> None:
    """The order of keys does not count; values and their types do."""
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest({"a": value}) for value in (1, 2, 1.5, "1", None, [1])}) == 6


def test_nan_has_no_key() -> None:
    """A setting that is NaN would never equal itself."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"lr": float("nan")})


def test_seeds_differ_by_purpose_and_fit_63_bits() -> None:
    """Each purpose has its own stream; the same one always the same."""
    seeds = [seed_of("key", purpose) for purpose in ("", "batches", "attack")]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of("key", "attack") == seeds[2]


def test_what_is_not_worth_keeping_is_computed_again(tmp_path: Path) -> None:
    """A noisy measurement is used once and never read back."""
    store, calls = Store(tmp_path), []

    def compute(seed: int) -> Artifact:
        calls.append(seed)
        return Artifact(meta={"noisy": len(calls) < 3})

    for _ in range(4):
        found = store.get("latency.1", {}, compute, keep=lambda artifact: not artifact.meta["noisy"])
    assert len(calls) == 3
    assert found.artifact.meta == {"noisy": False}
    assert [use.hit for use in store.uses] == [False, False, False, True]


def test_a_store_open_for_reading_changes_nothing(tmp_path: Path) -> None:
    """It reads what is sound, leaves an altered artifact where it lies, makes no folder and computes nothing."""
    made = Store(tmp_path / "store").get("member.1", SETTINGS, _make)
    reader = Store(tmp_path / "store", read_only=True)
    assert reader.has("member.1", made.key)
    meta = tmp_path / "store" / "member.1" / made.key / "meta.json"
    meta.write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert not reader.has("member.1", made.key)
    with pytest.raises(StoreError, match="open for reading only"):
        reader.get("member.1", SETTINGS, _never)
    assert not Store(tmp_path / "none", read_only=True).has("member.1", made.key)
    assert sorted(tmp_path.rglob("*")) == before
