"""Figures: what they draw, where, and what they say without matplotlib."""

from __future__ import annotations

import sys

import matplotlib as mpl
import numpy as np
import pytest

from privfed.engines import LocalFederation
from privfed.errors import UsageError
from privfed.learners import mixture as home
from tests.mixture.cases import clusters

mpl.use("Agg")
import matplotlib.pyplot as plt

X = clusters(n=600, d=14, K=3, seed=2)
MIXTURE = home.GaussianMixture(3, random_state=0).fit(X)


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def federated(use):
    with LocalFederation(np.array_split(X, 3), mode="trusted") as federation:
        return use(federation, MIXTURE)


def test_ellipses_lie_where_components_do(ax):
    assert home.plot_ellipses(MIXTURE, X, features=(2, 0), standard_deviations=(1.0, 3.0), ax=ax) is ax
    assert len(ax.patches) == 6
    large = ax.patches[1]
    covariance = MIXTURE.covariances_[0][np.ix_([2, 0], [2, 0])]
    np.testing.assert_allclose(large.center, MIXTURE.means_[0][[2, 0]])
    lengths = sorted([large.width, large.height])
    np.testing.assert_allclose(lengths, 6 * np.sqrt(np.linalg.eigvalsh(covariance)), rtol=1e-9)
    # The long axis points along the greatest eigenvector.
    direction = np.array([np.cos(np.radians(large.angle)), np.sin(np.radians(large.angle))])
    assert direction @ covariance @ direction == pytest.approx(np.linalg.eigvalsh(covariance)[1])
    assert len(ax.collections[0].get_offsets()) == len(X)
    with pytest.raises(UsageError, match="two different numbers from 0 to 13"):
        home.plot_ellipses(MIXTURE, features=(0, 14), ax=ax)


def test_likelihoods_and_weights_are_drawn_as_they_are(ax):
    home.plot_likelihood(MIXTURE, ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), MIXTURE.lower_bounds_)
    home.plot_weights(MIXTURE, ax=ax)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], MIXTURE.weights_)


def test_contributions_add_up_in_the_figure(ax):
    found = MIXTURE.explain(X[:2])
    home.plot_contributions(found, 1, most=5, ax=ax)
    widths = [bar.get_width() for bar in ax.patches]
    assert len(widths) == 6
    assert sum(widths) == pytest.approx(found.contributions[1].sum())
    assert [label.get_text() for label in ax.get_yticklabels()][-1] == "9 others"


def test_federated_results_are_drawn(ax):
    inference = federated(home.infer)
    home.plot_sizes(inference, ax=ax)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], inference.sizes)
    assert home.plot_scores(inference, ax=ax) is ax
    threshold = federated(home.anomaly_threshold)
    home.plot_threshold(threshold, ax=ax)
    assert any(threshold.threshold in line.get_xdata() for line in ax.lines)


def test_the_current_axes_are_the_default():
    figure = plt.figure()
    assert home.plot_weights(MIXTURE) is figure.axes[0]
    plt.close(figure)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(UsageError, match=r"pip install 'privfed\[plot\]'"):
        home.plot_weights(MIXTURE)
    with pytest.raises(UsageError, match=r"privfed\[plot\]"):
        home.plot_ellipses(MIXTURE)


def test_a_new_figure_makes_room_for_long_names():
    plt.close("all")
    rows = clusters()
    mixture = home.GaussianMixture(1, random_state=0).fit(rows)
    names = [f"a rather long name of feature {j}" for j in range(mixture.n_features_in_)]
    ax = home.plot_contributions(mixture.explain(rows[:1], names=names))
    ax.figure.canvas.draw()
    assert min(label.get_window_extent().x0 for label in ax.get_yticklabels()) >= 0
    plt.close("all")
