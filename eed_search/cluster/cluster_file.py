"""Reads a Ray cluster file (the YAML of `ray up`): its name, its head, and how ssh reaches it.

Only what eed-search needs is looked at; the rest stays in `raw`, and Ray's own schema judges it at
`ray up`. Nothing here loads Ray or a cloud's library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from eed_search.config.yaml_keys import UniqueKeyLoader
from eed_search.core.errors import SpecError

MAX_FILE_BYTES = 1 << 20
NODE_TOKEN = PurePosixPath("~/.ray/auth_token")  # where Ray on a node looks for its token by itself
# What Ray fills in; on own machines it fills in nothing and needs to be told.
_DEFAULT_USERS = {"aws": "ubuntu", "gcp": "ubuntu", "azure": "ubuntu", "aliyun": "root", "vsphere": "ray"}


@dataclass(frozen=True)
class ClusterFile:
    """What a cluster file says about reaching the cluster.

    Attributes:
        path: The file.
        name: `cluster_name`.
        provider: `provider.type`: local, aws, gcp, azure or another of Ray's.
        head_address: Host name or address of the head; none where the provider knows it only once
            it runs (a cloud: `ray get-head-ip FILE`) or a coordinator hands it out.
        worker_addresses: The workers' addresses on own machines; empty elsewhere.
        ssh_user: Who logs in.
        ssh_key: The private key; none leaves it to ssh's own configuration and agent.
        ssh_proxy_command: ssh's ProxyCommand; none without one.
        token_file: The file on this machine that the nodes get as Ray's token; none if the file
            mounts none.
        raw: Everything in the file, as the YAML says it.
    """

    path: Path
    name: str
    provider: str
    head_address: str | None
    worker_addresses: tuple[str, ...]
    ssh_user: str
    ssh_key: Path | None
    ssh_proxy_command: str | None
    token_file: Path | None
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def is_local(self) -> bool:
        """Whether these are own machines, reached by ssh, whose addresses stand in the file."""
        return self.provider == "local"

    def ssh_options(self) -> list[str]:
        """Give the options by which ssh reaches a node, as Ray's own launcher does.

        There is no port among them, because Ray's files have none: a port other than 22 stands in
        `~/.ssh/config` (`Host`, `Port`), which Ray and ssh both read.
        """
        options = ["-i", str(self.ssh_key), "-o", "IdentitiesOnly=yes"] if self.ssh_key else []
        if self.ssh_proxy_command:
            options += ["-o", f"ProxyCommand={self.ssh_proxy_command}"]
        return options


def read(path: Path) -> ClusterFile:
    """Read a cluster file.

    Args:
        path: The YAML file that `ray up` takes.

    Returns:
        What it says; paths with `~` are this user's.

    Raises:
        SpecError: With every mistake that keeps the cluster from being found, one line each.
    """
    raw = _table(path)
    problems: list[str] = []

    def given(where: str, kind: type, table: Mapping[str, Any], key: str, fix: str, *, needed: bool) -> Any:
        value = table.get(key)
        if value is None and not needed:
            return None
        if not isinstance(value, kind) or value == "":
            shown = "is missing" if value is None else f"{value!r} is not {_KINDS[kind]}"
            problems.append(f"{path}: {where}: {shown}; {fix}")
            return None
        return value

    name = given("cluster_name", str, raw, "cluster_name", "give the cluster a name", needed=True)
    provider = given("provider", dict, raw, "provider", "say where the nodes are: {type: aws, …}", needed=True) or {}
    kind = given("provider.type", str, provider, "type", "such as local, aws, gcp, azure", needed="provider" in raw)
    auth = given("auth", dict, raw, "auth", "such as {ssh_user: ubuntu}", needed=kind == "local") or {}
    user = given("auth.ssh_user", str, auth, "ssh_user", "name the user who logs in", needed=kind == "local")
    key = given("auth.ssh_private_key", str, auth, "ssh_private_key", "name a file", needed=False)
    proxy = given("auth.ssh_proxy_command", str, auth, "ssh_proxy_command", "give a command", needed=False)
    mounts = given("file_mounts", dict, raw, "file_mounts", "give {remote path: local path}", needed=False) or {}
    head: str | None = None
    workers: list[str] = []
    if kind == "local" and "coordinator_address" not in provider:
        head = given("provider.head_ip", str, provider, "head_ip", "give the head's address", needed=True)
        workers = given("provider.worker_ips", list, provider, "worker_ips", "list the workers", needed=False) or []
        if wrong := [worker for worker in workers if not isinstance(worker, str)]:
            problems.append(f"{path}: provider.worker_ips: {wrong[0]!r} is not text; quote each address")
    if problems:
        raise SpecError(problems)
    token = next((local for remote, local in mounts.items() if _is_token(remote) and isinstance(local, str)), None)
    return ClusterFile(
        path=path,
        name=name,
        provider=kind,
        head_address=head,
        worker_addresses=tuple(workers),
        ssh_user=user or _DEFAULT_USERS.get(kind, "ubuntu"),
        ssh_key=Path(key).expanduser() if key else None,
        ssh_proxy_command=proxy,
        token_file=Path(token).expanduser() if token else None,
        raw=raw,
    )


_KINDS: dict[type, str] = {str: "text", dict: "a table", list: "a list"}


def _is_token(remote: Any) -> bool:
    """Say whether a mount's target is the file that Ray on a node reads."""
    return isinstance(remote, str) and PurePosixPath(remote).parts[-2:] == NODE_TOKEN.parts[-2:]


def _table(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SpecError([f"{path}: larger than 1 MiB; a cluster file is a few pages of YAML"])
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)  # noqa: S506  # a SafeLoader
    except FileNotFoundError as error:
        raise SpecError([f"{path}: no such file; name a cluster file such as ray_cluster.yaml"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([f"{path}: cannot be read ({error}); check the path and its permissions"]) from error
    except RecursionError as error:
        raise SpecError([f"{path}: lists or tables are nested too deeply"]) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as the date 2020-13-01
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        where = f"line {mark.line + 1}: " if mark else ""
        raise SpecError([f"{path}: is not YAML: {where}{what}"]) from error
    if not isinstance(raw, dict):
        held = "nothing" if raw is None else type(raw).__name__
        raise SpecError([f"{path}: holds {held}, not a table; see ray_cluster.yaml for one that works"])
    return raw
