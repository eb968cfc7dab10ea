"""Ways to share a data set out among clients that differ as silos do: by labels, by size, by features, by group.

The choices are numpy's, governed by `random_state`; the same state gives the same partition. Names are `client-00` and
so on, as `LocalFederation` gives them. Every client gets at least `min_records`: where chance would give it fewer, the
largest clients give up records, drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from privfed.datasets.dataset import IntArray, RandomState, class_labels, generator
from privfed.datasets.partition import Partition
from privfed.errors import UsageError, checked_integer, checked_number

__all__ = [
    "partition_by_group",
    "partition_dirichlet",
    "partition_feature_shift",
    "partition_iid",
    "partition_quantity",
    "partition_shards",
]

OTHERS = "others"


def partition_iid(
    n_records: int, n_clients: int, *, min_records: int = 1, random_state: RandomState = None
) -> Partition:
    """Share records out evenly and at random: sizes differ by one at most.

    Raises:
        UsageError: too few records.
    """
    n_clients, rng = _checked(n_records, n_clients, min_records, random_state)
    return _partition(np.array_split(rng.permutation(n_records), n_clients), n_records, "even, at random")


def partition_quantity(
    n_records: int, n_clients: int, *, alpha: float = 0.5, min_records: int = 1, random_state: RandomState = None
) -> Partition:
    """Share records out at random in sizes that differ: parts of the whole from a symmetric Dirichlet.

    Args:
        n_records: how many there are.
        n_clients: how many share them.
        alpha: of the Dirichlet, > 0: small for few large clients and many small ones, large for equal ones.
        min_records: least records of a client.
        random_state: of the choice.

    Raises:
        UsageError: too few records.
    """
    n_clients, rng = _checked(n_records, n_clients, min_records, random_state)
    silos = _deal([np.arange(n_records)], n_clients, alpha=checked_number("alpha", alpha), rng=rng)
    return _partition(_lifted(silos, min_records, rng), n_records, f"sizes by Dirichlet({alpha:g})")


def partition_dirichlet(
    labels: npt.ArrayLike,
    n_clients: int,
    *,
    alpha: float = 0.5,
    min_records: int = 1,
    random_state: RandomState = None,
) -> Partition:
    """Share each label's records out in parts from a symmetric Dirichlet of its own (Hsu, Qi and Brown 2019,
    arXiv:1909.06335): clients differ in their mixtures of labels, and in size.

    Args:
        labels: class number of each record, shape `(n,)`.
        n_clients: how many share them.
        alpha: of the Dirichlet, > 0: 0.1 leaves a client with one or two labels, 100 with nearly everybody's mixture.
        min_records: least records of a client.
        random_state: of the choice.

    Raises:
        UsageError: too few records, or labels that are no class numbers.
    """  # fmt: skip
    labels = class_labels(labels)
    n_clients, rng = _checked(len(labels), n_clients, min_records, random_state)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    silos = _deal(groups, n_clients, alpha=checked_number("alpha", alpha), rng=rng)
    return _partition(_lifted(silos, min_records, rng), len(labels), f"labels by Dirichlet({alpha:g})", labels=labels)


def partition_shards(
    labels: npt.ArrayLike,
    n_clients: int,
    *,
    shards_per_client: int = 2,
    random_state: RandomState = None,
) -> Partition:
    """Sort by label, cut into equal shards, deal each client some of them (McMahan et al. 2017, arXiv:1602.05629).

    Args:
        labels: class number of each record, shape `(n,)`; records of one label are shuffled.
        n_clients: how many share them.
        shards_per_client: 1 to 2 leave a client with one or two labels.
        random_state: of the choice.

    Raises:
        UsageError: fewer records than shards, or labels that are no class numbers.
    """
    labels = class_labels(labels)
    shards_per_client = checked_integer("shards_per_client", shards_per_client, least=1)
    n_clients, rng = _checked(len(labels), n_clients, shards_per_client, random_state)
    shuffled = rng.permutation(len(labels))
    shards = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], n_clients * shards_per_client)
    dealt = rng.permutation(len(shards)).reshape(n_clients, shards_per_client)
    silos = [np.concatenate([shards[number] for number in hand]) for hand in dealt]
    return _partition(silos, len(labels), f"{shards_per_client} shards of sorted labels", labels=labels)


def partition_feature_shift(
    X: npt.ArrayLike,
    n_clients: int,
    *,
    strength: float = 1.0,
    column: int | None = None,
    min_records: int = 1,
    random_state: RandomState = None,
) -> Partition:
    """Give neighbouring values of one feature to one client: what is typical of records differs from client to client.

    Records are put in order of `strength` times their rank in the feature plus `1 - strength` times chance, and cut
    into equal parts.

    Args:
        X: features, shape `(n, ...)`.
        n_clients: how many share them.
        strength: in [0, 1]: 0 is an even split, 1 gives each client a range of its own.
        column: of the flat features to go by; None takes the first principal axis of the standardised features.
        min_records: least records of a client.
        random_state: of the choice; it breaks ties as well.

    Raises:
        UsageError: too few records, or no such column.
    """
    features = np.asarray(X, dtype=np.float64)
    if features.ndim < 2 or features.size < 1:
        raise UsageError(f"X has shape {features.shape}, expected (records, features)")
    features = features.reshape(len(features), -1)
    if isinstance(strength, bool) or not 0.0 <= strength <= 1.0:
        raise UsageError(f"strength is {strength!r}, expected a number from 0 to 1")
    n_clients, rng = _checked(len(features), n_clients, min_records, random_state)
    if column is None:
        values, what = _first_axis(features), "the first principal axis"
    else:
        column = checked_integer("column", column, least=0, most=features.shape[1] - 1)
        values, what = features[:, column], f"column {column}"
    shuffled = rng.permutation(len(values))
    rank = np.empty(len(values))
    rank[shuffled[np.argsort(values[shuffled], kind="stable")]] = (np.arange(len(values)) + 0.5) / len(values)
    order = np.argsort(strength * rank + (1.0 - strength) * rng.uniform(size=len(values)), kind="stable")
    return _partition(np.array_split(order, n_clients), len(values), f"shift of {strength:g} along {what}")


def partition_by_group(
    groups: npt.ArrayLike | Sequence[str],
    *,
    min_records: int = 1,
    small: Literal["refuse", "merge"] = "refuse",
) -> Partition:
    """Give each group a client: the hospital, bank or device that a column names.

    Args:
        groups: the group of each record, shape `(n,)`: words or whole numbers. Clients have the groups' names.
        min_records: least records of a client.
        small: what to do with smaller groups: "refuse", or "merge" them into one client, "others".

    Raises:
        UsageError: a group, or all small ones together, has too few records; or the groups are no words or numbers.
    """
    values = np.asarray(groups)
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.ravel()):
        values = values.astype(str)
    if values.dtype.kind == "f":
        values = class_labels(values)
    if values.ndim != 1 or len(values) < 1 or values.dtype.kind not in "iubU":
        raise UsageError(
            f"groups have shape {values.shape} and dtype {values.dtype}, expected a word or whole number for each"
            " record, none missing"
        )
    if small not in ("refuse", "merge"):
        raise UsageError(f"small is {small!r}, expected 'refuse' or 'merge'")
    min_records = checked_integer("min_records", min_records, least=1)
    names, numbers, sizes = np.unique(values, return_inverse=True, return_counts=True)
    indices = {str(name): np.flatnonzero(numbers == number) for number, name in enumerate(names)}
    few = [str(name) for name, size in zip(names, sizes, strict=True) if size < min_records]
    if small == "merge" and few:
        merged = np.concatenate([indices.pop(name) for name in few])
        if OTHERS in indices or len(merged) < min_records:
            raise UsageError(
                f"the small groups have {len(merged)} records together, expected {min_records}, and no group called"
                f" {OTHERS!r}: lower min_records"
            )
        indices[OTHERS] = merged
    elif few:
        shown = ", ".join(map(repr, few[:5])) + (", ..." if len(few) > 5 else "")
        raise UsageError(f"{len(few)} groups have fewer than {min_records} records ({shown}): small='merge' joins them")
    return Partition(indices, len(values), "by group")


def _checked(
    n_records: int, n_clients: int, min_records: int, random_state: RandomState
) -> tuple[int, np.random.Generator]:
    n_records = checked_integer("n_records", n_records, least=1)
    n_clients = checked_integer("n_clients", n_clients, least=1)
    min_records = checked_integer("min_records", min_records, least=1)
    if n_records < n_clients * min_records:
        raise UsageError(f"{n_records} records are too few for {n_clients} clients of at least {min_records}")
    return n_clients, generator(random_state)


def _deal(
    groups: Sequence[npt.NDArray[np.intp]], n_clients: int, *, alpha: float, rng: np.random.Generator
) -> list[list[int]]:
    """Cut each group, shuffled, into parts of Dirichlet sizes, one for each client."""
    silos: list[list[int]] = [[] for _ in range(n_clients)]
    for group in groups:
        cuts = np.cumsum(rng.dirichlet(np.full(n_clients, alpha)))[:-1] * len(group)
        for silo, part in zip(silos, np.split(rng.permutation(group), cuts.astype(int)), strict=True):
            silo.extend(part.tolist())
    return silos


def _lifted(silos: list[list[int]], least: int, rng: np.random.Generator) -> list[list[int]]:
    """Let the largest silo give a record to the smallest until nobody has fewer than `least`."""
    sizes = np.array([len(silo) for silo in silos])
    while sizes.min() < least:
        giver, taker = int(sizes.argmax()), int(sizes.argmin())
        silos[giver].sort()
        silos[taker].append(silos[giver].pop(int(rng.integers(sizes[giver]))))
        sizes[giver] -= 1
        sizes[taker] += 1
    return silos


def _partition(
    silos: Sequence[Sequence[int] | npt.NDArray[np.int64]],
    n_records: int,
    method: str,
    *,
    labels: IntArray | None = None,
) -> Partition:
    width = max(2, len(str(len(silos) - 1)))
    indices = {f"client-{number:0{width}d}": np.asarray(silo, dtype=np.int64) for number, silo in enumerate(silos)}
    return Partition(indices, n_records, method, labels)


def _first_axis(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the records' coordinates on the direction of largest variance of the standardised features."""
    spread = features.std(axis=0)
    standard = (features - features.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
    axis = np.linalg.eigh(standard.T @ standard)[1][:, -1]
    coordinates: npt.NDArray[np.float64] = standard @ (axis * np.sign(axis[np.abs(axis).argmax()]))
    return coordinates
