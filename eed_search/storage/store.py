"""The store: finished stages by content, and atomic files for everything else.

A stage is a pure function of its settings, its upstream artifacts and a seed derived from both.
Its key is the hash of those, so a trial that needs what an earlier one made, in this search or
another in the same home, reads it. Two processes that need the same stage at once: one computes,
the other waits (a file lock, which the system releases when its holder dies). With shared storage the
same holds for machines: the folder is then this machine's copy of it, and leases are the locks.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eed_search.core.errors import StoreError
from eed_search.core.seeds import canonical_json, digest, seed_of
from eed_search.system.modes import file_mode, make_common_folder, make_folder, umask

if TYPE_CHECKING:
    from filelock import FileLock

    from eed_search.storage.shared_stages import SharedStages

_WAIT_S = 10.0  # between two words about waiting for another process
_TENSORS, _META, _MANIFEST = "tensors.safetensors", "meta.json", "manifest.json"


@dataclass(frozen=True)
class StageUse:
    """One stage that a trial needed: computed, or found in the store.

    Attributes:
        stage: Its name with its version.
        key: Hash of its settings.
        hit: Whether it was found.
        seconds: That it took: to compute, or to read.
        altered: Which file of it in the store had been altered, in one line; else empty.
    """

    stage: str
    key: str
    hit: bool
    seconds: float
    altered: str = ""


def write_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file so that a reader sees all of it or the previous one, even after a crash.

    Args:
        path: The file.
        data: What it will hold.
        private: For us alone (`system.modes`), unless it is there already, with modes of its own; else all may read it
            that the umask lets.

    Raises:
        StoreError: If the folder cannot be written to or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, _mode(path, private))
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); free the disk or choose another --home"
        ) from error


def _mode(path: Path, private: bool) -> int:
    if not private:
        return 0o644 & ~umask()
    return path.stat().st_mode & 0o777 if path.exists() else file_mode(path.parent)


def sync(path: Path) -> None:
    """Bring a file, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Artifact:
    """What a stage makes: arrays by name, and a small table of facts (JSON)."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """An artifact with the key it lies under and the seconds its computation took (once)."""

    key: str
    artifact: Artifact
    seconds: float


class Store:
    """Finished stages under one folder, shared by all searches of a home, and by other machines through `shared`.

    Args:
        root: The folder; made if absent.
        on_stage: Called with the stage's name when a stage starts to compute.
        on_wait: Called with it every few seconds while another process computes the very artifact.
        on_altered: Called with one line for each artifact that is altered or gone and has to be made again, and for each `remark`.
        read_only: Change nothing below the folder: nothing is computed or locked, and an altered artifact
            stays where it is.
        shared: The same stages on shared storage: what is not in the folder is fetched, what is computed is copied.

    Attributes:
        shared: As given.
        read_only: As given.
        uses: Every stage asked for through this object, in order: the hit counts come from here.
        remade: The lines of `on_altered`, in order.
        notes: What was noted of how artifacts that were read or made came about; each once.
    """

    def __init__(
        self,
        root: Path,
        on_stage: Callable[[str], None] | None = None,
        *,
        on_wait: Callable[[str], None] | None = None,
        on_altered: Callable[[str], None] | None = None,
        read_only: bool = False,
        shared: SharedStages | None = None,
    ) -> None:
        self.root = root
        self.shared, self.read_only = shared, read_only
        self._on_wait = on_wait or (lambda stage: None)
        self.uses: list[StageUse] = []
        self.remade: list[str] = []
        self.notes: list[str] = []
        self._on_altered = on_altered or (lambda line: None)
        self._altered: dict[str, str] = {}  # lines by key, until the stage is made again
        self._on_stage = on_stage or (lambda stage: None)
        if read_only:
            return
        try:
            if not root.is_dir():
                if not root.parent.exists():
                    make_folder(root.parent)
                make_common_folder(root)
        except OSError as error:
            raise StoreError(f"{root}: cannot be made ({error.strerror}); choose another --home") from error

    def get(
        self,
        stage: str,
        settings: Mapping[str, Any],
        compute: Callable[[int], Artifact],
        keep: Callable[[Artifact], bool] = lambda artifact: True,
        before_s: Callable[[], float] = lambda: 0.0,
    ) -> Stored:
        """Read the stage's artifact, or compute and keep it.

        Args:
            stage: Its name with a version, such as `member.1`; raise the version when the code's
                result changes.
            settings: Everything the result depends on, upstream keys and the search's seed
                included; JSON-ready.
            compute: Makes the artifact from the stage's own seed.
            keep: Whether the artifact is worth keeping; a noisy measurement is not.
            before_s: Seconds of work that earlier attempts did, and the computation went on from.

        Returns:
            The artifact under its key.

        Raises:
            StoreError: If the folder cannot be written.
        """
        from filelock import FileLock

        key = self.key(stage, settings)
        start = time.perf_counter()
        folder = self._folder(stage, key)
        if (found := self._read(folder, key)) is None:
            if self.read_only:
                raise StoreError(f"{folder}: is not there, and the store is open for reading only")
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(f"{folder}.lock")
                self._acquire(lock, stage)
            except OSError as error:
                raise StoreError(f"{folder}: cannot be written ({error.strerror}); choose another --home") from error
            try:
                with ExitStack() as stack:
                    found = self._read(folder, key) or self._fetch(stage, key)
                    if found is None and self.shared is not None:
                        stack.enter_context(self.shared.computing(stage, key, lambda: self._on_wait(stage)))
                        found = self._fetch(stage, key)  # whoever held the lease before may have made it
                    if found is None:
                        self._on_stage(stage)
                        begin = time.perf_counter()
                        artifact = compute(seed_of(key))
                        stored = Stored(key, artifact, before_s() + time.perf_counter() - begin)
                        if keep(artifact):
                            self._write(folder, stage, stored, settings)
                            if self.shared is not None:
                                self.shared.push(stage, key, folder)
                        self._used(stage, key, False, stored.seconds)
                        return stored
            finally:
                lock.release()
        self._used(stage, key, True, time.perf_counter() - start)
        return found

    def _used(self, stage: str, key: str, hit: bool, seconds: float) -> None:
        self.uses.append(StageUse(stage, key, hit, seconds, self._altered.pop(key, "")))

    def _acquire(self, lock: FileLock, stage: str) -> None:
        """Wait for whoever computes the stage, and say so from time to time; the system frees a dead holder's lock."""
        from filelock import Timeout

        while True:
            try:
                lock.acquire(timeout=_WAIT_S)
            except Timeout:
                self._on_wait(stage)
            else:
                return

    def key(self, stage: str, settings: Mapping[str, Any]) -> str:
        """Name the artifact of these settings."""
        return digest({"stage": stage, "settings": json.loads(canonical_json(dict(settings)))})

    def has(self, stage: str, key: str) -> bool:
        """Whether a sound artifact lies under a key, here or on shared storage."""
        return (self._read(self._folder(stage, key), key) or self._fetch(stage, key)) is not None

    def load(self, reference: str) -> Stored:
        """Read an artifact by its `stage/key`, as records name it.

        Raises:
            StoreError: If it is not there, or its files were altered.
        """
        stage, _, key = reference.partition("/")
        found = self._read(self._folder(stage, key), key) or self._fetch(stage, key)
        if found is None:
            raise StoreError(
                f"{self.root}: no sound artifact {reference}; it was deleted or altered. Launch the search's file again: finished stages are reused"
            )
        return found

    def find(self, reference: str) -> Stored | None:
        """Read an artifact that a record names; none, and a line to `on_altered`, if it is altered or gone."""
        stage, _, key = reference.partition("/")
        found = self._read(self._folder(stage, key), key) or self._fetch(stage, key)
        if found is None and key not in self._altered:
            self._say(f"{self.root.name}/{reference} was gone; made again")
        return found

    def remark(self, key: str, line: str) -> None:
        """Say what befell an artifact while it was made; its stage's use holds it too."""
        self._altered[key] = f"{before}; {line}" if (before := self._altered.get(key)) else line
        self._say(line)

    def note(self, line: str) -> None:
        """Remember what whoever uses an artifact should know of it."""
        if line not in self.notes:
            self.notes.append(line)

    def _say(self, line: str) -> None:
        self.remade.append(line)
        self._on_altered(line)

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def _read(self, folder: Path, key: str) -> Stored | None:
        if not folder.is_dir():
            return None
        from safetensors.numpy import load_file

        file, problem = _MANIFEST, "cannot be read"  # the file being looked at
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            sound = manifest["key"] == key
            for name, written in manifest["sha256"].items() if sound else ():
                file = name
                if sha256_of(folder / name) != written:
                    sound, problem = False, "has another hash than its manifest says"
                    break
            if sound:
                meta = json.loads((folder / _META).read_text(encoding="utf-8"))
                return Stored(key, Artifact(load_file(folder / _TENSORS), meta), float(manifest["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a manifest may hold any JSON
            pass
        if not self.read_only:
            self._quarantine(folder, f"{(folder / file).relative_to(self.root.parent)} {problem}")
        return None

    def _fetch(self, stage: str, key: str) -> Stored | None:
        """Bring an artifact from shared storage into the folder; none if it is not there or was altered."""
        if self.shared is None or self.read_only:
            return None
        folder = self._folder(stage, key)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
                made = Path(name) / "artifact"
                made.mkdir()
                if not self.shared.pull(stage, key, made):
                    return None
                if not folder.exists():
                    made.rename(folder)
        except OSError as error:
            raise StoreError(
                f"{folder}: cannot be written ({error.strerror}); free the disk or choose another --home"
            ) from error
        return self._read(folder, key)

    def _quarantine(self, folder: Path, problem: str) -> None:
        """Set an altered artifact aside, and say by what it was found; it is never deleted."""
        for number in range(1, 1000):
            aside = folder.with_name(f"{folder.name}.altered-{number}")
            if not aside.exists():
                try:
                    folder.rename(aside)
                except FileNotFoundError:
                    return  # another process was first
                line = f"{problem}: altered; set aside as {aside.name}, made again"
                self._altered[folder.name] = line
                self._say(line)
                return

    def _write(self, folder: Path, stage: str, stored: Stored, settings: Mapping[str, Any]) -> None:
        from safetensors.numpy import save

        try:
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
                made = Path(name) / "artifact"
                contiguous = {k: np.ascontiguousarray(v) for k, v in stored.artifact.tensors.items()}
                write_atomic(made / _TENSORS, save(contiguous))
                write_atomic(made / _META, json.dumps(stored.artifact.meta, indent=1, sort_keys=True).encode())
                manifest = {
                    "stage": stage,
                    "key": stored.key,
                    "seconds": round(stored.seconds, 3),
                    "settings": dict(settings),
                    "sha256": {file: sha256_of(made / file) for file in (_TENSORS, _META)},
                }
                write_atomic(made / _MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
                made.rename(folder)
                sync(folder.parent)
        except OSError as error:
            raise StoreError(
                f"{folder}: cannot be written ({error.strerror}); free the disk or choose another --home"
            ) from error
