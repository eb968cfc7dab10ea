"""How many components, and of which kind: candidates judged by protected sums.

Without a budget every candidate is fitted by EM, and one sum judges them all: criteria are those of the pooled rows.

With a budget fits are dear and looking is cheap, so there is one private fit, of the largest candidate and the most
general kind, and one private judgement:

    35 %   the over-complete fit, by the recipe
    free   every candidate is fitted to draws from it
    15 %   one sum over rows of how much better each candidate explains them than the one expected to win, each
           difference cut to the range that the draws show; shares go to those that are in the running
    50 %   the chosen candidate is fitted on, from where it stands

Noise of the judgement is known, so differences that it explains are ties, and ties go to the simpler model.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from privfed.errors import UsageError, checked_integer, checked_number
from privfed.federation.release import Federation, Release
from privfed.learners.base import check_random_state
from privfed.learners.mixture.estimator import GaussianMixture, is_federation
from privfed.learners.mixture.frames import moments_of_model, refitted
from privfed.learners.mixture.parameters import check_bounds, check_share, required_bounds
from privfed.learners.mixture.private.estimates import RowCount
from privfed.learners.mixture.private.planning import ACCEPTABLE, excess
from privfed.learners.mixture.select.selection import Candidate, Criterion, MixtureSelection, criterion_of
from privfed.learners.validation import as_rows
from privfed.query import FloatArray
from privfed.statistics.hold_out import HoldOut, held_out_mask
from privfed.statistics.mixture_candidates import LEAST_REACH, CandidateLikelihoods, candidate_block
from privfed.statistics.mixture_model import COVARIANCE_TYPES, CovarianceType, Generator, MixtureModel, n_parameters

__all__ = ["select_mixture"]

FIT_SHARE, JUDGE_SHARE = 0.35, 0.15
DRAWS: Final = 20_000
LEAST_WEIGHT: Final = 0.3  # of an average component of the over-complete fit; lighter ones are left out
REACH: Final = 0.999  # quantile of the draws' differences that rows may reach in full
SLACK: Final = 1.5  # times that: rows are not draws
CLOSE: Final = 0.05  # nats per row: candidates so far behind the expected winner get half the share
TIES: Final = 2.0  # standard deviations of a difference's noise that count as a tie
EXACT_REACH: Final = 1e7  # nats, without a budget
UNSPENT: Final = 1e-6

Spec = tuple[int, CovarianceType]


def select_mixture(
    data: Any,
    n_components: Iterable[int] = range(1, 11),
    *,
    covariance_types: Sequence[CovarianceType] = ("full",),
    criterion: Criterion = "bic",
    bounds: Any = None,
    share: float | None = None,
    held_out: float = 0.2,
    random_state: int | Generator | None = None,
    **settings: Any,
) -> MixtureSelection:
    """Choose the number of components and the covariance type, and fit the mixture chosen.

    Args:
        data: rows of shape (n, d), or a federation.
        n_components: candidates for K, each >= 1.
        covariance_types: candidates for the type; all combinations are tried.
        criterion: "bic" or "aic", as scikit-learn has them (lower is better), or "held_out", the mean log-likelihood of
            rows that no candidate was fitted to (higher is better).
        bounds: federation under a budget: public `(low, high)`, as for `GaussianMixture`.
        share: federation under a budget: part of the whole budget to spend, final fit included; None spends what
            remains.
        held_out: criterion "held_out": fraction of rows kept back, in (0, 1). Each client keeps its own at home.
        random_state: every choice that protects nobody.
        settings: further arguments of `GaussianMixture` for the fits: tol, max_iter, n_init, callback and so on.

    Returns:
        The candidates with their criteria, and the chosen one fitted to all rows (`.mixture`).

    Guarantees:
        Under a budget the rows enter through releases that the ledger charges, of at most `share` together: those of
        one fit, one sum of bounded differences, and those of the last fit. The table holds functions of releases.

    Raises:
        UsageError: an argument cannot be used; nothing was sent or charged.

    >>> X = np.concatenate([np.random.default_rng(0).normal(c, 1, (200, 1)) for c in (0, 9)])
    >>> select_mixture(X, range(1, 5), random_state=0).mixture.n_components
    2
    """
    specs = _specs(n_components, covariance_types)
    if criterion not in ("bic", "aic", "held_out"):
        raise UsageError(f"criterion is {criterion!r}, expected 'bic', 'aic' or 'held_out'")
    fraction = checked_number("held_out", held_out)
    if fraction >= 1:
        raise UsageError(f"held_out is {held_out!r}, expected a fraction between 0 and 1")
    taken = {"n_components", "covariance_type", "warm_start", "weights_init", "means_init", "precisions_init"}
    if taken & set(settings):
        raise UsageError(f"{sorted(taken & set(settings))} differ by candidate: leave them out")
    random = check_random_state(random_state)
    job = _Job(specs, criterion, HoldOut(fraction, _seed(random)), settings)
    if not is_federation(data):
        return _of_rows(job, as_rows(data, estimator="select_mixture", min_samples=2), random)
    limits = None if bounds is None else check_bounds(bounds, data.n_features)
    if data.budget is None:
        return _of_federation(job, data, limits, random)
    low, high = required_bounds(limits, data.n_features)
    return _under_budget(job, data, low, high, check_share(share, data.remaining_share), random)


@dataclass(frozen=True)
class _Job:
    specs: tuple[Spec, ...]
    criterion: Criterion
    split: HoldOut
    settings: dict[str, Any]

    def estimator(self, spec: Spec, random: Generator, **more: Any) -> GaussianMixture:
        return GaussianMixture(spec[0], covariance_type=spec[1], random_state=random, **{**self.settings, **more})

    def part(self, federation: Federation, *, held_out: bool) -> Federation:
        """The rows to fit to, or to judge by; all of them but for criterion "held_out"."""
        if self.criterion != "held_out":
            return federation
        return self.split.evaluation(federation) if held_out else self.split.training(federation)


def _seed(random: Generator) -> int:
    return int(random.integers(2**31)) if isinstance(random, np.random.Generator) else int(random.randint(2**31))


def _specs(n_components: Iterable[int], covariance_types: Sequence[CovarianceType]) -> tuple[Spec, ...]:
    if not isinstance(n_components, Iterable):
        raise UsageError(f"n_components is {n_components!r}, expected the numbers to try, such as range(1, 6)")
    sizes = sorted({checked_integer("n_components", K, least=1) for K in n_components})
    if isinstance(covariance_types, str) or not covariance_types or not set(covariance_types) <= set(COVARIANCE_TYPES):
        raise UsageError(f"covariance_types is {covariance_types!r}, expected some of {COVARIANCE_TYPES}")
    if not sizes:
        raise UsageError("n_components is empty, expected at least one candidate")
    return tuple((K, kind) for kind in dict.fromkeys(covariance_types) for K in sizes)


# --- without a budget -----------------------------------------------------------------------------------------------


def _of_rows(job: _Job, rows: FloatArray, random: Generator) -> MixtureSelection:
    out = held_out_mask(rows, job.split.fraction, job.split.seed)
    train, test = (rows[~out], rows[out]) if job.criterion == "held_out" else (rows, rows)
    if len(test) == 0 or len(train) < max(K for K, _ in job.specs):
        raise UsageError(f"{len(rows)} rows leave {len(test)} to judge by and {len(train)} to fit to: bring more rows")
    fits = [job.estimator(spec, random).fit(train) for spec in job.specs]
    likelihoods = np.array([fit.score(test) for fit in fits])
    candidates, best = _judged(job, likelihoods, float(len(test)), np.zeros(len(fits)), rows.shape[1])
    mixture = fits[best] if job.criterion != "held_out" else job.estimator(job.specs[best], random).fit(rows)
    return MixtureSelection(candidates, job.criterion, best, mixture, (), float(len(test)))


def _of_federation(
    job: _Job, federation: Federation, bounds: tuple[FloatArray, FloatArray] | None, random: Generator
) -> MixtureSelection:
    train, test = job.part(federation, held_out=False), job.part(federation, held_out=True)
    fits = [job.estimator(spec, random, bounds=bounds).fit(train) for spec in job.specs]
    d, C = federation.n_features, len(fits)
    low, high = bounds if bounds is not None else (np.full(d, -np.inf), np.full(d, np.inf))
    query = CandidateLikelihoods.of(
        [fit._model() for fit in fits],
        low=low,
        high=high,
        reference=0,
        typical=np.zeros(C),
        reach=np.full(C, EXACT_REACH),
        shares=np.ones(C),
        largest_distance=1e300,
    )
    release = test.release(query, purpose="mixture: judgement")
    n = max(float(release["rows"]), 1.0)
    level = float(release["reference"]) / n
    likelihoods = np.array([level + (float(release[candidate_block(c)]) / n if c else 0.0) for c in range(C)])
    candidates, best = _judged(job, likelihoods, n, np.zeros(C), d)
    releases = [*(release for fit in fits for release in fit.releases_), release]
    mixture = fits[best]
    if job.criterion == "held_out":
        mixture = job.estimator(job.specs[best], random, bounds=bounds).fit(federation)
        releases += mixture.releases_
    return MixtureSelection(candidates, job.criterion, best, mixture, tuple(releases), n)


# --- under a budget -------------------------------------------------------------------------------------------------


def _under_budget(
    job: _Job, federation: Federation, low: FloatArray, high: FloatArray, share: float, random: Generator
) -> MixtureSelection:
    share *= 1 - UNSPENT
    mu2, d = share * federation.total_mu**2, federation.n_features
    overall = (max(K for K, _ in job.specs), _most_general([kind for _, kind in job.specs]))
    over = job.estimator(overall, random, bounds=(low, high), share=share * FIT_SHARE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nobody asked for this one: what it says of itself is beside
        over.fit(job.part(federation, held_out=False))
    count = RowCount()
    for release in over.releases_:
        count = count.add(release) if "counts" in release else count
    n = count.value
    general = _without_strays(over._model())
    models = [_candidate(spec, general, random) for spec in job.specs]
    question = _question(job, models, general, low, high, n, random)
    release = job.part(federation, held_out=True).release(
        question, share=share * JUDGE_SHARE, purpose="mixture: judgement"
    )
    rows = n * (job.split.fraction if job.criterion == "held_out" else 1.0)
    likelihoods, errors = _differences(question, release, rows)
    main = mu2 * (1 - FIT_SHARE - JUDGE_SHARE)
    losses = np.array([excess(n, d, K, kind, mu2=main) for K, kind in job.specs])
    candidates, best = _judged(job, likelihoods, rows, errors, d, losses=losses)
    start = _as_start(models[best], low, high) if job.specs[best][0] > 1 else {}
    mixture = job.estimator(
        job.specs[best], random, bounds=(low, high), share=share * (1 - FIT_SHARE - JUDGE_SHARE), **start
    ).fit(federation)
    releases = (*over.releases_, release, *mixture.releases_)
    return MixtureSelection(candidates, job.criterion, best, mixture, releases, rows)


def _most_general(kinds: Sequence[CovarianceType]) -> CovarianceType:
    """Return the simplest type that can express all."""
    if "full" in kinds or {"tied"} < set(kinds):
        return "full"
    return "tied" if "tied" in kinds else "diag" if "diag" in kinds else "spherical"


def _without_strays(over: MixtureModel) -> MixtureModel:
    """Return the mixture without its lightest components: noise put them where it liked, and candidates of few
    components would spend one on them.
    """  # fmt: skip
    kept = over.weights >= LEAST_WEIGHT / over.n_components
    weights = over.weights[kept] / over.weights[kept].sum()
    covariances = over.covariances if over.covariance_type == "tied" else over.covariances[kept]
    return MixtureModel.from_covariances(weights, over.means[kept], covariances, over.covariance_type)


def _candidate(spec: Spec, over: MixtureModel, random: Generator) -> MixtureModel:
    K, kind = spec
    if K == 1:
        mean, covariance = moments_of_model(over)
        return MixtureModel.from_matrices([1.0], mean[None], covariance, kind)
    if (over.n_components, over.covariance_type) == spec:
        return over
    return refitted(over, K, kind, random)


def _question(
    job: _Job,
    models: Sequence[MixtureModel],
    over: MixtureModel,
    low: FloatArray,
    high: FloatArray,
    n: float,
    random: Generator,
) -> CandidateLikelihoods:
    """Return the query that judges the candidates; its ranges and shares come from draws, which are public."""
    draws, _ = over.sample(DRAWS, random)
    draws = np.clip(draws, low, high)
    each = np.stack([model.log_likelihoods(draws) for model in models])
    scores = each.mean(axis=1) - _penalties(job, n, len(low)) / (2 * n)
    reference = int(np.argmax(scores))
    differences = each - each[reference]
    differences[reference] = each[reference]
    typical = differences.mean(axis=1)
    reach = SLACK * np.quantile(np.abs(differences - typical[:, None]), REACH, axis=1)
    reach = np.maximum(reach, LEAST_REACH)
    behind = np.maximum(scores[reference] - scores, 0.0)
    shares = reach / np.sqrt(1 + (behind / CLOSE) ** 2)
    shares[reference] = 0.02 * shares.sum()  # the level is for display: no choice rests on it
    return CandidateLikelihoods.of(
        models, low=low, high=high, reference=reference, typical=typical, reach=reach, shares=shares
    )


def _differences(question: CandidateLikelihoods, release: Release, n: float) -> tuple[FloatArray, FloatArray]:
    """Return each candidate's mean log-likelihood, nats per row, and the noise of its difference to the reference."""
    C, reference = len(question.types), question.reference
    level = float(question.typical[reference]) + float(release["reference"]) / n
    likelihoods, errors = np.full(C, level), np.zeros(C)
    for c in range(C):
        if c != reference:
            block = candidate_block(c)
            likelihoods[c] += float(question.typical[c]) + float(release[block]) / n
            errors[c] = release.noise_std[block] / n
    return likelihoods, errors


def _as_start(model: MixtureModel, low: FloatArray, high: FloatArray) -> dict[str, FloatArray]:
    return {
        "weights_init": model.weights / model.weights.sum(),
        "means_init": np.clip(model.means, low, high),
        "precisions_init": np.array(model.precisions),
    }


# --- judging --------------------------------------------------------------------------------------------------------


def _penalties(job: _Job, n: float, d: int) -> FloatArray:
    per_parameter = {"bic": math.log(max(n, 1.0)), "aic": 2.0, "held_out": 0.0}[job.criterion]
    return np.array([per_parameter * n_parameters(kind, K, d) for K, kind in job.specs])


def _judged(
    job: _Job,
    likelihoods: FloatArray,
    n: float,
    errors: FloatArray,
    d: int,
    *,
    losses: FloatArray | None = None,
) -> tuple[tuple[Candidate, ...], int]:
    """Return the table, and the number of the candidate chosen.

    Args:
        likelihoods: mean log-likelihoods, nats per row, shape (C,).
        n: rows that they are of.
        errors: noise of their differences to one of them, nats per row, shape (C,).
        losses: expected loss of a private fit of each, nats per row; those beyond reason are not chosen.
    """
    scores = likelihoods - _penalties(job, n, d) / (2 * n)
    parameters = np.array([n_parameters(kind, K, d) for K, kind in job.specs])
    open_to = np.ones(len(scores), dtype=bool) if losses is None else losses <= ACCEPTABLE
    if not open_to.any():
        open_to = parameters == parameters.min()
    leader = int(np.argmax(np.where(open_to, scores, -np.inf)))
    noise = np.hypot(errors, errors[leader])
    tied = open_to & (scores >= scores[leader] - TIES * noise)
    best = min(np.flatnonzero(tied), key=lambda c: (parameters[c], -scores[c]))
    candidates = tuple(
        Candidate(
            n_components=K,
            covariance_type=kind,
            n_parameters=int(parameters[c]),
            log_likelihood=float(likelihoods[c]),
            criterion=criterion_of(job.criterion, float(likelihoods[c]), n, int(parameters[c])),
            std_error=float(errors[c]) * (1.0 if job.criterion == "held_out" else 2 * n),
            expected_excess=None if losses is None else float(losses[c]),
        )
        for c, (K, kind) in enumerate(job.specs)
    )
    return candidates, int(best)
