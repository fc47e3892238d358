"""`fedseal join`: be one party of a deployment, or, to try it, all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedseal.cli import deployment, terminal
from fedseal.errors import BadConfig


def join(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of one party, as 'fedseal train --deploy' wrote it; with --loopback the folder of all."
        ),
    ],
    loopback: Annotated[
        bool, typer.Option("--loopback", help="Run all parties on this machine, to try the deployment.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Total number of rounds (model owner only).", show_default="as deployed")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="File to write the trained model to (model owner only).", show_default="in its folder"),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Folder to record all that the model owner could read.", show_default=False)
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Address of the model owner, HOST:PORT.", show_default="as deployed")
    ] = None,
    terms: Annotated[
        bool, typer.Option("--terms", help="Print the terms of the training, and take no part (not the model owner).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all rounds as JSON and nothing else.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print neither progress nor notes, and terms only with --terms.")
    ] = False,
) -> None:
    """Take part in a federated training on several hosts, as the party that the folder belongs to.

    The model owner continues where it last stopped; data owners and aggregators wait for it until Ctrl-C. They are told
    the terms first, and take no part where these fall short of what owner.yaml in their folder asks.

    Example:  fedseal join model-owner

    Example:  fedseal join owner-0
    """
    with terminal.loading():
        from fedseal.federation.deployment import place as place_at
        from fedseal.federation.deployment.folder import places
    deployment.end_whole()
    if loopback:
        owner, *nodes = places(folder)
        deployment.lead(owner, nodes, rounds=rounds, save=save, record=record, as_json=as_json, quiet=quiet)
        return
    place = place_at(folder)
    if at is not None:
        place = place.at(at)
    if place.leads:
        if terms:
            raise BadConfig("the model owner set the terms itself", "ask for those of another party's folder")
        deployment.lead(place, [], rounds=rounds, save=save, record=record, as_json=as_json, quiet=quiet)
    else:
        deployment.follow(place, quiet=quiet, look=terms)
