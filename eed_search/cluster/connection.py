"""A connection to a cluster's dashboard: the tunnel, the token, and the first word, which tells what is wrong.

Only the standard library: that Ray answers, takes the token and has the right version is known before Ray is loaded.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib import metadata
from pathlib import Path

from eed_search.cluster.cluster_file import ClusterFile
from eed_search.cluster.tunnel import tunnel
from eed_search.cluster.where import Place
from eed_search.core.errors import RunError
from eed_search.system.loopback import urlopen

DASHBOARD_PORT = 8265
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Token:
    """What proves to Ray that one may command it.

    Attributes:
        value: The token; empty for none.
        source: Where it was found, for messages.
    """

    value: str = field(repr=False)
    source: str

    def headers(self) -> dict[str, str]:
        """Write it as an HTTP header."""
        return {"Authorization": f"Bearer {self.value}"} if self.value else {}


@dataclass(frozen=True)
class Connection:
    """A dashboard that answered.

    Attributes:
        url: Its address on this machine.
        token: What it takes.
        place: Where it is.
        ray_version: Version of Ray on the cluster.
    """

    url: str
    token: Token
    place: Place
    ray_version: str


def find_token(file: ClusterFile | None, environment: Mapping[str, str] = os.environ) -> Token:
    """Find the token as Ray does, but that the file a cluster's own nodes get goes before this user's.

    Raises:
        RunError: If a file that is named cannot be read.
    """
    if value := environment.get("RAY_AUTH_TOKEN", "").strip():
        return Token(value, "RAY_AUTH_TOKEN")
    named = environment.get("RAY_AUTH_TOKEN_PATH", "").strip()
    usual = Path.home() / ".ray" / "auth_token"
    candidates = (
        [Path(named).expanduser()] if named else [*([file.token_file] if file and file.token_file else []), usual]
    )
    for path in candidates:
        try:
            if value := path.read_text(encoding="utf-8", errors="replace").strip():
                if len(value.split()) > 1 or not value.isascii():
                    raise RunError(f"{path}: holds no token but several words; name the file that holds Ray's token")
                return Token(value, str(path))
        except FileNotFoundError:
            if named:
                raise RunError(
                    f"RAY_AUTH_TOKEN_PATH {path}: no such file; name the file that holds Ray's token"
                ) from None
        except OSError as error:
            raise RunError(f"{path}: Ray's token cannot be read ({error.strerror}); correct its permissions") from error
    return Token("", f"no {usual}")


@contextmanager
def connect(place: Place) -> Iterator[Connection]:
    """Reach a cluster's dashboard for as long as the block lasts.

    Args:
        place: Place of kind `submit`.

    Raises:
        RunError: If ssh or Ray does not answer, the token is wrong, or the versions differ.
    """
    token = find_token(place.file)
    if place.file is None:
        yield _greet(place.address, token, place)
        return
    with tunnel(place.file, place.head, dashboard_port(place.file)) as port:
        yield _greet(f"http://127.0.0.1:{port}", token, place)


def dashboard_port(file: ClusterFile) -> int:
    """Read the dashboard's port from the head's start command."""
    for line in file.raw.get("head_start_ray_commands") or ():
        if found := re.search(r"--dashboard-port[= ](\d+)", str(line)):
            return int(found[1])
    return DASHBOARD_PORT


def _greet(url: str, token: Token, place: Place) -> Connection:
    """Ask for Ray's version, which needs the token where there is one."""
    where = f"{place.head} ({place.file.path})" if place.file else f"{place.source} {place.address}".strip()
    try:
        request = urllib.request.Request(f"{url}/api/version", headers=token.headers())
        with urlopen(request, timeout=_PATIENCE_S) as answer:
            version = str(json.load(answer)["ray_version"])
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise RunError(_wrong_token(where, token, place)) from error
        raise RunError(
            f"{where}: answers, but not as Ray's dashboard does (HTTP {error.code}); check the address"
        ) from error
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise RunError(f"{where}: no cluster answers there ({reason}); {_start(place)}") from error
    except (ValueError, KeyError, TypeError, HTTPException) as error:
        raise RunError(f"{where}: answers, but not as Ray's dashboard does; check the address") from error
    ours = metadata.version("ray")
    if ours.split(".")[:2] != version.split(".")[:2]:
        raise RunError(
            f"{where}: has Ray {version}, this machine Ray {ours}; the two must agree: `pip install"
            f" 'ray[default,tune]=={version}'` here, or install {ours} there{_again(place)}"
        )
    return Connection(url, token, place, version)


def _start(place: Place) -> str:
    if place.file is not None:
        return f"ssh gets through, so start Ray: `ray up {place.file.path}`; `--local` searches on this machine"
    return (
        "start one with `ray up FILE`, or open a tunnel to its head: `ssh -N -L"
        f" 127.0.0.1:{DASHBOARD_PORT}:127.0.0.1:{DASHBOARD_PORT} USER@HEAD`; `--local` searches on this machine"
    )


def _again(place: Place) -> str:
    return f" (setup_commands, then `ray up {place.file.path}`)" if place.file else ""


def _wrong_token(where: str, token: Token, place: Place) -> str:
    what = (
        f"the token of {token.source} is not the cluster's"
        if token.value
        else f"it wants a token, and there is {token.source}"
    )
    fetch = (
        f"`ray exec {place.file.path} 'cat ~/.ray/auth_token'` shows it"
        if place.file
        else "it is ~/.ray/auth_token there"
    )
    return f"{where}: refused: {what}; {fetch}. Put it into a file of mode 0600 and name that: `export RAY_AUTH_TOKEN_PATH=FILE`"
