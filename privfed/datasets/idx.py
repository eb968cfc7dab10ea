"""The IDX format of the MNIST files: a magic number, the sides, the values, all big-endian; plain or gzipped.

Two zero bytes, one for the type of the values, one for the number of axes; a 32-bit unsigned integer per axis; then the
values, the last axis fastest (LeCun, Cortes and Burges, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np

from privfed.datasets.dataset import Array, Dataset
from privfed.datasets.files import existing_file, reading
from privfed.errors import UsageError

__all__ = ["load_idx", "read_idx"]

TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_AXES: Final = 4
MAX_VALUE_BYTES: Final = 2**32
GZIP: Final = b"\x1f\x8b"


def load_idx(
    features: str | Path,
    targets: str | Path | None = None,
    *,
    name: str | None = None,
    target_names: tuple[str, ...] | None = None,
    licence: str = "",
) -> Dataset:
    """Return the records of an IDX file, and their targets out of another.

    Args:
        features: file of two to four axes, records first; three axes are images, four images with channels last. Flat
            in `X`, in the file's own type. Unsigned bytes have the public bounds 0 to 255.
        targets: file of one axis, or None.
        name: what reports call it; the features' file name by default.
        target_names: names of the classes.
        licence: under which terms the records may be used.

    Raises:
        UsageError: a file is missing, too large, truncated, longer than it says, or no IDX; or the two do not fit.
    """
    X = read_idx(features)
    if X.ndim < 2 or X.size < 1:
        raise UsageError(f"{features} holds values of shape {X.shape}, expected records of one value or more")
    y = None if targets is None else read_idx(targets)
    if y is not None and (y.ndim != 1 or y.dtype.kind not in "iu" or len(y) != len(X)):
        raise UsageError(f"{targets} holds {y.dtype} of shape {y.shape}, expected {len(X)} whole numbers on one axis")
    return Dataset(
        name=name or Path(features).name,
        X=X.reshape(len(X), -1),
        y=None if y is None else y.astype(np.int64),
        target_names=target_names,
        bounds=(0.0, 255.0) if X.dtype == np.uint8 else None,
        image_shape=X.shape[1:] if X.ndim > 2 else None,
        licence=licence,
    )


def read_idx(path: str | Path) -> Array:
    """Return the array of an IDX file, in native byte order.

    A file is told to be gzipped by its first two bytes. Of a gzipped one no more is unpacked than its header promises.

    Raises:
        UsageError: it is missing, too large, truncated, longer than it says, or no IDX.
    """
    path = existing_file(path)
    with reading(path, "IDX", ": it is truncated or damaged"), path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        if not packed:
            return _read(path, file)
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            return _read(path, cast(BinaryIO, unpacked))


def _read(path: Path, file: BinaryIO) -> Array:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\x00\x00" or magic[2] not in TYPES or not 1 <= magic[3] <= MAX_AXES:
        raise UsageError(
            f"{path} begins with {magic.hex(' ')}, expected 00 00, a type of {', '.join(f'{t:02x}' for t in TYPES)},"
            f" and 1 to {MAX_AXES} axes: it is no IDX file"
        )
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise UsageError(f"{path} ends within its header")
    shape = struct.unpack(f">{magic[3]}I", header)
    dtype = np.dtype(TYPES[magic[2]])
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_VALUE_BYTES:
        raise UsageError(f"{path} says it holds {shape} values of {dtype.itemsize} bytes, at most 4 GiB are read")
    values = file.read(size)
    if len(values) < size:
        raise UsageError(f"{path} holds {len(values)} bytes of values, its header says {size}")
    if file.read(1):
        raise UsageError(f"{path} goes on after the {size} bytes of values that its header says")
    return np.frombuffer(values, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))
