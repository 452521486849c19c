"""The inputs of a bundle whose answers are known: written as one npz file, and read back from a stranger's.

An npz file is a zip archive that may claim any size and hold anything. What it says of itself is checked before a byte of
it is unpacked, and nothing in it is unpickled.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float, Int

from eed_search.core.errors import BundleError

_MOST_BYTES = 1 << 30  # bytes of all arrays together
_ARRAYS = {
    "images": (np.float32, 4),
    "labels": (np.int64, 1),
    "members_run": (np.int64, 1),
    "num_skipped": (np.int64, 0),
}


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


def replay_bytes(replay: Replay) -> bytes:
    """Write stored inputs as an npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=replay.images.astype(np.float32),
        labels=replay.labels.astype(np.int64),
        members_run=replay.members_run.astype(np.int64),
        num_skipped=np.int64(replay.num_skipped),
    )
    return buffer.getvalue()


def read_replay(path: Path, data: bytes) -> Replay:
    """Read stored inputs.

    Args:
        path: For messages.
        data: The file's bytes.

    Raises:
        BundleError: If it is no such file, too large, or holds no inputs or unequal numbers of answers.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if (size := sum(entry.file_size for entry in archive.infolist())) > _MOST_BYTES:
                raise BundleError(f"{path}: unpacks to {size:,} bytes, where at most {_MOST_BYTES:,} are read")
            arrays = {name: _array(archive, name) for name in _ARRAYS}
    except (BundleError, MemoryError):
        raise
    except Exception as error:  # a broken archive raises errors of many kinds: of zip, zlib, numpy
        raise BundleError(f"{path}: cannot be read ({_brief(error)}); export the bundle again") from error
    replay = Replay(arrays["images"], arrays["labels"], arrays["members_run"], int(arrays["num_skipped"]))
    counts = {len(replay.images), len(replay.labels), len(replay.members_run)}
    if len(counts) != 1 or 0 in counts:
        raise BundleError(f"{path}: holds no inputs, or unequal numbers of answers; export the bundle again")
    return replay


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Unpack one array whose form is as expected; the form is read first."""
    kind, num_dimensions = _ARRAYS[name]
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        shape, dtype = _form(file)
        rest = entry.file_size - file.tell()
    if dtype != kind or len(shape) != num_dimensions or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(
            f"{name} is {dtype} {list(shape)} in {rest} bytes, not {np.dtype(kind)} of {num_dimensions} dimensions"
        )
    with archive.open(entry) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _form(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, dtype = read(file)
    return shape, dtype


def _brief(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]
