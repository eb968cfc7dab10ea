"""What learners of networks have in common: the model's side of their constructors, and how a fit begins."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from privfed.errors import UsageError, warn_caller
from privfed.federation.release import Federation
from privfed.learners.neural.fitted_network import FittedNetwork
from privfed.learners.neural.losses import LossLike
from privfed.learners.neural.per_sample.public_rows import PublicRows
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.progress import Progress
from privfed.learners.neural.refusals import refuse_unsuitable
from privfed.learners.neural.running import draw_seed, going_on, program_for
from privfed.learners.neural.state import Callbacks, HistoryRow, TrainingState
from privfed.query import FloatArray
from privfed.statistics.programs import install

if TYPE_CHECKING:
    import torch

__all__ = ["NetworkLearner"]


@dataclass(eq=False, repr=False)
class NetworkLearner(FittedNetwork):
    """Base of learners that train a torch module; arguments are stored as given and checked in `fit`.

    Args:
        model: torch module; it is copied, and stays as it is.
        loss: "cross_entropy", "binary_cross_entropy", "mse", a torch loss, or a callable, see `row_loss`.
        momentum, weight_decay: as in `torch.optim.SGD`.
        share: part of the WHOLE budget, of what the learner says.
        noise_multiplier: instead of a share.
        callbacks: one or several, see `Callback`.
        verbose: show every round as it ends, by `Progress`; an integer shows every so many.
        random_state: seed of everything that is public and random; never of noise.
        device, dtype: where and in what training runs.
        feature_shape, n_targets: of the rows, where the federation does not say, or says otherwise.
        class_targets: whether a callable loss takes class numbers.
    """

    model: torch.nn.Module
    loss: LossLike = "cross_entropy"
    _: KW_ONLY
    momentum: float = 0.0
    weight_decay: float = 0.0
    share: float | None = None
    noise_multiplier: float | None = None
    callbacks: object = None
    verbose: bool | int = False
    random_state: object = None
    device: str | torch.device = "cpu"
    dtype: str | torch.dtype = "float32"
    feature_shape: tuple[int, ...] | None = None
    n_targets: int | None = None
    class_targets: bool | None = None

    def _program(self, federation: object, *, per_sample: bool) -> tuple[Federation, TorchProgram]:
        """Return the federation and the model on its rows, refusing what cannot be trained.

        Raises:
            UsageError: no federation, or a model that cannot be private or does not take its rows.
        """
        if not isinstance(federation, Federation):
            raise UsageError(
                f"fit takes a federation, such as privfed.LocalFederation, not {type(federation).__name__}"
            )
        refuse_unsuitable(self.model, per_sample=per_sample)
        program = program_for(
            federation,
            self.model,
            self.loss,
            feature_shape=self.feature_shape,
            n_targets=self.n_targets,
            dtype=self.dtype,
            device=self.device,
            class_targets=self.class_targets,
        )
        _check_last_layer(program)
        return federation, program

    def _state(
        self,
        program: TorchProgram,
        federation: Federation,
        *,
        settings: HistoryRow,
        rounds: int,
        arrays: Mapping[str, FloatArray],
        earlier: TrainingState | None,
    ) -> TrainingState:
        """Return the state before the first round of this fit.

        Raises:
            UsageError: the earlier run is another one, or a callback cannot work.
        """
        fresh = TrainingState(
            learner=type(self).__name__,
            settings={**settings, "run": secrets.token_hex(8)},
            program=install(program),
            seed=draw_seed(self.random_state),
            round=0,
            rounds=rounds,
            parameters=program.parameters(),
            arrays=arrays,
            model=program,
            federation=federation,
        )
        state = fresh if earlier is None else going_on(earlier, fresh)
        self._lookers_on().check(state)
        return state

    def _lookers_on(self) -> Callbacks:
        """Return the callbacks, and the table that `verbose` asks for behind them."""
        given: Any = self.callbacks
        verbose: Any = self.verbose
        if not isinstance(verbose, bool | int) or verbose < 0:
            raise UsageError(f"verbose is {verbose!r}, expected True, False, or every how many rounds to show one")
        if not verbose:
            return Callbacks(given)
        several = given if isinstance(given, list | tuple) else () if given is None else (given,)
        return Callbacks((*several, Progress(every=int(verbose))))


def _check_last_layer(program: TorchProgram) -> None:
    """Say so where a model squashes its outputs, and the loss, which takes logits, does it again.

    Raises:
        UsageError: the loss takes probabilities, and the model gives others.
    """
    layers, last = list(program.model.children()), program.model
    while type(last).__name__ == "Sequential" and layers:
        last = layers[-1]
        layers = list(last.children())
    loss = type(program.loss.function).__name__
    if loss == "BCELoss" and "between 0 and 1" in program.derived(PublicRows).trouble:
        raise UsageError(
            "BCELoss takes probabilities, and the model gives numbers beyond 0 and 1: use"
            ' loss="binary_cross_entropy", which takes logits, or let the model end in Sigmoid'
        )
    if (loss, type(last).__name__) in (("BCEWithLogitsLoss", "Sigmoid"), ("CrossEntropyLoss", "Softmax")):
        warn_caller(
            f"the model ends in {type(last).__name__}, and {program.loss.description} takes logits and does the same"
            " once more: training is slow, and predictions are not what they seem. Leave the last layer out"
        )
