"""Addresses of servers and databases: none that holds a password is taken, kept, or shown.

A search-space file, a ledger and MLflow's pages are read by more people than a password is meant for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_HTTP = frozenset({"http", "https"})
_FILES = frozenset({"sqlite", "file"})
_SECRET = r"(?:[\w-]*(?:passw(?:or)?d|passwd|passphrase|pwd|secret|token|api_?key|access_?key)[\w-]*)"
# As SQLAlchemy reads it: a password may hold anything but @.
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*)(://)([^\s/?#@:'\"]*)(:[^\s'\"]*)?@")
_QUERY = re.compile(rf"(?i)([?&;]{_SECRET}=)([^&;,)\s'\"]+)")


def password_problem(uri: str) -> str:
    """Say that an address holds a password, and how to give it otherwise; nothing if it holds none."""
    scheme = uri.partition(":")[0].lower().partition("+")[0]
    if scheme in _FILES:
        return ""
    if scheme in _HTTP:
        if re.match(r"(?i)https?://[^/?#]*@", uri) or _QUERY.search(unquote(uri)):
            return (
                "the address holds a user, password or token, which the search would keep and show; write it without, and"
                " set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        return ""
    found = _USER.match(uri)
    if (found and found[4]) or _QUERY.search(unquote(uri)):
        return (
            "the address holds a password, which the search would keep and show; write it without (such as"
            " postgresql://USER@HOST/NAME), and put the password into ~/.pgpass (mode 0600) or PGPASSWORD, or into the"
            " file where the database's own tools look for it"
        )
    return ""


def without_passwords(text: str) -> str:
    """Write a text that may quote addresses with `***` in place of passwords."""

    def hidden(found: re.Match[str]) -> str:
        scheme, sign, user, password = found.groups()
        if scheme.lower() in _HTTP and password is None:
            return f"{scheme}{sign}***@"
        return found[0] if password is None else f"{scheme}{sign}{user}:***@"

    return _QUERY.sub(r"\1***", _USER.sub(hidden, text))


def without_password(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a search-space file's content; an earlier version let `tracking.uri` hold a password, which is left out."""
    plain = dict(spec)
    tracking = plain.get("tracking")
    if isinstance(tracking, Mapping) and isinstance(uri := tracking.get("uri"), str) and password_problem(uri):
        plain["tracking"] = {**tracking, "uri": _stripped(uri)}
    return plain


def _stripped(uri: str) -> str:
    """Take user and password out of an address of a server, and the password out of that of a database."""

    def kept(found: re.Match[str]) -> str:
        scheme, sign, user, _ = found.groups()
        return f"{scheme}{sign}" if scheme.lower() in _HTTP else f"{scheme}{sign}{user}@"

    head, mark, query = _USER.sub(kept, uri, count=1).partition("?")
    rest = [part for part in query.split("&") if part and not _QUERY.search(f"?{unquote(part)}")]
    return head + (f"{mark}{'&'.join(rest)}" if rest else "")
