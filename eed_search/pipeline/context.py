"""What every stage needs besides its own settings: a search's file, data, device and store."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eed_search.compression.member import Member, fresh, from_arrays
from eed_search.config import plugins
from eed_search.config.names import digest_of
from eed_search.config.sent_plugins import bring
from eed_search.config.spec import Data, Spec
from eed_search.data.splits import Splits, load_splits
from eed_search.models import build_for
from eed_search.storage.shared_stages import SharedStages
from eed_search.storage.shared_storage import Storage
from eed_search.storage.store import Store, Stored
from eed_search.system.cores import usable_cores

Report = Callable[[str], None]


class StageContext:
    """One search's data, device and store.

    Args:
        spec: The search-space file.
        store: Where finished stages lie.
        report: Told which stage is being computed, and how far it is.
    """

    def __init__(self, spec: Spec, store: Store, report: Report) -> None:
        self.spec, self.store, self.report = spec, store, report
        plugins.load(spec.plugins)  # the user's own code: every worker imports it
        self.device = choose_device(spec.resources.gpus)
        self.data: Splits = _splits(spec.data, spec.seed)

    def read_members(self, stored: Stored) -> list[Member]:
        """Read the networks of any artifact that holds some: a base, a baseline, a member, a team."""
        tensors = {name: torch.from_numpy(array) for name, array in stored.artifact.tensors.items()}
        count = int(stored.artifact.meta.get("num_members", 0))
        graph = self.untrained(0)
        if not count:
            return [from_arrays(graph, tensors)]
        return [from_arrays(graph, tensors, f"member{i}/") for i in range(1, count + 1)]

    def architecture(self, size: float) -> nn.Module:
        """A channel member's network at a size, untrained: enough for latency, size and MACs."""
        spec = self.spec
        if spec.members.granularity == "unstructured":
            return self.untrained(0)
        return fresh(self.untrained(0), self.data.image_shape, size, spec.members.block, 0)

    @property
    def model(self) -> dict[str, Any]:
        """What a key holds of the base's architecture."""
        return self.spec.model.model_dump() | digest_of("model", self.spec.model.name)

    def untrained(self, seed: int) -> nn.Module:
        """Build the base's architecture with fresh weights."""
        return build_for(self.spec.model, self.data, seed)


def choose_device(gpu: float) -> torch.device:
    """Name the device that a trial trains on: a GPU where the file asks for one and there is one, else the CPU."""
    return torch.device("cuda" if gpu > 0 and torch.cuda.is_available() else "cpu")


def open_context(spec: Spec, store_root: Path | str, report: Report, *, whole_machine: bool = False) -> StageContext:
    """Open a search's store and data, and take as many threads as the trial has cores.

    Args:
        spec: The search-space file.
        store_root: Folder of the stage store.
        report: Told which stage is being computed, and how far it is.
        whole_machine: Take every core: nothing else runs.
    """
    # said each time: a worker that prepared the search with every core runs trials afterwards
    torch.set_num_threads(usable_cores() if whole_machine else trial_threads(spec))
    store = Store(
        Path(store_root),
        on_stage=lambda stage: report(stage.partition(".")[0]),
        on_wait=lambda stage: report(f"waits for another worker's {stage.partition('.')[0]}"),
        on_altered=report,
        shared=SharedStages(Storage(spec.storage.url)) if spec.storage.url else None,
    )
    bring(spec.plugins, spec.storage.url)
    return StageContext(spec, store, report)


def trial_threads(spec: Spec) -> int:
    """Count the threads of a trial: the cores that the file gives it, as far as there are so many."""
    return min(usable_cores(), max(1, int(spec.resources.cpu)))


@lru_cache(maxsize=2)
def _splits(data: Data, seed: int) -> Splits:
    """Read the data once a process, workers run many trials; the images for claims stay out of a search's reach."""
    return load_splits(data, seed, test=False)
