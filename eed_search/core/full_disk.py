"""A full disk, told from other errors: waiting does not make it better, making room does.

Libraries wrap the system's error in their own, and a server only sends its words.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

_NUMBERS = frozenset({errno.ENOSPC, errno.EDQUOT})
_WORDS = re.compile(
    r"no space left on device|disk quota exceeded|database or disk is full|could not extend file|\bdisk full\b", re.I
)


def is_full_disk(error: BaseException) -> bool:
    """Say whether an error comes from a disk, or a share of one, that has no room left."""
    return any(
        (isinstance(one, OSError) and one.errno in _NUMBERS) or _WORDS.search(str(one)) for one in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and those that it was made from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
