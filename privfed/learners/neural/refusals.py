"""Models that cannot be trained in private, refused before any data are touched, with what to put in their place."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from privfed.errors import UsageError
from privfed.learners.neural.losses import require_torch

if TYPE_CHECKING:
    import torch

__all__ = ["refuse_unsuitable"]

MOST_GROUPS: Final = 32  # of a GroupNorm, after Wu and He 2018, arXiv:1803.08494
BATCH_NORMS: Final = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
RANDOM_LAYERS: Final = (
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "AlphaDropout",
    "FeatureAlphaDropout",
)
RECURRENT: Final = ("RNN", "LSTM", "GRU")


def refuse_unsuitable(model: torch.nn.Module, *, per_sample: bool) -> None:
    """Refuse a model that private training cannot handle; all that is wrong with it in one message.

    Args:
        model: as the user gave it.
        per_sample: whether each record's own gradient is clipped (`FederatedSGD`), or each client's update as a whole.

    Refused always: batch normalisation and running statistics (they mix the records of a batch, and leave beside the
    protected sum), parameters that are no real floating-point numbers, or hold NaN or infinity, and models with nothing
    to train. Refused for gradients per sample also: dropout and other random layers (whose masks would hang on a
    record's place), one parameter under two names, and torch's own recurrent layers.

    A batch normalisation that is wholly frozen and keeps running statistics is a fixed map to gradients per sample,
    which are taken in evaluation mode, and passes there.

    Raises:
        UsageError: naming each layer, and its replacement.
    """
    require_torch()
    import torch

    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    found = [*_parameter_problems(model), *_layer_problems(model, per_sample=per_sample)]
    if per_sample:
        found += _tied(model)
    if found:
        raise UsageError("this model cannot be trained in private: " + "; ".join(found))


def _parameter_problems(model: torch.nn.Module) -> Iterator[str]:
    import torch

    trainable = False
    for name, value in model.named_parameters():
        if isinstance(value, torch.nn.parameter.UninitializedParameter) or value.is_meta:
            yield f"parameter {name!r} has no values yet: run one batch of public rows through the model first"
            continue
        if not value.is_floating_point():
            yield f"parameter {name!r} is {value.dtype}: use real floating-point numbers, or make it a buffer"
            continue
        trainable = trainable or value.requires_grad
        if not bool(torch.isfinite(value).all()):
            yield f"parameter {name!r} holds NaN or infinity: initialise it anew"
    if not trainable and not any(value.is_meta for value in model.parameters()):
        yield "no parameter requires a gradient, there is nothing to train: call requires_grad_(True) on some"


def _layer_problems(model: torch.nn.Module, *, per_sample: bool) -> Iterator[str]:
    for name, module in model.named_modules():
        kind, where = type(module).__name__, f"layer {name!r}" if name else "the model"
        if kind in BATCH_NORMS or kind.startswith("LazyBatchNorm"):
            if not (per_sample and _is_fixed(module)):
                yield f"{where} is {kind}, which mixes the records of a batch: use {_group_norm(module)}"
        elif getattr(module, "track_running_stats", False):
            yield f"{where} is {kind} with running statistics: use track_running_stats=False, or {_group_norm(module)}"
        elif not per_sample:
            continue
        elif (kind in RANDOM_LAYERS and module.p > 0) or kind == "RReLU":
            instead = "LeakyReLU" if kind == "RReLU" else "p=0 or Identity(), and weight_decay against overfitting"
            yield f"{where} is {kind}, whose random numbers hang on a record's place in its batch: use {instead}"
        elif kind in RECURRENT and _trains(module):
            yield f"{where} is {kind}, which has no gradients per sample: use torch.nn.{kind}Cell, step by step"
        elif kind == "MultiheadAttention" and module.dropout:
            yield f"{where} is {kind} with dropout {module.dropout}: use dropout=0"


def _is_fixed(module: torch.nn.Module) -> bool:
    """Return whether a normalisation is the same map for every batch in evaluation mode, and stays so."""
    return bool(getattr(module, "track_running_stats", False)) and not _trains(module)


def _trains(module: torch.nn.Module) -> bool:
    return any(value.requires_grad for value in module.parameters())


def _group_norm(module: torch.nn.Module) -> str:
    channels = getattr(module, "num_features", 0)
    if not channels:
        return "GroupNorm"
    return f"GroupNorm({math.gcd(MOST_GROUPS, int(channels))}, {channels})"


def _tied(model: torch.nn.Module) -> Iterator[str]:
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, value in model.named_parameters(remove_duplicate=False):
        if value.requires_grad:
            names[id(value)].append(name)
    for shared in names.values():
        if len(shared) > 1:
            listed = " and ".join(map(repr, shared))
            yield f"parameters {listed} are one and the same: give each its own, or freeze it"
