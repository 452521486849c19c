"""What every trial of a search shares; light, so that the driver and whoever stands in for the trials can make one."""

from __future__ import annotations

from dataclasses import dataclass

from eed_search.config.spec import Spec
from eed_search.frontier.static_constraints import ArchitectureProfile
from eed_search.runs.records import Denominator, Reference


@dataclass(frozen=True)
class SearchContext:
    """What every trial of a search shares; travels to the workers.

    Attributes:
        spec: The search-space file.
        store_root: Folder of the stage store.
        base: The dense base and what it measured.
        gate_ms: Cost of one gate step in the deployment runtime.
        num_classes: Classes.
        image_shape: Channels, height, width.
        machine: The kind of machine that latencies belong to.
        notes: What a reader of the result should know of the base.
        profiles: What members of the space's sizes will be, as far as that is known before they are made.
    """

    spec: Spec
    store_root: str
    base: Reference
    gate_ms: float
    num_classes: int
    image_shape: tuple[int, int, int]
    machine: str = ""
    notes: tuple[str, ...] = ()
    profiles: tuple[ArchitectureProfile, ...] = ()

    @property
    def denominator(self) -> Denominator:
        """How the dense base runs whose latency the search divides by."""
        return self.base.measurement.latency.denominator

    @property
    def base_key(self) -> str:
        """Key of the base's weights in the store."""
        return self.base.measurement.artifact.partition("/")[2]
