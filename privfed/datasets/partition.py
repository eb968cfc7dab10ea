"""Who holds which record: a partition of a data set among clients, and what it looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from privfed.datasets.dataset import Dataset, IntArray, RandomState, class_labels, generator, split_rows
from privfed.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ClientData", "Partition", "PartitionSummary"]

ClientData: TypeAlias = dict[str, Any]  # client -> (X, y), or X alone


@dataclass(frozen=True)
class PartitionSummary:
    """A partition in numbers.

    Attributes:
        method: how the partition was made.
        clients: how many there are.
        records: how many they share.
        smallest, median, largest: records of a client.
        labels: how many labels there are; 0 where none are known.
        labels_per_client: median over the clients of how many labels they hold.
        label_distance: mean over the clients of the total variation distance between a client's labels and everybody's:
            0 where all are alike, near 1 where each client has a label that hardly anybody else has.
    """

    method: str
    clients: int
    records: int
    smallest: int
    median: float
    largest: int
    labels: int = 0
    labels_per_client: float = 0.0
    label_distance: float = 0.0

    def __str__(self) -> str:
        text = (
            f"{self.method}: {self.records} records at {self.clients} clients of {self.smallest} to {self.largest},"
            f" median {self.median:g}"
        )
        if self.labels:
            text += (
                f"; a client holds {self.labels_per_client:g} of {self.labels} labels (median), at a distance of"
                f" {self.label_distance:.2f} from everybody's"
            )
        return text


@dataclass(frozen=True, eq=False)
class Partition:
    """Each client's record numbers.

    Args:
        indices: client -> its record numbers, ascending, int64; kept read-only.
        n_records: how many records there are.
        method: how the partition was made, in words.
        labels: the records' class numbers, int64 of shape `(n_records,)`, where the partition was made by them.

    Guarantees:
        Every record number from 0 to n_records - 1 belongs to exactly one client, and no client is without records.

    Raises:
        UsageError: the indices are no partition.

    Examples:
        >>> from privfed.datasets import load_sklearn, partition_dirichlet
        >>> digits = load_sklearn("digits")
        >>> silos = partition_dirichlet(digits.labels, 20, alpha=0.5, random_state=0)
        >>> len(silos), silos.sizes.sum(), silos.clients(digits)["client-00"][0].shape[1]
        (20, np.int64(1797), 64)
    """

    indices: Mapping[str, IntArray]
    n_records: int
    method: str = "given"
    labels: IntArray | None = None

    def __post_init__(self) -> None:
        kept = {}
        for name, rows in self.indices.items():
            array = np.array(rows, dtype=np.int64)
            if array.ndim != 1 or len(array) < 1:
                raise UsageError(f"client {name!r} has record numbers of shape {array.shape}, expected one or more")
            array.sort()
            array.setflags(write=False)
            kept[str(name)] = array
        together = np.sort(np.concatenate([*kept.values(), np.empty(0, dtype=np.int64)]))
        if len(kept) != len(self.indices) or not np.array_equal(together, np.arange(self.n_records)):
            raise UsageError(
                f"{len(together)} record numbers do not share out 0 to {self.n_records - 1}: each belongs to exactly"
                " one client"
            )
        object.__setattr__(self, "indices", MappingProxyType(kept))
        if self.labels is not None:
            object.__setattr__(self, "labels", self._checked_labels(self.labels))

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"<Partition, {self.method}: {self.n_records} records at {len(self)} clients>"

    @property
    def sizes(self) -> IntArray:
        """Number of records of each client, in order."""
        return np.array([len(rows) for rows in self.indices.values()], dtype=np.int64)

    def clients(self, dataset: Dataset) -> ClientData:
        """Return client -> (X, y), or client -> X where there are no targets: what `LocalFederation` takes.

        Raises:
            UsageError: the data set has another number of records.
        """
        self._check(dataset)
        return _of_clients(dataset, self.indices)

    def split_clients(
        self, dataset: Dataset, *, held_out: float = 0.2, random_state: RandomState = None
    ) -> tuple[ClientData, ClientData]:
        """Return what each client trains on, and what it holds out to test on, as `clients` returns it.

        Each client's records are split at random; both parts have at least one record.

        Raises:
            UsageError: the data set has another number of records, or a client has one record only.
        """
        self._check(dataset)
        if self.sizes.min() < 2:
            raise UsageError("a client has a single record, expected two or more: raise min_records")
        rng = generator(random_state)
        train, test = {}, {}
        for name, rows in self.indices.items():
            kept, out = split_rows(len(rows), held_out=held_out, random_state=rng)
            train[name], test[name] = rows[kept], rows[out]
        return _of_clients(dataset, train), _of_clients(dataset, test)

    def label_counts(self, labels: npt.ArrayLike | None = None) -> tuple[IntArray, IntArray]:
        """Return the labels, and how many records of each every client holds, shape `(clients, labels)`.

        Args:
            labels: of all records; those that the partition was made by, where None.

        Raises:
            UsageError: there are no labels, or not one for each record.
        """
        known = self.labels if labels is None else self._checked_labels(labels)
        if known is None:
            raise UsageError(f"a partition {self.method!r} knows no labels: pass labels=")
        names, numbers = np.unique(known, return_inverse=True)
        counts = [np.bincount(numbers[rows], minlength=len(names)) for rows in self.indices.values()]
        return names, np.array(counts, dtype=np.int64)

    def summary(self, labels: npt.ArrayLike | None = None) -> PartitionSummary:
        """Return the partition in numbers; those on labels where labels are known or given."""
        sizes = self.sizes
        summary = PartitionSummary(
            method=self.method,
            clients=len(self),
            records=self.n_records,
            smallest=int(sizes.min()),
            median=float(np.median(sizes)),
            largest=int(sizes.max()),
        )
        if labels is None and self.labels is None:
            return summary
        names, counts = self.label_counts(labels)
        shares, everybody = counts / sizes[:, None], counts.sum(axis=0) / self.n_records
        return PartitionSummary(
            **vars(summary)
            | {
                "labels": len(names),
                "labels_per_client": float(np.median((counts > 0).sum(axis=1))),
                "label_distance": float(np.abs(shares - everybody).sum(axis=1).mean() / 2),
            }
        )

    def plot(self, ax: Axes | None = None, *, labels: npt.ArrayLike | None = None) -> Axes:
        """Draw one bar per client, as long as its records are many, coloured by label where labels are known.

        Args:
            ax: matplotlib axes to draw into; None makes a figure of a fitting size.
            labels: of all records; those that the partition was made by, where None.

        Returns:
            The axes; `axes.figure.savefig(...)` writes them.

        Raises:
            UsageError: matplotlib is missing.
        """
        from privfed.datasets.figure import draw_partition

        counts = None if labels is None and self.labels is None else self.label_counts(labels)
        return draw_partition(self, counts, ax)

    def _check(self, dataset: Dataset) -> None:
        if not isinstance(dataset, Dataset):
            raise UsageError(f"found {type(dataset).__name__}, expected a privfed.datasets.Dataset, with X and y")
        if len(dataset) != self.n_records:
            raise UsageError(
                f"the data set has {len(dataset)} records, the partition shares out {self.n_records}: partition what"
                " the clients get, after a test set was taken away"
            )

    def _checked_labels(self, labels: npt.ArrayLike) -> IntArray:
        checked = class_labels(labels)
        if len(checked) != self.n_records:
            raise UsageError(f"there are {len(checked)} labels for {self.n_records} records")
        checked.setflags(write=False)
        return checked


def _of_clients(dataset: Dataset, indices: Mapping[str, IntArray]) -> ClientData:
    X, y = dataset.X, dataset.y
    if y is None:
        return {name: X[rows] for name, rows in indices.items()}
    return {name: (X[rows], y[rows]) for name, rows in indices.items()}
