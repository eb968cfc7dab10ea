from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.query import Block, Layout, Query, decode_query, encode_query, frozen_array
from privfed.statistics.histograms import Histogram
from privfed.statistics.moments import Count, Moments, VectorSum


@given(
    st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.floats(0, 1)), min_size=1, max_size=6),
    st.integers(0, 2**32),
)
def test_scaled_norm_is_at_most_one_when_each_block_keeps_its_bound(parts, seed) -> None:
    rng = np.random.default_rng(seed)
    blocks = tuple(Block(f"b{i}", (3,), bound, share) for i, (bound, share, _) in enumerate(parts))
    values = {}
    for block, (bound, _, part) in zip(blocks, parts, strict=True):
        direction = rng.standard_normal(3)
        values[block.name] = direction / np.linalg.norm(direction) * bound * part
    norm = np.linalg.norm(Layout(blocks).flatten(values))
    expected = math.sqrt(sum(s * p**2 for _, s, p in parts) / sum(s for _, s, _ in parts))
    assert norm == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert norm <= 1 + 1e-12


def test_noise_std_is_in_natural_units() -> None:
    layout = Layout((Block("a", (), 2.0, 1.0), Block("b", (4,), 10.0, 3.0)))
    assert layout.noise_std(0.5) == pytest.approx({"a": 0.5 * 2 / math.sqrt(1 / 4), "b": 0.5 * 10 / math.sqrt(3 / 4)})


@pytest.mark.parametrize(
    "block",
    [
        lambda: Block("no spaces", (), 1.0),
        lambda: Block("a", (0,), 1.0),
        lambda: Block("a", (2**20, 2**20), 1.0),
        lambda: Block("a", (), 0.0),
        lambda: Block("a", (), math.inf),
        lambda: Block("a", (), 1.0, math.nan),
    ],
)
def test_blocks_refuse_nonsense(block) -> None:
    with pytest.raises(UsageError):
        block()


def test_layouts_refuse_nonsense() -> None:
    with pytest.raises(UsageError, match="distinct"):
        Layout((Block("a", (), 1.0), Block("a", (), 1.0)))
    with pytest.raises(UsageError, match="at least one"):
        Layout(())
    layout = Layout((Block("a", (2,), 1.0),))
    with pytest.raises(UsageError, match="has blocks"):
        layout.flatten({"b": np.zeros(2)})
    with pytest.raises(UsageError, match="has shape"):
        layout.flatten({"a": np.zeros(3)})
    with pytest.raises(UsageError, match="has shape"):
        layout.unflatten(np.zeros(3))


def _envelope(**changes: object) -> bytes:
    return msgspec.msgpack.encode({"kind": "vector_sum", "fields": {"dimension": 3, "clip": 1.0}} | changes)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "malformed"),
        (b"\xff" * 20, "malformed"),
        (_envelope() + b"\x00", "malformed"),
        (_envelope(kind="os.system"), "unknown query kind"),
        (_envelope(kind=7), "malformed"),
        (b"\x82\xa4kind\xa5count\xa6fields\x81\xa1x" + b"\x91" * 100_000 + b"\xc0", "malformed"),
        (b"\x82\xa4kind\xa5\xff\xff\xff\xff\xff\xa6fields\x80", "malformed"),
        (_envelope(extra=1), "malformed"),
        (_envelope(fields={"dimension": 3}), "has fields"),
        (_envelope(fields={"dimension": 3, "clip": 1.0, "more": 1}), "has fields"),
    ],
)
def test_decoding_is_strict(data: bytes, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        decode_query(data)


@pytest.mark.parametrize(
    "array",
    [
        {"dtype": "<f8", "shape": [2], "data": b"\0" * 8},
        {"dtype": "|O", "shape": [1], "data": b"\0" * 8},
        {"dtype": "<f8", "shape": [-1, -1], "data": b"\0" * 8},
        {"dtype": "<f8", "shape": [2**62, 2**62], "data": b""},
        {"dtype": "<f8", "shape": 1, "data": b"\0" * 8},
        {"dtype": "<f8", "shape": [1], "data": "text"},
        {"dtype": "<f8", "shape": [1]},
    ],
)
def test_malformed_arrays_are_refused(array) -> None:
    data = msgspec.msgpack.encode({"kind": "moments", "fields": {"center": array, "radius": 1.0, "second": "full"}})
    with pytest.raises(UsageError, match="refuses its fields"):
        decode_query(data)


@given(st.binary(max_size=400))
def test_random_bytes_never_crash(data: bytes) -> None:
    with pytest.raises(UsageError):
        decode_query(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_mutated_queries_decode_or_are_refused(position: int, value: int) -> None:
    data = bytearray(encode_query(Moments(center=np.arange(3.0), radius=2.0)))
    data[position % len(data)] = value
    try:
        query = decode_query(bytes(data))
    except UsageError:
        return
    assert np.isfinite(query.checked_contribution(np.ones((2, query.n_features or 3)))).all()


def test_a_kind_belongs_to_one_class() -> None:
    with pytest.raises(UsageError, match="taken"):

        @dataclass(frozen=True, eq=False)
        class Impostor(Count):
            kind: ClassVar[str] = "count"


def test_a_query_holds_no_code() -> None:
    @dataclass(frozen=True, eq=False)
    class Smuggler(Count):
        kind: ClassVar[str] = "smuggler-of-a-test"
        what: object = print

    try:
        with pytest.raises(UsageError, match="numbers, strings"):
            encode_query(Smuggler())
    finally:
        del Query._registry["smuggler-of-a-test"]


def test_sensitivity_names_unit_and_relation() -> None:
    record = VectorSum(3, 1.0).sensitivity("record")
    assert (record.l2, record.unit, record.relation) == (1.0, "record", "add/remove")
    client = VectorSum(3, 1.0).sensitivity("client", records_per_client=50)
    assert (client.l2, client.unit) == (50.0, "client")


def test_queries_cannot_be_changed() -> None:
    center = np.zeros(2)
    query = Moments(center=center, radius=1.0)
    center[0] = 5.0
    assert query.center[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        query.center[0] = 1.0
    assert not frozen_array([1.0]).flags.writeable
    edges = Histogram(np.array([[0.0, 1.0]])).edges
    assert not edges.flags.writeable
