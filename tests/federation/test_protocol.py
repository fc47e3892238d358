"""Laws over the table of protocols."""

from __future__ import annotations

import numpy as np
import pytest

from federation.small import federation, net
from fedseal.client import state_of
from fedseal.federation.federation import Calls
from fedseal.federation.packing import Packing
from fedseal.federation.protocol import PROTOCOLS, Ask, Call, PartyReading, Reply
from fedseal.federation.secure import NAMES, Secure
from fedseal.federation.traffic import Metered
from fedseal.secagg import SERVER, Party

SIZE, STATE = Packing.of(net()).size, state_of(net())


def test_every_name_has_a_row_and_every_row_a_name() -> None:
    assert sorted(PROTOCOLS) == sorted(NAMES)
    assert PROTOCOLS[Secure().protocol].secure, "what nobody chooses is secure"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_client_does_no_duty_of_no_protocol(name: str) -> None:
    client = federation(name).members().party(0)
    assert client.answer(Ask(0, "sing", 0, SIZE)) == Reply(refused="OutOfPhase")


READ = {
    "plain": {"step"},
    "sharing": {"seed", "masked"},
    "masking": {"masked"},
    "ring": {"part", "partial sum"},
    "masked_ring": {"masked part", "masked partial sum"},
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_a_key_reads_is_a_step_where_nothing_hides_it_and_elements_where_something_does(name: str) -> None:
    """All that comes to the model owner, the aggregators and the next in a ring, read with their keys."""
    members, protocol = federation(name).members(), PROTOCOLS[name]
    call = Call(members.pact, members.keys.identity(SERVER), members.clients, 0, SIZE, STATE)
    readers = (SERVER, *members.aggregators, *(members.clients if protocol.peers else ()))
    views = {n: protocol.view(call, n, members.keys.identity(n)) for n in readers}
    readings: list[PartyReading] = []

    class _Reads:
        def begins(self, call: Call) -> None: ...

        def asked(self, ask: Ask) -> None:
            if Party.of(ask.to).is_aggregator or protocol.peers:
                readings.extend(r for message in ask.messages for r in views[ask.to].read(message, SERVER))

        def answered(self, ask: Ask, reply: Reply) -> None:
            own = [message for to, message in reply.messages if Party.of(to).opens]
            readings.extend(reading for message in own for reading in views[SERVER].read(message, ask.to))

        def opened(self, call: Call, found: object) -> None: ...

        def failed(self, call: Call) -> None: ...

    link = Calls({n: members.party(n) for n in (*members.clients, *members.aggregators)})
    opened = protocol.conduct(call, Metered(link, [_Reads()]))
    readings += [reading for view in views.values() for reading in view.rest()]
    assert {reading.kind for reading in readings} == READ[name]
    assert {reading.client for reading in readings} == set(members.clients) == set(opened.cohort)
    assert any("masked" in reading.kind for reading in readings) is protocol.secure
    if name == "plain":
        total = sum((reading.weight or 0) * reading.content.astype(np.float64) for reading in readings)
        assert np.array_equal(total, opened.total)
