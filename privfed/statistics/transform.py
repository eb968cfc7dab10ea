"""Public linear maps of the rows: project, then ask. Centring, scaling and PCA before any other query.

The map is public (a released quantity or a constant), travels with the query, and is applied at each client; the bounds
are those of the query that follows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.federation.release import Federation
from privfed.federation.view import FederationView
from privfed.query import Block, FloatArray, Query, decode_query, encode_query, frozen_array, require_moderate

__all__ = ["LinearMap", "Transformed", "TransformedFederation", "principal_components"]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """x -> matrix cut(x - center): a public linear map of rows that are first cut to a box about the centre.

    Args:
        center: float64 of shape `(d,)`, finite.
        matrix: float64 of shape `(features, d)`, finite.
        reach: coordinates farther than this from the centre are cut to it, > 0, in the units of the data. The cut keeps
            the image of any row moderate.
    """

    center: FloatArray
    matrix: FloatArray
    reach: float

    def __post_init__(self) -> None:
        center, matrix = frozen_array(self.center), frozen_array(self.matrix)
        if center.ndim != 1 or matrix.ndim != 2 or matrix.shape[1] != center.size or 0 in matrix.shape:
            raise UsageError(
                f"center {center.shape} and matrix {matrix.shape} do not fit: expected (d,) and (features, d)"
            )
        require_moderate("center", center)
        require_moderate("matrix", matrix)
        if not (math.isfinite(self.reach) and self.reach > 0):
            raise UsageError(f"reach is {self.reach!r}, expected a finite number above 0")
        require_moderate("the map's reach", self.reach * np.abs(matrix).sum(axis=1))
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "matrix", matrix)

    def __call__(self, rows: npt.ArrayLike) -> FloatArray:
        """Return the mapped rows, shape `(n, features)`; each row's image is the same bits wherever the row stands.

        Not a matrix product of BLAS: that rounds differently for different numbers of rows, and a histogram of mapped
        rows would then change by more than one record when one is added.
        """
        moved = np.clip(np.asarray(rows, dtype=np.float64) - self.center, -self.reach, self.reach)
        return np.asarray(np.einsum("ij,kj->ik", np.ascontiguousarray(moved), self.matrix, optimize=False))

    def inverse(self, points: npt.ArrayLike) -> FloatArray:
        """Return the shortest rows about `center` that map to `points`, shape `(n, features)` to `(n, d)`."""
        return np.asarray(self.center + np.asarray(points, dtype=np.float64) @ np.linalg.pinv(self.matrix).T)


def principal_components(mean: FloatArray, covariance: FloatArray, n_components: int) -> tuple[LinearMap, FloatArray]:
    """Return the projection on the leading principal axes, and the variances along them, largest first.

    The map reaches 1000 times the root of the total variance: no row of a distribution with that variance is cut.

    Args:
        mean: shape `(d,)`. covariance: symmetric, shape `(d, d)`. Both released, so the result is public too.
        n_components: axes to keep, 1 to d.
    """
    d = len(mean)
    if not 1 <= n_components <= d:
        raise UsageError(f"n_components is {n_components}, expected 1 to {d}")
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1][:n_components]
    axes = vectors[:, order].T
    signs = np.sign(axes[np.arange(n_components), np.abs(axes).argmax(axis=1)])  # an axis has no sign of its own
    reach = 1000.0 * math.sqrt(max(float(np.trace(covariance)), 1e-300))
    return LinearMap(mean, axes * signs[:, None], reach), values[order]


@dataclass(frozen=True, eq=False)
class Transformed(Query):
    """Another query, asked of mapped rows.

    Args:
        inner: the other query, as `encode_query` gives it.
        center, matrix, reach: of the `LinearMap`.
    """

    kind: ClassVar[str] = "transformed"
    inner: bytes
    center: FloatArray
    matrix: FloatArray
    reach: float
    _query: Query = field(init=False, repr=False)
    _map: LinearMap = field(init=False, repr=False)

    def __post_init__(self) -> None:
        linear_map = LinearMap(self.center, self.matrix, self.reach)
        query = decode_query(self.inner)
        if isinstance(query, Transformed):
            raise UsageError("a transformed query holds another one: multiply the two maps instead")
        if query.per_client:  # one record moves such a vector twice as far as this class says
            raise UsageError(f"query {query.kind!r} is of whole clients: let it map its rows itself")
        if query.n_features not in (None, linear_map.matrix.shape[0]):
            raise UsageError(f"the map gives {linear_map.matrix.shape[0]} features, the query needs {query.n_features}")
        object.__setattr__(self, "center", linear_map.center)
        object.__setattr__(self, "matrix", linear_map.matrix)
        object.__setattr__(self, "_query", query)
        object.__setattr__(self, "_map", linear_map)

    @classmethod
    def of(cls, query: Query, linear_map: LinearMap) -> Transformed:
        """Return `query` asked of rows that `linear_map` maps."""
        return cls(encode_query(query), linear_map.center, linear_map.matrix, linear_map.reach)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Those of the other query: its bounds hold for any row, hence for mapped ones."""
        return self._query.blocks

    @property
    def n_features(self) -> int:
        """Columns before the map."""
        return int(self.center.size)

    @property
    def row_error(self) -> float:
        """That of the other query: a row's image is the same bits wherever it stands, so the map adds nothing."""
        return self._query.row_error

    def admit(self, data: FloatArray, *, scanned: bool = False) -> None:
        """Refuse rows that cannot be mapped, or whose images the other query could not use."""
        super().admit(data, scanned=scanned)
        if type(self._query).admit is not Query.admit:  # what all queries ask for holds of images by itself
            self._query.admit(self._map(data))

    def vet(self, data: FloatArray) -> None:
        """Refuse rows whose images the other query has no use for."""
        if type(self._query).vet is not Query.vet:
            self._query.vet(self._map(data))

    def contribution(self, data: FloatArray) -> Mapping[str, npt.ArrayLike]:
        """Return the other query's contribution of the mapped rows."""
        return self._query.contribution(self._map(data))


class TransformedFederation(FederationView):
    """A federation whose rows are seen through a public linear map; budget and ledger are those of the one below.

    Examples:
        >>> from privfed import LocalFederation, VectorSum
        >>> silos = LocalFederation([np.eye(3), np.ones((2, 3))])
        >>> halves = TransformedFederation(silos, LinearMap(np.zeros(3), np.full((1, 3), 0.5), reach=9.0))
        >>> halves.release(VectorSum(1, clip=10.0))["sum"].round(9).tolist()
        [4.5]
    """

    def __init__(self, federation: Federation, linear_map: LinearMap) -> None:
        if linear_map.center.size != federation.n_features:
            raise UsageError(
                f"the map takes {linear_map.center.size} features, the clients have {federation.n_features}"
            )
        super().__init__(federation)
        self._map = linear_map

    @property
    def n_features(self) -> int:
        """Columns after the map."""
        return int(self._map.matrix.shape[0])

    def asked(self, query: Query) -> Query:
        """Return the query of mapped rows."""
        return Transformed.of(query, self._map)
