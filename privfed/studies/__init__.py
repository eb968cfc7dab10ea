"""Studies: what a privacy budget costs in utility, as a table and a figure."""

from __future__ import annotations

from privfed.studies.sweep import Outcome, Sweep, SweepOptions, run_sweep

__all__ = ["Outcome", "Sweep", "SweepOptions", "run_sweep"]
