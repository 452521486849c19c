"""Whether a Ray answers at an address, known within seconds: Ray itself would go on trying for minutes, and say nothing."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
import time
from typing import Any

from eed_search.core.errors import RunError

_PATIENCE_S = 8.0
_ADDRESS = re.compile(r"(?P<host>[^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
# How a client begins HTTP/2, which gRPC speaks: the preface, and SETTINGS without any. The server answers with its own.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", 0)[1:] + b"\x04\x00" + struct.pack(">I", 0)
_SETTINGS = b"\x04"


def host_and_port(address: str) -> tuple[str, int] | None:
    """Read HOST:PORT; none if it is not of that form."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        return None
    return found["host"].strip("[]"), int(found["port"])


def check_ray(address: str, source: str) -> None:
    """Find out whether there is a Ray to join; loads Ray.

    Args:
        address: `auto`, or HOST:PORT.
        source: The option or variable that says so, for the message.

    Raises:
        RunError: If none answers there.
    """
    import ray._private.services as services

    shown = f"{source} {address}".strip()
    try:
        there = services.canonicalize_bootstrap_address_or_die(address)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise RunError(f"{shown}: no Ray runs on this machine ({_first_line(error)}); {_advice(source)}") from error
    if address == "auto" and (named := os.environ.get("RAY_ADDRESS")):
        shown += f" (RAY_ADDRESS={named})"
    elif address == "auto":
        shown += f" ({there})"
    if problem := problem_at(there):
        # Ray takes this machine's outer address for 127.0.0.1; what listens on loopback alone says so itself.
        instead = problem_at(address) if _is_loopback(address) and there != address else ""
        raise RunError(f"{shown}: {instead or problem}; {_advice(source)}")
    if refusal := _refusal(there):
        raise RunError(f"{shown}: {refusal}; {_advice(source)}")


def problem_at(address: str, patience_s: float = _PATIENCE_S) -> str:
    """Say what keeps an address from being one of Ray; nothing if gRPC answers there.

    Args:
        address: HOST:PORT.
        patience_s: Seconds to wait for the connection, and for the answer, together.
    """
    if (parts := host_and_port(address)) is None:
        return "is no address; give HOST:PORT of Ray on one of its nodes, or auto"
    deadline = time.monotonic() + patience_s
    try:
        with socket.create_connection(parts, timeout=patience_s) as connection:
            if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):
                return ""  # only who has the certificates can ask for more
            connection.sendall(_PREFACE)
            answer = b""
            while len(answer) < 9:
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                if not (more := connection.recv(9 - len(answer))):
                    break
                answer += more
    except TimeoutError:
        return f"nobody answers there within {patience_s:g} s"
    except OSError as error:
        return f"nobody answers there ({error.strerror or error})"
    if len(answer) < 9 or answer[3:4] != _SETTINGS:
        return "something answers there, but not as Ray does"
    return ""


def _refusal(address: str) -> str:
    """Ask Ray whether it lives, which needs its token; says what it answers instead, nothing where it lives."""
    try:
        import grpc
        from ray._private.gcs_utils import create_gcs_channel
        from ray.core.generated import gcs_service_pb2
        from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
        from ray.exceptions import AuthenticationError
    except ImportError:  # files of another Ray: the join itself will say it, though later
        return ""
    messages: Any = gcs_service_pb2  # its classes are made when it is loaded
    wrong = "wants another token than this machine's; name the file that holds it: `export RAY_AUTH_TOKEN_PATH=FILE`"
    try:
        with create_gcs_channel(address) as channel:
            NodeInfoGcsServiceStub(channel).CheckAlive(messages.CheckAliveRequest(), timeout=_PATIENCE_S)
    except AuthenticationError:
        return wrong
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            return wrong
        return f"something answers there, but not as Ray does ({error.code().name})"
    return ""


def _is_loopback(address: str) -> bool:
    host, _ = host_and_port(address) or ("", 0)
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _advice(source: str) -> str:
    unset = {"RAY_ADDRESS": "unset RAY_ADDRESS", "--address": "leave --address out"}.get(source, "name no address")
    return (
        "`ray status` on one of its nodes shows whether Ray runs, `ray up FILE` starts a cluster;"
        f" or {unset}, or give `--local`, to search on this machine alone"
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
