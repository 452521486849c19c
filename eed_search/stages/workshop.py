"""The workshop: all stages of one search, and how it is opened."""

from __future__ import annotations

from pathlib import Path

import torch

from eed_search.core.cores import usable_cores
from eed_search.core.sent_plugins import bring
from eed_search.core.shared_stages import SharedStages
from eed_search.core.spec import Spec
from eed_search.core.storage import Storage
from eed_search.core.store import Store
from eed_search.stages.assembling import Assembling
from eed_search.stages.bench import Report, trial_threads
from eed_search.stages.clocking import Clocking


class Workshop(Assembling, Clocking):
    """All stages of one search."""


def open_workshop(spec: Spec, store_root: Path | str, report: Report, *, whole_machine: bool = False) -> Workshop:
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
    return Workshop(spec, store, report)
