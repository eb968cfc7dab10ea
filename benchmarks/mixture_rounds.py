"""Rounds to a given likelihood: plain EM, SQUAREM, clients in turns, averaged parameters; and rounds under a budget.

Without a budget every method starts from the same k-means start and runs on the same silos; a round of EM asks every
client, a turn only a few. Given are rounds, and messages (one client's answer each), until the mean log-likelihood of
all rows is, and stays, within 1e-4, or 1e-2, nats of the best that any method reaches from that start (each method's
own limit, where that is lower, is given beside it). With a budget: the loss against scikit-learn's pooled fit by the
rounds of the main stage, where everybody takes part in each and where two cohorts take turns.

    python benchmarks/mixture_rounds.py --json rounds.json
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as Peer

from privfed import Budget, LocalFederation
from privfed.learners.mixture import GaussianMixture
from privfed.learners.mixture.em import expectation_maximization, model_from_responsibilities
from privfed.learners.mixture.exact import accelerate, online, parameter_average
from privfed.learners.mixture.initialise import initial_responsibilities
from privfed.statistics.mixture_estep import client_statistics
from privfed.statistics.mixture_model import MixtureModel

FloatArray = npt.NDArray[np.float64]
SILOS, PER_TURN = 10, 2


@dataclass(frozen=True)
class Line:
    """Rounds and messages of one method on one set, medians over starts; None where it never comes there."""

    set: str
    kind: str
    split: str
    method: str
    rounds_1e4: float | None
    messages_1e4: float | None
    rounds_1e2: float | None
    messages_1e2: float | None
    gap: float


@dataclass(frozen=True)
class Budgeted:
    """Held-out loss against the pooled fit, nats per row, by rounds of the main stage; median of seeds."""

    set: str
    epsilon: float
    rounds: int
    median: float
    worst: float


class Trace:
    """Models by round: what a method visited, scored on all rows afterwards."""

    def __init__(self, rows: FloatArray, silos: Sequence[FloatArray]) -> None:
        self.rows, self.silos, self.models = rows, silos, list[MixtureModel]()

    def everybody(self, model: MixtureModel) -> Any:
        """An E-step over all rows."""
        self.models.append(model)
        return client_statistics(model, self.rows, reference=self.rows.mean(axis=0))

    def in_turn(self, model: MixtureModel) -> Any:
        """An E-step over the next cohort."""
        self.models.append(model)
        turn = (len(self.models) - 1) % (SILOS // PER_TURN)
        return client_statistics(model, np.concatenate(self.silos[turn * PER_TURN : (turn + 1) * PER_TURN]))

    def likelihoods(self) -> FloatArray:
        """Return the mean log-likelihood of all rows under each model visited."""
        return np.array([float(model.log_likelihoods(self.rows).mean()) for model in self.models])


def averaged(trace: Trace, start: MixtureModel, rounds: int, by_size: bool) -> None:
    """Average the parameters of local EM steps."""
    model = start
    weights = np.array([len(part) for part in trace.silos], dtype=float) if by_size else np.ones(len(trace.silos))
    weights /= weights.sum()
    for _ in range(rounds):
        trace.models.append(model)
        local = [parameter_average._local_step(model, part, np.full(part.shape[1], 1e-6))[0] for part in trace.silos]
        model = MixtureModel.from_covariances(
            sum(w * m.weights for w, m in zip(weights, local, strict=True)),
            sum(w * m.means for w, m in zip(weights, local, strict=True)),
            sum(w * m.covariances for w, m in zip(weights, local, strict=True)),
            start.covariance_type,
        )


def run(method: str, trace: Trace, start: MixtureModel, most: int) -> int:
    """Run a method; return the messages of one of its rounds."""
    if method == "EM":
        expectation_maximization(start, trace.everybody, tol=0.0, max_iter=most)
    elif method == "SQUAREM":
        accelerate.squarem_maximization(start, trace.everybody, tol=0.0, max_iter=most)
    elif method in ("incremental", "stepwise"):
        scheme: online.Online = "incremental" if method == "incremental" else "stepwise"
        period = SILOS // PER_TURN
        online.online_maximization(start, trace.in_turn, period=period, scheme=scheme, tol=-1.0, max_iter=most * period)
        return PER_TURN
    else:
        averaged(trace, start, min(most, 60), method == "parameters by size")
    return SILOS


METHODS = ("EM", "SQUAREM", "incremental", "stepwise", "parameters", "parameters by size")


def first_within(likelihoods: FloatArray, target: float) -> int | None:
    """Return the round from which on no model is below `target`, from 1."""
    below = np.flatnonzero(likelihoods < target)
    last = int(below[-1]) + 1 if below.size else 0
    return None if last == len(likelihoods) else last + 1


def sets() -> dict[str, tuple[FloatArray, int]]:
    """Rows and K by name."""
    digits = PCA(8, random_state=0).fit_transform(load_digits().data)
    close, _ = make_blobs(4000, n_features=4, centers=5, cluster_std=2.5, random_state=1)
    return {"digits PCA-8": (digits, 10), "close blobs": (close, 5)}


def unbudgeted(name: str, rows: FloatArray, K: int, kind: Any, split: str, starts: int, most: int) -> list[Line]:
    """Return the lines of one set, type and split."""
    random = np.random.RandomState(0)
    order = random.permutation(len(rows)) if split == "IID" else np.argsort(rows[:, 0])
    silos = np.array_split(rows[order], SILOS)
    found: dict[str, list[tuple[float | None, ...]]] = {method: [] for method in METHODS}
    for seed in range(starts):
        g = initial_responsibilities(rows, K, "kmeans", np.random.RandomState(seed))
        start = model_from_responsibilities(rows, g, kind)
        likelihoods, cost = {}, {}
        for method in METHODS:
            trace = Trace(rows, silos)
            cost[method] = run(method, trace, start, most)
            likelihoods[method] = trace.likelihoods()
        em_best = float(likelihoods["EM"][-1])
        for method in METHODS:
            mine = likelihoods[method]
            limit = em_best if method in ("parameters", "parameters by size") else float(mine[-1])
            at = [first_within(mine, limit - gap) for gap in (1e-4, 1e-2)]
            found[method].append(
                (
                    at[0],
                    at[0] and at[0] * cost[method],
                    at[1],
                    at[1] and at[1] * cost[method],
                    float(mine[-1]) - em_best,
                )
            )
    return [
        Line(name, kind, split, method, *(middle([row[i] for row in found[method]]) for i in range(4)),
             float(np.median([row[4] or 0.0 for row in found[method]])))
        for method in METHODS
    ]  # fmt: skip


def middle(values: Sequence[float | None]) -> float | None:
    """Return the median; None where half or more never come there."""
    known = sorted(np.inf if value is None else value for value in values)
    median = known[len(known) // 2]
    return None if np.isinf(median) else float(median)


def budgeted(epsilon: float, rounds: int, seeds: int) -> Budgeted:
    """Return the loss on blobs with so many rounds of the main stage."""
    rows, _ = make_blobs(10_000, n_features=4, centers=5, random_state=1)
    train, test = rows[:8000], rows[8000:]
    reference = Peer(5, n_init=5, random_state=0).fit(train).score(test)
    gaps = []
    for seed in range(seeds):
        parts = np.array_split(train, 20)
        budget = Budget(epsilon, 1e-5)
        with LocalFederation(parts, mode="trusted", budget=budget, noise_seed=seed) as silos:
            fit = GaussianMixture(5, bounds=(-20, 20), rounds=rounds, random_state=seed).fit(silos)
        gaps.append(fit.score(test) - reference)
    return Budgeted("blobs", epsilon, rounds, float(np.median(gaps)), float(min(gaps)))


def shown(value: float | None) -> str:
    """Return a number for the table."""
    return "never" if value is None else f"{value:.0f}"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--most", type=int, default=400, help="rounds of everybody")
    parser.add_argument("--seeds", type=int, default=10, help="under a budget")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lines: list[Line] = []
    print(f"{'set':14s}{'kind':6s}{'split':8s}{'method':20s}{'rounds to 1e-4':>16s}{'messages':>10s}"
          f"{'rounds to 1e-2':>16s}{'messages':>10s}{'end - EM':>11s}")  # fmt: skip
    for name, (rows, K) in sets().items():
        for kind in ("full", "tied"):
            for split in ("IID", "sorted"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    part = unbudgeted(name, rows, K, kind, split, options.starts, options.most)
                lines += part
                for line in part:
                    print(
                        f"{line.set:14s}{line.kind:6s}{line.split:8s}{line.method:20s}{shown(line.rounds_1e4):>16s}"
                        f"{shown(line.messages_1e4):>10s}{shown(line.rounds_1e2):>16s}{shown(line.messages_1e2):>10s}"
                        f"{line.gap:>11.4f}",
                        flush=True,
                    )
    private: list[Budgeted] = []
    print(f"\nunder a budget, blobs 8000 x 4, K = 5: {'epsilon':>8s}{'rounds':>8s}{'median':>10s}{'worst':>10s}")
    for epsilon in (1.0, 4.0):
        for rounds in (1, 2, 4, 8, 16, 32):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                one = budgeted(epsilon, rounds, options.seeds)
            private.append(one)
            print(f"{'':39s}{epsilon:>8g}{rounds:>8d}{one.median:>10.4f}{one.worst:>10.3f}", flush=True)
    if options.json:
        document = {"unbudgeted": [asdict(line) for line in lines], "budgeted": [asdict(line) for line in private]}
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
