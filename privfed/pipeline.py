"""Protected aggregation in one call, for pipelines that have their own idea of learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from privfed.engines import LocalFederation, Loss
from privfed.errors import DataError, UsageError
from privfed.federation import Release
from privfed.query import FloatArray
from privfed.statistics.histograms import Magnitudes, radius_of
from privfed.statistics.moments import VectorSum
from privfed_accounting import Budget

__all__ = ["protected_mean", "protected_sum", "release_sum"]


def release_sum(
    vectors: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike],
    *,
    clip: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    view: str = "server",
    dropout: float = 0.0,
    losses: Iterable[Loss] = (),
    mode: Literal["secure", "trusted"] = "secure",
    ledger: str | Path | None = None,
) -> Release:
    """Return the whole `Release` of one protected sum: block `sum`, its noise, survivors and epsilon per view.

    See `protected_sum` for the arguments.
    """
    if (epsilon is None) != (delta is None):
        raise UsageError("give epsilon and delta together, or neither for a sum without noise")
    if epsilon is not None and clip is None:
        raise UsageError(
            "clip is missing: under differential privacy it bounds what one client can change; a public number"
        )
    rows = _as_rows(_as_given(vectors))
    dimension = next(iter(rows.values())).shape[1]
    budget = (
        None if epsilon is None or delta is None else Budget(epsilon=epsilon, delta=delta, unit="client", view=view)
    )
    options: dict[str, Any] = {"mode": mode, "dropout": dropout, "losses": losses, "max_records": 1}
    with LocalFederation(rows, budget=budget, ledger=ledger, **options) as federation:
        if clip is None:
            clip = radius_of(federation.release(Magnitudes(), purpose="range of the vectors"))
        return federation.release(
            VectorSum(dimension, clip), share=None if budget is None else 1.0, purpose="protected sum"
        )


def protected_sum(
    vectors: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike],
    *,
    clip: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    view: str = "server",
    dropout: float = 0.0,
    losses: Iterable[Loss] = (),
    mode: Literal["secure", "trusted"] = "secure",
    ledger: str | Path | None = None,
) -> FloatArray:
    """Return the sum of one vector per client, formed by secure aggregation, with noise where a budget is given.

    Args:
        vectors: one array-like per client, all of one shape; a dict gives the clients their names.
        clip: L2 norm to which each vector is scaled down. Required with epsilon; otherwise None keeps vectors whole.
        epsilon, delta: the budget, both or neither. The unit is one client's vector, added or removed.
        view: the adversary against whom epsilon holds: "server", "client", "colluders(t)" or "unmasked".
        dropout: fraction of clients that may be lost on the way; the noise is sized for it.
        losses: clients to lose on purpose, for trials.
        mode: "secure", or "trusted" to form the same sum in the clear, for experiments.
        ledger: path of a ledger to which the release is charged, or None for one in memory.

    Returns:
        The sum, float64, of the vectors' shape. Without epsilon it is exact to about 1e-12 of the largest norm.

    Guarantees:
        With epsilon and delta, the result is (epsilon, delta)-differentially private in `view` for adding or removing
        one client, whatever its vector holds.

    Raises:
        UsageError, DataError: an argument or a vector cannot be used. BudgetExhausted: the ledger has too little left.

    Examples:
        >>> protected_sum([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).round(9).tolist()
        [9.0, 12.0]
        >>> noisy = protected_sum([[1.0, 2.0]] * 100, clip=3.0, epsilon=8.0, delta=1e-6)
        >>> bool(abs(noisy[0] - 100) < 30)
        True
    """
    release = release_sum(
        vectors,
        clip=clip,
        epsilon=epsilon,
        delta=delta,
        view=view,
        dropout=dropout,
        losses=losses,
        mode=mode,
        ledger=ledger,
    )
    return np.array(release["sum"]).reshape(_shape(_as_given(vectors)))


def protected_mean(
    vectors: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike],
    *,
    clip: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    view: str = "server",
    dropout: float = 0.0,
    losses: Iterable[Loss] = (),
    mode: Literal["secure", "trusted"] = "secure",
    ledger: str | Path | None = None,
) -> FloatArray:
    """Return the mean of one vector per client: `protected_sum` over the number of survivors, which is public.

    Arguments, guarantees and errors are those of `protected_sum`; "removing a client" replaces its vector by zeros.

    Examples:
        >>> protected_mean({"north": [1.0, 2.0], "south": [3.0, 6.0]}).round(9).tolist()
        [2.0, 4.0]
    """
    release = release_sum(
        vectors,
        clip=clip,
        epsilon=epsilon,
        delta=delta,
        view=view,
        dropout=dropout,
        losses=losses,
        mode=mode,
        ledger=ledger,
    )
    return np.array(release["sum"]).reshape(_shape(_as_given(vectors))) / release.survivors


def _as_given(vectors: Any) -> Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]:
    """Return a mapping or a sequence of vectors; a frame or a matrix has one client in each row."""
    if hasattr(vectors, "to_numpy"):
        vectors = vectors.to_numpy()
        if vectors.ndim != 2:
            raise UsageError(
                "one column says nothing of clients: pass a list, a dict, or a frame with one row per client"
            )
    if isinstance(vectors, Mapping) or (hasattr(vectors, "__len__") and hasattr(vectors, "__getitem__")):
        return vectors  # type: ignore[no-any-return]  # checked row by row below
    raise UsageError(f"vectors is a {type(vectors).__name__}, expected a list or a dict with one vector per client")


def _first(vectors: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]) -> npt.ArrayLike:
    return next(iter(vectors.values() if isinstance(vectors, Mapping) else vectors))


def _shape(vectors: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]) -> tuple[int, ...]:
    return np.shape(_first(vectors))


def _as_rows(vectors: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]) -> dict[str, FloatArray]:
    """Return each client's vector as one row, having checked that they agree in shape."""
    if len(vectors) == 0:
        raise UsageError("there are no vectors: expected one per client")
    items = vectors.items() if isinstance(vectors, Mapping) else ((f"client-{i:02d}", v) for i, v in enumerate(vectors))
    rows: dict[str, FloatArray] = {}
    for name, vector in items:
        try:
            array = np.asarray(vector, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError(f"client {name!r}: the vector is not an array of numbers", client=str(name)) from None
        if array.shape != _shape(vectors):
            raise DataError(f"client {name!r} has shape {array.shape}, expected {_shape(vectors)}", client=str(name))
        if array.size == 0:
            raise DataError(f"client {name!r} has an empty vector", client=str(name))
        rows[str(name)] = array.reshape(1, -1)
    return rows
