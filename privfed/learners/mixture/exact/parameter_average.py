"""The textbook baseline: every client takes an EM step of its own, and the server averages the parameters.

    theta = mean of theta_l over clients                     "parameters"
    theta = sum of n_l theta_l / sum of n_l                  "parameters_by_size"

It is another algorithm than EM on all rows, and a worse one, unless all clients hold the same mixture:
- it ignores how many of a client's rows stand behind each component: a mean made of one row counts like one of
  thousands;
- the scatter between clients is lost: the average of local covariances does not know that local means differ;
- a client without rows of a component has nothing to say of it, and here keeps what it was given;
- clients that number components differently average apples and pears.
It is here to be compared with. What clients send is a sum like any other, so secure aggregation protects it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.federation.release import Release
from privfed.learners.mixture.em import EMResult
from privfed.query import Block, ClientQuery, FloatArray
from privfed.statistics.mixture_model import CovarianceType, MixtureModel, covariance_shape
from privfed.statistics.mixture_query import LocatedModelQuery

__all__ = ["Aggregation", "LocalParameters", "parameter_averaging"]

Aggregation = Literal["statistics", "parameters", "parameters_by_size"]
LEAST_ROWS: Final = 1e-8  # of a component at a client, below which it keeps what it was given
MOST_NATS: Final = 1e4  # of a client's mean log-likelihood


@dataclass(frozen=True, eq=False)
class LocalParameters(LocatedModelQuery, ClientQuery):
    """Each client's own M-step under the current model: blocks `clients`, `rows`, `weights`, `means`, `covariances`,
    `log_likelihood`.

    A client's parameters count `n_l / most_rows` times where `by_size`, else once, unless it has no rows.

    Args:
        weights, means, precisions_cholesky, covariance_type, low, high, centre, transform: see `LocatedModelQuery`;
            rows lie within [-1, 1] in these coordinates, or are cut to that.
        reg_covar: added to the diagonals, shape (d,), in working units.
        by_size: whether clients count by their number of rows.
        most_rows: public bound of a client's rows.

    Guarantees:
        Weights sum to at most 1, means lie in the box, covariances within its square: every block obeys its bound, so
        one client moves the scaled vector by at most 1, and one record by at most 2.
    """  # fmt: skip

    kind: ClassVar[str] = "local_parameters"
    reg_covar: FloatArray
    by_size: bool
    most_rows: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze_moderate("reg_covar")
        if self.reg_covar.shape != self.centre.shape:
            raise UsageError(f"reg_covar has shape {self.reg_covar.shape}, the model has {self.n_features} features")
        if not (math.isfinite(self.most_rows) and self.most_rows >= 1) or (self.reg_covar < 0).any():
            raise UsageError("expected most_rows of at least 1 and reg_covar of at least 0")

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Bounds of one client's parameters, for rows in [-1, 1]^d."""
        K, d = self.means.shape
        shape = covariance_shape(self.covariance_type, K, d)
        largest = (d + float(self.reg_covar.sum())) * math.sqrt(1 if self.covariance_type == "tied" else K)
        return (
            Block("clients", (), 1.0),
            Block("rows", (), 1.0),
            Block("weights", (K,), 1.0),
            Block("means", (K, d), math.sqrt(K * d)),
            Block("covariances", shape, largest),
            Block("log_likelihood", (), MOST_NATS),
        )

    @property
    def remembers(self) -> bool:
        """No: what a client adds hangs on its rows and the query alone."""
        return False

    def client_contribution(
        self, data: FloatArray, memory: MutableMapping[str, npt.NDArray[Any]]
    ) -> Mapping[str, npt.ArrayLike]:
        """Return this client's parameters after one EM step on its own rows; nothing where it has none, or where the
        step comes to NaN or infinity.
        """  # fmt: skip
        blocks = {block.name: np.zeros(block.shape) for block in self.blocks}
        if len(data) == 0:
            return blocks
        z = np.clip(self.coordinates.apply(data), -1.0, 1.0)
        with np.errstate(all="ignore"):
            local, likelihood = _local_step(self.model, z, self.reg_covar)
        share = min(len(data) / self.most_rows, 1.0)
        factor = share if self.by_size else 1.0
        reach = math.sqrt(float(len(blocks["means"].ravel())))
        values: dict[str, FloatArray] = {
            "clients": np.array(factor),
            "rows": np.array(share),
            "weights": factor * local.weights,
            "means": factor * np.clip(local.means, -reach, reach),
            "covariances": factor * local.covariances,
            "log_likelihood": np.array(share * min(max(likelihood, -MOST_NATS), MOST_NATS)),
        }
        if not all(np.isfinite(value).all() for value in values.values()):
            return blocks  # a model that no row fits: to fail on some rows only would tell which there are
        return {block.name: _within(values[block.name], block.bound) for block in self.blocks}


def parameter_averaging(
    model: MixtureModel,
    ask: Callable[[MixtureModel], Release],
    *,
    tol: float,
    max_iter: int,
    lower_bound: float = -np.inf,
    after: Callable[[int, Release, float], None] | None = None,
) -> EMResult:
    """Average the parameters of local EM steps, round after round, until the mean log-likelihood settles.

    Args:
        model: the start, in working coordinates.
        ask: returns the release of `LocalParameters` under a model.
        tol, max_iter, lower_bound: as for `expectation_maximization`.
        after: called after each round with its number from 1, its release and its mean log-likelihood.
    """
    bounds: list[float] = []
    for round in itertools.count(1):
        if round > max_iter:
            break
        release = ask(model)
        clients, rows = float(release["clients"]), float(release["rows"])
        if clients <= 0:
            raise UsageError("no client holds any rows: there are no parameters to average")
        weights = np.maximum(release["weights"], 0.0)
        model = MixtureModel.from_covariances(
            weights / weights.sum(), release["means"] / clients, release["covariances"] / clients, model.covariance_type
        )
        previous, lower_bound = lower_bound, float(release["log_likelihood"]) / rows
        bounds.append(lower_bound)
        if after is not None:
            after(round, release, lower_bound)
        if abs(lower_bound - previous) < tol:
            return EMResult(model, tuple(bounds), True)
    return EMResult(model, tuple(bounds), False)


def _local_step(old: MixtureModel, z: FloatArray, reg_covar: FloatArray) -> tuple[MixtureModel, float]:
    """Return one client's EM step, components without rows left as they were, and its mean log-likelihood."""
    g = old.responsibilities(z)
    mass = g.sum(axis=0)
    empty = mass < LEAST_ROWS
    weights = mass / mass.sum()
    means = np.where(empty[:, None], old.means, (g.T @ z) / np.maximum(mass, LEAST_ROWS)[:, None])
    covariances = _covariances(z, g, means, old)
    if old.covariance_type != "tied":
        kept = empty.reshape(-1, *[1] * (covariances.ndim - 1))
        covariances = np.where(kept, old.covariances, covariances)
    added = {"full": np.diag(reg_covar), "tied": np.diag(reg_covar), "diag": reg_covar, "spherical": reg_covar.mean()}
    covariances = covariances + added[old.covariance_type]
    local = MixtureModel(weights, means, covariances, old.precisions_cholesky, old.covariance_type)
    return local, float(old.log_likelihoods(z).mean())


def _covariances(z: FloatArray, g: FloatArray, means: FloatArray, old: MixtureModel) -> FloatArray:
    """Return the covariances of an M-step, shape by type; singular ones among them, as a client's few rows give."""
    K = len(means)
    mass = np.maximum(g.sum(axis=0), LEAST_ROWS)
    matrices = np.stack([(g[:, k, None] * (z - means[k])).T @ (z - means[k]) / mass[k] for k in range(K)])
    diagonals = np.diagonal(matrices, axis1=1, axis2=2)
    by_type: dict[CovarianceType, FloatArray] = {
        "full": matrices,
        "tied": np.tensordot(mass / mass.sum(), matrices, axes=1),
        "diag": diagonals,
        "spherical": diagonals.mean(axis=1),
    }
    return np.asarray(by_type[old.covariance_type])


def _within(values: FloatArray, bound: float) -> FloatArray:
    size = float(np.linalg.norm(np.ravel(values)))
    return values if size <= bound else np.asarray(values * (bound / size))
