"""A live table of a training run: one line per round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from privfed.errors import UsageError
from privfed.learners.neural.state import Callback, HistoryRow, TrainingState, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

__all__ = ["Progress"]

VISIBLE_ROWS: Final = 40
LOSSES: Final = ("eval_loss", "loss", "training_loss")
MIB: Final = 2.0**20


class Progress(Callback):
    """Shows every round as it ends: number, clients in the sum, loss, accuracy, epsilon per view, bytes sent.

    On a terminal a table that grows; elsewhere, as in a log file, one line per round. Put it last among the callbacks,
    to see the figures of the others. Of hidden samples of clients it shows how many are drawn on average.

    Args:
        show: None for table or lines as it fits, "table", "lines", or False for nothing at all.
        views: whose epsilon is shown; None for all that the releases name.
        console: where to draw, a `rich.console.Console`; None for standard error.
        every: show every so many rounds only, and the last one.
    """

    def __init__(
        self,
        *,
        show: bool | str | None = None,
        views: tuple[str, ...] | None = None,
        console: Console | None = None,
        every: int = 1,
    ) -> None:
        if not (show is None or isinstance(show, bool) or show in ("table", "lines")):
            raise UsageError(f"show is {show!r}, expected None, False, 'table' or 'lines'")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise UsageError(f"every is {every!r}, expected an integer of at least 1")
        self._show = None if show is True else show
        self._views = views
        self._console = console
        self._every = every
        self._live: Live | None = None
        self._rows: list[dict[str, str]] = []
        self._sent = 0

    def on_train_begin(self, state: TrainingState) -> None:
        """Open the table."""
        self._rows, self._sent = [], 0
        if self._show is False:
            return
        console = self._opened()
        if self._show == "table" or (self._show is None and console.is_terminal):
            from rich.errors import LiveError
            from rich.live import Live

            self._live = Live(console=console, refresh_per_second=8, transient=False)
            try:
                self._live.start()
            except LiveError:  # somebody else draws on this terminal: lines then
                self._live = None

    def on_round_end(self, state: TrainingState) -> Verdict | None:
        """Show the round."""
        if self._show is False or not state.history:
            return None
        row = self._cells(state)
        if state.round % self._every and state.round != state.rounds:
            return None
        self._rows.append(row)
        if self._live is not None:
            self._live.update(self._table(min(VISIBLE_ROWS, max(self._opened().height - 6, 1))))
        else:
            line = "  ".join(f"{name} {value}" for name, value in row.items() if value)
            self._opened().print(line, highlight=False, markup=False, soft_wrap=True)
        return None

    def on_train_end(self, state: TrainingState) -> Verdict | None:
        """Close the table, all of its rows shown."""
        live, self._live = self._live, None
        if live is not None:
            live.update(self._table(len(self._rows)))
            live.stop()
        return None

    def _opened(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True)
        return self._console

    def _cells(self, state: TrainingState) -> dict[str, str]:
        row = state.history[-1]
        cells = {"round": f"{state.round}/{state.rounds}"}
        release = state.releases[-1] if state.releases else None
        if release is not None:
            hidden = release.expected_clients is not None
            lost = f" (-{len(release.lost)})" if release.lost and not hidden else ""
            cells["clients"] = f"~{release.divisor:g}" if hidden else f"{release.survivors}{lost}"
        cells["loss"] = _first(row, LOSSES)
        if row.get("eval_accuracy") is not None:
            cells["accuracy"] = _first(row, ("eval_accuracy",))
        if release is not None:
            views = tuple(release.epsilon) if self._views is None else self._views
            for view in views:
                cells[f"epsilon {view}"] = f"{release.epsilon[view]:.3f}" if view in release.epsilon else "-"
            self._sent += release.bytes_up
            cells["MiB up"] = "-" if release.expected_clients is not None else f"{self._sent / MIB:.2f}"
        return cells

    def _table(self, last: int) -> Table:
        from rich.table import Table

        names = list(dict.fromkeys(name for row in self._rows for name in row))
        table = Table()
        for name in names:
            table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
        for row in self._rows[-max(last, 1) :]:
            table.add_row(*(row.get(name, "") for name in names))
        return table


def _first(row: HistoryRow, names: tuple[str, ...]) -> str:
    """Return the first figure of these that the round has, with its standard error where there is one."""
    for name in names:
        value, error = row.get(name), row.get(f"{name}_se")
        if isinstance(value, int | float):
            return f"{value:.4g}" + (f" +- {error:.2g}" if isinstance(error, int | float) and error > 0 else "")
    return ""
