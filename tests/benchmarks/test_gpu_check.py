"""The one command for a GPU machine: what it says where there is no GPU, and that every step runs, here on the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def check(out: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(out), **variables}
    command = ["benchmarks/gpu_check.sh", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--gpu", "1"), "--gpu is no option"),
        (("--data",), "--data: give a value"),
        (("--data", "/nowhere"), "--data /nowhere: is no folder"),
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = check(tmp_path / "out", *options)
    assert done.returncode == 2
    assert done.stderr.startswith("gpu_check: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = check(tmp_path / "out")
    assert done.returncode == 3
    assert "sees no GPU; `nvidia-smi` shows whether there is one" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.whole
def test_what_is_not_done_in_time_is_said(tmp_path: Path) -> None:
    """The table names every step, whatever became of it; the exit code is that something is missing."""
    done = check(tmp_path / "out", "--device", "cpu", GPU_CHECKS="training_goes_on no_such_check", GPU_CHECK_S="60")
    assert done.returncode == 1
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()}
    assert "done" in rows["training_goes_on"]
    assert "FAILED (1): KeyError: 'no_such_check'" in rows["no_such_check"]
    assert "not done" in rows["report"]


@pytest.mark.slow
def test_every_step_runs_on_the_processor(tmp_path: Path) -> None:
    done = check(tmp_path / "out", "--device", "cpu", GPU_CHECKS="training_goes_on pool", GPU_CHECK_S="900")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out" / "training.json").is_file()
    assert "of matmul" in done.stdout
