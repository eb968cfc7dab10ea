"""Fraud across banks: each bank sees little fraud, and mostly one kind of it; together they see it all.

The transactions are made up: ordinary ones from one cloud, fraud of three kinds, a few per cent of everything. The
banks differ in size, in how much fraud they have, and in which kind. They train one small network under a budget for
single transactions, nobody shows a row, and they learn how well it does from protected counts over rows that training
never saw. Since the data are made up, the truth can be printed beside it.

    python examples/fraud_across_banks.py --epsilon 2 --figure fraud.png
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score

import privfed
from privfed.datasets import Dataset, partition_by_group
from privfed.learners.neural import FederatedSGD, HoldOut, evaluate

FEATURES, KINDS = 10, 3
RARE = 10.0  # weight of a fraud in the loss: a public choice, since nobody may count them
HELD_OUT = HoldOut(0.25)


def transactions(count: int, banks: int, rng: np.random.Generator) -> tuple[Dataset, np.ndarray]:
    """Return transactions with labels (1 is fraud), and the bank of each."""
    bank = rng.choice(banks, size=count, p=rng.dirichlet(np.full(banks, 2.0)))
    rate = rng.uniform(0.02, 0.08, banks)  # of fraud, bank by bank
    taste = rng.dirichlet(np.full(KINDS, 0.15), banks)  # which kind a bank sees
    centres = 3.4 * np.linalg.qr(rng.standard_normal((FEATURES, KINDS)))[0].T
    spread = np.exp(0.3 * rng.standard_normal((banks, FEATURES)))  # customers differ, too
    fraud = rng.random(count) < rate[bank]
    kind = np.array([rng.choice(KINDS, p=taste[number]) for number in bank])
    X = rng.standard_normal((count, FEATURES)) * np.where(fraud[:, None], 0.7, spread[bank])
    X += fraud[:, None] * centres[kind]
    return Dataset("made-up transactions", np.clip(X, -6.0, 6.0), fraud.astype(np.int64), bounds=(-6.0, 6.0)), bank


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(FEATURES, 12), torch.nn.Tanh(), torch.nn.Linear(12, 2))


def learner(rounds: int, records: float, share: float | None = None) -> FederatedSGD:
    """The same training for all: one bank, all banks in private, all rows in one place."""
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, RARE]))
    return FederatedSGD(
        network(), loss, rounds=rounds, clip=4.0, learning_rate=2.0, momentum=0.9, averaging=0.3, share=share,
        expected_records=records,
    )  # fmt: skip


def precision_of(model: FederatedSGD, test: Dataset) -> float:
    """Return the average precision: of the transactions that look worst, how many are fraud."""
    scores = model.decision_function(test.X)
    return float(average_precision_score(test.y, scores[:, 1] - scores[:, 0]))


def main() -> None:
    """Train three ways, evaluate in private, print the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, default=2.0)
    parser.add_argument("--banks", type=int, default=12)
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the made-up data; the noise has none")
    parser.add_argument("--figure", type=Path, help="write the banks and the scores as a PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # small budgets warn that noise dominates: the table shows it

    data, bank = transactions(options.rows + 4000, options.banks, np.random.default_rng(options.seed))
    test = data.subset(np.arange(options.rows, len(data)))
    train, bank = data.subset(np.arange(options.rows)), bank[: options.rows]
    partition = partition_by_group([f"bank-{number:02d}" for number in bank], min_records=20, small="merge")
    banks = partition.clients(train)
    print(partition.summary(train.labels))

    alone = {}
    for name, rows in banks.items():
        halves = [tuple(part[half::2] for part in rows) for half in (0, 1)]  # a federation has two clients at least
        with privfed.LocalFederation(halves, mode="trusted") as own:
            alone[name] = precision_of(learner(options.rounds, len(rows[1])).fit(own), test)
    with privfed.LocalFederation(banks, mode="trusted") as together:
        pooled = precision_of(learner(options.rounds, len(train)).fit(together), test)

    budget = privfed.Budget(epsilon=options.epsilon, delta=1e-5, unit="record")
    with privfed.LocalFederation(banks, budget=budget, max_records=16_384) as federation:
        records = 0.75 * len(train)  # what the hold-out leaves; how many rows all banks have is public
        model = learner(options.rounds, records, share=0.85).fit(HELD_OUT.training(federation))
        found = evaluate(federation, model, metrics="confusion", share=0.15, hold_out=HELD_OUT)
        private = precision_of(model, test)
        views = ", ".join(f"{view} {epsilon:.2f}" for view, epsilon in found.epsilon.items())

    confusion, spread = np.maximum(found.confusion, 0.0), found.confusion_noise_std  # noise can leave less than nothing
    caught, missed, false = confusion[1, 1], confusion[1, 0], confusion[0, 1]
    said, fraud = model.predict(test.X) == 1, test.labels == 1
    print(f"average precision, banks alone, no noise: {min(alone.values()):.3f} to {max(alone.values()):.3f},"
          f" median {np.median(list(alone.values())):.3f}")  # fmt: skip
    print(f"average precision, together, epsilon {options.epsilon:g}: {private:.3f}")
    print(f"average precision, together, no noise:  {pooled:.3f}")
    print(f"protected counts on held-out rows, each +- {spread:.0f}: {caught:.0f} caught, {missed:.0f} missed,"
          f" {false:.0f} false alarms")  # fmt: skip
    print(f"that is {caught / max(caught + missed, 1.0):.2f} of the fraud; on new rows it is {said[fraud].mean():.2f}")
    print(f"epsilon by adversary at delta {budget.delta:g}: {views}")
    if options.figure:
        draw(options.figure, partition, train, alone, {"together, in private": private, "without privacy": pooled})


def draw(path: Path, partition: object, train: Dataset, alone: dict[str, float], lines: dict[str, float]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    partition.plot(left, labels=train.labels)
    left.set_title("who holds what (1 is fraud)")
    right.barh(range(len(alone)), list(alone.values()), color="0.7", label="the bank alone")
    for (name, value), colour in zip(lines.items(), ("tab:green", "black"), strict=True):
        right.axvline(value, color=colour, linestyle="--" if colour == "black" else "-", label=name)
    right.set(xlim=(0, 1), xlabel="average precision on everybody's new rows", title="who finds the fraud")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
