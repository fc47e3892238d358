"""What a party's number stands for, and what it is called."""

from __future__ import annotations

import pytest

from fedseal.secagg import OWNER, SERVER, Party, aggregator

# number in messages, text of the protocols, role in a federation, file of its key, folder in a deployment
PARTIES = {
    Party("client", 0): (0, "client 0", "data owner 0", "client-0.key", "owner-0"),
    Party("client", 2**63 - 1): (
        2**63 - 1,
        f"client {2**63 - 1}",
        f"data owner {2**63 - 1}",
        f"client-{2**63 - 1}.key",
        f"owner-{2**63 - 1}",
    ),
    Party("aggregator", 0): (2**64 - 100, "aggregator 0", "aggregator 0", "aggregator-0.key", "aggregator-0"),
    Party("aggregator", 63): (2**64 - 163, "aggregator 63", "aggregator 63", "aggregator-63.key", "aggregator-63"),
    Party("owner"): (2**64 - 2, "the owner", "the model owner", "owner.key", "model-owner"),
    Party("server"): (2**64 - 1, "the server", "the model owner", "owner.key", "model-owner"),
}


@pytest.mark.parametrize("party", PARTIES, ids=str)
def test_numbers_and_names_are_those_of_earlier_files_and_messages(party: Party) -> None:
    number, text, role, key, folder = PARTIES[party]
    assert (party.number, str(party), party.role, party.key_file, party.folder) == (number, text, role, key, folder)
    assert Party.of(number) == party


def test_a_party_is_one_kind_only() -> None:
    for party in PARTIES:
        assert [party.is_client, party.is_aggregator, party.opens].count(True) == 1
    assert [Party.of(number).kind for number in (OWNER, SERVER, aggregator(5))] == ["owner", "server", "aggregator"]


@pytest.mark.parametrize("number", [2**63, 2**64 - 3, 2**64 - 99, 2**64 - 164, -1, 2**64])
def test_a_number_of_nobody_is_no_party_and_no_error(number: int) -> None:
    party = Party.of(number)
    assert party.number == number
    assert [party.is_client, party.is_aggregator, party.opens] == [False] * 3
    assert str(party) == f"nobody (number {number})"
