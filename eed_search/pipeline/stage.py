"""What a stage is: a pure function of its settings, what it is made from, and a seed, kept in the store under its key.

    base → scores → member → (own attack) → team → judgement, slowdown;  architecture → latency

The number behind a stage's name is its code's version: raise it here, and nowhere else, when the result for equal settings
changes. A stage is described before it is computed: whoever wants to know whether it is there, what it depends on, or to
make it again asks the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from eed_search.storage.store import Artifact, Store, Stored
from eed_search.training.checkpoints import Checkpoint, kept_while_computed

Made = TypeVar("Made")

VERSIONS = {
    "base": 1,
    "control": 1,
    "twin": 1,
    "scores": 1,
    "member": 1,
    "team": 1,
    "judgement": 2,
    "slowdown": 1,
    "crafted": 1,
    "transfer": 1,
    "latency": 5,
    "cascade": 5,
    "benchmark_base": 1,
    "benchmark_network": 1,
    "benchmark_inputs": 1,
    "benchmark_replay": 1,
    "benchmark_reference": 3,
    "benchmark_latency": 4,
}


_TITLES = {"base": "the dense base", "control": "a baseline", "member": "a member", "team": "the joint fine-tune"}


def versioned(name: str) -> str:
    """Give a stage's name with its version, as folders of the store and records have it, such as `base.1`."""
    return f"{name}.{VERSIONS[name]}"


def artifact_name(name: str, key: str) -> str:
    """Name an artifact as records do: `base.1/KEY`."""
    return f"{versioned(name)}/{key}"


@dataclass(frozen=True)
class Stage(Generic[Made]):
    """One stage with its settings.

    Attributes:
        name: One of `VERSIONS`.
        settings: Everything that the result depends on, keys of other stages and the search's seed included.
        compute: Makes the artifact from the stage's own seed.
        decode: Reads what was made, from the store or just now.
        trains: Makes the artifact in place of `compute` where that takes long: gets a checkpoint too, and goes on from it.
        keeps: Whether an artifact is worth keeping; a noisy measurement is not.
    """

    name: str
    settings: Mapping[str, Any]
    decode: Callable[[Stored], Made] = field(repr=False)
    compute: Callable[[int], Artifact] | None = field(default=None, repr=False)
    trains: Callable[[int, Checkpoint], Artifact] | None = field(default=None, repr=False)
    keeps: Callable[[Artifact], bool] = field(default=lambda artifact: True, repr=False)

    @property
    def versioned(self) -> str:
        """Its name with its version."""
        return versioned(self.name)

    def key(self, store: Store) -> str:
        """Give the key that it lies under."""
        return store.key(self.versioned, self.settings)

    def is_in(self, store: Store) -> bool:
        """Whether a store holds it, whole and unaltered."""
        return store.has(self.versioned, self.key(store))

    def store_in(self, store: Store) -> Stored:
        """Read its artifact from a store, or compute and keep it."""
        if self.trains is not None:
            stored = kept_while_computed(store, self.versioned, self.settings, self.trains)
            for note in stored.artifact.meta.get("notes", ()):
                store.note(f"{_TITLES.get(self.name, self.name)}: {note}")
            return stored
        assert self.compute is not None, f"{self.name}: has nothing to compute"
        return store.get(self.versioned, self.settings, self.compute, keep=self.keeps)

    def made_in(self, store: Store) -> Made:
        """Read it from a store, or compute and keep it, and decode it."""
        return self.decode(self.store_in(store))
