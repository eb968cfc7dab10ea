"""How well a model does on everybody's rows, by protected sums with a small share of the budget of their own.

Nobody learns how well it does at one client. Every figure comes with the standard error that the known noise gives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from privfed.federation.release import Federation, Release
from privfed.learners.neural.evaluation.question import check_evaluation
from privfed.learners.neural.losses import LossLike
from privfed.learners.neural.program import TorchProgram
from privfed.query import FloatArray
from privfed.statistics.hold_out import HoldOut

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

__all__ = [
    "Calibration",
    "Evaluation",
    "Measured",
    "Metric",
    "SiloQuantile",
    "evaluate",
    "quantile_of",
]

Metric = Literal["loss", "accuracy", "calibration", "confusion", "silos"]
DROWNED: Final = 3.0  # standard deviations below which a number of records says next to nothing
WIDEST: Final = 0.5  # of an accuracy: how far off a quantile of silos may be and still be told
ROUNDING: Final = 1e-6  # of counts on the grid
SILO_SHARE: Final = 0.5  # of an evaluation's share, for the silos where they are asked for


@dataclass(frozen=True)
class Measured:
    """A number and how far the noise may have moved it.

    Attributes:
        value: the estimate; NaN where the noise drowns it.
        standard_error: of the protecting noise alone, not of the choice of rows; infinite where it drowns the value.
    """

    value: float
    standard_error: float

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4g}" + (f" +- {self.standard_error:.2g}" if self.standard_error else "")


@dataclass(frozen=True)
class Calibration:
    """Whether the model is as often right as it says: per bin of its confidence.

    Attributes:
        records: noised number of rows per bin, shape `(bins,)`.
        confidence, accuracy: their mean confidence, and the part that was right; NaN in bins that noise drowns.
        accuracy_error: standard error of `accuracy`.
        error: expected calibration error: mean distance of confidence and accuracy, weighted by rows, less what noise
            alone would give.
    """

    records: FloatArray
    confidence: FloatArray
    accuracy: FloatArray
    accuracy_error: FloatArray
    error: Measured


@dataclass(frozen=True)
class SiloQuantile:
    """An accuracy that all but a part of the silos reach.

    Attributes:
        quantile: which part, such as 0.1 for the worst tenth.
        value: the accuracy: lower edge of the bin in which the quantile lies; NaN where noise drowns it.
        low, high: between these it lies within two standard errors of the noise.
        silos: noised number of silos per bin of accuracy, from 0 to 1.
        noise_std: of each of these numbers.
    """

    quantile: float
    value: float
    low: float
    high: float
    silos: FloatArray
    noise_std: float


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. All of it is computed of releases, and public.

    Attributes:
        records: number of rows that it is about.
        loss: mean loss, of losses cut to `largest_loss`; None if not asked for.
        accuracy: part of the rows (of their targets, where they have several) that is right; None if not asked for.
        calibration: None if not asked for.
        confusion: noised number of rows, shape `(classes, classes)`, the true class first; None if not asked for.
        confusion_noise_std: standard deviation of each of its numbers.
        silos: None if not asked for.
        largest_loss: to which each row's loss was cut.
        clients: clients that are in the sums; of hidden samples of clients, how many are drawn on average.
        epsilon: view -> epsilon charged so far, this evaluation included; empty without a budget.
        releases: what was asked; not in `as_dict`.
    """

    records: Measured
    largest_loss: float
    clients: float
    loss: Measured | None = None
    accuracy: Measured | None = None
    calibration: Calibration | None = None
    confusion: FloatArray | None = None
    confusion_noise_std: float = 0.0
    silos: SiloQuantile | None = None
    epsilon: Mapping[str, float] = field(default_factory=dict)
    releases: tuple[Release, ...] = field(default=(), repr=False)

    def figures(self) -> dict[str, Measured]:
        """Return the single numbers by name: records, loss, accuracy, calibration_error, as far as asked for."""
        found = {"records": self.records, "loss": self.loss, "accuracy": self.accuracy}
        if self.calibration is not None:
            found["calibration_error"] = self.calibration.error
        return {name: figure for name, figure in found.items() if figure is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as numbers, lists and None, for JSON: NaN and infinity become None."""
        plain: dict[str, Any] = {"clients": self.clients, "largest_loss": self.largest_loss}
        for name, figure in self.figures().items():
            plain[name] = _plain(figure.value)
            plain[f"{name}_standard_error"] = _plain(figure.standard_error)
        if self.calibration is not None:
            names = ("records", "confidence", "accuracy", "accuracy_error")
            plain["calibration"] = {name: _plain(getattr(self.calibration, name)) for name in names}
        if self.confusion is not None:
            plain["confusion"] = _plain(self.confusion)
            plain["confusion_noise_std"] = self.confusion_noise_std
        if self.silos is not None:
            plain["silos"] = {name: _plain(value) for name, value in vars(self.silos).items()}
        return plain | {"epsilon": dict(self.epsilon)}

    def __repr__(self) -> str:
        lines = [f"{name:<18} {figure}" for name, figure in self.figures().items()]
        if self.silos is not None:
            what, silos = f"worst {self.silos.quantile:.0%} of silos", self.silos
            lines.append(f"{what:<18} {silos.value:.3g} ({silos.low:.3g} to {silos.high:.3g})")
        lines += [f"{'epsilon, ' + view:<18} {epsilon:.4g}" for view, epsilon in self.epsilon.items()]
        return "\n".join([f"Evaluation by {self.clients:g} clients", *(f"  {line}" for line in lines)])

    def plot(self) -> Figure:
        """Draw what was found: reliability, confusion and silos, whichever there are.

        Raises:
            UsageError: matplotlib is missing, or nothing was asked for that could be drawn.
        """
        from privfed.learners.neural.evaluation.plots import drawn

        return drawn(self)


def evaluate(
    federation: Federation,
    model: torch.nn.Module | TorchProgram | Any,
    *,
    loss: LossLike = "cross_entropy",
    parameters: FloatArray | None = None,
    metrics: tuple[str, ...] | str | None = None,
    share: float | None = None,
    hold_out: HoldOut | float | None = None,
    largest_loss: float | None = None,
    n_bins: int = 10,
    silo_quantile: float = 0.1,
    silo_bins: int = 20,
    purpose: str = "evaluation",
    rounds: int = 1,
) -> Evaluation:
    """Evaluate a model on the rows of a federation.

    Args:
        federation: whose rows; the part that is held out of one that `HoldOut.training` made.
        model: a torch module, an installed program, or a fitted learner of this package, whose loss then counts.
        loss: see `TorchProgram`; of a module only.
        parameters: instead of the model's own, float64 of shape `(n_parameters,)`.
        metrics: some of "loss", "accuracy", "calibration", "confusion" and "silos" (the accuracy that all but the worst
            silos reach); None for the first three, or for the loss where the model gives numbers.
        share: part of the WHOLE budget that the evaluation may cost; needed under a budget, ignored without.
        hold_out: evaluate on the rows that this split holds out, which training must not have seen; None for all rows,
            or for those that the federation holds out already.
        largest_loss: to which each row's loss is cut: the noise grows with it. None for twice what a model that knows
            nothing has (at least 2), where the model gives classes, and for 1000 without a budget.
        n_bins: equal bins of confidence.
        silo_quantile: which part of the silos is the worst, in (0, 1).
        silo_bins: equal bins of accuracy.
        purpose: words for the ledger.
        rounds: evaluations like this that will follow, this one included.

    Guarantees:
        One release, two with "silos"; together they cost `share`. Every record's part is bounded, see `ModelScores`.
        Under unit "record" the silos' part costs as much noise as two records, so that it takes many silos.

    Raises:
        UsageError: an argument is wrong or does not fit the model; nothing was asked of anybody.
        BudgetExhausted, FederationError, DataError: see `Federation.release`.

    Examples:
        >>> import torch
        >>> from privfed import LocalFederation
        >>> federation = LocalFederation([(np.eye(2), [0, 1]), (np.eye(2), [0, 0])])
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2) * 9)
        >>> found = evaluate(federation, model)
        >>> float(found.accuracy), round(float(found.records))
        (0.75, 4)
    """
    asked = check_evaluation(
        federation,
        model,
        loss=loss,
        parameters=parameters,
        metrics=metrics,
        share=share,
        hold_out=hold_out,
        largest_loss=largest_loss,
        n_bins=n_bins,
        silo_quantile=silo_quantile,
        silo_bins=silo_bins,
    )
    silo_share = None if share is None else SILO_SHARE * share
    scores_share = share if asked.silos is None or share is None else share - SILO_SHARE * share
    scores = asked.part.release(asked.scores, share=scores_share, purpose=purpose, rounds=rounds)
    releases: tuple[Release, ...] = (scores,)
    silos = None
    if asked.silos is not None:
        release = asked.part.release(asked.silos, share=silo_share, purpose=f"{purpose}, silos", rounds=rounds)
        releases, silos = (scores, release), quantile_of(release, silo_quantile)
    return _found(scores, releases, silos, asked.scores.largest_loss)


def _found(
    scores: Release, releases: tuple[Release, ...], silos: SiloQuantile | None, largest_loss: float
) -> Evaluation:
    noise = scores.noise_std
    records = Measured(float(scores["records"]), noise["records"])
    confusion = scores.values.get("confusion")
    correct = _mean(scores, "correct", records) if "correct" in scores else None
    loss = _mean(scores, "loss", records) if "loss" in scores else None
    return Evaluation(
        records=records,
        largest_loss=largest_loss,
        clients=scores.divisor,
        loss=None if loss is None else _within(loss, largest_loss),
        accuracy=None if correct is None else _within(correct, 1.0),
        calibration=_calibration(scores, records) if "calibration" in scores else None,
        confusion=confusion,
        confusion_noise_std=noise.get("confusion", 0.0),
        silos=silos,
        epsilon=releases[-1].epsilon,
        releases=releases,
    )


def _mean(release: Release, block: str, records: Measured) -> Measured:
    """Return a block over the number of records, with the standard error of the quotient (delta method)."""
    if records.value <= max(DROWNED * records.standard_error, 0.5):
        return Measured(math.nan, math.inf)
    value = float(release[block]) / records.value
    return Measured(value, math.hypot(release.noise_std[block], value * records.standard_error) / records.value)


def _within(figure: Measured, most: float) -> Measured:
    """Return the figure, cut to what it can be."""
    return figure if math.isnan(figure.value) else Measured(min(max(figure.value, 0.0), most), figure.standard_error)


def _calibration(release: Release, records: Measured) -> Calibration:
    counts, confidence, correct = release["calibration"].T
    noise = release.noise_std["calibration"]
    usable = counts > max(DROWNED * noise, 0.5)
    safe = np.where(usable, counts, 1.0)
    accuracy = np.where(usable, correct / safe, np.nan)
    gap_noise = noise * math.sqrt(2.0)  # of a bin's sum of confidence less its sum of what was right
    gaps = np.abs(confidence - correct)
    # What noise alone gives on average is taken off each bin: E|N(0, s)| = s sqrt(2 / pi).
    total = float(np.maximum(gaps - gap_noise * math.sqrt(2.0 / math.pi), 0.0).sum())
    if records.value <= max(DROWNED * records.standard_error, 0.5):
        error = Measured(math.nan, math.inf)
    else:
        value = min(total / records.value, 1.0)
        spread = math.hypot(gap_noise * math.sqrt(len(counts)), value * records.standard_error)
        error = Measured(value, spread / records.value)
    return Calibration(
        records=counts,
        confidence=np.where(usable, np.clip(confidence / safe, 0.0, 1.0), np.nan),
        accuracy=np.clip(accuracy, 0.0, 1.0),
        accuracy_error=np.where(usable, np.hypot(noise, accuracy * noise) / safe, np.inf),
        error=error,
    )


def quantile_of(release: Release, quantile: float) -> SiloQuantile:
    """Return the accuracy below which `quantile` of the silos of a released `SiloAccuracies` lie."""
    counts, noise = release["silos"], release.noise_std["silos"]
    bins = len(counts)
    below = np.cumsum(counts)
    spread = 2.0 * noise * np.sqrt(np.arange(1.0, bins + 1.0))
    # Without noise silos without rows are known to be missing; with noise nobody knows how many they are.
    wanted = quantile * (float(below[-1]) if noise == 0.0 else release.divisor)

    def edge(reached: FloatArray) -> float:
        first = np.flatnonzero(reached >= max(wanted, ROUNDING) - ROUNDING)
        return float(first[0]) / bins if first.size else 1.0

    low, high = edge(below + spread), edge(below - spread)
    value = edge(below) if high - low <= WIDEST else math.nan
    return SiloQuantile(quantile, value, low, high, counts, noise)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, int) or math.isfinite(value) else None
