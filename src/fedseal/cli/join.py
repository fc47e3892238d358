"""`fedseal join`: be one party of a deployment, or, to try it, all of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedseal.cli import options, terminal
from fedseal.cli import train as training
from fedseal.errors import BadConfig

if TYPE_CHECKING:
    from fedseal.federation.deployment import Place

MODEL, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"


def join(
    folder: Annotated[
        Path,
        typer.Argument(help="A party's folder of those that 'fedseal train --deploy' wrote; with --loopback, all."),
    ],
    loopback: Annotated[bool, typer.Option("--loopback", help="All parties on this machine, to try it.")] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="In all; of the model owner.", show_default="as deployed")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Where the model goes; of the model owner.", show_default="in its folder")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Folder for all that the model owner could read.", show_default=False)
    ] = None,
    at: Annotated[str | None, typer.Option(help="The model owner's HOST:PORT.", show_default="as deployed")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every round as JSON, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Take part in a federated training on several hosts, as the party whose folder it is.

    The model owner goes on where it was when it last ended; data owners and aggregators wait for it until Ctrl-C.

    Example:  fedseal join model-owner

    Example:  fedseal join owner-0
    """
    from fedseal.federation import deployment
    from fedseal.federation.deployment.folder import places
    from fedseal.secagg import SERVER

    watch()
    if loopback:
        owner, *nodes = places(folder)
        lead(owner, nodes, rounds=rounds, save=save, record=record, as_json=as_json, quiet=quiet)
        return
    place = deployment.place(folder)
    if at is not None:
        place = place.at(at)
    if place.number == SERVER:
        lead(place, [], rounds=rounds, save=save, record=record, as_json=as_json, quiet=quiet)
    else:
        follow(place, quiet=quiet)


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
    from fedseal.cli.deploy import Training
    from fedseal.federation.deployment import Deployment

    own = Training.of(dict(place.training))
    federation, count = own.federation(place), rounds or own.rounds
    save, checkpoint = save or place.folder / MODEL, place.work / CHECKPOINT
    options.file_to_write(save)
    say = terminal.note if not (quiet or as_json) else _nothing
    again = f"go on with: fedseal join {place.folder.parent if nodes else place.folder}" + " --loopback" * bool(nodes)
    trained = training.fitted(
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
    )
    trained.save(save)
    training.tell(trained, federation, save, as_json=as_json)


def follow(place: Place, *, quiet: bool = False) -> None:
    """Be a data owner or an aggregator."""
    from fedseal.cli.deploy import Training
    from fedseal.federation.deployment import take_part

    federation = Training.of(dict(place.training)).federation(place)
    members = federation.members_of(place.keys)
    try:
        take_part(place, members, say=_nothing if quiet else terminal.note)
    except KeyboardInterrupt:
        raise terminal.Interrupted(f"{place.who} has left") from None


def apps() -> tuple[Any, Any]:
    """The ServerApp and the ClientApp of a deployment, for Flower's own executors; `FEDSEAL_PARTY` names the folder.

    Raises:
        BadConfig: it does not.
    """
    from fedseal.cli.deploy import Training
    from fedseal.federation import deployment

    named = os.environ.get("FEDSEAL_PARTY")
    if named is None:
        raise BadConfig("FEDSEAL_PARTY is not set", "let it name the party's folder on this host")
    place = deployment.place(Path(named))
    own = Training.of(dict(place.training))
    federation = replace(own.federation(place), protocol=place.pact.secure)
    return federation.apps(
        place.folder,
        rounds=own.rounds,
        evaluate_every=own.evaluate_every,
        timeout=own.timeout,
        save=place.folder / MODEL,
    )


def watch() -> None:
    """End with the process that started this one, where that wants it."""
    if "FEDSEAL_PARENT" in os.environ:
        from flwr.supercore.app_utils import start_parent_process_monitor

        start_parent_process_monitor(int(os.environ["FEDSEAL_PARENT"]))


def _nothing(line: str) -> None:
    return None
