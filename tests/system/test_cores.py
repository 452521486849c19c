"""How many cores a process may use: those that it is pinned to, and the whole ones of its control group's quota."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eed_search.system.cores import usable_cores
from tests.cli.calling import ROOT, environment

PINNED = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores(folder: Path, membership: str, files: dict[str, str]) -> int:
    """Count the cores under control groups that a test has laid out."""
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (folder / "membership").write_text(membership, encoding="utf-8")
    return usable_cores(folder / "cgroup", folder / "membership")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_a_pinned_process_has_the_cores_that_it_is_pinned_to() -> None:
    """As under `taskset -c N`."""
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from eed_search.system.cores import usable_cores; print(usable_cores())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


def test_without_control_groups_the_affinity_decides(tmp_path: Path) -> None:
    """As on a system that has none."""
    assert usable_cores(tmp_path / "none", tmp_path / "none either") == PINNED


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [
        ("max 100000\n", PINNED),
        ("150000 100000\n", 1),
        ("50000 100000\n", 1),
        ("10000000 100000\n", PINNED),
        ("0 100000\n", PINNED),
        ("nonsense", PINNED),
        ("", PINNED),
    ],
)
def test_a_quota_counts_in_whole_cores_and_at_least_one(tmp_path: Path, cpu_max: str, expected: int) -> None:
    """Version 2: the quota over the period, rounded down; what cannot be read counts as none."""
    assert cores(tmp_path, "0::/mine\n", {"mine/cpu.max": cpu_max}) == expected


def test_a_quota_of_a_group_around_counts(tmp_path: Path) -> None:
    """Version 2: an unlimited group inside a limited one is limited."""
    files = {"outer/inner/cpu.max": "max 100000", "outer/cpu.max": "100000 100000"}
    assert cores(tmp_path, "0::/outer/inner\n", files) == 1


@pytest.mark.parametrize("group", ["/docker/0123abcd", "/", "/../..", "/../outside"])
def test_a_group_named_from_outside_is_the_root_of_the_container(tmp_path: Path, group: str) -> None:
    """The file at the mount itself is read where the named folder is not there."""
    assert cores(tmp_path, f"0::{group}\n", {"cpu.max": "100000 100000"}) == 1


@pytest.mark.parametrize(
    ("controllers", "mount"),
    [("cpu", "cpu"), ("cpu,cpuacct", "cpu,cpuacct"), ("cpu,cpuacct", "cpu"), ("cpuacct,cpu", "cpuacct,cpu")],
)
def test_version_1_has_its_quota_in_two_files(tmp_path: Path, controllers: str, mount: str) -> None:
    """Whichever name the controller is mounted under."""
    files = {f"{mount}/a/cpu.cfs_quota_us": "150000\n", f"{mount}/a/cpu.cfs_period_us": "100000\n"}
    assert cores(tmp_path, f"7:memory:/b\n3:{controllers}:/a\n", files) == 1


def test_version_1_without_a_quota_says_minus_one(tmp_path: Path) -> None:
    """Which is no limit."""
    files = {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}
    assert cores(tmp_path, "3:cpu:/a\n", files) == PINNED


def test_both_versions_side_by_side_both_count(tmp_path: Path) -> None:
    """Version 2 lies under `unified` then."""
    assert cores(tmp_path, "3:cpu:/\n0::/x\n", {"unified/x/cpu.max": "100000 100000"}) == 1


def test_nobody_else_counts_cores() -> None:
    """One function decides everywhere: in the package and in the benchmarks."""
    files = [*(ROOT / "eed_search").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    words = ("cpu_count(", "sched_getaffinity(")
    found = {file.name for file in files if any(word in file.read_text(encoding="utf-8") for word in words)}
    assert found == {"cores.py"}
