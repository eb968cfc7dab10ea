"""Protected aggregation in one call, for pipelines that have their own idea of learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from privfed.engines import LocalFederation, Loss
from privfed.engines.keys import Security
from privfed.engines.local import Mode
from privfed.engines.sources import needs_detach
from privfed.errors import DataError, UsageError, checked_integer
from privfed.federation import Release
from privfed.plan.terms import DropOuts, Noise
from privfed.query import FloatArray
from privfed.statistics.histograms import Magnitudes, radius_of
from privfed.statistics.moments import VectorSum
from privfed.statistics.vectors import WeightedSum
from privfed_accounting import Budget

__all__ = ["SumOptions", "protected_mean", "protected_sum", "release_sum"]

Vectors = Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]

FEW_BITS = 32  # below, noise is as a rule Skellam's, which exact Gaussian accounting cannot count


class SumOptions(TypedDict, total=False):
    """How a protected sum is formed; all of it is optional.

    Attributes:
        view: the adversary against whom epsilon holds: "server", "client", "colluders(t)", "released" or "unmasked".
        dropout: fraction of clients that may be lost on the way; the noise is sized for it.
        drop_outs: "provision", or "exact" to carry the same noise whoever is lost.
        losses: clients to lose on purpose, for trials.
        mode: "secure"; "trusted", "local" or "central" for comparisons.
        security: "semi-honest" or "malicious".
        bits: bits a coordinate on the wire, 8 to 64; None lets the plan choose.
        noise: "auto", "discrete_gaussian" or "skellam".
        accounting: of the budget, "gaussian" or "renyi"; by default what the bits need.
        ledger: path or URL of a ledger to which the release is charged, or None for one in memory.
        share: part of the budget (epsilon, delta) that this call spends, in (0, 1]; all of it by default. Of calls on
            one ledger the shares add up.
    """

    view: str
    dropout: float
    drop_outs: DropOuts
    losses: Iterable[Loss]
    mode: Mode
    security: Security
    bits: int | None
    noise: Noise
    accounting: Literal["gaussian", "renyi"]
    ledger: str | Path | None
    share: float


def release_sum(
    vectors: Vectors,
    *,
    clip: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    weights: npt.ArrayLike | Mapping[str, float] | None = None,
    largest_weight: float | None = None,
    **options: Unpack[SumOptions],
) -> Release:
    """Return the whole `Release` of one protected sum: block `sum`, its noise, survivors and epsilon per view.

    With weights there is a block `weight` as well. See `protected_sum` and `protected_mean` for the arguments.
    """
    if (epsilon is None) != (delta is None):
        raise UsageError("give epsilon and delta together, or neither for a sum without noise")
    if epsilon is not None and clip is None:
        raise UsageError(
            "clip is missing: under differential privacy it bounds what one client can change; a public number"
        )
    if (weights is None) != (largest_weight is None):
        raise UsageError("give weights and largest_weight together: the bound is public, the weights are not")
    unknown = sorted(set(options) - set(SumOptions.__annotations__))
    if unknown:
        raise UsageError(f"unknown options {unknown}, expected some of {sorted(SumOptions.__annotations__)}")
    rows = _as_rows(_as_given(vectors))
    dimension = next(iter(rows.values())).shape[1]
    budget = None
    if epsilon is not None and delta is not None:
        budget = _budget(epsilon, delta, options)
    passed: dict[str, Any] = {
        name: value for name, value in options.items() if name not in ("view", "accounting", "share")
    }
    query_rows = rows if weights is None else _weighted(rows, weights)
    with LocalFederation(query_rows, budget=budget, max_records=1, **passed) as federation:
        share = None if budget is None else options.get("share", 1.0)
        if weights is not None and largest_weight is not None:
            if clip is None:
                raise UsageError("clip is missing: weighted vectors need a public bound on their norm")
            return federation.release(
                WeightedSum(dimension, clip, largest_weight), share=share, purpose="protected weighted sum"
            )
        if clip is None:
            clip = radius_of(federation.release(Magnitudes(), purpose="range of the vectors"))
        return federation.release(VectorSum(dimension, clip), share=share, purpose="protected sum")


def protected_sum(
    vectors: Vectors,
    *,
    clip: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    **options: Unpack[SumOptions],
) -> npt.NDArray[Any]:
    """Return the sum of one vector per client, formed by secure aggregation, with noise where a budget is given.

    Args:
        vectors: one array-like per client, all of one shape; a dict gives the clients their names.
        clip: L2 norm to which each vector is scaled down. Required with epsilon; otherwise None keeps vectors whole.
        epsilon, delta: the budget, both or neither. The unit is one client's vector, added or removed.
        options: see `SumOptions`.

    Returns:
        The sum, float64, of the vectors' shape. Without epsilon it is exact to about 1e-12 of the largest norm; of
        integers (without epsilon and clip) exact, and int64.

    Guarantees:
        With epsilon and delta, the result is (epsilon, delta)-differentially private in `view` for adding or removing
        one client, whatever its vector holds.

    Raises:
        UsageError, DataError: an argument or a vector cannot be used. BudgetExhausted: the ledger has too little left.

    Examples:
        >>> protected_sum([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).round(9).tolist()
        [9.0, 12.0]
        >>> protected_sum([[1, 2], [3, 4], [5, 6]])
        array([ 9, 12])
        >>> noisy = protected_sum([[1.0, 2.0]] * 100, clip=3.0, epsilon=8.0, delta=1e-6)
        >>> bool(abs(noisy[0] - 100) < 30)
        True
    """
    release = release_sum(vectors, clip=clip, epsilon=epsilon, delta=delta, **options)
    total = np.array(release["sum"]).reshape(_shape(_as_given(vectors)))
    if epsilon is None and clip is None and _are_integers(vectors):
        return _as_integers(total, vectors, release)
    return total


def protected_mean(
    vectors: Vectors,
    *,
    clip: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    weights: npt.ArrayLike | Mapping[str, float] | None = None,
    largest_weight: float | None = None,
    **options: Unpack[SumOptions],
) -> FloatArray:
    """Return the mean of one vector per client: `protected_sum` over the number of survivors (`Release.divisor`).

    Arguments, guarantees and errors are those of `protected_sum`; "removing a client" replaces its vector by zeros.

    Args:
        vectors, clip, epsilon, delta, options: as for `protected_sum`.
        weights: one number from 0 for each client, or None for equal ones. Weights travel inside the protected vector:
            nobody learns a client's. A client may weigh at most `largest_weight`, a public number.
        largest_weight: needed with weights.

    Examples:
        >>> protected_mean({"north": [1.0, 2.0], "south": [3.0, 6.0]}).round(9).tolist()
        [2.0, 4.0]
        >>> means, rows = [[1.0], [5.0]], [30, 10]
        >>> protected_mean(means, clip=9.0, weights=rows, largest_weight=100).round(9).tolist()
        [2.0]
    """
    release = release_sum(
        vectors,
        clip=clip,
        epsilon=epsilon,
        delta=delta,
        weights=weights,
        largest_weight=largest_weight,
        **options,
    )
    total = np.array(release["sum"]).reshape(_shape(_as_given(vectors)))
    if weights is None:
        return total / release.divisor
    weight = float(release["weight"])
    if not weight > 0:
        raise DataError("the weights of all survivors sum to nothing: give at least one a weight above 0")
    return total / weight


def _budget(epsilon: float, delta: float, options: SumOptions) -> Budget:
    bits, noise = options.get("bits"), options.get("noise", "auto")
    if bits is not None:
        bits = checked_integer("bits", bits, least=8, most=64)
    needed: Literal["gaussian", "renyi"] = "gaussian"
    if noise == "skellam" or (bits is not None and bits < FEW_BITS and noise == "auto"):
        needed = "renyi"
    return Budget(
        epsilon=epsilon,
        delta=delta,
        unit="client",
        view=options.get("view", "server"),
        accounting=options.get("accounting", needed),
    )


def _weighted(rows: Mapping[str, FloatArray], weights: npt.ArrayLike | Mapping[str, float]) -> dict[str, FloatArray]:
    """Return each client's row with its weight in front."""
    if isinstance(weights, Mapping):
        missing = sorted(set(map(str, weights)) ^ set(rows))
        if missing:
            raise UsageError(f"weights and vectors name different clients: {missing}")
        named = {str(name): weight for name, weight in weights.items()}
        weights = [named[name] for name in rows]
    try:
        values = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):  # the last of tensors
        raise UsageError("weights are not numbers, expected one from 0 for each client (tensors: .detach())") from None
    if values.shape != (len(rows),) or not (values >= 0).all():
        raise UsageError(
            f"weights have shape {values.shape} or a negative, expected one from 0 for each of {len(rows)} clients"
        )
    pairs = zip(rows.items(), values, strict=True)
    return {name: np.concatenate([[[weight]], row], axis=1) for (name, row), weight in pairs}


def _are_integers(vectors: Vectors) -> bool:
    """Return whether all vectors hold integers."""
    given = _as_given(vectors)
    each = given.values() if isinstance(given, Mapping) else given
    return all(np.asarray(vector).dtype.kind in "iub" for vector in each)


def _as_integers(total: FloatArray, vectors: Vectors, release: Release) -> npt.NDArray[np.int64]:
    """Return a sum of integers as such: exact if a step of the grid, at most 2 largest / scale, is at most 1.

    Raises:
        DataError: the integers are too large for that.
    """
    largest = max(float(np.linalg.norm(row)) for row in _as_rows(_as_given(vectors)).values())
    if release.plan is None or 2.0 * largest > release.plan.scale:
        raise DataError("the integers are too large to be summed exactly: pass floats, or keep their norms below 2^39")
    return np.rint(total).astype(np.int64)


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
        if needs_detach(vector):
            raise DataError(
                f"client {name!r}: the vector is a tensor that requires grad: use .detach()", client=str(name)
            )
        try:
            array = np.asarray(vector, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError):  # the last of tensors
            raise DataError(f"client {name!r}: the vector is not an array of numbers", client=str(name)) from None
        if array.shape != _shape(vectors):
            raise DataError(f"client {name!r} has shape {array.shape}, expected {_shape(vectors)}", client=str(name))
        if array.size == 0:
            raise DataError(f"client {name!r} has an empty vector", client=str(name))
        rows[str(name)] = array.reshape(1, -1)
    return rows
