"""The files of a deployment: a folder for each party, to be handed to its host, and nobody else's secrets in it.

    model-owner/    owner.key, server.key, nodes.json (public keys of all nodes), app/ for Flower
    owner-0/        client-0.key, node.key
    aggregator-0/   aggregator-0.key, node.key
    each            party.json (who it is, where the model owner is, the training), pact.json, ca.pem, start.sh,
                    ledger.json (rounds that it answered, and what they spent of its privacy)

Files whose name ends in .key are secret, and readable by their user alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import PlainSerializer

from fedseal.errors import BadConfig, StorageFailure
from fedseal.federation import keys as stored
from fedseal.federation.deployment import certificates
from fedseal.federation.ledger import LEDGER, new_ledger
from fedseal.federation.secure import Keyring, Pact, Secure
from fedseal.json_file import JsonFile, Model, read_model
from fedseal.secagg import SERVER, Party, aggregator

VERSION: Final = 1
PARTY, NODES, APP, WORK = "party.json", "nodes.json", "app", "work"
OWNER = Party.of(SERVER).folder
PORT = 9443
START = """#!/bin/sh
# Takes part in the deployment as {who}. Ctrl-C ends it.
cd "$(dirname "$0")" && exec fedseal join .
"""
APP_PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedseal-deployment"
version = "1.0.0"
description = "A federation whose server opens sums only"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "fedseal"

[tool.flwr.app.components]
serverapp = "apps:server_app"
clientapp = "apps:client_app"
"""
APP_MODULE = '''"""For Flower's own executors; `FEDSEAL_PARTY` names each host's own folder."""

from fedseal.cli.deployment import apps

_both = apps()
server_app = _both[0]
client_app = _both[1]
'''
README = """# A federated training on several hosts

Written by `fedseal train --deploy`. Every folder below goes to one party, over a channel that you trust, and to nobody
else; delete it here when it is there. Files that end in `.key` are secrets.

| Folder | Who gets it |
|---|---|
{rows}

On every host: `pip install 'fedseal[federation]'`, then `./start.sh` in the folder, in any order. The model owner
listens on port {port}; nobody else needs an open port. {reached}

Each data owner's examples are {data}.

All of it on this machine, to try it: `fedseal join . --loopback` here.

Certificates are valid until {until}. Their authority was forgotten when they were signed.
"""


class PartyFile(JsonFile):
    """`party.json`: who a folder's party is, where the model owner is, and the training."""

    version: Literal[1]
    party: Annotated[int, PlainSerializer(str)]  # as text, since readers of JSON may round a number of 8 bytes
    address: str
    listen: str
    training: dict[str, Any]


class NodesFile(JsonFile):
    """`nodes.json`: public keys of all nodes by party."""

    version: Literal[1]
    nodes: dict[int, str]


@dataclass(frozen=True)
class Place:
    """A party's own folder.

    Args:
        number: who it is: a data owner's number, an aggregator's, or SERVER for the model owner.
        address: where the model owner is reached, "host:port".
        training: what the command line needs to make the federation again.
    """

    folder: Path
    number: int
    address: str
    listen: str
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def pact(self) -> Pact:
        """What all parties hold alike."""
        return stored.read_pact(self.folder)

    @property
    def keys(self) -> stored.StoredKeys:
        """The party's own key, and the pact."""
        return stored.StoredKeys(self.folder, len(self.pact.roster.aggregators))

    @property
    def work(self) -> Path:
        """What comes to be while it runs."""
        return self.folder / WORK

    @property
    def nodes(self) -> dict[int, str]:
        """Public keys of all nodes by party, lines of OpenSSH, which the model owner has."""
        return dict(_read(self.folder / NODES, NodesFile).nodes)

    @property
    def leads(self) -> bool:
        """Whether the folder is the model owner's."""
        return self.number == SERVER

    @property
    def who(self) -> str:
        """The party's name in words."""
        return Party.of(self.number).role

    def at(self, address: str) -> Place:
        """The same place with another address of the model owner."""
        return replace(self, address=address, listen=address.rpartition(":")[0])


def write_folders(
    folder: Path,
    secure: Secure,
    clients: int,
    training: Mapping[int, Mapping[str, Any]],
    *,
    hosts: Sequence[str] = (),
    port: int = PORT,
    days: float = certificates.DAYS,
) -> None:
    """Everything for a new deployment, whole or not at all.

    Args:
        folder: new, or empty.
        secure: settled.
        clients: number of data owners.
        training: what each party needs to make the federation again, by party; without anything secret.
        hosts: names and addresses of the model owner's host, the one to be reached at first; none for this machine.

    Raises:
        StorageFailure: the folder holds something, or cannot be written.
        BadConfig: a host or a port that is none.
    """
    if not 0 < port < 2**16:
        raise BadConfig(f"the port {port}", "give one from 1 to 65535")
    hosts = [certificates.host_name(name) for name in hosts]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageFailure(
            f"'{folder}' is not empty", "choose a new folder; a deployment that is there runs with: fedseal join"
        )
    ring = Keyring.fresh(secure, clients)
    pact = ring.pact(secure)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".deploy", dir=folder.parent))
        try:
            _fill(part, ring, pact, training, hosts, port, days)
            if folder.exists():
                folder.rmdir()
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part)
            raise
    except OSError as error:
        raise StorageFailure(f"cannot write '{folder}' ({error.strerror})", "choose another place") from None


def party_numbers(owners: int, aggregators: int) -> tuple[int, ...]:
    """All parties: the model owner, then the data owners, then the aggregators."""
    return SERVER, *range(owners), *map(aggregator, range(aggregators))


def _fill(
    root: Path,
    ring: Keyring,
    pact: Pact,
    training: Mapping[int, Mapping[str, Any]],
    hosts: Sequence[str],
    port: int,
    days: float,
) -> None:
    address, listen = (f"{_bracketed(hosts[0])}:{port}", "0.0.0.0") if hosts else (f"127.0.0.1:{port}", "127.0.0.1")
    parties = party_numbers(len(ring.clients), len(ring.aggregators))
    owner, public = root / OWNER, {}
    for number in parties:
        own = root / Party.of(number).folder
        own.mkdir(mode=0o700)
        own_training = dict(training[number])
        content = PartyFile(version=VERSION, party=number, address=address, listen=listen, training=own_training)
        _write(own / PARTY, content)
        stored.write_pact(own, pact)
        stored.write_identity(own, number, ring.identity(number))
        new_ledger(own / LEDGER)
        script = own / "start.sh"
        script.write_text(START.format(who=Party.of(number).role))
        script.chmod(0o755)
        if number == SERVER:
            certificates.write_server(own, hosts, days=days)
        else:
            shutil.copy(owner / certificates.AUTHORITY, own)
            public[number] = certificates.write_node_key(own)
    _write(owner / NODES, NodesFile(version=VERSION, nodes=public))
    (owner / APP).mkdir()
    (owner / APP / "pyproject.toml").write_text(APP_PROJECT)
    (owner / APP / "apps.py").write_text(APP_MODULE)
    (root / "README.md").write_text(_readme(parties, training, hosts, port, owner))


def _readme(
    numbers: Sequence[int], training: Mapping[int, Mapping[str, Any]], hosts: Sequence[str], port: int, owner: Path
) -> str:
    own = any(facts.get("own") for facts in training.values())
    return README.format(
        rows="\n".join(f"| `{party.folder}` | {party.role} |" for party in map(Party.of, numbers)),
        port=port,
        reached=f"Nodes reach it as {hosts[0]}."
        if hosts
        else "It is reached from its own machine only: no --host was named.",
        data=f"where `{PARTY}` in its folder says, `training.own`" if own else "dealt out from the bundled data set",
        until=f"{certificates.valid_until(owner):%Y-%m-%d}",
    )


def place(folder: Path) -> Place:
    """A party's folder as it is.

    Raises:
        StorageFailure: it is none, or damaged.
    """
    found = _read(folder / PARTY, PartyFile)
    return Place(folder, found.party, found.address, found.listen, found.training)


def places(folder: Path) -> list[Place]:
    """All parties of a deployment whose folders are in one place, the model owner first.

    Raises:
        StorageFailure: one is missing or damaged.
    """
    owner = place(folder / OWNER)
    return [owner, *(place(folder / Party.of(number).folder) for number in owner.nodes)]


def _read(path: Path, model: type[Model]) -> Model:
    if not path.exists():
        raise StorageFailure(
            f"there is no '{path}'", "name a party's folder of those that 'fedseal train --deploy' wrote"
        )
    return read_model(path, model, f"'{path}' is damaged", "copy this party's folder again")


def _write(path: Path, content: JsonFile) -> None:
    path.write_text(content.text() + "\n")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
