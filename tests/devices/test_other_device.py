"""Everything that a trial computes works on a device that is not the CPU, and gives the CPU's results.

No GPU is at hand where these tests run; `other_device` takes its place. Each check (`checks`) runs in a process of its own, since
torch makes its threads for the devices that it knows when it computes its first gradient.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.calling import python

NAMES = [
    "trial_equals_the_cpus",
    *(f"member_{name}" for name in ("channels", "weights", "radmm_filter", "radmm_irregular", "cstar")),
    *("member_learned_channels", "member_learned_weights"),
    *("pool", "attack_tier_1", "attack_paper_table", "training_goes_on", "dry_run"),
    *(
        f"fault: {name}"
        for name in (
            "a forgotten .to",
            "a mask of the CPU",
            "a generator of the CPU",
            "a buffer of the CPU",
            ".numpy() of a device tensor",
            "a constant made on the CPU inside a loss",
            "images that stay on the CPU",
        )
    ),
]
FAST = {"training_goes_on"}
SLOW = {
    "attack_paper_table",
    "member_channels",
    "member_cstar",
    "member_weights",
    "member_radmm_filter",
    "member_learned_weights",
    "pool",
    "dry_run",
}
RUN = "import sys; from pathlib import Path; from tests.devices.checks import CHECKS; CHECKS[sys.argv[1]](Path(sys.argv[2]))"


def _marked(name: str) -> Any:
    marks = [] if name in FAST else [pytest.mark.slow if name in SLOW else pytest.mark.whole]
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [_marked(name) for name in NAMES])
def test_it_works_there(name: str, tmp_path: Path) -> None:
    """Or, of a seeded fault, is noticed."""
    done = python(RUN, name, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_check_is_named_here(tmp_path: Path) -> None:
    done = python("from tests.devices.checks import CHECKS; print(*CHECKS, sep=chr(10))")
    assert done.stdout.splitlines() == NAMES, done.stderr[-3000:]
