"""The graph of masking: each client draws its holders itself, all are told one graph, and nobody can be left alone."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from fedseal.errors import BadConfig
from fedseal.secagg import masking, wire
from fedseal.secagg.errors import BadMessage, CohortTooSmall, Misbehavior
from fedseal.secagg.hazmat.prg import Masks
from fedseal.secagg.hazmat.ring import Elements
from fedseal.secagg.masking.graph import Graph, _Odds, degree_for, drawn_holders
from fedseal.secagg.wire import Kind, Reader
from secagg.rounds import Masking, terms, total, update


def _drawn(clients: int, degree: int) -> dict[int, tuple[int, ...]]:
    return {who: drawn_holders(range(clients), who, degree) for who in range(clients)}


@pytest.mark.parametrize(("clients", "degree"), [(10, 4), (11, 6), (40, 20), (6, 0), (6, 5)])
def test_neighbors_are_mutual_and_holders_are_those_drawn(clients: int, degree: int) -> None:
    drawn = _drawn(clients, degree)
    graph = Graph(range(clients), drawn)
    for who, holders in drawn.items():
        assert len(holders) == (degree or clients - 1)
        assert who not in holders
        assert graph.holders(who) == tuple(sorted({who, *holders}))
        assert graph.kept(who) == tuple(other for other in range(clients) if who in drawn[other])
        assert set(graph.neighbors(who)) == {*holders, *graph.kept(who)}
        assert all(who in graph.neighbors(other) for other in graph.neighbors(who))
    everybody = Graph(range(clients))
    assert everybody.neighbors(2) == everybody.kept(2) == tuple(who for who in range(clients) if who != 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(7, 30), st.data())
def test_a_graph_is_read_as_it_was_written(clients: int, data: st.DataObject) -> None:
    degree, numbers = 4, sorted(data.draw(st.sets(st.integers(0, 2**63 - 1), min_size=clients, max_size=clients)))
    sharing = sorted(data.draw(st.sets(st.sampled_from(numbers), min_size=2)))
    graph = Graph(numbers, {who: drawn_holders(numbers, who, degree) for who in sharing})
    read = Graph.read(numbers, sharing, degree, Reader(graph.written()))
    assert (read.drawn, read.digest) == (graph.drawn, graph.digest)


@pytest.mark.parametrize("row", [(1, 2, 3, 9), (9, 1, 2, 3), (1, 1, 2, 3), (3, 2, 1, 4), (0, 1, 2, 3)])
def test_a_row_that_nobody_could_have_drawn_is_refused(row: tuple[int, ...]) -> None:
    raw = np.array(row, "<u2").tobytes()
    with pytest.raises(BadMessage):
        Graph.read(range(9), [0], 4, Reader(raw))
    with pytest.raises(BadMessage):
        Graph.read(range(9), [0], 4, Reader(raw[:-1]))


def test_holders_are_drawn_evenly_whatever_keys_others_have() -> None:
    """Six standard deviations; a draw takes no key, so that none can be ground."""
    seen = Counter(holder for _ in range(4000) for holder in drawn_holders(range(21), 7, 5))
    assert set(seen) == set(range(21)) - {7}
    assert all(abs(count - 1000) < 6 * (4000 * 0.25 * 0.75) ** 0.5 for count in seen.values())


def _sparse() -> Masking:
    return Masking(terms(clients=40, degree=4, minimum=20, quorum=(1, 2)))


def _until_relay(round_: Masking) -> dict[int, bytes]:
    for client in round_.clients.values():
        round_.to_server(client.advertise())
    round_.to_server(round_.to_clients(round_.advance()))
    return {to: bytes(raw) for to, raw in round_.advance()}


def test_a_server_that_changes_what_a_client_drew_is_found_out_by_it() -> None:
    round_ = _sparse()
    relays = _until_relay(round_)
    graph = round_.server._graph
    assert graph.drawn is not None
    other = next(who for who in range(1, 40) if who not in graph.drawn[0])
    drawn = {**graph.drawn, 0: tuple(sorted((*graph.drawn[0][1:], other)))}
    honest, lie = graph.written(), Graph(range(40), drawn).written()
    body = bytes(wire.read_message(relays[0], 10**6).body)
    assert body.count(honest) == 1
    with pytest.raises(Misbehavior, match="drew other holders"):
        round_.clients[0].receive(round_.said(Kind.RELAY, 0, body.replace(honest, lie)))


def test_clients_that_are_told_two_graphs_unmask_nothing() -> None:
    round_ = _sparse()
    relays = _until_relay(round_)
    graph = round_.server._graph
    assert graph.drawn is not None
    liar = 39
    victim = next(who for who in range(39) if who not in graph.drawn[liar])
    others = [who for who in range(39) if who not in (victim, *graph.drawn[liar])]
    drawn = {**graph.drawn, liar: tuple(sorted(others[:4]))}  # a colluding client's row, which only it could dispute
    told = Graph(range(40), drawn)
    body = bytes(wire.read_message(relays[victim], 10**6).body).replace(graph.written(), told.written())
    assert told.kept(victim) == graph.kept(victim)
    round_.clients[victim].receive(round_.said(Kind.RELAY, victim, body))
    round_.to_clients(wire.Outgoing(to, raw) for to, raw in relays.items() if to != victim)
    for who in range(40):
        round_.to_server(round_.clients[who].contribute(update(who)))
    survivors = round_.advance()
    answers = round_.to_clients(survivors)
    with pytest.raises(BadMessage, match="signature"):
        round_.to_server([answer for answer in answers if wire.read_message(answer.message, 10**6).sender == victim])


def _read_alone(round_: Masking, victim: int, vectors: dict[int, Elements]) -> np.ndarray:
    """What a server gets of one client's vector if it takes off its seed and its masks with those called dropped."""
    server = round_.server
    told, elements = server._told, vectors[victim].copy()
    subtracted, added = [server._seed_of(victim)], list[bytes]()
    for gone in set(server._graph.neighbors(victim)) - set(server.survivors):
        seed = told.mask_seed(server._key_of(gone), gone, victim)
        (subtracted if victim < gone else added).append(seed)
    Masks(added, subtracted).add_to(elements, offset=0)
    ring = round_.terms.codec
    out = np.empty(7)
    ring.decode(elements[:7], out)
    return out


@pytest.mark.parametrize("checked", [True, False])
def test_a_server_that_calls_a_clients_neighbors_dropped_reads_it_only_if_nobody_looks(
    checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the graph before it says who survived. Bell et al. let a client count its neighbors."""
    if not checked:
        monkeypatch.setattr(masking.MaskingClient, "_held", lambda client, among, what: None)
    round_ = Masking(terms(clients=60, degree=4, minimum=20, quorum=(1, 2)))
    round_.to_clients(_relayed(round_))
    graph, victim = round_.server._graph, _easy(round_)
    vectors: dict[int, Elements] = {}
    for who, client in round_.clients.items():
        sent = list(client.contribute(update(who)))
        if who == victim:
            before = round_.server._intake.elements.copy()
        if who not in graph.neighbors(victim):
            round_.to_server(sent)
        if who == victim:
            vectors[who] = round_.server._intake.elements - before
    survivors, confirmed = round_.advance(), []
    for to, raw in survivors:
        try:
            confirmed += round_.clients[to].receive(raw)
        except CohortTooSmall:
            continue
    round_.to_server(confirmed)
    round_.to_server(round_.to_clients(round_.advance()))
    if checked:
        assert round_.clients[victim].ended
        with pytest.raises(CohortTooSmall):
            _read_alone(round_, victim, vectors)
    else:
        assert np.array_equal(_read_alone(round_, victim, vectors), update(victim)[:7])


def _relayed(round_: Masking) -> list[wire.Outgoing]:
    return [wire.Outgoing(to, raw) for to, raw in _until_relay(round_).items()]


def _easy(round_: Masking) -> int:
    """A client whose neighbors' keys can be put together without them."""
    graph = round_.server._graph
    for who in range(60):
        gone = set(graph.neighbors(who))
        if all(len(set(graph.holders(other)) - gone) >= 3 for other in gone):
            return who
    raise AssertionError("no such client in this graph")


# how many


def test_the_odds_are_those_of_drawing_without_replacement() -> None:
    odds = _Odds(100)
    for marked, degree, hits in ((20, 8, 6), (0, 8, 1), (99, 10, 10), (50, 40, 27)):
        found = 2.0 ** odds.least(np.array([marked]), degree, hits)[0]
        assert found == pytest.approx(hypergeom(99, marked, degree).sf(hits - 1), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("honest", "bad", "degree", "hits"), [(8, 2, 4, 3), (9, 0, 4, 3), (7, 3, 5, 4)])
def test_the_bound_on_a_split_is_above_how_often_one_is_there(honest: int, bad: int, degree: int, hits: int) -> None:
    """By trying all sets of many graphs."""
    everyone, rng, found, tries = range(honest + bad), random.Random(0), 0, 1500
    sets = [[who for who in range(honest) if mask >> who & 1] for mask in range(1, 2**honest)]
    halves = [set(chosen) for chosen in sets if len(chosen) <= honest // 2]
    beside = set(range(honest, honest + bad))
    for _ in range(tries):
        rows = [set(rng.sample([other for other in everyone if other != who], degree)) for who in range(honest)]
        found += any(all(len(rows[who] & (half | beside)) >= hits for who in half) for half in halves)
    bound = 2.0 ** _Odds(honest + bad).split(honest, bad, degree, hits)
    assert found / tries <= bound * 1.1 + 0.01
    assert found > 0


def test_the_degree_grows_slowly_with_the_clients_and_fast_with_the_corrupt() -> None:
    for quorum in ((2, 3), (1, 2)):
        degrees = [degree_for(n, corrupt=0.1, dropping=0.1, quorum=quorum) for n in (300, 1000)]
        assert 0 < degrees[0] <= degrees[1] < 1.5 * degrees[0]
    assert degree_for(1000, corrupt=0.2, dropping=0.1, quorum=(1, 2)) > degrees[1]
    assert degree_for(100, corrupt=0.2, dropping=0.0) > 8, "8 neighbors of 100 with 20 corrupt could be ground"
    assert degree_for(8, corrupt=0.3, dropping=0.2) == 0
    with pytest.raises(BadConfig):
        degree_for(100, corrupt=0.6, dropping=0.5)


@pytest.mark.parametrize("drops", [{}, {0: 1, 3: 2, 7: 2, 9: 3, 11: 4}])
def test_a_round_on_drawn_holders_gives_the_sum(drops: dict[int, int]) -> None:
    round_ = Masking(terms(clients=20, degree=9, quorum=(1, 2)), drops)
    cohort = [n for n in range(20) if drops.get(n, 5) > 2]
    try:
        assert np.array_equal(round_.run().total(), total(cohort))
    except CohortTooSmall:  # a draw by which one client had too many of those who vanish
        assert drops
