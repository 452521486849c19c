"""Every way to make a member, by the name that a search-space file gives it."""

from __future__ import annotations

from eed_search.compression.contract import Compress
from eed_search.compression.prune import prune
from eed_search.compression.radmm import radmm

METHODS: dict[str, Compress] = {"prune": prune, "radmm": radmm}
