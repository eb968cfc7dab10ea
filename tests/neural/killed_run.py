"""Runs that are killed at a given step and go on: torch is loaded once, every run is a forked process of its own.

    python killed_run.py DIRECTORY < cases.json > results.json

A case is {"name", "kill": [where, step, occurrence] or null, "federated": {...}}: the first process is killed there, a
second one resumes. A result holds what the second one ended with.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

from privfed import Budget, Ledger, LocalFederation
from privfed.learners.neural import FederatedAveraging
from privfed.learners.neural.checkpoints.checkpoint import Checkpoint, load_checkpoint, resume
from privfed.learners.neural.checkpoints.file import checkpoints_in
from privfed.learners.neural.checkpoints.stored_memory import StoredMemory

ROUNDS = 5


class Killer:
    """Kills this process when a step comes for the nth time."""

    def __init__(self, step: str, occurrence: int) -> None:
        self.step, self.left = step, occurrence

    def __call__(self, step: str) -> None:
        if step == self.step:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def nothing(step: str) -> None:
    pass


def data() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    found = {}
    for index in range(4):
        X = rng.normal(size=(12 + index, 3))
        found[f"c{index}"] = X, (X.sum(axis=1) > 0).astype(float)
    return found


def federation(home: Path, case: dict, steps: dict, *, done: int) -> LocalFederation:
    budget = Budget(8.0, 1e-5, unit="client") if case["private"] else None
    ledger = Ledger.open(home / "ledger.db", budget=budget, on_step=steps.get("ledger", nothing))
    memories = None
    if case["memories"]:
        memories = {name: StoredMemory(home / name, on_step=steps.get(name, nothing)) for name in data()}
    made = LocalFederation(
        data(), budget=budget, ledger=ledger, mode="trusted", max_records=20, noise_seed=5, memories=memories
    )
    # A seeded federation goes on where its noise stood, so that runs can be compared to the bit.
    made._drawn = dict.fromkeys(("cohort", "rotation", "central", *data()), done)
    return made


def learner(case: dict, callbacks: list) -> FederatedAveraging:
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    settings = {"share": 0.1, "clip": 0.5} if case["private"] else {}
    return FederatedAveraging(
        model,
        rounds=ROUNDS,
        learning_rate=0.3,
        batch_size=5,
        random_state=3,
        dtype="float64",
        server_momentum=0.5,
        control_variates=case["memories"],
        callbacks=callbacks,
        **settings,
    )


def run(home: Path, case: dict, kill: list | None) -> None:
    home.mkdir(parents=True, exist_ok=True)
    steps = {} if kill is None else {kill[0]: Killer(kill[1], kill[2])}
    found = checkpoints_in(home / "checkpoints") if (home / "checkpoints").exists() else []
    done = load_checkpoint(found[-1]).state.round if found else 0
    silos = federation(home, case, steps, done=done)
    memories = [memory for _, memory in sorted(silos._memories.items())]
    checkpoint = Checkpoint(home / "checkpoints", memories=memories, on_step=steps.get("checkpoint", nothing))
    fitted = learner(case, [checkpoint])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if found:
            resume(home / "checkpoints", fitted, silos)
        else:
            fitted.fit(silos)
    records = silos.ledger.rounds()
    result = {
        "resumed_at": done,
        "parameters": fitted.parameters_.tolist(),
        "rounds": fitted.n_rounds_,
        "history": [row["round"] for row in fitted.history_],
        "charged": sum(record.status != "void" for record in records),
        "spent": None if silos.budget is None else 1.0 - silos.remaining_share,
        "warnings": [str(one.message) for one in caught],
        "memories": [[value.tolist() for _, value in sorted(memory.items())] for memory in memories],
    }
    (home / "result.json").write_text(json.dumps(result))


def forked(home: Path, case: dict, kill: list | None) -> int:
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            run(home, case, kill)
        except Exception:  # noqa: BLE001  # a forked copy of this process must end here, whatever happened
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def main() -> None:
    directory, results = Path(sys.argv[1]), {}
    for case in json.load(sys.stdin):
        home = directory / case["name"]
        killed = forked(home, case, case["kill"]) if case["kill"] else None
        ended = forked(home, case, None)
        found = json.loads((home / "result.json").read_text()) if ended == 0 else {}
        results[case["name"]] = {"killed": killed, "ended": ended, **found}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
