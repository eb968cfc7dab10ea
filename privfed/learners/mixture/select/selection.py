"""What a choice among mixtures ends with: the table of candidates, the one chosen, and a figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from privfed.errors import needs_extra
from privfed.federation.release import Release
from privfed.statistics.mixture_model import CovarianceType

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from privfed.learners.mixture.estimator import GaussianMixture

__all__ = ["Candidate", "Criterion", "MixtureSelection", "criterion_of"]

Criterion = Literal["bic", "aic", "held_out"]


def criterion_of(criterion: Criterion, log_likelihood: float, n: float, n_parameters: int) -> float:
    """Return BIC or AIC (lower is better), or the mean log-likelihood itself (higher is better).

    Args:
        criterion: which.
        log_likelihood: mean over rows, nats.
        n: rows.
        n_parameters: free parameters of the mixture.
    """
    if criterion == "held_out":
        return log_likelihood
    return -2.0 * n * log_likelihood + n_parameters * (math.log(max(n, 1.0)) if criterion == "bic" else 2.0)


@dataclass(frozen=True)
class Candidate:
    """One mixture that might be chosen.

    Attributes:
        n_components, covariance_type: which.
        n_parameters: free parameters.
        log_likelihood: mean over the rows judged by, nats.
        criterion: its value.
        std_error: standard deviation of the noise on the criterion's difference to the candidate that others were
            compared with; 0 without a budget.
        expected_excess: under a budget, what a private fit of it is expected to lose to noise, nats per row; above
            0.5 a candidate is not chosen.
    """

    n_components: int
    covariance_type: CovarianceType
    n_parameters: int
    log_likelihood: float
    criterion: float
    std_error: float
    expected_excess: float | None = None


@dataclass(frozen=True, eq=False)
class MixtureSelection:
    """What `select_mixture` found. Under a budget all of it but `mixture`'s seeds comes from releases.

    Attributes:
        candidates: in the order of covariance types, then of K.
        criterion: "bic", "aic" or "held_out".
        best: number of the candidate chosen.
        mixture: it, fitted.
        releases: every release, in order; empty for rows at hand.
        n_rows: rows judged by; under a budget as released, noise included.
    """

    candidates: tuple[Candidate, ...]
    criterion: Criterion
    best: int
    mixture: GaussianMixture
    releases: tuple[Release, ...]
    n_rows: float

    @property
    def chosen(self) -> Candidate:
        """The candidate chosen."""
        return self.candidates[self.best]

    @property
    def epsilon(self) -> dict[str, float]:
        """View -> epsilon spent so far, the selection included; empty without a budget."""
        return dict(self.releases[-1].epsilon) if self.releases else {}

    def as_dict(self) -> dict[str, Any]:
        """Return criterion, choice and table, fit for JSON."""
        return {
            "criterion": self.criterion,
            "n_rows": self.n_rows,
            "n_components": self.chosen.n_components,
            "covariance_type": self.chosen.covariance_type,
            "releases": len(self.releases),
            "epsilon": self.epsilon,
            "candidates": [
                {**{name: getattr(one, name) for name in Candidate.__dataclass_fields__}, "chosen": c == self.best}
                for c, one in enumerate(self.candidates)
            ],
        }

    def __str__(self) -> str:
        better = "higher" if self.criterion == "held_out" else "lower"
        lines = [f"{'type':<10}{'K':>4}{'parameters':>12}{self.criterion:>16}{'+-':>12}   ({better} is better)"]
        for c, one in enumerate(self.candidates):
            mark = "   chosen" if c == self.best else ""
            lines.append(
                f"{one.covariance_type:<10}{one.n_components:>4}{one.n_parameters:>12}{one.criterion:>16.6g}"
                f"{one.std_error:>12.3g}{mark}"
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Return a figure of the criterion against K, one line for each covariance type; bars are the noise.

        Raises:
            UsageError: matplotlib is missing: pip install 'privfed[plot]'.
        """
        with needs_extra("plot", "figures need matplotlib"):
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        ax = figure.subplots()
        for kind in dict.fromkeys(one.covariance_type for one in self.candidates):
            mine = [one for one in self.candidates if one.covariance_type == kind]
            ax.errorbar(
                [one.n_components for one in mine],
                [one.criterion for one in mine],
                yerr=[one.std_error for one in mine] if any(one.std_error for one in mine) else None,
                marker="o",
                markersize=4,
                capsize=3,
                label=kind,
            )
        best = self.chosen
        ax.plot(best.n_components, best.criterion, "o", markersize=12, fillstyle="none", color="black", label="chosen")
        names = {"bic": "BIC", "aic": "AIC", "held_out": "held-out log-likelihood (nats per row)"}
        better = "higher" if self.criterion == "held_out" else "lower"
        ax.set(xlabel="components", ylabel=f"{names[self.criterion]}, {better} is better")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend()
        return figure
