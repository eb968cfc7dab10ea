"""The sparse graph: rosters with paths, sums with drop-outs, and what a client's share of the work depends on."""

from __future__ import annotations

import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_protocols import (
    BadBitmap,
    BadNeighbour,
    BadRoster,
    Client,
    ClientPolicy,
    EpochFailed,
    LocalProtocolError,
    NeighboursBelowThreshold,
    PeerProtocolError,
    RosterSize,
    RoundFailed,
    SlotState,
    UnknownFormat,
    VectorSpec,
    WrongNeighbours,
    bitmap,
)
from privfed_protocols import derivation as derive
from privfed_protocols.graph import CompleteGraph, Graph, HararyGraph
from privfed_protocols.merkle import Tree, leaf_hash
from privfed_protocols.messages import Advertise, Neighbour, Roster, Start, encode
from privfed_protocols.topology import Topology
from tests.protocols.harness import MODEL, PLAN, Network, assert_exact, identities, replace

N = 320
ME = identities(1)[0]
OTHER = bytes(reversed(range(32)))


def ring(*, n: int = N, mode: str = "semi-honest", n_min: int = 290, **offered: object) -> Network:
    """A network that is too large for the complete graph."""
    arguments: dict[str, object] = {"corrupt": 0.02, "dropout": 0.05, "rounds": 1, "eta": 10}
    return Network.make(
        n,
        n_min=n_min,
        mode=mode,
        policy=ClientPolicy(n_max=n, modes=frozenset({mode})),
        **(arguments | offered),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def advertised() -> tuple[Network, Roster]:
    net = ring()
    return net, msgspec.msgpack.decode(net.advertise()[ME], type=Roster)


# --- the roster


class RosterForge:
    """A roster for client 0 of a ring, from leaves that may be changed; the client is restored for each test."""

    def __init__(self, advertised: tuple[Network, Roster]) -> None:
        self.net, self.roster = advertised
        self.client = self.net.restored(ME, policy=ClientPolicy(n_max=N))
        self.epoch = self.client._epoch
        self.entries = list(self.roster.neighbours)

    def forged(self, **changes: object) -> bytes:
        return encode(msgspec.structs.replace(self.roster, **({"neighbours": tuple(self.entries)} | changes)))

    def refused(self, message: bytes, error: type[PeerProtocolError]) -> None:
        with pytest.raises(error) as caught:
            self.client.receive(message, now=0)
        assert type(caught.value) is error


def test_the_forge_forges_acceptable_rosters(advertised: tuple[Network, Roster]) -> None:
    forge = RosterForge(advertised)
    graph = HararyGraph(N, forge.roster.k, derive.graph_seed(forge.roster.root))
    assert forge.roster.k < N - 1
    assert tuple(entry.index for entry in forge.entries) == graph.neighbours(0)
    assert all(7 <= len(entry.path) <= 9 for entry in forge.entries)
    assert forge.client.receive(forge.forged(), now=0).reply


def test_7_a_path_that_does_not_lead_to_the_root(advertised: tuple[Network, Roster]) -> None:
    for path in ((), (OTHER,) * 9, advertised[1].neighbours[1].path):
        forge = RosterForge(advertised)
        forge.entries[3] = Neighbour(forge.entries[3].index, forge.entries[3].advertise, path)
        forge.refused(forge.forged(), BadRoster)


def test_7_an_advertise_that_the_root_does_not_hold(advertised: tuple[Network, Roster]) -> None:
    forge = RosterForge(advertised)
    entry = forge.entries[3]
    altered = replace(entry.advertise, Advertise, commitments=OTHER)
    forge.entries[3] = Neighbour(entry.index, altered, entry.path)
    forge.refused(forge.forged(), BadRoster)


def test_7_a_roster_out_of_order(advertised: tuple[Network, Roster]) -> None:
    """All leaves but the own one in reverse, under a root that holds them so: two neighbours suffice to see it."""
    net, roster = advertised
    forge = RosterForge(advertised)
    own, *others = advertised_leaves(net)
    leaves = [own, *reversed(others)]
    tree = Tree([leaf_hash(leaf) for leaf in leaves])
    neighbours = HararyGraph(N, roster.k, derive.graph_seed(tree.root)).neighbours(0)
    entries = tuple(Neighbour(index, leaves[index], tree.path(index)) for index in neighbours)
    forge.refused(forge.forged(root=tree.root, path=tree.path(0), neighbours=entries), BadRoster)


def advertised_leaves(net: Network) -> list[bytes]:
    return [net.restored(identity, policy=ClientPolicy(n_max=N))._advertise for identity in identities(N)]


@pytest.mark.parametrize("change", ["fewer", "more", "other", "order", "seed"])
def test_8_neighbours_that_the_ring_does_not_give(advertised: tuple[Network, Roster], change: str) -> None:
    forge = RosterForge(advertised)
    stranger = next(index for index in range(1, N) if index not in {entry.index for entry in forge.entries})
    leaf, tree = advertised_leaves(forge.net)[stranger], Tree([leaf_hash(one) for one in advertised_leaves(forge.net)])
    entry = Neighbour(stranger, leaf, tree.path(stranger))
    forge.entries = {
        "fewer": forge.entries[:-1],
        "more": sorted([*forge.entries, entry], key=lambda one: one.index),
        "other": sorted([*forge.entries[1:], entry], key=lambda one: one.index),
        "order": forge.entries[::-1],
        "seed": [
            Neighbour(index, advertised_leaves(forge.net)[index], tree.path(index))
            for index in HararyGraph(N, forge.roster.k, OTHER).neighbours(0)
        ],
    }[change]
    forge.refused(forge.forged(), WrongNeighbours)


def test_9_a_neighbour_twice_under_two_indices(advertised: tuple[Network, Roster]) -> None:
    forge = RosterForge(advertised)
    forge.entries[1] = Neighbour(forge.entries[1].index, forge.entries[0].advertise, forge.entries[0].path)
    forge.refused(forge.forged(), BadNeighbour)


def test_5_a_client_that_did_not_agree_to_so_many() -> None:
    net = ring()
    with pytest.raises(RosterSize):
        Client(ME, policy=ClientPolicy(n_max=300)).receive(net.server.offer, now=0)
    assert ClientPolicy().n_max == 300


# --- rounds


@pytest.mark.parametrize("mode", ["semi-honest", "semi-malicious"])
def test_sums_on_a_ring_are_exact_through_losses(mode: str) -> None:
    specs = [VectorSpec("x", 20, 20), VectorSpec("y", 3, 64)]
    net = ring(mode=mode, vectors=specs, rounds=2, corrupt=0.01, eta=8)
    names = identities(N)
    net.set_up(lost_advertise=names[317:], lost_shares=names[10:12])
    parameters = net.server._require_roster().parameters
    assert parameters.k < 316
    for number in range(1 + (mode == "semi-honest")):
        vectors = net.vectors(number)
        result = net.round(
            vectors, lost_start=[names[number]], lost_input=names[20:23], lost_unmask=names[40 + number : 43]
        )
        lost = {*names[317:], *names[10:12], names[number], *names[20:23]}
        assert set(result.survivors) == set(names) - lost
        assert_exact(result, vectors, specs)


class Ready:
    """A ring after set-up, whose first client is under test in round 1."""

    def __init__(self) -> None:
        self.net = ring().set_up()
        self.start = self.net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[ME]
        view = self.net.clients[ME]._view
        assert view is not None
        self.view = view

    def without(self, count: int) -> tuple[int, ...]:
        """Everybody but so many of the client's neighbours."""
        return tuple(index for index in range(N) if index not in self.view.neighbours[:count])


@pytest.fixture(scope="module")
def ready() -> Ready:
    return Ready()


def test_16_fewer_live_neighbours_than_the_threshold_though_many_clients(ready: Ready) -> None:
    spare = len(ready.view.neighbours) - ready.view.t
    for gone, accepted in ((spare, True), (spare + 1, False)):
        client = ready.net.restored(ME, policy=ClientPolicy(n_max=N))
        message = replace(ready.start, Start, participants=bitmap.pack(ready.without(gone), N))
        if accepted:
            assert client.receive(message, now=0)
        else:
            with pytest.raises(NeighboursBelowThreshold):
                client.receive(message, now=0)


def test_15_fewer_clients_than_secrecy_on_the_ring_was_computed_for(ready: Ready) -> None:
    """They are more than n_min, and all of the client's neighbours are there."""
    fewest = ready.net.offer.parameters(N).survivors
    assert ready.net.offer.n_min < fewest == ready.view.fewest
    others = [index for index in range(N) if index and index not in ready.view.neighbours]
    for count, accepted in ((N - fewest, True), (N - fewest + 1, False)):
        client = ready.net.restored(ME, policy=ClientPolicy(n_max=N))
        members = set(range(N)) - set(others[:count])
        message = replace(ready.start, Start, participants=bitmap.pack(members, N))
        if accepted:
            assert client.receive(message, now=0)
        else:
            with pytest.raises(BadBitmap):
                client.receive(message, now=0)


def test_one_client_without_neighbours_fails_the_round_before_anything_is_opened() -> None:
    """All but a few answer, yet one drop-out's key could not be recovered: the server must notice before it asks."""
    net = ring(dropout=0.08, n_min=280, eta=4).set_up()
    roster = net.server._require_roster()
    victim, t = 0, roster.parameters.t
    row = roster.topology.rows[victim].tolist()
    gone = row[: len(row) - t + 1]
    assert N - len(gone) - 1 >= max(net.offer.n_min, roster.parameters.survivors)
    lost = [identities(N)[index] for index in (*gone, victim)]
    with pytest.raises(RoundFailed, match="live neighbours"):
        net.inputs(net.vectors(), lost_input=lost)


def test_clients_that_lost_too_many_neighbours_in_set_up_are_left_out_and_the_rest_goes_on() -> None:
    net = ring(dropout=0.08, n_min=280, eta=4)
    rosters = net.advertise()
    topology, t = net.server._require_roster().topology, net.server._require_roster().parameters.t
    row = topology.rows[0].tolist()
    gone = {identities(N)[index] for index in row[: len(row) - t + 1]}
    for identity, roster in rosters.items():
        if identity not in gone:
            net.send(identity, net.tell(identity, roster))
    mail = net.server.close_shares()
    assert ME not in mail
    for identity, delivery in mail.items():
        net.tell(identity, delivery)
    with pytest.raises(LocalProtocolError, match="did not finish set-up"):
        net.server.start_round(model_digest=MODEL, plan_digest=PLAN, participants=[ME, *mail])
    vectors = net.vectors()
    result = net.round(vectors)
    assert set(result.participants) == set(mail)
    assert_exact(result, vectors, net.offer.vectors)
    assert net.server.slots[ME].state is SlotState.SHARED


def test_too_few_shares_fail_the_epoch() -> None:
    with pytest.raises(EpochFailed, match="set-up"):
        ring().set_up(lost_shares=identities(N)[:40])


# --- the edges as arrays


@given(st.integers(3, 60), st.data())
@settings(max_examples=60)
def test_topology_is_that_of_the_graph(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, (n - 1) // 2)) * 2
    graph: Graph = data.draw(st.sampled_from([CompleteGraph(n), HararyGraph(n, k, bytes([n]) * 32)]))
    topology = Topology.of(graph)
    members = topology.mask(sorted(data.draw(st.sets(st.integers(0, n - 1)))))
    for index in range(n):
        row = graph.neighbours(index)
        assert tuple(topology.rows[index].tolist()) == row
        for neighbour, place in zip(row, topology.places[index].tolist(), strict=True):
            assert graph.neighbours(neighbour)[place] == index
            assert graph.points(neighbour, [index]).tolist() == [place + 1]
        assert topology.live(members)[index] == sum(bool(members[one]) for one in row)
        assert topology.among(index, members) == [one for one in row if members[one]]


@given(st.integers(5, 40), st.integers(1, 4), st.data())
@settings(max_examples=60)
def test_viable_is_the_largest_part_in_which_all_have_enough(n: int, threshold: int, data: st.DataObject) -> None:
    graph = HararyGraph(n, 4, bytes([n]) * 32)
    members = data.draw(st.sets(st.integers(0, n - 1)))
    found = set(np.flatnonzero(Topology.of(graph).viable(Topology.of(graph).mask(sorted(members)), threshold)).tolist())
    left = set(members)
    while weak := [one for one in left if len(left & set(graph.neighbours(one))) < threshold]:
        left.discard(weak[0])
    assert found == left


# --- what it costs


def test_what_a_client_is_sent_and_keeps_does_not_grow_with_the_number_of_clients() -> None:
    """Beside one bit a client and round, and the depth of the tree."""
    sizes = {}
    for n in (400, 1200):
        net = Network.make(
            n, n_min=int(0.9 * n), corrupt=0.02, dropout=0.05, rounds=1, policy=ClientPolicy(n_max=n), eta=8
        )
        roster = net.advertise()[ME]
        reply = net.tell(ME, roster)
        assert reply is not None
        k = net.server._require_roster().parameters.k
        sizes[n] = (len(roster) / k, len(reply) / k, len(net.saved[ME]) / k)
    for small, large in zip(sizes[400], sizes[1200], strict=True):
        assert large < 1.2 * small + 70


def test_mail_is_made_when_it_is_asked_for() -> None:
    net = ring(n=600, n_min=560)
    for identity in net.clients:
        net.send(identity, net.tell(identity, net.server.offer))
    tracemalloc.start()
    mail = net.server.close_advertise()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    size = len(mail[ME])
    assert len(mail) == 600
    assert held < 600 * size / 5
    assert mail[ME] == mail[ME]
    with pytest.raises(KeyError):
        mail[b"stranger"]
    assert repr(mail) == "<Mail to 600 clients>"


def test_2_bitmaps_of_another_number_of_clients(ready: Ready) -> None:
    client = ready.net.restored(ME, policy=ClientPolicy(n_max=N))
    with pytest.raises(UnknownFormat):
        client.receive(replace(ready.start, Start, participants=bytes(39)), now=0)
