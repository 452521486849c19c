"""`eed-search clean`: what a home holds, and what of it no search needs."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from eed_search.cli.console import say
from eed_search.cli.result import command, where
from eed_search.core.errors import RunError, StoreError
from eed_search.runs.cleaning import Holdings, held, release, survey
from eed_search.runs.disk_space import size_of

_MOST = 20


def clean(home: Path, *, yes: bool) -> None:
    """Print what a home holds and what can be freed, and free it if asked.

    Args:
        home: The folder that holds every search.
        yes: Free it.

    Raises:
        RunError: If there is no such home, or something in it runs.
        StoreError: If something could not be freed.
    """
    if not home.is_dir():
        raise RunError(f"{home}: is no folder, so there is nothing to clean; give the home with --home")
    home = home.resolve()
    with held(home):
        found = survey(home)
        _show(home, found)
        total = sum(one.size for one in found.free)
        if not found.free:
            say("Nothing can be freed")
            return
        if not yes:
            say(f"Nothing was freed; `{command('clean')} --yes{where(home)}` frees {size_of(total)}")
            return
        freed, failed = release(found)
    say(f"Freed {size_of(freed)}")
    if failed:
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise StoreError(f"not freed: {'; '.join(failed[:3])}{more}")


def _show(home: Path, found: Holdings) -> None:
    say(f"{home}")
    for run in found.runs:
        parts = ", ".join(f"{part} {size_of(size)}" for part, size in run.sizes.items() if size)
        say(f"  {run.name:<20} {run.state}: {parts}")
    for stage, (count, size) in sorted(found.store.items()):
        say(f"  store/{stage:<14} {count} artifact{'' if count == 1 else 's'}, {size_of(size)}")
    for name, size in found.others.items():
        say(f"  {name:<20} {size_of(size)}")
    if found.unknown:
        more = f" and {len(found.unknown) - _MOST} more" if len(found.unknown) > _MOST else ""
        say(f"  left alone, not known here: {', '.join(found.unknown[:_MOST])}{more}")
    for why in found.blocked:
        say(f"note: nothing that may be in use is freed from the store: {why}")
    sizes: defaultdict[str, int] = defaultdict(int)
    for one in found.free:
        sizes[one.why] += one.size
    counts = Counter(one.why for one in found.free)
    if sizes:
        say("Nobody needs:")
    for why, size in sizes.items():
        say(f"  {why}: {counts[why]}, {size_of(size)}")
