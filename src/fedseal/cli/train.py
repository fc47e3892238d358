"""`fedseal train`: federated training of which nobody can read a client's update."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedseal.cli import options, terminal
from fedseal.errors import BadConfig
from fedseal.federation.report import RoundReport

if TYPE_CHECKING:
    from fedseal.federation.federation import Federation, Trained


def train(
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="fashion_mnist, an .npz, .parquet or .csv file, or a folder of pictures; again for each owner.",
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
    as_json: Annotated[bool, typer.Option("--json", help="Print every round as JSON, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a model on data that stays with its owners, who are simulated here; the server sees sums only.

    Example:  fedseal train --owners 10 --rounds 20 --epochs 1 --save model.safetensors

    Example:  fedseal train --protocol masking --dp 1.1,clip=1 --rounds 5
    """
    # Secure sums need an extra, and the other verbs must work without it.
    from fedseal.cli import parties
    from fedseal.federation.federation import Federation
    from fedseal.federation.owners import ModelOwner

    if resume and checkpoint is None:
        raise BadConfig("--resume has nothing to go on from", "name the file with --checkpoint")
    for path in (save, checkpoint):
        if path is not None:
            options.file_to_write(path)
    found = parties.data(
        data or ["fashion_mnist"],
        owners=owners,
        how=split,
        validation=validation,
        share=validation_split,
        shape=None if shape is None else options.whole_numbers(shape, "--shape"),
        label=label,
        seed=seed,
    )
    rule, rate = parties.rule(
        use_reptile=reptile, epochs=epochs, rate=local_learning_rate, iterations=iterations, batch_size=batch_size
    )
    owner = ModelOwner(
        parties.model(model, found, seed),
        validation=found.validation,
        learning_rate=rate if learning_rate is None else learning_rate,
    )
    secure = parties.secure(
        protocol, dp=dp, clip=clip, bound=bound, minimum=minimum, aggregators=aggregators, bits=int(bits)
    )
    federation = Federation(owner, parties.owners(found, rule), secure, seed=seed, threads=threads)
    done: list[RoundReport] = []

    def progress(report: RoundReport) -> None:
        done.append(report)
        if not quiet and not as_json:
            terminal.note(line(report, rounds))

    try:
        trained = federation.fit(
            rounds,
            evaluate_every=evaluate_every,
            engine=engine,
            checkpoint=checkpoint,
            resume=resume,
            record=record,
            progress=progress,
        )
    except KeyboardInterrupt:
        kept = f"; go on with --resume --checkpoint {checkpoint}" if checkpoint is not None and done else ""
        raise terminal.Interrupted(f"interrupted after {len(done)} rounds{kept}") from None
    if save is not None:
        trained.save(save)
    _tell(trained, federation, save, as_json=as_json)


def line(report: RoundReport, rounds: int) -> str:
    """One round for people."""
    start = f"round {report.round + 1}/{rounds}:"
    if report.failure:
        return f"{start} nothing was opened, since {report.failure}"
    figures = [f"{report.clients} owners"]
    figures += [f"training {name} {value:.4f}" for name, value in report.metrics.items()]
    figures += [f"{name} {value:.4f}" for name, value in report.validation.items()]
    sent = report.uploaded / report.clients / 1e6
    return f"{start} {', '.join(figures)}, {sent:.2f} MB from each, {report.seconds:.2f} s"


def _tell(trained: Trained, federation: Federation, save: Path | None, *, as_json: bool) -> None:
    secure = federation.secure
    if as_json:
        rounds = [report.plain() for report in trained.history]
        terminal.machine({"secure": asdict(secure), "rounds": rounds, "epsilon": trained.epsilon})
        return
    last = trained.history[-1]
    figures = ", ".join(f"{name} {value:.4f}" for name, value in last.validation.items())
    terminal.say(f"{len(trained.history)} rounds; {figures or 'no validation data'}")
    seen = {
        "plain": "the server could read every owner's update; --protocol sharing hides them",
        "sharing": f"nobody could read an owner's update unless all {secure.aggregators} aggregators collude",
        "masking": "the server could read sums only, unless it colludes with too many owners",
    }
    terminal.say(seen[secure.protocol])
    if trained.epsilon is not None:
        terminal.say(f"differential privacy of an owner: epsilon {trained.epsilon:.2f} at delta 1e-05")
    if save is not None:
        terminal.say(f"the model is in {save}")
