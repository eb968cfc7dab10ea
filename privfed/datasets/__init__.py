"""Data at hand: loaders that download nothing, and splits into silos that differ."""

from __future__ import annotations

from privfed.datasets.bundled import load_sklearn
from privfed.datasets.dataset import Dataset
from privfed.datasets.files import from_frame, load_csv, load_npz, load_parquet
from privfed.datasets.idx import load_idx
from privfed.datasets.partition import Partition, PartitionSummary
from privfed.datasets.partitioners import (
    partition_by_group,
    partition_dirichlet,
    partition_feature_shift,
    partition_iid,
    partition_quantity,
    partition_shards,
)
from privfed.datasets.tensors import from_torch

__all__ = [
    "Dataset",
    "Partition",
    "PartitionSummary",
    "from_frame",
    "from_torch",
    "load_csv",
    "load_idx",
    "load_npz",
    "load_parquet",
    "load_sklearn",
    "partition_by_group",
    "partition_dirichlet",
    "partition_feature_shift",
    "partition_iid",
    "partition_quantity",
    "partition_shards",
]
