"""Choose a source model, fine-tune it across clinics, deploy it: transfer from one set of digits to another.

Five small networks were trained in public, on other people's digits: 0 to 4, 5 to 9, even or odd, shuffled labels, and
not at all. Ten clinics hold digits 5 to 9 that nobody may see. They rank the sources by protected sums, fine-tune the
best one near where it started, hold it against the source as it is and against a start from scratch, and write the
result into a folder with a card that says what was spent. One clinic then makes it its own, at home.

The rows are scikit-learn's digits, each several times with fresh noise, so that there are enough of them to protect; a
digit's copies count as records of their own here, as they would not in earnest.

    python examples/source_selection.py --out transfer
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from sklearn.datasets import load_digits

import privfed
from privfed.transfer import Candidate, FineTuning, export, load_deployed, personalise, rank_sources, with_new_head

mpl.use("Agg")

CLINICS, TARGET = 10, 5


def network(outputs: int) -> torch.nn.Module:
    body = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 16), torch.nn.ReLU())
    return torch.nn.Sequential(body, torch.nn.Linear(16, outputs))


def pretrained(X: np.ndarray, y: np.ndarray, steps: int) -> torch.nn.Module:
    """Return a network trained in the open, on public rows."""
    model = network(int(y.max()) + 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs, targets = torch.tensor(X, dtype=torch.float32), torch.tensor(y)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (64,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    return model


def main() -> None:
    """Select, fine-tune, compare, deploy, personalise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=400, help="of training in the open")
    parser.add_argument("--copies", type=int, default=12, help="of each digit, with noise")
    parser.add_argument("--out", type=Path, default=Path("transfer"), help="folder for the figure and the model")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)

    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order] / 16.0, y[order]
    public_X, public_y, X, y = X[:700], y[:700], X[700:], y[700:]
    late = public_y >= TARGET
    X, y = X[y >= TARGET], y[y >= TARGET] - TARGET
    test_X, test_y, X, y = X[:120], y[:120], X[120:], y[120:]
    copies = np.random.default_rng(1).normal(0.0, 0.08, (options.copies, *X.shape)) + X
    X, y = copies.reshape(-1, 64).clip(0.0, 1.0), np.tile(y, options.copies)
    clinics = [(X[k::CLINICS], y[k::CLINICS].astype(float)) for k in range(CLINICS)]
    most = max(len(rows) for rows, _ in clinics)

    models = {
        "0 to 4": pretrained(public_X[~late], public_y[~late], options.steps),
        "5 to 9": pretrained(public_X[late], public_y[late] - TARGET, options.steps),
        "even or odd": pretrained(public_X, public_y % 2, options.steps),
        "shuffled": pretrained(public_X, np.random.default_rng(2).permutation(public_y), options.steps),
        "untrained": network(10),
    }
    candidates = [Candidate(name, model, features="0", source_head=True) for name, model in models.items()]

    budget = privfed.Budget(epsilon=options.epsilon, delta=1e-5)
    federation = privfed.LocalFederation(clinics, budget=budget, mode="trusted", max_records=most)
    ranking = rank_sources(federation, candidates, n_classes=5, share=0.2, random_state=0)
    print(f"sources for {len(X)} rows in {CLINICS} clinics, ranked for a fifth of the budget:\n{ranking}\n")

    source = with_new_head(models[ranking.best], 5, random_state=0)
    tuning = FineTuning(
        source,
        rounds=options.rounds,
        learner="sgd",
        training={"learning_rate": 0.5, "momentum": 0.8, "clip": 1.0, "expected_records": len(X)},
        proximal={"1.*": 0.0, "*": 0.002},
        compare_with=("source", "scratch"),
        check_share=0.05,
        hold_out=0.2,
        random_state=0,
    ).fit(federation)
    print(f"{tuning.comparison_}")
    print(f"on digits that nobody held: {np.mean(tuning.predict(test_X) == test_y):.3f}\n")

    options.out.mkdir(parents=True, exist_ok=True)
    ranking.plot().savefig(options.out / "sources.png", dpi=120)
    deployed = export(
        tuning.model_,
        options.out / "digits-5-to-9",
        name="Digits 5 to 9",
        description="Tells handwritten digits 5 to 9 apart, 8 x 8 pixels.",
        data_sets=[
            {"name": "public digits", "description": "700 digits of UCI's set", "holders": "public", "role": "source"},
            {"name": "clinics", "description": "digits 5 to 9, with noise", "holders": f"{CLINICS} clinics"},
        ],
        federation=federation,
        metrics={"ranking": ranking.as_dict(), "comparison": tuning.comparison_.as_dict()},
        feature_shape=(64,),
        classes=[str(digit) for digit in range(TARGET, 10)],
    )
    print(f"deployed with card {deployed.digest[:16]}..., spent {tuning.epsilon_['server']:.2f} of {options.epsilon:g}")

    model = load_deployed(deployed.path, with_new_head(source, 5), digest=deployed.digest).model
    own_X, own_y = clinics[0]
    own = personalise(model, own_X[::2], own_y[::2], proximal=0.01, epochs=10)
    with torch.no_grad():
        inputs = torch.tensor(own_X[1::2], dtype=torch.float32)
        shared, personal = (float((m(inputs).argmax(1).numpy() == own_y[1::2]).mean()) for m in (model, own))
    print(f"at the first clinic: shared model {shared:.3f}, its own {personal:.3f}")


if __name__ == "__main__":
    main()
