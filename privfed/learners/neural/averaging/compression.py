"""Shorter model updates: part of the parameters, low-rank sketches of the matrices, k random coordinates.

An update is shortened after local training and before it is clipped, encoded, noised and masked. All three ways are
linear maps that everybody knows once the round's public seed is known: the sum of short updates is the short sum, and
no index or factor travels. Fewer bits per value and the Hadamard rotation come below this, with the federation's
`bits=`; both compose with what is here.

The sum is scaled up to be right on average. Or a client keeps at home what it did not send, and adds it to its next
update (error feedback: Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, checked_integer
from privfed.learners.neural.averaging.parameter_names import matches, patterns_of, refuse_unmatched
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.sparsify import RandomK
from privfed.query import FloatArray

__all__ = ["Compression", "Compressor", "ParameterLayout"]

ParameterLayout: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
Memory: TypeAlias = MutableMapping[str, npt.NDArray[Any]]
Fields: TypeAlias = tuple[tuple[str, ...], int, float, bool]

_SKETCH: Final = b"low-rank sketch v1"


@dataclass(frozen=True)
class Compression:
    """How model updates are shortened; the steps are taken in this order, each of them if it is asked for.

    Args:
        parameters: patterns of parameter names (`"head.*"`); only what matches travels, the rest of the global model
            stays as it is. None lets all travel. Freezing the others in the model saves the clients' work as well.
        rank: r >= 1; a matrix W of shape (a, b), b the longer side, travels as W P of shape (a, r), P a public random
            matrix with r orthonormal columns, another one for each round and layer. Tensors of more axes count as
            matrices (first axis, all others). Vectors, and matrices whose longer side is at most r, travel whole. None
            leaves matrices alone.
        keep: fraction in (0, 1] of the coordinates that travel, at least one; which ones is drawn from the round's
            seed. See `privfed.mechanism.sparsify` for what it costs.
        error_feedback: whether a client keeps what it did not send and adds it to its next update. The sum is then
            taken as it is. Without, it is scaled so that its mean over the seeds is the sum of the whole updates. Since
            the choices are public and fresh, that is the better bargain as a rule. Memory pays in long runs in which
            nothing is clipped: what it collects is longer than an update.

    Guarantees:
        A short update depends on nothing but the update, what the client remembers, and public numbers. It is never
        longer (L2) than update and memory together. Clipping comes afterwards: the sensitivity of a release is that of
        any clipped vector, whatever the memory holds.

    Examples:
        >>> import numpy as np
        >>> compressor = Compression(rank=2, keep=0.5).over((("weight", (4, 10)), ("bias", (4,))))
        >>> compressor.length, compressor.compressed_length  # 4 x 2 and 4, of which half
        (44, 6)
        >>> short = compressor.compress(np.ones(44), bytes(32), {})
        >>> compressor.expand(short, bytes(32)).shape
        (44,)
    """

    parameters: tuple[str, ...] | None = None
    rank: int | None = None
    keep: float = 1.0
    error_feedback: bool = False

    def __post_init__(self) -> None:
        if self.parameters is not None:
            patterns = patterns_of(self.parameters)
            if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
                raise UsageError(f"parameters is {self.parameters!r}, expected patterns of names such as 'head.*'")
            object.__setattr__(self, "parameters", patterns)
        if self.rank is not None:
            object.__setattr__(self, "rank", checked_integer("rank", self.rank, least=1))
        if isinstance(self.keep, bool) or not isinstance(self.keep, int | float) or not 0.0 < self.keep <= 1.0:
            raise UsageError(f"keep is {self.keep!r}, expected a fraction in (0, 1]")
        if not isinstance(self.error_feedback, bool):
            raise UsageError(f"error_feedback is {self.error_feedback!r}, expected True or False")

    def over(self, layout: ParameterLayout) -> Compressor:
        """Return the compressor of flat updates whose parts have these names and shapes, in this order.

        Raises:
            UsageError: a pattern that no parameter's name matches.
        """
        return Compressor(self, layout)

    def as_fields(self) -> Fields:
        """Return the setting as a tuple of strings and numbers, as queries carry it."""
        return (self.parameters or (), self.rank or 0, float(self.keep), self.error_feedback)

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Undo `as_fields`.

        Raises:
            UsageError: what a server sent is no setting.
        """
        if not isinstance(fields, tuple) or len(fields) != 4 or not isinstance(fields[0], tuple):
            raise UsageError(f"a compression of {fields!r}, expected patterns, rank, fraction, error feedback")
        patterns, rank, keep, error_feedback = fields
        return cls(patterns or None, rank or None, keep, error_feedback)


@dataclass(frozen=True)
class Compressor:
    """A compression of updates of one layout.

    Attributes:
        setting: which compression.
        layout: (name, shape) of the parts of an update, in order; scalars have shape ().
    """

    setting: Compression
    layout: ParameterLayout

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", tuple((str(name), tuple(shape)) for name, shape in self.layout))
        names = [name for name, _ in self.layout]
        refuse_unmatched("parameters", self.setting.parameters or (), names)
        if not names:
            raise UsageError("there are no parameters to compress: the layout is empty")

    @property
    def length(self) -> int:
        """Coordinates of an update."""
        return sum(math.prod(shape) for _, shape in self.layout)

    @property
    def compressed_length(self) -> int:
        """Coordinates of a short update."""
        return max(1, round(self.setting.keep * self._sketched_length))

    def memory_name(self, run: str = "") -> str:
        """Return the name under which a client keeps what it did not send: one for each run, setting and layout."""
        told = repr((run, self.setting.as_fields(), self.layout)).encode()
        return f"compression.unsent.{hashlib.sha256(told).hexdigest()[:16]}"

    def compress(self, delta: FloatArray, round_seed: bytes, memory: Memory, *, run: str = "") -> FloatArray:
        """Return the short update, and leave in `memory` what was not sent, if the setting says so.

        Args:
            delta: shape `(length,)`; one with NaN or infinity counts as zero.
            round_seed: 32 bytes, public, fresh each round, chosen without sight of the data.
            memory: the client's own.
            run: name of the training run; what another run left unsent is none of this one's business.

        Returns:
            Float64 of shape `(compressed_length,)`, to be clipped next.

        Guarantees:
            Linear in `delta` and what is remembered, with singular values 0 and 1: norms and distances never grow.

        Raises:
            UsageError: another shape, or a seed of another length.
        """
        vector = self._checked("update", delta, self.length)
        maps = _Maps(self, round_seed)
        vector = vector if np.isfinite(vector).all() else np.zeros_like(vector)
        kept = vector[self._kept]
        if not self.setting.error_feedback or self.is_lossless:
            return maps.shorten(kept)
        name = self.memory_name(run)
        unsent = memory.get(name)
        if unsent is not None and unsent.shape == kept.shape:
            kept = kept + unsent
        short = maps.shorten(kept)
        memory[name] = kept - maps.lengthen(short, unbiased=False)
        return short

    def expand(self, vector: FloatArray, round_seed: bytes) -> FloatArray:
        """Return the update that a (noised) sum or mean of short updates stands for. Post-processing.

        Args:
            vector: shape `(compressed_length,)`.
            round_seed: the one that `compress` was given.

        Returns:
            Float64 of shape `(length,)`; zero where parameters do not travel.

        Guarantees:
            Without error feedback the mean over seeds of `expand(compress(x))` is x in the parameters that travel.
            With it, `expand(compress(x))` is the orthogonal projection of x on what the round's seed sends.

        Raises:
            UsageError: another shape, or a seed of another length.
        """
        short = self._checked("short update", vector, self.compressed_length)
        whole = np.zeros(self.length)
        whole[self._kept] = _Maps(self, round_seed).lengthen(short, unbiased=not self.setting.error_feedback)
        return whole

    @property
    def is_lossless(self) -> bool:
        """Whether all parameters that travel arrive as they are."""
        return self.compressed_length == len(self._kept)

    @cached_property
    def matrices(self) -> tuple[tuple[tuple[int, int], bool], ...]:
        """(shape as a matrix, whether it is sketched) of every parameter that travels, in order."""
        rank = self.setting.rank
        found = []
        for shape in self._kept_shapes:
            rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
            sketched = rank is not None and len(shape) > 1 and rank < max(rows, columns)
            found.append(((rows, columns), sketched))
        return tuple(found)

    @property
    def _sketched_length(self) -> int:
        rank = self.setting.rank or 0
        return sum(rank * min(shape) if sketched else math.prod(shape) for shape, sketched in self.matrices)

    @property
    def _kept_shapes(self) -> list[tuple[int, ...]]:
        return [shape for name, shape in self.layout if self._travels(name)]

    def _travels(self, name: str) -> bool:
        patterns = self.setting.parameters
        return patterns is None or matches(name, patterns)

    @cached_property
    def _kept(self) -> npt.NDArray[np.intp]:
        """Positions of the parameters that travel."""
        parts, start = [np.empty(0, dtype=np.intp)], 0
        for name, shape in self.layout:
            if self._travels(name):
                parts.append(np.arange(start, start + math.prod(shape), dtype=np.intp))
            start += math.prod(shape)
        return np.concatenate(parts)

    def _checked(self, what: str, vector: FloatArray, length: int) -> FloatArray:
        array = np.asarray(vector, dtype=np.float64)
        if array.shape != (length,):
            raise UsageError(f"the {what} has shape {array.shape}, expected {(length,)}")
        return array


class _Maps:
    """The linear maps of one round: both steps, and their transposes."""

    def __init__(self, compressor: Compressor, seed: bytes) -> None:
        self._matrices = compressor.matrices
        self._rank = compressor.setting.rank or 0
        self._seed = seed
        self._choice = RandomK(compressor._sketched_length, compressor.compressed_length, seed)

    def shorten(self, vector: FloatArray) -> FloatArray:
        sketched = self._sketch(vector)
        if self._choice.keep == self._choice.dimension:
            return sketched
        return np.asarray(self._choice.sparsify(sketched), dtype=np.float64)

    def lengthen(self, short: FloatArray, *, unbiased: bool) -> FloatArray:
        """Transpose of `shorten`; `unbiased` scales each step by the inverse of the part that it keeps on average."""
        sketched = short
        if self._choice.keep < self._choice.dimension:
            sketched = np.asarray(self._choice.densify(short), dtype=np.float64)
            if not unbiased:
                sketched = sketched * (self._choice.keep / self._choice.dimension)
        return self._unsketch(sketched, unbiased=unbiased)

    def _sketch(self, vector: FloatArray) -> FloatArray:
        parts = []
        start = 0
        for (rows, columns), basis in self._bases():
            part = vector[start : start + rows * columns]
            start += rows * columns
            if basis is None:
                parts.append(part)
            else:
                matrix = part.reshape(rows, columns)
                parts.append((matrix @ basis if columns >= rows else basis.T @ matrix).ravel())
        return np.concatenate(parts)

    def _unsketch(self, sketched: FloatArray, *, unbiased: bool) -> FloatArray:
        parts = []
        start = 0
        for (rows, columns), basis in self._bases():
            size = rows * columns if basis is None else self._rank * min(rows, columns)
            part = sketched[start : start + size]
            start += size
            if basis is None:
                parts.append(part)
                continue
            scale = len(basis) / self._rank if unbiased else 1.0
            if columns >= rows:
                whole = part.reshape(rows, self._rank) @ basis.T
            else:
                whole = basis @ part.reshape(self._rank, columns)
            parts.append(scale * whole.ravel())
        return np.concatenate(parts)

    def _bases(self) -> Iterator[tuple[tuple[int, int], FloatArray | None]]:
        """Shape and basis of every matrix; the basis of one that travels whole is None."""
        for number, (shape, sketched) in enumerate(self._matrices):
            yield shape, self._basis(number, max(shape)) if sketched else None

    def _basis(self, number: int, side: int) -> FloatArray:
        """Return `(side, rank)` with orthonormal columns that span a uniformly distributed subspace.

        Standard normals by Box and Muller's transform of the public stream, made orthonormal by QR. The subspace is
        uniform because the normals are. With a positive diagonal the factors are unique: all parties have the same
        basis, up to rounding, whatever their linear algebra prefers.
        """
        stream = Keystream.derived(self._seed, purpose=_SKETCH + number.to_bytes(8, "big"))
        count = side * self._rank
        words = stream.uint64(2 * count).reshape(2, count)
        uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1)
        normal = np.sqrt(-2.0 * np.log(uniform[0])) * np.cos(2.0 * np.pi * uniform[1])
        basis, triangle = np.linalg.qr(normal.reshape(side, self._rank))
        signed: FloatArray = basis * np.where(np.diag(triangle) < 0.0, -1.0, 1.0)
        return signed
