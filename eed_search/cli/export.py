"""`eed-search export` and `verify`: one point as a bundle, here or on shared storage, and the proof that it is sound."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eed_search.cli.console import say
from eed_search.cli.homes import open_run
from eed_search.cli.remote_cluster import flags, remote_cluster
from eed_search.cli.result import command
from eed_search.cluster.where import WhereAsked
from eed_search.core.errors import BundleError
from eed_search.core.pace import now_and_then
from eed_search.deployment.card import claim_lines
from eed_search.frontier.attacked import result_facts
from eed_search.frontier.estimate import select as select_point
from eed_search.storage.shared_storage import Storage
from eed_search.system.private import temporary_folder
from eed_search.tracking.text import how_fast, per_cent, team_title, with_arm

_WIDTH = 80
_EVERY_S = 10.0  # between two lines about a network that is made again
_LAST = "manifest.sha256"  # where it lies, all of a bundle lies


def export(
    run: str | None,
    *,
    select: str,
    max_latency_ms: float | None,
    min_robust_accuracy: float | None,
    out: str,
    home: Path,
    asked: WhereAsked,
) -> None:
    """Choose a point and write its bundle.

    Args:
        run: The search; none takes the latest.
        select: `knee`, `fastest`, `most-robust`, or a point's id.
        max_latency_ms: Choose among points at most this slow.
        min_robust_accuracy: Choose among points at least this robust (fraction).
        out: A folder that does not exist yet, or the URL of one on shared storage.
        home: The folder that holds every search.
        asked: Where the search is; from a cluster the bundle is brought here.

    Raises:
        RunError: If there is no such search or no such point.
        BundleError: If `out` exists.
        StoreError: If the storage of a URL cannot be written.
    """
    if remote := remote_cluster(asked, home):
        limits = flags(select=select, max_latency_ms=max_latency_ms, min_robust_accuracy=min_robust_accuracy)
        words = ["export", *([run] if run else []), *limits]
        if "://" in out:
            remote.ask([*words, "--out", out])
        else:
            remote.fetch(words, Path(out))
        return
    folder, view = open_run(home, run)
    point = select_point(view, select, max_latency_ms=max_latency_ms, min_robust_accuracy=min_robust_accuracy)
    storage = Storage(out) if "://" in out else None
    if bool(storage.names("") or storage.names("", folders=True)) if storage else Path(out).exists():
        raise BundleError(f"--out {out}: exists already and is left as it is; give a new folder")
    m = point.measurement
    say(f"{folder.name} {point.id} ({team_title(point.params)}): robust {per_cent(m.robust_accuracy)},")
    say(f"  {with_arm(m.latency.latency_ms)} ms, beside the dense base {how_fast(m)}")

    from eed_search.pipeline.export import export_point  # loads torch

    report = now_and_then(say, _EVERY_S)
    if storage is None:
        made = str(export_point(view, point, home, Path(out), report))
    else:
        with temporary_folder("export") as made_here:
            storage.put_folder(export_point(view, point, home, made_here / "bundle", report), "", last=_LAST)
        made = out
    say(f"written {made}")
    say(f"check   {command('verify')} {shlex.quote(made)}")
    if storage is None:
        say(f"use     python {shlex.quote(str(Path(made) / 'runtime.py'))} {shlex.quote(made)} photo.jpg")


def verify(bundle: str, *, strict: bool = False) -> None:
    """Check a bundle's digests and replay its stored inputs.

    Args:
        bundle: Its folder, or the URL of one on shared storage.
        strict: Whether a runtime.py that eed-search has never written is an error.

    Raises:
        BundleError: If a file is missing, altered or of a kind that no bundle holds, or an answer differs.
        StoreError: If the storage of a URL cannot be reached.
    """
    with _here(bundle) as folder:
        _verify(folder, bundle, strict)


@contextmanager
def _here(bundle: str) -> Iterator[Path]:
    """Give a bundle's folder on this machine; a copy of it where it lies on shared storage."""
    if "://" not in bundle:
        yield Path(bundle)
        return
    storage = Storage(bundle)
    if (local := storage.local_folder()) is not None and local.is_dir():
        yield local  # where it lies: a copy would follow its links
        return
    with temporary_folder("bundle") as made_here:
        folder = made_here / "bundle"
        _fetch(storage, folder)
        yield folder


def _fetch(storage: Storage, folder: Path) -> None:
    """Copy a bundle's files here, after a look at how many and how large they are.

    Raises:
        BundleError: If there is none, or it is none by what is to be seen of it.
    """
    from eed_search.deployment.runtime import MOST_BYTES, MOST_FILES

    sizes = storage.sizes("")
    if not sizes:
        raise BundleError(f"{storage.url}: there is nothing; give the URL that `eed-search export --out` was given")
    if len(sizes) > MOST_FILES or sum(sizes.values()) > MOST_BYTES:
        raise BundleError(
            f"{storage.url}: holds {len(sizes):,} files of {sum(sizes.values()):,} bytes; a bundle has at most {MOST_FILES} of"
            f" {MOST_BYTES:,}"
        )
    if folders := storage.names("", folders=True):
        raise BundleError(f"{storage.url}: holds a folder {folders[0]!r}; a bundle holds files only")
    folder.mkdir()
    for name in sizes:
        if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            raise BundleError(f"{storage.url}: holds {name!r}, which no export has written")
        (folder / name).write_bytes(storage.read(name, sizes[name]) or b"")


def _verify(bundle: Path, title: str, strict: bool) -> None:
    from eed_search.deployment.bundle import verify as verify_bundle
    from eed_search.search.attack_results import beside, results_beside

    found = verify_bundle(bundle, strict=strict)
    sizes = ", ".join(str(size) for size in found.batch_sizes)
    say(f"{title}: sound{', but its runtime.py is foreign' if found.foreign_runtime else ''}")
    say(f"  {found.num_files} files have the SHA-256 that the manifest names, and the manifest has its own")
    say(f"  {found.num_inputs} stored inputs got the same label and number of members run, in batches of {sizes}")
    say(
        f"  {found.num_members} member{'' if found.num_members == 1 else 's'}, {found.mean_members_run:.2f} run for an average stored input"
    )
    say(f"  manifest {found.manifest_sha256}")
    lines = [f"claims {line}" for line in found.claims]
    for one in results_beside(bundle):
        lines += [f"{beside(bundle).name}: {line}" for line in claim_lines({"checked": result_facts(one)})]
    if found.plugins:
        lines.append(f"note: a launch of its search_space.yaml would run the code of {', '.join(found.plugins)}")
    if found.foreign_runtime:
        lines.append(
            f"warning: eed-search has never written this runtime.py (SHA-256 {found.foreign_runtime[:16]}): do not run it."
            " Run the networks with your own, from another folder:"
        )
    for line in lines:
        for wrapped in textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="    "):
            say(wrapped)
    if found.foreign_runtime:
        say(f"    python -m eed_search.deployment.runtime {shlex.quote(title)} photo.jpg")
