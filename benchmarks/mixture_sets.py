"""Data sets unlike those that the private mixture's settings were tuned on, and those of its bars."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MixtureSet:
    """Rows to train on and to score, the number of components asked for, public bounds, and whom a budget protects."""

    name: str
    train: FloatArray
    test: FloatArray
    components: int
    bounds: tuple[FloatArray, FloatArray]
    unit: Literal["record", "client"] = "record"
    clients: int = 20


def mixture(
    random: np.random.Generator,
    n: int,
    means: npt.ArrayLike,
    *,
    weights: Sequence[float] | None = None,
    roots: Sequence[FloatArray] | None = None,
) -> FloatArray:
    """Draw n rows of a mixture; `roots` are square roots of the covariances, the identity by default."""
    centres = np.asarray(means, dtype=np.float64)
    K, d = centres.shape
    labels = random.choice(K, n, p=None if weights is None else np.asarray(weights))
    noise = random.standard_normal((n, d))
    if roots is not None:
        noise = np.einsum("nij,nj->ni", np.stack(roots)[labels], noise)
    return centres[labels] + noise


def _line(K: int, d: int, gap: float) -> FloatArray:
    return gap * np.arange(K)[:, None] * np.ones(d)


def _elongated(random: np.random.Generator, n: int) -> FloatArray:
    roots = [np.linalg.qr(random.standard_normal((4, 4)))[0] @ np.diag([5.0, 1.0, 1.0, 0.5]) for _ in range(3)]
    return mixture(random, n, 6 * random.standard_normal((3, 4)), roots=roots)


def _general(random: np.random.Generator, n: int, K: int, spread: float) -> FloatArray:
    A = random.standard_normal((K, 8, 8))
    roots = list(np.linalg.cholesky(A @ np.swapaxes(A, 1, 2) / 8 + 0.3 * np.eye(8)))
    return mixture(random, n, spread * random.standard_normal((K, 8)), roots=roots)


def _outliers(random: np.random.Generator, n: int) -> FloatArray:
    rows = mixture(random, n, [[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    far = random.random(n) < 0.02
    rows[far] = random.uniform(-40, 40, (int(far.sum()), 2))
    return rows


def _ring(random: np.random.Generator, n: int) -> FloatArray:
    angle = random.uniform(0, 2 * np.pi, n)
    rows: FloatArray = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 10 + 0.7 * random.standard_normal((n, 2))
    return rows


def _grid(random: np.random.Generator, n: int) -> FloatArray:
    return mixture(random, n, [[6.0 * i, 6.0 * j] for i in range(3) for j in range(3)])


def _unequal(random: np.random.Generator, n: int) -> FloatArray:
    weights = (0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.03, 0.02, 0.01)
    return mixture(random, n, 8 * random.standard_normal((10, 4)), weights=weights)


def _axes(random: np.random.Generator, n: int) -> FloatArray:
    turned = [np.linalg.qr(random.standard_normal((6, 6)))[0] for _ in range(4)]
    lengths = np.diag(10.0 ** np.linspace(-1, 1, 6))
    return mixture(random, n, 8 * random.standard_normal((4, 6)), roots=[turn @ lengths for turn in turned])


def _crossing(random: np.random.Generator, n: int) -> FloatArray:
    roots = [np.array([[3.0, 2.9 * sign], [2.9 * sign, 3.0]]) for sign in (1, -1)] * 3
    return mixture(random, n, 10 * random.standard_normal((6, 2)), roots=roots)


def _units(random: np.random.Generator, n: int) -> FloatArray:
    return np.asarray(mixture(random, n, 5 * random.standard_normal((3, 3))) * np.array([1e-3, 1.0, 1e3]))


Draw = Callable[[np.random.Generator, int], FloatArray]
# name: rows to train on, components asked for, how rows are drawn
UNSEEN: Mapping[str, tuple[int, int, Draw]] = {
    "line of 3, few rows": (480, 3, lambda r, n: mixture(r, n, _line(3, 3, 8.0))),
    "line of 3": (8000, 3, lambda r, n: mixture(r, n, _line(3, 3, 8.0))),
    "line of 5": (2000, 5, lambda r, n: mixture(r, n, _line(5, 2, 5.0))),
    "line of 6 in 6-d": (6000, 6, lambda r, n: mixture(r, n, _line(6, 6, 3.0))),
    "unequal weights": (
        3000,
        4,
        lambda r, n: mixture(r, n, 6 * r.standard_normal((4, 3)), weights=(0.6, 0.25, 0.1, 0.05)),
    ),
    "elongated": (4000, 3, _elongated),
    "side by side": (
        3000,
        3,
        lambda r, n: mixture(r, n, [[0, 0], [0, 4], [0, 8]], roots=[np.diag([8.0, 0.7])] * 3),
    ),
    "four scales": (
        4000,
        4,
        lambda r, n: mixture(r, n, 10 * r.standard_normal((4, 3)), roots=[s * np.eye(3) for s in (0.2, 1, 2, 5)]),
    ),
    "units 1e-3 to 1e3": (3000, 3, _units),
    "2 clusters, K=5": (3000, 5, lambda r, n: mixture(r, n, [[0, 0], [7, 7]])),
    "6 clusters, K=3": (3000, 3, lambda r, n: mixture(r, n, 8 * r.standard_normal((6, 2)))),
    "2 % outliers": (3000, 3, _outliers),
    "240 rows": (240, 3, lambda r, n: mixture(r, n, [[0, 0], [8, 0], [0, 8]])),
    "600 rows in 16-d": (600, 4, lambda r, n: mixture(r, n, 3 * r.standard_normal((4, 16)))),
    "3 x 3 grid": (5000, 9, _grid),
    "one feature": (2000, 4, lambda r, n: mixture(r, n, [[0.0], [6.0], [12.0], [30.0]])),
    "log-normal": (4000, 4, lambda r, n: np.exp(0.8 * r.standard_normal((n, 2)))),
    "ring": (5000, 8, _ring),
    "ten of 1 to 30 %": (20_000, 10, _unequal),
    "heavy tails": (
        5000,
        4,
        lambda r, n: 8 * r.standard_normal((4, 3))[r.integers(4, size=n)] + r.standard_t(3, (n, 3)),
    ),
    "six axis lengths": (10_000, 4, _axes),
    "few rows in 30-d": (5000, 4, lambda r, n: mixture(r, n, 2 * r.standard_normal((4, 30)))),
    "20 clusters": (20_000, 20, lambda r, n: mixture(r, n, 6 * r.standard_normal((20, 4)))),
    "two in a line": (500, 2, lambda r, n: mixture(r, n, [[0.0], [6.0]])),
    "one cluster": (1000, 1, lambda r, n: mixture(r, n, [[0.0, 0.0, 0.0]], roots=[np.diag([5.0, 1.0, 0.2])])),
    "overlapping": (10_000, 4, lambda r, n: mixture(r, n, 2 * r.standard_normal((4, 5)))),
    "crossing": (6000, 6, _crossing),
    "general in 8-d": (4000, 6, lambda r, n: _general(r, n, 6, 4.0)),
}


def unseen(name: str) -> MixtureSet:
    """Return a set of `UNSEEN`: as many rows again to score, bounds off centre and four times as wide as the data."""
    n, K, draw = UNSEEN[name]
    random = np.random.default_rng(zlib.crc32(name.encode()))
    rows = draw(random, n + max(n, 4000))
    train, test = rows[:n], rows[n:]
    middle, reach = train.mean(axis=0), np.abs(train - train.mean(axis=0)).max(axis=0)
    offset = random.uniform(-0.3, 0.3, len(middle)) * reach
    return MixtureSet(name, train, test, K, (middle + offset - 2 * reach, middle + offset + 2 * reach))


def blobs() -> MixtureSet:
    """Return scikit-learn's blobs: 8000 rows in 4 dimensions, 5 clusters."""
    from sklearn.datasets import make_blobs

    rows, _ = make_blobs(10_000, n_features=4, centers=5, random_state=1)
    return MixtureSet("blobs", rows[:8000], rows[8000:], 5, (np.full(4, -20.0), np.full(4, 20.0)))


def synthetic() -> MixtureSet:
    """Return 50 000 rows in 8 dimensions of 10 general components."""
    rows = _general(np.random.default_rng(5), 70_000, 10, 3.0)
    return MixtureSet("50k x 8", rows[:50_000], rows[50_000:], 10, (np.full(8, -16.0), np.full(8, 16.0)))


def digits() -> MixtureSet:
    """Return the 8 leading principal components of scikit-learn's digits, projected in the clear."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    rows = np.random.RandomState(0).permutation(load_digits().data)
    pca = PCA(8, random_state=0).fit(rows[:1437])
    train, test = pca.transform(rows[:1437]), pca.transform(rows[1437:])
    reach = 4.0 * train.std(axis=0)
    return MixtureSet("digits", train, test, 10, (-reach, reach))


def many_clients() -> MixtureSet:
    """Return pfl-research's setting: 20 000 rows in 4 dimensions, 3 diagonal components, 1000 users."""
    random = np.random.default_rng(0)
    means, scales = random.normal(0, 4, (3, 4)), np.sqrt(random.uniform(0.5, 1.5, (3, 4)))
    rows = mixture(random, 40_000, means, roots=[np.diag(scale) for scale in scales])
    reach = np.full(4, 16.0)
    return MixtureSet("1000 users", rows[:20_000], rows[20_000:], 3, (-reach, reach), unit="client", clients=1000)


def mnist(path: Path) -> MixtureSet:
    """Return 12 principal components of MNIST, projected in the clear; the file holds X, shape (70000, 784)."""
    from sklearn.decomposition import PCA

    with np.load(path) as file:
        rows = np.random.RandomState(0).permutation(file["X"].astype(np.float64) / 255)
    pca = PCA(12, random_state=0, svd_solver="randomized").fit(rows[:56_000])
    train, test = pca.transform(rows[:56_000]), pca.transform(rows[56_000:])
    reach = np.full(12, 4.0 * train.std(axis=0).max())
    return MixtureSet("MNIST", train, test, 10, (-reach, reach))


BARS: Mapping[str, Callable[[], MixtureSet]] = {
    "blobs": blobs,
    "50k x 8": synthetic,
    "digits": digits,
    "1000 users": many_clients,
}
