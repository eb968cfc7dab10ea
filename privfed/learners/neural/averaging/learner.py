"""Federated averaging of torch models: the learner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from privfed.errors import warn_caller
from privfed.federation.release import Federation
from privfed.learners.neural.averaging.compression import Compression
from privfed.learners.neural.averaging.local import LocalOptimizer
from privfed.learners.neural.averaging.objective import Anchor
from privfed.learners.neural.averaging.parameter_names import refuse_unmatched
from privfed.learners.neural.averaging.recipe import AveragingRecipe, SamplingChoice
from privfed.learners.neural.averaging.rounds import expected_clients, one_round, query_of
from privfed.learners.neural.averaging.server import ServerRule
from privfed.learners.neural.averaging.trial import refuse_untrainable
from privfed.learners.neural.losses import LossLike, require_torch
from privfed.learners.neural.network_learner import NetworkLearner
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.running import round_share, run_rounds
from privfed.learners.neural.schedule import Payment, Schedule, fixed_schedule, warn_if_drowned
from privfed.learners.neural.state import Callbacks, TrainingState
from privfed.query import FloatArray

if TYPE_CHECKING:
    import torch

__all__ = ["FederatedAveraging"]

RECORDS: Final = (
    'a budget of unit "record" is better spent by FederatedSGD, which clips each record on its own, not a client\'s'
    " update as a whole"
)


@dataclass(eq=False, repr=False)
class FederatedAveraging(NetworkLearner):
    """Train one network on everybody's data: clients train for a while, the mean of their changes moves the model.

    McMahan, Moore, Ramage, Hampson and Aguera y Arcas 2017 (FedAvg, arXiv:1602.05629), and what has been added to it:
    a proximal term (FedProx, arXiv:1812.06127), normalisation by steps (FedNova, arXiv:2007.07481), control variates
    (SCAFFOLD, arXiv:1910.06378), server optimisers (FedAdam, FedYogi, FedAdagrad, arXiv:2003.00295), clipping to a
    quantile under client-level privacy (arXiv:1905.03871). Rows are `[features..., target]`, or `(X, y)` of a
    `LocalFederation`.

    Args:
        model: torch module; it is copied, and stays as it is.
        loss: "cross_entropy", "binary_cross_entropy", "mse", a torch loss, or a callable, see `row_loss`.
        rounds: rounds to do.
        learning_rate, local_epochs, batch_size, optimizer, momentum, weight_decay: of training at the clients, see
            `LocalTraining`; batch_size None takes all rows in one step.
        weighting: "records" weighs a client by its number of rows, "uniform" all alike; None is "records", but
            "uniform" under a budget without a `largest_weight`.
        largest_weight: public bound on the rows of a client that count; clients beyond it weigh that much.
        weight_share: part of a round's privacy cost for the sum of weights.
        proximal: FedProx's mu: adds `mu / 2 |w - w_t|^2` to every client's objective.
        normalisation: "fednova" divides every change by its number of steps, so that clients with more steps do not
            pull harder; clip norms are then per step.
        steps_share: part of a round's privacy cost for the sum of steps.
        control_variates: SCAFFOLD, option II. Clients remember theirs; changes of them ride in the vector.
        control_clip: under a budget, bound on how far one moves a round, in the units of a gradient.
        control_share: part of a round's privacy cost for the control variates.
        server_optimizer, server_learning_rate, server_momentum, server_second_moment, server_adaptivity: see
            `ServerOptimizer`.
        clip: L2 norm to which a client's change is cut: a number, "adaptive", or None for "adaptive" under a budget and
            a bound of 4096 without, beyond which a warning says how many were cut.
        quantile: "adaptive": the fraction of clients that should go unclipped.
        initial_clip, clip_rate: "adaptive": the first norm, and the step of its logarithm.
        share: part of the WHOLE budget that training may cost, in equal parts for `rounds` rounds; None for all that is
            left, less what callbacks ask for.
        noise_multiplier: instead of a share.
        clients_per_round: size of a cohort, drawn anew every round.
        sampling: instead, a `Sampling`, or a function that makes one for a number of clients; None leaves it to the
            federation.
        compression: how changes are shortened, see `Compression`.
        anchor: a term of every client's objective that pulls to a known point, see `Anchor`.
        personal: patterns of parameter names ("head.*") that each client trains for itself and keeps at home, under
            `personal:<name>` in its memory.
        callbacks: one or several, see `Callback`.
        verbose: show every round as it ends, by `Progress`; an integer shows every so many.
        random_state: seed of everything that is public and random; never of noise.
        device: where training runs: "cpu", "cuda", ...
        dtype: of the parameters in training, "float32" or "float64".
        feature_shape, n_targets: of the rows, where the federation does not say, or says otherwise.
        class_targets: whether a callable loss takes class numbers.

    Attributes:
        model_, parameters_, program_, history_, epsilon_, n_rounds_, stop_reason_, state_, n_features_in_: see
            `FittedNetwork`.
        releases_: one per round of this fit; all but the last without their long blocks.

    Guarantees:
        Clients send nothing but their part of the sums that `releases_` lists. A client's number of rows, number of
        steps and clipping flag are coordinates of the protected vector. All arithmetic of the server is on releases and
        public constants. Under a budget the divisor is a released weight, or a number of clients, never a true count.
        A client without rows, or whose training fails or comes to NaN, adds zeros; only its own log says so.

    Examples:
        >>> import numpy as np, torch
        >>> from privfed import LocalFederation
        >>> from privfed.learners.neural import FederatedAveraging
        >>> rng = np.random.default_rng(0)
        >>> X = [rng.normal(size=(40, 2)) for _ in range(3)]
        >>> federation = LocalFederation([(x, (x.sum(axis=1) > 0).astype(float)) for x in X])
        >>> learner = FederatedAveraging(torch.nn.Linear(2, 2), rounds=5, learning_rate=0.5, random_state=0)
        >>> float(np.mean(learner.fit(federation).predict(X[0]) == (X[0].sum(axis=1) > 0))) > 0.9
        True
    """

    _: KW_ONLY
    rounds: int
    learning_rate: float = 0.1
    local_epochs: int = 1
    batch_size: int | None = 32
    optimizer: LocalOptimizer = "sgd"
    weighting: str | None = None
    largest_weight: float | None = None
    weight_share: float = 0.1
    proximal: float = 0.0
    normalisation: str | None = None
    steps_share: float = 0.05
    control_variates: bool = False
    control_clip: float | None = None
    control_share: float = 0.5
    server_optimizer: ServerRule = "sgd"
    server_learning_rate: float = 1.0
    server_momentum: float | None = None
    server_second_moment: float = 0.99
    server_adaptivity: float = 1e-3
    clip: float | str | None = None
    quantile: float = 0.5
    initial_clip: float = 0.1
    clip_rate: float = 0.2
    clients_per_round: int | None = None
    sampling: SamplingChoice = None
    compression: Compression | None = None
    anchor: Anchor | None = None
    personal: str | Iterable[str] = ()

    @classmethod
    def gradient_descent(cls, model: torch.nn.Module, loss: LossLike = "cross_entropy", **settings: Any) -> Self:
        """Return FedSGD: every client takes one step on all its rows, so that a round is one step of gradient descent
        on everybody's rows together. `settings` are those of the class but for epochs and batch size.
        """  # fmt: skip
        return cls(model, loss, **{**settings, "local_epochs": 1, "batch_size": None})

    def fit(self, federation: Federation, y: None = None, *, resume_from: TrainingState | None = None) -> Self:
        """Train the model on the clients of `federation`.

        Args:
            federation: whose clients train.
            y: ignored, for scikit-learn's sake.
            resume_from: the state of an earlier run with the same settings. It goes on after the rounds that are done,
                up to `rounds` in all; without `share` the rest of the budget is spread over the rest of the rounds.

        Raises:
            UsageError: a setting is wrong, the model cannot be trained in private, or the state is of another run.
                Nothing was asked of anybody.
            BudgetExhausted: the budget does not allow the first round.
            DataError, FederationError: see `Federation.release`. The callbacks have seen the last state.
        """
        recipe, program, state = self._prepared(federation, resume_from)
        callbacks = self._lookers_on()
        left = recipe.rounds - state.round
        share = self._share(recipe, federation, callbacks, left)
        if recipe.private and left > 0:
            schedule = _scheduled(recipe, federation, state, share, left)
            warn_if_drowned(
                schedule,
                remedy="more clients a round, fewer parameters (compression=, personal layers, a smaller model)"
                + (f"; {RECORDS}" if schedule.unit == "record" else ""),
            )
        state, reason = run_rounds(
            lambda now: one_round(recipe, federation, now, share), state, callbacks, interrupted=self._keep
        )
        self._finish(program, state, reason)
        self.releases_ = list(state.releases)
        return self

    def decision_function(self, X: Any) -> FloatArray:
        """Return the outputs of the shared model, float64, one per row of `X`; see `FittedNetwork`.

        With `personal` layers a warning says that the shared model holds them as they were at the start.
        """
        found = super().decision_function(X)
        own = str(self.state_.settings.get("personal", ""))
        if own:
            warn_caller(
                f"the layers {own} are personal: every client trained its own and keeps it, the shared model has them"
                " as they were at the start. A client's own model has those of its memory, under personal:<name>;"
                " privfed.transfer.FineTuning(personal=).personal_model puts them together"
            )
        return found

    def plan(self, federation: Federation) -> Schedule:
        """Return rounds, noise and cost of a fit on this federation, before anything is spent. Costs nothing.

        Of an adaptive clip it is the first round's; the noise of the others is the same multiple of their clips.

        Raises:
            UsageError: as `fit` would, before it asks anybody.
        """
        recipe, _program, state = self._prepared(federation, None)
        share = self._share(recipe, federation, self._lookers_on(), recipe.rounds)
        return _scheduled(recipe, federation, state, share, recipe.rounds)

    def _prepared(
        self, federation: Federation, earlier: TrainingState | None
    ) -> tuple[AveragingRecipe, TorchProgram, TrainingState]:
        """Return all that is settled before anybody is asked for anything."""
        require_torch()
        federation, program = self._program(federation, per_sample=False)
        recipe = AveragingRecipe.of(self, federation)
        _check_shapes(recipe, program)
        refuse_untrainable(program, recipe.training)
        arrays: dict[str, FloatArray] = {}
        if recipe.adaptive:
            arrays["clip"] = np.asarray(recipe.clip)
        if recipe.scaffold:
            arrays["control"] = np.zeros(program.n_parameters)
        state = self._state(
            program,
            federation,
            settings=recipe.settings(),
            rounds=recipe.rounds,
            arrays=arrays,
            earlier=earlier,
        )
        if earlier is not None and earlier.round and recipe.remembered:
            _warn_if_forgotten(recipe.remembered, federation)
        self._held = program  # clients know it by name, and weakly
        return recipe, program, state

    def _share(self, recipe: AveragingRecipe, federation: Federation, callbacks: Callbacks, left: int) -> float | None:
        """Return what part of the whole budget a round may cost; None where a noise multiplier says it, or nobody."""
        if not recipe.private or recipe.noise_multiplier is not None or left < 1:
            return None
        reserved = callbacks.budget_share(left)
        return round_share(federation, recipe.share, rounds=recipe.rounds, left=left, reserved=reserved)


def _scheduled(
    recipe: AveragingRecipe, federation: Federation, state: TrainingState, share: float | None, rounds: int
) -> Schedule:
    """Return what the rounds to come cost and carry."""
    sampling = recipe.sampling_of(federation.n_clients)
    payment = Payment() if share is None else Payment(share=share)
    if recipe.noise_multiplier is not None:
        payment = Payment(noise_multiplier=recipe.noise_multiplier)
    query = query_of(recipe, state, federation, share, sampling)
    block = "delta" if recipe.private else "limbs"
    clients = expected_clients(federation, sampling)
    schedule = fixed_schedule(
        federation, query, rounds=rounds, sampling=sampling, payment=payment, block=block, divisor=clients
    )
    return replace(schedule, advice=RECORDS) if schedule.unit == "record" else schedule


def _warn_if_forgotten(remembered: str, federation: Federation) -> None:
    """Say so where a run goes on among clients of which none remembers anything."""
    if getattr(federation, "n_memories", None) != 0:  # None where nobody knows
        return
    warn_caller(
        f"clients keep {remembered} from round to round, and no client of this federation remembers anything: the run"
        " goes on with new ones. Give LocalFederation(memories={name: StoredMemory(path)}) to the first federation of a"
        " run and to the next"
    )


def _check_shapes(recipe: AveragingRecipe, program: TorchProgram) -> None:
    """Refuse what does not fit the model, before anybody is asked."""
    if recipe.compression is not None:
        recipe.compression.over(program.layout)
    if recipe.anchor is not None:
        recipe.anchor.bind([value for _, value in program.trainable()])
    refuse_unmatched("personal", recipe.personal, [name for name, _ in program.layout])
