"""Keys in files, for parties on several machines: one file that all hold alike, and one for each party alone."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from fedseal.errors import BadConfig, StorageFailure
from fedseal.federation.secure import Keyring, Pact, Secure
from fedseal.json_file import Hex, JsonFile, Model, no_more_than, read_model
from fedseal.secagg import SERVER, Identity, Party, Public, Roster, aggregator

VERSION: Final = 1
PACT = "pact.json"
Key = Annotated[Hex, Field(min_length=32, max_length=32)]
Pair = tuple[Key, Key]  # of a public key: what checks signatures, and what is sealed for


class KeyFile(JsonFile):
    """A party's secrets."""

    version: Literal[1]
    signing: Key
    opening: Key


class RosterFile(JsonFile):
    """Public keys of all parties; clients by number."""

    clients: dict[int, Pair]
    aggregators: tuple[Pair, ...]
    opener: Pair


class PactFile(JsonFile):
    """What all parties hold alike."""

    version: Literal[1]
    session: Hex
    secure: Annotated[Secure, no_more_than(Secure)]
    roster: RosterFile


@dataclass(frozen=True)
class StoredKeys:
    """A folder with the pact and the keys of some parties: a node's has one, a simulation's all."""

    folder: Path
    aggregators: int

    @classmethod
    def at(cls, folder: Path, secure: Secure, clients: int) -> StoredKeys:
        """The folder as it is, or a new one for all parties.

        Raises:
            BadConfig: it is another federation's.
            StorageFailure: it cannot be read or written.
        """
        if not (folder / PACT).is_file():
            write_keys(folder, Keyring.fresh(secure, clients), secure)
        pact = read_pact(folder)
        if pact.secure != secure or len(pact.roster.clients) != clients:
            raise BadConfig(
                f"the keys in '{folder}' are another federation's: {clients} data owners and '{secure.protocol}' are "
                f"asked for, and the pact has {len(pact.roster.clients)} and '{pact.secure.protocol}'",
                "use the owners and the protocol that the keys were made for, or make new keys in another folder",
            )
        return cls(folder, len(pact.roster.aggregators))

    @property
    def pact(self) -> Pact:
        """What all parties hold alike."""
        return read_pact(self.folder)

    def identity(self, number: int) -> Identity:
        """A party's own key.

        Raises:
            StorageFailure: it is not in this folder.
        """
        return read_identity(self.folder / Party.of(number).key_file)


def write_keys(folder: Path, keys: Keyring, secure: Secure) -> None:
    """A new folder: `pact.json` for everyone, and a key for each party, readable by the user alone.

    Raises:
        StorageFailure: it cannot be written, or holds other keys.
    """
    pact = keys.pact(secure)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".keys", dir=folder.parent))
        for number in [*keys.clients, *(aggregator(place) for place in range(len(keys.aggregators))), SERVER]:
            write_identity(part, number, keys.identity(number))
        write_pact(part, pact)
        try:
            part.rename(folder)
        except OSError:  # another process was faster, or the folder holds something
            shutil.rmtree(part)
            if not (folder / PACT).is_file():
                raise
    except OSError as error:
        raise StorageFailure(f"cannot write keys to '{folder}' ({error.strerror})", "choose an empty folder") from None


def write_identity(folder: Path, number: int, identity: Identity) -> None:
    """A party's key in a new file, readable by the user alone."""
    content = KeyFile(version=VERSION, signing=identity.signing, opening=identity.opening.secret)
    with os.fdopen(
        os.open(folder / Party.of(number).key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
    ) as file:
        file.write(content.text())


def write_pact(folder: Path, pact: Pact) -> None:
    """What all parties hold alike."""
    roster = pact.roster
    content = PactFile(
        version=VERSION,
        session=pact.session,
        secure=pact.secure,
        roster=RosterFile(
            clients={number: _pair(public) for number, public in roster.clients.items()},
            aggregators=tuple(map(_pair, roster.aggregators)),
            opener=_pair(roster.opener),
        ),
    )
    (folder / PACT).write_text(content.text())


def read_identity(path: Path) -> Identity:
    """A party's secrets.

    Raises:
        StorageFailure: the file is missing, or not a key.
    """
    found = _read(path, KeyFile, "key")
    return Identity.of(found.signing, found.opening)


def read_pact(folder: Path) -> Pact:
    """What all parties hold alike.

    Raises:
        StorageFailure: the file is missing, or no pact.
    """
    found = _read(folder / PACT, PactFile, "pact")
    clients = {number: Public(*pair) for number, pair in found.roster.clients.items()}
    aggregators = tuple(Public(*pair) for pair in found.roster.aggregators)
    return Pact(found.secure, Roster(clients, Public(*found.roster.opener), aggregators), found.session)


def _pair(public: Public) -> Pair:
    return public.verifying, public.sealing


def _read(path: Path, model: type[Model], what: str) -> Model:
    if not path.is_file():
        raise StorageFailure(f"there is no {what} '{path}'", "make them with: fedseal train --deploy")
    return read_model(path, model, f"'{path}' is no {what}", "make new keys for all parties")


Keys = Keyring | StoredKeys  # in memory, or in files
