"""Fine-tuning at home: a client makes the shared model its own, and nothing leaves it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from privfed.errors import DataError, UsageError
from privfed.learners.neural.averaging.local import LocalOptimizer, LocalTraining, train
from privfed.learners.neural.averaging.parameter_names import patterns_of
from privfed.learners.neural.losses import LossLike
from privfed.learners.neural.program import TorchProgram
from privfed.transfer.provenance import mark_home_rows
from privfed.transfer.schedule import Proximal, anchor_for, freeze_all_but, strengths_of

if TYPE_CHECKING:
    import torch

__all__ = ["personalise"]


def personalise(
    model: torch.nn.Module,
    X: Any,
    y: Any,
    *,
    loss: LossLike = "cross_entropy",
    proximal: Proximal = 0.1,
    epochs: int = 5,
    learning_rate: float = 0.05,
    batch_size: int | None = 32,
    momentum: float = 0.0,
    optimizer: LocalOptimizer = "sgd",
    trainable: str | tuple[str, ...] = "*",
    random_state: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
) -> torch.nn.Module:
    """Return a copy of `model` tuned to one client's own rows, held near where it started.

    Minimises `L(w) + sum_j lambda_j |w_j - w0_j|^2` with w0 the shared model: with a strong pull the shared model
    comes back, with none the client trains alone. It runs where the rows are and sends nothing; what it returns was
    trained on those rows without protection, so that it must stay there, too. It is marked as such, copies and what
    is trained from it as well: `export` refuses to claim a federation's budget for it.

    Args:
        model: the shared model; stays as it is.
        X: features, `(rows, *feature_shape)`. y: one target per row, or `(rows, targets)`.
        loss: as for `FederatedAveraging`.
        proximal: lambda for all tensors, or pattern of names -> lambda, see `FineTuning`.
        epochs, learning_rate, batch_size, momentum, optimizer: of training; batch_size None takes all rows at once.
        trainable: patterns of the parameters that are tuned; the others stay.
        random_state: of the rows' order, >= 0.
        device, dtype: of training.

    Raises:
        UsageError: a setting is wrong or does not fit the model.
        DataError: no rows, another number of targets, or values that cannot be used.

    Sources: the prox to a shared model in personalisation: Li, Hu, Beirami and Smith 2021, Ditto, arXiv:2012.04221;
    Hanzely and Richtarik 2020, arXiv:2002.05516.
    """
    if not hasattr(model, "state_dict"):
        raise UsageError(f"model is a {type(model).__name__}, expected a torch module, such as a learner's model_")
    features, targets = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if features.ndim < 2 or not len(features) or len(targets) != len(features):
        raise DataError(
            f"X has shape {features.shape} and y {targets.shape}, expected as many rows of both, and at least one"
        )
    rows = np.hstack([features.reshape(len(features), -1), targets.reshape(len(features), -1)])
    if not np.isfinite(rows).all():
        raise DataError("the rows hold NaN or infinity: impute or drop those first")
    tuned = copy.deepcopy(model)
    named = dict(tuned.named_parameters())
    freeze_all_but(tuned, patterns_of(trainable), named)
    start = {name: value.detach().cpu().double().numpy().copy() for name, value in named.items()}
    strengths = dict(zip(named, strengths_of(named, proximal).tolist(), strict=True))
    program = TorchProgram(
        tuned,
        loss,
        feature_shape=features.shape[1:],
        n_targets=rows.shape[1] - features[0].size,
        dtype=dtype,
        device=device,
    )
    program.check_rows(rows)
    training = LocalTraining(learning_rate, epochs, batch_size or 0, optimizer, momentum)
    anchor = anchor_for(tuned, start, strengths)
    trained = train(
        program,
        program.parameters(),
        rows,
        training,
        seed=random_state,
        objectives=() if anchor is None else (anchor,),
    )
    if not np.isfinite(trained.delta).all():
        raise UsageError(f"training came to NaN or infinity: lower learning_rate, now {learning_rate:g}")
    personal = program.to_model(program.parameters())
    return mark_home_rows(
        personal.requires_grad_(True).train(False), "was tuned on a client's own rows by personalise()"
    )
