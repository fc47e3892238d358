"""`fedseal train`: federated training of which nobody can read a client's update."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedseal.cli import data_terms, deployment, terminal, train_options
from fedseal.cli import rounds as rounds_of
from fedseal.files import writable_file

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST_SEED = 2**63 - 1


def train_federation(
    context: typer.Context,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Training data: fashion_mnist, photos, a folder of pictures, or an .npz, .parquet, .csv or .tfrecord "
            "file; repeat it to give each owner data of its own.",
            show_default="fashion_mnist",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model to train: zoo:NAME, zoo:NAME:option=value, or package.module:function.")
    ] = "zoo:mlp",
    owners: Annotated[
        int | None, typer.Option(min=1, help="Number of data owners to split one data set among.", show_default="10")
    ] = None,
    split: Annotated[str, typer.Option(help="Rule to split one data set by: iid, or dirichlet:0.5.")] = "iid",
    validation: Annotated[
        str | None, typer.Option(help="Validation data, held by the model owner.", show_default=False)
    ] = None,
    validation_split: Annotated[
        float,
        typer.Option(
            min=0, max=0.9, help="Share of one data set held out for validation, unless --validation is given."
        ),
    ] = 0.2,
    shape: Annotated[
        str | None,
        typer.Option(help="Shape of one example: channels, height, width of pictures.", show_default="3,32,32"),
    ] = None,
    label: Annotated[str, typer.Option(help="Column of a table that holds the class.")] = "label",
    range: Annotated[
        str | None,
        typer.Option(
            help="Stored values that become 0 and 1, in arrays and pictures of more than 8 bits, such as -1024,3071.",
            show_default="by type",
        ),
    ] = None,
    propose: Annotated[
        Path | None,
        typer.Option(
            help="File to write terms on the data to, without examples, for its owners to agree on; trains nothing.",
            show_default=False,
        ),
    ] = None,
    terms: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of terms on the data that an owner proposed; repeat it to agree on those of all.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Total number of rounds, including those before --resume.")] = 20,
    topology: Annotated[
        Literal["star", "ring", "gossip"],
        typer.Option(
            help="Who sends to whom: owners to a model owner, each to the next in a ring, or weights to neighbors."
        ),
    ] = "star",
    protocol: Annotated[
        Literal["sharing", "masking", "plain"] | None,
        typer.Option(
            help="How updates are summed: by aggregators that hold shares, under masks, or readable by whoever gets "
            "them.",
            show_default="sharing; masking in a ring, plain by gossip",
        ),
    ] = None,
    aggregators: Annotated[
        int,
        typer.Option(
            min=2, help="Number of aggregators of --protocol sharing; privacy holds unless all of them collude."
        ),
    ] = 3,
    minimum: Annotated[
        int | None,
        typer.Option(
            min=1, help="Smallest number of owners whose sum may be opened.", show_default="more than two thirds"
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "flower"], typer.Option(help="Where parties run: in this process, or in Flower's simulation.")
    ] = "local",
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the model owner, who moves the model by the mean update.",
            show_default="1, or 0.5 for single gradients",
        ),
    ] = None,
    local_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the data owners' local steps; given alone, they train one epoch.", show_default="0.1"
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Local epochs of each data owner; without this, --reptile and --local-learning-rate an owner sends "
            "one gradient.",
            show_default=False,
        ),
    ] = None,
    reptile: Annotated[
        bool, typer.Option("--reptile", help="Train locally by Reptile: a few steps, each on newly drawn examples.")
    ] = False,
    iterations: Annotated[int, typer.Option(min=1, help="Number of local steps of --reptile.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of examples in a local step.")] = 100,
    dp: Annotated[
        str | None,
        typer.Option(
            help="Differential privacy: Gaussian noise on the sum in units of the clipping norm, such as 1.1,clip=1.",
            show_default=False,
        ),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(help="Largest norm of an owner's update; a longer one is scaled down to it.", show_default=False),
    ] = None,
    bound: Annotated[
        float,
        typer.Option(
            help="Largest magnitude of one value of an update; an owner refuses to send a larger one. Under "
            "--protocol plain it is the larger of this and --statistics-bound."
        ),
    ] = 8.0,
    statistics: Annotated[
        Literal["shared", "local"],
        typer.Option(help="Treatment of BatchNorm's running statistics: averaged in the sum, or kept by each owner."),
    ] = "shared",
    statistics_bound: Annotated[
        float, typer.Option(help="Largest change of one statistic; an owner refuses to send a larger one.")
    ] = 1000.0,
    statistics_clip: Annotated[
        float | None,
        typer.Option(
            help="Largest norm of the changes of an owner's statistics; longer ones are scaled down to it.",
            show_default="1, where updates are clipped",
        ),
    ] = None,
    floor: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, help="Share of its norm by which the model must move before an owner answers it again."
        ),
    ] = 1e-4,
    bits: Annotated[Literal["32", "64"], typer.Option(help="Number of bits per transmitted value.")] = "32",
    evaluate_every: Annotated[
        int, typer.Option(min=1, help="Number of rounds between evaluations on the validation data.")
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=LARGEST_SEED,
            help="Seed of initial weights, split and training; masks and keys never depend on it.",
        ),
    ] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Number of CPU threads for each owner's training.")] = 1,
    save: Annotated[
        Path | None, typer.Option(help="File to write the trained model to, as safetensors.", show_default=False)
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File to save progress to after each round.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from --checkpoint.")] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Folder to record all that each party could read; audit it with 'fedseal audit FOLDER'.",
            show_default=False,
        ),
    ] = None,
    deploy: Annotated[
        Path | None,
        typer.Option(
            help="Train on several hosts: write a folder for each party into this one, and do not train yet.",
            show_default=False,
        ),
    ] = None,
    loopback: Annotated[
        bool, typer.Option("--loopback", help="With --deploy: run all parties on this machine, to try it.")
    ] = False,
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="With --deploy: name or address under which others reach the model owner; may be repeated.",
            show_default="this machine",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="With --deploy: port on which the model owner listens.")
    ] = 9443,
    classes: Annotated[
        str | None,
        typer.Option(
            help="With --deploy and data on other hosts: number of classes, or the names that folders have for them, "
            "such as benign,malign.",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --deploy and data on other hosts: upper limit on one owner's examples.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="With --deploy: seconds to wait for a party before it counts as gone.")
    ] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all rounds as JSON and nothing else.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print no progress, and no notes on how data was read.")
    ] = False,
) -> None:
    """Train a model on data that stays with its owners: the server sees sums of their updates only.

    The owners are simulated on this machine, unless --deploy prepares them for several hosts.

    Example:  fedseal train --owners 10 --rounds 20 --epochs 1 --save model.safetensors

    Example:  fedseal train --protocol masking --dp 1.1,clip=1 --rounds 5

    Example:  fedseal train --topology ring --owners 5 --rounds 3

    Example:  fedseal train --deploy hosts --loopback --owners 3 --rounds 3

    Example:  fedseal train --data scans --propose terms.json
    """
    given = train_options.given_options(context)
    train_options.check_options(given)
    for path in (save, checkpoint, propose):
        if path is not None:
            writable_file(path)
    with terminal.loading():
        from fedseal.setup import manifest  # secure sums need an extra, and the other verbs must work without it
        from fedseal.setup.absent_data import is_here
        from fedseal.setup.data.load import data_kind
        from fedseal.setup.federation import FederationSpec, usual_protocol
    spec = FederationSpec(
        data=tuple(data or ["fashion_mnist"]),
        model=model,
        owners=owners,
        split=split,
        validation=validation,
        validation_split=validation_split,
        shape=shape,
        label=label,
        protocol=protocol or usual_protocol(topology),
        topology=topology,
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
        statistics=statistics,
        statistics_bound=statistics_bound,
        statistics_clip=statistics_clip,
        range=range,
        floor=floor,
    )
    if propose is None or data:
        elsewhere = not all(map(is_here, spec.data))
        train_options.check_data_options(given, list(map(data_kind, spec.data)), elsewhere=elsewhere)
    if propose is not None:
        data_terms.propose(spec if data else None, terms or [], propose, quiet=quiet)
        return
    if terms:
        spec = data_terms.under(spec, terms)
    if deploy is not None:
        from fedseal.setup.deployment import deployment_of

        paper = deployment_of(
            spec,
            rounds=rounds,
            evaluate_every=evaluate_every,
            timeout=timeout,
            classes=classes,
            examples=examples,
        )
        paper.write(deploy, hosts=host or [], port=port)
        _tell_notes(paper.notes, quiet=quiet or as_json)
        _deployed(deploy, loopback=loopback, save=save, record=record, as_json=as_json, quiet=quiet)
        return
    found = spec.read()
    federation = spec.federation(found)
    _tell_notes(found.notes, quiet=quiet or as_json)
    trained = rounds_of.fit_rounds(
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
        begins=None if record is None else partial(manifest.keep, record, spec, found),
    )
    if save is not None:
        trained.save(save)
    rounds_of.tell_trained(trained, federation, save, as_json=as_json)


def _tell_notes(notes: Sequence[str], *, quiet: bool) -> None:
    """Tell how files were read."""
    for note in notes if not quiet else ():
        terminal.note(f"note: {note}")


def _deployed(
    folder: Path, *, loopback: bool, save: Path | None, record: Path | None, as_json: bool, quiet: bool
) -> None:
    from fedseal.federation.deployment.folder import places

    owner, *nodes = places(folder)
    if loopback:
        deployment.end_whole()
        deployment.lead(owner, nodes, save=save, record=record, as_json=as_json, quiet=quiet)
        return
    terminal.say(f"{folder} has a folder for each of {1 + len(nodes)} parties; {folder}/README.md says who gets which")
    terminal.say(f"to try it on this machine: fedseal join {folder} --loopback")
