"""`fedseal train`: federated training of which nobody can read a client's update."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedseal.cli import deployment, options, terminal
from fedseal.cli import rounds as rounds_of
from fedseal.errors import BadConfig


def train(
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="fashion_mnist, an .npz, .parquet, .csv or .tfrecord file, or a picture folder; again for each owner.",
            show_default="fashion_mnist",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="zoo:NAME, zoo:NAME:option=value, or package.module:function.")
    ] = "zoo:mlp",
    owners: Annotated[
        int | None, typer.Option(min=1, help="Among how many the data is dealt out.", show_default="10")
    ] = None,
    split: Annotated[str, typer.Option(help="How: iid, or dirichlet:0.5.")] = "iid",
    validation: Annotated[str | None, typer.Option(help="Data of the model owner.", show_default=False)] = None,
    validation_split: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share held out where no validation data is named.")
    ] = 0.2,
    shape: Annotated[
        str | None, typer.Option(help="Of pictures in a folder, such as 3,64,48.", show_default="3,32,32")
    ] = None,
    label: Annotated[str, typer.Option(help="Column of a table that holds the class.")] = "label",
    rounds: Annotated[int, typer.Option(min=1, help="Of training, resumed ones included.")] = 20,
    protocol: Annotated[
        Literal["sharing", "masking", "plain"],
        typer.Option(help="How updates are added: among aggregators, behind masks, or readable by the server."),
    ] = "sharing",
    aggregators: Annotated[int, typer.Option(min=2, help="Of sharing; they must not all collude.")] = 3,
    minimum: Annotated[
        int | None, typer.Option(min=1, help="Fewest owners in a sum.", show_default="more than two thirds")
    ] = None,
    engine: Annotated[Literal["local", "flower"], typer.Option(help="This process, or Flower's simulation.")] = "local",
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of the model owner.", show_default="1, or 0.5 for single gradients"),
    ] = None,
    local_learning_rate: Annotated[
        float | None, typer.Option(help="Of the data owners' own steps.", show_default="0.1")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Of the data owners; without them one gradient is sent.", show_default=False),
    ] = None,
    reptile: Annotated[bool, typer.Option("--reptile", help="A few steps, each on examples drawn anew.")] = False,
    iterations: Annotated[int, typer.Option(min=1, help="Steps of --reptile.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 100,
    dp: Annotated[
        str | None,
        typer.Option(help="Noise on the sum in units of the clip, such as 1.1,clip=1.", show_default=False),
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="Norm to which an owner scales down a longer update.", show_default=False)
    ] = None,
    bound: Annotated[float, typer.Option(help="Largest magnitude of an entry; a larger one is refused.")] = 8.0,
    bits: Annotated[Literal["32", "64"], typer.Option(help="Of an entry that is sent.")] = "32",
    evaluate_every: Annotated[int, typer.Option(min=1, help="Rounds between two evaluations.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, split and training; never of masks.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Of each owner's training.")] = 1,
    save: Annotated[Path | None, typer.Option(help="Where the model goes, as safetensors.", show_default=False)] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A file to go on from.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --checkpoint.")] = False,
    record: Annotated[
        Path | None, typer.Option(help="Folder for all that each party could read.", show_default=False)
    ] = None,
    deploy: Annotated[
        Path | None,
        typer.Option(help="Train on several hosts: write a folder for each into this one.", show_default=False),
    ] = None,
    loopback: Annotated[bool, typer.Option("--loopback", help="Run that deployment here, to try it.")] = False,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Of --deploy: the model owner's host, as others reach it.", show_default="this machine"),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of --deploy: where the model owner listens.")] = 9443,
    classes: Annotated[
        int | None, typer.Option(min=2, help="Of --deploy, where the data is elsewhere.", show_default=False)
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Of --deploy: most of an owner, there.", show_default=False)
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Of --deploy: seconds after which a silent party is left out.")
    ] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print every round as JSON, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a model on data that stays with its owners, who are simulated here; the server sees sums only.

    Example:  fedseal train --owners 10 --rounds 20 --epochs 1 --save model.safetensors

    Example:  fedseal train --protocol masking --dp 1.1,clip=1 --rounds 5

    Example:  fedseal train --deploy hosts --loopback --owners 3 --rounds 3
    """
    if resume and checkpoint is None:
        raise BadConfig("--resume has nothing to go on from", "name the file with --checkpoint")
    for path in (save, checkpoint):
        if path is not None:
            options.file_to_write(path)
    with terminal.loading():
        from fedseal.cli import training_manifest
        from fedseal.cli.plan import Plan  # secure sums need an extra, and the other verbs must work without it
    plan = Plan(
        data=tuple(data or ["fashion_mnist"]),
        model=model,
        owners=owners,
        split=split,
        validation=validation,
        validation_split=validation_split,
        shape=shape,
        label=label,
        protocol=protocol,
        aggregators=aggregators,
        minimum=minimum,
        learning_rate=learning_rate,
        local_learning_rate=local_learning_rate,
        epochs=epochs,
        reptile=reptile,
        iterations=iterations,
        batch_size=batch_size,
        dp=dp,
        clip=clip,
        bound=bound,
        bits=int(bits),
        seed=seed,
        threads=threads,
    )
    if deploy is not None:
        if checkpoint is not None or engine != "local":
            raise BadConfig(
                "a deployment has an engine and a checkpoint of its own", "leave out --engine, --checkpoint"
            )
        from fedseal.cli.deploy import drawn

        paper = drawn(
            plan,
            rounds=rounds,
            evaluate_every=evaluate_every,
            timeout=timeout,
            classes=classes,
            examples=examples,
        )
        paper.write(deploy, hosts=host or [], port=port)
        _deployed(deploy, loopback=loopback, save=save, record=record, as_json=as_json, quiet=quiet)
        return
    if loopback or host:
        raise BadConfig("--loopback and --host are of a deployment", "name its folder with --deploy")
    found = plan.read()
    if record is not None:
        training_manifest.keep(record, plan, found)
    federation = plan.federation(found)
    trained = rounds_of.fitted(
        federation,
        rounds,
        again=f"go on with --resume --checkpoint {checkpoint}" if checkpoint is not None else "",
        as_json=as_json,
        quiet=quiet,
        evaluate_every=evaluate_every,
        engine=engine,
        checkpoint=checkpoint,
        resume=resume,
        record=record,
    )
    if save is not None:
        trained.save(save)
    rounds_of.tell(trained, federation, save, as_json=as_json)


def _deployed(
    folder: Path, *, loopback: bool, save: Path | None, record: Path | None, as_json: bool, quiet: bool
) -> None:
    from fedseal.federation.deployment.folder import places

    owner, *nodes = places(folder)
    if loopback:
        deployment.lead(owner, nodes, save=save, record=record, as_json=as_json, quiet=quiet)
        return
    terminal.say(f"{folder} has a folder for each of {1 + len(nodes)} parties; {folder}/README.md says who gets which")
    terminal.say(f"to try it on this machine: fedseal join {folder} --loopback")
