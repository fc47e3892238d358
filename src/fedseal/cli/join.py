"""`fedseal join`: be one party of a deployment, or, to try it, all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedseal.cli import deployment, terminal


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
    with terminal.loading():
        from fedseal.federation.deployment import place as place_at
        from fedseal.federation.deployment.folder import places
        from fedseal.secagg import SERVER
    deployment.watch()
    if loopback:
        owner, *nodes = places(folder)
        deployment.lead(owner, nodes, rounds=rounds, save=save, record=record, as_json=as_json, quiet=quiet)
        return
    place = place_at(folder)
    if at is not None:
        place = place.at(at)
    if place.number == SERVER:
        deployment.lead(place, [], rounds=rounds, save=save, record=record, as_json=as_json, quiet=quiet)
    else:
        deployment.follow(place, quiet=quiet)
