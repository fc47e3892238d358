"""`fedseal attack`: one attack on one update, with pictures of what it read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedseal import attack as attacks
from fedseal import grammar
from fedseal.attack.specification import defaults, recipe_of
from fedseal.cli import terminal
from fedseal.errors import BadConfig, UnknownName
from fedseal.files import writable_folder

if TYPE_CHECKING:  # torch takes seconds, and what was typed wrongly is answered before it is loaded
    from fedseal.audit.frames import Frames
    from fedseal.audit.verification import Verified
    from fedseal.setup.attack import Target
    from fedseal.types import Attack
    from fedseal.vocabulary import FileKind

STARTS = 5  # of attacks that may diverge


def attack(
    recipe: Annotated[
        str, typer.Option(help="Attack to run: auto, dlg, dlg:steps=100 ...; `fedseal recipes` lists them.")
    ] = "auto",
    image: Annotated[
        Path | None, typer.Option(help="Private data: a picture of yours, of any size.", show_default=False)
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Private data: a sentence; repeat it for several in one batch.", show_default=False),
    ] = None,
    text_file: Annotated[
        Path | None, typer.Option(help="Private data: a file with a sentence on each line.", show_default=False)
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Private data: rows of a CSV or parquet file; name the class with --label COLUMN.", show_default=False
        ),
    ] = None,
    index: Annotated[
        int | None,
        typer.Option(min=0, help="Number of the attacked example in the data, file or table.", show_default="0"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Number of examples in the client's batch, from --index on.", show_default="1"),
    ] = None,
    update: Annotated[
        Path | None,
        typer.Option(help="Captured update to attack: a safetensors, .npz or .pt file.", show_default=False),
    ] = None,
    kind: Annotated[
        Literal["gradient", "difference", "weights"] | None,
        typer.Option(
            help="Content of the captured file; weights are those after training.",
            show_default="what the file says, or --training makes",
        ),
    ] = None,
    before: Annotated[
        Path | None,
        typer.Option(help="File of the weights that the client was sent.", show_default="the model's own"),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(
            help="File of the client's weights after training, short for --update FILE --kind weights.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="Private data: photos, fashion_mnist, a folder of pictures, or an .npz or .tfrecord file."),
    ] = "photos",
    model: Annotated[
        str | None,
        typer.Option(
            help="Model that the client trains: zoo:NAME, zoo:NAME:option=value, or package.module:function that "
            "returns an nn.Module; for text a language model such as minilm.",
            show_default="zoo:lenet; minilm for text, zoo:mlp for a table",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Number of pixels on each side.", show_default="32, or 28 for fashion_mnist"),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Shape of a picture: channels, height, width, such as 3,64,48.", show_default=False),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of the model's normalization, one number per channel.", show_default=False)
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            help="Standard deviation of the model's normalization, one number per channel.", show_default=False
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="Class of the example, or of all in the batch; for a table the column that holds the class.",
            show_default=False,
        ),
    ] = None,
    missing: Annotated[
        Literal["refuse", "drop", "fill"], typer.Option(help="Treatment of missing values in a table.")
    ] = "refuse",
    examples: Annotated[
        int | None,
        typer.Option(min=1, help="Number of examples behind a captured update, if known.", show_default=False),
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(
            help="Local training of the client: fedsgd, or fedavg:lr=0.01,epochs=3,batch_size=8.", show_default="fedsgd"
        ),
    ] = None,
    mode: Annotated[
        Literal["train", "eval", "as_is"] | None,
        typer.Option(help="Mode in which the client's BatchNorm and dropout run.", show_default="train"),
    ] = None,
    threat: Annotated[
        str, typer.Option(help="Threat model: who attacks and knows what, such as eavesdropper.")
    ] = "honest_but_curious",
    defense: Annotated[str, typer.Option(help="Defense of the client, such as prune:0.2.")] = "none",
    steps: Annotated[int | None, typer.Option(min=1, help="Number of optimization steps.", show_default=False)] = None,
    restarts: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum number of starts.", show_default=f"{STARTS} for dlg and idlg, if they diverge"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the zoo's weights, the defense and the attack.")
    ] = 0,
    device: Annotated[str, typer.Option(help="Device to compute on: cpu, cuda or mps.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of CPU threads.", show_default="1 for a small model, else all")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write pictures and result.json to.", show_default="runs/attack-..."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print for each route why it was taken or refused.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no notes.")] = False,
) -> None:
    """Attack one update and show what it gives away: the original beside the reconstruction, for pictures every step.

    Example:  fedseal attack --recipe dlg --image cat.jpg --out runs/cat

    Example:  fedseal attack --text "See you at noon." --model minilm

    Example:  fedseal attack --before sent.pt --after returned.pt --model own.model:build --training fedavg:lr=0.01
    """
    update, kind = _captured(update, kind, before, after)
    recipe_of(recipe)
    with terminal.loading():
        from fedseal.audit.environment import usable_device
        from fedseal.setup import machine
        from fedseal.setup.attack import AttackSpec
        from fedseal.setup.attack import target as target_of
    chosen = attack_of(recipe, steps=steps, restarts=restarts)
    spec = AttackSpec(
        image=image,
        text=tuple(text or ()),
        text_file=text_file,
        table=table,
        index=index,
        batch=batch,
        update=update,
        kind=kind,
        before=before,
        model=model or _usual_model(written=bool(text) or text_file is not None, table=table is not None),
        data=data,
        size=size,
        shape=None if shape is None else grammar.whole_numbers(shape, "--shape"),
        mean=None if mean is None else grammar.numbers(mean, "--mean"),
        std=None if std is None else grammar.numbers(std, "--std"),
        label=label if label is None or table is not None else grammar.whole_number(label, "--label"),
        missing=missing,
        examples=examples,
        training=training,
        mode=mode,
        threat=threat,
        defense=defense,
        seed=seed,
        device=usable_device(device),
    )
    target = target_of(spec)
    folder = writable_folder(out or Path("runs") / f"attack-{recipe.partition(':')[0]}-{target.title}")
    if not quiet:
        terminal.note(f"{threat} attacks {target.title} with {recipe}")
        for line in target.notes:
            terminal.note(line)
    with machine.computing_threads(threads, target.observation.model):
        found, frames = _run(chosen, target, seed, quiet=quiet)
    from fedseal.cli import attack_result

    result = attack_result.grade(recipe, spec, target, found)
    attack_result.write_result(folder, result, frames)
    if as_json:
        terminal.machine(result.plain())
    else:
        attack_result.tell(result, folder, explain=explain)


def _captured(
    update: Path | None, kind: FileKind | None, before: Path | None, after: Path | None
) -> tuple[Path | None, FileKind | None]:
    """The captured file, if one is named, and what it holds."""
    if after is not None and (update is not None or kind not in (None, "weights")):
        other = f"--update '{update}'" if update is not None else f"--kind {kind}"
        raise BadConfig(f"--after '{after}' holds weights after training, and {other} is given too", "leave one out")
    if after is not None:
        return after, "weights"
    if update is None and (kind is not None or before is not None):
        given = f"--kind {kind}" if kind is not None else f"--before '{before}'"
        raise BadConfig(f"{given} is given without a captured file", "name it: --update FILE, or --after FILE")
    return update, kind


def _usual_model(*, written: bool, table: bool) -> str:
    return "minilm" if written else "zoo:mlp" if table else "zoo:lenet"


def attack_of(recipe: str, *, steps: int | None, restarts: int | None) -> Attack:
    """The attack, with the options that stand on their own; DLG and its kin start again where they diverge.

    Raises:
        UnknownName: no such recipe, or one without steps.
        BadConfig: an option that means nothing.
    """
    attacks.parse(recipe)  # complain of what was typed before anything is added to it
    named = grammar.read(recipe)
    takes, extra = defaults(attacks.RECIPES[named.name]), {}
    if steps is not None:
        if "steps" not in takes:
            raise UnknownName(f"option of '{named.name}'", "steps", takes or ["(none)"])
        extra["steps"] = str(steps)
    if restarts is None and named.name in ("dlg", "idlg") and "restarts" not in named.options:
        restarts = STARTS
    if restarts is not None and "restarts" in takes:
        extra["restarts"] = str(restarts)
    written = ",".join(f"{key}={value}" for key, value in {**named.options, **extra}.items())
    chosen = attacks.parse(f"{named.name}:{written}")
    return chosen if restarts in (None, 1) or "restarts" in takes else attacks.restarts(restarts or 1, chosen)


def _run(chosen: Attack, target: Target, seed: int, *, quiet: bool) -> tuple[Verified, Frames]:
    import torch

    from fedseal.audit.frames import Film
    from fedseal.audit.verification import verified
    from fedseal.cli import progress

    generator = torch.Generator().manual_seed(seed)
    try:
        with progress.attack_progress(quiet=quiet) as show:
            film = Film(target.modality, show)
            found = verified(chosen, target.observation, generator=generator, progress=film)
    except KeyboardInterrupt:
        raise terminal.Interrupted("interrupted; nothing was written") from None
    return found, film.frames
