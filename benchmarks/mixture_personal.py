"""Personal weights against one global mixture, on clients that hold the classes in proportions of their own.

Classes are dealt to 20 clients by a Dirichlet distribution (the smaller its concentration, the less alike the clients).
Each keeps a fifth of its rows to score. Compared are held-out nats per row, averaged over clients: the global mixture;
the same with weights re-estimated at home after the fit; one fitted with personal weights; and a global fit under a
budget of unit "record", before and after the weights are re-estimated at home, which costs nothing.

    python benchmarks/mixture_personal.py --data mnist70k.npz --json personal.json
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from privfed import Budget, LocalFederation
from privfed.learners.mixture import GaussianMixture

FloatArray = npt.NDArray[np.float64]
Rows = tuple[FloatArray, npt.NDArray[np.int64], int, str]
CLIENTS, DELTA = 20, 1e-5


@dataclass(frozen=True)
class Line:
    """Held-out nats per row; gains are against the global mixture of the same line. Median of seeds."""

    set: str
    concentration: float
    shared: float
    after: float
    during: float
    private_epsilon: float
    private: float
    private_after: float


def digits() -> Rows:
    """Scikit-learn's digits, 8 principal components."""
    X, y = load_digits(return_X_y=True)
    return PCA(8, random_state=0).fit_transform(X), y, 10, "tied"


def mnist(path: Path, n: int) -> Rows:
    """The first rows of MNIST, 12 principal components."""
    with np.load(path) as archive:
        names = archive.files
        images = archive[next(name for name in names if archive[name].ndim > 1)][:n]
        labels = archive[next(name for name in names if archive[name].ndim == 1)][:n]
    X = images.reshape(len(images), -1).astype(np.float64) / 255.0
    return PCA(12, random_state=0).fit_transform(X), labels.astype(np.int64), 10, "full"


def clients_of(
    X: FloatArray, y: npt.NDArray[np.int64], concentration: float, seed: int
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield each client's rows to fit to and to score."""
    random = np.random.default_rng(seed)
    parts: list[list[FloatArray]] = [[] for _ in range(CLIENTS)]
    for label in np.unique(y):
        rows = X[random.permutation(np.flatnonzero(y == label))]
        cuts = (np.cumsum(random.dirichlet(np.full(CLIENTS, concentration)))[:-1] * len(rows)).astype(int)
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.append(piece)
    for part in parts:
        mine = np.concatenate(part)
        mine = mine[random.permutation(len(mine))]
        if len(mine) >= 10:
            yield mine[len(mine) // 5 :], mine[: len(mine) // 5]


def own(mixture: GaussianMixture, train: Sequence[FloatArray], test: Sequence[FloatArray]) -> float:
    """Return the clients' mean held-out score with weights of their own."""
    return float(np.mean([mixture.personalise(a).score(b) for a, b in zip(train, test, strict=True)]))


def measure(name: str, rows: Rows, concentration: float, seeds: int, epsilon: float) -> Line:
    """Return the line of one set and concentration."""
    X, y, K, kind = rows
    reach = 4.0 * X.std(axis=0).max()
    found = []
    for seed in range(seeds):
        train, test = zip(*clients_of(X, y, concentration, seed), strict=True)
        settings = {"covariance_type": kind, "random_state": seed, "max_iter": 200}
        with LocalFederation(train, mode="trusted") as silos:
            shared = GaussianMixture(K, acceleration="squarem", **settings).fit(silos)
            during = GaussianMixture(K, acceleration="squarem", personal_weights=True, **settings).fit(silos)
        with LocalFederation(train, mode="trusted", budget=Budget(epsilon, DELTA), noise_seed=seed) as silos:
            private = GaussianMixture(K, bounds=(-reach, reach), **settings).fit(silos)
        plain = float(np.mean([shared.score(part) for part in test]))
        noised = float(np.mean([private.score(part) for part in test]))
        found.append([plain, own(shared, train, test) - plain, own(during, train, test) - plain,
                      noised, own(private, train, test) - noised])  # fmt: skip
    shared_at, after, personal, noised, noised_after = np.median(found, axis=0)
    return Line(name, concentration, shared_at, after, personal, epsilon, noised, noised_after)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="MNIST as an .npz of images and labels; left out where missing")
    parser.add_argument("--rows", type=int, default=70_000, help="of MNIST")
    parser.add_argument("--concentrations", nargs="*", type=float, default=[0.1, 0.5, 5.0])
    parser.add_argument("--epsilon", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sets = {"digits PCA-8, tied": digits()}
    if options.data is None or not options.data.exists():
        sys.stdout.write(f"MNIST is left out: {options.data or '--data'} is missing\n")
    else:
        sets["MNIST PCA-12, full"] = mnist(options.data, options.rows)
    lines = []
    print(f"{'set':20s}{'Dirichlet':>10s}{'global':>10s}{'after':>9s}{'during':>9s}"
          f"{'epsilon':>9s}{'global':>10s}{'after':>9s}")  # fmt: skip
    for name, rows in sets.items():
        for concentration in options.concentrations:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                line = measure(name, rows, concentration, options.seeds, options.epsilon)
            lines.append(line)
            print(
                f"{line.set:20s}{line.concentration:>10g}{line.shared:>10.3f}{line.after:>+9.3f}{line.during:>+9.3f}"
                f"{line.private_epsilon:>9g}{line.private:>10.3f}{line.private_after:>+9.3f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))


if __name__ == "__main__":
    main()
