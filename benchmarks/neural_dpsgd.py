"""Record-level DP-SGD on digits over 20 silos, beside opacus on the pooled records and noise of each silo's own.

    python benchmarks/neural_dpsgd.py --epsilons 1 2 4 8 --seeds 5 --json out.json --figure out.svg
    python benchmarks/neural_dpsgd.py --speed

1797 images of 8 by 8 pixels, a fifth held out, silos non-IID (labels by a Dirichlet of 0.5). Each image is centred and
brought to length 1, which no other image has a say in; the model is softmax regression; every round takes all records.
Methods, each with the best of the same settings, searched on a split that is not in the table:

    federated   FederatedSGD: noise in shares, the sum's is that of one curator (trusted mode: the same integers)
    opacus      GradSampleModule and DPOptimizer on the pooled records, noise by opacus' PRV accountant
    local       FederatedSGD in mode "local": each silo's noise hides its records alone, from everybody
    averaging   FederatedAveraging, two epochs a round, no privacy; "pooled" is full-batch training, no privacy

`--speed` compares gradients per sample, clipped and summed, with opacus alone on the same batches.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from privfed import Budget, LocalFederation
from privfed.datasets import load_sklearn, partition_dirichlet
from privfed.learners.neural.averaging.learner import FederatedAveraging
from privfed.learners.neural.per_sample.gradients import PerSample
from privfed.learners.neural.private_sgd.learner import FederatedSGD
from privfed.learners.neural.program import TorchProgram

DELTA, SILOS, HELD_OUT = 1e-5, 20, 0.2
MOMENTUM, AVERAGING = 0.9, 0.5
SEARCHED = (1000,)  # seeds of the splits on which settings are chosen


@dataclass(frozen=True)
class Settings:
    """Rounds, clip and learning rate: what is searched."""

    rounds: int
    clip: float
    rate: float


GRID = (Settings(20, 0.1, 30.0), Settings(20, 0.1, 90.0), Settings(50, 0.1, 30.0), Settings(50, 0.1, 90.0))


@dataclass(frozen=True)
class Split:
    """Centred images of length 1, in silos and held out."""

    silos: list[tuple[np.ndarray, np.ndarray]]
    X: np.ndarray
    y: np.ndarray
    X_held: np.ndarray
    y_held: np.ndarray

    @classmethod
    def of(cls, seed: int) -> Split:
        """Split digits by a seed."""
        digits = load_sklearn("digits")
        X = np.asarray(digits.X, dtype=np.float64)
        X = X - X.mean(axis=1, keepdims=True)
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        order = np.random.default_rng(seed).permutation(len(X))
        held, kept = np.split(order, [round(HELD_OUT * len(X))])
        silos = partition_dirichlet(digits.labels[kept], SILOS, alpha=0.5, random_state=seed)
        parts = [(X[kept[rows]], digits.labels[kept[rows]]) for rows in silos.indices.values()]
        return cls(parts, X[kept], digits.labels[kept], X[held], digits.labels[held])

    def federation(self, epsilon: float | None, seed: int, mode: str = "trusted") -> LocalFederation:
        """Return the silos, with a budget if there is an epsilon."""
        budget = None if epsilon is None else Budget(epsilon, DELTA)
        return LocalFederation(self.silos, budget=budget, mode=mode, max_records=500, noise_seed=seed)


Method = Callable[[Split, float | None, Settings, int], float]


def start() -> nn.Linear:
    """Return softmax regression that knows nothing."""
    model = nn.Linear(64, 10)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    return model


def federated(split: Split, epsilon: float | None, settings: Settings, seed: int, *, mode: str = "trusted") -> float:
    """Accuracy of FederatedSGD."""
    learner = FederatedSGD(
        start(),
        rounds=settings.rounds,
        clip=settings.clip,
        learning_rate=settings.rate,
        momentum=MOMENTUM,
        averaging=AVERAGING,
        expected_records=len(split.X),
    )
    return learner.fit(split.federation(epsilon, seed, mode)).score(split.X_held, split.y_held)


def local(split: Split, epsilon: float | None, settings: Settings, seed: int) -> float:
    """Accuracy where each silo adds all the noise it needs."""
    return federated(split, epsilon, settings, seed, mode="local")


def opacus(split: Split, epsilon: float | None, settings: Settings, seed: int) -> float:
    """Accuracy of pooled DP-SGD by opacus, all records in every step, weights of the last half averaged."""
    from opacus.accountants.utils import get_noise_multiplier
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    noise = 0.0
    if epsilon is not None:
        noise = get_noise_multiplier(
            target_epsilon=epsilon, target_delta=DELTA, sample_rate=1.0, steps=settings.rounds, accountant="prv"
        )
    model = GradSampleModule(start())
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=settings.rate, momentum=MOMENTUM),
        noise_multiplier=noise,
        max_grad_norm=settings.clip,
        expected_batch_size=len(split.X),
        generator=torch.Generator().manual_seed(seed),
    )
    X, y = torch.tensor(split.X, dtype=torch.float32), torch.tensor(split.y)
    tail = [torch.zeros_like(value) for value in model.parameters()]
    for step in range(settings.rounds):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()
        if step >= (1.0 - AVERAGING) * settings.rounds:
            for total, value in zip(tail, model.parameters(), strict=True):
                total += value.detach()
    scores = torch.tensor(split.X_held, dtype=torch.float32) @ tail[0].T + tail[1]
    return float(np.mean(scores.argmax(dim=1).numpy() == split.y_held))


def averaging(split: Split, epsilon: float | None, settings: Settings, seed: int) -> float:
    """Accuracy of federated averaging without privacy; the settings' clip is not used."""
    learner = FederatedAveraging(
        start(),
        rounds=settings.rounds,
        local_epochs=2,
        batch_size=32,
        learning_rate=settings.rate / 30.0,
        weighting="records",
        random_state=seed,
    )
    fitted = learner.fit(split.federation(None, seed))
    return float(np.mean(fitted.predict(split.X_held) == split.y_held))


METHODS: dict[str, Method] = {"federated": federated, "opacus": opacus, "local": local}


@dataclass(frozen=True)
class Line:
    """One method at one epsilon: accuracies in per cent over seeds, with the settings that did best elsewhere."""

    method: str
    epsilon: float | None
    median: float
    least: float
    most: float
    settings: Settings
    seconds: float


def line(name: str, method: Method, epsilon: float | None, seeds: Sequence[int]) -> Line:
    """Search settings on splits of their own, and measure the best on others."""
    found = {one: np.mean([method(Split.of(seed), epsilon, one, seed) for seed in SEARCHED]) for one in GRID}
    best = max(found, key=lambda one: found[one])
    began = time.perf_counter()
    scores = [100.0 * method(Split.of(seed), epsilon, best, seed) for seed in seeds]
    seconds = (time.perf_counter() - began) / len(scores)
    found_line = Line(name, epsilon, float(np.median(scores)), min(scores), max(scores), best, seconds)
    print(f"{name}, epsilon {epsilon}: {found_line.median:.2f}", flush=True)
    return found_line


def show(lines: Sequence[Line]) -> None:
    """Print the table."""
    print(f"{'method':10} {'epsilon':>7} {'median':>7} {'least':>7} {'most':>7} {'s/fit':>6}  rounds, clip, rate")
    for one in lines:
        epsilon = "none" if one.epsilon is None else f"{one.epsilon:g}"
        chosen = f"{one.settings.rounds}, {one.settings.clip:g}, {one.settings.rate:g}"
        print(
            f"{one.method:10} {epsilon:>7} {one.median:7.2f} {one.least:7.2f} {one.most:7.2f} "
            f"{one.seconds:6.2f}  {chosen}"
        )


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw accuracy against epsilon."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    looks = {"federated": ("#1f6f8b", "o"), "opacus": ("#222222", "s"), "local": ("#c8553d", "^")}
    for name, (colour, marker) in looks.items():
        chosen = sorted((one for one in lines if one.method == name and one.epsilon), key=lambda one: one.epsilon or 0)
        if not chosen:
            continue
        at = np.array([one.epsilon for one in chosen]) * {"federated": 0.98, "opacus": 1.02}.get(name, 1.0)
        middle = np.array([one.median for one in chosen])
        spread = [middle - [one.least for one in chosen], [one.most for one in chosen] - middle]
        axes.errorbar(at, middle, yerr=spread, color=colour, marker=marker, capsize=3, label=_NAMES[name])
    for one in lines:
        if one.epsilon is None and one.method in ("pooled", "averaging"):
            style = "--" if one.method == "pooled" else ":"
            axes.axhline(one.median, color="#888888", linestyle=style, linewidth=1.2, label=_NAMES[one.method])
    axes.set_xscale("log", base=2)
    epsilons = sorted({one.epsilon for one in lines if one.epsilon})
    axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axes.set_xlabel(f"epsilon (record, add/remove, delta {DELTA:g})")
    axes.set_ylabel("held-out accuracy, per cent")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path)
    plt.close(figure)


_NAMES = {
    "federated": "FederatedSGD, 20 silos",
    "opacus": "opacus, pooled records",
    "local": "each silo its own noise",
    "pooled": "pooled, no privacy",
    "averaging": "FederatedAveraging, no privacy",
}


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return models and the shape of their features, for the comparison of speed."""
    torch.manual_seed(0)
    return {
        "softmax regression": (nn.Linear(784, 10), (784,)),
        "perceptron, 100k": (nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)), (784,)),
        "convolutions, 27k": (
            nn.Sequential(
                nn.Conv2d(1, 16, 8, 2, padding=3),
                nn.Tanh(),
                nn.MaxPool2d(2, 1),
                nn.Conv2d(16, 32, 4, 2),
                nn.Tanh(),
                nn.MaxPool2d(2, 1),
                nn.Flatten(),
                nn.Linear(512, 32),
                nn.Tanh(),
                nn.Linear(32, 10),
            ),
            (1, 28, 28),
        ),
        "GroupNorm, 30k": (
            nn.Sequential(
                nn.Conv2d(1, 32, 3, padding=1),
                nn.GroupNorm(4, 32),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(32, 64, 3, padding=1),
                nn.GroupNorm(4, 64),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(4),
                nn.Flatten(),
                nn.Linear(1024, 10),
            ),
            (1, 16, 16),
        ),
    }


def speed(records: int = 512, repeats: int = 5) -> list[dict[str, float | str]]:
    """Time of clipped sums of gradients, ours (float64 sums, fixed blocks) and opacus' alone, in one run."""
    from opacus.grad_sample import GradSampleModule

    rng, found = np.random.default_rng(0), []
    print(f"{'model':20} {'engine':11} {'ours':>9} {'opacus':>9} {'ratio':>6}   CPU ms for {records} records")
    for name, (model, shape) in networks().items():
        program = TorchProgram(model, "cross_entropy", feature_shape=shape)
        rows = np.hstack([rng.standard_normal((records, program.n_features)), rng.integers(0, 10, (records, 1))])
        engine, parameters = PerSample(program), program.parameters()
        wrapped, X, y = GradSampleModule(copy.deepcopy(model)), program.features(rows), program.targets(rows)

        def theirs(wrapped: GradSampleModule = wrapped, X: torch.Tensor = X, y: torch.Tensor = y) -> None:
            for start_row in range(0, records, 64):
                for value in wrapped.parameters():
                    value.grad = value.grad_sample = None
                part = slice(start_row, start_row + 64)
                nn.functional.cross_entropy(wrapped(X[part]), y[part], reduction="sum").backward()
                gradients = [value.grad_sample for value in wrapped.parameters()]
                norms = torch.stack([one.flatten(1).norm(dim=1) for one in gradients], dim=1).norm(dim=1)
                factors = (1.0 / (norms + 1e-6)).clamp(max=1.0)
                for one in gradients:
                    torch.einsum("i,i...", factors, one)

        ours = _least(lambda e=engine, r=rows, p=parameters: e.clipped_sum(r, p, 1.0), repeats)
        peer = _least(theirs, repeats)
        print(f"{name:20} {engine.method:11} {ours:9.1f} {peer:9.1f} {ours / peer:6.2f}")
        found.append({"model": name, "engine": engine.method, "ours_ms": ours, "opacus_ms": peer, "ratio": ours / peer})
    return found


def _least(function: Callable[[], object], repeats: int) -> float:
    """Return the least CPU time of some calls, milliseconds."""
    function()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        times.append(1e3 * (time.process_time() - began))
    return min(times)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilons", type=float, nargs="*", default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--speed", action="store_true", help="compare speeds instead")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="(opacus|torch|prv_accountant)")
    if arguments.speed:
        result: object = speed()
    else:
        seeds = range(arguments.seeds)
        lines = [
            line(name, METHODS[name], epsilon, seeds) for epsilon in arguments.epsilons for name in arguments.methods
        ]
        lines += [line("pooled", opacus, None, seeds), line("averaging", averaging, None, seeds)]
        show(lines)
        if arguments.figure:
            draw(lines, arguments.figure)
        result = [asdict(one) for one in lines]
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
