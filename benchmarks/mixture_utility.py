"""What a private mixture is worth: held-out nats per row against pooled scikit-learn, beside two baselines.

    python benchmarks/mixture_utility.py --epsilons 1 8 --seeds 20 --json out.json --figure out.svg

Methods: `recipe`, privfed's fit through a trusted federation of 20 silos (the same integers as secure aggregation);
`wide bounds`, the same for a caller who knows little, with bounds ten times as wide and off centre;
`one stage`, the same noise-aware EM from random means, without a start; `raw moments`, DP-EM on clipped raw moments
(after Park et al. 2017, arXiv:1605.06995), noise on what the server sums. Noise is seeded: figures repeat.

Each line: median, 10th percentile and worst over seeds of the difference to scikit-learn's best of five starts, the
predicted loss to noise, and how many fits failed with an exception or said something.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from mixture_sets import BARS, UNSEEN, MixtureSet, mnist, unseen

from privfed import Budget, GaussianMixture, LocalFederation, UsageError, expected_excess_nats
from privfed.statistics.mixture_estep import client_statistics
from privfed.statistics.mixture_model import CovarianceType, MixtureModel
from privfed.statistics.moments import unsvec
from privfed_accounting import gaussian_mu

DELTA = 1e-5
MNIST = "MNIST"
RAW_ROUNDS = 10
FLOOR = 1e-4  # of the box's half width, squared: least eigenvalue of the raw baseline


@dataclass(frozen=True)
class Line:
    """One method on one set at one epsilon; nats per row, relative to the pooled fit."""

    set: str
    kind: str
    method: str
    epsilon: float
    median: float
    tenth: float
    worst: float
    predicted: float
    failed: int
    said: int
    seconds: float


def recipe(
    data: MixtureSet, kind: CovarianceType, epsilon: float, seed: int, *, means: bool = False, wide: float = 1.0
) -> float:
    """Score privfed's private fit.

    With `means` it starts from random means in the middle of the bounds; bounds are `wide` times as wide, off centre.
    """
    low, high = data.bounds
    middle, half = (low + high) / 2, (high - low) / 2
    middle = middle + (wide - 1) / 3 * half
    low, high = middle - wide * half, middle + wide * half
    start = None
    if means:
        draws = np.random.default_rng(seed).standard_normal((data.components, len(low)))
        start = (low + high) / 2 + np.clip(draws, -3.0, 3.0) * (high - low) / 8
    silos = np.array_split(data.train, min(data.clients, len(data.train)))
    budget = Budget(epsilon, DELTA, unit=data.unit)
    with LocalFederation(silos, mode="trusted", budget=budget, noise_seed=seed) as federation:
        mixture = GaussianMixture(
            data.components, covariance_type=kind, bounds=(low, high), random_state=seed, means_init=start
        )
        return float(mixture.fit(federation).score(data.test))


def one_stage(data: MixtureSet, kind: CovarianceType, epsilon: float, seed: int) -> float:
    """Score the main stage alone."""
    return recipe(data, kind, epsilon, seed, means=True)


def wide_bounds(data: MixtureSet, kind: CovarianceType, epsilon: float, seed: int) -> float:
    """Score the fit of somebody who knows little: bounds ten times as wide and off centre, all else found privately."""
    return recipe(data, kind, epsilon, seed, wide=10.0)


def raw_moments(data: MixtureSet, kind: CovarianceType, epsilon: float, seed: int) -> float:
    """Score full-covariance DP-EM on raw moments of rows scaled into the unit ball; `kind` has no effect."""
    low, high = data.bounds
    d, K, random = len(low), data.components, np.random.default_rng(seed)
    scale = (high - low) / 2 * math.sqrt(d)
    rows = (np.clip(data.train, low, high) - (low + high) / 2) / scale
    std = math.sqrt(3.0 * RAW_ROUNDS) / gaussian_mu(epsilon, DELTA)  # three blocks of norm at most 1
    floor = FLOOR / d
    means = np.clip(random.standard_normal((K, d)), -3, 3) / (4 * math.sqrt(d))
    model = MixtureModel.from_matrices(np.full(K, 1 / K), means, np.eye(d) / (9 * d), "full")
    for _ in range(RAW_ROUNDS):
        sums = client_statistics(model, rows)
        counts = np.maximum(sums.counts + std * random.standard_normal(K), 1.0)
        means = (sums.first + std * random.standard_normal((K, d))) / counts[:, None]
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1.0)
        second = unsvec(sums.second + std * random.standard_normal(sums.second.shape), d) / counts[:, None, None]
        values, vectors = np.linalg.eigh(second - means[:, :, None] * means[:, None, :])
        matrices = (vectors * np.clip(values, floor, 1.0)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
        model = MixtureModel.from_matrices(counts / counts.sum(), means, matrices, "full")
    return float(model.log_likelihoods((data.test - (low + high) / 2) / scale).mean() - np.log(scale).sum())


METHODS: dict[str, Callable[[MixtureSet, CovarianceType, float, int], float]] = {
    "recipe": recipe,
    "wide bounds": wide_bounds,
    "one stage": one_stage,
    "raw moments": raw_moments,
}


def pooled(data: MixtureSet, kind: CovarianceType) -> float:
    """Score scikit-learn's best of five on all rows, standardised so that k-means is not led by units."""
    from sklearn.mixture import GaussianMixture as Peer

    middle, scale = data.train.mean(axis=0), data.train.std(axis=0)
    peer = Peer(data.components, covariance_type=kind, n_init=5, max_iter=300, random_state=0)
    score = peer.fit((data.train - middle) / scale).score((data.test - middle) / scale)
    return float(score - np.log(scale).sum())


def measure(data: MixtureSet, kind: CovarianceType, method: str, epsilon: float, seeds: int, reference: float) -> Line:
    """Fit once a seed and sum up."""
    gaps, failed, said, started = [], 0, 0, time.perf_counter()
    for seed in range(seeds):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                gaps.append(METHODS[method](data, kind, epsilon, seed) - reference)
            except (UsageError, ArithmeticError, np.linalg.LinAlgError):
                failed += 1
                gaps.append(-math.inf)
        said += bool(caught)
    n, d = data.train.shape
    n = n if data.unit == "record" else data.clients  # a client counts as one row
    predicted = expected_excess_nats(n, d, data.components, epsilon, delta=DELTA, covariance_type=kind)
    seconds = (time.perf_counter() - started) / seeds
    tenth = float(np.quantile(gaps, 0.1, method="lower"))
    return Line(
        data.name, kind, method, epsilon, float(np.median(gaps)), tenth, min(gaps), predicted, failed, said, seconds
    )


def figure(lines: Sequence[Line], path: Path) -> None:
    """Draw median and 10th percentile of each set against epsilon, all on one scale."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys((line.set, line.kind) for line in lines))
    epsilons = sorted({line.epsilon for line in lines})
    columns = min(3, len(names))
    shape = (math.ceil(len(names) / columns), columns)
    size = (3 * columns, 2.2 * shape[0] + 0.6)
    fig, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained")
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for ax, (name, kind) in zip(axes.flat, names, strict=False):
        for index, method in enumerate(dict.fromkeys(line.method for line in lines)):
            mine = [line for line in lines if (line.set, line.kind, line.method) == (name, kind, method)]
            at, medians, tenths = ([getattr(line, part) for line in mine] for part in ("epsilon", "median", "tenth"))
            ax.plot(at, medians, marker="osD^"[index], markersize=4, color=f"C{index}", label=method)
            ax.fill_between(at, tenths, medians, color=f"C{index}", alpha=0.2)
        ax.axhline(0.0, color="grey", linewidth=0.5)
        ax.set_title(f"{name}, {kind}", fontsize="medium")
        ax.set_xscale("log")
        ax.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
        ax.set_xticks([], minor=True)
        ax.set_yscale("symlog", linthresh=0.01)
    for ax in axes[-1]:
        ax.set_xlabel("epsilon")
    fig.supylabel("held-out nats per row, against pooled", fontsize="medium")
    fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize="small")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "utility"}):
        fig.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*UNSEEN, *BARS, MNIST]
    parser.add_argument("--sets", nargs="*", default=list(UNSEEN), metavar="NAME", help=f"of {names}")
    parser.add_argument("--epsilons", nargs="*", type=float, default=[1.0, 8.0])
    parser.add_argument("--kind", choices=["full", "tied", "diag", "spherical"], default="full")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--data", type=Path, help=f"npz file with X, shape (70000, 784): for the set {MNIST}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    lines = []
    print(f"{'set':22s} {'kind':9s} {'method':12s} epsilon   median    tenth    worst predicted failed said  s/fit")
    for name in options.sets:
        if name == MNIST and (options.data is None or not options.data.is_file()):
            parser.error(f"{MNIST} needs --data PATH, an npz file with X; found {options.data}")
        data = mnist(options.data) if name == MNIST else BARS[name]() if name in BARS else unseen(name)
        reference = pooled(data, options.kind)
        for epsilon in options.epsilons:
            for method in options.methods:
                line = measure(data, options.kind, method, epsilon, options.seeds, reference)
                lines.append(line)
                print(
                    f"{line.set:22s} {line.kind:9s} {line.method:12s} {line.epsilon:7g} {line.median:8.3f}"
                    f" {line.tenth:8.3f} {line.worst:8.3f} {line.predicted:9.4f} {line.failed:6d} {line.said:4d}"
                    f" {line.seconds:6.2f}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))
    if options.figure:
        figure(lines, options.figure)


if __name__ == "__main__":
    main()
