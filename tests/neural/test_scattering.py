"""Scattering features: fixed, of one length, still under small shifts, and an independent route to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from privfed.errors import UsageError
from privfed.learners.neural.wavelets import n_scattering_channels, scattering


def test_channels_and_shapes() -> None:
    assert [n_scattering_channels(*each) for each in ((1, 8), (2, 8), (3, 4))] == [9, 81, 1 + 12 + 16 * 3]
    images = torch.rand(3, 28, 28)
    features = scattering((28, 28))(images)
    assert features.shape == (3, 81 * 49)
    torch.testing.assert_close(scattering((28, 28))(images[:, None]), features)
    assert scattering((8, 12), scales=1, angles=4, groups=None)(torch.rand(2, 8, 12)).shape == (2, 5 * 4 * 6)
    assert scattering((16, 16), scales=3, angles=2, groups=None)(torch.rand(2, 16, 16)).shape == (2, 19 * 4)


def test_every_image_has_features_of_one_length() -> None:
    """What bounds a linear head's gradient by a public constant, blank images aside."""
    images = torch.rand(20, 28, 28, dtype=torch.float64) * torch.logspace(-2, 3, 20, dtype=torch.float64)[:, None, None]
    lengths = scattering((28, 28), dtype="float64")(images).norm(dim=1).numpy()
    assert (lengths <= math.sqrt(3969) * (1 + 1e-12)).all()
    np.testing.assert_allclose(lengths[7:], math.sqrt(3969), rtol=1e-4)  # fainter ones are shorter, never longer
    assert torch.isfinite(scattering((28, 28))(torch.zeros(1, 28, 28))).all()


def test_there_is_nothing_to_train_and_no_data_went_in() -> None:
    one, two = scattering((28, 28)), scattering((28, 28))
    assert list(one.parameters()) == []
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name], rtol=0, atol=0)


def test_wavelets_do_not_see_a_constant_and_hear_their_own_direction() -> None:
    module = scattering((32, 32), scales=1, angles=4, groups=None, dtype="float64")
    flat = module(torch.full((1, 32, 32), 3.0, dtype=torch.float64)).reshape(5, -1)
    assert flat[0] == pytest.approx(3.0 * torch.ones(256, dtype=torch.float64), rel=1e-9)
    assert flat[1:].abs().max() < 1e-9
    row, column = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    for angle in range(4):
        theta = math.pi * angle / 4
        wave = np.cos(3 * math.pi / 4 * (row * math.cos(theta) + column * math.sin(theta)))
        heard = module(torch.tensor(wave)[None]).reshape(5, 16, 16)[1:, 4:12, 4:12].mean(dim=(1, 2))
        assert int(heard.argmax()) == angle


def test_the_first_layer_is_a_convolution_in_space() -> None:
    """By circular sums over pixels instead of transforms."""
    rng = np.random.default_rng(0)
    module = scattering((8, 8), scales=1, angles=2, groups=None, dtype="float64")
    image = rng.random((8, 8))
    size = module.wavelets_0.shape[-1]
    before = (size - 8) // 2
    padded = np.pad(image, (before, size - 8 - before), mode="reflect")
    filters = np.fft.ifft2(module.wavelets_0.numpy())
    for angle in range(2):
        convolved = np.zeros((size, size), dtype=complex)
        for r in range(size):
            for c in range(size):
                convolved += padded[r, c] * np.roll(filters[angle], (r, c), axis=(0, 1))
        low = module.rows_0.numpy() @ np.abs(convolved) @ module.columns_0.numpy()
        found = module(torch.tensor(image)[None]).reshape(3, 4, 4)[1 + angle]
        np.testing.assert_allclose(found.numpy(), low, atol=1e-10)


def test_a_small_shift_moves_features_less_than_pixels() -> None:
    rng = np.random.default_rng(1)
    image = torch.tensor(np.kron(rng.random((7, 7)), np.ones((4, 4))))[None]
    shifted = torch.roll(image, 1, dims=2)
    module = scattering((28, 28), groups=None, dtype="float64")
    moved = float((module(shifted) - module(image)).norm() / module(image).norm())
    assert moved < 0.5 * float((shifted - image).norm() / image.norm())


def test_bad_arguments() -> None:
    for given, message in (
        ({"image_shape": (28, 1)}, "a side of image_shape is 1"),
        ({"image_shape": (28, 28), "scales": 0}, "scales is 0"),
        ({"image_shape": (28, 28), "groups": 10}, "expected a divisor of the 81 channels"),
        ({"image_shape": (28, 28), "dtype": "float16"}, "dtype is 'float16'"),
    ):
        with pytest.raises(UsageError, match=message):
            scattering(**given)
