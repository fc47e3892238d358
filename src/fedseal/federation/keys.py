"""Keys in files, for parties on several machines: one file that all hold alike, and one for each party alone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedseal.errors import BadConfig, StorageFailure
from fedseal.federation.secure import Keyring, Pact, Secure
from fedseal.secagg import SERVER, Identity, Party, Public, Roster, aggregator

VERSION, PACT = 1, "pact.json"


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
            write(folder, Keyring.fresh(secure, clients), secure)
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


def write(folder: Path, keys: Keyring, secure: Secure) -> None:
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
    facts = {"version": VERSION, "signing": identity.signing.hex(), "opening": identity.opening.secret.hex()}
    with os.fdopen(
        os.open(folder / Party.of(number).key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
    ) as file:
        json.dump(facts, file)


def write_pact(folder: Path, pact: Pact) -> None:
    """What all parties hold alike."""
    (folder / PACT).write_text(json.dumps(_plain(pact), indent=1))


def read_identity(path: Path) -> Identity:
    """A party's secrets.

    Raises:
        StorageFailure: the file is missing, or not a key.
    """
    facts = _read(path, "key")
    try:
        return Identity.of(bytes.fromhex(facts["signing"]), bytes.fromhex(facts["opening"]))
    except (KeyError, ValueError, TypeError) as error:
        raise StorageFailure(f"'{path}' is no key ({error!r})", "make new keys for all parties") from None


def read_pact(folder: Path) -> Pact:
    """What all parties hold alike.

    Raises:
        StorageFailure: the file is missing, or no pact.
    """
    facts = _read(folder / PACT, "pact")
    try:
        roster = facts["roster"]
        return Pact(
            Secure(**{**facts["secure"], "quorum": tuple(facts["secure"]["quorum"])}),
            Roster(
                {int(number): _public(pair) for number, pair in roster["clients"].items()},
                _public(roster["opener"]),
                tuple(_public(pair) for pair in roster["aggregators"]),
            ),
            bytes.fromhex(facts["session"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise StorageFailure(f"'{folder / PACT}' is no pact ({error!r})", "make new keys for all parties") from None


def _plain(pact: Pact) -> dict[str, Any]:
    roster = pact.roster
    return {
        "version": VERSION,
        "session": pact.session.hex(),
        "secure": asdict(pact.secure),
        "roster": {
            "clients": {str(number): _pair(public) for number, public in roster.clients.items()},
            "aggregators": [_pair(public) for public in roster.aggregators],
            "opener": _pair(roster.opener),
        },
    }


def _pair(public: Public) -> list[str]:
    return [public.verifying.hex(), public.sealing.hex()]


def _public(pair: list[str]) -> Public:
    verifying, sealing = map(bytes.fromhex, pair)
    return Public(verifying, sealing)


def _read(path: Path, what: str) -> Mapping[str, Any]:
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StorageFailure(
            f"there is no {what} '{path}' ({error})", "make them with: fedseal train --deploy"
        ) from None
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise StorageFailure(f"'{path}' is no {what} of this version", "make new keys for all parties")
    return facts
