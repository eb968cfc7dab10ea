"""What a client insists on, held against offers and rosters that are weaker."""

from __future__ import annotations

import pytest

from privfed_protocols import Client, ClientPolicy, Offer, WeakParameters
from privfed_protocols.parameters import GraphParameters, select_parameters
from privfed_protocols.roster import _check_parameters
from tests.protocols.harness import PLAN, SMALL, Network, seeded


def rostered(mode: str, *, corrupt: float, colluders: int) -> list[Client]:
    """Clients of an epoch of ten after their rosters arrived, or WeakParameters."""
    policy = ClientPolicy(n_min=8, n_max=10, min_colluders=colluders, max_dropout=0.2, modes=frozenset({mode}))
    net = Network.make(10, mode=mode, corrupt=corrupt, dropout=0.2, n_min=8, rounds=1, policy=policy)  # type: ignore[arg-type]
    for identity, roster in net.advertise().items():
        net.tell(identity, roster)
    return list(net.clients.values())


class TestColluders:
    """`min_colluders` against a server that tells clients different things."""

    @pytest.mark.parametrize("mode", ["semi-malicious", "malicious"])
    def test_an_offer_for_fewer_is_refused_though_the_threshold_exceeds_them(self, mode: str) -> None:
        """Four colluders and a server gather t shares of both secrets if 2t <= k + 4; the threshold alone is above."""
        own = select_parameters(10, corrupt=0.0, dropout=0.2, n_min=8, mode=mode)  # type: ignore[arg-type]
        assert own.t > 4
        assert 2 * own.t <= own.k + 4
        with pytest.raises(WeakParameters, match="parameters for 0 corrupt of 10 clients"):
            rostered(mode, corrupt=0.0, colluders=4)

    @pytest.mark.parametrize("mode", ["semi-malicious", "malicious"])
    @pytest.mark.parametrize("colluders", [0, 1, 2])
    def test_an_offer_for_as_many_is_accepted_and_stands_them(self, mode: str, colluders: int) -> None:
        clients = rostered(mode, corrupt=colluders / 10, colluders=colluders)
        view = clients[0]._require_view()
        assert 2 * view.t > len(view.neighbours) + colluders

    @pytest.mark.parametrize("mode", ["semi-malicious", "malicious"])
    def test_one_fewer_is_refused(self, mode: str) -> None:
        with pytest.raises(WeakParameters, match="parameters for 1 corrupt of 10 clients do not stand 2 colluders"):
            rostered(mode, corrupt=0.1, colluders=2)

    def test_the_complete_graph_under_an_honest_server_needs_the_threshold_only(self) -> None:
        assert rostered("semi-honest", corrupt=0.0, colluders=4)

    @pytest.mark.parametrize(("colluders", "accepted"), [(0, True), (1, False)])
    def test_a_ring_has_to_be_selected_for_them_even_under_an_honest_server(
        self, colluders: int, accepted: bool
    ) -> None:
        offer = Offer.new(
            vectors=SMALL, n_min=380, n_max=400, rounds=1, plan_digest=PLAN, corrupt=0.0, dropout=0.05,
            nonce=seeded("ring")(32),
        )  # fmt: skip
        own = offer.parameters(400)
        assert own.k < 399
        assert own.t > 1
        policy = ClientPolicy(n_max=400, min_colluders=colluders)
        if accepted:
            assert check(offer, own, policy) == own
        else:
            with pytest.raises(WeakParameters, match="parameters for 0 corrupt of 400 clients"):
                check(offer, own, policy)


def check(offer: Offer, own: GraphParameters, policy: ClientPolicy) -> GraphParameters:
    """What a client makes of a roster of full size that names its own parameters."""

    class Named:
        n, k, t = offer.n_max, own.k, own.t

    return _check_parameters(Named(), offer, policy)  # type: ignore[arg-type]
