"""What an evaluation is about: a team, its images, its budget, and what else is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from eed_search.data.splits import Split
from eed_search.deployment.runtime import GatedClassifier
from eed_search.evaluation.prefixes import Team
from eed_search.runs.records import Measurement

Tier = Literal[1, 2]


@dataclass(frozen=True)
class Timing:
    """What is known of a target's latency.

    Attributes:
        measured: On the search's validation images.
        dense_ms: Latency of the dense base.
    """

    measured: Measurement
    dense_ms: float


@dataclass(frozen=True)
class Target:
    """What is attacked, on which images.

    Attributes:
        name: For people.
        team: Members and gate; a plain network is a team of one.
        split: The images.
        split_name: `fresh`, `test`, or `given` by the user.
        data: Where the images come from, for people.
        num_classes: Classes.
        eps: L∞ budget in pixel units.
        base: The dense network that the members came from.
        twin: Trains an undefended network of the same kind; none where the tool did not train the target.
        twin_at_most: Accuracy that an undefended network is known to keep on these images at this eps.
        recorded: Who wrote down the clean accuracy on these very images, and what it was.
        deploy: Gives what is deployed.
        timing: What is known of the latency.
        notes: What a reader should know.
        id: Id of a run's point, or its reference's name; empty for everything else.
    """

    name: str
    team: Team
    split: Split
    split_name: Literal["fresh", "test", "given"]
    data: str
    num_classes: int
    eps: float
    base: nn.Module | None = None
    twin: Callable[[], nn.Module] | None = None
    twin_at_most: float | None = None
    recorded: tuple[str, float] | None = None
    deploy: Callable[[], GatedClassifier] | None = None
    timing: Timing | None = None
    notes: tuple[str, ...] = field(default=())
    id: str = ""
