"""Everything that a run of federated averaging does, checked and settled before anybody is asked for anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from privfed.errors import UsageError, checked_integer, checked_number
from privfed.federation.release import Federation
from privfed.learners.neural.averaging.compression import Compression
from privfed.learners.neural.averaging.local import LocalTraining
from privfed.learners.neural.averaging.objective import Anchor
from privfed.learners.neural.averaging.parameter_names import patterns_of
from privfed.learners.neural.averaging.server import ServerOptimizer
from privfed.learners.neural.averaging.update import LARGEST_NORM, LARGEST_ROWS
from privfed_accounting import Sampling

if TYPE_CHECKING:
    from privfed.learners.neural.averaging.learner import FederatedAveraging

__all__ = ["AveragingRecipe", "SamplingChoice"]

SamplingChoice: TypeAlias = "Sampling | Callable[[int], Sampling] | None"
Kind = TypeVar("Kind", Compression, Anchor)


@dataclass(frozen=True)
class AveragingRecipe:
    """The settings of a run, resolved for the federation that it is for.

    Attributes:
        rounds: rounds to do.
        training: at every client.
        server: what follows the mean change.
        private: whether the sums carry noise.
        by_records: whether clients weigh by their number of rows.
        largest_weight: public bound on that number; 0.0 if all clients weigh 1.
        weight_share, steps_share, control_share: parts of a round's privacy cost.
        clip: fixed norm, or the first one of an adaptive clip.
        adaptive: whether the norm moves.
        quantile, clip_rate: where to, and how fast.
        proximal, fednova, scaffold, control_clip: as in `FederatedAveraging`.
        share, noise_multiplier: of every round; both None spread what is left of the budget.
        sampling: who takes part.
        compression, anchor, personal: as in `FederatedAveraging`.
    """

    rounds: int
    training: LocalTraining
    server: ServerOptimizer
    private: bool
    by_records: bool
    largest_weight: float
    weight_share: float
    steps_share: float
    control_share: float
    clip: float
    adaptive: bool
    quantile: float
    clip_rate: float
    proximal: float
    fednova: bool
    scaffold: bool
    control_clip: float
    share: float | None
    noise_multiplier: float | None
    sampling: SamplingChoice
    clients_per_round: int | None
    compression: Compression | None
    anchor: Anchor | None
    personal: tuple[str, ...]

    @property
    def remembered(self) -> str:
        """What clients keep at home from round to round, in words; empty if nothing."""
        feedback = self.compression is not None and self.compression.error_feedback
        found = {"control variates": self.scaffold, "error feedback": feedback, "personal layers": bool(self.personal)}
        return " and ".join(name for name, kept in found.items() if kept)

    @classmethod
    def of(cls, learner: FederatedAveraging, federation: Federation) -> AveragingRecipe:
        """Return the recipe of a learner's parameters.

        Raises:
            UsageError: a parameter is wrong, or cannot be had together with another or with the budget.
        """
        private = federation.budget is not None
        by_records = _by_records(learner, private)
        clip, adaptive = _clip(learner, private)
        recipe = cls(
            rounds=checked_integer("rounds", learner.rounds, least=1),
            training=LocalTraining(
                learner.learning_rate,
                learner.local_epochs,
                0 if learner.batch_size is None else checked_integer("batch_size", learner.batch_size, least=1),
                learner.optimizer,
                learner.momentum,
                learner.weight_decay,
            ),
            server=ServerOptimizer(
                learner.server_optimizer,
                learner.server_learning_rate,
                learner.server_momentum,
                learner.server_second_moment,
                learner.server_adaptivity,
            ),
            private=private,
            by_records=by_records,
            largest_weight=_largest_weight(learner) if by_records else 0.0,
            weight_share=_fraction("weight_share", learner.weight_share) if by_records and private else 0.0,
            steps_share=_fraction("steps_share", learner.steps_share),
            control_share=_fraction("control_share", learner.control_share),
            clip=clip,
            adaptive=adaptive,
            quantile=_fraction("quantile", learner.quantile),
            clip_rate=checked_number("clip_rate", learner.clip_rate),
            proximal=0.0 if learner.proximal == 0 else checked_number("proximal", learner.proximal),
            fednova=_choice("normalisation", learner.normalisation, "fednova"),
            scaffold=bool(learner.control_variates),
            control_clip=_control_clip(learner, private),
            share=None if learner.share is None else _fraction("share", learner.share, most=1.0),
            noise_multiplier=_noise_multiplier(learner),
            sampling=learner.sampling,
            clients_per_round=_clients_per_round(learner),
            compression=_of_kind("compression", learner.compression, Compression),
            anchor=_of_kind("anchor", learner.anchor, Anchor),
            personal=patterns_of(learner.personal),
        )
        recipe._check_together()
        return recipe

    def sampling_of(self, n_clients: int) -> Sampling | None:
        """Return who takes part in the next round of a federation of so many clients; None leaves it to the federation.

        Raises:
            UsageError: more clients a round than there are.
        """
        if self.clients_per_round is not None:
            if self.clients_per_round > n_clients:
                raise UsageError(
                    f"clients_per_round is {self.clients_per_round}, the federation has {n_clients} clients"
                )
            return Sampling.fixed_size(self.clients_per_round, n_clients, unit="client")
        return self.sampling(n_clients) if callable(self.sampling) else self.sampling

    def settings(self) -> dict[str, float | int | str | None]:
        """Return what another run must have in common with this one to go on with it."""
        training, server = self.training, self.server
        return {
            "training": repr(training.as_fields()),
            "server": repr(
                (server.rule, server.learning_rate, server.momentum, server.second_moment, server.adaptivity)
            ),
            "weighting": "records" if self.by_records else "uniform",
            "largest_weight": self.largest_weight,
            "clip": "adaptive" if self.adaptive else self.clip,
            "proximal": self.proximal,
            "fednova": int(self.fednova),
            "scaffold": int(self.scaffold),
            "compression": "" if self.compression is None else repr(self.compression.as_fields()),
            "personal": " ".join(self.personal),
        }

    def _check_together(self) -> None:
        if self.share is not None and self.noise_multiplier is not None:
            raise UsageError("share and noise_multiplier are two ways to say one thing: give one of them, or neither")
        if self.noise_multiplier is not None and not self.private:
            raise UsageError(
                "noise_multiplier is given, but the federation has no budget, and so no noise: leave it out"
            )
        plain = self.training.optimizer == "sgd" and not self.training.momentum
        if self.scaffold and not plain:
            raise UsageError(
                "control_variates stand for mean gradients, which plain SGD alone lets one work out: use"
                ' optimizer="sgd" with momentum=0.0'
            )
        if self.fednova and self.training.optimizer != "sgd":
            raise UsageError('normalisation="fednova" counts the steps of SGD: use optimizer="sgd"')
        if self.fednova and not self.by_records and self.private:
            raise UsageError(
                'normalisation="fednova" sums numbers of steps, which follow from numbers of rows: under a budget use'
                ' weighting="records" with their public bound, largest_weight='
            )
        if self.scaffold and (self.compression is not None or self.personal):
            raise UsageError(
                "control_variates are for whole models: leave compression and personal layers out, or the variates"
            )
        if self.fednova and self.scaffold:
            raise UsageError("normalisation and control_variates correct the same drift in two ways: choose one")


def _by_records(learner: FederatedAveraging, private: bool) -> bool:
    if learner.weighting not in (None, "records", "uniform"):
        raise UsageError(f"weighting is {learner.weighting!r}, expected 'records', 'uniform' or None")
    if learner.weighting == "records" and private and learner.largest_weight is None:
        raise UsageError(
            "weighting='records' under a budget needs largest_weight=, a public bound on the rows of a client that"
            " count; or use weighting='uniform'"
        )
    if learner.weighting is None:
        return not private or learner.largest_weight is not None
    return learner.weighting == "records"


def _largest_weight(learner: FederatedAveraging) -> float:
    given = learner.largest_weight
    return LARGEST_ROWS if given is None else checked_number("largest_weight", given)


def _clip(learner: FederatedAveraging, private: bool) -> tuple[float, bool]:
    """Return the (first) clip norm, and whether it moves."""
    if learner.clip == "adaptive" or (learner.clip is None and private):
        return checked_number("initial_clip", learner.initial_clip), True
    if isinstance(learner.clip, str):
        raise UsageError(f"clip is {learner.clip!r}, expected 'adaptive', a number above 0, or None")
    return (LARGEST_NORM if learner.clip is None else checked_number("clip", learner.clip)), False


def _control_clip(learner: FederatedAveraging, private: bool) -> float:
    if learner.control_clip is not None:
        return checked_number("control_clip", learner.control_clip)
    if learner.control_variates and private:
        raise UsageError(
            "control_variates under a budget need control_clip=, a public bound on how far a client's variate moves in"
            " a round, in the units of a gradient"
        )
    return LARGEST_NORM


def _fraction(name: str, value: object, *, most: float = 0.999999) -> float:
    number = checked_number(name, value, what="a fraction between 0 and 1")
    if number > most:
        raise UsageError(f"{name} is {value!r}, expected a fraction between 0 and 1")
    return number


def _of_kind(name: str, value: Kind | None, kind: type[Kind]) -> Kind | None:
    if value is not None and not isinstance(value, kind):
        raise UsageError(f"{name} is {value!r}, expected a {kind.__name__}, or None")
    return value


def _choice(name: str, value: object, only: str) -> bool:
    if value not in (None, only):
        raise UsageError(f"{name} is {value!r}, expected {only!r} or None")
    return value == only


def _noise_multiplier(learner: FederatedAveraging) -> float | None:
    given = learner.noise_multiplier
    return None if given is None else checked_number("noise_multiplier", given)


def _clients_per_round(learner: FederatedAveraging) -> int | None:
    if learner.clients_per_round is None:
        if not (learner.sampling is None or isinstance(learner.sampling, Sampling) or callable(learner.sampling)):
            raise UsageError(f"sampling is {learner.sampling!r}, expected a privfed.Sampling or None")
        return None
    if learner.sampling is not None:
        raise UsageError("clients_per_round and sampling both say who takes part: give one of them")
    return checked_integer("clients_per_round", learner.clients_per_round, least=2)
