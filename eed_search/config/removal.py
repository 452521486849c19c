"""Which methods take channels from the base, and of which it is known beforehand how many."""

from __future__ import annotations

from eed_search.config.params import SCORED
from eed_search.config.spec import Spec


def removes_channels(spec: Spec, method: str) -> bool:
    """Whether a method's members have fewer channels than the base."""
    if method == "radmm":
        return spec.members.radmm.set == "filter"
    return method in SCORED and spec.members.granularity == "channel"  # a registered method's: only its making tells


def is_sized_before(spec: Spec, method: str) -> bool:
    """Whether the size alone says how many channels each layer of a method's members has."""
    learns = method == "learned" and spec.members.learned.budget == "global"
    return removes_channels(spec, method) and not learns
