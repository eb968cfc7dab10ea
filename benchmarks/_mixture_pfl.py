"""One EM round of pfl-research's Gaussian mixture, timed. Runs in an interpreter of its own that has `pfl`.

    python benchmarks/_mixture_pfl.py ROWS FEATURES COMPONENTS USERS ROUNDS

Prints one JSON object: CPU seconds of the median round, the first left out.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.expectation_maximization_gmm import EMGMMHyperParams, ExpectationMaximizationGMM
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam import ModelHyperParams
from pfl.internal.distribution import DiagonalGaussian
from pfl.internal.distribution.mixture import Mixture
from pfl.internal.ops import numpy_ops
from pfl.internal.ops.selector import set_framework_module
from pfl.metrics import Metrics
from pfl.model.gaussian_mixture_model import GaussianMixtureModel, GMMHyperParams


class Stamps(TrainingProcessCallback):
    """CPU time at the end of each round."""

    def __init__(self) -> None:
        self.times = [time.process_time()]

    def after_central_iteration(self, aggregate_metrics, model, **_):
        """Note the time."""
        self.times.append(time.process_time())
        return False, Metrics()


def main() -> None:
    """Make users of equal size, run the rounds, print the median."""
    rows, features, components, users, rounds = (int(value) for value in sys.argv[1:6])
    set_framework_module(numpy_ops)
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((components, features))
    X = rng.standard_normal((rows, features)) + centres[rng.integers(components, size=rows)]
    shards = dict(enumerate(np.array_split(X, users)))
    data = FederatedDataset(
        lambda user: Dataset(raw_data=shards[user], user_id=user), MinimizeReuseUserSampler(list(shards))
    )
    start = Mixture([(1 / components, DiagonalGaussian(mean, np.ones(features))) for mean in X[:components]])
    settings = GMMHyperParams(variance_scale=1.0, responsibility_scale=1.0, minimum_component_weight=1e-9)
    stamps = Stamps()
    ExpectationMaximizationGMM().run(
        algorithm_params=EMGMMHyperParams(
            central_num_iterations=rounds,
            evaluation_frequency=10**9,
            val_cohort_size=None,
            compute_cohort_size=lambda *_: users,
            compute_new_num_components=lambda *found: found[-1],
        ),
        backend=SimulatedBackend(data, data, postprocessors=[]),
        model=GaussianMixtureModel(features, start, cached_model_train_params=settings),
        model_train_params=settings,
        model_eval_params=ModelHyperParams(),
        callbacks=[stamps],
    )
    print(json.dumps({"version": version("pfl"), "seconds": float(np.median(np.diff(stamps.times)[1:]))}))


if __name__ == "__main__":
    main()
