"""Programs: the code of a model lives at the client, a query brings its name."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from privfed import Budget, FederationError, LocalFederation, UsageError
from privfed.query import Block, Query, decode_query, encode_query
from privfed.statistics import programs
from privfed.statistics.programs import install, installed


class Powers:
    """Sums a power of each row's first number."""

    kind = "powers"

    def __init__(self, power: int, tag: str = "") -> None:
        self.power = power
        self.tag = tag

    @property
    def description(self) -> str:
        return f"x -> x^{self.power}"

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return np.clip(rows[:, 0], -1.0, 1.0) ** self.power


class Other(Powers):
    kind = "other"


@dataclass(frozen=True, eq=False)
class Asked(Query):
    kind: ClassVar[str] = "test_asked_program"
    program: str

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("sum", (), 1.0),)

    def contribution(self, data: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"sum": installed(self.program, of=Powers)(data).sum()}


def test_a_name_says_kind_and_description_and_nothing_else() -> None:
    square, cube = Powers(2), Powers(3)
    names = [install(square), install(cube), install(Powers(2, "again")), install(Other(2))]
    kind, digest = names[0].split(":")
    assert kind == "powers"
    assert len(digest) == 32
    assert set(digest) <= set("0123456789abcdef")
    assert names[0] == names[2]
    assert len(set(names)) == 3


def test_kind_and_description_are_told_apart_at_their_border() -> None:
    class Bare:
        def __init__(self, kind: str, description: str) -> None:
            self.kind, self.description = kind, description

    first, second = Bare("ab", "c"), Bare("a", "bc")
    assert install(first).split(":")[1] != install(second).split(":")[1]


@pytest.mark.parametrize("kind", ["", "two words", "a:b", "a/b"])
def test_a_kind_is_an_identifier(kind) -> None:
    program = Powers(2)
    program.kind = kind
    with pytest.raises(UsageError, match="expected an identifier"):
        install(program)


def test_a_query_finds_its_program_at_every_client() -> None:
    square = Powers(2)
    query = Asked(install(square))
    assert decode_query(encode_query(query)).program == query.program
    release = LocalFederation([np.full((3, 1), 0.5), np.full((2, 1), 1.0)]).release(query)
    assert release["sum"] == pytest.approx(2.75)


def test_no_program_travels() -> None:
    """What is sent holds a name of some forty characters, whatever the program is."""
    program = Powers(2)
    assert len(encode_query(Asked(install(program)))) < 200


def test_a_client_without_the_program_refuses_and_says_so() -> None:
    missing = "powers:" + 32 * "0"
    with pytest.raises(UsageError, match=r"no program 'powers:0+' is installed at this client"):
        installed(missing, of=Powers)
    federation = LocalFederation([np.ones((2, 1))] * 2, budget=Budget(1.0, 1e-5))
    with pytest.raises(FederationError, match="no program") as caught:
        federation.release(Asked(missing), share=0.5)
    assert caught.value.charged  # a query that fails on rows stays charged, for whatever reason


def test_a_program_of_another_sort_is_none() -> None:
    other = Powers(5)
    name = install(other)
    with pytest.raises(UsageError, match="no program"):
        installed(name, of=Other)
    assert installed(name, of=Powers) is other


def test_a_program_is_there_as_long_as_somebody_holds_it() -> None:
    program = Powers(7)
    name = install(program)
    assert installed(name, of=Powers) is program
    del program
    gc.collect()
    with pytest.raises(UsageError, match="keep hold of it"):
        installed(name, of=Powers)


def test_a_second_program_of_a_name_takes_nothing_away_when_it_goes() -> None:
    """A learner evaluates a copy of its model on the way: the copy's end is not the model's."""
    first = Powers(9, "first")
    name = install(first)
    second = Powers(9, "second")
    assert install(second) == name
    assert installed(name, of=Powers) is second
    del second
    gc.collect()
    assert installed(name, of=Powers) is first
    third = Powers(9, "third")
    install(third)
    del first
    gc.collect()
    assert installed(name, of=Powers) is third


def test_to_install_again_is_to_be_found_first() -> None:
    first, second = Powers(11, "first"), Powers(11, "second")
    name = install(first)
    install(second)
    install(first)
    assert installed(name, of=Powers) is first
    assert len(programs._INSTALLED[name]) == 2


def test_names_of_programs_that_are_gone_are_forgotten() -> None:
    for power in range(100, 130):
        install(Powers(power))
    gc.collect()
    kept = Powers(3)
    name = install(kept)
    assert name in programs._INSTALLED
    assert all(any(reference() is not None for reference in found) for found in programs._INSTALLED.values())
