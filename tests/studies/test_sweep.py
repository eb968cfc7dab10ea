"""Sweeps: every cell is a real training under its own budget, and the table says what happened."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from privfed.cli import main
from privfed.errors import UsageError
from privfed.learners.projection import protected_projection
from privfed.studies import Outcome, Sweep, SweepOptions, run_sweep
from privfed.studies.pages import figure, table


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 400)
    rows = rng.standard_normal((800, 2)) + 6.0 * labels[:, None]
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(path, X=rows, y=labels)
    return path


def options(blobs: Path, **changes: object) -> SweepOptions:
    defaults = {"data": blobs, "learner": "mean", "epsilons": (0.05, 8.0), "seeds": 2, "clients": 5}
    return SweepOptions(**{**defaults, "bounds": (-5.0, 12.0), **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sweep(blobs: Path) -> Sweep:
    return run_sweep(options(blobs))


def test_the_grid_is_whole(sweep: Sweep) -> None:
    cells = [(one.mode, one.epsilon, one.seed) for one in sweep.outcomes]
    assert cells == [
        *(("trusted", epsilon, seed) for epsilon in (0.05, 8.0) for seed in (0, 1)),
        *(("no noise", None, seed) for seed in (0, 1)),
    ]
    assert len(cells) == sweep.options.runs


def test_each_run_spends_its_budget_and_no_more(sweep: Sweep) -> None:
    for one in sweep.outcomes:
        if one.epsilon is None:
            assert one.epsilons == {}
        else:
            assert 0.99 * one.epsilon < one.epsilons["server"] <= one.epsilon
            assert one.epsilons["client"] > one.epsilons["server"]


def test_without_noise_the_protected_mean_is_the_pooled_one(sweep: Sweep) -> None:
    for one in sweep.outcomes:
        if one.epsilon is None:
            assert one.gap == pytest.approx(0.0, abs=1e-9)


def test_noise_costs_what_its_size_says(sweep: Sweep) -> None:
    """A mean of 640 rows in a ball of radius 12: the noise of epsilon .05 is felt, that of 8 is not."""
    medians = {one.epsilon: one.median for one in sweep.summaries() if one.epsilon is not None}
    assert medians[8.0] > -0.05
    assert medians[0.05] < medians[8.0]


def test_summaries_are_of_the_gaps() -> None:
    made = [Outcome("trusted", 1.0, seed, score, -1.0) for seed, score in enumerate((-1.5, -1.0, -4.0))]
    made.append(Outcome("trusted", 1.0, 3, None, None, error="too little"))
    one = Sweep(SweepOptions(epsilons=(1.0,)), "made", "score", "nats", tuple(made)).summaries()[0]
    assert (one.median, one.worst, one.best, one.runs, one.failed) == (-0.5, -3.0, 0.0, 4, 1)


def test_a_cell_where_all_was_refused_is_no_number() -> None:
    made = (Outcome("trusted", 1.0, 0, None, None, error="too little"),)
    sweep = Sweep(SweepOptions(epsilons=(1.0,)), "made", "score", "nats", made)
    assert math.isnan(sweep.summaries()[0].median)
    json.dumps(sweep.as_dict(), allow_nan=False)
    assert "not known" in table(sweep)


def test_a_mixture_is_swept_with_a_private_projection(blobs: Path) -> None:
    sweep = run_sweep(options(blobs, learner="mixture", components=2, epsilons=(8.0,), seeds=1, project=2))
    private, exact = sweep.outcomes
    assert private.gap is not None
    assert private.gap > -0.3
    assert exact.gap == pytest.approx(0.0, abs=0.02)


def test_noise_is_swept_wherever_it_is_added(blobs: Path) -> None:
    sweep = run_sweep(options(blobs, modes=("trusted", "local", "central"), epsilons=(0.5,), seeds=1))
    assert not sweep.refusals()
    spent = {one.mode: one.epsilons for one in sweep.outcomes}
    assert 0.49 < spent["trusted"]["released"] <= 0.5 < spent["trusted"]["unmasked"]
    assert spent["local"]["released"] < 0.49 < spent["local"]["unmasked"] <= 0.5
    assert 0.49 < spent["central"]["released"] <= 0.5
    assert "server" not in spent["central"]  # infinite: it sees the rows


def test_a_refusal_is_told_with_its_reason(blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"sweep --data {blobs} --project 500 --epsilon 1 --seeds 1 --clients 5 --no-progress --bounds -5,12"
    assert main([*words.split(), "--components", "2", "--out", str(tmp_path)]) == 2
    assert "refused: n_components is 500" in capsys.readouterr().out


def test_the_figure_shows_every_mode(sweep: Sweep) -> None:
    picture = figure(sweep).standalone()
    ET.fromstring(picture)  # noqa: S314
    assert "distributed noise, worst seed" in picture
    assert "pooled, not private" in picture


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": "forest"}, "learner"),
        ({"epsilons": ()}, "at least one"),
        ({"epsilons": (1.0, 1.0)}, "distinct"),
        ({"modes": ("trusted", "hoped")}, "modes"),
        ({"seeds": 0}, "seeds"),
        ({"clients": 2}, "clients"),
        ({"covariance_type": "round"}, "covariance_type"),
        ({"bounds": (1.0, 1.0)}, "bounds"),
        ({"project": -1}, "project"),
        ({"seeds": 10**6}, "too many"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(blobs: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(blobs, **changes)


def test_the_command_writes_table_figure_and_json(
    blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"sweep --data {blobs} --learner mean --epsilon 1,2 --seeds 1 --clients 4 --bounds -5,12 --no-progress"
    assert main([*words.split(), "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    kept = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert {name: value for name, value in printed.items() if name != "files"} == kept
    assert [one["epsilon"] for one in kept["summaries"]] == [1.0, 2.0, None]
    assert (tmp_path / "sweep.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert main([*words.split(), "--out", str(tmp_path)]) == 0
    assert "less that of pooled training" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["--epsilon one", "--bounds 1", "--epsilon 0", "--data missing.csv", "--mode hoped"])
def test_the_command_refuses_nonsense(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *words.split(), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("privfed: error: ")
    assert not (tmp_path / "out").exists()


class _Asked:
    """A federation that notes what it was asked."""

    def __init__(self, below: object) -> None:
        self.below, self.shares = below, []

    def __getattr__(self, name: str) -> object:
        return getattr(self.below, name)

    def release(self, query: object, *, share: float, **rest: object) -> object:
        self.shares.append(share)
        return self.below.release(query, **rest)  # type: ignore[attr-defined]


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_a_projection_costs_its_share_and_finds_the_axes(bounds: tuple[float, float] | None) -> None:
    from privfed import LocalFederation

    rng = np.random.default_rng(0)
    rows = np.clip(0.5 + rng.standard_normal((900, 4)) * np.array([0.01, 0.2, 0.03, 0.1]), 0.0, 1.0)
    asked = _Asked(LocalFederation(np.array_split(rows, 3), mode="trusted"))
    linear_map, variances = protected_projection(asked, 2, bounds=bounds, share=0.4)  # type: ignore[arg-type]
    assert sum(asked.shares) == pytest.approx(0.4)
    assert np.abs(linear_map.matrix[0]).argmax() == 1
    assert np.abs(linear_map.matrix[1]).argmax() == 3
    values = np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1]
    assert variances == pytest.approx(values[:2], rel=0.15)  # the ball cuts the longest rows


def test_a_projection_on_more_axes_than_columns_is_refused() -> None:
    from privfed import LocalFederation

    with pytest.raises(UsageError, match="n_components"):
        protected_projection(LocalFederation([np.eye(2), np.eye(2)], mode="trusted"), 3)
