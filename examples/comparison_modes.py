"""What each kind of trust costs: distributed, local, central and no differential privacy through one door.

Thirty clinics average one vector each. The same call runs with noise in shares behind secure aggregation, with enough
noise at each clinic for itself (local differential privacy, nobody is trusted), with noise added once by an operator
who sees everything (central), and with none. Distributed noise is as small as central noise, and needs no operator.

    python examples/comparison_modes.py --clinics 30 --epsilon 2
"""

from __future__ import annotations

import argparse
import math

import numpy as np

import privfed

# mode, whose eyes the budget guards against: with a trusted operator, only those who see the releases are kept out
MODES = (("secure", "server"), ("local", "server"), ("central", "released"), ("none", ""))


def main() -> None:
    """Average the same vectors four times, and print error and epsilon for each observer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clinics", type=int, default=30)
    parser.add_argument("--dimension", type=int, default=500)
    parser.add_argument("--epsilon", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    vectors = rng.normal(0.02, 0.02, (options.clinics, options.dimension))
    truth = vectors.mean(axis=0)

    print("mode      noise of the mean   error   epsilon: released   server   one vector alone")
    for mode, view in MODES:
        budget = None
        if view:
            budget = privfed.Budget(epsilon=options.epsilon, delta=1e-6, unit="client", view=view)
        with privfed.LocalFederation(
            list(vectors[:, None, :]), budget=budget, mode="trusted" if mode == "none" else mode, max_records=1
        ) as federation:
            query = privfed.VectorSum(dimension=options.dimension, clip=1.0)
            release = federation.release(query, share=None if budget is None else 1.0)
        mean = release["sum"] / release.survivors
        error = float(np.sqrt(np.mean((mean - truth) ** 2)))
        seen = [release.epsilon.get(name, math.inf) for name in ("released", "server", "unmasked")]
        noise = release.noise_std["sum"] / release.survivors
        print(f"{mode:8s} {noise:18.4f} {error:7.4f} {seen[0]:19.2f} {seen[1]:8.2f} {seen[2]:18.2f}")


if __name__ == "__main__":
    main()
