"""A data owner or an aggregator on its own host: a SuperNode for the line to the model owner, and who answers it.

SuperNode's own way is to run the app that comes from the server, in a new process for every message. Here the party is
one process that stays, with its data loaded once, and that executes nothing that comes over the line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedseal.errors import BadConfig
from fedseal.federation import grid
from fedseal.federation.deployment import certificates, flower_internals
from fedseal.federation.deployment.floors import Floors, Guarded
from fedseal.federation.deployment.folder import Place
from fedseal.federation.deployment.processes import Child, daemon, free_port, until_open
from fedseal.federation.deployment.superlink import SECRET, fresh_secret, runtime
from fedseal.federation.flower_environment import only_errors, quiet
from fedseal.federation.ledger import LEDGER, stored_ledger
from fedseal.federation.members import Members
from fedseal.federation.protocol import LOG, Member

POLL = 0.25  # seconds between two looks for a message; each costs two processes some milliseconds
LOOK = 1.0  # seconds between two looks whether the SuperNode lives
AGAIN = 3.0  # seconds before it is started once more
TRIES = 3  # a model owner who has just started does not know its nodes yet
JOINED = "SuperNode ID:"
UNKNOWN = "code: 2004"
REFUSALS = {
    "certificate has expired": (
        "the certificate of the model owner at {address} has expired",
        "ask the model owner for a new deployment",
    ),
    "certificate verify failed": (
        "'{ca}' does not vouch for the certificate of the model owner at {address}",
        "check the address, and that this folder is of that deployment",
    ),
    UNKNOWN: (
        "the model owner at {address} knows no key of {who}",
        "take the folder that is of the same deployment as the model owner's",
    ),
    "code: 2001": (
        "the model owner at {address} takes no node without a key",
        "take the folder that is of the same deployment as the model owner's",
    ),
}


def take_part(
    place: Place, members: Members, *, floors: Floors | None = None, say: Callable[[str], None] = lambda line: None
) -> None:
    """Be a data owner or an aggregator until interrupted.

    Args:
        members: the federation with this party's key.
        floors: what its owner asks of every question.
        say: told what happens.

    Raises:
        BadConfig: the model owner refuses this party, or is another one.
        StorageFailure: its record of rounds is missing or damaged, or its statistics are.
        EngineFailure: the SuperNode does not start.
    """
    certificates.check(place.folder)
    party: Member = members.party(place.number, ledger=stored_ledger(place.folder / LEDGER), folder=place.folder)
    if floors is not None:
        party = Guarded(party, floors)
    quiet()
    unknown = 0
    with only_errors("flwr"):
        while True:
            with supernode(place) as (child, port):
                say(f"{place.who} looks for the model owner at {place.address}")
                joined = serve(place, child, port, party, say)
            unknown = unknown + 1 if UNKNOWN in child.log_tail() else 0
            if unknown in (0, TRIES):
                _refused(place, child)
            if joined:
                say(f"{place.who} has lost the model owner")
            time.sleep(AGAIN)


@contextmanager
def supernode(place: Place) -> Iterator[tuple[Child, int]]:
    """SuperNode, as long as needed, and the port on loopback at which it hands out messages."""
    port, folder = free_port(), place.folder.resolve()
    child = daemon(
        "flower-supernode",
        [
            *("--superlink", place.address, "--root-certificates", str(folder / certificates.AUTHORITY)),
            *("--auth-supernode-private-key", str(folder / certificates.NODE_KEY)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(fresh_secret(place.work))),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        place.work,
    )
    try:
        until_open(child, port)
        yield child, port
    finally:
        child.end()


def serve(place: Place, child: Child, port: int, party: Member, say: Callable[[str], None]) -> bool:
    """Answer until the SuperNode ends; whether it had found the model owner."""
    import httpx

    address, secret = f"127.0.0.1:{port}", (place.work / SECRET).read_bytes()
    client = runtime(address, secret)
    wanted = flower_internals.AcquireTaskRequest(supported_task_types=[flower_internals.TaskType.CLIENT_APP])
    look, joined = 0.0, False
    try:
        while True:
            if time.monotonic() > look:
                if not joined and JOINED in child.log_tail():
                    joined = True
                    say(f"{place.who} has joined the model owner")
                if not child.runs:
                    return joined
                look = time.monotonic() + LOOK
            try:
                found = client.AcquireTask(wanted)
            except httpx.HTTPError:
                time.sleep(POLL)
                continue
            if not found.token:
                time.sleep(POLL)
                continue
            try:
                _answer(address, secret, found.token, party, place.number)
            except httpx.HTTPError as error:  # the run has ended, or the line is gone: the next look tells
                LOG.warning("an answer of %s is not taken: %s", place.who, type(error).__name__)
            except Exception:  # noqa: BLE001 - whatever comes over the line, this party answers the next question
                LOG.exception("a message to %s cannot be answered", place.who)
                time.sleep(POLL)
    finally:
        client.close()


def _answer(address: str, secret: bytes, token: str, party: Member, number: int) -> None:
    """One message."""
    client = runtime(address, secret, token=token)
    pulse = flower_internals.HeartbeatSender(flower_internals.make_task_heartbeat_fn_http(client))
    pulse.start()
    status = flower_internals.SubStatus.FAILED
    try:
        message, context, _, _ = flower_internals.pull_task_input(client)
        reply = grid.hello(message, number) if grid.asks_who(message) else grid.answered(party, message, number)
        flower_internals.push_message(client, reply, context)
        status = flower_internals.SubStatus.COMPLETED
    finally:
        flower_internals.push_task_output(client, None, status, "")
        pulse.stop()
        client.close()


def _refused(place: Place, child: Child) -> None:
    """Say why, if the SuperNode ended since it was refused or since it refuses the model owner.

    Raises:
        BadConfig: it did.
    """
    said = child.log_tail()
    facts = {"who": place.who, "address": place.address, "ca": place.folder / certificates.AUTHORITY}
    for sign, (fact, remedy) in REFUSALS.items():
        if sign in said:
            raise BadConfig(fact.format(**facts), remedy)
