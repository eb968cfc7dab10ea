"""Models in and out of folders: weights without code, a card, and a loader that checks before it loads."""

from __future__ import annotations

import copy
import math
import os
import secrets
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from privfed.errors import UsageError, checked_integer, needs_extra
from privfed.federation.release import Federation
from privfed.files import read_plain, sha256_of
from privfed.learners.neural.losses import require_torch
from privfed.transfer.card import (
    CARD_FORMAT,
    CARD_VERSION,
    Card,
    DataSet,
    FileFacts,
    TensorFacts,
    checked_data_sets,
    markdown,
    privacy_of,
    versions,
)
from privfed.transfer.provenance import home_rows_in

if TYPE_CHECKING:
    import torch

__all__ = ["CARD", "PROGRAM", "README", "WEIGHTS", "Deployed", "export", "load_deployed"]

CARD: Final = "card.json"
README: Final = "README.md"
WEIGHTS: Final = "model.safetensors"
PROGRAM: Final = "model.pt2"
KNOWN: Final = {README, WEIGHTS, PROGRAM}
LARGEST_CARD: Final = 4 * 2**20
LARGEST_WEIGHTS: Final = 8 * 2**30
DTYPES: Final = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True, eq=False)
class Deployed:
    """A model in a folder.

    Attributes:
        path: of the folder.
        digest: SHA-256 of `card.json`, in hexadecimal digits. It fixes the card, and through it every file.
        card: what is said of the model.
        model: with the weights, in evaluation mode; None where no module was given to load them into.
        tensors: the weights by name.
    """

    path: Path
    digest: str
    card: Card
    model: torch.nn.Module | None = field(default=None, repr=False)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)


def export(
    model: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    name: str,
    description: str = "",
    data_sets: Sequence[DataSet | Mapping[str, str]] = (),
    federation: Federation | None = None,
    metrics: Mapping[str, Any] | None = None,
    feature_shape: Sequence[int] = (),
    classes: Sequence[str] = (),
    license: str = "",
    program: bool = False,
) -> Deployed:
    """Write a model and its card into a new folder.

    The folder gets `model.safetensors` (parameters and buffers; no code), `card.json` and `README.md`; with `program`
    also `model.pt2`, which runs without the module's own code. It appears whole or not at all.

    Args:
        model: torch module.
        path: of the folder, which must not be there yet.
        name, description, license: for the card.
        data_sets: whose data had a part in it: `DataSet`s or dicts of name, description, holders and role.
        federation: whose ledger tells what was spent. Give it only for a model computed of its releases and of public
            numbers: one that was tuned further at a client is not protected by them. What `personalise` and
            `FineTuning.personal_model` return is marked, and refused here.
        metrics: of JSON's kinds, such as `{"comparison": tuning.comparison_.as_dict()}`; numpy's numbers will do.
        feature_shape: of one row's features; needed for `program`.
        classes: names of the outputs.
        program: also write what `torch.export` makes of the model, with a free number of rows. TorchScript is not
            written (torch has deprecated it), nor ONNX (it needs further packages; `torch.onnx.export` takes the same
            module). A model that cannot be traced is exported without, and the card says why.

    Raises:
        UsageError: torch or safetensors is missing, the folder is there already or cannot be written, weights that are
            not finite, metrics that JSON cannot hold, or a federation's budget claimed for a model that a client's rows
            went into at home. Nothing is left behind.
    """
    require_torch()
    target = Path(path)
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} is there already: choose a new folder, one per version of a model")
    if program and not feature_shape:
        raise UsageError("program=True traces the model on a row: give feature_shape=")
    if not hasattr(model, "state_dict"):
        raise UsageError(f"model is a {type(model).__name__}, expected a torch module, such as a learner's model_")
    how = None if federation is None else home_rows_in(model)
    if how is not None:
        raise UsageError(
            f"the model {how}, which the federation's ledger does not cover: leave federation= out and keep the model"
            " with that client, or export the shared model; if those rows are public, load the weights into a fresh"
            " module (load_state_dict) and export that"
        )
    tensors = _plain_tensors(model)
    content, not_included = {WEIGHTS: _weights(tensors)}, {}
    if program:
        try:
            content[PROGRAM] = _traced(model, tuple(feature_shape))
        except (RuntimeError, ValueError, TypeError, ImportError, AttributeError) as error:
            not_included[PROGRAM] = f"torch.export cannot trace the model: {str(error).splitlines()[0][:200]}"
    card = Card(
        format=CARD_FORMAT,
        version=CARD_VERSION,
        name=name,
        description=description,
        license=license,
        architecture=str(model),
        tensors=_facts(tensors),
        feature_shape=[checked_integer("a side of feature_shape", side, least=1) for side in feature_shape],
        classes=[str(label) for label in classes],
        data_sets=checked_data_sets(data_sets),
        privacy=None if federation is None else privacy_of(federation),
        metrics=_plain(metrics or {}),
        made_with=versions(),
        files=[FileFacts(file, len(data), sha256_of(data)) for file, data in sorted(content.items())],
        not_included=not_included,
    )
    content[README] = markdown(card).encode()
    card = msgspec.structs.replace(
        card, files=[*card.files, FileFacts(README, len(content[README]), sha256_of(content[README]))]
    )
    encoded = msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"
    _write_folder(target, {**content, CARD: encoded})
    return Deployed(target, sha256_of(encoded), card, model, tensors)


def load_deployed(
    path: str | os.PathLike[str],
    model: torch.nn.Module | None = None,
    *,
    digest: str | None = None,
    largest: int = LARGEST_WEIGHTS,
) -> Deployed:
    """Read a model that `export` wrote, checking everything before anything is loaded.

    Nothing in the folder is executed: weights come from `model.safetensors` alone. `model.pt2`, which holds a program,
    is checked for its digest and never opened.

    Args:
        path: of the folder.
        model: module to load the weights into; it is copied. None gives the tensors alone.
        digest: SHA-256 of `card.json` as the makers published it, in hexadecimal digits. Without it the folder is only
            checked against itself: whoever could change a file could change the card as well.
        largest: bytes of weights that are read at most.

    Raises:
        UsageError: a digest, size, name, type or shape differs, something is missing, too large, not finite or no
            plain file, or the weights do not fit the model. Nothing was loaded.
    """
    require_torch()
    folder = Path(path)
    encoded = read_plain(folder / CARD, most=LARGEST_CARD)
    found = sha256_of(encoded)
    if digest is not None and not secrets.compare_digest(found, digest.lower()):
        raise UsageError(f"{folder / CARD} has digest {found}, expected {digest}: this is not the model you asked for")
    card = _decoded(encoded, folder)
    files = {one.name: one for one in card.files}
    if len(files) != len(card.files) or not {WEIGHTS, README} <= set(files) <= KNOWN:
        raise UsageError(
            f"the card names files {sorted(one.name for one in card.files)}, expected some of {sorted(KNOWN)}"
        )
    content = {}
    for name, facts in files.items():
        data = read_plain(folder / name, most=largest, size=facts.size, sha256=facts.sha256)
        if name == WEIGHTS:
            content[name] = data
    tensors = _loaded(content[WEIGHTS], card, folder)
    return Deployed(folder, found, card, None if model is None else _filled(model, tensors), tensors)


def _plain_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    import torch

    tensors = {}
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"the model's state holds {name!r}, a {type(value).__name__}, expected tensors")
        plain = value.detach().cpu().contiguous().clone()
        if _dtype_name(plain) not in DTYPES:
            raise UsageError(f"tensor {name!r} is {plain.dtype}, expected one of {', '.join(DTYPES)}")
        if not bool(torch.isfinite(plain).all()):
            raise UsageError(f"tensor {name!r} holds NaN or infinity: such a model is of no use to anybody")
        tensors[name] = plain
    if not tensors:
        raise UsageError("the model has no weights")
    return tensors


def _weights(tensors: Mapping[str, torch.Tensor]) -> bytes:
    with needs_extra("torch", "exporting a model needs safetensors"):
        from safetensors.torch import save
    return bytes(save(dict(tensors)))


def _facts(tensors: Mapping[str, torch.Tensor]) -> list[TensorFacts]:
    return [TensorFacts(name, _dtype_name(value), list(value.shape)) for name, value in sorted(tensors.items())]


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _traced(model: torch.nn.Module, feature_shape: tuple[int, ...]) -> bytes:
    """Return what `torch.export` makes of the model, for any number of rows."""
    import io

    import torch

    module: Any = copy.deepcopy(model).cpu()
    module.train(False)
    first = next(iter(module.parameters()))
    example = torch.zeros((3, *feature_shape), dtype=first.dtype)  # not 1: torch would take that for fixed
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its future
        exported = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("rows")},))
        torch.export.save(exported, buffer)
    return buffer.getvalue()


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as JSON gives them back; numpy's numbers and arrays are numbers and lists there.

    Raises:
        UsageError: not of JSON's kinds, or numbers that are not finite.
    """
    plain = _plain_numbers("metrics", dict(metrics))
    try:
        return msgspec.json.decode(msgspec.json.encode(plain), type=dict[str, Any])
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"metrics are not plain JSON values: {error}. Give numbers, text, None, lists and dicts, such as float(x)"
        ) from None


def _plain_numbers(place: str, value: Any) -> Any:
    """Return a value with Python's numbers in the place of numpy's, refusing what is not finite."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{place} is {value}, which JSON cannot hold: write None and say why")
    if isinstance(value, Mapping):
        return {key: _plain_numbers(f"{place}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_numbers(f"{place}.{index}", inner) for index, inner in enumerate(value)]
    return value


def _write_folder(target: Path, content: Mapping[str, bytes]) -> None:
    """Write files into a new folder that appears whole."""
    part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        for name, data in content.items():
            with (part / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        part.rename(target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UsageError(f"{target} cannot be written: {error}") from error


def _decoded(encoded: bytes, folder: Path) -> Card:
    try:
        card = msgspec.json.decode(encoded, type=Card)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{folder / CARD} is no model card: {error}") from None
    if (card.format, card.version) != (CARD_FORMAT, CARD_VERSION):
        raise UsageError(
            f"{folder / CARD} is {card.format!r} version {card.version}, expected {CARD_FORMAT!r} {CARD_VERSION}"
        )
    return card


def _loaded(data: bytes, card: Card, folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a weights file whose digest is right, if they are those of the card."""
    import torch

    with needs_extra("torch", "loading a model needs safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load
    try:
        tensors: dict[str, torch.Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise UsageError(f"{folder / WEIGHTS} is no safetensors file: {error}") from None
    if _facts(tensors) != sorted(card.tensors, key=lambda one: one.name):
        raise UsageError(f"{folder / WEIGHTS} holds other tensors than the card names")
    odd = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if odd:
        raise UsageError(f"{folder / WEIGHTS} holds NaN or infinity in {', '.join(odd)}")
    return tensors


def _filled(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Return a copy of the module with these weights; names, types and shapes have to be its own."""
    if not hasattr(model, "load_state_dict"):
        raise UsageError(
            f"model is {model!r:.200}, expected a torch module to load the weights into: call whatever builds it,"
            " load_deployed(path, build())"
        )
    filled: torch.nn.Module = copy.deepcopy(model)
    own = {name: (value.dtype, value.shape) for name, value in filled.state_dict().items()}
    given = {name: (value.dtype, value.shape) for name, value in tensors.items()}
    if own != given:
        differing = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
        raise UsageError(
            f"the weights do not fit the model, which differs in name, type or shape of {', '.join(differing)}: build"
            " the module that the card's architecture shows"
        )
    filled.load_state_dict(dict(tensors), strict=True)
    return filled.train(False)
