"""One round of training as a query: every client adds its model's change, weighted, clipped, with its own figures.

The change, the number of rows that weighs it, the number of steps, the flag for adaptive clipping and the control
variate are coordinates of one protected vector. Nobody learns any of them of a single client.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, checked_integer, checked_number
from privfed.federation.release import Release
from privfed.learners.neural.averaging.compression import Compression, Compressor
from privfed.learners.neural.averaging.limbs import Limbs, LongSum
from privfed.learners.neural.averaging.local import SEED_LIMIT, LocalTraining, effective_steps, proximal_term, train
from privfed.learners.neural.averaging.objective import Anchor
from privfed.learners.neural.averaging.parameter_names import matches
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.usable import usable_rows
from privfed.mechanism.clip import clip_l2
from privfed.query import LARGEST_VALUE, Block, ClientQuery, FloatArray, frozen_array
from privfed.statistics.programs import installed

__all__ = ["LARGEST_NORM", "LARGEST_ROWS", "NOTHING", "ModelUpdate", "UpdateSums"]

Memory = MutableMapping[str, npt.NDArray[Any]]
LARGEST_NORM: Final = 2.0**12  # of a change that nobody asked to clip: networks that moved further have diverged
LARGEST_ROWS: Final = 2.0**20  # of a client, where there is no budget and nobody gave a bound
NOTHING: Final = frozen_array(np.empty(0))

# What torch, numpy and a model of somebody's own raise over rows that they do not like: there is no end to that.
FAILURES: Final = (Exception,)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpdateSums:
    """The released sums of a round, in natural units.

    Attributes:
        delta: sum of weight times change, over what travels, compressed if it was.
        rest: what rounding took from `delta`; None under a budget.
        weight: sum of the weights; None where they are not summed.
        steps: sum of weight times number of steps; None without FedNova.
        control: sum of weight times change of the control variates; None without SCAFFOLD.
        unclipped: clients within the clip norm, less half of all; None where nobody counts.
        contributed: clients that trained and did not diverge; None under a budget.
        clipped: clients whose change was longer than the clip norm; None under a budget.
        capped: clients with more rows than the largest weight; None under a budget.
    """

    delta: FloatArray
    weight: float | None = None
    steps: float | None = None
    control: FloatArray | None = None
    unclipped: float | None = None
    contributed: int | None = None
    clipped: int | None = None
    capped: int | None = None
    rest: FloatArray | None = None

    def mean(self, weight: float) -> FloatArray:
        """Return the change over `weight`, > 0; without a budget the quotient is rounded once only."""
        return self.delta / weight if self.rest is None else LongSum(self.delta, self.rest).over(weight)


@dataclass(frozen=True, eq=False)
class ModelUpdate(ClientQuery):
    """The sum over clients of what local training changed.

    Blocks under a budget: `delta`, and as asked for `weight`, `steps`, `control`, `unclipped`. Without a budget
    (`exact`): `limbs`, all of them as numbers of 60 bits and more, with counts of who contributed and who was clipped.

    Args:
        program: name of the model, see `privfed.statistics.programs`.
        parameters: where everybody starts, float64 of shape `(n_parameters,)`.
        training: `LocalTraining.as_fields()`.
        seed: of the rows' order, in [0, 2^63).
        run: names what clients remember for the length of one run.
        clip: L2 norm to which a change is cut before it is weighted, > 0.
        largest_weight: public bound on a client's weight, its number of rows; 0.0 weighs all clients 1.
        weight_share: part of the privacy cost that the sum of weights takes; 0.0 leaves it out.
        exact: for sums without noise; weights are then summed in any case.
        count_weight: part of the vector's length that the flag for adaptive clipping takes; 0.0 leaves it out.
        proximal: FedProx's mu, >= 0.
        anchor, anchor_strengths: of an `Anchor` in the order of the model's parameters; empty for none.
        normalise: whether a change is divided by its number of steps, and the steps are summed: FedNova.
        steps_share: part of the privacy cost that the sum of steps takes.
        control: SCAFFOLD's control variate of the server; empty for none.
        control_clip: L2 norm to which the change of a client's control variate is cut.
        control_share: part of the privacy cost that the control variates take.
        compression: `Compression.as_fields()`, or () for none.
        round_seed: 32 public bytes for the compression.
        personal: patterns of parameter names that stay at the client, in its memory under `personal:<name>`.

    Guarantees:
        The scaled vector of a client has norm at most 1, all of its blocks together, whatever its rows are.
        A client without rows, or whose training failed or came to NaN, adds nothing but zeros, weight included. Its own
        log says so; the vector does not.
        A client trains a copy of the model, which goes with what it keeps: nothing passes to the next client of this
        process, or to the next round, but `memory`. (What a model writes outside of itself is its maker's affair.)
    """

    kind: ClassVar[str] = "model_update"
    program: str
    parameters: FloatArray
    training: tuple[Any, ...]
    seed: int
    run: str = ""
    clip: float = LARGEST_NORM
    largest_weight: float = 0.0
    weight_share: float = 0.0
    exact: bool = False
    count_weight: float = 0.0
    proximal: float = 0.0
    anchor: FloatArray = field(default_factory=lambda: NOTHING)
    anchor_strengths: FloatArray = field(default_factory=lambda: NOTHING)
    normalise: bool = False
    steps_share: float = 0.05
    control: FloatArray = field(default_factory=lambda: NOTHING)
    control_clip: float = LARGEST_NORM
    control_share: float = 0.5
    compression: tuple[Any, ...] = ()
    round_seed: bytes = bytes(32)
    personal: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("parameters", "anchor", "anchor_strengths", "control"):
            value = getattr(self, name)
            if value.flags.writeable or value.dtype != np.float64:
                object.__setattr__(self, name, frozen_array(value))
            if value.ndim != 1 or not np.isfinite(value).all():
                raise UsageError(f"{name} of a model update has shape {value.shape}, expected one axis, all finite")
        for name in ("clip", "control_clip"):
            object.__setattr__(self, name, checked_number(name, getattr(self, name)))
        checked_integer("seed", self.seed, least=0, most=SEED_LIMIT - 1)
        if not (math.isfinite(self.largest_weight) and self.largest_weight >= 0.0):
            raise UsageError(f"largest_weight is {self.largest_weight!r}, expected a number of rows, or 0.0")
        if not (math.isfinite(self.proximal) and self.proximal >= 0.0):
            raise UsageError(f"proximal is {self.proximal!r}, expected a finite number of at least 0")
        if self.control.size not in (0, self.parameters.size):
            raise UsageError(
                f"the control variate has {self.control.size} coordinates, the model {self.parameters.size}"
            )
        parts = (self.weight_share, self.count_weight**2, self._steps_part, self._control_part)
        if min(parts) < 0.0 or not sum(parts) < 1.0:
            raise UsageError("weight, steps, control and count take all of the privacy cost: leave some for the change")
        self._local  # noqa: B018  # checks the settings

    @property
    def remembers(self) -> bool:
        """Control variates, personal layers and error feedback stay at the client."""
        feedback = bool(self.compression) and Compression.from_fields(self.compression).error_feedback
        return bool(self.control.size or self.personal or feedback)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What travels."""
        if self.exact:
            return (self._limbs.block("limbs"),)
        cap = self._cap
        rest = 1.0 - self.weight_share - self.count_weight**2 - self._steps_part - self._control_part
        found = [Block("delta", (self.length,), self.clip * cap, rest)]
        if self.weight_share:
            found.append(Block("weight", (), cap, self.weight_share))
        if self.normalise:
            found.append(Block("steps", (), cap * self._most_steps, self._steps_part))
        if self.control.size:
            found.append(Block("control", self.control.shape, cap * self.control_clip, self._control_part))
        if self.count_weight:
            found.append(Block("unclipped", (), 0.5, self.count_weight**2))
        return tuple(found)

    @property
    def length(self) -> int:
        """Coordinates of the change that travels."""
        if self.compression:
            return self._compressor.compressed_length
        return int(self._travels.sum()) if self.personal else self.parameters.size

    @property
    def n_features(self) -> int:
        """Columns of the model's rows, targets included."""
        return self._model.n_features + self._model.n_targets

    def vet(self, data: FloatArray) -> None:
        """Refuse targets that are no classes of the model; see `Query.vet`."""
        self._model.check_rows(data)

    def client_contribution(self, data: FloatArray, memory: Memory) -> Mapping[str, npt.ArrayLike]:
        """Return what one client adds, zeros if it has no rows that the model can use, or if its training failed."""
        rows = usable_rows(self._model, data)
        values = self._trained_values(rows, memory) if len(rows) else None
        if values is None:
            values = {name: np.zeros(shape) for name, shape, _ in self._parts}
        if self.exact:
            return {"limbs": self._limbs.split(values)}
        return {block.name: values[block.name] for block in self.blocks}

    def sums(self, release: Release) -> UpdateSums:
        """Return what a release of this query says."""
        if not self.exact:
            return _read(release.values)
        long = self._limbs.join(release["limbs"])
        contributed, clipped, capped = (round(float(count)) for count in long["counts"].value)
        read = _read({name: part.value for name, part in long.items()})
        return replace(read, contributed=contributed, clipped=clipped, capped=capped, rest=long["delta"].rest)

    def expand(self, delta: FloatArray) -> FloatArray:
        """Return a (mean) change of all parameters from one of those that travel; the others do not move."""
        if self.compression:
            delta = self._compressor.expand(delta, self.round_seed)
        if not self.personal:
            return delta
        whole = np.zeros(self.parameters.size)
        whole[self._travels] = delta
        return whole

    @cached_property
    def _local(self) -> LocalTraining:
        return LocalTraining.from_fields(self.training)

    @cached_property
    def _model(self) -> TorchProgram:
        model = installed(self.program, of=TorchProgram)
        if model.n_parameters != self.parameters.size:
            raise UsageError(f"the model has {model.n_parameters} parameters, the query brings {self.parameters.size}")
        return model

    @cached_property
    def _travels(self) -> npt.NDArray[np.bool_]:
        return ~np.repeat(
            [matches(name, self.personal) for name, _ in self._model.layout],
            [math.prod(shape) for _, shape in self._model.layout],
        )

    @cached_property
    def _compressor(self) -> Compressor:
        layout = tuple((name, shape) for name, shape in self._model.layout if not matches(name, self.personal))
        return Compression.from_fields(self.compression).over(layout)

    @property
    def _cap(self) -> float:
        return self.largest_weight or 1.0

    @property
    def _steps_part(self) -> float:
        return self.steps_share if self.normalise else 0.0

    @property
    def _control_part(self) -> float:
        return self.control_share if self.control.size else 0.0

    @property
    def _most_steps(self) -> float:
        """Bound on the number of effective steps, of a client of the largest weight."""
        rows = math.ceil(self.largest_weight or LARGEST_ROWS)
        return self._local.steps(rows) / (1.0 - self._local.momentum)

    @property
    def _parts(self) -> list[tuple[str, tuple[int, ...], float]]:
        """Name, shape and bound of all that a client works out; under a budget not all of it travels."""
        cap = self._cap
        found: list[tuple[str, tuple[int, ...], float]] = [
            ("delta", (self.length,), cap * self.clip),
            ("weight", (), cap),
            ("counts", (3,), 2.0),
            ("unclipped", (), 0.5),
        ]
        if self.normalise:
            found.append(("steps", (), cap * self._most_steps))
        if self.control.size:
            found.append(("control", self.control.shape, cap * self.control_clip))
        return found

    @cached_property
    def _limbs(self) -> Limbs:
        return Limbs(tuple(part for part in self._parts if part[0] != "unclipped"))

    def _trained_values(self, data: FloatArray, memory: Memory) -> dict[str, FloatArray] | None:
        """Return the parts of a client with rows, or None if its training failed."""
        keep: dict[str, npt.NDArray[Any]] = {}
        try:
            values = self._worked_out(data, memory, keep)
        except FAILURES as error:
            # A round that failed on these rows and not on others would tell about them.
            # Nor is its text for a log: torch's "Target 17 is out of bounds" quotes one.
            name = type(error).__name__
            logger.warning("local training failed with %s, this client contributes nothing in this round", name)
            return None
        if values is None:
            logger.warning(
                "local training came to NaN, infinity or beyond 1e100, this client contributes nothing in this round:"
                " look at its rows, or ask for a lower learning rate"
            )
            return None
        if self.compression:  # last of all, for it writes to the memory itself
            values["delta"] = self._compressor.compress(values["delta"], self.round_seed, memory, run=self.run)
        memory.update(keep)
        self._clip(values)
        return values

    def _worked_out(
        self, data: FloatArray, memory: Memory, keep: dict[str, npt.NDArray[Any]]
    ) -> dict[str, FloatArray] | None:
        """Return the parts before the change is clipped and weighted, None for NaN; fill `keep` for the memory."""
        start = self._own_start(memory)
        own = memory.get(self._control_name) if self.control.size else None
        control = np.zeros_like(self.control) if own is None else own
        trained = train(
            self._model.fresh(),  # clients of one process, and rounds of one client, share no attribute of a module
            start,
            data,
            self._local,
            seed=self.seed,
            objectives=self._objectives(start),
            shift=self.control - control if self.control.size else None,
        )
        delta, values = trained.delta, {"weight": np.asarray(min(float(len(data)), self.largest_weight or 1.0))}
        values["capped"] = np.asarray(float(bool(self.largest_weight) and len(data) > self.largest_weight))
        keep.update(self._personal(start + delta))
        if self.control.size:
            # Option II of the paper: c_i+ = c_i - c + (x - y_i) / (K eta); what is sent is what is kept.
            moved = -self.control - delta / (trained.steps * self._local.learning_rate)
            moved = clip_l2(moved, self.control_clip)
            keep[self._control_name] = control + moved
            values["control"] = values["weight"] * moved
        if self.normalise:
            steps = effective_steps(trained.steps, self._local, self.proximal)
            delta = delta / steps
            values["steps"] = values["weight"] * min(max(steps, 0.0), self._most_steps)
        values["delta"] = delta[self._travels] if self.personal else delta
        found = list(values.values()) if values["delta"] is trained.delta else [trained.delta, *values.values()]
        moderate = all(np.abs(value).max(initial=0.0) <= LARGEST_VALUE for value in found)
        return values if moderate else None

    def _clip(self, values: dict[str, FloatArray]) -> None:
        """Clip and weigh the change. For the flag and the weight; the clip that counts follows on the whole vector."""
        delta, weight = values["delta"], float(values["weight"])
        norm = float(np.linalg.norm(delta))
        short = norm <= self.clip
        factor = weight if short else weight * (self.clip / norm)
        values["delta"] = delta if factor == 1.0 else factor * delta
        values["unclipped"] = np.asarray(0.5 if short else -0.5)
        values["counts"] = np.array([1.0, not short, values.pop("capped")], dtype=np.float64)

    @property
    def _control_name(self) -> str:
        return f"scaffold.control.{self.run}"

    def _objectives(self, start: FloatArray) -> list[Anchor]:
        found = []
        if self.anchor.size:
            sizes = np.array([math.prod(shape) for _, shape in self._model.layout], dtype=np.int64)
            found.append(Anchor(self.anchor, self.anchor_strengths, sizes))
        if self.proximal:
            found.append(proximal_term(self._model, start, self.proximal))
        return found

    def _own_start(self, memory: Memory) -> FloatArray:
        """Return the parameters with this client's personal ones in their places."""
        if not self.personal:
            return self.parameters
        start, position = self.parameters.copy(), 0
        for name, shape in self._model.layout:
            size = math.prod(shape)
            kept = memory.get(f"personal:{name}") if matches(name, self.personal) else None
            if kept is not None and kept.shape == shape:
                start[position : position + size] = kept.ravel()
            position += size
        return start

    def _personal(self, parameters: FloatArray) -> dict[str, FloatArray]:
        """Return what stays at home of trained parameters."""
        found, position = {}, 0
        for name, shape in self._model.layout if self.personal else ():
            size = math.prod(shape)
            if matches(name, self.personal):
                found[f"personal:{name}"] = parameters[position : position + size].reshape(shape)
            position += size
        return found


def _read(values: Mapping[str, FloatArray]) -> UpdateSums:
    numbers = {name: float(values[name]) for name in ("weight", "steps", "unclipped") if name in values}
    return UpdateSums(
        delta=values["delta"],
        weight=numbers.get("weight"),
        steps=numbers.get("steps"),
        control=values.get("control"),
        unclipped=numbers.get("unclipped"),
    )
