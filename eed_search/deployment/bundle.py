"""The bundle: one folder that holds a deployed team, what was claimed of it, and the proof that it still answers so.

```
manifest.json        format, gate, members in order, class names, how a photograph becomes an input, versions,
                     SHA-256 of every file but the next
manifest.sha256      SHA-256 of the manifest, as `sha256sum -c` reads it
member-1.onnx …      weights and softmax inside; input `images`, output `probabilities`
runtime.py           runs the bundle with numpy and onnxruntime alone
replay.npz           inputs with the labels and members run that torch gave
claims.json          what was measured
config.json          how the team was made
search_space.yaml    runs exactly this point again
README.md            what it is, how to run it, and what was measured, as one table
```

The digests find what was altered by accident or left half done. Whoever forges a bundle can write
them anew: compare the manifest's SHA-256, which `verify` prints, with one kept elsewhere. What a stranger's bundle
may do all the same is bounded: how it is read (`runtime`, `replay`), and which runtime.py is ours (`runtimes`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import eed_search
from eed_search.config import plugins
from eed_search.config.loader import table_of
from eed_search.core.errors import BundleError, SpecError
from eed_search.deployment import card, runtime, runtimes
from eed_search.deployment.replay import Replay, read_replay, replay_bytes
from eed_search.deployment.runtime import GatedClassifier, GateSettings
from eed_search.system.memory import available_bytes

__all__ = ["GateSettings", "Replay", "VerifyReport", "open_bundle", "refuse_existing", "verify", "write_bundle"]

_REPLAY, _CLAIMS, _CONFIG, _SPACE = "replay.npz", "claims.json", "config.json", "search_space.yaml"
_RUNTIME, _README = "runtime.py", "README.md"
_REQUIRED = (_REPLAY, _CLAIMS, _CONFIG, _SPACE, _RUNTIME, _README)
_ODD_BATCH = 7  # leaves a rest in almost every set and mixes exits within a batch


@dataclass(frozen=True)
class VerifyReport:
    """What a sound bundle was found to hold.

    Attributes:
        num_files: Files whose SHA-256 was right.
        num_members: Members in the team.
        num_inputs: Stored inputs that were replayed.
        batch_sizes: Batch sizes of the replay.
        mean_members_run: Over the stored inputs.
        manifest_sha256: Names the whole bundle, since the manifest names every file.
        foreign_runtime: SHA-256 of its runtime.py where no version of eed-search has written that; else empty.
        plugins: User code that a launch of its search_space.yaml would run.
        claims: What it claims, one line each.
    """

    num_files: int
    num_members: int
    num_inputs: int
    batch_sizes: tuple[int, ...]
    mean_members_run: float
    manifest_sha256: str
    foreign_runtime: str = ""
    plugins: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()

    def __str__(self) -> str:
        batches = ", ".join(map(str, self.batch_sizes))
        return (
            f"{self.num_files} files have the SHA-256 of the manifest; {self.num_inputs} stored inputs at batch {batches}"
            " gave the labels and numbers of members run of the trained team"
            f" ({self.mean_members_run:.2f} of {self.num_members} on average); manifest SHA-256 {self.manifest_sha256[:16]}"
        )


def write_bundle(
    out: Path,
    members_onnx: Sequence[bytes],
    gate: GateSettings,
    image_shape: tuple[int, int, int],
    classes: int | Sequence[str],
    *,
    replay: Replay,
    claims: Mapping[str, Any],
    config: Mapping[str, Any],
    search_space_yaml: str,
) -> Path:
    """Write a bundle, verify it, and only then let it appear under its name.

    Args:
        out: The folder to make; must not exist.
        members_onnx: In gate order, as `to_onnx` writes them.
        gate: When the team stops.
        image_shape: (channels, height, width).
        classes: How many, or a name for each.
        replay: Inputs with known answers.
        claims: What was measured; JSON-ready.
        config: How the team was made; JSON-ready.
        search_space_yaml: A search-space file that runs this point again.

    Returns:
        The folder.

    Raises:
        BundleError: If the folder exists or cannot be written, or the exported team gives another
            answer than the replay expects. Nothing is left behind then.
    """
    refuse_existing(out)
    names = [str(i) for i in range(classes)] if isinstance(classes, int) else [str(name) for name in classes]
    files = {f"member-{i}.onnx": member for i, member in enumerate(members_onnx, start=1)}
    manifest: dict[str, Any] = {
        "format": runtime.FORMAT,
        "format_version": runtime.FORMAT_VERSION,
        "members": list(files),
        "gate": asdict(gate),
        "image_shape": list(image_shape),
        "num_classes": len(names),
        "class_names": names,
        "preprocessing": runtime.preprocessing(image_shape),
        "versions": _versions(),
        "robust_accuracies": card.robust_accuracies(claims),
    }
    files |= {
        _REPLAY: replay_bytes(replay),
        _CLAIMS: _json(claims),
        _CONFIG: _json(config),
        _SPACE: search_space_yaml.encode("utf-8", "backslashreplace"),
        _RUNTIME: Path(runtime.__file__).read_bytes(),
        _README: _readme(out.name, manifest, replay, claims).encode("utf-8", "backslashreplace"),
    }
    with _appearing(out) as made:
        for name, data in _sealed(manifest, files).items():
            _write(made / name, data)
        verify(made)
    return out


def _sealed(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Add the manifest, with the digest of every file, and its own digest."""
    text = _json({**manifest, "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}})
    digest = f"{hashlib.sha256(text).hexdigest()}  {runtime.MANIFEST}\n".encode()
    return {**files, runtime.MANIFEST: text, runtime.MANIFEST_DIGEST: digest}


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """Give a hidden folder that takes its name once it is whole; after a failure nothing is left.

    Raises:
        BundleError: If it cannot be made, or what is written into it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise BundleError(f"{out}: cannot be made ({error.strerror}); choose another folder") from error
    try:
        yield made
        made.chmod(0o755)
        refuse_existing(out)  # rename would replace an empty folder made meanwhile
        made.rename(out)
    except OSError as error:
        raise BundleError(
            f"{out}: cannot be written ({error.strerror}); free the disk or choose another folder"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def verify(folder: Path, *, strict: bool = False) -> VerifyReport:
    """Check every file's SHA-256, the manifest's too, then replay the stored inputs at batch 1, 7 and all at once.

    The bundle's own runtime.py is compared by digest with those that eed-search has written, and not run: code from a
    bundle runs only when its user starts it. Its networks are run.

    Args:
        folder: The bundle.
        strict: Whether a runtime.py that eed-search has never written is an error.

    Returns:
        What was checked.

    Raises:
        BundleError: If a file is missing, altered, too large, no regular file or one too many, or an input gets
            another label or number of members run; names the file or the input.
    """
    with _one_kind_of_error(folder):
        manifest, files = _read(folder)
        _refuse_missing_and_extra(folder, manifest, files)
        foreign = _foreign_runtime(folder, manifest, files[_RUNTIME], strict)
        claims = _claims(folder / _CLAIMS, files[_CLAIMS])
        replay = read_replay(folder / _REPLAY, files[_REPLAY])
        team = GatedClassifier.from_read(folder, manifest, files)
        batch_sizes = tuple(sorted({1, min(_ODD_BATCH, len(replay.labels)), len(replay.labels)}))
        for size in batch_sizes:
            _replay(folder, team, replay, size)
        manifest_sha256 = hashlib.sha256(runtime.read_file(folder / runtime.MANIFEST, runtime.MOST_BYTES)).hexdigest()
    return VerifyReport(
        num_files=len(files),
        num_members=len(manifest["members"]),
        num_inputs=len(replay.labels),
        batch_sizes=batch_sizes,
        mean_members_run=float(replay.members_run.mean()),
        manifest_sha256=manifest_sha256,
        foreign_runtime=foreign,
        plugins=_plugins(files[_SPACE]),
        claims=claims,
    )


def open_bundle(folder: Path) -> tuple[GatedClassifier, list[bytes], Any, Any]:
    """Read a bundle and load its members; nothing is replayed.

    Args:
        folder: The bundle.

    Returns:
        The team, its members' ONNX bytes in gate order, its claims, and how it was made: the last two as it says, unchecked.

    Raises:
        BundleError: If the bundle is missing or altered, or holds what no bundle holds.
    """
    with _one_kind_of_error(folder):
        manifest, files = _read(folder)
        claims, config = (runtime.read_json(folder / name, files.get(name, b"{}")) for name in (_CLAIMS, _CONFIG))
        team = GatedClassifier.from_read(folder, manifest, files)
    return team, [files[name] for name in manifest["members"]], claims, config


@contextmanager
def _one_kind_of_error(folder: Path) -> Iterator[None]:
    """Turn what goes wrong with a bundle into a BundleError."""
    try:
        yield
    except runtime.RuntimeFault as fault:
        raise BundleError(str(fault)) from fault
    except OSError as error:
        raise BundleError(f"{folder}: cannot be read ({error.strerror}); copy or export the bundle again") from error
    except MemoryError as error:
        raise BundleError(f"{folder}: memory ran out; allow this process more of it") from error


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a bundle that this machine's memory can hold: its files, and the networks that are loaded from them."""
    left = available_bytes()
    return runtime.read_bundle(folder, runtime.MOST_BYTES if left is None else min(runtime.MOST_BYTES, left // 2))


def refuse_existing(out: Path) -> None:
    """Refuse to write where anything is already.

    Raises:
        BundleError: If it exists, a dangling link included.
    """
    if os.path.lexists(out):
        raise BundleError(f"{out}: exists already and is left as it is; give a new folder")


def _refuse_missing_and_extra(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    if missing := [name for name in _REQUIRED if name not in files]:
        raise BundleError(f"{folder / runtime.MANIFEST}: lists no {missing[0]}; export the bundle again")
    # Python imports what lies beside a script that it runs: a file such as numpy.py must not be among a bundle's
    if foreign := [name for name in files if name not in (*_REQUIRED, *manifest["members"])]:
        raise BundleError(
            f"{folder / foreign[0]}: is listed in the manifest, and no export has ever written such a file; do not use the"
            " bundle"
        )
    known = {*files, runtime.MANIFEST, runtime.MANIFEST_DIGEST}
    with os.scandir(folder) as entries:
        extra = next((entry.name for entry in entries if entry.name not in known), None)  # there may be millions
    if extra is not None:
        made = " (Python made it as runtime.py was imported)" if extra == "__pycache__" else ""
        raise BundleError(
            f"{folder / runtime.plain(extra)}: is not in the manifest{made}; take it out of the bundle or export again"
        )


def _foreign_runtime(folder: Path, manifest: Mapping[str, Any], code: bytes, strict: bool) -> str:
    """Give the digest of a runtime.py that is not eed-search's; nothing where it is.

    Raises:
        BundleError: If it is foreign and that is not allowed.
    """
    if runtimes.is_shipped(code, manifest["format_version"]):
        return ""
    digest = hashlib.sha256(code).hexdigest()
    if strict:
        raise BundleError(
            f"{folder / _RUNTIME}: is none that eed-search has written for bundles of format {manifest['format_version']}"
            f" (SHA-256 {digest[:16]}…); do not run it. Take the one of your own installation:"
            " `python -m eed_search.deployment.runtime BUNDLE photo.jpg`"
        )
    return digest


def _claims(path: Path, data: bytes) -> tuple[str, ...]:
    claims = runtime.read_json(path, data)
    try:
        return tuple(card.claim_lines(claims))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise BundleError(
            f"{path}: is not as an export writes it ({type(error).__name__}); export the bundle again"
        ) from error


def _plugins(search_space: bytes) -> tuple[str, ...]:
    """Name the user code of a search-space file, as far as it can be read; `check` says what is wrong with it."""
    try:
        return tuple(plugins.entries(table_of(search_space, _SPACE)))
    except SpecError:
        return ()


def _replay(folder: Path, team: GatedClassifier, replay: Replay, batch_size: int) -> None:
    for start in range(0, len(replay.labels), batch_size):
        answer = team.predict(replay.images[start : start + batch_size])
        expected = (replay.labels[start : start + batch_size], replay.members_run[start : start + batch_size])
        differ = np.flatnonzero((answer.labels != expected[0]) | (answer.num_members_run != expected[1]))
        if differ.size:
            i = int(differ[0])
            raise BundleError(
                f"{folder / _REPLAY}: input {start + i} at batch {batch_size}: label {answer.labels[i]} by"
                f" {answer.num_members_run[i]} members; the trained team gave label {expected[0][i]} by"
                f" {expected[1][i]}. Do not deploy it; export again"
            )


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _versions() -> dict[str, str]:
    found = {"eed_search": eed_search.__version__}
    for name in ("torch", "onnx", "onnxruntime", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# ---------------------------------------------------------------- the README


def _readme(name: str, manifest: Mapping[str, Any], replay: Replay, claims: Mapping[str, Any]) -> str:
    channels, height, width = manifest["image_shape"]
    rows = "\n".join(f"| {key} | {value} |" for key, value in card.table(manifest, claims))
    return f"""# {name}

| what | |
| --- | --- |
{rows}

Everything that was measured is in claims.json.

## Use it

Is it from a stranger? `eed-search verify --strict DIR` first, which says whether this runtime.py is eed-search's own; or
run the networks with your own installation's, from another folder: `python -m eed_search.deployment.runtime DIR photo.jpg`.

```
pip install numpy onnxruntime pillow
python runtime.py . photo.jpg
```

From Python, in this folder or with it on `sys.path`:

```python
from runtime import GatedClassifier

team = GatedClassifier(".")
for answer in team.predict_files(["photo.jpg"]):
    print(answer.file, answer.name, answer.probability)
```

`team.predict(images)` takes float32 arrays [n, {channels}, {height}, {width}] in [0, 1] and needs no Pillow; so does
`python runtime.py . IMAGES.npy`.

## Check it, make it again

`eed-search verify DIR` checks every file's SHA-256 and replays the {len(replay.labels)} inputs of replay.npz
({replay.num_skipped} more were left out because rounding alone could change their answer). `sha256sum -c manifest.sha256` checks the
manifest, which names every other file. `eed-search attack DIR` attacks it; `eed-search launch search_space.yaml` makes it again.
"""
