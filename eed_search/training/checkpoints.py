"""What a long piece of work has done so far, kept in files, so that one that was cut off goes on where it was.

    unfinished/KEY/PART-000012.SHA-256.safetensors    on this machine, and on shared storage if there is one

KEY is that of the stage (settings, data, seed); the file's own header names the code. A file's name holds
the hash of its bytes, so half a file, or an altered one, is never taken: the one before it is, which is kept for
that. What is due is decided by time: at most every `EVERY_S` seconds, and at most `MOST_SHARE` of the time goes into writing.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from eed_search.core.code import code_digest
from eed_search.core.errors import StorageError, StoreError, TrialFailure
from eed_search.core.failpoints import fail_point
from eed_search.core.pace import Clock
from eed_search.storage.files import Files, LocalFiles
from eed_search.storage.store import Artifact, Store, Stored

EVERY_S = 10.0
MOST_SHARE = 0.01
_BYTES_PER_S = 100e6  # that a place is taken to write, until it has written
_GENERATIONS = 2
_FOLDER, _ENDING = "unfinished", ".safetensors"
_NAME = re.compile(r"(\w+)-([0-9]+)\.([0-9a-f]{64})\.safetensors")

State = Mapping[str, Tensor]


class Checkpoint(Protocol):
    """Where a long piece of work keeps its unfinished state."""

    def load(self) -> dict[str, Tensor] | None:
        """Give the state kept last, or none."""

    def save(self, state: State) -> None:
        """Keep a state instead of the last."""

    def at(self, state: Callable[[], State]) -> None:
        """Keep a state if one is due; called after each step, so it costs nothing where none is."""

    def part(self, name: str) -> Checkpoint:
        """Give the checkpoint of a later part of the same work; a part's state stays while the next ones run."""

    def note(self, text: str) -> None:
        """Say what whoever reads the result should know of how it was made; stays with it."""


class NoCheckpoint:
    """Keeps nothing."""

    def load(self) -> dict[str, Tensor] | None:
        """Give none."""
        return None

    def save(self, state: State) -> None:
        """Forget the state."""

    def at(self, state: Callable[[], State]) -> None:
        """Forget the state."""

    def part(self, name: str) -> Checkpoint:
        """Give itself."""
        return self

    def note(self, text: str) -> None:
        """Forget it."""


class StageCheckpoint:
    """The checkpoint of one stage of the store.

    A place that cannot be written costs the checkpoint, not the work: that is said once.

    Args:
        places: This machine's files first, then those of shared storage; none keeps nothing.
        key: Key of the stage.
        say: Told, in one line, what befell a checkpoint.
        clock: Gives seconds.
        part: Which part of the stage's work it is of; one word.
    """

    def __init__(
        self,
        places: Sequence[Files],
        key: str,
        *,
        say: Callable[[str], None],
        clock: Clock = time.monotonic,
        part: str = "main",
    ) -> None:
        self._places, self._key, self._say, self._clock, self._part = places, key, say, clock, part
        self._folder = f"{_FOLDER}/{key}"
        self._shelves = [_Shelf(files, self._folder, clock()) for files in places]
        self._born, self._before_s = clock(), 0.0
        self._parts: dict[str, StageCheckpoint] = {}
        self._notes: list[str] = []

    @property
    def notes(self) -> list[str]:
        """What was noted, all parts together."""
        return [*self._notes, *(note for part in self._parts.values() for note in part.notes)]

    def note(self, text: str) -> None:
        """Keep a note for the artifact's facts."""
        self._notes.append(text)

    @property
    def before_s(self) -> float:
        """Seconds of work, all parts together, that earlier attempts did and this one does not repeat."""
        return self._before_s + sum(part.before_s for part in self._parts.values())

    def load(self) -> dict[str, Tensor] | None:
        """Give the newest sound state of this very code, from whichever place; none where there is none.

        Raises:
            StorageError: If the shared storage cannot be reached.
        """
        self._born = self._clock()
        problems: list[str] = []
        for shelf in self._shelves:
            try:
                shelf.look(self._part)
            except StorageError:
                raise
            except StoreError as error:
                problems.append(str(error))
        found = [(number, shelf, name) for shelf in self._shelves for name, number in shelf.others.items()]
        for _, shelf, name in sorted(found, key=lambda one: -one[0]):  # nearest of equals first: the order stays
            try:
                facts, state = _unpacked(shelf.read(name), name)
            except (_NotTaken, StoreError) as error:
                problems.append(f"{self._folder}/{name}: {error}")
                shelf.sound = [one for one in shelf.sound if one != name]
                continue
            self._before_s = float(facts.get("seconds", 0.0))
            shelf.sound = [name]
            if problems:
                self._say(f"{'; '.join(problems)}: not taken; goes on from {name.partition('.')[0]}")
            return state
        if problems:
            self._say(f"{'; '.join(problems)}: not taken; begins anew")
        return None

    def save(self, state: State) -> None:
        """Keep a state on this machine; on shared storage if one is due there."""
        now = self._clock()
        self._keep(state, [s for i, s in enumerate(self._shelves) if i == 0 or s.is_due(_size(state), now)], now)

    def at(self, state: Callable[[], State]) -> None:
        """Keep a state wherever one is due."""
        now = self._clock()
        if not any(shelf.may_be_due(now) for shelf in self._shelves):
            return
        given = state()
        self._keep(given, [shelf for shelf in self._shelves if shelf.is_due(_size(given), now)], now)

    def part(self, name: str) -> StageCheckpoint:
        """Give the checkpoint of a later part of the work."""
        if name not in self._parts:
            self._parts[name] = StageCheckpoint(self._places, self._key, say=self._say, clock=self._clock, part=name)
        return self._parts[name]

    def clear(self) -> None:
        """Forget all parts: the stage is made, or never will be."""
        for i, files in enumerate(self._places):
            if i == 0 or self._is_on(i):  # a look at shared storage takes time
                with suppress(StoreError):  # what stays there is in nobody's way
                    files.delete_folder(self._folder)
                    files.delete(f"{self._folder}{_ENDING}")  # where earlier versions kept it
        self._shelves = [_Shelf(files, self._folder, self._clock()) for files in self._places]
        self._parts = {}

    def _is_on(self, place: int) -> bool:
        return self._shelves[place].touched or any(part._is_on(place) for part in self._parts.values())

    def _keep(self, state: State, shelves: Sequence[_Shelf], began: float) -> None:
        if not shelves:
            return
        for shelf in self._shelves:
            if not shelf.looked:
                with suppress(StoreError):  # that is said where it is written
                    shelf.look(self._part)
        facts = {"code": code_digest(), "seconds": f"{self._before_s + began - self._born:.3f}"}
        data = _packed(state, facts)
        number = 1 + max((shelf.newest for shelf in self._shelves), default=0)
        name = f"{self._part}-{number:06}.{hashlib.sha256(data).hexdigest()}{_ENDING}"
        made_s = self._clock() - began
        for shelf in shelves:
            begin = self._clock()
            try:
                shelf.keep(name, number, data)
            except (StoreError, OSError) as error:
                if not shelf.said:
                    shelf.said = True
                    self._say(
                        f"no checkpoint is kept for now: {error}. The work itself goes on; cut off, it would repeat more"
                    )
            now = self._clock()
            shelf.paid(made_s + now - begin, now)


def checkpoint_of(store: Store, key: str) -> StageCheckpoint:
    """Give the checkpoint of a stage: in the store, and on the shared storage beside its stages."""
    places: list[Files] = [] if store.read_only else [LocalFiles(store.root)]
    if places and store.shared is not None:
        places.append(store.shared.files)
    return StageCheckpoint(places, key, say=lambda line: store.remark(key, line))


def kept_while_computed(
    store: Store, stage: str, settings: Mapping[str, Any], compute: Callable[[int, Checkpoint], Artifact]
) -> Stored:
    """Read a stage that takes long, or compute it from where an earlier attempt was cut off; then no checkpoint stays.

    Args:
        store: Where the stage lies.
        stage: Its name with a version.
        settings: Everything that the result depends on.
        compute: Makes the artifact from the stage's own seed and its checkpoint.
    """
    unfinished = checkpoint_of(store, store.key(stage, settings))

    def go_on(seed: int) -> Artifact:
        try:
            made = compute(seed, unfinished)
            return replace(made, meta=made.meta | {"notes": unfinished.notes}) if unfinished.notes else made
        except TrialFailure:  # another attempt would fail alike
            unfinished.clear()
            raise

    stored = store.get(stage, settings, go_on, before_s=lambda: unfinished.before_s)
    unfinished.clear()
    return stored


@dataclass
class _Shelf:
    """The checkpoints of one part in one place.

    Attributes:
        files: The place.
        folder: The stage's.
        since: When nothing had been written yet.
        looked: Whether it is known what is there.
        touched: Whether there is something of the stage.
        newest: Number of the newest file, sound or not.
        sound: Files that may be gone on from, the oldest first.
        others: All files of the part with their numbers.
        said: Whether it was said that the place cannot be written.
        due_at: The moment from which the next one is due; none before the first was written.
    """

    files: Files
    folder: str
    since: float
    looked: bool = False
    touched: bool = False
    newest: int = 0
    sound: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    said: bool = False
    due_at: float | None = None

    def may_be_due(self, now: float) -> bool:
        """Whether one is due, by all that is known without the state."""
        return now >= (self.since + EVERY_S if self.due_at is None else self.due_at)

    def is_due(self, num_bytes: int, now: float) -> bool:
        """Whether one of that size is due; the first is put off by how long it is likely to take."""
        if self.due_at is None:
            self.due_at = self.since + max(EVERY_S, num_bytes / _BYTES_PER_S / MOST_SHARE)
        return self.may_be_due(now)

    def look(self, part: str) -> None:
        """List what is there of a part."""
        names = self.files.names(self.folder)
        self.looked, self.touched = True, self.touched or bool(names)
        found = (_NAME.fullmatch(name) for name in names)
        self.others = {match[0]: int(match[2]) for match in found if match and match[1] == part}
        self.newest = max(self.others.values(), default=self.newest)
        self.sound = sorted(self.others, key=self.others.__getitem__)[-1:]  # until it is read

    def read(self, name: str) -> bytes:
        """Give a file's bytes."""
        if (data := self.files.read(f"{self.folder}/{name}")) is None:
            raise _NotTaken("is gone")
        return data

    def keep(self, name: str, number: int, data: bytes) -> None:
        """Write a file; the oldest give way."""
        fail_point("checkpoint.write")
        self.files.write(f"{self.folder}/{name}", data)
        self.touched, self.newest = True, number
        self.sound = [*self.sound, name][-_GENERATIONS:]
        for old in sorted(self.others.keys() - set(self.sound)):
            with suppress(StoreError):  # in nobody's way
                self.files.delete(f"{self.folder}/{old}")
        self.others = dict.fromkeys(self.sound, number)

    def paid(self, cost_s: float, now: float) -> None:
        """Set when the next one is due, by what this one cost."""
        self.due_at = now + max(EVERY_S, cost_s / MOST_SHARE)


class _NotTaken(Exception):
    """A file that nobody may go on from."""


def _size(state: State) -> int:
    return sum(tensor.nbytes for tensor in state.values())


def _packed(state: State, facts: dict[str, str]) -> bytes:
    from safetensors.torch import save

    return bytes(save({name: tensor.contiguous() for name, tensor in state.items()}, metadata=facts))


def _unpacked(data: bytes, name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a file's facts and state.

    Raises:
        _NotTaken: If its bytes are not those that its name says, or other code wrote it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    match = _NAME.fullmatch(name)
    if match is None or hashlib.sha256(data).hexdigest() != match[3]:
        raise _NotTaken("has another hash than its name says")
    try:
        state = load(data)
        facts: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    except (SafetensorError, ValueError, KeyError) as error:
        raise _NotTaken(f"cannot be read ({error})") from error
    if facts.get("code") != code_digest():
        raise _NotTaken("was written by another version of eed-search or torch")
    return facts, state
