"""`eed-search doctor`: what this machine has, what is missing, and the fix for each; or how safe a cluster file is.

torch and Ray are looked at in processes of their own: an installation that crashes on import must not take
the doctor with it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from eed_search.cli.console import as_text, say
from eed_search.cluster.finding import Finding
from eed_search.core.errors import RunError
from eed_search.system.cores import usable_cores
from eed_search.system.private import temporary_root

_PROBE_TIMEOUT_S = 180
_LOW_DISK_BYTES = 2 * 10**9
_LOW_SHARED_BYTES = 64 * 2**20
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
# On these SQLite's locks or its shared memory do not work, or not reliably.
_REMOTE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "gpfs", "ceph", "glusterfs", "afs", "beegfs"}

_TORCH_PROBE = """
import json, warnings
warnings.simplefilter("ignore")
import torch
facts = {"torch": torch.__version__, "cuda_build": torch.version.cuda, "threads": torch.get_num_threads(),
         "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]}
try:
    import torchvision
    facts["torchvision"], facts["native"] = torchvision.__version__, True
except RuntimeError:
    from eed_search.models.torchvision_door import torchvision
    facts["torchvision"], facts["native"] = torchvision().__version__, False
print(json.dumps(facts))
"""

_RAY_PROBE = """
import json, os, sys, time, warnings
warnings.simplefilter("ignore")
begun = time.monotonic()
from eed_search.core.errors import EedSearchError
from eed_search.system.private import holders
from eed_search.system.sockets import listening
from eed_search.search.execution.ray_session import local_ray
try:
    with local_ray() as session:
        import ray
        ray.get(ray.remote(num_cpus=0)(lambda: 0).remote())  # workers listen as well
        took = time.monotonic() - begun
        ears = listening([os.getpid(), *holders(session.scratch.parent)])
        print(json.dumps({"ray": ray.__version__, "seconds": took, "num_ears": len(ears),
                          "open": [f"{one.address}:{one.port} ({one.program})" for one in ears if not one.on_loopback]}))
except EedSearchError as error:
    sys.exit(str(error))
"""


def doctor(home: Path, *, as_json: bool = False) -> None:
    """Print every finding; ends with exit code 1 if something is wrong.

    Args:
        home: Where searches would be written.
        as_json: Print JSON instead, all at once.
    """
    looked_at = findings(home)
    if as_json:
        _finish_json({"home": str(home)}, list(looked_at))
    else:
        _finish(looked_at, "Ready: start with `eed-search launch`")


def doctor_of_cluster(path: Path, *, as_json: bool = False) -> None:
    """Print how safe a cluster file is, without network; ends with exit code 1 if something is not.

    Args:
        path: The file that `ray up` takes.
        as_json: Print JSON instead.

    Raises:
        SpecError: If it is no cluster file.
    """
    from eed_search.cluster.cluster_file import read
    from eed_search.cluster.hardening import findings

    cluster = read(path)
    judged = findings(cluster)
    if as_json:
        facts = {"cluster": str(path), "cluster_name": cluster.name, "provider": cluster.provider}
        _finish_json(facts, judged)
        return
    say(f"{path}: cluster {cluster.name}, provider {cluster.provider}")
    _finish(judged, f"Nothing unsafe in the file: start it with `ray up {path}`")


def _finish(found: Iterable[Finding], good: str) -> None:
    num_wrong = 0
    for finding in found:
        mark = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}[finding.level]
        say(f"{mark} {finding.what}: {finding.text}")
        if finding.fix:
            say(f"      fix: {finding.fix}")
        num_wrong += finding.level == "wrong"
    if num_wrong:
        say(f"{num_wrong} thing{'' if num_wrong == 1 else 's'} to correct")
        raise typer.Exit(1)
    say(good)


def _finish_json(facts: dict[str, Any], found: list[Finding]) -> None:
    num_wrong = sum(finding.level == "wrong" for finding in found)
    say(
        as_text(
            {**facts, "num_wrong": num_wrong, "findings": [asdict(finding) for finding in found]},
            indent=2,
            allow_nan=True,
        )
    )
    if num_wrong:
        raise typer.Exit(1)


def findings(home: Path) -> Iterator[Finding]:
    """Look at one thing after the other, slow ones last."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _processor,
        lambda: _disk(home),
        lambda: _sqlite(home),
        _temporary,
        _shared_memory,
        _ray,
        _torch,
    )
    for check in checks:
        yield from check()


def _python() -> Iterator[Finding]:
    yield Finding("ok", "Python", f"{platform.python_version()} in {sys.prefix}")


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("eed-search") or []
    except metadata.PackageNotFoundError:
        yield Finding("note", "eed-search", "runs without being installed", "pip install -e . in its folder")
        return
    good, bad = [], []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            bad.append(f"{requirement.name} is missing (needs {requirement.specifier})")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
        else:
            bad.append(f"{requirement.name} {version} is not {requirement.specifier}")
    fix = "pip install -c constraints.txt -e . in a checkout, else pip install --upgrade eed-search's folder"
    for problem in bad:
        yield Finding("wrong", "package", problem, fix)
    yield Finding("ok", "packages", ", ".join(good))


def _processor() -> Iterator[Finding]:
    usable = usable_cores()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        yield Finding("ok", "processor", f"{usable} usable cores, {platform.machine()}")
        return
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    name = facts.get("model name", platform.machine())
    given = set(facts.get("flags", facts.get("Features", "")).split())
    has = [flag for flag in _CPU_FLAGS if flag in given]
    yield Finding("ok", "processor", f"{usable} usable cores, {name}, {' '.join(has) or 'no AVX'}")
    if not given & {"avx512_bf16", "amx_bf16"}:
        yield Finding("note", "bfloat16", "this processor computes it slowly; `precision: auto` takes float32 here")


def _existing(folder: Path) -> Path:
    """Go up to the nearest folder that exists."""
    folder = folder.expanduser().resolve()
    return next((f for f in (folder, *folder.parents) if f.is_dir()), Path("/"))


def _disk(home: Path) -> Iterator[Finding]:
    folder = _existing(home)
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free for {home}"
    if not os.access(folder, os.W_OK):
        yield Finding("wrong", "disk", f"{folder} cannot be written to", "choose another --home or EED_SEARCH_HOME")
    elif free < _LOW_DISK_BYTES:
        yield Finding("wrong", "disk", text, "free at least 2 GB, or choose another --home")
    else:
        yield Finding("ok", "disk", text)


def _sqlite(home: Path) -> Iterator[Finding]:
    folder = _existing(home)
    system = _file_system(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".eed-doctor-") as name:
            database = sqlite3.connect(Path(name) / "try.sqlite", isolation_level=None)
            try:
                mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                database.execute("CREATE TABLE t (x)")
                database.execute("INSERT INTO t VALUES (1)")
            finally:
                database.close()
    except (OSError, sqlite3.Error) as error:
        yield Finding("wrong", "SQLite", f"cannot write in {folder} ({error})", "choose a --home on a local disk")
        return
    text = f"{sqlite3.sqlite_version} on {system or 'this file system'}"
    if mode != "wal":
        yield Finding("wrong", "SQLite", f"{text} has no write-ahead log", "choose a --home on a local disk")
    elif system in _REMOTE_SYSTEMS or system.startswith("fuse.sshfs"):
        yield Finding(
            "wrong", "SQLite", f"{text}: shared over a network, locks are not safe", "choose a --home on a local disk"
        )
    else:
        yield Finding("ok", "SQLite", f"{text}, write-ahead log works")


def _file_system(folder: Path) -> str:
    """Name the file system that a folder lies on; empty where the system does not say."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    holding = [(m[1], m[2]) for m in mounts if len(m) > 2 and folder.is_relative_to(m[1].replace("\\040", " "))]
    return max(enumerate(holding), key=lambda item: (len(item[1][0]), item[0]), default=(0, ("", "")))[1][1]


def _shared_memory() -> Iterator[Finding]:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return
    free = shutil.disk_usage(shared).free
    if free < _LOW_SHARED_BYTES:
        fix = "in a container start it with a larger --shm-size, such as 1g"
        yield Finding("note", "shared memory", f"{free / 2**20:.0f} MiB in /dev/shm, Ray will be slow", fix)
    else:
        yield Finding("ok", "shared memory", f"{free / 2**30:.1f} GiB in /dev/shm")


def _temporary() -> Iterator[Finding]:
    given = tempfile.gettempdir()
    try:
        taken = temporary_root()
    except RunError as error:
        yield Finding("wrong", "temporary files", str(error))
        return
    if taken == Path(os.path.realpath(given)):
        yield Finding("ok", "temporary files", f"{taken}, where no other user can exchange them")
    else:
        fix = "`mkdir -m 700 DIR` below a folder of yours, then `export TMPDIR=DIR`"
        yield Finding("note", "temporary files", f"{given} is open to other users, so {taken} is taken instead", fix)


def _ray() -> Iterator[Finding]:
    """Start Ray as a local search does, and look where it listens."""
    fix = "pip install -c constraints.txt -e . in a checkout; if that is what is installed, report this"
    facts, said = _ask_python(_RAY_PROBE)
    if facts is None:
        yield Finding("wrong", "Ray", f"does not start: {said}", fix)
        return
    yield Finding("ok", "Ray", f"{facts['ray']} starts in {facts['seconds']:.0f} s, asks for a token")
    if not sys.platform.startswith("linux"):
        yield Finding("note", "Ray's sockets", "this system does not tell where they listen; loopback was asked for")
    elif facts["open"]:
        yield Finding(
            "wrong",
            "Ray's sockets",
            f"{', '.join(facts['open'])} can be reached from other machines, although 127.0.0.1 was asked for; the token"
            " keeps them out",
            fix,
        )
    else:
        yield Finding("ok", "Ray's sockets", f"all {facts['num_ears']} listen on loopback only")


def _ask_python(code: str) -> tuple[dict[str, Any] | None, str]:
    """Run code in a process of its own; gives the JSON that it printed last, or none and what it said instead."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            return dict(json.loads(done.stdout.splitlines()[-1])), ""
    except subprocess.TimeoutExpired:
        return None, f"nothing for {_PROBE_TIMEOUT_S} s"
    except (IndexError, ValueError):
        pass
    return None, next(reversed(done.stderr.strip().splitlines()), f"ended with {done.returncode}")


def _torch() -> Iterator[Finding]:
    fix = "pip install -c constraints.txt -e . in a checkout (torch and torchvision must be of one release)"
    facts, said = _ask_python(_TORCH_PROBE)
    if facts is None:
        yield Finding("wrong", "torch", f"does not load: {said}", fix)
        return
    build = f"CUDA {facts['cuda_build']} build" if facts["cuda_build"] else "CPU build"
    devices = ", ".join(facts["devices"]) or "no CUDA device"
    yield Finding("ok", "torch", f"{facts['torch']} ({build}), {devices}, {facts['threads']} threads")
    if facts["cuda_build"] and not facts["devices"]:
        yield Finding(
            "note", "GPU", "torch could use one but sees none", "check the driver with nvidia-smi if there is one"
        )
    if facts["native"]:
        yield Finding("ok", "torchvision", f"{facts['torchvision']}, with its compiled operators")
    else:
        text = f"{facts['torchvision']} without its compiled operators, which fit no CPU torch; nothing here needs them"
        yield Finding("ok", "torchvision", text)
