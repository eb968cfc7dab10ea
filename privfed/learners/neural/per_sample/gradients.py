"""The sum of clipped gradients per record: the query of DP-SGD, and how a client computes it."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from privfed.errors import UsageError, checked_number
from privfed.learners.neural.per_sample.engines import Functional, Outer, RowByRow, RowGradients, steady
from privfed.learners.neural.per_sample.public_rows import PublicRows, public_rows
from privfed.learners.neural.per_sample.record_graph import UntraceableError, record_graph, vmapped, with_model
from privfed.learners.neural.program import TorchProgram
from privfed.mechanism.sensitivity import chunked_sum
from privfed.query import Block, FloatArray, Query, frozen_array, require_moderate
from privfed.statistics.programs import installed

if TYPE_CHECKING:
    import torch

__all__ = ["GradientSum", "PerSample", "per_sample"]

TRIED: Final = 8  # public rows on which engines are compared
FIXED_BLOCK: Final = 64  # rows at a time through fixed layers
KEPT_AT_ONCE: Final = 1024  # rows whose outputs are put together at a time
AGREE: Final = 1e-3  # relative: engines that disagree by more do not compute the same gradients

# What a failing row raises: a class that does not exist, a word that is not in the vocabulary, a model's own check.
# Whatever it is, a sum that failed over one row and not over others would tell without any noise that it is there.
ROW_ERRORS: Final = (Exception,)


@dataclass(frozen=True, eq=False)
class GradientSum(Query):
    """The sum over records of each record's gradient, clipped: block `gradient`, shape `(n_parameters,)`.

    A record adds g min(1, clip / |g|), g the gradient of its own loss at `parameters` in evaluation mode. A record
    whose gradient is not finite, whose class does not exist, or on which the model fails, adds zero.

    Args:
        program: name of an installed `TorchProgram`.
        parameters: where the gradients are taken, float64 of shape `(n_parameters,)`; public.
        clip: L2 norm that no record's contribution exceeds, > 0.

    Guarantees:
        A record's contribution is the same bits wherever the record stands and whatever stands beside it: rows are
        evaluated in padded blocks of one shape in which this was seen to hold on public rows, one at a time if need be,
        and weighted and added in float64. That nothing but its last bits could hang on other records holds by
        construction, whatever the model or its loss tries: their Python never sees a record, see `PerSample`.

    Source:
        Abadi et al. 2016, Deep learning with differential privacy, arXiv:1607.00133, algorithm 1.
    """  # fmt: skip

    kind: ClassVar[str] = "gradient_sum"
    program: str
    parameters: FloatArray
    clip: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", frozen_array(self.parameters))
        object.__setattr__(self, "clip", checked_number("clip", self.clip))
        if self.parameters.ndim != 1 or self.parameters.size == 0 or not isinstance(self.program, str):
            raise UsageError(
                f"program is {self.program!r} and parameters have shape {self.parameters.shape}, expected a name and"
                " one axis"
            )
        require_moderate("parameters", self.parameters)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The summed gradient."""
        return (Block("gradient", (self.parameters.size,), self.clip),)

    @property
    def n_features(self) -> int:
        """Columns of the program's rows, targets included."""
        program = installed(self.program, of=TorchProgram)
        return program.n_features + program.n_targets

    def vet(self, data: FloatArray) -> None:
        """Refuse targets that are no classes of the model; see `Query.vet`."""
        installed(self.program, of=TorchProgram).check_rows(data)

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sum of the rows' clipped gradients."""
        return {"gradient": per_sample(self.program).clipped_sum(data, self.parameters, self.clip)}


class PerSample:
    """How one program's gradients per sample are computed here: fixed features, engine, block.

    The model's own Python runs on public rows only. On records there runs either a chain of listed layers, each known
    to treat a record by itself (`record_chain`), or what torch noted of the model, its loss and their gradient on one
    record of zeros (`record_graph`), which every record goes through on its own. A computation of which no such note
    can be made is refused. The public rows show that the note gives the model's own gradients.

    The leading layers of a `Sequential` that have weights but none to train are a fixed map: their outputs are computed
    once for an array of rows and kept, in the program's dtype, for as long as the array lives.

    Engines are tried in this order, and the first is taken that gives the right gradients on public random rows, the
    same bits at every place of a block:
    "outer" (chains of linear layers and activations), "functional" (torch.func), "row_by_row", each in its usual block,
    then in one of a single row. Fixed layers have a block of their own, by the same rule.

    Args:
        program: whose `load` is called before every sum.
        method: name of the engine to take, None to try all.
        keep_features: whether outputs of fixed layers are kept.

    Guarantees:
        No record has a say in what another adds, and none is kept: no Python of the model or its loss sees a record.

    Raises:
        UntraceableError: the model or its loss cannot be held to one record at a time.
        UsageError: no engine gives the model's gradients, or the same bits twice.
    """

    def __init__(self, program: TorchProgram, *, method: str | None = None, keep_features: bool = True) -> None:
        self._keep = keep_features
        self._kept: dict[int, tuple[weakref.ref[FloatArray], torch.Tensor]] = {}
        program.model.train(False)
        prefix, self._head = _split(program.model)
        self._prefix = None if prefix is None else _prefix_rows(program, prefix)
        self._fixed_block = 1
        self._engine = self._choose(program, method)

    @property
    def method(self) -> str:
        """The engine that was chosen."""
        return self._engine.name

    @property
    def block(self) -> int:
        """Rows that are evaluated at a time."""
        return self._engine.block

    @property
    def fixed_block(self) -> int:
        """Rows that fixed layers see at a time."""
        return self._fixed_block

    def clipped_sum(self, rows: FloatArray, parameters: FloatArray, clip: float) -> FloatArray:
        """Return the sum of the rows' clipped gradients, float64 of shape `(n_parameters,)`.

        Args:
            rows: float64 of shape `(rows, features and targets)`; there may be none.
            parameters: shape `(n_parameters,)`.
            clip: L2 norm.
        """
        program = self._engine.program
        program.load(parameters)
        program.model.train(False)
        kept = self._features(program, rows)

        def chunk(places: FloatArray) -> dict[str, FloatArray]:
            total = np.zeros(program.n_parameters)
            first, last = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
            for start in range(first, last, self.block):
                part = slice(start, min(start + self.block, last))
                inputs = self._inputs(program, rows[part]) if kept is None else kept[part]
                total += self._block_sum(inputs, rows[part], clip)
            return {"gradient": total}

        return chunked_sum(chunk, np.arange(float(len(rows))))["gradient"]

    def _block_sum(self, inputs: torch.Tensor, rows: FloatArray, clip: float) -> FloatArray:
        """Return the sum of one block, its rows one by one if they do not go together."""
        import torch

        targets, usable = _targets(self._engine.program, rows)
        block = self.block
        if len(inputs) < block:
            inputs, targets, usable = (_padded(part, block) for part in (inputs, targets, usable))
        try:
            return self._sum(inputs, targets, usable, clip)
        except ROW_ERRORS:
            total = np.zeros(self._engine.program.n_parameters)
            if block == 1:
                return total
            for place in range(len(rows)):
                alone = torch.zeros_like(usable)
                alone[place] = usable[place]
                try:
                    total += self._sum(_only(alone, inputs), _only(alone, targets), alone, clip)
                except ROW_ERRORS:
                    continue  # it counts as zero, like any row on which the model fails
            return total

    def _sum(self, inputs: torch.Tensor, targets: torch.Tensor, usable: torch.Tensor, clip: float) -> FloatArray:
        total: FloatArray = self._engine.total(self._engine.clipped(inputs, targets, usable, clip)).cpu().numpy()
        return total

    def _inputs(self, program: TorchProgram, rows: FloatArray) -> torch.Tensor:
        """Return what the trained part of the model takes, evaluated in padded blocks where layers are fixed.

        A row on which these fail has NaN in place of their outputs, and counts as zero.
        """
        import torch

        features = program.features(rows)
        if self._prefix is None:
            return features
        block = self._fixed_block
        return torch.cat([self._survived(features[start : start + block]) for start in range(0, len(features), block)])

    def _survived(self, features: torch.Tensor) -> torch.Tensor:
        """Return the outputs of fixed layers for at most a block of rows, NaN for rows on which these fail."""
        import torch

        try:
            return self._fixed(features)
        except ROW_ERRORS:
            if len(features) > 1:
                return torch.cat([self._survived(features[place : place + 1]) for place in range(len(features))])
            blank = self._fixed(torch.zeros_like(features))
            return torch.full_like(blank, math.nan if blank.is_floating_point() else 0)

    def _fixed(self, features: torch.Tensor) -> torch.Tensor:
        """Return the outputs of fixed layers for at most a block of rows."""
        import torch

        if self._prefix is None:
            return features
        with torch.no_grad():
            found: torch.Tensor = self._prefix(_padded(features, self._fixed_block))[: len(features)]
        return found

    def _features(self, program: TorchProgram, rows: FloatArray) -> torch.Tensor | None:
        """Return the outputs of fixed layers for all rows, of these very rows from before if there are any."""
        import torch

        if self._prefix is None or not self._keep or rows.flags.writeable or not len(rows):
            return None
        number = id(rows)
        known, features = self._kept.get(number, (None, None))
        if known is not None and known() is rows:
            return features
        parts = [
            self._inputs(program, rows[start : start + KEPT_AT_ONCE]) for start in range(0, len(rows), KEPT_AT_ONCE)
        ]
        features = torch.cat(parts)
        self._kept[number] = (weakref.ref(rows, lambda _: self._kept.pop(number, None)), features)
        return features

    def _choose(self, program: TorchProgram, method: str | None) -> RowGradients:
        """Return the first engine that is right and steady on public rows."""
        engines: list[type[RowGradients]] = [Outer, Functional, RowByRow]
        named = [engine for engine in engines if method in (None, engine.name)]
        if not named:
            raise UsageError(f"method is {method!r}, expected one of {', '.join(engine.name for engine in engines)}")
        import torch

        rows = public_rows(program, TRIED, wild=TRIED)
        targets, _ = _targets(program, rows)
        self._fixed_block = next((block for block in (FIXED_BLOCK, 1) if self._steady_fixed(program, rows, block)), 0)
        trouble: Exception | None = None
        ran = False
        if self._fixed_block:
            inputs = torch.cat([self._inputs(program, rows[place : place + 1]) for place in range(len(rows))])
            record = inputs[0] * 0, targets[0]
        for engine, block in itertools.product(named, (None, 1) if self._fixed_block else ()):
            try:
                tried = engine(program, self._head, record, block)
                tried.clipped(*_one_block(inputs[:1], targets[:1], tried.block), 1.0)
                right = _by_hand(program, rows[: min(TRIED, tried.block)])
                ran = True
                if _agree(tried, right, inputs, targets) and self._steady(tried, rows, inputs, targets):
                    return tried
            except UntraceableError:
                raise
            except ROW_ERRORS as error:  # an operation that cannot be batched, or rows that do not fit
                trouble = error
        public: PublicRows = program.derived(PublicRows)
        if not public.suits:
            raise UsageError(
                "the model's gradients cannot be computed on public rows, tried were numbers that are random, whole, or"
                f" positive, ones, and zeros: {public.trouble}. Let loss and gradients be finite on one of these"
            )
        if trouble is not None and not ran:
            raise UsageError(f"the model's gradients cannot be computed on public rows: {trouble}") from trouble
        raise UsageError(
            "the model gives other gradients each time it sees the same row, which cannot be protected: take random"
            " layers out, and use the CPU or torch.use_deterministic_algorithms(True)"
        )

    def _steady_fixed(self, program: TorchProgram, rows: FloatArray, block: int) -> bool:
        """Return whether fixed layers treat a row alike at every place of a block."""
        if self._prefix is None:
            return True
        self._fixed_block = block

        def outputs(which: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (self._fixed(program.features(rows[which.numpy()])),)

        try:
            return steady(outputs, block, TRIED, wild=len(rows) - TRIED)
        except ROW_ERRORS:  # not even one row gets through
            return False

    def _steady(self, engine: RowGradients, rows: FloatArray, inputs: torch.Tensor, targets: torch.Tensor) -> bool:
        """Return whether the engine, in its block, treats a row alike at every place."""
        import torch

        usable = torch.ones(engine.block, dtype=torch.bool, device=inputs.device)

        def clipped(which: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return engine.clipped(inputs[which], targets[which], usable, 1.0)

        return steady(clipped, engine.block, TRIED, wild=len(rows) - TRIED)


def per_sample(name: str) -> PerSample:
    """Return how gradients of the installed program of that name are computed, chosen at its first use.

    Raises:
        UsageError: no such program is installed here, or no engine is fit for it.
    """
    program = installed(name, of=TorchProgram)
    found: PerSample = program.derived(PerSample)
    return found


def _split(model: torch.nn.Module) -> tuple[torch.nn.Module | None, torch.nn.Module]:
    """Return the leading fixed layers of a `Sequential`, None if they hold nothing worth keeping, and the rest."""
    import torch

    if type(model) is not torch.nn.Sequential:
        return None, model
    layers = list(model)
    trained = [any(value.requires_grad for value in layer.parameters()) for layer in layers]
    first = trained.index(True)
    prefix = torch.nn.Sequential(*layers[:first]).train(False)
    if not [*prefix.parameters(), *prefix.buffers()]:
        return None, model
    return prefix, torch.nn.Sequential(*layers[first:]).train(False)


def _prefix_rows(program: TorchProgram, prefix: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the fixed layers over blocks of records, each record on its own."""
    record = program.features(np.zeros((1, program.n_features + program.n_targets)))[0]

    def make() -> Callable[[torch.Tensor], torch.Tensor]:
        outputs = with_model(prefix)
        return lambda features: outputs((), features)[0]

    return vmapped(record_graph(make, record), shared=0)


def _targets(program: TorchProgram, rows: FloatArray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return targets, and which rows have one that the loss knows."""
    import torch

    targets = program.targets(rows)
    known = torch.tensor(program.known_targets(rows), device=targets.device)
    return _only(known, targets), known


def _by_hand(program: TorchProgram, rows: FloatArray) -> torch.Tensor:
    """Return the sum of the rows' gradients, clipped to 1, by the model's own Python: for public rows only."""
    import torch

    program.load(program.parameters())  # buffers as they were, for a model that writes to them
    program.model.train(False)
    values = [value for _, value in program.trainable()]
    total = torch.zeros(program.n_parameters, dtype=torch.float64, device=program.device)
    for place in range(len(rows)):
        row = rows[place : place + 1]
        loss = program.per_sample_losses(program.forward(row), program.targets(row))[0]
        found = torch.autograd.grad(loss, values, allow_unused=True)
        parts = [torch.zeros_like(v) if g is None else g for v, g in zip(values, found, strict=True)]
        gradient = torch.cat([part.reshape(-1).double() for part in parts])
        total += gradient / max(1.0, float(torch.linalg.vector_norm(gradient)))
    return total


def _agree(tried: RowGradients, right: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Return whether an engine's sum over public rows is the model's own, but for rounding."""
    import torch

    count = min(TRIED, tried.block)
    found = tried.total(tried.clipped(*_one_block(inputs[:count], targets[:count], tried.block), 1.0))
    return bool(torch.linalg.vector_norm(found - right) <= AGREE * count)


def _one_block(
    inputs: torch.Tensor, targets: torch.Tensor, block: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs and targets padded to a block, and which of its rows count."""
    import torch

    usable = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
    return _padded(inputs, block), _padded(targets, block), _padded(usable, block)


def _padded(part: torch.Tensor, block: int) -> torch.Tensor:
    """Return the rows with rows of zeros behind them, `block` in all."""
    import torch

    if len(part) >= block:
        return part
    return torch.cat([part, torch.zeros((block - len(part), *part.shape[1:]), dtype=part.dtype, device=part.device)])


def _only(flags: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return the rows that are flagged, zeros in place of the others."""
    import torch

    return torch.where(flags.reshape(-1, *(1,) * (part.ndim - 1)), part, torch.zeros_like(part))
