"""`eed-search export` and `verify`: one point as a bundle, and the proof that the bundle is sound."""

from __future__ import annotations

import shlex
from pathlib import Path

from eed_search.cli.console import say
from eed_search.cli.homes import open_run
from eed_search.cli.result import command
from eed_search.core.errors import BundleError
from eed_search.core.points import select as select_point
from eed_search.tracking.text import per_cent, team_title, with_arm


def export(
    run: str | None,
    *,
    select: str,
    max_latency_ms: float | None,
    min_robust_accuracy: float | None,
    out: Path,
    home: Path,
) -> None:
    """Choose a point and write its bundle.

    Args:
        run: The search; none takes the latest.
        select: `knee`, `fastest`, `most-robust`, or a point's id.
        max_latency_ms: Choose among points at most this slow.
        min_robust_accuracy: Choose among points at least this robust (fraction).
        out: A folder that does not exist yet.
        home: The folder that holds every search.

    Raises:
        RunError: If there is no such search or no such point.
        BundleError: If `out` exists.
    """
    folder, view = open_run(home, run)
    point = select_point(view, select, max_latency_ms=max_latency_ms, min_robust_accuracy=min_robust_accuracy)
    if out.exists():
        raise BundleError(f"--out {out}: exists already and is left as it is; give a new folder")
    m = point.measurement
    say(f"{folder.name} {point.id} ({team_title(point.params)}): robust {per_cent(m.robust_accuracy)},")
    say(f"  {with_arm(m.latency.latency_ms)} ms, {with_arm(m.latency.speedup)} × as fast as the dense base")

    from eed_search.trial import export_point  # loads torch

    made = export_point(view, point, home, out)
    say(f"written {made}")
    say(f"check   {command('verify')} {shlex.quote(str(made))}")


def verify(folder: Path) -> None:
    """Check a bundle's digests and replay its stored inputs.

    Raises:
        BundleError: If a file is missing or altered, or an answer differs.
    """
    from eed_search.deployment.bundle import verify as verify_bundle

    found = verify_bundle(folder)
    sizes = ", ".join(str(size) for size in found.batch_sizes)
    say(f"{folder}: sound")
    say(f"  {found.num_files} files have the SHA-256 that the manifest names, and the manifest has its own")
    say(f"  {found.num_inputs} stored inputs got the same label and number of members run, in batches of {sizes}")
    say(
        f"  {found.num_members} member{'' if found.num_members == 1 else 's'}, {found.mean_members_run:.2f} run for an average stored input"
    )
    say(f"  manifest {found.manifest_sha256}")
