"""The same noise whoever is lost: two drop-out policies beside each other, through the real protocol.

Twelve clients sum a vector; up to four may be lost. With "provision" every share of the noise is sized for the eight
that must be left, and whoever stays adds noise that nobody needed. With "exact" the survivors give that surplus back
once they agree on who is left: one 32-byte seed each.

    python examples/exact_dropouts.py --clients 12 --tolerated 4
"""

from __future__ import annotations

import argparse

import numpy as np

import privfed


def main() -> None:
    """Lose more and more clients, and measure the noise of the sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--tolerated", type=int, default=4)
    parser.add_argument("--dimension", type=int, default=4000)
    parser.add_argument("--epsilon", type=float, default=4.0)
    options = parser.parse_args()

    # Vectors of zeros, so that all that comes out is noise.
    clients = {f"client-{i:02d}": np.zeros((1, options.dimension)) for i in range(options.clients)}
    budget = privfed.Budget(epsilon=options.epsilon, delta=1e-6, unit="client")
    query = privfed.VectorSum(dimension=options.dimension, clip=1.0)

    print("lost   provision: stated  measured   exact: stated  measured   given back by")
    for lost in range(options.tolerated + 1):
        losses = [privfed.Loss(name, "masked") for name in list(clients)[:lost]]
        cells, gave = [], 0
        for policy in ("provision", "exact"):
            with privfed.LocalFederation(
                clients,
                budget=budget,
                drop_outs=policy,
                dropout=options.tolerated / options.clients,
                losses=losses,
                max_records=1,
            ) as federation:
                release = federation.release(query, share=1.0)
            cells.append(f"{release.noise_std['sum']:17.3f}  {np.std(release['sum']):8.3f}")
            gave = release.survivors - release.kept_surplus if lost < options.tolerated else 0
        print(f"{lost:4d} {cells[0]} {cells[1][2:]}   {gave:3d} of {options.clients - lost}")

    # A client lost after its input and before its answer keeps its surplus in: more noise, never less, and it is said.
    name = list(clients)[-1]
    with privfed.LocalFederation(
        clients,
        budget=budget,
        drop_outs="exact",
        dropout=options.tolerated / options.clients,
        losses=[privfed.Loss(name, "unmask")],
        max_records=1,
    ) as federation:
        release = federation.release(query, share=1.0)
    late, measured = release.noise_std["sum"], np.std(release["sum"])
    print(f"{name} lost after its input: stated {late:.3f}, measured {measured:.3f}, kept {release.kept_surplus}")


if __name__ == "__main__":
    main()
