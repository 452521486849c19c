"""Hosts that are real enough for ssh and Ray: network namespaces with addresses, process trees and homes of their own.

A host sees this machine's files, but for /root, /tmp and /run, which are its own, and /mnt, which all hosts share. The
bridge between them leads nowhere else. All of it ends with the block, or with the process that made it.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.cli.calling import ROOT

_TOOLS = ("ip", "nsenter", "rsync", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare")
_START_S = 30.0
_PREFIX = "eed"


def lacking() -> str:
    """Say why hosts cannot be made here; nothing if they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if missing := [tool for tool in _TOOLS if shutil.which(tool, path=_path()) is None]:
        return f"{', '.join(missing)} not installed (apt-get install openssh-server openssh-client rsync iproute2)"
    name = f"{_PREFIX}{os.getpid()}try"
    made = _quiet("ip", "netns", "add", name)
    _quiet("ip", "netns", "del", name)
    return "" if made else "this machine does not allow network namespaces (ip netns add)"


@dataclass
class Host:
    """One host.

    Attributes:
        name: Of its network namespace.
        address: On the bridge.
        folder: Holds what is its own.
        process: Ends it when it ends.
    """

    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes]

    def command(self, words: Sequence[str]) -> list[str]:
        """Write a command so that it runs on this host, as root in its home."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        (inside,) = task.read_text().split()
        variables = [
            "env",
            "-i",
            "HOME=/root",
            "LANG=C.UTF-8",
            f"PATH={Path(sys.executable).parent}:{_path()}",
            "OMP_NUM_THREADS=1",
            "RAY_USAGE_STATS_ENABLED=0",
        ]
        return ["nsenter", "-t", inside, "-a", "--wdns=/root", *variables, *words]

    def run(self, *words: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command on it."""
        return subprocess.run(
            self.command(words), capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )

    def start(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command on it; both its streams go to a file."""
        with log.open("wb") as file:
            return subprocess.Popen(self.command(words), stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def cut_off(self) -> None:
        """Take it off the network: no packet comes or goes, and no connection is closed."""
        _do("ip", "-n", self.name, "link", "set", "eth0", "down")

    def kill(self) -> None:
        """Take its power: every process on it is killed at once."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


@dataclass
class Hosts:
    """Hosts on one bridge; the first is called laptop, and has no ssh server."""

    folder: Path
    key: Path
    laptop: Host
    others: list[Host] = field(default_factory=list)


@contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """Make a laptop and so many other hosts, with a key that logs in to those."""
    _clear_dead()
    net = f"10.{64 + secrets.randbelow(60)}.{secrets.randbelow(256)}"
    tag = f"{_PREFIX}{os.getpid()}"
    bridge = f"{tag}b"
    made: list[Host] = []
    with tempfile.TemporaryDirectory(prefix="eed-hosts-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            _do("ip", "link", "add", bridge, "type", "bridge")
            _do("ip", "link", "set", bridge, "up")
            key = folder / "key"
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
            (folder / "shared").mkdir()
            for i in range(count + 1):
                made.append(_make(f"{tag}h{i}", f"{net}.{10 + i}", folder, bridge, sshd=i > 0))
            laptop, *others = made
            shutil.copy(key, laptop.folder / "root" / ".ssh" / "key")
            (laptop.folder / "root" / ".ssh" / "key").chmod(0o600)
            yield Hosts(folder, Path("/root/.ssh/key"), laptop, others)
        finally:
            for host in made:
                host.kill()
            for i in range(count + 1):
                _quiet("ip", "netns", "del", f"{tag}h{i}")
            _quiet("ip", "link", "del", bridge)


def _make(name: str, address: str, folder: Path, bridge: str, *, sshd: bool) -> Host:
    own = folder / name
    for part in ("root/.ssh", "tmp"):
        (own / part).mkdir(parents=True)
    (own / "tmp").chmod(0o1777)
    (own / "root").chmod(0o700)
    (own / "root" / ".ssh").chmod(0o700)
    _do("ip", "netns", "add", name)
    _do("ip", "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
    _do("ip", "link", "set", f"{name}v", "master", bridge, "up")
    _do("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _do("ip", "-n", name, "link", "set", device, "up")
    _do("ip", "-n", name, "route", "add", "default", "dev", "eth0")  # so that Ray finds the address
    last = "exec sleep infinity"
    if sshd:
        shutil.copy(folder / "key.pub", own / "root" / ".ssh" / "authorized_keys")
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own / "root" / "hostkey"))
        options = [f"ListenAddress={address}", "UsePAM=no", "PermitRootLogin=prohibit-password", "UseDNS=no"]
        words = [str(shutil.which("sshd", path=_path())), "-D", "-e", "-p", "22", "-h", "/root/hostkey"]
        last = "exec " + shlex.join([*words, *(word for option in options for word in ("-o", option))])
    script = "\n".join([*_mounts(own, folder), f"hostname {name}", last])
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--mount-proc", "bash", "-ec", script]
    with (own / "log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", name, *inside],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    host = Host(name, address, own, process)
    _wait_until_up(host)
    return host


def _mounts(own: Path, folder: Path) -> list[str]:
    """Give a host its own /root, /tmp and /run, the shared /mnt, and Python and this code wherever they lie."""
    lines = ["mount --make-rprivate /", f"mount --bind {folder}/shared /mnt"]
    for path in dict.fromkeys((Path(sys.base_prefix), Path(sys.prefix), ROOT)):
        for top in ("root", "tmp"):
            if path.is_relative_to(f"/{top}"):
                there = own / top / path.relative_to(f"/{top}")
                there.mkdir(parents=True, exist_ok=True)
                lines.append(f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(there))}")
    lines += [f"mount --rbind {own}/{top} /{top}" for top in ("root", "tmp")]
    return [*lines, "mount -t tmpfs -o mode=755 tmpfs /run", "mkdir -m 755 /run/sshd"]


def _wait_until_up(host: Host) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and host.process.poll() is None:
        with suppress(ValueError, OSError):
            if host.run("test", "-d", "/run/sshd").returncode == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"host {host.name} did not start: {(host.folder / 'log').read_text()}")


def _clear_dead() -> None:
    """Remove what a killed test left: its namespaces and bridges; its processes have died with it."""
    found = subprocess.run(["ip", "-o", "link", "show", "type", "bridge"], capture_output=True, text=True, check=False)
    bridges = [line.split(": ")[1] for line in found.stdout.splitlines() if line.count(": ")]
    found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    for name in (line.split()[0] for line in found.stdout.splitlines() if line.strip()):
        if _is_dead(name, "h"):
            _quiet("ip", "netns", "del", name)
    for name in bridges:
        if _is_dead(name, "b"):
            _quiet("ip", "link", "del", name)


def _is_dead(name: str, kind: str) -> bool:
    owner, separator, _ = name.removeprefix(_PREFIX).partition(kind)
    return name.startswith(_PREFIX) and bool(separator) and owner.isdigit() and not Path(f"/proc/{owner}").exists()


def _path() -> str:
    return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _do(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"


def _quiet(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
