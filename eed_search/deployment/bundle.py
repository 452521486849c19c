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
them anew: compare the manifest's SHA-256, which `verify` prints, with one kept elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

import eed_search
from eed_search.core.errors import BundleError
from eed_search.deployment import card, runtime
from eed_search.deployment.runtime import GatedClassifier, GateSettings

__all__ = ["GateSettings", "Replay", "VerifyReport", "refuse_existing", "verify", "write_bundle"]

_REPLAY, _CLAIMS, _CONFIG, _SPACE = "replay.npz", "claims.json", "config.json", "search_space.yaml"
_RUNTIME, _README = "runtime.py", "README.md"
_REQUIRED = (_REPLAY, _CLAIMS, _CONFIG, _SPACE, _RUNTIME, _README)
_ODD_BATCH = 7  # leaves a rest in almost every set and mixes exits within a batch


@dataclass(frozen=True)
class Replay:
    """Inputs whose answers are known.

    Attributes:
        images: float32 [n, channels, height, width] in [0, 1]; at least one.
        labels: Class that torch's team gave.
        members_run: Members that it ran.
        num_skipped: Inputs left out because rounding alone could change their answer.
    """

    images: Float[np.ndarray, "n channels height width"]
    labels: Int[np.ndarray, " n"]
    members_run: Int[np.ndarray, " n"]
    num_skipped: int = 0


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
    """

    num_files: int
    num_members: int
    num_inputs: int
    batch_sizes: tuple[int, ...]
    mean_members_run: float
    manifest_sha256: str

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
    arrays = io.BytesIO()
    np.savez_compressed(
        arrays,
        images=replay.images.astype(np.float32),
        labels=replay.labels.astype(np.int64),
        members_run=replay.members_run.astype(np.int64),
        num_skipped=np.int64(replay.num_skipped),
    )
    files |= {
        _REPLAY: arrays.getvalue(),
        _CLAIMS: _json(claims),
        _CONFIG: _json(config),
        _SPACE: search_space_yaml.encode("utf-8", "backslashreplace"),
        _RUNTIME: Path(runtime.__file__).read_bytes(),
        _README: _readme(out.name, manifest, replay, claims).encode("utf-8", "backslashreplace"),
    }
    manifest["sha256"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise BundleError(f"{out}: cannot be made ({error.strerror}); choose another folder") from error
    try:
        text = _json(manifest)
        digest = f"{hashlib.sha256(text).hexdigest()}  {runtime.MANIFEST}\n".encode()
        for name, data in {**files, runtime.MANIFEST: text, runtime.MANIFEST_DIGEST: digest}.items():
            _write(made / name, data)
        verify(made)
        made.chmod(0o755)
        refuse_existing(out)  # rename would replace an empty folder made meanwhile
        made.rename(out)
    except OSError as error:
        raise BundleError(
            f"{out}: cannot be written ({error.strerror}); free the disk or choose another folder"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return out


def verify(folder: Path) -> VerifyReport:
    """Check every file's SHA-256, the manifest's too, then replay the stored inputs at batch 1, 7 and all at once.

    The bundle's own runtime.py is compared by digest and not run: code from a bundle runs only when
    its user starts it.

    Args:
        folder: The bundle.

    Returns:
        What was checked.

    Raises:
        BundleError: If a file is missing, altered or one too many, or an input gets another label or
            number of members run; names the file or the input.
    """
    try:
        manifest, files = runtime.read_bundle(folder)
        _refuse_missing_and_extra(folder, files)
        team = GatedClassifier(folder)
        replay = _read_replay(folder, files[_REPLAY])
        batch_sizes = tuple(sorted({1, min(_ODD_BATCH, len(replay.labels)), len(replay.labels)}))
        for size in batch_sizes:
            _replay(folder, team, replay, size)
    except runtime.RuntimeFault as fault:
        raise BundleError(str(fault)) from fault
    return VerifyReport(
        num_files=len(files),
        num_members=len(manifest["members"]),
        num_inputs=len(replay.labels),
        batch_sizes=batch_sizes,
        mean_members_run=float(replay.members_run.mean()),
        manifest_sha256=hashlib.sha256((folder / runtime.MANIFEST).read_bytes()).hexdigest(),
    )


def refuse_existing(out: Path) -> None:
    """Refuse to write where anything is already.

    Raises:
        BundleError: If it exists, a dangling link included.
    """
    if os.path.lexists(out):
        raise BundleError(f"{out}: exists already and is left as it is; give a new folder")


def _refuse_missing_and_extra(folder: Path, files: Mapping[str, bytes]) -> None:
    if missing := [name for name in _REQUIRED if name not in files]:
        raise BundleError(f"{folder / runtime.MANIFEST}: lists no {missing[0]}; export the bundle again")
    known = {*files, runtime.MANIFEST, runtime.MANIFEST_DIGEST}
    if extra := sorted(path.name for path in folder.iterdir() if path.name not in known):
        made = " (Python made it as runtime.py was imported)" if extra[0] == "__pycache__" else ""
        raise BundleError(
            f"{folder / extra[0]}: is not in the manifest{made}; take it out of the bundle or export again"
        )


def _read_replay(folder: Path, data: bytes) -> Replay:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            replay = Replay(arrays["images"], arrays["labels"], arrays["members_run"], int(arrays["num_skipped"]))
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{folder / _REPLAY}: cannot be read ({error}); export the bundle again") from error
    counts = {len(replay.images), len(replay.labels), len(replay.members_run)}
    if len(counts) != 1 or 0 in counts:
        raise BundleError(
            f"{folder / _REPLAY}: holds no inputs, or unequal numbers of answers; export the bundle again"
        )
    return replay


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
