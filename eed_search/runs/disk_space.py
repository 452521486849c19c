"""Room on the disk: what a search writes beside its networks, and whether there is that much."""

from __future__ import annotations

import shutil
from pathlib import Path

# Bytes measured on finished searches: of events, study rows and logs for each trial; of report and MLflow once.
TRIAL_BYTES, LEDGER_BYTES, RUN_BYTES = 40_000, 9_000, 12_000_000


def fixed_bytes(num_trials: int) -> int:
    """Reckon what a run's folder, its ledger included, and MLflow take."""
    return RUN_BYTES + num_trials * TRIAL_BYTES


def free_bytes(home: Path) -> int:
    """Ask how much may still be written below a home, which need not be there yet."""
    home = home.expanduser().resolve()
    return shutil.disk_usage(next(folder for folder in (home, *home.parents) if folder.exists())).free


def shortage(home: Path, num_trials: int) -> str:
    """Say that the disk has less room than a search surely takes, and what to do; nothing if it has enough."""
    try:
        free = free_bytes(home)
    except OSError:  # whoever writes will say it
        return ""
    needed = fixed_bytes(num_trials)
    if free >= needed:
        return ""
    return (
        f"{home}: {size_of(free)} free, and report, MLflow and ledger of this search take some {size_of(needed)}, its"
        " networks not counted; make room, or choose another --home"
    )


def size_of(num_bytes: float) -> str:
    """Write a size for a person: `8.2 MB`, `120 MB`, `3 GB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if num_bytes >= unit:
            size = num_bytes / unit
            return f"{size:.1f} {name}" if size < 10 else f"{size:.0f} {name}"
    return f"{num_bytes / 1e3:.0f} kB"
