"""What a model does on each row, and the sums of it that a federation may release."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, checked_integer, checked_number
from privfed.learners.neural.per_sample.engines import steady
from privfed.learners.neural.per_sample.gradients import ROW_ERRORS
from privfed.learners.neural.per_sample.public_rows import PublicRows, public_rows
from privfed.learners.neural.per_sample.record_graph import record_graph, vmapped, with_model
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.usable import usable_rows
from privfed.mechanism.sensitivity import chunked_sum
from privfed.query import Block, ClientQuery, FloatArray, Query, frozen_array, require_moderate
from privfed.statistics.programs import installed

if TYPE_CHECKING:
    import torch

__all__ = ["ModelScores", "RowScores", "SiloAccuracies", "Task", "check_scores", "row_scores", "task_of"]

Task = Literal["classes", "labels", "numbers"]
BLOCK: Final = 128  # rows at a time: every evaluation has this shape
TRIED: Final = 8  # public rows on which a block is tried
SUMS: Final = ("loss", "correct", "calibration", "confusion")


@dataclass(frozen=True)
class RowScores:
    """What a model does on each row; every number is finite and within its range, whatever the row holds.

    Attributes:
        loss: shape `(rows,)`, in [0, largest_loss]; the largest where the model fails or its loss is not finite.
        correct: part of the row's targets that the model gets right, in [0, 1].
        confidence: mean probability of what the model says, in [0, 1].
        found, known: number of the class that the model says, and of the true one, int64 of shape `(rows, places)`; -1
            where the model fails.
    """

    loss: FloatArray
    correct: FloatArray
    confidence: FloatArray
    found: npt.NDArray[np.int64]
    known: npt.NDArray[np.int64]


def task_of(program: TorchProgram) -> Task:
    """Return what the model gives: scores of classes ("classes"), logits of yes or no ("labels"), or numbers."""
    import torch

    if program.n_classes is not None:
        return "classes"
    return "labels" if isinstance(program.loss.function, torch.nn.BCEWithLogitsLoss) else "numbers"


def row_scores(program: TorchProgram, parameters: FloatArray, rows: FloatArray, *, largest_loss: float) -> RowScores:
    """Return what the model does on each row, in evaluation mode.

    Args:
        program: left with these parameters.
        parameters: float64 of shape `(n_parameters,)`.
        rows: float64 of shape `(rows, n_features + n_targets)`; there may be none.
        largest_loss: to which losses are cut, > 0.

    Guarantees:
        A row's scores hang on that row alone, whatever the model or its loss tries: their Python never sees a row, see
        `record_graph`. They are the same bits wherever the row stands: rows are evaluated in padded blocks of one shape
        in which this was seen to hold on public rows, one at a time if need be.

    Raises:
        UntraceableError: the model or its loss cannot be held to one record at a time.
    """
    scorer: _Scorer = program.derived(_Scorer)
    program.load(parameters)
    block, places = scorer.block, _places(program)
    empty = np.empty((3 + 2 * places, 0))
    parts = [_block_scores(scorer, rows[start : start + block]) for start in range(0, len(rows), block)]
    scores = np.concatenate([empty, *parts], axis=1)
    loss = np.where(np.isnan(scores[0]), largest_loss, np.clip(scores[0], 0.0, largest_loss))
    classes = scores[3:].T.astype(np.int64)
    return RowScores(loss, scores[1], scores[2], classes[:, :places], classes[:, places:])


def check_scores(program: TorchProgram) -> None:
    """Refuse a model that cannot be evaluated, by rows that belong to nobody.

    Raises:
        UntraceableError: the model or its loss cannot be held to one record at a time.
        UsageError: the same row does not come out to the same bits twice.
    """
    program.derived(_Scorer)


def _n_classes(program: TorchProgram) -> int:
    return 2 if program.n_classes is None else program.n_classes


def _places(program: TorchProgram) -> int:
    """Return how many classes or labels a row has."""
    task = task_of(program)
    return 0 if task == "numbers" else math.prod(program.output_shape[task == "classes" :])


def _block_scores(scorer: _Scorer, rows: FloatArray) -> FloatArray:
    """Return scores of up to a block of rows, shape `(3 + 2 places, rows)`; rows that fail are scored one by one."""
    try:
        return scorer.scores(rows)
    except ROW_ERRORS:
        if len(rows) > 1:
            return np.concatenate([_block_scores(scorer, rows[i : i + 1]) for i in range(len(rows))], axis=1)
        return np.array([[math.inf], [0.0], [0.0], *[[-1.0]] * (2 * _places(scorer.program))])


class _Scorer:
    """What a program does on one record, and on how many at a time.

    Where there are no public rows on which the model has a finite loss, which then tell nothing of how a block is
    computed, records go one at a time.

    Raises:
        UntraceableError: see `record_graph`.
        UsageError: the same row does not come out to the same bits twice, or the loss gives no number per row.
    """

    def __init__(self, program: TorchProgram) -> None:
        self.program = program
        record = public_rows(program, 1)
        values, row, target = self._values(), program.features(record * 0)[0], program.targets(record)[0]
        graph = record_graph(lambda: _of_record(program), values, row, target)
        self._block_graph = vmapped(graph, shared=1)
        self.block = 0
        public: PublicRows = program.derived(PublicRows)
        rows, trouble = public.make(TRIED, wild=TRIED), ""
        for block in (BLOCK, 1) if public.finite else (1,):
            self.block, trouble = block, ""
            try:
                if steady(lambda which: (self._scores(rows[which.numpy()]),), block, TRIED, wild=TRIED):
                    return
            except ROW_ERRORS as error:
                trouble = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
        if trouble:
            raise UsageError(
                "the model and its loss run on no public rows, tried were numbers that are random, whole, or positive,"
                f" ones, and zeros: {public.trouble or trouble}. Let them run on one of these"
            )
        raise UsageError(
            "the model gives other outputs each time it sees the same row, which cannot be bounded: use the CPU or"
            " torch.use_deterministic_algorithms(True)"
        )

    def scores(self, rows: FloatArray) -> FloatArray:
        """Return scores of up to a block of rows by the program's present parameters, `(3 + 2 places, rows)`."""
        padded = np.zeros((self.block, rows.shape[1]))
        padded[: len(rows)] = rows
        found: FloatArray = self._scores(padded)[: len(rows)].T.cpu().numpy()
        return found

    def _scores(self, rows: FloatArray) -> torch.Tensor:
        import torch

        values, features, targets = self._values(), self.program.features(rows), self.program.targets(rows)
        with torch.no_grad():
            found: torch.Tensor = self._block_graph(values, features, targets)
        return found

    def _values(self) -> tuple[torch.Tensor, ...]:
        return tuple(value.detach() for _, value in self.program.trainable())


def _of_record(program: TorchProgram) -> Callable[..., torch.Tensor]:
    """Return (parameters, record, target) -> loss, correct, confidence, classes found and known, float64."""
    import torch

    model, loss, task = with_model(program.model), copy.deepcopy(program.loss), task_of(program)

    def scores(parameters: tuple[torch.Tensor, ...], row: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        outputs, targets = model(parameters, row), target[None]
        losses = loss(outputs, targets).double()
        if task == "numbers":
            return torch.cat([losses, torch.zeros_like(losses), torch.zeros_like(losses)])
        values = outputs.double()
        if task == "classes":
            probability, found = torch.softmax(values, dim=1).max(dim=1)
            known = targets
        else:
            positive = torch.sigmoid(values)
            probability, found = torch.maximum(positive, 1.0 - positive), (values > 0).long()
            known = (targets > 0.5).long()
        found, known, probability = (part.reshape(-1) for part in (found, known, probability))
        failed = ~torch.isfinite(probability)
        found, probability = found.masked_fill(failed, -1), probability.masked_fill(failed, 0.0).clamp(0.0, 1.0)
        means = torch.stack([losses[0], (found == known).double().mean(), probability.mean()])
        return torch.cat([means, found.double(), known.clamp(min=-1).double()])

    return scores


@dataclass(frozen=True, eq=False)
class ModelScores(Query):
    """The sums over records of how a model does: block `records`, and those of `sums`.

    `loss`: clipped losses. `correct`: rows that were right (of several targets, the part that was). `calibration`:
    shape `(bins, 3)`, per bin of the model's confidence its rows, the sum of their confidence, and of `correct`.
    `confusion`: shape `(classes, classes)`, the true class first.

    Args:
        program: name of an installed `TorchProgram`.
        parameters: float64 of shape `(n_parameters,)`; public.
        sums: which of the four.
        largest_loss: to which a record's loss is cut, > 0.
        n_bins: equal bins of confidence, >= 1.

    Guarantees:
        A record adds at most 1 to `records` and to `correct`, at most `largest_loss` to `loss`, to one bin of
        `calibration` a vector of norm at most sqrt 3, and to `confusion` weights that add up to 1.
        A record's contribution is the same bits wherever it stands, see `row_scores`.
    """

    kind: ClassVar[str] = "model_scores"
    program: str
    parameters: FloatArray
    sums: tuple[str, ...] = ("loss", "correct", "calibration")
    largest_loss: float = 10.0
    n_bins: int = 10

    def __post_init__(self) -> None:
        _check_model_fields(self)
        if not isinstance(self.sums, tuple) or len(set(self.sums)) < len(self.sums) or set(self.sums) - set(SUMS):
            raise UsageError(f"sums is {self.sums!r}, expected some of {', '.join(SUMS)}, each once")
        object.__setattr__(self, "largest_loss", checked_number("largest_loss", self.largest_loss))
        checked_integer("n_bins", self.n_bins, least=1, most=10_000)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Records, and what was asked for, at equal shares."""
        found = [Block("records", (), 1.0)]
        for name in self.sums:
            if name == "loss":
                found.append(Block("loss", (), self.largest_loss))
            elif name == "correct":
                found.append(Block("correct", (), 1.0))
            elif name == "calibration":
                found.append(Block("calibration", (self.n_bins, 3), math.sqrt(3.0)))
            else:
                classes = _n_classes(installed(self.program, of=TorchProgram))
                found.append(Block("confusion", (classes, classes), 1.0))
        return tuple(found)

    @property
    def n_features(self) -> int:
        """Columns of the program's rows, targets included."""
        return _width(self.program)

    def vet(self, data: FloatArray) -> None:
        """Refuse targets that are no classes of the model; see `Query.vet`."""
        installed(self.program, of=TorchProgram).check_rows(data)

    def contribution(self, data: FloatArray) -> Mapping[str, npt.ArrayLike]:
        """Return the sums over the rows whose targets are classes of the model."""
        program = installed(self.program, of=TorchProgram)

        def chunk(rows: FloatArray) -> dict[str, npt.ArrayLike]:
            rows = usable_rows(program, rows)
            scores = row_scores(program, self.parameters, rows, largest_loss=self.largest_loss)
            sums = {name: self._sum(name, scores, _n_classes(program)) for name in self.sums}
            return {"records": float(len(rows)), **sums}

        return chunked_sum(chunk, data)

    def _sum(self, name: str, scores: RowScores, classes: int) -> npt.ArrayLike:
        if name == "calibration":
            bins = np.minimum((scores.confidence * self.n_bins).astype(np.int64), self.n_bins - 1)
            weights = (np.ones(len(bins)), scores.confidence, scores.correct)
            return np.stack([np.bincount(bins, weight, minlength=self.n_bins) for weight in weights], axis=1)
        if name == "confusion":
            usable = (scores.known >= 0) & (scores.found >= 0)
            pairs = (scores.known * classes + scores.found)[usable]
            counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
            return np.asarray(counts / max(scores.found.shape[1], 1))
        return float((scores.loss if name == "loss" else scores.correct).sum())


@dataclass(frozen=True, eq=False)
class SiloAccuracies(ClientQuery):
    """How many clients have which accuracy on their own rows: block `silos` of shape `(n_bins,)`.

    A client without rows adds nothing. Nobody learns which client is where.

    Args:
        program, parameters: see `ModelScores`.
        n_bins: equal bins of accuracy from 0 to 1, >= 2; an accuracy of 1 falls into the last.

    Guarantees:
        A client adds 1 to one bin: sensitivity 1 under unit "client". One record may move its client from one bin to
        another, which is sqrt 2; under unit "record" 2 is charged, as for any query of whole clients.
    """

    kind: ClassVar[str] = "silo_accuracies"
    program: str
    parameters: FloatArray
    n_bins: int = 20

    def __post_init__(self) -> None:
        _check_model_fields(self)
        checked_integer("n_bins", self.n_bins, least=2, most=10_000)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The counts."""
        return (Block("silos", (self.n_bins,), 1.0),)

    @property
    def n_features(self) -> int:
        """Columns of the program's rows, targets included."""
        return _width(self.program)

    def vet(self, data: FloatArray) -> None:
        """Refuse targets that are no classes of the model; see `Query.vet`."""
        installed(self.program, of=TorchProgram).check_rows(data)

    @property
    def remembers(self) -> bool:
        """No: what a client adds hangs on its rows and the query alone."""
        return False

    def client_contribution(
        self, data: FloatArray, memory: MutableMapping[str, npt.NDArray[Any]]
    ) -> Mapping[str, npt.ArrayLike]:
        """Return a one in the bin of this client's accuracy."""
        program = installed(self.program, of=TorchProgram)
        counts = np.zeros(self.n_bins)
        correct, records = 0.0, 0
        for rows in _chunks(usable_rows(program, data)):
            scores = row_scores(program, self.parameters, rows, largest_loss=1.0)
            correct, records = correct + float(scores.correct.sum()), records + len(rows)
        if records:
            counts[min(int(correct / records * self.n_bins), self.n_bins - 1)] = 1.0
        return {"silos": counts}


def _chunks(rows: FloatArray, size: int = 4096) -> Iterator[FloatArray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _check_model_fields(query: ModelScores | SiloAccuracies) -> None:
    if not isinstance(query.program, str) or np.ndim(query.parameters) != 1 or not np.size(query.parameters):
        raise UsageError(
            f"program is {query.program!r} and parameters have shape {np.shape(query.parameters)}, expected a name and"
            " one axis"
        )
    object.__setattr__(query, "parameters", frozen_array(query.parameters))
    require_moderate("parameters", query.parameters)


def _width(name: str) -> int:
    program = installed(name, of=TorchProgram)
    return program.n_features + program.n_targets
