"""Our own code as hashes: what is half done by one version is not finished by another."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

import eed_search


def code_files() -> dict[str, str]:
    """Hash the package's Python files, by path below the package."""
    root = Path(eed_search.__file__).parent
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(root.rglob("*.py"))
    }


@cache
def code_digest() -> str:
    """Name the code that trains here: every module of the package, and torch's version."""
    text = "\n".join([f"torch {metadata.version('torch')}", *(f"{k} {v}" for k, v in code_files().items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
