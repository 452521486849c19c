"""Texts that every library takes."""

from __future__ import annotations


def as_utf8(text: str) -> str:
    r"""Write a text so that UTF-8 can hold it.

    A file's name may hold bytes that are no UTF-8. Python keeps them as characters that no encoding has, and that
    databases refuse; here they become `\udcff` and the like, which can be read.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
