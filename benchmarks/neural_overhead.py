"""What protection costs a training loop: federated averaging through the one door, beside the same loop without it.

    python benchmarks/neural_overhead.py                # 20 clients, about 1e6 parameters: a few minutes
    python benchmarks/neural_overhead.py --clients 4    # the same on fewer
    python benchmarks/neural_overhead.py --json

The loop without: the same local training (`privfed.learners.neural.averaging.local.train`), its changes averaged by
numpy. The loop with: client-level privacy, secure aggregation with masks, noise, adaptive clipping and a ledger. Both
run in turn in this process on one thread; the least CPU time of each counts, and wall time stands beside it. Memory is
what numpy and Python hold at most during a fit in secure mode, beside the data, for more and more clients: the server
with its protocol, and all clients of the process, who take their turns one by one. It must not grow by as much as one
vector a client does; what grows are the clients' own keys and shares.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import os
import pstats
import time
import tracemalloc
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: one thread is what is measured

import numpy as np
import torch

from privfed import Budget, LocalFederation
from privfed.learners.neural import FederatedAveraging
from privfed.learners.neural.averaging.local import LocalTraining, train
from privfed.learners.neural.program import TorchProgram

BAR = 0.15
SHAPE = (784, 1000, 200, 10)
COUNTS = (5, 20, 80)
ROWS, EPOCHS, BATCH, RATE = 1000, 5, 32, 0.05
# Where a function of the library belongs in the profile.
PARTS = {
    "train": ("averaging/local.py",),
    "clip": ("mechanism/clip.py",),
    "encode": ("mechanism/encode.py", "federation/vector.py"),
    "noise": (
        "mechanism/surplus.py",
        "mechanism/discrete_gaussian.py",
        "mechanism/tables.py",
        "mechanism/randomness.py",
    ),
    "protocol": ("privfed_protocols/",),
    "account": ("privfed_accounting/", "federation/pricing.py", "plan/"),
    "query": ("privfed/query.py", "averaging/update.py", "neural/program.py", "federation/client.py"),
}


@dataclass(frozen=True)
class Cost:
    """Seconds of a round."""

    cpu: float
    wall: float


def clients(number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(ROWS, SHAPE[0])), rng.integers(0, 10, ROWS).astype(float)) for _ in range(number)]


def network(shape: tuple[int, ...] = SHAPE) -> torch.nn.Module:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for before, after in itertools.pairwise(shape):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def bare_round(program: TorchProgram, start: np.ndarray, data: list[np.ndarray], number: int) -> np.ndarray:
    """One round of federated averaging that protects nothing."""
    training, total, weight = LocalTraining(RATE, EPOCHS, BATCH), np.zeros_like(start), 0
    for rows in data:
        total += len(rows) * train(program, start, rows, training, seed=number).delta
        weight += len(rows)
    return start + total / weight


def learner(rounds: int, **settings: Any) -> FederatedAveraging:
    return FederatedAveraging(
        network(), rounds=rounds, local_epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE, random_state=0, **settings
    )


def costs(data: list[tuple[np.ndarray, np.ndarray]], rounds: int) -> tuple[Cost, Cost]:
    """Return the cost of a round without protection and with, the least of `rounds`, in turn."""
    program = TorchProgram(network(), feature_shape=(SHAPE[0],))
    rows = [np.column_stack(pair) for pair in data]
    bare: list[Cost] = []
    guarded: list[Cost] = []
    start = program.parameters()
    bare_round(program, start, rows[:1], 0)  # torch warms up

    def unprotected(_: object) -> None:
        """Run between the protected rounds, so that both see the same machine."""
        nonlocal start
        guarded.append(Cost(time.process_time() - began[0], time.perf_counter() - began[1]))
        cpu, wall = time.process_time(), time.perf_counter()
        start = bare_round(program, start, rows, len(bare))
        bare.append(Cost(time.process_time() - cpu, time.perf_counter() - wall))
        began[:] = [time.process_time(), time.perf_counter()]

    federation = LocalFederation(data, budget=Budget(epsilon=8.0, delta=1e-5, unit="client"))
    began = [time.process_time(), time.perf_counter()]
    learner(rounds, callbacks=unprotected).fit(federation)

    def least(found: list[Cost]) -> Cost:
        return Cost(min(one.cpu for one in found), min(one.wall for one in found))

    return least(bare), least(guarded)


def profile(data: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Return the part of a protected round that each step takes, of the whole under a profiler."""
    federation = LocalFederation(data, budget=Budget(epsilon=8.0, delta=1e-5, unit="client"))
    profiler = cProfile.Profile()
    profiler.enable()
    learner(1).fit(federation)
    profiler.disable()
    stats = pstats.Stats(profiler)
    found = dict.fromkeys((*PARTS, "other"), 0.0)
    calls: dict[Any, Any] = stats.stats  # type: ignore[attr-defined]  # pstats does not declare it
    for (file, _, _), (_, _, own, _, callers) in calls.items():
        place = part_of(file)
        if place is not None or not callers:
            found[place or "other"] += own
            continue
        for (caller, _, _), numbers in callers.items():  # numpy, torch and built-ins count for whoever called them
            found[part_of(caller) or ("train" if "torch" in caller or "torch" in file else "other")] += numbers[2]
    total = sum(found.values())
    return {name: seconds / total for name, seconds in found.items()}


def part_of(file: str) -> str | None:
    return next((name for name, places in PARTS.items() if any(place in file for place in places)), None)


def memory(number: int, mode: str = "secure", parameters: int = 100_000) -> float:
    """Return what protected rounds hold at most beside the data, in vectors of 8 bytes per parameter."""
    side = parameters // 100
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(4, 99)), rng.integers(0, 2, 4).astype(float)) for _ in range(number)]
    model = torch.nn.Sequential(torch.nn.Linear(99, side), torch.nn.ReLU(), torch.nn.Linear(side, 2))
    federation = LocalFederation(data, mode=mode, budget=Budget(epsilon=8.0, delta=1e-5, unit="client"))
    trained = FederatedAveraging(model, rounds=2, random_state=0)
    tracemalloc.start()
    trained.fit(federation)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / (8.0 * trained.parameters_.size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = clients(options.clients)
    bare, guarded = costs(data, options.rounds)
    parts = profile(data[: min(5, options.clients)])
    held = {mode: {number: memory(number, mode) for number in COUNTS} for mode in ("secure", "trusted")}
    growth = (held["secure"][COUNTS[-1]] - held["secure"][COUNTS[0]]) / (COUNTS[-1] - COUNTS[0])
    overhead = {"cpu": guarded.cpu / bare.cpu - 1.0, "wall": guarded.wall / bare.wall - 1.0}
    if options.json:
        print(json.dumps({"bare": asdict(bare), "protected": asdict(guarded), "overhead": overhead, "bar": BAR,
                          "profile": parts, "memory_in_vectors": held, "vectors_a_client": growth}))  # fmt: skip
        return
    size = sum(value.numel() for value in network().parameters())
    print(f"{options.clients} clients of {ROWS} rows, {EPOCHS} epochs, {size} parameters, {options.rounds} rounds")
    print(f"{'':22}{'without':>10}{'with':>10}{'overhead':>10}{'bar':>8}")
    for name, before, after in (("CPU s a round", bare.cpu, guarded.cpu), ("wall s a round", bare.wall, guarded.wall)):
        print(f"{name:22}{before:10.2f}{after:10.2f}{after / before - 1.0:10.1%}{BAR:8.0%}")
    print("\nwhere a protected round spends its time")
    for name, part in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {name:12}{part:8.1%}")
    print("\nmost memory, in vectors of the model's length, by number of clients")
    for mode, found in held.items():
        print(f"  {mode:8} " + ", ".join(f"{number}: {vectors:.1f}" for number, vectors in found.items()))
    print(
        f"  in secure mode {growth:.3f} vectors more for each client more: the bar is that no vector is kept, below 0.1"
    )


if __name__ == "__main__":
    main()
