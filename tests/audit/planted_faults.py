"""Faults in the path of a release: each a small change to what clients, or the federation, really do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from privfed import LocalFederation, Release
from privfed.federation.client import ClientSide
from privfed.mechanism.clip import clip_rows
from privfed.mechanism.randomness import Keystream
from privfed.statistics.moments import VectorSum

Plant = Callable[[pytest.MonkeyPatch], None]
real_contribution = ClientSide.contribution


def with_plan(change: Callable[[ClientSide, Any], Any]) -> Plant:
    """Let every client work by a plan that differs from the one it agreed to."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        def contribution(self: ClientSide, query: Any, plan: Any, rows: Any, *rest: Any, **options: Any) -> Any:
            return real_contribution(self, query, change(self, plan), rows, *rest, **options)

        monkeypatch.setattr(ClientSide, "contribution", contribution)

    return plant


def without_noise(side: ClientSide, plan: Any) -> Any:
    return dataclasses.replace(plan, mechanism="none")


def times(factor: float) -> Callable[[Any, Any], Any]:
    return lambda side, plan: dataclasses.replace(plan, share_sigma=factor * plan.share_sigma)


def only_the_first_client(side: ClientSide, plan: Any) -> Any:
    return plan if side.name.endswith("00") else without_noise(side, plan)


def clip_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VectorSum, "contribution", lambda self, data: {"sum": data.sum(axis=0)})


def weighted_after_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    def contribution(self: VectorSum, data: Any) -> Any:
        return {"sum": clip_rows(data, self.clip).sum(axis=0) * math.log2(len(data) + 1)}

    monkeypatch.setattr(VectorSum, "contribution", contribution)


def stale_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalFederation, "_keystream", lambda self, purpose: Keystream.seeded(purpose.encode()))


class WeightBeside(LocalFederation):
    """Shows how many rows the clients hold, beside the vector."""

    def release(self, *arguments: Any, **options: Any) -> Release:
        rows = sum(len(source.load()) for source in self._sources.values())
        return dataclasses.replace(super().release(*arguments, **options), bytes_up=rows)


class HalfTheClaim(LocalFederation):
    """Claims less than it spends."""

    def release(self, *arguments: Any, **options: Any) -> Release:
        release = super().release(*arguments, **options)
        return dataclasses.replace(release, epsilon={view: value / 2 for view, value in release.epsilon.items()})
