"""A fitted mixture on disk, without pickle, and as one of scikit-learn's.

Two forms of one document. `.json` is text: readable, and exact, since the shortest decimal of a float64 is read back to
the same bits. `.npz` holds the arrays as NumPy has them and the rest as the same JSON; NumPy reads it, too.

Reading is strict. Sizes are checked before anything is unpacked, fields and shapes must be those of the format, arrays
must be a mixture (weights that sum to 1, positive factors, covariances that match them), and a digest over the
content must agree. The digest finds damage, not forgery: whoever can write the file can write the digest. Nothing in a
file is ever executed.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, needs_extra
from privfed.files import read_plain
from privfed.learners.mixture.fitted import FittedMixture
from privfed.learners.mixture.parameters import check_parameters
from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType, MixtureModel, covariance_shape

__all__ = ["FORMAT", "VERSION", "Persistence"]

FORMAT: Final = "privfed.GaussianMixture"
VERSION: Final = 1
MAX_BYTES: Final = 2**28
MAX_VALUES: Final = 2**25  # float64 numbers in one array
MAX_NAMES: Final = 2**20
ARRAYS: Final = ("weights", "means", "covariances", "precisions_cholesky", "lower_bounds")
DOCUMENT: Final = "document"
# Constructor arguments that are kept; starts, callbacks and generators are the caller's to give again.
KEPT: Final = (
    "n_components", "covariance_type", "tol", "reg_covar", "max_iter", "n_init", "init_params", "random_state",
    "warm_start", "verbose", "verbose_interval", "rounds", "share", "acceleration", "clients_per_round", "aggregation",
    "personal_weights",
)  # fmt: skip
_SCIKIT_LEARNS: Final = (
    "n_components", "covariance_type", "tol", "reg_covar", "max_iter", "n_init", "init_params", "weights_init",
    "means_init", "precisions_init", "random_state", "warm_start", "verbose", "verbose_interval",
)  # fmt: skip

Mixture = TypeVar("Mixture", bound="Persistence")
Scalar = int | float | str | bool | None


class _Array(msgspec.Struct, forbid_unknown_fields=True):
    shape: list[int]
    values: list[float]


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    parameters: dict[str, Scalar]
    covariance_type: Literal["full", "tied", "diag", "spherical"]
    converged: bool
    lower_bound: float | None
    feature_names: list[str] | None
    digest: str
    arrays: dict[str, _Array] | None = None


class Persistence(FittedMixture):
    """What a mixture can be turned into, and made from."""

    def save(self, path: str | Path) -> None:
        """Write the fitted mixture to `path`: `.json`, or `.npz` for large ones. An existing file is replaced.

        Kept are the model, how the fit ended, and plain constructor arguments. Not kept are starts, bounds, callbacks,
        generators, releases and what was spent: the ledger has that.

        Guarantees:
            What is written is the fitted model, so it is as private as the fit was: a fit under a budget may be passed
            on, one to rows, or a personalised one, tells about them.

        Raises:
            UsageError: the mixture is not fitted, or the path has another suffix.
        """
        suffix = _suffix(path)
        document, arrays = _documented(self)
        if suffix == ".json":
            document.arrays = {name: _Array(list(a.shape), a.ravel().tolist()) for name, a in arrays.items()}
            data = msgspec.json.format(msgspec.json.encode(document), indent=1)
        else:
            text = np.frombuffer(msgspec.json.encode(document), dtype=np.uint8)
            data = _archived({DOCUMENT: text, **arrays})
        Path(path).write_bytes(data)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a mixture that `save` wrote.

        Raises:
            UsageError: the file is missing, too large, a link, not of this format or version, damaged, or holds no
                mixture.
        """
        suffix, data = _suffix(path), read_plain(path, most=MAX_BYTES)
        document, arrays = _from_json(data) if suffix == ".json" else _from_npz(data)
        _check(document, arrays)
        return _restored(cls, document, arrays)

    def to_sklearn(self) -> Any:
        """Return a fitted `sklearn.mixture.GaussianMixture` that predicts, scores and samples as this one does.

        Raises:
            UsageError: not fitted, or scikit-learn is missing: pip install 'privfed[sklearn]'.
        """
        with needs_extra("sklearn", "this needs scikit-learn"):
            from sklearn.mixture import GaussianMixture as Theirs
        model = self._model()
        params = {name: getattr(self, name) for name in _SCIKIT_LEARNS}
        if params["init_params"] not in ("kmeans", "k-means++", "random", "random_from_data"):
            params["init_params"] = "kmeans"
        theirs = Theirs(**params)
        theirs.weights_, theirs.means_ = np.array(model.weights), np.array(model.means)
        theirs.covariances_, theirs.precisions_ = np.array(model.covariances), np.array(model.precisions)
        theirs.precisions_cholesky_ = np.array(model.precisions_cholesky)
        for name in (
            "converged_",
            "n_iter_",
            "lower_bound_",
            "lower_bounds_",
            "n_features_in_",
            "feature_names_in_",
        ):
            if hasattr(self, name):
                setattr(theirs, name, getattr(self, name))
        return theirs

    @classmethod
    def from_sklearn(cls, mixture: Any) -> Self:
        """Return a fitted `sklearn.mixture.GaussianMixture` as one of ours.

        Raises:
            UsageError: it is not fitted, or holds no mixture.
        """
        ours = cls(**{name: getattr(mixture, name) for name in _SCIKIT_LEARNS if hasattr(mixture, name)})
        needed = ("weights_", "means_", "covariances_", "precisions_cholesky_")
        if not all(hasattr(mixture, name) for name in needed):
            raise UsageError(f"{type(mixture).__name__} is not a fitted Gaussian mixture: call its fit first")
        arrays = {name[:-1]: np.array(getattr(mixture, name), dtype=np.float64) for name in needed}
        _check_mixture(mixture.covariance_type, arrays)
        names = getattr(mixture, "feature_names_in_", None)
        _set_fitted(
            ours,
            mixture.covariance_type,
            arrays,
            converged=bool(mixture.converged_),
            lower_bound=float(mixture.lower_bound_),
            lower_bounds=list(getattr(mixture, "lower_bounds_", [float(mixture.lower_bound_)])),
            names=None if names is None else [str(name) for name in names],
        )
        vars(ours)["n_iter_"] = int(mixture.n_iter_)
        return ours


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix
    if suffix not in (".json", ".npz"):
        raise UsageError(f"{Path(path).name} ends in {suffix!r}, expected .json or .npz")
    return suffix


# --- writing --------------------------------------------------------------------------------------------------------


def _documented(mixture: Any) -> tuple[_Document, dict[str, FloatArray]]:
    model: MixtureModel = mixture._model()
    arrays = {
        "weights": np.array(model.weights),
        "means": np.array(model.means),
        "covariances": np.array(model.covariances),
        "precisions_cholesky": np.array(model.precisions_cholesky),
        "lower_bounds": np.asarray(getattr(mixture, "lower_bounds_", []), dtype=np.float64),
    }
    parameters = {name: _plain(getattr(mixture, name)) for name in KEPT}
    bound = float(getattr(mixture, "lower_bound_", -math.inf))
    names = getattr(mixture, "feature_names_in_", None)
    document = _Document(
        FORMAT,
        VERSION,
        parameters,
        model.covariance_type,
        bool(getattr(mixture, "converged_", False)),
        bound if math.isfinite(bound) else None,
        None if names is None else [str(name) for name in names],
        "",
    )
    document.digest = _digest(document, arrays)
    return document, arrays


def _archived(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return arrays as NumPy's `savez` writes them; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return buffer.getvalue()


def _plain(value: Any) -> Scalar:
    if isinstance(value, np.bool_ | np.integer | np.floating):
        value = value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else None


def _digest(document: _Document, arrays: dict[str, FloatArray]) -> str:
    bare = msgspec.structs.replace(document, digest="", arrays=None)
    state = hashlib.sha256(msgspec.json.encode(bare, order="deterministic"))
    for name in ARRAYS:
        array = np.ascontiguousarray(arrays[name], dtype="<f8")
        state.update(f"{name}{array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()


# --- reading --------------------------------------------------------------------------------------------------------


def _decoded(data: bytes) -> _Document:
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the file is no saved mixture: {error}") from None
    if (document.format, document.version) != (FORMAT, VERSION):
        raise UsageError(
            f"the file has format {document.format[:40]!r} version {document.version}, expected {FORMAT!r} version"
            f" {VERSION}: save it again with this version of privfed, or read it with its own"
        )
    return document


def _from_json(data: bytes) -> tuple[_Document, dict[str, FloatArray]]:
    document = _decoded(data)
    arrays = document.arrays
    if arrays is None or set(arrays) != set(ARRAYS):
        raise UsageError(f"the file needs the arrays {list(ARRAYS)}")
    return document, {name: _shaped(name, array) for name, array in arrays.items()}


def _shaped(name: str, array: _Array) -> FloatArray:
    if not (0 < len(array.shape) <= 3 and all(side >= 0 for side in array.shape)):
        raise UsageError(f"the array {name!r} has no shape of up to three axes")
    if math.prod(array.shape) != len(array.values):
        raise UsageError(f"the array {name!r} of shape {array.shape} has {len(array.values)} values")
    return np.array(array.values, dtype=np.float64).reshape(array.shape)


def _from_npz(data: bytes) -> tuple[_Document, dict[str, FloatArray]]:
    members = {f"{name}.npy": name for name in (DOCUMENT, *ARRAYS)}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sorted(entry.filename for entry in entries) != sorted(members):
                raise UsageError(f"the archive needs the members {sorted(members)} and no others")
            if any(entry.file_size > MAX_BYTES for entry in entries):
                raise UsageError(f"a member of the archive is larger than {MAX_BYTES} bytes")
            read = {members[entry.filename]: _member(archive, entry) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UsageError(f"the file is no saved mixture: {error}") from None
    text = _npy(DOCUMENT, read.pop(DOCUMENT), "|u1")
    arrays: dict[str, FloatArray] = {name: _npy(name, member, "<f8") for name, member in read.items()}
    document = _decoded(text.tobytes())
    if document.arrays is not None:
        raise UsageError("the archive holds arrays twice")
    return document, arrays


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UsageError(f"a member of the archive is larger than {MAX_BYTES} bytes")
    return data


def _npy(name: str, data: bytes, dtype: str) -> npt.NDArray[Any]:
    """Return an array from NumPy's format, version 1.0, of that type and in C order."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise UsageError(f"the array {name!r} has version {version}, expected (1, 0)")
        shape, fortran, found = np.lib.format.read_array_header_1_0(stream, max_header_size=1000)
    except (ValueError, SyntaxError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the array {name!r} is malformed: {error}") from None
    values = data[stream.tell() :]
    if found.str != dtype or (fortran and len(shape) > 1) or len(shape) > 3:
        raise UsageError(f"the array {name!r} is {found.str} with {len(shape)} axes, expected {dtype} in C order")
    if math.prod(shape) > MAX_BYTES or math.prod(shape) * found.itemsize != len(values):
        raise UsageError(f"the array {name!r} of shape {shape} has {len(values)} bytes")
    return np.frombuffer(values, dtype=found).reshape(shape).copy()


def _check(document: _Document, arrays: dict[str, FloatArray]) -> None:
    if _digest(document, arrays) != document.digest:
        raise UsageError("the digest does not agree with the content: the file is damaged. Save it again")
    if set(document.parameters) != set(KEPT):
        raise UsageError(f"the file has parameters {sorted(document.parameters)[:30]}, expected {sorted(KEPT)}")
    _check_mixture(document.covariance_type, arrays)
    bounds = arrays["lower_bounds"]
    if bounds.ndim != 1 or not np.isfinite(bounds).all():
        raise UsageError("lower_bounds needs one axis of finite numbers")
    names, d = document.feature_names, arrays["means"].shape[1]
    if names is not None and (len(names) != d or len(names) > MAX_NAMES):
        raise UsageError(f"the file names {len(names)} features of {d}")


def _check_mixture(kind: CovarianceType, arrays: dict[str, FloatArray]) -> None:
    """Refuse arrays that are not a mixture: wrong shapes, NaN, weights off the simplex, factors that do not match."""
    weights, means = arrays["weights"], arrays["means"]
    if means.ndim != 2 or weights.shape != means.shape[:1] or not 0 < means.size <= MAX_VALUES:
        raise UsageError(f"weights {weights.shape} and means {means.shape} do not fit: expected (K,), (K, d)")
    shape = covariance_shape(kind, *means.shape)
    for name in ("covariances", "precisions_cholesky"):
        if arrays[name].shape != shape:
            raise UsageError(f"{name} of a {kind} mixture has shape {arrays[name].shape}, expected {shape}")
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        if not np.isfinite(arrays[name]).all():
            raise UsageError(f"{name} holds NaN or infinity")
    if (weights < 0).any() or abs(float(weights.sum()) - 1.0) > 1e-6:
        raise UsageError("weights need numbers of at least 0 that sum to 1")
    _check_factors(kind, arrays["covariances"], arrays["precisions_cholesky"])


def _check_factors(kind: CovarianceType, covariances: FloatArray, factors: FloatArray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if kind in ("full", "tied"):
            positive = bool((np.diagonal(factors, axis1=-2, axis2=-1) > 0).all()) and not np.tril(factors, -1).any()
            whitened = np.swapaxes(factors, -1, -2) @ covariances @ factors
            match = np.allclose(whitened, np.eye(factors.shape[-1]), atol=1e-5)
        else:
            positive = bool((factors > 0).all())
            match = np.allclose(covariances * factors * factors, 1.0, atol=1e-5)
    if not (positive and match):
        raise UsageError("precisions_cholesky needs triangular factors with positive diagonals that match covariances")


def _restored(cls: type[Mixture], document: _Document, arrays: dict[str, FloatArray]) -> Mixture:
    mixture = cls(**document.parameters)
    check_parameters(mixture.get_params(), estimator=cls.__name__)
    bounds = [float(bound) for bound in arrays["lower_bounds"]]
    _set_fitted(
        mixture,
        document.covariance_type,
        arrays,
        converged=document.converged,
        lower_bound=-math.inf if document.lower_bound is None else document.lower_bound,
        lower_bounds=bounds,
        names=document.feature_names,
    )
    return mixture


def _set_fitted(
    mixture: Any,
    kind: CovarianceType,
    arrays: dict[str, FloatArray],
    *,
    converged: bool,
    lower_bound: float,
    lower_bounds: list[float],
    names: list[str] | None,
) -> None:
    if mixture.covariance_type != kind:
        raise UsageError(f"the parameters say {mixture.covariance_type!r}, the model is {kind!r}")
    model = MixtureModel(arrays["weights"], arrays["means"], arrays["covariances"], arrays["precisions_cholesky"], kind)
    mixture._store(model)
    mixture.converged_, mixture.n_iter_ = converged, len(lower_bounds)
    mixture.lower_bound_, mixture.lower_bounds_ = lower_bound, lower_bounds
    if names is not None:
        mixture.feature_names_in_ = np.asarray(names, dtype=object)
