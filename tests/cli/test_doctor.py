"""The doctor names what is wrong, and the fix."""

from __future__ import annotations

import json
import sqlite3
import stat
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from eed_search.cli import doctor
from eed_search.cluster.finding import Finding
from tests.cli.calling import call

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program in the place of Python: what it does is what torch does."""
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))
    return program


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_full_disk_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Less than 2 GB."""
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**9))
    assert list(doctor._disk(tmp_path / "new" / "home")) == [
        Finding(
            "wrong",
            "disk",
            f"1.0 GB free for {tmp_path / 'new' / 'home'}",
            "free at least 2 GB, or choose another --home",
        )
    ]


def test_a_missing_or_unfit_package_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named with the range it must fit; extras are not asked for."""
    needs = ["numpy>=99", "no-such-package>=1", "pytest>=99; extra == 'dev'", "typer"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: needs)
    wrong, missing, good = doctor._packages()
    assert wrong.level == missing.level == "wrong"
    assert wrong.text.endswith("is not >=99")
    assert missing.text == "no-such-package is missing (needs >=1)"
    assert "pip install" in wrong.fix
    assert good.text.startswith("typer ")


def test_a_home_on_a_network_disk_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SQLite's locks are not safe there."""
    monkeypatch.setattr(doctor, "_file_system", lambda folder: "nfs4")
    assert list(doctor._sqlite(tmp_path)) == [
        Finding(
            "wrong",
            "SQLite",
            f"{sqlite3.sqlite_version} on nfs4: shared over a network, locks are not safe",
            "choose a --home on a local disk",
        )
    ]


def test_torch_that_does_not_load_is_wrong(interpreter: Path) -> None:
    """The last line of what it said is shown."""
    _program(interpreter, "echo Traceback >&2; echo 'ImportError: libtorch.so: cannot open' >&2; exit 1")
    (finding,) = doctor._torch()
    assert (finding.level, finding.text) == ("wrong", "does not load: ImportError: libtorch.so: cannot open")
    assert "constraints.txt" in finding.fix


def test_torch_that_crashes_is_wrong(interpreter: Path) -> None:
    """A crash without a word is told by its exit code, and the doctor lives."""
    _program(interpreter, "exit 132")
    (finding,) = doctor._torch()
    assert (finding.level, finding.text) == ("wrong", "does not load: ended with 132")


def test_a_cuda_build_without_a_gpu_is_noted(interpreter: Path) -> None:
    """It works, slowly: worth knowing, not wrong."""
    facts = '{"torch": "2.13.0", "cuda_build": "13.0", "threads": 4, "devices": [], "torchvision": "0.28.0", "native": true}'
    _program(interpreter, f"echo '{facts}'")
    torch, gpu, torchvision = doctor._torch()
    assert (torch.level, torch.text) == ("ok", "2.13.0 (CUDA 13.0 build), no CUDA device, 4 threads")
    assert gpu.level == "note"
    assert torchvision.text == "0.28.0, with its compiled operators"


def test_something_wrong_ends_with_1_and_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code says it to scripts, the text to people."""
    monkeypatch.setattr(doctor, "findings", lambda home: iter([Finding("wrong", "disk", "full", "free some")]))
    result = call("doctor")
    assert (result.exit_code, result.stdout) == (1, "WRONG disk: full\n      fix: free some\n1 thing to correct\n")


def test_findings_as_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same for programs."""
    monkeypatch.setattr(
        doctor, "findings", lambda home: iter([Finding("ok", "disk", "1 GB"), Finding("wrong", "x", "y", "z")])
    )
    result = call("doctor", "--json", "--home", tmp_path)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "home": str(tmp_path),
        "num_wrong": 1,
        "findings": [
            {"level": "ok", "what": "disk", "text": "1 GB", "fix": ""},
            {"level": "wrong", "what": "x", "text": "y", "fix": "z"},
        ],
    }


@pytest.mark.whole
def test_ray_is_started_and_where_it_listens_is_looked_at() -> None:
    """The real one: `tests/search/execution/test_ray_session.py` tries from outside what is said here."""
    ray, sockets = doctor._ray()
    assert (ray.level, sockets.level) == ("ok", "ok")
    assert ray.text.endswith(" s, asks for a token")
    number = int(sockets.text.removeprefix("all ").removesuffix(" listen on loopback only"))
    assert number >= 5  # GCS, two of the raylet, a worker, this driver


def test_a_socket_that_others_reach_is_wrong(interpreter: Path) -> None:
    """Named with its program, and with what was tried."""
    _program(
        interpreter, """echo '{"ray": "2.99", "seconds": 3.2, "num_ears": 7, "open": ["0.0.0.0:44217 (python)"]}'"""
    )
    ray, sockets = doctor._ray()
    assert (ray.level, ray.text) == ("ok", "2.99 starts in 3 s, asks for a token")
    assert sockets.level == "wrong"
    assert sockets.text == (
        "0.0.0.0:44217 (python) can be reached from other machines, although 127.0.0.1 was asked for; the token keeps them out"
    )
    assert "pip install" in sockets.fix


def test_ray_that_does_not_start_is_wrong(interpreter: Path) -> None:
    """With the last line of what it said."""
    _program(interpreter, "echo 'TMPDIR: /x: other users may exchange what lies in it' >&2; exit 1")
    (finding,) = doctor._ray()
    assert (finding.level, finding.text) == (
        "wrong",
        "does not start: TMPDIR: /x: other users may exchange what lies in it",
    )


def test_temporary_files_that_others_may_exchange_are_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With where they go instead, and how to have them where one wants."""
    tmp_path.chmod(0o777)
    monkeypatch.setattr(doctor.tempfile, "tempdir", str(tmp_path))
    (finding,) = doctor._temporary()
    assert (finding.level, finding.text) == ("note", f"{tmp_path} is open to other users, so /tmp is taken instead")
    assert "mkdir -m 700 DIR" in finding.fix
