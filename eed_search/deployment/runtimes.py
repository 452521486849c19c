"""Every runtime.py that an export has ever written, by its SHA-256: which code of a bundle is eed-search's own.

The digests lie in runtimes.json, by format. After a change of runtime.py `python -m eed_search.deployment.runtimes`
adds the new one; none is ever taken away, for bundles live longer than versions.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from eed_search.deployment import runtime

SHIPPED = Path(__file__).with_name("runtimes.json")


def is_shipped(code: bytes, format_version: int) -> bool:
    """Whether a bundle of some format was written with this runtime.py.

    Args:
        code: The file's bytes.
        format_version: Version of the format, from the bundle's manifest.
    """
    return hashlib.sha256(code).hexdigest() in _shipped().get(str(format_version), [])


def _shipped() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(SHIPPED.read_bytes())
    return found


def _add(path: Path = Path(runtime.__file__)) -> None:
    digest, shipped = hashlib.sha256(path.read_bytes()).hexdigest(), _shipped()
    known = shipped.setdefault(str(runtime.FORMAT_VERSION), [])
    if digest not in known:
        known.append(digest)
        SHIPPED.write_text(json.dumps(shipped, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _add()
