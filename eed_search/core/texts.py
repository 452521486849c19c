"""Texts that every library takes."""

from __future__ import annotations

import re

_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def as_utf8(text: str) -> str:
    r"""Write a text so that UTF-8 can hold it.

    A file's name may hold bytes that are no UTF-8. Python keeps them as characters that no encoding has, and that
    databases refuse; here they become `\udcff` and the like, which can be read.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def visible(text: str) -> str:
    r"""Write characters out that would steer a terminal, or turn the direction of what it shows.

    A file's name, a class's or a message may come from a stranger. Escape becomes `\u001b`, in the way that JSON reads too;
    ends of lines and tabs stay.
    """
    return _STEERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
