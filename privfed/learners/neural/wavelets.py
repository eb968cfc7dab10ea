"""Two-layer Morlet scattering: fixed image features that no data went into, for linear heads under tight budgets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, checked_integer
from privfed.learners.neural.losses import require_torch
from privfed.query import FloatArray

if TYPE_CHECKING:
    import torch

__all__ = ["n_scattering_channels", "scattering"]

FIRST_FREQUENCY, WIDTH, SLANT = 3.0 * math.pi / 4.0, 0.8, 4.0  # of the wavelets, after Bruna and Mallat 2013
AT_A_TIME = 32  # images: what fits the processor's caches
EPSILON = 1e-5  # of a variance: flat groups stay flat


def n_scattering_channels(scales: int = 2, angles: int = 8) -> int:
    """Return the channels per image channel: 1 + J L + L^2 J (J - 1) / 2.

    >>> n_scattering_channels(2, 8)
    81
    """
    return 1 + scales * angles + angles**2 * scales * (scales - 1) // 2


def scattering(
    image_shape: tuple[int, int],
    *,
    scales: int = 2,
    angles: int = 8,
    groups: int | None = 27,
    dtype: str = "float32",
) -> torch.nn.Module:
    """Return a torch module that maps images to their scattering coefficients: fixed, public, nothing to train.

    Layers: |x * psi| and ||x * psi| * psi'| over `scales` octaves and `angles` directions, then a low pass and every
    2^J-th pixel. Put it first in a `Sequential`: its outputs are then computed once per array of rows and kept.

    Args:
        image_shape: height and width; inputs are `(rows, height, width)` or `(rows, 1, height, width)`.
        scales: J >= 1; the output's sides are `ceil(side / 2^J)`.
        angles: L >= 1.
        groups: groups of channels that are normalised per image to mean 0 and variance 1; every image's features
            then have one and the same length, sqrt of their number, which bounds a linear head's gradients by a public
            constant. None leaves the coefficients as they are.
        dtype: "float32" or "float64".

    Returns:
        Module with outputs `(rows, channels * height' * width')`: 81 * 7 * 7 = 3969 for 28 by 28 pixels.

    Raises:
        UsageError: torch is missing, or arguments out of range.

    Sources:
        Bruna and Mallat 2013, Invariant scattering convolution networks, arXiv:1203.1513; under DP: Tramer and Boneh
        2021, arXiv:2011.11660.

    Examples:
        >>> import torch
        >>> scattering((28, 28))(torch.zeros(2, 28, 28)).shape
        torch.Size([2, 3969])
    """
    require_torch()
    import torch

    height, width = (checked_integer("a side of image_shape", side, least=2) for side in image_shape)
    scales = checked_integer("scales", scales, least=1, most=6)
    angles = checked_integer("angles", angles, least=1)
    channels = n_scattering_channels(scales, angles)
    if groups is not None and channels % checked_integer("groups", groups, least=1):
        raise UsageError(f"groups is {groups}, expected a divisor of the {channels} channels")
    step = 2**scales
    size = (step * (math.ceil(height / step) + 1), step * (math.ceil(width / step) + 1))

    class Scattering(torch.nn.Module):
        """Wavelets in the Fourier domain and low passes in space, as buffers."""

        def __init__(self) -> None:
            super().__init__()
            precision = _torch_dtype(dtype)
            turned = [math.pi * angle / angles for angle in range(angles)]
            for j in range(scales):
                bank = np.array([_morlet(size, j, theta) for theta in turned])
                self.register_buffer(f"wavelets_{j}", torch.tensor(bank, dtype=precision))
                sides = [_low_pass(side // 2**j, scales - 1 - j, step // 2**j) for side in size]
                self.register_buffer(f"rows_{j}", torch.tensor(sides[0], dtype=precision))
                self.register_buffer(f"columns_{j}", torch.tensor(sides[1].T.copy(), dtype=precision))

        def extra_repr(self) -> str:
            return f"image_shape={(height, width)}, scales={scales}, angles={angles}, groups={groups}"

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cat([self._coefficients(part) for part in torch.split(images, AT_A_TIME)])

        def _coefficients(self, images: torch.Tensor) -> torch.Tensor:
            whole = _padded(images.reshape(-1, 1, height, width), size)
            found, spectrum = [self._smooth(whole, 0)], torch.fft.fft2(whole)
            for j in range(scales):
                first = self._moduli(spectrum, j, 0)
                found.append(self._smooth(first, j))
                if j + 1 == scales:
                    continue
                spectra = torch.fft.fft2(first)
                for k in range(j + 1, scales):
                    found += [self._smooth(self._moduli(part, k, j), k) for part in torch.split(spectra, 1, dim=1)]
            features = torch.cat(found, dim=1)
            return features.flatten(1) if groups is None else _normalised(features, groups)

        def _moduli(self, spectrum: torch.Tensor, j: int, coarser: int) -> torch.Tensor:
            """Return |x * psi| for the wavelets of octave j on every 2^j-th pixel; x has every 2^coarser-th."""
            wavelets = _folded(getattr(self, f"wavelets_{j}"), 2**coarser, mean=False) if coarser else None
            product = spectrum * (getattr(self, f"wavelets_{j}") if wavelets is None else wavelets)
            wave = torch.view_as_real(torch.fft.ifft2(_folded(product, 2 ** (j - coarser))))
            return wave.square().sum(dim=-1).sqrt()

        def _smooth(self, images: torch.Tensor, j: int) -> torch.Tensor:
            """Return the low pass of images that have every 2^j-th pixel, on every 2^J-th."""
            low: torch.Tensor = getattr(self, f"rows_{j}") @ images @ getattr(self, f"columns_{j}")
            return low

    return Scattering().train(False)


def _folded(spectrum: torch.Tensor, factor: int, *, mean: bool = True) -> torch.Tensor:
    """Return the transform of every `factor`-th pixel, from that of all; without `mean`, that of a filter."""
    if factor == 1:
        return spectrum
    *lead, h, w = spectrum.shape
    parts = spectrum.reshape(*lead, factor, h // factor, factor, w // factor)
    return parts.mean(dim=(-4, -2)) if mean else parts.sum(dim=(-4, -2))


def _low_pass(side: int, j: int, step: int) -> FloatArray:
    """Return the matrix of a periodic Gaussian low pass at scale 2^j on every `step`-th pixel, the first left out."""
    sigma, places = WIDTH * 2.0**j, np.arange(side)
    offsets = places[None, :] - np.arange(step, side, step)[:, None]
    found = sum(np.exp(-((offsets + turn * side) ** 2) / (2.0 * sigma**2)) for turn in (-2, -1, 0, 1, 2))
    return np.asarray(found / np.sum(found, axis=1, keepdims=True))


def _torch_dtype(dtype: str) -> torch.dtype:
    import torch

    if dtype not in ("float32", "float64"):
        raise UsageError(f"dtype is {dtype!r}, expected 'float32' or 'float64'")
    found: torch.dtype = getattr(torch, dtype)
    return found


def _padded(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the images with half of the missing pixels before and behind, mirrored at the edges or, where there are
    too few, repeated.
    """  # fmt: skip
    import torch

    height, width = images.shape[2:]
    missing = size[0] - height, size[1] - width
    before, behind = [each // 2 for each in missing], [each - each // 2 for each in missing]
    mode = "reflect" if behind[0] < height and behind[1] < width else "replicate"
    found: torch.Tensor = torch.nn.functional.pad(images, (before[1], behind[1], before[0], behind[0]), mode=mode)
    return found


def _normalised(features: torch.Tensor, groups: int) -> torch.Tensor:
    """Return features of mean 0 and variance 1 in each group of channels of each image."""
    rows = len(features)
    parts = features.reshape(rows, groups, -1)
    centred = parts - parts.mean(dim=2, keepdim=True)
    scaled = centred / (centred.square().mean(dim=2, keepdim=True) + EPSILON**2).sqrt()
    found: torch.Tensor = scaled.reshape(rows, -1)
    return found


def _gabor(size: tuple[int, int], sigma: float, theta: float, xi: float, slant: float) -> npt.NDArray[np.complex128]:
    """Return a periodised Gabor function in space: a Gaussian times a plane wave."""
    rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    curvature = rotation @ np.diag([1.0, slant**2]) @ rotation.T / (2.0 * sigma**2)
    found = np.zeros(size, dtype=np.complex128)
    rows, columns = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    for shift_r in (-2, -1, 0, 1, 2):
        for shift_c in (-2, -1, 0, 1, 2):
            r, c = rows + shift_r * size[0], columns + shift_c * size[1]
            exponent = curvature[0, 0] * r * r + 2.0 * curvature[0, 1] * r * c + curvature[1, 1] * c * c
            wave = 1j * xi * (r * math.cos(theta) + c * math.sin(theta))
            found += np.exp(-exponent + wave)
    return np.asarray(found / (2.0 * math.pi * sigma**2 / slant))


def _morlet(size: tuple[int, int], j: int, theta: float) -> FloatArray:
    """Return the transform of a Morlet wavelet at scale 2^j: a Gabor function less a Gaussian, of mean 0."""
    sigma, xi, slant = WIDTH * 2.0**j, FIRST_FREQUENCY / 2.0**j, SLANT / 8.0
    wave, envelope = _gabor(size, sigma, theta, xi, slant), _gabor(size, sigma, theta, 0.0, slant)
    return np.asarray(np.fft.fft2(wave - wave.sum() / envelope.sum() * envelope).real)
