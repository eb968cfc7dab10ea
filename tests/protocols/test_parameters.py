"""Parameters against their definition: brute force over thresholds, exact tails on small rings, published rows."""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privfed_protocols import GraphParameters, InfeasibleParameters, LocalProtocolError, select_parameters
from privfed_protocols.parameters import (
    MAX_CLIENTS,
    MAX_COMPLETE,
    MAX_NEIGHBOURS,
    Mode,
    exceeded,
    hypergeometric_tail,
)

PERCENT = st.integers(0, 99)
MODES: tuple[Mode, ...] = ("semi-honest", "semi-malicious", "malicious")

# Degree and threshold by clients and mode, from the tests of google/federated-compute
# (fcp/secagg/server/graph_parameter_finder_test.cc), which has sigma = 40 and eta = 20 as we do.
PUBLISHED = [
    # n, corrupt, dropout, semi-honest, semi-malicious
    (1_000, 0.05, 0.05, (30, 17), (52, 37)),
    (10_000, 0.05, 0.05, (34, 20), (62, 44)),
    (100_000, 0.05, 0.05, (36, 21), (68, 48)),
    (1_000_000, 0.05, 0.05, (38, 22), (74, 52)),
    (1_000, 0.05, 0.33, (72, 24), (398, 223)),
    (10_000, 0.05, 0.33, (86, 29), (746, 420)),
    (100_000, 0.05, 0.33, (96, 32), (882, 496)),
    (1_000_000, 0.05, 0.33, (102, 34), (970, 545)),
    (1_000, 0.33, 0.05, (78, 60), (132, 109)),
    (10_000, 0.33, 0.05, (92, 70), (178, 146)),
    (100_000, 0.33, 0.05, (102, 77), (196, 160)),
    (1_000_000, 0.33, 0.05, (110, 83), (212, 173)),
    (1_000, 0.33, 0.0, (38, 36), (38, 37)),
    (10_000, 0.33, 0.0, (42, 40), (42, 41)),
    (100_000, 0.33, 0.0, (46, 44), (46, 45)),
    (1_000_000, 0.33, 0.0, (50, 47), (50, 49)),
    (10_000, 0.0, 0.33, (42, 2), (326, 164)),
    (100_000, 0.0, 0.33, (46, 2), (372, 187)),
    (1_000_000, 0.0, 0.33, (50, 2), (410, 206)),
    (1_000, 0.0, 0.0, (2, 2), (2, 2)),
    (1_000_000, 0.0, 0.0, (2, 2), (2, 2)),
    (1_000, 0.33, 0.33, (286, 150), None),
    (10_000, 0.33, 0.33, (422, 221), None),
    (100_000, 0.33, 0.33, (480, 251), None),
    (1_000_000, 0.33, 0.33, (518, 270), None),
    (1_000_000, 0.45, 0.45, (6240, 3156), None),
    (1_000, 0.3, 0.3, None, (872, 584)),
    (100_000, 0.3, 0.3, None, (9388, 6286)),
    (1_000_000, 0.3, 0.3, None, (11136, 7454)),
]

# The same source draws a client's neighbours from all n clients, itself included; we draw from the n - 1 others. In
# these rows that costs a few neighbours more.
NEARLY = [
    (1_000, 0.45, 0.45, "semi-honest", (822, 417), (824, 418)),
    (10_000, 0.45, 0.45, "semi-honest", (3494, 1771), (3498, 1773)),
    (100_000, 0.45, 0.45, "semi-honest", (5508, 2788), (5510, 2789)),
    (10_000, 0.3, 0.3, "semi-malicious", (4822, 3230), (4828, 3234)),
    (1_000, 0.0, 0.33, "semi-malicious", (228, 115), (230, 116)),
]


def complete_by_definition(n: int, bad: int, gone: int, mode: Mode) -> int | None:
    """The threshold: secrecy and liveness first, then the smallest that also splits no honest client in two."""
    k = n - 1
    safe_and_live = [t for t in range(1, k + 1) if t >= bad + 1 and k - t >= gone]
    splitting = [t for t in safe_and_live if 2 * t > k + bad]
    if splitting:
        return min(splitting)
    return max(safe_and_live) if safe_and_live and mode == "semi-honest" else None


@cache
def ways_above(population: int, marked: int, drawn: int) -> list[int]:
    """How many draws hold more than x marked ones, for x = -1, 0, 1, ..."""
    hits = [math.comb(marked, hit) * math.comb(population - marked, drawn - hit) for hit in range(drawn + 1)]
    return [*reversed(list(itertools.accumulate(reversed(hits)))), 0]


def chance_above(population: int, marked: int, drawn: int, x: int) -> Fraction:
    """P[more than x marked ones among the drawn], counting all draws."""
    return Fraction(ways_above(population, marked, drawn)[x + 1], math.comb(population, drawn))


def ring_by_definition(
    n: int, bad: int, gone: int, mode: Mode, sigma: int, eta: int, *, drawn_from: int | None = None
) -> tuple[int, int] | None:
    """All even k in turn, counting all draws, every condition as it stands in the docstring."""
    others = n - 1 if drawn_from is None else drawn_from
    if bad + gone >= n - 1:
        return None
    for k in range(2, n - 1, 2):
        draws = math.comb(others, k)
        if n * (n - k - 1) * math.comb(bad + gone, k) << (sigma + 1) > 2 * math.comb(n, k):
            continue
        corrupt, dropped = ways_above(others, bad, k), ways_above(others, gone, k)
        a = next(a for a in range(k + 2) if corrupt[a] * n << (sigma + 1) <= draws)  # P[X >= a], which is P[X > a - 1]
        for t in range(max(a, 2), k + 1):
            splits_nobody = mode == "semi-honest" or 2 * t >= k + a
            if splits_nobody and dropped[k - t + 1] * n << eta <= draws:
                return k, t
    return None


@given(st.integers(2, 300), PERCENT, PERCENT, st.sampled_from(MODES))
def test_threshold_is_that_of_the_definition(n: int, corrupt: int, dropout: int, mode: Mode) -> None:
    bad = int(Fraction(corrupt, 100) * n)
    gone = int(Fraction(dropout, 100) * n)
    expected = complete_by_definition(n, bad, gone, mode)
    if expected is None:
        with pytest.raises(InfeasibleParameters):
            select_parameters(n, corrupt=corrupt / 100, dropout=dropout / 100, mode=mode)
    else:
        found = select_parameters(n, corrupt=corrupt / 100, dropout=dropout / 100, mode=mode)
        assert found == GraphParameters(k=n - 1, t=expected)


@settings(max_examples=25)
@given(
    st.integers(301, 330),
    st.integers(0, 40),
    st.integers(0, 40),
    st.sampled_from(MODES[:2]),
    st.integers(0, 40),
    st.integers(0, 20),
)
@example(301, 0, 0, "semi-honest", 40, 20)
@example(310, 40, 40, "semi-honest", 40, 20)
@example(310, 20, 30, "semi-malicious", 40, 20)
@example(320, 33, 5, "semi-malicious", 0, 0)
def test_ring_is_that_of_the_definition(n: int, corrupt: int, dropout: int, mode: Mode, sigma: int, eta: int) -> None:
    """The published search is a scan; ours jumps. Exact counting says both end at the same place."""
    bad, gone = int(Fraction(corrupt, 100) * n), int(Fraction(dropout, 100) * n)
    expected = ring_by_definition(n, bad, gone, mode, sigma, eta)
    settings_ = {"corrupt": corrupt / 100, "dropout": dropout / 100}
    if expected is not None:
        found = select_parameters(n, **settings_, sigma=sigma, eta=eta, mode=mode)
        assert (found.k, found.t, found.survivors) == (*expected, n - gone)
    elif (t := complete_by_definition(n, bad, gone, mode)) is not None:
        found = select_parameters(n, **settings_, sigma=sigma, eta=eta, mode=mode)
        assert found == GraphParameters(k=n - 1, t=t)
    else:
        with pytest.raises(InfeasibleParameters):
            select_parameters(n, **settings_, sigma=sigma, eta=eta, mode=mode)


@pytest.mark.parametrize(("n", "corrupt", "dropout", "honest", "malicious"), PUBLISHED)
def test_published_rows(
    n: int, corrupt: float, dropout: float, honest: tuple[int, int] | None, malicious: tuple[int, int] | None
) -> None:
    for mode, row in ((MODES[0], honest), (MODES[1], malicious)):
        if row is not None:
            found = select_parameters(n, corrupt=corrupt, dropout=dropout, sigma=40, eta=20, mode=mode)
            assert (found.k, found.t) == row


@pytest.mark.parametrize(("n", "corrupt", "dropout", "mode", "theirs", "ours"), NEARLY)
def test_published_rows_that_count_the_client_among_its_neighbours(
    n: int, corrupt: float, dropout: float, mode: Mode, theirs: tuple[int, int], ours: tuple[int, int]
) -> None:
    found = select_parameters(n, corrupt=corrupt, dropout=dropout, mode=mode)
    assert (found.k, found.t) == ours
    assert 0 < ours[0] - theirs[0] <= 6
    if n == 1_000 and not corrupt:  # small enough to count exactly, their way and ours
        assert ring_by_definition(n, 0, 330, mode, 40, 20, drawn_from=n) == theirs
        assert ring_by_definition(n, 0, 330, mode, 40, 20) == ours


@given(st.integers(1, 40), st.data())
def test_tails_are_those_of_counting(population: int, data: st.DataObject) -> None:
    marked, drawn = data.draw(st.integers(0, population)), data.draw(st.integers(0, population))
    first, tail = hypergeometric_tail(population, marked, drawn)
    assert first == max(0, marked + drawn - population)
    for x, chance in enumerate(tail, start=first):
        assert math.isclose(chance, chance_above(population, marked, drawn, x - 1), rel_tol=1e-12)


def test_tails_keep_their_precision_far_out() -> None:
    first, tail = hypergeometric_tail(9_999, 500, 34)
    for x in (5, 12, 20, 30, 34):
        assert math.isclose(tail[x - first], chance_above(9_999, 500, 34, x - 1), rel_tol=1e-10)
    assert tail[34 - first] < 2.0**-140


def test_what_a_tail_leaves_out_is_below_every_bound() -> None:
    """Only the neighbourhood of the mode is computed: nothing beyond matters, by Hoeffding's inequality."""
    first, tail = hypergeometric_tail(999_999, 450_000, 6_240)
    last = first + len(tail) - 1
    mean = 6_240 * 0.45
    assert math.exp(-2 * (last - mean) ** 2 / 6_240) < 2.0**-310
    assert math.exp(-2 * (mean - first) ** 2 / 6_240) < 2.0**-310
    assert tail[0] == 1.0
    assert tail[-1] == 0.0
    assert (tail[1:] <= tail[:-1]).all()


@given(st.integers(1, 30), st.data(), st.integers(1, 20))
def test_exceeded_is_the_least(population: int, data: st.DataObject, bits: int) -> None:
    marked, drawn = data.draw(st.integers(0, population)), data.draw(st.integers(0, population))
    x = exceeded(population, marked, drawn, 2.0**-bits)
    assert chance_above(population, marked, drawn, x) <= Fraction(1, 2**bits)
    assert x == max(0, marked + drawn - population) or chance_above(population, marked, drawn, x - 1) > Fraction(
        1, 2**bits
    )


def cuts(n: int, k: int, removed: frozenset[int]) -> bool:
    """Whether removing these places leaves the ring C_n(1..k/2) in more than one part; by walking it."""
    left = [place for place in range(n) if place not in removed]
    if not left:
        return False
    seen, todo = {left[0]}, [left[0]]
    while todo:
        place = todo.pop()
        for step in range(1, k // 2 + 1):
            for other in ((place + step) % n, (place - step) % n):
                if other not in removed and other not in seen:
                    seen.add(other)
                    todo.append(other)
    return len(seen) < len(left)


@pytest.mark.parametrize(("n", "k", "removed"), [(9, 2, 3), (10, 4, 4), (11, 4, 6), (12, 6, 7), (8, 4, 3)])
def test_the_bound_on_a_cut_ring_holds_for_all_removals(n: int, k: int, removed: int) -> None:
    every = [frozenset(places) for places in itertools.combinations(range(n), removed)]
    chance = Fraction(sum(cuts(n, k, places) for places in every), len(every))
    bound = Fraction(n * (n - k - 1), 2) * Fraction(math.comb(removed, k), math.comb(n, k))
    assert chance <= bound
    assert (bound == 0) == (removed < k)


@pytest.mark.parametrize("mode", MODES)
@given(n=st.integers(2, 700), corrupt=PERCENT, dropout=PERCENT)
@settings(max_examples=60)
def test_refusals_name_settings_that_work(n: int, corrupt: int, dropout: int, mode: Mode) -> None:
    given_ = {"corrupt": corrupt / 100, "dropout": dropout / 100}
    try:
        select_parameters(n, **given_, mode=mode)
    except InfeasibleParameters as error:
        told = str(error)
    else:
        return
    assert "the nearest that work" in told
    for name, value in re.findall(r"(dropout|corrupt)=([\d.e-]+) at this", told):
        nearest = given_ | {name: float(value)}
        assert select_parameters(n, **nearest, mode=mode).t >= 1
        with pytest.raises(InfeasibleParameters):
            select_parameters(n, **(nearest | {name: float(value) + 1.01 / n}), mode=mode)
    for value in re.findall(r"corrupt=0 and dropout=([\d.e-]+)", told):
        select_parameters(n, corrupt=0.0, dropout=float(value), mode=mode)


@pytest.mark.parametrize(
    ("n", "corrupt", "dropout", "mode"),
    [
        (1_000_000, 0.5, 0.5, "semi-honest"),
        (1_000_000, 0.47, 0.47, "semi-honest"),
        (100_000, 0.4, 0.4, "semi-malicious"),
        (1_000, 0.5, 0.5, "semi-malicious"),
        (1_000, 0.2, 0.5, "malicious"),
        (100_000, 0.999, 0.0, "semi-honest"),
    ],
)
def test_impossible_corners_are_refused(n: int, corrupt: float, dropout: float, mode: Mode) -> None:
    with pytest.raises(InfeasibleParameters, match="the nearest that work: "):
        select_parameters(n, corrupt=corrupt, dropout=dropout, mode=mode)


def test_malicious_mode_is_the_complete_graph_or_nothing() -> None:
    """2t > n - 1 + C (Bonawitz et al., CCS 2017, theorem 6.5), also where semi-malicious mode has a ring."""
    found = select_parameters(1_000, corrupt=0.1, dropout=0.2, mode="malicious")
    assert found == GraphParameters(k=999, t=550)
    assert 2 * found.t > 999 + 100 > 2 * (found.t - 1)
    assert select_parameters(1_000, corrupt=0.1, dropout=0.2, mode="semi-malicious").k < 999
    with pytest.raises(InfeasibleParameters, match="complete graph"):
        select_parameters(MAX_NEIGHBOURS + 2, corrupt=0.0, dropout=0.0, mode="malicious")


def test_the_complete_graph_serves_where_no_ring_does() -> None:
    """With 199 corrupt and 199 gone of 400, the one client that a ring leaves out could be one too many."""
    assert ring_by_definition(400, 199, 199, "semi-honest", 40, 20) is None
    assert select_parameters(400, corrupt=199 / 400, dropout=199 / 400) == GraphParameters(k=399, t=200)


def test_complete_to_300_and_a_ring_above() -> None:
    assert select_parameters(MAX_COMPLETE, corrupt=0.05, dropout=0.05).k == 299
    above = select_parameters(MAX_COMPLETE + 1, corrupt=0.05, dropout=0.05)
    assert above.k < 40
    assert above.survivors == 301 - 15


def test_a_ring_is_sized_for_the_survivors_it_names() -> None:
    """Drop-outs that n_min rules out need not be stood, and the survivors named rise with it."""
    loose = select_parameters(1_000, corrupt=0.05, dropout=0.3)
    tight = select_parameters(1_000, corrupt=0.05, dropout=0.3, n_min=950)
    assert (loose.survivors, tight.survivors) == (700, 950)
    assert tight == select_parameters(1_000, corrupt=0.05, dropout=0.05)


def test_the_invited_are_counted_as_corrupt() -> None:
    """100 of 1000 invited may be corrupt; they are still 100 when only 500 turn up."""
    found = select_parameters(500, corrupt=0.1, dropout=0.05, n_max=1_000)
    assert found == select_parameters(500, corrupt=0.2, dropout=0.05)


@given(st.integers(301, 5_000), st.integers(0, 25), st.integers(0, 25))
@settings(max_examples=40)
def test_standing_more_never_costs_less(n: int, corrupt: int, dropout: int) -> None:
    base = select_parameters(n, corrupt=corrupt / 100, dropout=dropout / 100)
    for harder in (
        {"corrupt": (corrupt + 1) / 100, "dropout": dropout / 100},
        {"corrupt": corrupt / 100, "dropout": (dropout + 1) / 100},
    ):
        assert select_parameters(n, **harder).k >= base.k
    assert select_parameters(n, corrupt=corrupt / 100, dropout=dropout / 100, sigma=60).k >= base.k
    assert select_parameters(n, corrupt=corrupt / 100, dropout=dropout / 100, mode="semi-malicious").k >= base.k


def test_fractions_that_floats_cannot_hold_count_fully() -> None:
    """0.29 * 100 is 28.999... in float64; the threshold must stand 29 corrupt clients."""
    expected = complete_by_definition(100, 29, 60, "semi-honest")
    assert select_parameters(100, corrupt=0.29, dropout=0.6).t == expected


@given(st.integers(3, 40), st.data())
def test_whoever_is_lost_in_set_up_the_threshold_exceeds_the_colluders(invited: int, data: st.DataObject) -> None:
    """Colluders all turn up: those who are lost are honest. No permitted roster may let them open a secret alone."""
    colluders = data.draw(st.integers(0, invited - 2))
    n_min = data.draw(st.integers(colluders + 2, invited))
    dropout = data.draw(st.floats(0.0, 0.9))
    for n in range(n_min, invited + 1):
        found = select_parameters(n, corrupt=colluders / invited, dropout=dropout, n_min=n_min, n_max=invited)
        assert colluders < found.t <= n - 1
        assert found.k - found.t >= min(int(dropout * n), n - n_min)


def test_a_roster_outside_the_offer_is_refused() -> None:
    for n in (4, 11):
        with pytest.raises(LocalProtocolError, match="outside"):
            select_parameters(n, corrupt=0.0, dropout=0.0, n_min=5, n_max=10)


def test_examples() -> None:
    assert select_parameters(2, corrupt=0.0, dropout=0.0) == GraphParameters(k=1, t=1)
    assert select_parameters(20, corrupt=0.0, dropout=0.2) == GraphParameters(k=19, t=10)
    assert select_parameters(100, corrupt=0.33, dropout=0.33) == GraphParameters(k=99, t=66)


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 1},
        {"n": 0},
        {"n": MAX_CLIENTS + 1},
        {"n": 5, "corrupt": -0.1},
        {"n": 5, "corrupt": 1.0},
        {"n": 5, "dropout": float("nan")},
        {"n": 5, "mode": "honest"},
        {"n": 5, "sigma": -1},
        {"n": 1000, "sigma": 257},
        {"n": 1000, "eta": 257},
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        select_parameters(**({"corrupt": 0.0, "dropout": 0.0} | arguments))  # type: ignore[arg-type]
