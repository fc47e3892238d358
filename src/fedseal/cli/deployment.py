"""Parties of a deployment on this host: the model owner, who leads it, and those who follow."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedseal.cli import rounds as rounds_of
from fedseal.cli import terminal
from fedseal.errors import BadConfig
from fedseal.files import writable_file

if TYPE_CHECKING:
    from fedseal.federation.deployment import Place

MODEL, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"


def lead(
    place: Place,
    nodes: list[Place],
    *,
    rounds: int | None = None,
    save: Path | None = None,
    record: Path | None = None,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Be the model owner.

    Args:
        nodes: who else is to be on this machine.
    """
    from fedseal.federation.deployment import Deployment
    from fedseal.federation.ledger import LEDGER, stored_ledger
    from fedseal.setup.deployment import PartySpec

    own = PartySpec.of(dict(place.training))
    notes: list[str] = []
    federation, count = own.federation(place, notes), rounds or own.rounds
    save, checkpoint = save or place.folder / MODEL, place.work / CHECKPOINT
    writable_file(save)
    say = terminal.note if not (quiet or as_json) else _nothing
    for note in notes:
        say(f"note: {note}")
    again = f"go on with: fedseal join {place.folder.parent if nodes else place.folder}" + " --loopback" * bool(nodes)
    trained = rounds_of.fit_rounds(
        federation,
        count,
        again=again,
        as_json=as_json,
        quiet=quiet,
        evaluate_every=own.evaluate_every,
        engine=Deployment(place, nodes, timeout=own.timeout, say=say),
        checkpoint=checkpoint,
        resume=checkpoint.is_file(),
        record=record,
        members=federation.members_of(place.keys),
        ledger=stored_ledger(place.folder / LEDGER),
    )
    trained.save(save)
    rounds_of.tell_trained(trained, federation, save, as_json=as_json)


def follow(place: Place, *, quiet: bool = False, look: bool = False) -> None:
    """Be a data owner or an aggregator, on terms that are told first.

    Args:
        look: tell the terms and answer nothing.

    Raises:
        BadConfig: the terms are below what `owner.yaml` asks, or the folder's two files name other numbers of rounds.
    """
    from fedseal.cli.terms import terms_in_words
    from fedseal.federation.deployment import take_part
    from fedseal.federation.deployment.floors import Floors
    from fedseal.federation.ledger import LEDGER, stored_ledger
    from fedseal.federation.privacy import Spent
    from fedseal.setup.deployment import PartySpec

    own, floors = PartySpec.of(dict(place.training)), Floors.of(place.folder)
    _check_rounds(place, own.rounds)
    notes: list[str] = []
    federation = own.federation(place, notes)
    floors.check(place.pact.secure, federation.model_owner.model, own.rounds)
    members = federation.members_of(place.keys)
    members.keys.identity(place.number)  # what is missing is said before the terms
    for note in notes if not quiet else ():
        terminal.note(f"note: {note}")
    for line in terms_in_words(place, own, federation, floors):
        if look:
            terminal.say(line)
        elif not quiet:
            terminal.note(line)
    if look:
        return
    try:
        take_part(place, members, floors=floors, say=_nothing if quiet else terminal.note)
    except KeyboardInterrupt:
        if place.number in members.clients and not quiet:
            spent = Spent(tuple(entry.release for entry in stored_ledger(place.folder / LEDGER).entries))
            terminal.note(rounds_of.privacy_line(spent, place.pact.secure.statistics))
        raise terminal.Interrupted(f"{place.who} has left") from None


def apps() -> tuple[Any, Any]:
    """The ServerApp and the ClientApp of a deployment, for Flower's own executors; `FEDSEAL_PARTY` names the folder.

    Raises:
        BadConfig: it does not.
    """
    from fedseal.federation import deployment
    from fedseal.setup.deployment import PartySpec

    named = os.environ.get("FEDSEAL_PARTY")
    if named is None:
        raise BadConfig("FEDSEAL_PARTY is not set", "let it name the party's folder on this host")
    place = deployment.place(Path(named))
    own = PartySpec.of(dict(place.training))
    federation = replace(own.federation(place), protocol=place.pact.secure)
    return federation.apps(
        place.folder,
        rounds=own.rounds,
        evaluate_every=own.evaluate_every,
        timeout=own.timeout,
        save=place.folder / MODEL,
    )


def end_whole() -> None:
    """End as by Ctrl-C, daemons included, when asked to by SIGTERM, as service managers and containers do; and with the
    process that started this one, where that wants it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "FEDSEAL_PARENT" in os.environ:
        from fedseal.federation.deployment.flower_internals import start_parent_process_monitor

        start_parent_process_monitor(int(os.environ["FEDSEAL_PARENT"]))


def _check_rounds(place: Place, told: int) -> None:
    """Refuse a folder that tells one number of rounds, and has its party answer another one."""
    answered = place.pact.secure.rounds
    if answered != told:
        many = "any number" if answered is None else str(answered)
        raise BadConfig(
            f"'{place.folder}' tells of {told} rounds, and its pact.json has this party answer {many}",
            "ask whoever made the folder for one that agrees with itself",
        )


def _nothing(line: str) -> None:
    return None
