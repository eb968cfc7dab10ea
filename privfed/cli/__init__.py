"""The command line. Only this package knows about the shell."""

from __future__ import annotations

from privfed.cli.app import main

__all__ = ["main"]
