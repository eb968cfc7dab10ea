"""`privfed.GaussianMixture`: scikit-learn's mixture over rows at hand, or over a federation that shows none."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import Any, Self, TypeGuard

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.federation.release import Federation, Release
from privfed.learners.base import ConvergenceWarning, check_random_state, recognised
from privfed.learners.mixture.em import EMResult, fit_rows
from privfed.learners.mixture.exact.accelerate import squarem_maximization
from privfed.learners.mixture.exact.fit import Acceleration, Algorithm, fit_exact
from privfed.learners.mixture.exact.parameter_average import Aggregation
from privfed.learners.mixture.exact.personal import Personal, PersonalFederation
from privfed.learners.mixture.exact.rows import check_algorithm_of_rows, start_from_rows
from privfed.learners.mixture.fitted import IntArray
from privfed.learners.mixture.initialise import FederatedInit, InitParams, federated_init, rows_init
from privfed.learners.mixture.parameters import (
    Start,
    check_bounds,
    check_parameters,
    check_share,
    check_start,
    refuse_targets,
    required_bounds,
    rows_within,
)
from privfed.learners.mixture.persistence import Persistence
from privfed.learners.mixture.private.planning import Choice
from privfed.learners.mixture.private.starts import fit_under_budget
from privfed.learners.mixture.private.task import Task
from privfed.learners.mixture.reports import RoundReport, caller_level
from privfed.learners.validation import as_rows, feature_names
from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["GaussianMixture", "is_federation"]


def is_federation(X: object) -> TypeGuard[Federation]:
    """Return whether `X` is asked for sums rather than read."""
    return callable(getattr(X, "release", None)) and hasattr(X, "noise_std")


class GaussianMixture(Personal, Persistence):
    """A Gaussian mixture, fitted by EM to one array or to a federation of clients.

    On one array it is `sklearn.mixture.GaussianMixture`: same parameters, same fit from the same start or seed. On a
    federation each EM step is one protected sum: without a budget the fit equals EM on all rows; with one it follows a
    differentially private recipe (`privfed.learners.mixture.private.recipe`).

    Args:
        n_components: K, >= 1.
        covariance_type: "full" (one matrix each), "tied" (one for all), "diag" or "spherical".
        tol: EM stops when the mean log-likelihood per row changes by less, nats. Without effect under a budget.
        reg_covar: added to the diagonal of every covariance, >= 0. Under a budget the prior does its work.
        max_iter: most EM steps. Without effect under a budget, where `rounds` counts.
        n_init: number of starts; the one with the greatest likelihood is kept. A budget pays for one.
        init_params: how a start is found. Rows at hand: "kmeans", "k-means++", "random" or "random_from_data". A
            federation shows none; there it is found by protected sums: "cells" (an over-complete EM about the cells
            of a k-means quantiser; "kmeans" means the same), "moments" (such cells alone) or "dp-kmeans" (Lloyd steps).
        weights_init: starting weights, shape (K,), or None.
        means_init: starting means, shape (K, d), or None.
        precisions_init: starting inverse covariances, shape by type, or None.
        random_state: None, an int, a `RandomState` or a `Generator`: every random choice that protects nobody. Noise
            for privacy always comes from the operating system.
        warm_start: go on from the last fit. A federation under a budget goes on from a fit to one under a budget only:
            a model of rows that nobody protected would travel to every client.
        verbose: 0 is silent, 1 prints steps, 2 prints likelihoods and times, to standard output.
        verbose_interval: steps between prints.
        bounds: public `(low, high)` that rows are cut to, numbers or vectors of one per feature, such as
            `([0, 18], [1, 99])`; needed for a federation under a budget. Without one, and on rows at hand, rows are cut
            likewise where bounds are given; on rows at hand a warning says how many. Bounds looked up in the data would
            leak them.
        rounds: federation: most rounds of the main stage; None is the recipe's (16 under a budget, else `max_iter`).
        share: federation under a budget: part of the whole budget (of its mu^2) to spend; None spends what remains.
        callback: called with a `RoundReport` after every round or EM step.
        acceleration: without a budget: None is plain EM; "squarem" extrapolates, with the likelihood as its guard, and
            takes about half the rounds; "incremental" and "stepwise" let cohorts of a federation's clients take turns.
        clients_per_round: clients in such a cohort, >= 2.
        aggregation: what a federation's clients send: "statistics", whose sum gives EM on all rows; or, to compare,
            their locally fitted "parameters", averaged plainly, or "parameters_by_size" (without a budget).
        personal_weights: federation: each client takes the E-step with weights of its own, which never leave it
            (without a budget, or with one of unit "client"). See also `personalise`.

    Attributes:
        weights_: shape (K,).
        means_: shape (K, d).
        covariances_: shape by type: full (K, d, d), tied (d, d), diag (K, d), spherical (K,).
        precisions_: inverse covariances, same shape.
        precisions_cholesky_: upper-triangular factors P with precision = P P', same shape.
        converged_: whether EM's last change was below `tol`; under a budget True, since all rounds were run that were
            paid for.
        n_iter_: EM steps of the best start.
        lower_bound_: mean log-likelihood per row at the last step.
        lower_bounds_: the same at each step.
        n_features_in_: d.
        feature_names_in_: column names, when fitted to a frame whose names are all strings.
        releases_: federation: every `Release` of the fit, in order.
        choice_: federation under a budget: what was fitted (`covariance_type`, `n_components`), maybe simpler than
            asked for, and the loss to noise expected of it (`excess`, nats per row).
        epsilon_: federation under a budget: view -> epsilon spent so far at the budget's delta; empty otherwise.

    >>> import numpy as np
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> mixture = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> sorted(float(round(x, 6)) for x in mixture.means_[:, 0])
    [1.0, 10.0]
    """

    precisions_: FloatArray
    converged_: bool
    n_iter_: int
    lower_bound_: float
    lower_bounds_: list[float]
    feature_names_in_: npt.NDArray[np.object_]
    releases_: tuple[Release, ...]
    choice_: Choice
    epsilon_: dict[str, float]

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: CovarianceType = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: InitParams = "kmeans",
        weights_init: npt.ArrayLike | None = None,
        means_init: npt.ArrayLike | None = None,
        precisions_init: npt.ArrayLike | None = None,
        random_state: int | Generator | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        bounds: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        rounds: int | None = None,
        share: float | None = None,
        callback: Callable[[RoundReport], object] | None = None,
        acceleration: Acceleration | None = None,
        clients_per_round: int | None = None,
        aggregation: Aggregation = "statistics",
        personal_weights: bool = False,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.bounds = bounds
        self.rounds = rounds
        self.share = share
        self.callback = callback
        self.acceleration = acceleration
        self.clients_per_round = clients_per_round
        self.aggregation = aggregation
        self.personal_weights = personal_weights

    # --- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit the mixture to rows of shape (n, d), or to a `Federation`.

        Args:
            X: array-like or frame of shape (n, d) with n >= K; or anything with `release`, such as `LocalFederation`.
            y: ignored, present for scikit-learn's pipelines.

        Raises:
            UsageError: a parameter or the rows cannot be used; the message names the remedy.
        """
        if is_federation(X):
            self._fit_federation(X)
        else:
            self._fit_rows(X)
        return self

    def fit_predict(self, X: Any, y: object = None) -> IntArray:
        """Fit the mixture to rows and return each row's most probable component, shape (n,)."""
        if is_federation(X):
            raise UsageError(
                "fit_predict needs rows, but a federation shows none: call fit(federation), then predict at each client"
            )
        self._fit_rows(X)
        return self.predict(X)

    def _fit_rows(self, X: Any) -> None:
        name = type(self).__name__
        check_parameters(self.get_params(), estimator=name)
        check_algorithm_of_rows(self._algorithm())
        init_params = rows_init(self.init_params)
        rows, names = as_rows(X, estimator=name, min_samples=2), feature_names(X)
        if len(rows) < self.n_components:
            raise UsageError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, n_samples = "
                f"{len(rows)}. Lower n_components or bring more rows."
            )
        if self.bounds is not None:
            rows = rows_within(rows, check_bounds(self.bounds, rows.shape[1]))
        start = self._checked_start(rows.shape[1])
        warm = self._warm_model(rows.shape[1])
        random = check_random_state(self.random_state)
        results: list[EMResult] = []
        for init in range(1 if warm is not None else self.n_init):
            self._print(1, f"Initialization {init}")
            model = warm
            if model is None:
                model = start_from_rows(
                    rows,
                    start,
                    self.n_components,
                    self.covariance_type,
                    init=init_params,
                    reg_covar=self.reg_covar,
                    random=random,
                )
            results.append(self._run(model, rows, -math.inf if warm is None else self.lower_bound_))
        best = max(results, key=lambda result: result.lower_bounds[-1] if result.lower_bounds else -math.inf)
        self._finish(best)
        self._keep_precision(X)
        if names is not None:
            self.feature_names_in_ = names

    def _run(self, model: MixtureModel, rows: FloatArray, lower_bound: float) -> EMResult:
        if self.max_iter == 0:
            return EMResult(model, (), False)

        def after(step: int, bound: float, change: float) -> None:
            if step % self.verbose_interval == 0:
                self._print(1, f"  Iteration {step}" + (f"\t ll change {change:.5f}" if self.verbose >= 2 else ""))
            if self.callback is not None:
                self.callback(RoundReport("em", step, self.max_iter, None, bound))

        return fit_rows(
            model,
            rows,
            tol=self.tol,
            max_iter=self.max_iter,
            reg_covar=self.reg_covar,
            lower_bound=lower_bound,
            after=after,
            maximise=squarem_maximization if self.acceleration == "squarem" else None,
        )

    def _algorithm(self) -> Algorithm:
        return Algorithm(self.acceleration, self.clients_per_round, self.aggregation, self.personal_weights)

    def _warm_model(self, n_features: int) -> MixtureModel | None:
        """Return the fitted model to go on from, when `warm_start` asks for it and it fits."""
        if not (self.warm_start and hasattr(self, "converged_")):
            return None
        if self.means_.shape != (self.n_components, n_features):
            raise UsageError(
                f"warm_start has a model of shape {self.means_.shape}, but {(self.n_components, n_features)} is asked "
                "for: set warm_start=False for a new start"
            )
        return self._model()

    def _fitted_under_a_budget(self) -> bool:
        """Whether the last fit saw nothing but private releases."""
        releases = getattr(self, "releases_", ())
        return bool(releases) and all(release.private for release in releases)

    def _checked_start(self, n_features: int) -> Start:
        return check_start(
            self.weights_init,
            self.means_init,
            self.precisions_init,
            n_components=self.n_components,
            n_features=n_features,
            covariance_type=self.covariance_type,
        )

    def _fit_federation(self, federation: Federation) -> None:
        check_parameters(self.get_params(), estimator=type(self).__name__)
        refuse_targets(federation)
        d, algorithm, init = federation.n_features, self._algorithm(), federated_init(self.init_params)
        start, warm, random = self._checked_start(d), self._warm_model(d), check_random_state(self.random_state)
        if warm is not None and federation.budget is not None and not self._fitted_under_a_budget():
            raise UsageError(
                "warm_start would send a model of unprotected rows to the clients of a federation under a budget:"
                " set warm_start=False"
            )
        bounds = None if self.bounds is None else check_bounds(self.bounds, d)
        if federation.budget is None:
            self._fit_exact(federation, bounds, start, warm, random, init, algorithm)
        else:
            algorithm.check_budgeted()
            asked = PersonalFederation(federation) if algorithm.personal_weights else federation
            self._fit_private(asked, bounds, start, warm, random, init)
        names = getattr(federation, "feature_names", None)
        if names is not None:
            self.feature_names_in_ = np.asarray(names, dtype=object)

    def _fit_exact(
        self,
        federation: Federation,
        bounds: tuple[FloatArray, FloatArray] | None,
        start: Start,
        warm: MixtureModel | None,
        random: Generator,
        init: FederatedInit,
        algorithm: Algorithm,
    ) -> None:
        fit = fit_exact(
            federation,
            n_components=self.n_components,
            covariance_type=self.covariance_type,
            bounds=bounds,
            tol=self.tol,
            reg_covar=self.reg_covar,
            max_iter=self.max_iter if self.rounds is None else min(self.rounds, self.max_iter),
            n_init=self.n_init,
            start=start,
            warm=warm,
            lower_bound=-math.inf if warm is None else self.lower_bound_,
            random=random,
            report=self._report,
            init=init,
            algorithm=algorithm,
        )
        self._finish(fit.result)
        self.releases_, self.epsilon_ = fit.releases, {}

    def _fit_private(
        self,
        federation: Federation,
        bounds: tuple[FloatArray, FloatArray] | None,
        start: Start,
        warm: MixtureModel | None,
        random: Generator,
        init: FederatedInit,
    ) -> None:
        low, high = required_bounds(bounds, federation.n_features)
        task = Task(
            federation,
            self.n_components,
            self.covariance_type,
            low,
            high,
            share=check_share(self.share, federation.remaining_share),
            rounds=self.rounds,
            start=start,
            warm=warm,
            random=random,
            report=self._report,
        )
        fit = fit_under_budget(task, init)
        self._finish(EMResult(fit.model, fit.log_likelihoods, True))
        self.releases_, self.choice_ = fit.releases, fit.choice
        self.epsilon_ = dict(fit.releases[-1].epsilon)

    def _finish(self, result: EMResult) -> None:
        if not result.converged and self.max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init parameters, or increase max_iter, "
                "tol, or check for degenerate data.",
                recognised(ConvergenceWarning),
                stacklevel=caller_level(),
            )
        self._store(result.model)
        self.converged_ = result.converged
        self.n_iter_ = len(result.lower_bounds)
        self.lower_bound_ = result.lower_bounds[-1] if result.lower_bounds else -math.inf
        self.lower_bounds_ = list(result.lower_bounds)

    def _report(self, report: RoundReport) -> None:
        if report.round % self.verbose_interval == 0 or self.verbose >= 2:
            known = "" if report.log_likelihood is None else f"\t log-likelihood {report.log_likelihood:.5f}"
            self._print(1, f"  {report.stage} {report.round}/{report.rounds}{known}")
        if self.callback is not None:
            self.callback(report)

    def _store(self, model: MixtureModel) -> None:
        self.weights_ = np.array(model.weights)
        self.means_ = np.array(model.means)
        self.covariances_ = np.array(model.covariances)
        self.precisions_cholesky_ = np.array(model.precisions_cholesky)
        self.precisions_ = np.array(model.precisions)
        self.n_features_in_ = model.n_features
        for name in ("feature_names_in_", "releases_", "choice_", "epsilon_"):  # of an earlier fit
            if hasattr(self, name):
                delattr(self, name)

    def _print(self, level: int, line: str) -> None:
        if self.verbose >= level:
            sys.stdout.write(line + "\n")
