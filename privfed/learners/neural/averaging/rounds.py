"""One round of federated averaging: ask, divide, step. All that is used is a release or a public constant."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Final

import numpy as np

from privfed.errors import warn_caller
from privfed.federation.release import Federation, Release
from privfed.learners.neural.averaging.recipe import AveragingRecipe
from privfed.learners.neural.averaging.update import LARGEST_NORM, NOTHING, ModelUpdate, UpdateSums
from privfed.learners.neural.state import HistoryRow, TrainingState
from privfed.mechanism.adaptive_clip import COUNT_SHARE, next_bound
from privfed.query import FloatArray
from privfed_accounting import Sampling

__all__ = ["expected_clients", "one_round", "query_of", "round_seed"]

TRIAL_COUNT: Final = 0.1  # part of the vector's length, tried to learn what noise a count would carry
LEAST_COUNT, MOST_COUNT = 0.01, 0.5
MOMENTS: Final[tuple[str, ...]] = ("first_moment", "second_moment")
SHORT: Final = 64  # numbers of a block that stays with a release
DROWNED: Final = 2.0  # standard deviations below which a mean weight says next to nothing


def one_round(
    recipe: AveragingRecipe, federation: Federation, state: TrainingState, share: float | None
) -> TrainingState:
    """Return the state after one more round.

    Args:
        recipe: what to do.
        federation: whose clients train.
        state: where the run stands.
        share: part of the whole budget that the round may cost; None where a noise multiplier says it, or nobody.

    Raises:
        BudgetExhausted, FederationError: see `Federation.release`; the state that was given still stands.
    """
    began = time.perf_counter()
    sampling = recipe.sampling_of(federation.n_clients)
    query = query_of(recipe, state, federation, share, sampling)
    release = federation.release(
        query,
        share=share,
        noise_multiplier=recipe.noise_multiplier,
        sampling=sampling,
        purpose=f"federated averaging, round {state.round + 1}",
        rounds=max(1, recipe.rounds - state.round),
    )
    sums = query.sums(release)
    arrays = dict(state.arrays)
    weight = _total_weight(recipe, query, release, sums, arrays)
    parameters, change = state.parameters, np.zeros(query.length)
    if weight > 0.0:
        change = sums.mean(weight)
        if recipe.fednova and sums.steps is not None:
            change = change * _mean_steps(recipe, release, sums.steps, weight, arrays)
        change = query.expand(change)
        moments = {name: arrays[name] for name in MOMENTS if name in arrays}
        parameters, moments = recipe.server.step(parameters, change, moments)
        arrays.update(moments)
        if sums.control is not None:
            taking_part = release.divisor if sums.contributed is None else float(sums.contributed)
            arrays["control"] = arrays["control"] + taking_part / federation.n_clients * sums.control / weight
    else:
        warn_caller(
            f"nobody contributed to round {state.round + 1}, the model stays as it is: clients have no rows, or their"
            " training diverges (lower learning_rate)"
        )
    if recipe.adaptive:
        arrays["clip"] = np.asarray(_next_clip(recipe, query, release, sums))
    _point_out(recipe, query, sums)
    row = _row(
        state.round + 1,
        query,
        release,
        sums,
        moved=float(np.linalg.norm(change)),
        epsilon=None if federation.budget is None else release.epsilon.get(str(federation.budget.view)),
        began=began,
    )
    return replace(
        state,
        round=state.round + 1,
        parameters=parameters,
        arrays=arrays,
        history=(*state.history, row),
        releases=(*state.releases[:-1], *map(_slim, state.releases[-1:]), release),
    )


def _slim(release: Release) -> Release:
    """Return the release without its long blocks: a run of many rounds would otherwise fill the memory with them."""
    short = {name: value for name, value in release.values.items() if value.size <= SHORT}
    return replace(release, values=short)


def round_seed(seed: int, purpose: str, number: int) -> bytes:
    """Return 32 public bytes that follow from a run's seed."""
    return hashlib.sha256(f"privfed {purpose}/{seed}/{number}".encode()).digest()


def query_of(
    recipe: AveragingRecipe,
    state: TrainingState,
    federation: Federation,
    share: float | None,
    sampling: Sampling | None,
) -> ModelUpdate:
    """Return what is asked of clients in the round after `state`."""
    query = ModelUpdate(
        program=state.program,
        parameters=state.parameters,
        training=recipe.training.as_fields(),
        seed=int.from_bytes(round_seed(state.seed, "local training", state.round + 1)[:8], "big") >> 1,
        run=str(state.settings["run"]),
        clip=float(state.arrays["clip"]) if recipe.adaptive else recipe.clip,
        largest_weight=recipe.largest_weight,
        weight_share=recipe.weight_share,
        exact=not recipe.private,
        proximal=recipe.proximal,
        normalise=recipe.fednova,
        steps_share=recipe.steps_share,
        control_clip=recipe.control_clip,
        control_share=recipe.control_share,
        round_seed=round_seed(state.seed, "compression", state.round + 1),
        personal=recipe.personal,
        control=state.arrays["control"] if recipe.scaffold else NOTHING,
        anchor=NOTHING if recipe.anchor is None else recipe.anchor.weights,
        anchor_strengths=NOTHING if recipe.anchor is None else recipe.anchor.strengths,
        compression=() if recipe.compression is None else recipe.compression.as_fields(),
    )
    if not (recipe.adaptive and recipe.private):
        return query
    trial = replace(  # of one parameter: what noise a count carries does not hang on how long the vector is
        query,
        count_weight=TRIAL_COUNT,
        parameters=np.zeros(1),
        control=query.control[:1],
        anchor=NOTHING,
        compression=(),
        personal=(),
    )
    noise = federation.noise_std(trial, share, noise_multiplier=recipe.noise_multiplier, sampling=sampling)["unclipped"]
    wanted = COUNT_SHARE * expected_clients(federation, sampling)
    return replace(query, count_weight=min(max(TRIAL_COUNT * noise / wanted, LEAST_COUNT), MOST_COUNT))


def expected_clients(federation: Federation, sampling: Sampling | None) -> float:
    """Return how many clients take part in a round, on average."""
    if sampling is None or sampling.unit != "client" or sampling.kind == "none":
        return float(federation.n_clients)
    return sampling.rate * federation.n_clients


def _total_weight(
    recipe: AveragingRecipe, query: ModelUpdate, release: Release, sums: UpdateSums, arrays: dict[str, FloatArray]
) -> float:
    """Return what to divide by: the exact sum of weights, the number of clients, or that times a mean weight.

    Under a budget the released weights of all rounds so far make one estimate of a client's mean weight, each counting
    by the inverse of its noise's variance. Never the true number of rows of anybody.
    """
    if not recipe.private and sums.weight is not None:
        return sums.weight
    if sums.weight is None:
        return release.divisor
    mean, noise = _running_mean("weight", sums.weight, release, arrays)
    if release.noise_std["weight"] / release.divisor == noise and mean < DROWNED * noise:  # the first of them
        warn_caller(
            f"the clients' weights drown in noise: a mean of {mean:.3g} with standard deviation {noise:.3g}. Lower"
            f" largest_weight, now {query.largest_weight:g}, raise weight_share, or use weighting='uniform'"
        )
    return release.divisor * min(max(mean, noise), query.largest_weight)


def _running_mean(name: str, total: float, release: Release, arrays: dict[str, FloatArray]) -> tuple[float, float]:
    """Return a client's mean of a released figure over all rounds so far, and its noise's standard deviation."""
    precision = float(release.noise_std[name] / release.divisor) ** -2
    before = float(arrays.get(f"{name}_precision", np.zeros(())))
    mean = float(arrays.get(f"{name}_mean", np.zeros(())))
    mean += (total / release.divisor - mean) * precision / (before + precision)
    arrays[f"{name}_mean"], arrays[f"{name}_precision"] = np.asarray(mean), np.asarray(before + precision)
    return mean, (before + precision) ** -0.5


def _mean_steps(
    recipe: AveragingRecipe, release: Release, steps: float, weight: float, arrays: dict[str, FloatArray]
) -> float:
    """Return FedNova's effective number of steps: a weighted mean of the clients' own."""
    if not recipe.private:
        return steps / weight
    mean, noise = _running_mean("steps", steps, release, arrays)
    return max(mean, noise) * release.divisor / weight


def _next_clip(recipe: AveragingRecipe, query: ModelUpdate, release: Release, sums: UpdateSums) -> float:
    if sums.contributed is not None and sums.clipped is not None:
        if not sums.contributed:
            return query.clip
        fraction = 1.0 - sums.clipped / sums.contributed
    else:
        fraction = min(max(0.5 + (sums.unclipped or 0.0) / release.divisor, 0.0), 1.0)
    return next_bound(query.clip, fraction, quantile=recipe.quantile, rate=recipe.clip_rate)


def _point_out(recipe: AveragingRecipe, query: ModelUpdate, sums: UpdateSums) -> None:
    """Say what was cut although nobody asked for it; under a budget nobody knows."""
    if sums.clipped and not recipe.adaptive and query.clip == LARGEST_NORM:
        warn_caller(
            f"the changes of {sums.clipped} client(s) were longer than {LARGEST_NORM:g} and were cut to it: local"
            " training diverges (lower learning_rate), or clip= is to be larger"
        )
    if sums.capped:
        warn_caller(
            f"{sums.capped} client(s) have more rows than the largest weight {query.largest_weight:g} and count for"
            " that many: raise largest_weight"
        )


def _row(
    number: int,
    query: ModelUpdate,
    release: Release,
    sums: UpdateSums,
    *,
    moved: float,
    epsilon: float | None,
    began: float,
) -> HistoryRow:
    hidden = release.expected_clients is not None  # then who was drawn is for the coordinator alone
    return {
        "round": number,
        "clients": release.divisor,
        "lost": None if hidden else len(release.lost),
        "bytes_up": None if hidden else release.bytes_up,
        "contributed": sums.contributed,
        "clipped": sums.clipped,
        "clip": query.clip,
        "update_norm": moved,
        "epsilon": epsilon,
        "seconds": time.perf_counter() - began,
    }
