"""Sums over the features that source models make of clients' rows: what transferability scores are computed from.

A source is a program that every client has installed (`privfed.statistics.programs`). Each row is given to it ALONE:
as long as the program keeps nothing from one row to the next, one record then moves nothing but its own contribution,
and that is the same bits wherever the row stands. Features are clipped to a public norm, label distributions to the
simplex.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, runtime_checkable

import numpy as np

from privfed.errors import DataError, UsageError, checked_integer, checked_number
from privfed.mechanism.clip import clip_rows
from privfed.mechanism.sensitivity import chunked_sum
from privfed.query import Block, FloatArray, Query, frozen_array, require_moderate
from privfed.statistics.moments import svec
from privfed.statistics.programs import installed

__all__ = ["PARTS", "ClassQuery", "ExpectedPredictor", "FeatureMap", "SourceSums", "evaluated"]

PARTS: Final = ("cross", "gram", "third", "fourth", "table")
FAILURES: Final = (Exception,)  # of a source on a row: whatever it raises, it must not tell that the row is there


@runtime_checkable
class FeatureMap(Protocol):
    """A source model as clients run it.

    Attributes:
        kind, description: of a `Program`; the description pins everything that the features depend on.
        width: number of features.
        n_labels: labels of the source task that the model tells apart; 0 if it has no head.
    """

    @property
    def kind(self) -> str:
        """The sort of program."""
        ...

    @property
    def description(self) -> str:
        """What makes two programs the same."""
        ...

    @property
    def width(self) -> int:
        """Number of features."""
        ...

    @property
    def n_labels(self) -> int:
        """Labels of the source task."""
        ...

    def features_of(self, row: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the features `(width,)` and the distribution over source labels `(n_labels,)` of one row's inputs.

        The same ones for the same row each time, whatever came before: else one record moves what others add.
        """
        ...


def evaluated(source: FeatureMap, inputs: FloatArray, bound: float) -> tuple[FloatArray, FloatArray]:
    """Return the clipped features `(rows, width)` and the label distributions `(rows, n_labels)` of every row.

    Each row is evaluated by itself. A row on which the source fails, or gives numbers that are not finite, has features
    and probabilities of zero: to fail on it would tell that it is there.

    Args:
        source: what clients have installed.
        inputs: the rows without their label, shape `(rows, columns)`.
        bound: L2 norm to which features are clipped.
    """
    features = np.zeros((len(inputs), source.width))
    shares = np.zeros((len(inputs), source.n_labels))
    for index, row in enumerate(inputs):
        try:
            with np.errstate(all="ignore"):
                made, labels = (np.asarray(part, dtype=np.float64) for part in source.features_of(row))
        except FAILURES:
            continue
        if made.shape != (source.width,) or labels.shape != (source.n_labels,):
            continue
        features[index], shares[index] = made, labels
    features[~(np.abs(features) <= 1e150).all(axis=1)] = 0.0
    shares = np.where(np.isfinite(shares), np.clip(shares, 0.0, 1e150), 0.0)
    total = shares.sum(axis=1, keepdims=True)
    shares = np.divide(shares, total, out=np.zeros_like(shares), where=total > 1e-150)
    return clip_rows(features, bound), clip_rows(shares, 1.0)


def _sums(f: FloatArray, q: FloatArray, y: FloatArray, parts: tuple[str, ...]) -> dict[str, FloatArray]:
    """Return the parts that are asked for, of features f, label distributions q and indicator rows y."""
    square = np.einsum("ij,ij->i", f, f)
    sums: dict[str, FloatArray] = {}
    if "cross" in parts:
        sums["cross"] = f.T @ y
    if "gram" in parts:
        sums["gram"] = svec(f.T @ f)
    if "third" in parts:
        sums["third"] = square @ f
    if "fourth" in parts:
        sums["fourth"] = np.asarray(square @ square)
    if "table" in parts and q.shape[1]:
        sums["table"] = y.T @ q
    return sums


def _one_hot(labels: FloatArray, n_classes: int) -> FloatArray:
    """Return one row per label, all zeros where it is no class."""
    return np.asarray(labels[:, None] == np.arange(n_classes), dtype=np.float64)


class ClassQuery(Query):
    """Base of queries about rows of `n_inputs` inputs and, behind them, a class: a whole number below `n_classes`."""

    n_inputs: int
    n_classes: int

    @property
    def n_features(self) -> int:
        """Inputs, and the class."""
        return self.n_inputs + 1

    def vet(self, data: FloatArray) -> None:
        """Refuse rows whose class is none; see `Query.vet`."""
        labels = data[:, -1]
        if not ((labels >= 0) & (labels < self.n_classes) & (labels == np.floor(labels))).all():
            raise DataError(
                "the last column holds numbers that are no classes: expected whole numbers from 0 to"
                f" {self.n_classes - 1}; raise n_classes, or number the classes from 0"
            )


@dataclass(frozen=True, eq=False)
class SourceSums(ClassQuery):
    """Second moments of several sources' features with each other and with the labels, in one vector.

    A row holds `n_inputs` inputs and its class, a whole number below `n_classes`, behind them; a row of another class
    counts nowhere. Blocks: `counts` `(n_classes,)`, and for source number k, f its clipped features, y the class as an
    indicator vector, q the distribution over source labels:

    - `cross_k` `(width, n_classes)`: sum of f y', bound B;
    - `gram_k`: sum of svec(f f'), bound B^2;
    - `third_k` `(width,)`: sum of |f|^2 f, bound B^3; `fourth_k`: sum of |f|^4, bound B^4;
    - `table_k` `(n_classes, n_labels)`: sum of y q', bound 1; left out for sources without a head.

    Args:
        programs: names of the installed sources.
        widths, labels: their numbers of features and of source labels.
        bounds: L2 norms to which their features are clipped, > 0.
        n_inputs: input columns of a row.
        n_classes: classes of the target task, >= 2.
        parts: which of the sums, some of `PARTS`, in that order.

    Guarantees:
        All bounds are attained at once by a row with features of norm B and a certain source label, so that the joint
        sensitivity of 1 is exact: several sources in one release cost what their shares of it cost, no more.
        Shares go as the square root of each block's size.
    """

    kind: ClassVar[str] = "source_sums"
    programs: tuple[str, ...]
    widths: tuple[int, ...]
    labels: tuple[int, ...]
    bounds: tuple[float, ...]
    n_inputs: int
    n_classes: int
    parts: tuple[str, ...] = ("cross", "gram")

    def __post_init__(self) -> None:
        _check_sources(self)
        lengths = {len(self.programs), len(self.widths), len(self.labels), len(self.bounds)}
        if lengths != {len(self.programs)} or not self.programs:
            raise UsageError(f"a query about {len(self.programs)} sources needs one width, label count and bound each")
        if not self.parts or list(self.parts) != [part for part in PARTS if part in self.parts]:
            raise UsageError(f"parts are {self.parts!r}, expected some of {PARTS}, in this order")
        object.__setattr__(self, "widths", tuple(checked_integer("a width", width, least=1) for width in self.widths))
        object.__setattr__(self, "labels", tuple(checked_integer("labels", count, least=0) for count in self.labels))
        object.__setattr__(self, "bounds", tuple(checked_number("a feature bound", bound) for bound in self.bounds))
        require_moderate("feature bounds", np.asarray(self.bounds) ** 4)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The counts, and the parts of each source in turn."""
        blocks = [Block("counts", (self.n_classes,), 1.0, math.sqrt(self.n_classes))]
        for k, (width, labels, bound) in enumerate(zip(self.widths, self.labels, self.bounds, strict=True)):
            known: dict[str, tuple[tuple[int, ...], float]] = {
                "cross": ((width, self.n_classes), bound),
                "gram": ((width * (width + 1) // 2,), bound**2),
                "third": ((width,), bound**3),
                "fourth": ((), bound**4),
                "table": ((self.n_classes, labels), 1.0),
            }
            for part in self.parts:
                shape, limit = known[part]
                if math.prod(shape):
                    blocks.append(Block(f"{part}_{k}", shape, limit, math.sqrt(math.prod(shape))))
        return tuple(blocks)

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sums."""
        sources = list(_sources(self))

        def chunk(rows: FloatArray) -> dict[str, FloatArray]:
            y = _one_hot(rows[:, -1], self.n_classes)
            known = y.any(axis=1)
            inputs, y = rows[known, :-1], y[known]
            sums = {"counts": y.sum(axis=0)}
            for k, source in enumerate(sources):
                f, q = evaluated(source, inputs, self.bounds[k])
                sums.update({f"{part}_{k}": value for part, value in _sums(f, q, y, self.parts).items()})
            return sums

        return chunked_sum(chunk, data)


@dataclass(frozen=True, eq=False)
class ExpectedPredictor(ClassQuery):
    """How likely the labels are under predictors made of sources' label distributions: block `likelihood` `(sources,)`.

    Source k predicts class c of a row with probability `sum_z predictors_k[c, z] q(z)`. A row adds the logarithm of
    its own class's probability, cut to [-L, 0], plus L/2; L = -log(least). Shifting halves the bound.

    Args:
        programs: names of the installed sources.
        labels: their numbers of source labels, >= 1.
        predictors: P(class | source label) of each, `(n_classes, labels)`, raveled one behind the other, float64.
        n_inputs, n_classes: as for `SourceSums`.
        least: probability below which predictions count as this one, in (0, 1).

    Guarantees:
        A record moves each coordinate by at most L/2, all of them at once by at most L/2 sqrt(sources): attained.
    """

    kind: ClassVar[str] = "expected_predictor"
    programs: tuple[str, ...]
    labels: tuple[int, ...]
    predictors: FloatArray
    n_inputs: int
    n_classes: int
    least: float

    def __post_init__(self) -> None:
        _check_sources(self)
        labels = tuple(checked_integer("labels", count, least=1) for count in self.labels)
        predictors = frozen_array(self.predictors)
        if len(labels) != len(self.programs) or predictors.shape != (self.n_classes * sum(labels),):
            raise UsageError(
                f"{len(self.programs)} sources with {labels} labels and {self.n_classes} classes do not go with"
                f" predictors of shape {predictors.shape}"
            )
        if not ((predictors >= 0) & (predictors <= 1)).all():
            raise UsageError("predictors hold numbers that are no probabilities")
        if not 1e-300 <= self.least < 1.0:
            raise UsageError(f"least is {self.least!r}, expected a probability in [1e-300, 1)")
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "predictors", predictors)

    @property
    def range(self) -> float:
        """L, in nats."""
        return -math.log(self.least)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """One number per source."""
        return (Block("likelihood", (len(self.programs),), self.range / 2 * math.sqrt(len(self.programs))),)

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sums of the shifted logarithms."""
        sources = list(_sources(self))
        ends = np.cumsum([self.n_classes * count for count in self.labels])[:-1]
        tables = [part.reshape(self.n_classes, -1) for part in np.split(self.predictors, ends)]

        def chunk(rows: FloatArray) -> dict[str, FloatArray]:
            y = _one_hot(rows[:, -1], self.n_classes)
            known = y.any(axis=1)
            inputs, classes = rows[known, :-1], y[known].argmax(axis=1)
            sums = []
            for source, table in zip(sources, tables, strict=True):
                _, q = evaluated(source, inputs, 1.0)
                likely = np.einsum("ij,ij->i", q, table[classes])
                sums.append(float((np.log(np.clip(likely, self.least, 1.0)) + self.range / 2).sum()))
            return {"likelihood": np.array(sums)}

        return chunked_sum(chunk, data)


def _check_sources(query: SourceSums | ExpectedPredictor) -> None:
    if not query.programs or not all(isinstance(name, str) for name in query.programs):
        raise UsageError(f"programs are {query.programs!r}, expected names of installed sources")
    object.__setattr__(query, "n_inputs", checked_integer("n_inputs", query.n_inputs, least=1))
    object.__setattr__(query, "n_classes", checked_integer("n_classes", query.n_classes, least=2))


def _sources(query: SourceSums | ExpectedPredictor) -> Iterator[FeatureMap]:
    """Yield the sources of a query.

    Raises:
        UsageError: one is not installed here, or has other sizes than the query says; no row has a part in it.
    """
    widths = query.widths if isinstance(query, SourceSums) else (None,) * len(query.programs)
    for name, width, labels in zip(query.programs, widths, query.labels, strict=True):
        source: FeatureMap = installed(name, FeatureMap)  # type: ignore[type-abstract]  # checked by its members
        if (width is not None and source.width != width) or source.n_labels != labels:
            raise UsageError(
                f"source {name!r} has {source.width} features and {source.n_labels} labels here, the query says"
                f" {width} and {labels}"
            )
        yield source
