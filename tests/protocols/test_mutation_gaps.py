"""What taking a refusal out changes without changing the name of an error, so that no vector can show it."""

from __future__ import annotations

import pytest

from privfed_protocols import UnknownFormat, VectorSpec
from privfed_protocols.messages import Masked
from tests.protocols.harness import Network, assert_exact, identities, replace

SPECS = (VectorSpec("first", 4, 32), VectorSpec("second", 5, 3))


def test_a_vector_that_is_refused_behind_a_good_one_adds_neither() -> None:
    """Both are looked at before either is added: the sum of the others is exact, and the round goes on."""
    net = Network.make(5, vectors=SPECS, dropout=0.2).set_up()
    vectors, bad = net.vectors(), identities(1)[0]
    honest = net.submit

    def submit(identity: bytes, given: object) -> bytes:
        message = honest(identity, vectors[identity])
        if identity != bad:
            return message
        dirty = bytearray(message[-18:])
        dirty[-1] |= 0x80
        return replace(message, Masked, payload=memoryview(bytes(dirty)))

    net.submit = submit  # type: ignore[method-assign]
    result = net.round(vectors)
    assert [type(error) for _, error in net.refused] == [UnknownFormat]
    assert bad not in result.survivors
    assert_exact(result, vectors, SPECS)


@pytest.mark.parametrize("size", [17, 19])
def test_a_payload_of_the_wrong_size_adds_nothing(size: int) -> None:
    net = Network.make(5, vectors=SPECS, dropout=0.2).set_up()
    vectors, bad = net.vectors(), identities(1)[0]
    honest = net.submit
    net.submit = lambda identity, given: (  # type: ignore[method-assign]
        replace(honest(identity, given), Masked, payload=memoryview(bytes(size)))
        if identity == bad
        else honest(identity, given)
    )
    result = net.round(vectors)
    assert bad not in result.survivors
    assert_exact(result, vectors, SPECS)
