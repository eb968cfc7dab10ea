"""Small images side by side, such as the components of a mixture over pixels: greyscale PNG in the page itself."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfed.errors import UsageError

__all__ = ["ImageGrid", "Tile", "png"]

LARGEST_SIDE = 256  # pixels; larger pictures belong into files of their own
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Tile:
    """One picture: where its data are, what it shows, and its size in pixels."""

    source: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class ImageGrid:
    """Pictures of equal size with a caption each; high values are dark, as ink on paper.

    Attributes:
        title: heading of the grid.
        tiles: the pictures.
        low: public value that is white.
        high: public value that is black.
        caption: below the grid.
    """

    title: str
    tiles: tuple[Tile, ...]
    low: float
    high: float
    caption: str = ""

    @classmethod
    def of(
        cls,
        title: str,
        images: NDArray[Any],
        *,
        captions: tuple[str, ...],
        low: float,
        high: float,
        caption: str = "",
    ) -> ImageGrid:
        """Return a grid of `images`.

        Args:
            title: heading of the grid.
            images: shape (k, height, width), finite; values outside `low..high` are shown as the nearer end.
            captions: one per image.
            low: public value that is white.
            high: public value that is black.
            caption: below the grid.

        Raises:
            UsageError: wrong shape, too large, not finite, an empty range, or a caption missing.
        """
        array = np.asarray(images, dtype=np.float64)
        if array.ndim != 3 or 0 in array.shape[1:] or max(array.shape[1:]) > LARGEST_SIDE:
            raise UsageError(
                f"images have shape {array.shape}, expected (k, height, width) with sides of 1 to {LARGEST_SIDE} pixels"
            )
        if len(captions) != len(array):
            raise UsageError(f"{len(array)} images have {len(captions)} captions, expected one each")
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise UsageError(f"value range {low} to {high}, expected two finite numbers, the first one smaller")
        if not np.isfinite(array).all():
            raise UsageError("images hold a value that is not finite: replace it before it is drawn")
        dark = np.clip((high - array) / (high - low), 0.0, 1.0)
        grey = np.rint(dark * 255).astype(np.uint8)
        tiles = tuple(
            Tile(_data_uri(image), text, image.shape[1], image.shape[0])
            for image, text in zip(grey, captions, strict=True)
        )
        return cls(title, tiles, float(low), float(high), caption)


def png(grey: NDArray[np.uint8]) -> bytes:
    """Return an 8-bit greyscale PNG (ISO/IEC 15948) of `grey`, shape (height, width)."""
    if grey.ndim != 2 or grey.dtype != np.uint8 or 0 in grey.shape:
        raise UsageError(f"picture has shape {grey.shape} and type {grey.dtype}, expected (height, width) of uint8")
    height, width = grey.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # depth 8, greyscale, deflate, no interlace
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row begins with its filter type, 0 = none
    rows[:, 1:] = grey
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _data_uri(grey: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(png(grey)).decode("ascii")
