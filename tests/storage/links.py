"""A folder that goes away and comes back at one stroke, so that no other thread sees it half there."""

from __future__ import annotations

from pathlib import Path


def point(link: Path, target: Path) -> None:
    """Let a symbolic link lead elsewhere."""
    new = link.with_name(f".{link.name}")
    new.symlink_to(target)
    new.replace(link)
