from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from privfed.errors import UsageError
from privfed.report.images import ImageGrid, png


def decoded(source: str) -> np.ndarray:
    head, _, body = source.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def test_another_decoder_reads_what_was_written() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 13), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)


def test_high_values_are_dark_and_the_range_is_public() -> None:
    images = np.array([[[0.0, 8.0, 16.0, -3.0, 99.0]]])
    grid = ImageGrid.of("t", images, captions=("a",), low=0.0, high=16.0)
    assert decoded(grid.tiles[0].source).tolist() == [[255, 128, 0, 255, 0]]
    assert (grid.tiles[0].width, grid.tiles[0].height) == (5, 1)


def test_one_tile_per_image_in_order() -> None:
    images = np.stack([np.full((2, 2), value) for value in (0.0, 1.0)])
    grid = ImageGrid.of("t", images, captions=("zero", "one"), low=0, high=1)
    assert [(tile.caption, int(decoded(tile.source)[0, 0])) for tile in grid.tiles] == [("zero", 255), ("one", 0)]


@pytest.mark.parametrize(
    ("images", "captions", "low", "high", "words"),
    [
        (np.zeros((2, 2)), ("a", "b"), 0, 1, r"shape \(2, 2\)"),
        (np.zeros((1, 0, 2)), ("a",), 0, 1, "sides of 1"),
        (np.zeros((1, 2, 300)), ("a",), 0, 1, "256 pixels"),
        (np.zeros((2, 2, 2)), ("a",), 0, 1, "2 images have 1 captions"),
        (np.zeros((1, 2, 2)), ("a",), 1, 1, "range 1 to 1"),
        (np.zeros((1, 2, 2)), ("a",), 0, np.inf, "finite"),
        (np.full((1, 2, 2), np.nan), ("a",), 0, 1, "not finite"),
    ],
)
def test_misuse_is_refused(images: np.ndarray, captions: tuple[str, ...], low: float, high: float, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ImageGrid.of("t", images, captions=captions, low=low, high=high)


@pytest.mark.parametrize("picture", [np.zeros((2, 2)), np.zeros(3, np.uint8), np.zeros((0, 2), np.uint8)])
def test_a_png_needs_bytes_in_two_dimensions(picture: np.ndarray) -> None:
    with pytest.raises(UsageError, match="expected"):
        png(picture)
