"""What goes with a model that leaves: whose data it saw, what was spent and in whose eyes, how good it is.

A card is data (JSON, strict), and the same as a page of Markdown for people.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from privfed._version import __version__
from privfed.errors import UsageError
from privfed.federation.release import Federation
from privfed_accounting import View

__all__ = ["CARD_FORMAT", "Card", "DataSet", "FileFacts", "Privacy", "TensorFacts", "markdown", "privacy_of"]

CARD_FORMAT: Final = "privfed model card"
CARD_VERSION: Final = 1
VIEWS: Final = ("released", "server", "client", "unmasked")


class DataSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One data set that had a part in the model, in its owner's words.

    Attributes:
        name: what it is called.
        description: what a row is, where it comes from, over what time.
        holders: who holds it: "public", "20 hospitals".
        role: "source", "target", "evaluation", ...
    """

    name: str
    description: str
    holders: str = ""
    role: str = "target"


class Privacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was spent, as the ledger has it. Nothing here tells whether the model was computed of these releases alone.

    Attributes:
        protected: whether there was a budget.
        epsilon_budget, delta: of the budget; None without one.
        unit, relation: what the budget protects; None without one.
        guarded_view: adversary in whose eyes rounds would be refused; None without a budget.
        epsilon: view -> epsilon charged, at that delta; None where infinite.
        rounds: releases in the ledger.
        protections, noise_sources: how sums were formed, and where noise came from, each as the ledger lists them:
            anything but "secure_aggregation" and "os" is a comparison or a test.
        ledger: identifier; ledger_head: hash of its last entry, which fixes all entries before.
    """

    protected: bool
    epsilon_budget: float | None
    delta: float | None
    unit: str | None
    relation: str | None
    guarded_view: str | None
    epsilon: dict[str, float | None]
    rounds: int
    protections: list[str]
    noise_sources: list[str]
    ledger: str
    ledger_head: str


class TensorFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, type and shape of one tensor."""

    name: str
    dtype: str
    shape: list[int]


class FileFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file beside the card, its size and its SHA-256 in hexadecimal digits."""

    name: str
    size: int
    sha256: str


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is said of a model.

    Attributes:
        format, version: of the card.
        name, description, license: of the model, in its makers' words.
        architecture: text of the module, as torch prints it.
        tensors: of the weights file, sorted by name.
        feature_shape: of one row's features; empty where nobody said.
        classes: names of the outputs, if they have any.
        data_sets: whose data had a part in it.
        privacy: what was spent; None where no federation was given.
        metrics: name -> number, text or table, such as `Comparison.as_dict()`.
        made_with: versions of the software.
        files: what lies beside the card.
        not_included: what was wanted and could not be made, with the reason.
    """

    format: str
    version: int
    name: str
    description: str
    license: str
    architecture: str
    tensors: list[TensorFacts]
    feature_shape: list[int]
    classes: list[str]
    data_sets: list[DataSet]
    privacy: Privacy | None
    metrics: dict[str, Any]
    made_with: dict[str, str]
    files: list[FileFacts]
    not_included: dict[str, str]


def versions() -> dict[str, str]:
    """Return the versions of what made a card."""
    import numpy
    import torch

    return {
        "privfed": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": str(torch.__version__),
    }


def privacy_of(federation: Federation) -> Privacy:
    """Return what the federation's ledger says has been spent."""
    ledger, budget = federation.ledger, federation.budget
    rounds = ledger.rounds()
    epsilon: dict[str, float | None] = {}
    if budget is not None:
        for view in dict.fromkeys((*VIEWS, str(budget.view))):
            value = ledger.epsilon(View.parse(view))
            epsilon[view] = value if math.isfinite(value) else None
    return Privacy(
        protected=budget is not None,
        epsilon_budget=None if budget is None else budget.epsilon,
        delta=None if budget is None else budget.delta,
        unit=None if budget is None else budget.unit,
        relation=None if budget is None else budget.relation,
        guarded_view=None if budget is None else str(budget.view),
        epsilon=epsilon,
        rounds=len(rounds),
        protections=list(dict.fromkeys(str(record.plan.protection) for record in rounds)),
        noise_sources=list(dict.fromkeys(str(record.plan.noise_source) for record in rounds)),
        ledger=ledger.identifier,
        ledger_head=ledger.head,
    )


def checked_data_sets(data_sets: Sequence[DataSet | Mapping[str, str]]) -> list[DataSet]:
    """Return the data sets as such.

    Raises:
        UsageError: one lacks a name or a description, or says something unknown.
    """
    try:
        return [one if isinstance(one, DataSet) else msgspec.convert(dict(one), DataSet) for one in data_sets]
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise UsageError(
            f"a data set is described wrongly: {error}. Expected name and description, and as you like holders and role"
        ) from None


def markdown(card: Card) -> str:
    """Return the card as a page for people."""
    parts = [
        f"# {_line(card.name)}",
        card.description,
        *_data(card),
        *_privacy(card.privacy),
        *_metrics(card.metrics),
        *_weights(card),
        *_verification(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data(card: Card) -> list[str]:
    if not card.data_sets:
        return ["## Data", "Nobody described the data."]
    rows = [
        f"| {_cell(one.name)} | {_cell(one.role)} | {_cell(one.holders)} | {_cell(one.description)} |"
        for one in card.data_sets
    ]
    return ["## Data", "\n".join(["| data set | role | held by | what it is |", "|---|---|---|---|", *rows])]


def _privacy(privacy: Privacy | None) -> list[str]:
    if privacy is None:
        return ["## Privacy", "No ledger was given: nothing is known of what was spent."]
    if not privacy.protected:
        return [
            "## Privacy",
            f"**There was no budget.** The {privacy.rounds} sums carried no noise: the weights may tell about records.",
        ]
    lines = [
        f"Budget: epsilon {privacy.epsilon_budget:g} at delta {privacy.delta:g}, for one {privacy.unit}"
        f" ({privacy.relation}), guarded in the view {privacy.guarded_view!r}. Spent in {privacy.rounds} release(s):",
        "\n".join(
            ["| view | epsilon |", "|---|---|"]
            + [
                f"| {view} | {'infinite' if value is None else f'{value:.4g}'} |"
                for view, value in privacy.epsilon.items()
            ]
        ),
    ]
    lines.append(
        "This is what the releases in the ledger cost. It protects whoever is in them against a model that was computed"
        " of these releases and of public numbers alone. A model that somebody went on to train on rows at hand, a"
        " personal one for instance, or one made of other releases as well, is not what these numbers are about."
    )
    odd = [one for one in privacy.protections if one != "secure_aggregation"]
    odd += [f"{one} noise" for one in privacy.noise_sources if one != "os"]
    if odd:
        lines.append(f"**Made for comparison or in a test: {', '.join(odd)}.**")
    return ["## Privacy", *lines]


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics:
        return []
    text = msgspec.json.format(msgspec.json.encode(metrics), indent=2).decode()
    return ["## How good it is", f"```json\n{text}\n```"]


def _weights(card: Card) -> list[str]:
    count = sum(math.prod(one.shape) for one in card.tensors)
    lines = [f"{len(card.tensors)} tensors, {count} numbers. One row of features has shape {card.feature_shape}."]
    if card.classes:
        lines.append(f"Outputs: {', '.join(map(_line, card.classes))}.")
    lines.append(f"```text\n{card.architecture}\n```")
    lines += [f"Not included: {name}: {_line(reason)}" for name, reason in card.not_included.items()]
    return ["## Weights", *lines]


def _verification(card: Card) -> list[str]:
    files = [f"| {one.name} | {one.size} | `{one.sha256}` |" for one in card.files]
    lines = [
        "`privfed.transfer.load_deployed(folder, model)` checks the digests below, and every tensor's name, type and"
        " shape, before it loads anything. Compare the digest of `card.json` with what its makers published, and pass"
        " it as `digest=`.",
        "\n".join(["| file | bytes | SHA-256 |", "|---|---|---|", *files]),
    ]
    if any(one.name.endswith(".pt2") for one in card.files):
        lines.append(
            "`model.pt2` holds a program. Do not load it unless you trust whoever made it; the loader does not."
        )
    if card.privacy is not None:
        lines.append(
            f"What was spent can be recomputed from ledger `{card.privacy.ledger}`: `privfed verify LEDGER`. Its head"
            f" was `{card.privacy.ledger_head}`."
        )
    lines.append(f"Made with {', '.join(f'{name} {version}' for name, version in card.made_with.items())}.")
    if card.license:
        lines.append(f"License: {_line(card.license)}.")
    return ["## How to verify", *lines]


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
