"""The live table of the demo: one line per release."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from privfed.federation import Release

__all__ = ["RoundTable"]

VISIBLE_ROWS = 40


class RoundTable:
    """Shows every release as it happens: round, what for, survivors, log-likelihood, epsilon per view, bytes.

    Args:
        console: where to draw; a console that is no terminal gets the finished table once.
        views: views whose epsilon is shown.
        show: False draws nothing.
    """

    def __init__(self, console: Console, views: tuple[str, ...], *, show: bool) -> None:
        self._views = views
        self._rows: list[tuple[str, ...]] = []
        self._show = show
        self._console = console
        self._live = (
            Live(console=console, refresh_per_second=8, transient=False) if show and console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._table(len(self._rows)))
            self._live.stop()
        elif self._show:
            self._console.print(self._table(len(self._rows)))

    def add(self, release: Release, purpose: str, log_likelihood: float | None = None) -> None:
        """Add one release; `log_likelihood` is a released one, in nats per row."""
        epsilons = (f"{release.epsilon[view]:.3f}" if view in release.epsilon else "-" for view in self._views)
        lost = f" (-{len(release.lost)})" if release.lost else ""
        self._rows.append(
            (
                str(release.round),
                purpose,
                f"{release.survivors}{lost}",
                "" if log_likelihood is None else f"{log_likelihood:.2f}",
                *epsilons,
                f"{release.bytes_up / 2**20:.2f}",
            )
        )
        if self._live is not None:
            self._live.update(self._table(min(VISIBLE_ROWS, self._console.height - 6)))

    def _table(self, last: int) -> Table:
        table = Table(title="every release of the federation", title_justify="left")
        table.add_column("round", justify="right")
        table.add_column("for", no_wrap=True)
        table.add_column("silos", justify="right")
        table.add_column("log-lik.", justify="right")
        for view in self._views:
            table.add_column(f"eps\n{view}", justify="right")
        table.add_column("MiB\nup", justify="right")
        for row in self._rows[-max(last, 1) :]:
            table.add_row(*row)
        return table
