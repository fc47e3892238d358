"""Masking: the right sum whoever drops whenever, or a clear end; and a server that lies learns no more."""

from __future__ import annotations

from collections import Counter
from itertools import chain, combinations, combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedseal.errors import FedsealError
from fedseal.secagg import SERVER, Ledger, Outgoing, masking, wire
from fedseal.secagg.errors import BadMessage, CohortTooSmall, Misbehavior, OutOfPhase, WrongSum
from fedseal.secagg.hazmat.keys import KEY, open_once
from fedseal.secagg.hazmat.prg import Masks
from fedseal.secagg.masking.directory import answer_key
from fedseal.secagg.masking.graph import Graph
from fedseal.secagg.terms import Terms
from fedseal.secagg.wire import Kind, Reader
from marks import slowly
from secagg.rounds import Masking, flipped, identity, refused, terms, total, update

PHASES, NEVER = range(5), 5


def _outcome(clients: int, drops: dict[int, int], round_: Terms) -> tuple[bool, list[int]]:
    """Whether a round must succeed, and whose sum it is, by counting who is there in each phase."""
    there = [[n for n in range(clients) if drops.get(n, NEVER) > phase] for phase in PHASES]
    if any(len(group) < round_.minimum for group in there[:3]):
        return False, []
    needed = round_.threshold(len(there[0]))
    enough = len(there[1]) >= needed and len(there[3]) >= needed
    recover = bool(set(there[1]) - set(there[4]))
    return enough and (not recover or len(there[4]) >= needed), there[2]


def _check(clients: int, drops: dict[int, int], quorum: tuple[int, int]) -> bool:
    round_ = Masking(terms(clients=clients, quorum=quorum), drops)
    succeeds, cohort = _outcome(clients, drops, round_.terms)
    if not succeeds:
        refused(round_.run, CohortTooSmall)
        return False
    opened = round_.run()
    assert opened.cohort == tuple(cohort)
    assert np.array_equal(opened.total(), total(cohort))
    return True


@pytest.mark.parametrize("clients", slowly([2, 3, 4, 5], [5]))
def test_every_subset_may_drop_in_every_phase(clients: int) -> None:
    """The subset of one phase; which of them complete does not depend on who they are."""
    done = Counter(
        _check(clients, dict.fromkeys(gone, phase), (1, 2))
        for phase in PHASES
        for gone in chain.from_iterable(combinations(range(clients), count) for count in range(clients + 1))
    )
    assert done[True] > 0
    assert done[False] > 0


@pytest.mark.parametrize(("clients", "quorum"), [(3, (1, 2)), (3, (2, 3)), (4, (2, 3)), (4, (1, 2))])
def test_every_mixture_of_phases_up_to_who_is_who(clients: int, quorum: tuple[int, int]) -> None:
    for phases in combinations_with_replacement([*PHASES, NEVER], clients):
        _check(clients, dict(enumerate(phases)), quorum)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(phases=st.lists(st.integers(0, 5), min_size=5, max_size=5), quorum=st.sampled_from([(1, 2), (2, 3)]))
def test_mixtures_of_five(phases: list[int], quorum: tuple[int, int]) -> None:
    _check(5, dict(enumerate(phases)), quorum)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("drops", [{}, {0: 1, 3: 2, 7: 2, 9: 3, 11: 4}])
def test_on_a_graph_of_few_neighbors(bits: int, drops: dict[int, int]) -> None:
    round_ = Masking(terms(clients=16, degree=10, quorum=(1, 2), bits=bits), drops)
    cohort = [n for n in range(16) if drops.get(n, NEVER) > 2]
    assert np.array_equal(round_.run().total(), total(cohort))


# the lies of a server


def _shares(round_: Masking, raw: bytes) -> tuple[set[int], set[int]]:
    """Whose seeds and whose keys an UNMASK message has shares of."""
    message = wire.read_message(raw, 10_000)
    key = answer_key(round_.server._channels[message.sender], round_.terms, message.sender)
    reader = Reader(open_once(key, bytes(message.body)))
    reader.take(KEY)
    seeds = {reader.party(): reader.take(KEY) for _ in reader.count(99)}
    keys = {reader.party(): reader.take(KEY) for _ in reader.count(99)}
    return set(seeds), set(keys)


def test_a_server_that_calls_a_client_dropped_gets_its_key_and_never_its_seed() -> None:
    """It has client 3's vector, and can take off all pairwise masks; what is left is under the seed that stays."""
    round_ = Masking(terms(clients=5, quorum=(1, 2)))
    round_.until_survivors()
    said = wire.parties([0, 1, 2, 4])
    confirmations = [m for n in (0, 1, 2, 4) for m in round_.clients[n].receive(round_.said(Kind.SURVIVORS, n, said))]
    with pytest.raises(Misbehavior, match="this client dropped"):
        round_.clients[3].receive(round_.said(Kind.SURVIVORS, 3, said))
    body = wire.wire_number(4) + b"".join(
        wire.party(n) + bytes(wire.read_message(m.message, 10_000).body)
        for n, m in zip((0, 1, 2, 4), confirmations, strict=True)
    )
    for n in (0, 1, 2, 4):
        (answer,) = round_.clients[n].receive(round_.said(Kind.CONFIRMED, n, body))
        seeds, keys = _shares(round_, bytes(answer.message))
        assert seeds == {0, 1, 2, 4}
        assert keys == {3}
    with pytest.raises(OutOfPhase, match="ended"):
        round_.clients[3].receive(round_.said(Kind.CONFIRMED, 3, body))


def test_a_server_that_tells_two_survivor_sets_gets_no_answer() -> None:
    """Flower's clients answer both kinds of share for one client to a server that lists it twice."""
    round_ = Masking(terms(clients=5, quorum=(1, 2)))
    round_.until_survivors()
    told = {0: [0, 1, 2, 3, 4], 1: [0, 1, 2, 3, 4], 2: [0, 1, 2, 4], 3: [0, 1, 2, 3, 4], 4: [0, 1, 2, 4]}
    signed = {}
    for n, survivors in told.items():
        (message,) = round_.clients[n].receive(round_.said(Kind.SURVIVORS, n, wire.parties(survivors)))
        signed[n] = bytes(wire.read_message(message.message, 10_000).body)
    every = wire.wire_number(4) + b"".join(wire.party(n) + signed[n] for n in (0, 1, 2, 4))
    for n in (0, 1, 2, 4):
        with pytest.raises(Misbehavior, match="different things"):
            round_.clients[n].receive(round_.said(Kind.CONFIRMED, n, every))
    few = wire.wire_number(2) + b"".join(wire.party(n) + signed[n] for n in (2, 4))
    other = Masking(terms(clients=5, quorum=(1, 2)))
    other.until_survivors()
    other.clients[2].receive(other.said(Kind.SURVIVORS, 2, wire.parties(told[2])))
    with pytest.raises(CohortTooSmall, match="2 clients confirm, and 3 must"):
        other.clients[2].receive(other.said(Kind.CONFIRMED, 2, few))


def test_a_server_that_asks_twice_gets_one_answer() -> None:
    round_ = Masking(terms(clients=4, quorum=(1, 2)))
    survivors = round_.until_survivors()
    confirmations = round_.to_clients(survivors)
    with pytest.raises(Misbehavior, match="second SURVIVORS"):
        round_.clients[0].receive(round_.said(Kind.SURVIVORS, 0, wire.parties([0, 1, 2])))
    assert round_.clients[0].ended
    round_.to_server(confirmations)
    asked = round_.advance()
    with pytest.raises(OutOfPhase):
        round_.clients[0].receive(asked[0].message)
    answers = round_.clients[1].receive(asked[1].message)
    assert [m.to for m in answers] == [SERVER]
    assert round_.clients[1].receive(asked[1].message) == []
    with pytest.raises(Misbehavior, match="second CONFIRMED"):
        round_.clients[1].receive(round_.said(Kind.CONFIRMED, 1, wire.wire_number(0)))


@pytest.mark.parametrize("swap", ["own", "other", "stranger", "missing"])
def test_a_server_that_swaps_keys_gets_no_shares(swap: str) -> None:
    round_ = Masking(terms(clients=3))
    adverts = {n: bytes(client.advertise()[0].message) for n, client in round_.clients.items()}
    fake = {n: masking.MaskingClient(round_.terms, n, identity(n), Ledger()) for n in (0, 1)}
    mine = wire.signed_message(
        Kind.ADVERTISE, round_.terms.digest, 1, SERVER, bytes(range(64)), identity(SERVER)
    ).message
    told = {
        "own": [bytes(fake[0].advertise()[0].message), adverts[1], adverts[2]],  # as if client 0's own key had leaked
        "other": [adverts[0], bytes(mine), adverts[2]],
        "stranger": [
            adverts[0],
            adverts[1],
            bytes(wire.signed_message(Kind.ADVERTISE, round_.terms.digest, 9, SERVER, bytes(64), identity(9)).message),
        ],
        "missing": [adverts[1], adverts[2]],
    }[swap]
    body = wire.wire_number(len(told)) + b"".join(told)
    with pytest.raises((BadMessage, Misbehavior)):
        round_.clients[0].receive(round_.said(Kind.KEYS, 0, body))


def test_keys_of_too_few_clients_or_twice_one_are_refused() -> None:
    round_ = Masking(terms(clients=3, minimum=3))
    adverts = [bytes(client.advertise()[0].message) for client in round_.clients.values()]
    with pytest.raises(BadMessage, match="one twice"):
        round_.clients[0].receive(round_.said(Kind.KEYS, 0, wire.wire_number(3) + adverts[0] + adverts[1] * 2))
    with pytest.raises(CohortTooSmall, match="2 clients, and the minimum is 3"):
        round_.clients[0].receive(round_.said(Kind.KEYS, 0, wire.wire_number(2) + adverts[0] + adverts[1]))


def test_messages_that_another_party_signs_in_the_server_s_place_are_refused() -> None:
    round_ = Masking(terms(clients=3))
    round_.until_survivors()
    makers = ((1, identity(1)), (SERVER, identity(1)), (SERVER, identity(SERVER)), (SERVER, round_.channels[1]))
    for sender, who in makers:  # the last as if the server took one client for another
        raw = wire.signed_message(Kind.SURVIVORS, round_.terms.digest, sender, 0, wire.parties([0, 1]), who).message
        with pytest.raises(BadMessage):
            round_.clients[0].receive(raw)


@pytest.mark.parametrize("phase", [1, 2, 3, 4])
def test_a_client_s_messages_by_another_hand_are_refused_without_a_trace(phase: int) -> None:
    """In each phase, of client 0: under its long-term key alone, another's channel, or from who never advertised."""
    round_ = Masking(terms(clients=4), {3: 0})
    messages = [message for n in range(3) for message in round_.clients[n].advertise()]
    for now in range(5):
        for message in messages:
            read = wire.read_message(message.message, 10**6)
            if now == phase and read.sender == 0 and read.kind is not Kind.CHUNK:
                for hand in (identity(0), identity(SERVER), round_.channels[1]):
                    forged = wire.signed_message(read.kind, read.terms, 0, SERVER, bytes(read.body), hand).message
                    with pytest.raises(BadMessage, match="does not come from its sender"):
                        round_.server.receive(forged)
                stranger = wire.signed_message(read.kind, read.terms, 3, SERVER, bytes(read.body), round_.channels[3])
                with pytest.raises(OutOfPhase, match="client 3 was not in the phase before"):
                    round_.server.receive(stranger.message)
            round_.to_server([message])
        if now < 4:
            messages = round_.to_clients(round_.advance())
        if now == 1:
            messages = [message for n in range(3) for message in round_.clients[n].contribute(update(n))]
    assert np.array_equal(round_.server.result().total(), total(range(3)))


def test_survivors_who_never_shared_and_too_few_survivors_are_refused() -> None:
    for said, kind in (([0, 1, 3], Misbehavior), ([0], CohortTooSmall)):
        round_ = Masking(terms(clients=4, minimum=2, quorum=(1, 2)), {3: 1})
        round_.until_survivors()
        with pytest.raises(kind):
            round_.clients[0].receive(round_.said(Kind.SURVIVORS, 0, wire.parties(said)))


def test_forged_confirmations_are_found_out() -> None:
    round_ = Masking(terms(clients=4))
    round_.to_clients(round_.until_survivors())
    body = wire.wire_number(4) + b"".join(wire.party(n) + identity(SERVER).sign(b"x") for n in range(4))
    with pytest.raises(Misbehavior, match="did not sign"):
        round_.clients[0].receive(round_.said(Kind.CONFIRMED, 0, body))


def test_a_relay_without_a_neighbor_who_shared_is_refused_and_a_garbled_share_hurts_nobody() -> None:
    round_ = Masking(terms(clients=5, quorum=(1, 2)), {4: 2})
    for client in round_.clients.values():
        round_.to_server(client.advertise())
    round_.to_server(round_.to_clients(round_.advance()))
    relays = dict(round_.advance())
    body = bytes(wire.read_message(relays[0], 10_000).body)
    lists = 4 + 5 * 8
    short = body[:lists] + wire.wire_number(3) + body[lists + 4 : -88]
    with pytest.raises(Misbehavior, match="neighbors"):
        round_.clients[0].receive(round_.said(Kind.RELAY, 0, short))
    garbled = Masking(terms(clients=5, quorum=(1, 2)), {4: 2})
    for client in garbled.clients.values():
        garbled.to_server(client.advertise())
    garbled.to_server(garbled.to_clients(garbled.advance()))
    for to, raw in garbled.advance():
        told = bytes(wire.read_message(raw, 10_000).body)
        garbled.clients[to].receive(garbled.said(Kind.RELAY, to, told[:-1] + b"\0") if to == 0 else raw)
        if garbled.there(to):
            garbled.to_server(garbled.clients[to].contribute(update(to)))
    garbled.to_server(garbled.to_clients(garbled.advance()))
    garbled.to_server(garbled.to_clients(garbled.advance()))
    assert np.array_equal(garbled.server.result().total(), total(range(4)))


# clients


def test_wrong_shares_of_a_client_are_found_out_and_done_without() -> None:
    """Client 1 hands over zeros: with enough other shares the sum is right, without it is refused."""
    for drops, succeeds in (({4: 2}, True), ({4: 2, 3: 4}, False)):
        round_ = Masking(terms(clients=5, quorum=(1, 2)), drops)
        survivors = round_.until_survivors()
        liar = round_.clients[1]
        liar._shares = {who: bytes(64) for who in liar._shares}
        liar._seed = bytes(32)
        round_.to_server(round_.to_clients(survivors))
        round_.to_server(round_.to_clients(round_.advance()))
        if succeeds:
            assert np.array_equal(round_.server.result().total(), total(range(4)))
        else:
            with pytest.raises(WrongSum, match="do not fit together"):
                round_.server.result()


def test_one_liar_among_many_ends_no_round_whatever_its_number() -> None:
    """Of 19 shares 18 are right and 11 are needed: the first 64 subsets in their order all have client 0's."""
    round_ = Masking(terms(clients=20, quorum=(1, 2)), {19: 2})
    survivors = round_.until_survivors()
    liar = round_.clients[0]
    liar._shares = {who: bytes(64) for who in liar._shares}
    round_.to_server(round_.to_clients(survivors))
    round_.to_server(round_.to_clients(round_.advance()))
    assert np.array_equal(round_.server.result().total(), total(range(19)))


def test_what_a_client_keeps_after_its_answer_opens_nothing_that_it_sent() -> None:
    round_ = Masking(terms(clients=3))
    survivors, client = round_.until_survivors(), round_.clients[1]
    kept = client.dump()
    round_.to_server(round_.to_clients(survivors))
    confirmed = dict(round_.advance())
    (answer,) = client.receive(confirmed[1])
    body = bytes(wire.read_message(answer.message, 10_000).body)
    key, marking = client._server.key, client._server.marking
    assert key == b""
    assert marking.hex().encode() in client.dump()
    loaded = masking.MaskingClient.load(lambda *_: round_.terms, 1, identity(1), Ledger(), client.dump())
    assert loaded.receive(confirmed[1]) == client.receive(confirmed[1]) == []  # which it knows by its mark
    for late in (client, loaded):
        with pytest.raises(OutOfPhase):
            answer_key(late._server, round_.terms, 1)
    before = masking.MaskingClient.load(lambda *_: round_.terms, 1, identity(1), Ledger(), kept)
    assert open_once(answer_key(before._server, round_.terms, 1), body)[:KEY] == before._seed


def test_a_client_that_does_not_mask_as_it_said_ends_the_round() -> None:
    round_ = Masking(terms(clients=3))
    for client in round_.clients.values():
        round_.to_server(client.advertise())
    round_.to_server(round_.to_clients(round_.advance()))
    round_.to_clients(round_.advance())
    round_.clients[1]._graph = Graph((0, 1))  # and so leaves out a mask
    for n, client in round_.clients.items():
        round_.to_server(client.contribute(update(n)))
    round_.to_server(round_.to_clients(round_.advance()))
    round_.to_server(round_.to_clients(round_.advance()))
    with pytest.raises(WrongSum, match="did not cancel"):
        round_.server.result()


def test_clients_contribute_in_turn_once_and_to_no_earlier_round() -> None:
    round_ = Masking(terms(clients=3))
    with pytest.raises(OutOfPhase):
        round_.clients[0].contribute(update(0))
    round_.until_survivors()
    with pytest.raises(OutOfPhase):
        round_.clients[0].contribute(update(0))
    with pytest.raises(OutOfPhase):
        round_.clients[0].advertise()
    again = Masking(terms(clients=3))
    again.clients[0]._ledger.enter(again.terms)
    for client in again.clients.values():
        again.to_server(client.advertise())
    again.to_server(again.to_clients(again.advance()))
    again.to_clients(again.advance())
    with pytest.raises(OutOfPhase, match="round 0 already"):
        again.clients[0].contribute(update(0))


def test_answers_before_their_turn_and_second_ones_are_refused_by_the_server() -> None:
    round_ = Masking(terms(clients=3))
    other = masking.MaskingClient(round_.terms, 0, identity(0), Ledger())
    first = round_.clients[0].advertise()
    round_.to_server(first)
    round_.to_server(first)
    with pytest.raises(BadMessage, match="second ADVERTISE"):
        round_.server.receive(other.advertise()[0].message)
    raw = wire.signed_message(Kind.CONFIRM, round_.terms.digest, 0, SERVER, bytes(64), round_.channels[0]).message
    with pytest.raises(OutOfPhase, match="CONFIRM message in the phase of ADVERTISE"):
        round_.server.receive(raw)
    with pytest.raises(OutOfPhase):
        round_.server.result()


def test_the_masked_vector_of_one_client_is_as_good_as_random() -> None:
    """The same update twice gives vectors that share nothing; without its seed the server cannot tell."""
    seen = []
    for _ in range(2):
        round_ = Masking(terms(clients=3))
        round_.until_survivors()
        seen.append(round_.server._intake.settle([0]))
    assert not (seen[0] == seen[1]).any()


def test_pairwise_masks_cancel_and_depend_on_all_keys() -> None:
    round_ = Masking(terms(clients=3))
    round_.until_survivors()
    a, b = round_.clients[0], round_.clients[1]
    seed = a._told.mask_seed(a._masking, 0, 1)
    assert seed == b._told.mask_seed(b._masking, 1, 0)
    assert seed != a._told.mask_seed(a._masking, 0, 2)
    vector = np.zeros(8, "<u4")
    Masks([seed]).add_to(vector, offset=0)
    assert vector.any()
    Masks([], [seed]).add_to(vector, offset=0)
    assert not vector.any()


def test_every_flipped_bit_of_every_message_is_refused_and_leaves_no_trace() -> None:
    round_ = Masking(terms(clients=3))

    def carried(messages: list[Outgoing]) -> list[Outgoing]:
        answers = []
        for place, (to, raw) in enumerate(messages):
            role = round_.server if to == SERVER else round_.clients[to]
            if place == 0:
                for bit in range(len(raw) % 8, 8 * len(raw), 8):
                    with pytest.raises(FedsealError):
                        role.receive(flipped(raw, bit))
            answers += role.receive(raw)
            assert role.receive(raw) == []
        return answers

    carried([m for client in round_.clients.values() for m in client.advertise()])
    carried(carried(round_.server.advance()))
    carried(round_.server.advance())
    for n, client in round_.clients.items():
        carried(list(client.contribute(update(n))))
    carried(carried(round_.server.advance()))
    carried(carried(round_.server.advance()))
    assert np.array_equal(round_.server.result().total(), total(range(3)))
    assert "sum is opened" in refused(round_.server.result, OutOfPhase)
