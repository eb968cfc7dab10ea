"""The live table: what it shows, where it shows nothing, and that it leaves a terminal as it was."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.errors import LiveError

from privfed import Budget, LocalFederation, Loss, UsageError
from privfed.learners.neural import FederatedAveraging
from privfed.learners.neural.evaluation.early_stopping import EarlyStopping
from privfed.learners.neural.progress import Progress
from privfed.statistics.hold_out import HoldOut
from privfed_accounting import Sampling
from tests.neural.test_early_stopping import model, silos

# The federations are tiny: what they pay for is looked at, not what is learnt.
pytestmark = pytest.mark.filterwarnings("ignore:noise will drown")

torch = pytest.importorskip("torch")


def screen(*, terminal: bool, height: int = 40) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, height=height, color_system=None)


def shown(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def fitted(callbacks, *, rounds=3, **options) -> FederatedAveraging:
    budget = options.pop("budget", None)
    federation = LocalFederation(silos(), mode="trusted", budget=budget, max_records=60, noise_seed=1, **options)
    learner = FederatedAveraging(model(), rounds=rounds, random_state=0, callbacks=callbacks)
    return learner.fit(federation)


def test_elsewhere_than_on_a_terminal_each_round_is_one_plain_line() -> None:
    console = screen(terminal=False)
    fitted(Progress(console=console))
    lines = shown(console).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["round 1/3", "round 2/3", "round 3/3"]
    assert all("clients 4" in line and "MiB up" in line for line in lines)
    assert "\x1b" not in shown(console)


def test_on_a_terminal_it_is_a_table_that_ends_whole() -> None:
    console = screen(terminal=True)
    fitted(Progress(console=console), budget=Budget(2.0, 1e-5, unit="client"))
    last = shown(console)[-3000:]
    for word in ("round", "clients", "released", "server", "unmasked", "1/3", "2/3", "3/3"):
        assert word in last
    assert last.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in last  # the cursor is back


def test_epsilon_is_shown_per_view_and_only_those_asked_for() -> None:
    console = screen(terminal=False)
    run = fitted(Progress(console=console, views=("server",)), budget=Budget(2.0, 1e-5, unit="client"))
    lines = shown(console).splitlines()
    for line, release in zip(lines, run.releases_, strict=True):
        assert f"epsilon server {release.epsilon['server']:.3f}" in line
        assert "released" not in line


def test_bytes_add_up() -> None:
    console = screen(terminal=False)
    run = fitted(Progress(console=console))
    total = sum(release.bytes_up for release in run.releases_) / 2**20
    assert f"MiB up {total:.2f}" in shown(console).splitlines()[-1]


def test_losses_of_evaluations_are_shown_with_their_error() -> None:
    console = screen(terminal=False)
    learner = FederatedAveraging(
        model(), rounds=2, random_state=0, callbacks=[EarlyStopping(patience=9), Progress(console=console)]
    )
    federation = HoldOut(0.3).training(LocalFederation(silos(), mode="trusted"))
    learner.fit(federation)
    for line, row in zip(shown(console).splitlines(), learner.history_, strict=True):
        assert f"loss {row['eval_loss']:.4g}" in line


def test_who_was_lost_is_told() -> None:
    console = screen(terminal=False)
    fitted(Progress(console=console), dropout=0.25, losses=[Loss("client-02", "masked", rounds={2})])
    lines = shown(console).splitlines()
    assert "clients 4 " in lines[0] + " "
    assert "clients 3 (-1)" in lines[1]


def test_hidden_samples_stay_hidden() -> None:
    """How many were drawn must not show where view released counts on that."""
    console = screen(terminal=False)
    budget = Budget(8.0, 1e-5, unit="client", view="released", accounting="renyi")
    federation = LocalFederation(
        silos(n=60, rows=5),
        mode="trusted",
        budget=budget,
        max_records=5,
        noise_seed=1,
        drop_outs="exact",
        sampling=Sampling.poisson(0.5, unit="client"),
    )
    learner = FederatedAveraging(model(), rounds=3, random_state=0, callbacks=Progress(console=console))
    learner.fit(federation)
    assert {release.survivors for release in learner.releases_} != {30}
    for line in shown(console).splitlines():
        assert "clients ~30" in line
        assert "MiB up -" in line


@pytest.mark.parametrize("terminal", [True, False])
def test_it_is_silent_when_told(terminal) -> None:
    console = screen(terminal=terminal)
    fitted(Progress(console=console, show=False))
    assert shown(console) == ""


def test_lines_and_tables_can_be_asked_for() -> None:
    lines, table = screen(terminal=True), screen(terminal=False)
    fitted(Progress(console=lines, show="lines"))
    assert "\x1b[" not in shown(lines)
    assert len(shown(lines).splitlines()) == 3
    fitted(Progress(console=table, show="table"))
    assert "round" in shown(table)


def test_every_so_many_rounds_and_the_last() -> None:
    console = screen(terminal=False)
    fitted(Progress(console=console, every=2), rounds=5)
    assert [line.split()[1] for line in shown(console).splitlines()] == ["2/5", "4/5", "5/5"]


def test_where_somebody_else_draws_the_table_becomes_lines(monkeypatch) -> None:
    def start(self) -> None:
        raise LiveError("only one at a time")

    monkeypatch.setattr("rich.live.Live.start", start)
    console = screen(terminal=True)
    fitted(Progress(console=console))
    assert "round 1/3  clients 4" in shown(console)


def test_a_run_that_fails_closes_the_table() -> None:
    console = screen(terminal=True)

    def fails(state) -> None:
        raise RuntimeError("on purpose")

    progress = Progress(console=console)
    with pytest.raises(RuntimeError, match="on purpose"):
        fitted([progress, fails])
    assert progress._live is None
    assert "1/3" in shown(console)


def test_a_long_run_stays_on_the_screen() -> None:
    console = screen(terminal=True, height=12)
    fitted(Progress(console=console), rounds=14)
    assert shown(console).rstrip().count("14/14") >= 1


@pytest.mark.parametrize("options", [{"show": "loud"}, {"show": 3}, {"every": 0}, {"every": 1.5}])
def test_arguments_of_other_kinds_are_refused(options) -> None:
    with pytest.raises(UsageError, match="expected"):
        Progress(**options)
