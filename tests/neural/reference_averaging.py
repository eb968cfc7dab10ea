"""Federated averaging and its relatives in plain torch, written from the papers: no federation, no query, no encoding.

Only the order of rows is shared with the library (`batches`), so that both see the same batches.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from privfed.learners.neural.averaging.local import LocalTraining, batches


def local_seed(seed: int, number: int) -> int:
    digest = hashlib.sha256(f"privfed local training/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def flat(model: torch.nn.Module) -> np.ndarray:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy()


def set_flat(model: torch.nn.Module, vector: np.ndarray) -> None:
    torch.nn.utils.vector_to_parameters(torch.tensor(vector), model.parameters())


def gradient(model, x, y) -> np.ndarray:
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(y).long()).backward()
    return np.concatenate([p.grad.numpy().ravel() for p in model.parameters()]).copy()


def walk(model, start, x, y, *, rate, epochs, batch, seed, momentum=0.0, decay=0.0, proximal=0.0, correction=0.0):
    """One client's parameters after training, and its number of steps, by hand: no optimiser of torch."""
    w, velocity, steps = start.copy(), 0.0, 0
    for index in batches(len(x), LocalTraining(rate, epochs, batch), seed):
        set_flat(model, w)
        g = gradient(model, x[index], y[index]) + decay * w + proximal * (w - start) + correction
        velocity = momentum * velocity + g
        w = w - rate * velocity
        steps += 1
    return w, steps


def averaging(model, clients, *, rounds, seed, uniform=False, fednova=False, server=None, clip=None, **how):
    """Parameters after FedAvg; `server` maps (parameters, change) to parameters, `clip` is (norm, quantile, rate)."""
    x_t = flat(model)
    norm, quantile, rate = clip or (None, None, None)
    norms = []
    for number in range(1, rounds + 1):
        changes, weights, counts, short = [], [], [], []
        for x, y in clients:
            if not len(x):
                continue
            w, steps = walk(model, x_t, x, y, seed=local_seed(seed, number), **how)
            tau = normaliser(steps, how) if fednova else 1.0
            change = (w - x_t) / tau
            if norm is not None:
                length = np.linalg.norm(change)
                short.append(length <= norm)
                change = change * min(1.0, norm / length)
            changes.append(change)
            weights.append(1.0 if uniform else float(len(x)))
            counts.append(tau)
        p = np.array(weights) / np.sum(weights)
        change = sum(pi * ci for pi, ci in zip(p, changes, strict=True))
        if fednova:
            change = change * float(p @ np.array(counts))
        x_t = x_t + change if server is None else server(x_t, change)
        if norm is not None:
            norms.append(norm)
            norm = norm * np.exp(-rate * (np.mean(short) - quantile))
    return (x_t, norms) if clip else x_t


def normaliser(steps, how) -> float:
    """|a|_1 of FedNova in closed form: plain SGD, momentum, or the proximal term."""
    rho, alpha = how.get("momentum", 0.0), how["rate"] * how.get("proximal", 0.0)
    if rho:
        return (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    return (1 - (1 - alpha) ** steps) / alpha if alpha else float(steps)


def scaffold(model, clients, *, rounds, seed, cohorts, rate, epochs, batch, server_rate=1.0):
    """SCAFFOLD, algorithm 1 with option II: clients weigh alike; `cohorts` says who takes part in which round."""
    x, c = flat(model), 0.0
    own = [np.zeros_like(x) for _ in clients]
    for number, cohort in enumerate(cohorts[:rounds], start=1):
        moved, changed = [], []
        for i in cohort:
            y, steps = walk(
                model,
                x,
                *clients[i],
                seed=local_seed(seed, number),
                rate=rate,
                epochs=epochs,
                batch=batch,
                correction=c - own[i],
            )
            new = own[i] - c + (x - y) / (steps * rate)
            moved.append(y - x)
            changed.append(new - own[i])
            own[i] = new
        x = x + server_rate * np.mean(moved, axis=0)
        c = c + len(cohort) / len(clients) * np.mean(changed, axis=0)
    return x, c, own
