"""Which source model to start from: candidates ranked by protected sums over the clients' rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from privfed.errors import UsageError, checked_integer, warn_caller
from privfed.federation.release import Federation, Release
from privfed.learners.base import check_random_state
from privfed.query import FloatArray
from privfed.statistics.features import ExpectedPredictor, FeatureMap, SourceSums
from privfed.statistics.programs import install
from privfed.transfer.candidates import Candidate, source_of
from privfed.transfer.repair import repaired
from privfed.transfer.result import SourceRanking, SourceScore
from privfed.transfer.scores import h_score, likely_tables, logme, shrinkage

__all__ = ["METHODS", "rank_sources"]

METHODS: Final = ("logme", "h_score", "h_score_shrunk", "leep", "nce")
NEEDS: Final = {
    "logme": {"cross", "gram"},
    "h_score": {"cross", "gram"},
    "h_score_shrunk": {"cross", "gram", "third", "fourth"},
    "leep": {"table"},
    "nce": {"table"},
}
DEFAULT: Final = ("logme", "h_score", "leep")
SECOND_PASS: Final = 0.15  # of the share: LEEP's one number per source, beside sums that are matrices
BOOTSTRAP: Final = 200
# Probability of a class, over even odds, below which LEEP counts a prediction as this one: the noise grows with its
# logarithm, a bias with itself. Without noise nothing is cut: a record's own part of the table keeps it above.
LEAST_PROTECTED: Final = 0.03
LEAST_UNPROTECTED: Final = 1e-12


def rank_sources(
    federation: Federation,
    candidates: Sequence[Candidate],
    *,
    n_classes: int,
    methods: Sequence[str] | None = None,
    share: float | None = None,
    feature_bound: float | str = "unit",
    joint: bool = True,
    bootstrap: int = BOOTSTRAP,
    random_state: object = None,
) -> SourceRanking:
    """Rank source models by how well their features suit the clients' labels, from protected sums alone.

    Nothing is trained, and nobody shows a row. LogME and H-score come from second moments of the features with each
    other and with the labels; LEEP from a table of source labels by target classes and, in a second small release, one
    number per source. The rows' last column is the class.

    Args:
        federation: whose rows the sources would be transferred to.
        candidates: source models, at least one, of distinct names. Their weights are public.
        n_classes: classes of the target task, >= 2: the last column of a row is a whole number below it. Other rows are
            refused without a budget; under one they count nowhere and their client is warned.
        methods: some of "logme", "h_score", "h_score_shrunk" (with Ledoit and Wolf's shrinkage), "leep" and "nce"
            (LEEP's cheaper relative, from the table alone). The first one ranks. None for "logme", "h_score" and, if
            some candidate has a source head, "leep". Methods for which no candidate has what they need are left out,
            and `SourceRanking.left_out` says why.
        share: of the whole budget, for all releases together, in (0, 1]; needed where there is a budget.
        feature_bound: public L2 norm to which features are clipped, > 0, or "unit", which scales every row's features
            to norm 1; a candidate's own goes before. A norm that is seldom reached pays for noise that nobody needed.
        joint: all candidates in one release. One after the other costs the same: each gets its part of the share; but
            the counts are paid once only in one release, and the ledger then has two entries in place of two for each.
        bootstrap: noise draws for standard errors, >= 2; used only where there is noise.
        random_state: of those draws.

    Guarantees:
        `share` of the budget pays for everything; all that follows is post-processing. Each row is evaluated by
        itself, so that no record moves another's features. A candidate that keeps something from one row to the next
        would break that: one that shows it on public rows is refused, and clients must not install code that hides it.

    Raises:
        UsageError: bad arguments, or a candidate that cannot be evaluated; nothing was charged.
        BudgetExhausted, FederationError, DataError: as `Federation.release`.
    """
    if not isinstance(federation, Federation):
        raise UsageError(f"expected a federation, such as privfed.LocalFederation, not {type(federation).__name__}")
    asked = _checked_methods(DEFAULT if methods is None else methods)
    n_classes = checked_integer("n_classes", n_classes, least=2)
    bootstrap = checked_integer("bootstrap", bootstrap, least=2)
    generator = check_random_state(random_state)
    if federation.budget is not None and (share is None or not 0.0 < share <= 1.0):
        raise UsageError(f"share is {share!r}, expected the fraction of the budget for the ranking, in (0, 1]")
    prepared = _prepare(federation, candidates, feature_bound)
    asked, left_out = _with_heads(prepared, asked, warn=methods is not None)
    groups = [prepared] if joint else [[one] for one in prepared]
    part = None if share is None else share / len(groups)
    scores: list[SourceScore] = []
    draws: list[FloatArray] = []
    entries: list[int] = []
    for group in groups:
        ranked = _Ranked(federation, group, asked, n_classes, part)
        made, drawn = ranked.scores(bootstrap, generator)
        scores += made
        draws.append(drawn)
        entries += ranked.entries
    return SourceRanking(
        scores=tuple(scores),
        methods=asked,
        n_classes=n_classes,
        share=share if federation.budget is not None else None,
        entries=tuple(entries),
        epsilon=dict(ranked.epsilon),
        draws=np.concatenate(draws, axis=1),
        left_out=left_out,
    )


@dataclass(frozen=True)
class _Prepared:
    """A candidate that clients have installed; holding it keeps it installed."""

    name: str
    source: FeatureMap
    program: str
    bound: float


def _checked_methods(methods: Sequence[str]) -> tuple[str, ...]:
    asked = (methods,) if isinstance(methods, str) else tuple(methods)
    if not asked or len(set(asked)) != len(asked) or not set(asked) <= set(METHODS):
        raise UsageError(f"methods are {asked!r}, expected some of {METHODS}, each once")
    return asked


def _prepare(federation: Federation, candidates: Sequence[Candidate], default: float | str) -> list[_Prepared]:
    odd = [type(candidate).__name__ for candidate in candidates if not isinstance(candidate, Candidate)]
    if odd:
        raise UsageError(f"found {odd[0]} among the candidates, expected privfed.transfer.Candidate(name, model)")
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"candidates are called {names}, expected at least one and distinct names")
    if getattr(federation, "n_targets", 0) > 1:
        raise UsageError("the rows have several targets, expected one: the class")
    columns = federation.n_features - 1
    shape = tuple(getattr(federation, "feature_shape", ())) if getattr(federation, "n_targets", 0) else ()
    shape = shape if math.prod(shape) == columns else (columns,)
    prepared = []
    for candidate in candidates:
        wanted = default if candidate.feature_bound is None else candidate.feature_bound
        checked = replace(candidate, feature_bound=wanted)  # checks it
        source = source_of(checked, shape, unit=wanted == "unit")
        bound = 1.0 if isinstance(wanted, str) else float(wanted)
        prepared.append(_Prepared(candidate.name, source, install(source), bound))
    return prepared


def _with_heads(
    prepared: Sequence[_Prepared], methods: tuple[str, ...], *, warn: bool
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the methods for which some candidate has what they need, and why the others are left out.

    Raises:
        UsageError: none is left.
    """
    without = ", ".join(one.name for one in prepared if not one.source.n_labels)
    by_labels = [method for method in methods if NEEDS[method] == {"table"}]
    if not without or not by_labels:
        return methods, {}
    if len(by_labels) == len(methods):
        raise UsageError(f"{methods} need source labels, and there is no source head: {without}. Add method 'logme'")
    if warn:
        warn_caller(f"no source head, hence no score by source labels: {without}; see Candidate.source_head")
    if any(one.source.n_labels for one in prepared):
        return methods, {}
    why = "no candidate has a source head, see Candidate.source_head"
    return tuple(method for method in methods if method not in by_labels), dict.fromkeys(by_labels, why)


class _Ranked:
    """The releases about one group of candidates, and what follows from them."""

    def __init__(
        self,
        federation: Federation,
        group: Sequence[_Prepared],
        methods: tuple[str, ...],
        n_classes: int,
        share: float | None,
    ) -> None:
        self._group, self._methods = group, methods
        self._heads = [k for k, one in enumerate(group) if one.source.n_labels]
        wanted = set().union(*(NEEDS[method] for method in methods))
        leep = "leep" in methods and bool(self._heads)
        second = (0.5 if wanted == {"table"} else SECOND_PASS) if leep else 0.0
        self._query = SourceSums(
            programs=tuple(one.program for one in group),
            widths=tuple(one.source.width for one in group),
            labels=tuple(one.source.n_labels for one in group),
            bounds=tuple(one.bound for one in group),
            n_inputs=federation.n_features - 1,
            n_classes=n_classes,
            parts=tuple(part for part in ("cross", "gram", "third", "fourth", "table") if part in wanted),
        )
        names = ", ".join(one.name for one in group)
        part = None if share is None else share * (1.0 - second)
        self._first = federation.release(self._query, share=part, purpose=f"source features: {names}")
        self._last: Release | None = None
        self.entries, self.epsilon = [self._first.entry], self._first.epsilon
        if leep:
            self._ask_likelihood(federation, None if share is None else share * second, names)

    def _ask_likelihood(self, federation: Federation, share: float | None, names: str) -> None:
        """Ask how likely the labels are under the predictors that the first release makes public."""
        query, n_classes = self._query, self._query.n_classes
        least = LEAST_PROTECTED / n_classes if self._first.private else LEAST_UNPROTECTED
        tables = [likely_tables(self._first[f"table_{k}"]) for k in self._heads]
        self._predictor = ExpectedPredictor(
            programs=tuple(query.programs[k] for k in self._heads),
            labels=tuple(query.labels[k] for k in self._heads),
            predictors=np.concatenate([table.ravel() for table in tables]),
            n_inputs=query.n_inputs,
            n_classes=n_classes,
            least=least,
        )
        self._last = federation.release(self._predictor, share=share, purpose=f"source labels: {names}")
        self.entries.append(self._last.entry)
        self.epsilon = self._last.epsilon

    def scores(self, bootstrap: int, generator: Any) -> tuple[list[SourceScore], FloatArray]:
        """Return the scores of the group, and bootstrap draws of them, shape `(draws, group, methods)`."""
        values = self._evaluate(self._first, self._last)
        if self._first.private:
            draws = np.stack([self._evaluate(*self._noised(generator)) for _ in range(bootstrap)])
        else:
            draws = np.zeros((0, *values.shape))
        errors = draws.std(axis=0, ddof=1) if len(draws) else np.zeros_like(values)
        made = [
            SourceScore(
                name=one.name,
                width=one.source.width,
                n_labels=one.source.n_labels,
                program=one.program,
                feature_bound=one.bound,
                scores=dict(zip(self._methods, values[k].tolist(), strict=True)),
                errors=dict(zip(self._methods, errors[k].tolist(), strict=True)),
            )
            for k, one in enumerate(self._group)
        ]
        return made, draws

    def _noised(self, generator: Any) -> tuple[Release, Release | None]:
        """Return the releases with fresh noise of the known law on top."""

        def again(release: Release) -> Release:
            noised = {
                name: np.asarray(value + generator.normal(0.0, release.noise_std[name], np.shape(value)))
                for name, value in release.values.items()
            }
            return replace(release, values=noised)

        return again(self._first), None if self._last is None else again(self._last)

    def _evaluate(self, first: Release, last: Release | None) -> FloatArray:
        """Return the scores, shape `(group, methods)`; NaN where a source has no head."""
        return np.array(
            [[self._score(method, k, first, last) for method in self._methods] for k in range(len(self._group))]
        )

    def _score(self, method: str, k: int, first: Release, last: Release | None) -> float:
        if method in ("leep", "nce"):
            return self._label_score(method, k, first, last)
        moments = repaired(
            first["counts"],
            first[f"cross_{k}"],
            first[f"gram_{k}"],
            cross_noise=first.noise_std[f"cross_{k}"],
            gram_noise=first.noise_std[f"gram_{k}"],
        )
        if method == "logme":
            return logme(moments)
        if method == "h_score":
            return h_score(moments)
        return h_score(moments, shrinkage(moments, first[f"third_{k}"], float(first[f"fourth_{k}"])))

    def _label_score(self, method: str, k: int, first: Release, last: Release | None) -> float:
        if k not in self._heads:
            return math.nan
        counts = np.maximum(first["counts"], 0.0)
        n = max(float(counts.sum()), 1.0)
        if method == "leep" and last is not None:
            likelihood = float(last["likelihood"][self._heads.index(k)])
            return float(np.clip(likelihood / n - self._predictor.range / 2, -self._predictor.range, 0.0))
        table = np.maximum(first[f"table_{k}"], 0.0)
        likely = likely_tables(table)
        joint = table / max(float(table.sum()), 1e-300)
        return float(np.sum(joint * np.log(np.where(joint > 0, likely, 1.0))))
