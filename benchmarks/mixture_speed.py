"""One EM iteration of `GaussianMixture` beside scikit-learn, pfl-research and the matrix products it consists of.

    python benchmarks/mixture_speed.py                       # the table: minutes
    python benchmarks/mixture_speed.py --pfl PYTHON          # an interpreter that has pfl==0.6.0
    python benchmarks/mixture_speed.py --memory              # 1e7 rows from a memory-mapped file, peak memory
    python benchmarks/mixture_speed.py --figure cost.png     # cost of an iteration in K, d and N

All times are CPU seconds of one iteration with one thread: (fit of 4 iterations - fit of 1) / 3 from one start, best of
the repeats, of both estimators alike. `own` is scikit-learn with the threads that it takes by itself, all their CPU
seconds counted. `products` is the two matrix products of the iteration, W phi and responsibilities phi', by plain numpy
on chunks of the size that suits them best; `packed` is the same with the operands laid out as BLAS likes them most.

Bars: ratios to scikit-learn and to the products, equal log-likelihoods, peak memory. The exit status is 1 when one is
missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

if "own" not in sys.argv:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

CASES = {  # rows, features, components, covariance type: how many times scikit-learn's speed is wanted
    (100_000, 16, 10, "full"): 8.0,
    (100_000, 16, 10, "diag"): 6.0,
    (1_000_000, 8, 20, "full"): 30.0,
    (1_000_000, 8, 20, "diag"): 25.0,
    (100_000, 64, 32, "full"): 7.0,
    (100_000, 64, 32, "diag"): None,
}
PRODUCTS_BAR = 1.6  # at 16 features or more
PFL_CASE, PFL_BAR, PFL_PUBLISHED = (10_000, 16, 8, 100), 50.0, 20e-6  # the last: seconds per row and component
MEMORY_ROWS, MEMORY_FEATURES, MEMORY_BAR = 10_000_000, 8, 500.0
STEPS = 3


@dataclass
class Row:
    """Seconds of one iteration of one case."""

    rows: int
    features: int
    components: int
    kind: str
    bar: float | None
    ours: float
    sklearn: float
    own: float
    products: float
    packed: float
    exp: float
    likelihoods: float = field(metadata={"help": "relative difference of the log-likelihoods"})

    @property
    def passed(self) -> bool:
        """Whether every bar of the case holds."""
        fast = self.bar is None or max(self.sklearn, 0.0 if math.isnan(self.own) else self.own) / self.ours >= self.bar
        near = self.features < 16 or self.kind != "full" or self.ours / self.products <= PRODUCTS_BAR
        return fast and near and self.likelihoods <= 1e-12


def cpu(function: Callable[[], object], repeat: int) -> float:
    """Least CPU seconds of `repeat` calls, all threads counted."""
    best = np.inf
    for _ in range(repeat):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def data(rows: int, features: int, components: int) -> np.ndarray:
    """Rows around `components` centres that overlap somewhat."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((components, features))
    return rng.standard_normal((rows, features)) + centres[rng.integers(components, size=rows)]


def start(X: np.ndarray, components: int, kind: str) -> dict[str, object]:
    """The start that all estimators are given."""
    d = X.shape[1]
    precisions = {"full": np.tile(np.eye(d), (components, 1, 1)), "diag": np.ones((components, d))}[kind]
    weights = np.full(components, 1 / components)
    return {"weights_init": weights, "means_init": X[:components], "precisions_init": precisions}


def iteration(estimator: type, X: np.ndarray, components: int, kind: str, repeat: int) -> tuple[float, float]:
    """CPU seconds of one iteration, and the log-likelihood after `STEPS + 1` of them."""

    bounds = {}

    def fit(steps: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = start(X, components, kind) | {"covariance_type": kind, "tol": 0.0, "max_iter": steps}
            bounds[steps] = float(estimator(components, **settings).fit(X).lower_bound_)

    fit(1)
    long, short = cpu(lambda: fit(STEPS + 1), repeat), cpu(lambda: fit(1), repeat)
    return (long - short) / STEPS, bounds[STEPS + 1]


def repeated(left: np.ndarray, right: np.ndarray, times: int) -> float:
    """CPU seconds of one product of many."""
    return cpu(lambda: [left @ right for _ in range(times)], 5) / times


def floor(rows: int, d: int, K: int, kind: str) -> tuple[float, float, float]:
    """CPU seconds of the two matrix products alone, plainly written and as BLAS likes them most, and of exp alone."""
    size = 1 + d + {"full": d * (d + 1) // 2, "diag": d}[kind]
    rng = np.random.default_rng(0)
    W, best = rng.standard_normal((K, size)), {"first": np.inf, "plain": np.inf, "packed": np.inf}
    for chunk in (64, 128, 256, 512, 1024, 2048):
        phi, g = rng.standard_normal((size, chunk)), rng.random((K, chunk))
        turned = np.ascontiguousarray(g.T)
        times = max(1, 20_000_000 // (K * size * chunk))
        products = {"first": (W, phi), "plain": (g, phi.T), "packed": (phi, turned)}
        for name, (left, right) in products.items():
            best[name] = min(best[name], repeated(left, right, times) * rows / chunk)
    logits = rng.uniform(-40, 0, 20_000)
    powers = cpu(lambda: np.exp(logits, out=np.empty_like(logits)), 50) * rows * K / logits.size
    return best["first"] + best["plain"], best["first"] + min(best["plain"], best["packed"]), powers


def measure(case: tuple[int, int, int, str], bar: float | None, repeat: int, *, own: bool = True) -> Row:
    """All figures of one case."""
    from sklearn.mixture import GaussianMixture as Peer

    import privfed

    rows, features, components, kind = case
    X = data(rows, features, components)
    ours, likelihood = iteration(privfed.GaussianMixture, X, components, kind, repeat)
    theirs, expected = iteration(Peer, X, components, kind, max(repeat // 2, 1))
    threaded = unlimited(case) if own else math.nan
    return Row(*case, bar, ours, theirs, threaded, *floor(*case), abs(likelihood / expected - 1))


def unlimited(case: tuple[int, int, int, str]) -> float:
    """CPU seconds of scikit-learn with the threads that it takes by itself, in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, __file__, "own", *map(str, case)], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def own_threads(arguments: list[str]) -> None:
    """In a process without thread limits: print scikit-learn's CPU seconds."""
    from sklearn.mixture import GaussianMixture as Peer

    rows, features, components = (int(value) for value in arguments[:3])
    print(iteration(Peer, data(rows, features, components), components, arguments[3], 1)[0])


def pfl(python: str | None) -> dict[str, object]:
    """Seconds of a round of pfl, measured or as published, and of ours over a federation of as many users."""
    import privfed

    rows, features, components, users = PFL_CASE
    X = data(rows, features, components)
    settings = start(X, components, "diag") | {"covariance_type": "diag", "tol": 0.0, "reg_covar": 0.0}

    def fit(steps: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            federation = privfed.LocalFederation(np.array_split(X, users), mode="trusted")
            privfed.GaussianMixture(components, max_iter=steps, bounds=(-20, 20), **settings).fit(federation)

    fit(1)
    round_ = (cpu(lambda: fit(11), 3) - cpu(lambda: fit(1), 3)) / 10
    from privfed.statistics.mixture_estep import client_statistics
    from privfed.statistics.mixture_model import MixtureModel

    model = MixtureModel.from_covariances(
        settings["weights_init"], settings["means_init"], np.ones((components, features)), "diag"
    )
    shards = np.array_split(X, users)
    sums = cpu(lambda: [client_statistics(model, shard) for shard in shards], 10)
    seconds, source = rows * components * PFL_PUBLISHED, "published"
    if python is not None:
        script = Path(__file__).with_name("_mixture_pfl.py")
        call = [python, str(script), str(rows), str(features), str(components), str(users), "6"]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        seconds, source = found["seconds"], f"measured, {found['version']}"
    return {"pfl": seconds, "source": source, "statistics": sums, "federation_round": round_}


def memory() -> dict[str, float]:
    """Peak memory of a fit to 1e7 rows of a memory-mapped file, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        shape = (MEMORY_ROWS, MEMORY_FEATURES)
        rows = np.lib.format.open_memmap(path, "w+", np.float64, shape)
        for at in range(0, MEMORY_ROWS, 100_000):
            rows[at : at + 100_000] = data(100_000, MEMORY_FEATURES, 10)
        rows.flush()
        del rows
        done = subprocess.run(
            [sys.executable, __file__, "mapped", str(path)], capture_output=True, text=True, check=True
        )
        return {"file": path.stat().st_size / 2**20, "peak": float(done.stdout)}


def mapped(path: str) -> None:
    """In a process of its own: fit and print the peak of its memory, mebibytes."""
    import privfed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        privfed.GaussianMixture(10, random_state=0, max_iter=5).fit(np.load(path, mmap_mode="r"))
    # Of this process alone: what getrusage tells may be its parent's.
    print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)


def sweep() -> dict[str, list[tuple[int, float, float]]]:
    """Cost of an iteration in components, features and rows, with the products' own."""
    import privfed

    base = {"rows": 50_000, "features": 16, "components": 10}
    axes = {
        "components": (2, 5, 10, 20, 40, 80),
        "features": (2, 4, 8, 16, 32, 64),
        "rows": (1_000, 5_000, 20_000, 100_000, 400_000),
    }
    found: dict[str, list[tuple[int, float, float]]] = {}
    for axis, values in axes.items():
        for value in values:
            case = base | {axis: value}
            X = data(**case)
            seconds, _ = iteration(privfed.GaussianMixture, X, case["components"], "full", 10)
            packed = floor(case["rows"], case["features"], case["components"], "full")[1]
            found.setdefault(axis, []).append((value, seconds, packed))
    return found


def draw(found: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Draw the sweep."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
    fixed = {"components": "50 000 x 16", "features": "50 000 rows, K = 10", "rows": "16 features, K = 10"}
    for axis, (name, values) in zip(panels, found.items(), strict=True):
        x, ours, products = zip(*values, strict=True)
        axis.loglog(x, ours, marker="o", label="one EM iteration")
        axis.loglog(x, products, linestyle="--", color="0.4", label="its matrix products alone")
        axis.set(xlabel=name, title=f"full, {fixed[name]}")
        axis.set_xticks(x, [f"{value:,}".replace(",", " ") for value in x], fontsize=8)
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("CPU seconds, one thread")
    panels[0].legend()
    figure.savefig(path, dpi=150)


def table(rows: list[Row]) -> str:
    """The figures as text."""
    lines = [
        f"{'rows':>9} {'d':>3} {'K':>3} {'type':>5} {'ours':>8} {'sklearn':>8} {'own':>8} {'ratio':>6} {'own':>6} "
        f"{'products':>9} {'packed':>8} {'exp':>7} {'over':>5} {'over':>5} {'likelihood':>10}"
    ]
    lines.extend(
        f"{row.rows:9d} {row.features:3d} {row.components:3d} {row.kind:>5} {row.ours:8.4f} {row.sklearn:8.3f} "
        f"{row.own:8.3f} {row.sklearn / row.ours:6.1f} {row.own / row.ours:6.1f} {row.products:9.4f} "
        f"{row.packed:8.4f} {row.exp:7.4f} {row.ours / row.products:5.2f} {row.ours / row.packed:5.2f} "
        f"{row.likelihoods:10.1e}" + ("" if row.passed else "  MISSED")
        for row in rows
    )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and say by the exit status whether the bars hold."""
    if len(sys.argv) > 1 and sys.argv[1] in ("own", "mapped"):
        own_threads(sys.argv[2:]) if sys.argv[1] == "own" else mapped(sys.argv[2])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--most-rows", type=int, default=10**9, help="leave larger cases out")
    parser.add_argument("--one-thread", action="store_true", help="leave out scikit-learn with its own threads")
    parser.add_argument("--pfl", metavar="PYTHON", help="an interpreter that has pfl; without it, the published figure")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory; writes a file of 640 MB")
    parser.add_argument("--figure", type=Path, help="also measure the cost in K, d and N, and draw it here")
    options = parser.parse_args()

    rows = []
    for case, bar in CASES.items():
        if case[0] <= options.most_rows:
            repeat = options.repeat * (1 if math.prod(case[:3]) > 10**8 else 4)  # small ones vary more
            rows.append(measure(case, bar, repeat, own=not options.one_thread))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    found: dict[str, object] = {"rows": [asdict(row) for row in rows], "pfl": pfl(options.pfl)}
    passed = all(row.passed for row in rows)
    peer = found["pfl"]
    faster = peer["pfl"] / peer["statistics"]
    passed &= faster >= PFL_BAR
    if options.memory:
        found["memory"] = memory()
        passed &= found["memory"]["peak"] <= MEMORY_BAR
    if options.figure is not None:
        found["sweep"] = sweep()
        draw(found["sweep"], options.figure)
    if options.json:
        print(json.dumps(found))
        return 0 if passed else 1
    print(table(rows))
    print(
        f"pfl ({peer['source']}): {peer['pfl']:.3f} s a round, our statistics {peer['statistics']:.5f} s ({faster:.0f}x"
        f"), our whole round over the federation {peer['federation_round']:.4f} s"
    )
    if options.memory:
        print(f"memory: {found['memory']['peak']:.0f} MiB at the peak for a file of {found['memory']['file']:.0f} MiB")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
