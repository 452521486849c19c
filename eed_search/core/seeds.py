"""Where randomness comes from: every stage's seed is a hash of what the stage is.

A trial has no seed of its own. Each stage takes its seed from its key (settings, upstream keys and
the search's seed), so a point that is run again, alone or in another search, meets the same
random numbers.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def canonical_json(value: Mapping[str, Any] | list[Any]) -> str:
    """Write a value so that equal values give equal text: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Mapping[str, Any] | list[Any]) -> str:
    """Name a value by content: the first 32 hexadecimal digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


def seed_of(key: str, purpose: str = "") -> int:
    """Derive a 63-bit seed from a key, one for each purpose."""
    return int.from_bytes(hashlib.sha256(f"{key}/{purpose}".encode()).digest()[:8], "big") >> 1
