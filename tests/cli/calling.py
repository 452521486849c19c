"""Calls the command line: in this process, and as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from eed_search.cli.app import app
from tests.waiting import HANGS_S

ROOT = Path(__file__).parents[2]

# The search with the stub instead of the trial that trains: Ray, Optuna, MLflow and the ledger are real.
STUBBED = """
import sys
import eed_search
from tests.search import stub_pipeline
sys.modules["eed_search.trial"] = eed_search.trial = stub_pipeline
from eed_search.cli import main
sys.argv[0] = "eed-search"
main()
"""


def call(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def environment(**more: str) -> dict[str, str]:
    """Give the environment of a process that finds eed_search and the tests."""
    kept = {key: value for key, value in os.environ.items() if key not in ("EED_SEARCH_HOME", "COLUMNS")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def python(code: str, *arguments: object, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own; its output is no terminal."""
    command = [sys.executable, "-c", code, *(str(argument) for argument in arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=HANGS_S, check=False
    )
