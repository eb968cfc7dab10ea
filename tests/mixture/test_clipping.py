"""Clip bounds and the biases they cause, by simulation and by scipy's distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from privfed.statistics.mixture_clipping import block_costs, clipping, matrix_bound
from tests.mixture.cases import TYPES

DIMENSIONS = [1, 2, 4, 8, 32]


@pytest.mark.parametrize("d", DIMENSIONS)
def test_bounds_are_the_stated_quantiles(d):
    square = stats.chi2(d).ppf(0.9)
    assert clipping("full", d).mean_clip == pytest.approx(np.sqrt(square), rel=1e-12)
    assert clipping("full", d).second_clip == pytest.approx(np.sqrt(max(square**2 - 2 * square + d, d)), rel=1e-12)
    bound = clipping("spherical", d).second_clip
    inside = stats.chi2(d).cdf(d * (1 + bound)) - stats.chi2(d).cdf(d * (1 - bound))
    assert inside == pytest.approx(0.95, abs=1e-9)
    squares = np.random.default_rng(0).standard_normal((40_000, d)) ** 2
    assert (np.linalg.norm(squares - 1, axis=1) <= clipping("diag", d).second_clip).mean() == pytest.approx(
        0.95, abs=0.01
    )


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("scale", [0.2, 1.0, 2.5])
def test_the_response_is_what_a_gaussian_gives(kind, d, scale):
    clips = clipping(kind, d)
    y = np.sqrt(scale) * np.random.default_rng(d).standard_normal((60_000, d))
    norms = np.linalg.norm(y, axis=1, keepdims=True)
    if kind in ("full", "tied"):
        values = ((y * np.minimum(1, clips.mean_clip / norms)) ** 2).mean(axis=1)
    elif kind == "diag":
        second = y**2 - 1
        sizes = np.linalg.norm(second, axis=1, keepdims=True)
        values = 1 + (second * np.minimum(1, clips.second_clip / sizes)).mean(axis=1)
    else:
        values = 1 + np.clip((norms[:, 0] ** 2) / d - 1, -clips.second_clip, clips.second_clip)
    response = np.interp(scale, clips.scales, clips.responses)
    assert response == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(60_000) + 0.006)
    assert clips.variance(response) == pytest.approx(scale, rel=0.02)  # and undoing it gives the scale back


@pytest.mark.parametrize("d", DIMENSIONS)
def test_a_shift_moves_the_clipped_mean_by_its_slope(d):
    clips = clipping("full", d)
    shift = 0.1 * np.ones(d) / np.sqrt(d)
    y = np.random.default_rng(1).standard_normal((200_000 // d, d))

    def clipped(rows):
        return rows * np.minimum(1, clips.mean_clip / np.linalg.norm(rows, axis=1, keepdims=True))

    moved = (clipped(y + shift) - clipped(y - shift)).mean(axis=0) / 2
    assert float(moved @ shift / (shift @ shift)) == pytest.approx(clips.mean_slope, abs=0.01)
    assert 0.6 < clips.mean_slope < 1


def test_the_response_never_falls():
    for kind in TYPES:
        for d in DIMENSIONS:
            assert (np.diff(clipping(kind, d).responses) >= 0).all()


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_bound_of_the_matrix_is_its_greatest_norm(d):
    rng = np.random.default_rng(0)
    for clip in (0.5, 1.0, 3.0):
        directions = rng.standard_normal((2000, d))
        y = directions / np.linalg.norm(directions, axis=1, keepdims=True) * clip * rng.random((2000, 1))
        y[0] *= 0.0
        y[1] *= clip / np.linalg.norm(y[1])
        norms = np.linalg.norm(y[:, :, None] * y[:, None, :] - np.eye(d), axis=(1, 2)) ** 2
        assert norms.max() == pytest.approx(matrix_bound(clip, d), rel=1e-9)


def test_pooling_makes_the_second_moments_cheap():
    full, tied = (block_costs(kind, 10, 8, clipping(kind, 8))[2] for kind in ("full", "tied"))
    assert full == pytest.approx(100 * tied)
