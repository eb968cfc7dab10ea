"""Source models that could be transferred: a name, a model, and where to cut its features."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from privfed.errors import UsageError, checked_number
from privfed.learners.neural.losses import check_plain, require_torch
from privfed.learners.neural.per_sample.record_graph import UntraceableError, record_graph
from privfed.query import FloatArray
from privfed.statistics.features import FeatureMap

if TYPE_CHECKING:
    import torch

__all__ = ["Candidate", "source_of"]

ArrayFunction: TypeAlias = Callable[[FloatArray], Any]
FAILURES: Final = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)  # of a model that gets a row
PUBLIC: Final = (-1.0, 1e-3, 30.0, -1e6)  # of the rows between two looks at the same ones


@dataclass(frozen=True, eq=False)
class Candidate:
    """A source model that may be chosen.

    Args:
        name: how it is called in tables; distinct among candidates.
        model: a torch module, of which clients run torch's own note of what a copy in evaluation mode computes on one
            record: it can keep nothing from row to row. Or a function of an array of inputs `(1, *feature_shape)` that
            returns features `(1, width)`; that it keeps nothing is its author's promise, tried on public rows alone. No
            torch is needed for functions.
        features: torch: name of the module whose output are the features ("encoder.3"), or a function of
            (model, inputs) that returns them; None for the model's own output. Functions: leave it out.
        source_head: whether the model's output are scores per source label, for LEEP. With a function as `model`, a
            second function that returns probabilities of source labels `(1, labels)`.
        feature_bound: public L2 norm to which this candidate's features are clipped, > 0, in their own units; "unit"
            scales every row's features to norm 1 instead; None for what `rank_sources` is told.
        version: text that tells functions of one name apart; torch modules are told apart by their weights.
    """

    name: str
    model: torch.nn.Module | ArrayFunction
    features: str | Callable[..., Any] | None = None
    source_head: bool | ArrayFunction = False
    feature_bound: float | str | None = None
    version: str = ""

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise UsageError(f"a candidate's name is {self.name!r}, expected text")
        if not callable(self.model):
            raise UsageError(
                f"candidate {self.name!r} is a {type(self.model).__name__}, expected a model or a function"
            )
        if isinstance(self.feature_bound, str):
            if self.feature_bound != "unit":
                raise UsageError(f"feature_bound is {self.feature_bound!r}, expected a number above 0 or 'unit'")
        elif self.feature_bound is not None:
            checked_number("feature_bound", self.feature_bound)


class _Source:
    """A candidate as clients run it: one row at a time."""

    kind = "source_model"

    def __init__(self, evaluate: Callable[[FloatArray], tuple[FloatArray, FloatArray]], described: str, unit: bool):
        self._evaluate = evaluate
        self._unit = unit
        self.description = f"{described}\nunit features {unit}"
        self.width, self.n_labels = 0, 0

    def features_of(self, row: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return features and label distribution of one row's inputs."""
        features, labels = self._evaluate(row)
        if self._unit:
            size = float(np.linalg.norm(features))
            features = features / size if size > 0 else features
        return features, labels

    def probe(self, name: str, columns: int) -> None:
        """Find the sizes on a row of zeros and one of ones, and see on public rows that none moves another's features.

        Raises:
            UsageError: the candidate cannot be evaluated, or not with fixed sizes, or not twice alike.
        """
        sizes, seen = set(), []
        for value in (0.0, 1.0, *PUBLIC, 0.0, 1.0):
            try:
                features, labels = self.features_of(np.full(columns, value))
            except FAILURES as error:
                if value not in (0.0, 1.0):
                    continue  # such a row adds nothing, which is no fault
                raise UsageError(f"candidate {name!r} does not take a row of {columns} inputs: {error}") from error
            if value in (0.0, 1.0):
                sizes.add((features.shape, labels.shape))
                seen.append(features.tobytes() + labels.tobytes())
        if seen[:2] != seen[2:]:
            raise UsageError(
                f"candidate {name!r} gives other features each time it sees the same row, so that one record could move"
                " another's: take out what it keeps from row to row, and random layers"
            )
        if len(sizes) != 1 or any(len(shape) != 1 for shape in next(iter(sizes))):
            raise UsageError(f"candidate {name!r} gives {sorted(sizes)} for one row, expected vectors of fixed sizes")
        ((self.width,), (self.n_labels,)) = next(iter(sizes))
        if self.width < 1:
            raise UsageError(f"candidate {name!r} has no features")


def source_of(candidate: Candidate, feature_shape: tuple[int, ...], *, unit: bool) -> FeatureMap:
    """Return the program that clients install for `candidate`.

    Args:
        candidate: the source model.
        feature_shape: of one row's inputs.
        unit: whether features are scaled to norm 1.

    Raises:
        UsageError: torch is missing for a torch module, a layer is not there, or a row cannot be evaluated.
    """
    if hasattr(candidate.model, "named_modules"):
        evaluate, described = _torch_source(candidate, feature_shape)
    else:
        evaluate, described = _function_source(candidate, feature_shape)
    source = _Source(evaluate, f"{described}\ninputs {list(feature_shape)}", unit)
    source.probe(candidate.name, math.prod(feature_shape))
    return source


def _function_source(
    candidate: Candidate, shape: tuple[int, ...]
) -> tuple[Callable[[FloatArray], tuple[FloatArray, FloatArray]], str]:
    function: Any = candidate.model
    if candidate.features is not None:
        raise UsageError(f"candidate {candidate.name!r} is a function: it returns the features, leave features= out")
    head: Any = candidate.source_head
    if head is True:
        raise UsageError(
            f"candidate {candidate.name!r} is a function: give its source labels' probabilities as a second function,"
            " source_head=..."
        )

    def evaluate(row: FloatArray) -> tuple[FloatArray, FloatArray]:
        inputs = row.reshape(1, *shape)
        labels = np.asarray(head(inputs), dtype=np.float64).ravel() if head else np.zeros(0)
        features = np.asarray(function(inputs), dtype=np.float64)
        if features.ndim > 1 and len(features) != 1:
            raise ValueError(f"the function returns shape {features.shape} for one row, expected one row of features")
        return features.ravel(), labels

    return evaluate, f"function {candidate.name!r} version {candidate.version!r}"


def _torch_source(
    candidate: Candidate, shape: tuple[int, ...]
) -> tuple[Callable[[FloatArray], tuple[FloatArray, FloatArray]], str]:
    require_torch()
    import torch

    model: Any = copy.deepcopy(candidate.model)
    model.train(False)
    first = next((value for value in model.parameters() if value.is_floating_point()), torch.zeros(()))
    if isinstance(candidate.features, str) and candidate.features not in dict(model.named_modules()):
        found = ", ".join(sorted(filter(None, dict(model.named_modules()))))
        raise UsageError(f"candidate {candidate.name!r} has no layer {candidate.features!r}, it has {found}")
    check_plain(model, f"candidate {candidate.name!r}")
    example = torch.zeros(shape, dtype=first.dtype, device=first.device)
    try:
        with torch.inference_mode():
            _of_one_record(copy.deepcopy(model), candidate)(example)
    except FAILURES as error:
        raise UsageError(
            f"candidate {candidate.name!r} does not take a row of {example.numel()} inputs: {error}"
        ) from error
    try:
        graph = record_graph(lambda: _of_one_record(copy.deepcopy(model), candidate), example)
    except UntraceableError as error:
        raise UsageError(f"candidate {candidate.name!r}: {error}") from error

    def evaluate(row: FloatArray) -> tuple[FloatArray, FloatArray]:
        with torch.inference_mode():
            features, labels = graph(torch.tensor(row.reshape(shape), dtype=first.dtype, device=first.device))
        return features.cpu().numpy(), labels.cpu().numpy()

    return evaluate, _described(model, candidate)


def _of_one_record(model: Any, candidate: Candidate) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return (one record without its axis) -> its features and label distribution, float64 vectors."""
    import torch

    caught: dict[str, torch.Tensor] = {}
    for value in model.parameters():
        value.requires_grad_(False)
    if isinstance(candidate.features, str):
        layer = dict(model.named_modules())[candidate.features]
        layer.register_forward_hook(lambda _module, _inputs, output: caught.update(features=output))

    def computed(record: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = record[None]
        output = model(inputs) if candidate.source_head or not callable(candidate.features) else None
        if callable(candidate.features):
            features = candidate.features(model, inputs)
        else:
            features = caught["features"] if isinstance(candidate.features, str) else output
        labels = inputs.new_zeros((0,), dtype=torch.float64)
        if candidate.source_head and output is not None:
            labels = torch.softmax(output.double().reshape(-1), dim=0)
        return features.double().reshape(-1), labels

    return computed


def _described(model: torch.nn.Module, candidate: Candidate) -> str:
    """Return a text that pins the model's structure and weights, and the cut."""
    modules = [f"{name}:{type(part).__qualname__}({part.extra_repr()})" for name, part in model.named_modules()]
    weights = hashlib.sha256()
    state: Mapping[str, torch.Tensor] = model.state_dict()
    for name in sorted(state):
        value = state[name].detach().cpu()
        numbers = value.double().numpy() if value.is_floating_point() else value.numpy()
        weights.update(f"{name}{list(value.shape)}".encode() + np.ascontiguousarray(numbers).tobytes())
    cut = candidate.features if isinstance(candidate.features, str) else getattr(candidate.features, "__qualname__", "")
    return "\n".join(
        [
            *modules,
            f"weights {weights.hexdigest()}",
            f"cut {cut!r} head {bool(candidate.source_head)}",
            candidate.version,
        ]
    )
