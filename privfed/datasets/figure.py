"""The figure of a partition: one bar per client, one colour per label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from privfed.datasets.dataset import IntArray
from privfed.errors import needs_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from privfed.datasets.partition import Partition

__all__ = ["draw_partition"]

COLOURED = 20  # labels beyond that have no colours to tell apart: bars then show sizes alone
NAMED = 40  # clients beyond that have no room for their names
INCHES_PER_CLIENT = 0.22


def draw_partition(partition: Partition, counts: tuple[IntArray, IntArray] | None, ax: Axes | None) -> Axes:
    """Draw the clients' records as stacked horizontal bars, the first client on top.

    Args:
        partition: what to draw.
        counts: labels and their counts per client, see `Partition.label_counts`; None draws sizes alone.
        ax: axes to draw into; None makes a figure.

    Raises:
        UsageError: matplotlib is missing.
    """
    with needs_extra("plot", "figures need matplotlib"):
        import matplotlib.pyplot as plt
    n_clients = len(partition)
    if ax is None:
        height = min(max(2.5, 1.2 + INCHES_PER_CLIENT * n_clients), 10.0)
        _, ax = plt.subplots(figsize=(7.5, height), layout="constrained")
    rows = np.arange(n_clients)
    thickness = 0.8 if n_clients <= NAMED else 1.0
    coloured = counts is not None and 1 < len(counts[0]) <= COLOURED
    if counts is not None and coloured:
        labels, numbers = counts
        colours = plt.get_cmap("tab10" if len(labels) <= 10 else "tab20")
        left = np.zeros(n_clients)
        for position, (label, count) in enumerate(zip(labels, numbers.T, strict=True)):
            ax.barh(rows, count, thickness, left=left, color=colours(position), label=str(label))
            left += count
        ax.legend(title="label", loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", frameon=False)
    else:
        ax.barh(rows, partition.sizes, thickness, color="tab:blue")
    if n_clients <= NAMED:
        ax.set_yticks(rows, list(partition.indices), fontsize="small")
    else:
        ax.set_ylabel(f"{n_clients} clients")
    ax.set_ylim(n_clients - 0.5, -0.5)
    ax.set_xlabel("records")
    ax.set_title(partition.method)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax
