"""Shamir sharing against plain Python integers, and robust opening against planted lies."""

from __future__ import annotations

import itertools
import math
import secrets

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_protocols import robust, shamir
from privfed_protocols.shamir import FieldStream, combine, from_limbs, lagrange_at_zero, reduce, share, to_limbs

P = 2**31 - 1
SECRET = st.binary(min_size=32, max_size=32)


def field(values: object) -> npt.NDArray[np.uint64]:
    return np.asarray(values, np.uint64)


def interpolate(points: list[int], values: list[int], at: int) -> int:
    """Lagrange in Python integers."""
    total = 0
    for i, (x, y) in enumerate(zip(points, values, strict=True)):
        numerator = denominator = 1
        for j, other in enumerate(points):
            if j != i:
                numerator = numerator * (at - other) % P
                denominator = denominator * (x - other) % P
        total += y * numerator * pow(denominator, -1, P)
    return total % P


@given(st.lists(SECRET, min_size=1, max_size=5))
def test_limbs_are_the_base_2_to_30_digits(values: list[bytes]) -> None:
    limbs = to_limbs(b"".join(values))
    for value, row in zip(values, limbs.tolist(), strict=True):
        assert sum(limb << (30 * place) for place, limb in enumerate(row)) == int.from_bytes(value, "little")
        assert max(row) < 2**30
    assert from_limbs(limbs) == values


@pytest.mark.parametrize("row", [[2**30] + [0] * 8, [0] * 8 + [2**16], [P - 1] * 9])
def test_limbs_that_are_no_secret_are_told(row: list[int]) -> None:
    assert from_limbs(field([row, [0] * 9])) == [None, bytes(32)]


@given(st.integers(0, 2**63 - 1))
def test_reduction(value: int) -> None:
    assert int(reduce(field([value]))[0]) == value % P


@pytest.mark.parametrize("value", [0, 1, P - 1, P, P + 1, 2 * P, P * P, (P - 1) ** 2, 2**62 - 1, 2**63 - 1])
def test_reduction_at_the_edges(value: int) -> None:
    assert int(reduce(field([value]))[0]) == value % P


@given(
    st.lists(SECRET, min_size=1, max_size=3),
    st.sampled_from([range(1, 12), range(1, 301, 23), [1, 2, 3, 2**30 - 1, 2**30 - 2, 2**29, 77]]),
    st.data(),
)
@settings(max_examples=60)
def test_shares_lie_on_a_polynomial_with_the_secret_at_zero(
    values: list[bytes], xs: range | list[int], data: st.DataObject
) -> None:
    points = list(xs)
    threshold = data.draw(st.integers(1, len(points)))
    limbs = to_limbs(b"".join(values))
    shares = share(limbs, points=field(points), threshold=threshold, stream=FieldStream(bytes(32)))
    assert shares.shape == (len(points), len(values), 9)
    assert int(shares.max()) < P
    chosen = data.draw(st.permutations(range(len(points))))[:threshold]
    for secret, limb in itertools.product(range(len(values)), (0, 8)):
        xs_, ys = [points[i] for i in chosen], [int(shares[i, secret, limb]) for i in chosen]
        assert interpolate(xs_, ys, 0) == int(limbs[secret, limb])
        for i in range(len(points)):
            assert interpolate(xs_, ys, points[i]) == int(shares[i, secret, limb])
    picked = field([points[i] for i in chosen])[None].repeat(len(values), axis=0)
    opened = combine(lagrange_at_zero(picked), field(shares[list(chosen)].swapaxes(0, 1)))
    assert from_limbs(opened) == values


def test_many_sets_of_points_at_once_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shamir, "_LAGRANGE_ELEMENTS", 40)
    rng = np.random.default_rng(1)
    points = field([np.sort(rng.choice(300, 5, replace=False)) + 1 for _ in range(33)])
    coefficients = lagrange_at_zero(points)
    for row, found in zip(points.tolist(), coefficients.tolist(), strict=True):
        units = [[int(i == j) for j in range(5)] for i in range(5)]
        assert found == [interpolate(row, unit, 0) for unit in units]


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_one_share_too_few_is_uniform_whatever_the_secret(secret: bytes) -> None:
    """Chi-square of what t - 1 holders see together, over 64 cells; the same test sees shares of threshold 1."""
    limbs = to_limbs(secret * 2000)

    def chi_square(threshold: int) -> float:
        shares = share(limbs, points=field([1, 2]), threshold=threshold, stream=FieldStream(b"s" * 32)).astype(
            np.uint64
        )
        cells = (shares * np.uint64(8) // np.uint64(P)).astype(np.intp)
        counts = np.bincount((cells[0] * 8 + cells[1]).reshape(-1), minlength=64)
        expected = counts.sum() / 64
        return float(((counts - expected) ** 2 / expected).sum())

    assert 25 < chi_square(3) < 115  # 63 degrees of freedom
    assert chi_square(1) > 1e4


def test_every_secret_and_round_has_its_own_polynomial() -> None:
    limbs = np.repeat(to_limbs(bytes(32)), 40, axis=0)
    shares = share(limbs, points=field(range(1, 100)), threshold=60, stream=FieldStream(bytes(32)))
    assert len({row.tobytes() for row in shares.transpose(1, 2, 0).reshape(-1, 99)}) == 40 * 9


def test_coefficients_are_drawn_again_not_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The word p must not become 0: a remainder would make 0 twice as likely as any other value."""
    rows = iter([np.array([5, P, 7, P], np.uint32), np.array([P, 9], np.uint32), np.array([0], np.uint32)])
    monkeypatch.setattr(FieldStream, "_words", lambda _self, _count: next(rows))
    assert FieldStream(bytes(32)).draw(4).tolist() == [5, 7, 9, 0]


@pytest.mark.parametrize("width", range(1, 31))
def test_nothing_overflows_between_folds(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest coefficients at the largest points of each width, for as many steps as there ever are."""
    monkeypatch.setattr(FieldStream, "_words", lambda _self, count: np.full(count, P - 1, np.uint32))
    points = sorted({1, 2 ** (width - 1), 2**width - 1})
    shares = share(field([[P - 1] * 9]), points=field(points), threshold=300, stream=FieldStream(bytes(32)))
    for point, found in zip(points, shares[:, 0, 0].tolist(), strict=True):
        assert found == -sum(pow(point, power, P) for power in range(300)) % P


@pytest.mark.parametrize("block", [1, 9 * 7, 9 * 7 * 2, 10**6])
def test_shares_do_not_depend_on_how_the_work_is_cut(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limbs, arguments = to_limbs(bytes(range(160))), {"points": field(range(1, 8)), "threshold": 4}
    expected = share(limbs, stream=FieldStream(bytes(32)), **arguments)  # type: ignore[arg-type]
    monkeypatch.setattr(shamir, "_BLOCK_ELEMENTS", block)
    assert np.array_equal(share(limbs, stream=FieldStream(bytes(32)), **arguments), expected)  # type: ignore[arg-type]


def test_field_elements_are_uniform() -> None:
    """Chi-square over 256 equal cells; the same test sees a missing top bit."""
    drawn = FieldStream(b"k" * 32).draw(1 << 18).astype(np.uint64)
    assert int(drawn.max()) < P

    def chi_square(values: npt.NDArray[np.uint64]) -> float:
        counts = np.bincount((values * np.uint64(256) // np.uint64(P)).astype(np.intp), minlength=256)
        return float(((counts - values.size / 256) ** 2 / (values.size / 256)).sum())

    assert 170 < chi_square(drawn) < 360  # 255 degrees of freedom, about 4.5 standard deviations
    assert chi_square(drawn >> np.uint64(1)) > 1e5


def lying(m: int, threshold: int, liars: dict[int, list[int]]) -> tuple[bytes, npt.NDArray[np.uint64]]:
    """A secret and its shares at 1 to m, where each liar has altered these limbs."""
    secret = secrets.token_bytes(32)
    shares = share(
        to_limbs(secret),
        points=field(range(1, m + 1)),
        threshold=threshold,
        stream=FieldStream(secrets.token_bytes(32)),
    )[:, 0].astype(np.uint64)
    for liar, limbs in liars.items():
        for limb in limbs:
            shares[liar, limb] = (shares[liar, limb] + 1 + secrets.randbelow(P - 1)) % P
    return secret, shares


@given(st.integers(1, 9), st.integers(0, 8), st.data())
@settings(max_examples=60)
def test_lies_are_found_as_far_as_they_can_be(threshold: int, slack: int, data: st.DataObject) -> None:
    m = threshold + slack
    few_subsets = math.comb(m, threshold) <= 2000
    count = data.draw(st.integers(0, slack if few_subsets else slack // 2))
    liars = {
        liar: data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True))
        for liar in data.draw(st.permutations(range(m)))[:count]
    }
    secret, shares = lying(m, threshold, liars)
    outcome = robust.recover(
        shares, points=field(range(1, m + 1)), threshold=threshold, accept=lambda found: found == secret
    )
    if liars:
        assert outcome.secret == secret
        assert set(outcome.wrong) == set(liars)
    else:  # `recover` is only called when the commitment does not fit, so consistent shares hold another secret
        assert (outcome.secret, outcome.wrong) == (None, ())


def test_errors_that_cancel_make_a_right_share_look_wrong() -> None:
    """Points 1, 2, 3 open with coefficients 3, -3, 1: the same error at 1 and 2 leaves the secret as it is.

    The polynomial through them is wrong all the same, and the honest share at 4 is not on it.
    """
    secret, shares = lying(4, 3, {})
    shares[:2] = (shares[:2] + np.uint64(5)) % np.uint64(P)
    outcome = robust.recover(shares, points=field(range(1, 5)), threshold=3, accept=lambda found: found == secret)
    assert outcome.secret == secret
    assert outcome.wrong == (3,)


@pytest.mark.parametrize("limb", range(9))
def test_lies_in_a_single_limb_are_found(limb: int) -> None:
    """Too many subsets to try: the decoder has to look at the limb that is wrong."""
    secret, shares = lying(17, 9, {0: [limb], 5: [limb], 16: [limb], 7: [(limb + 1) % 9]})
    assert math.comb(17, 9) > robust._MOST_SUBSETS
    outcome = robust.recover(shares, points=field(range(1, 18)), threshold=9, accept=lambda found: found == secret)
    assert (outcome.secret, outcome.wrong) == (secret, (0, 5, 7, 16))


def test_too_many_lies_give_nothing_rather_than_something() -> None:
    secret, shares = lying(5, 4, {0: [0], 3: [1]})
    outcome = robust.recover(shares, points=field(range(1, 6)), threshold=4, accept=lambda found: found == secret)
    assert (outcome.secret, outcome.wrong) == (None, ())


def test_no_spare_share_points_at_nobody() -> None:
    secret, shares = lying(4, 4, {0: [0]})
    outcome = robust.recover(shares, points=field(range(1, 5)), threshold=4, accept=lambda found: found == secret)
    assert (outcome.secret, outcome.wrong) == (None, ())


def test_recovered_secrets_do_not_show() -> None:
    assert "secret" not in repr(robust.Recovered(b"x" * 32, (1,)))
