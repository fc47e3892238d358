"""`fedseal attack`: one attack on one update, with pictures of what it read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedseal import attack as attacks
from fedseal.attack.specification import defaults, recipe_of
from fedseal.cli import options, terminal
from fedseal.errors import BadConfig, UnknownName

if TYPE_CHECKING:  # torch takes seconds, and what was typed wrongly is answered before it is loaded
    from fedseal.audit.frames import Frames
    from fedseal.audit.verification import Verified
    from fedseal.cli import sources
    from fedseal.types import Attack
    from fedseal.vocabulary import FileKind

STARTS = 5  # of attacks that may diverge


def attack(
    recipe: Annotated[str, typer.Option(help="Such as auto, dlg or dlg:steps=100; see `fedseal recipes`.")] = "auto",
    image: Annotated[
        Path | None, typer.Option(help="The client's data: your own picture, of any size.", show_default=False)
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="The client's data: a sentence; give it again for more in one batch.", show_default=False),
    ] = None,
    text_file: Annotated[
        Path | None, typer.Option(help="The client's data: a file with a sentence on each line.", show_default=False)
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="The client's data: rows of a CSV or parquet file; --label COLUMN.", show_default=False),
    ] = None,
    index: Annotated[
        int | None,
        typer.Option(min=0, help="Which: a bundled picture, or a line of the file or table.", show_default="0"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Examples in the client's batch, from --index on.", show_default="1")
    ] = None,
    update: Annotated[
        Path | None,
        typer.Option(help="An update that was captured: a safetensors, .npz or .pt file.", show_default=False),
    ] = None,
    kind: Annotated[
        Literal["gradient", "difference", "weights"] | None,
        typer.Option(
            help="What the captured file holds; weights are those after training.",
            show_default="what the file says, or --training makes",
        ),
    ] = None,
    before: Annotated[
        Path | None,
        typer.Option(help="A file of the weights that the client was sent.", show_default="the model's own"),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(help="A file of its weights after training: --update FILE --kind weights.", show_default=False),
    ] = None,
    data: Annotated[str, typer.Option(help="Bundled pictures: photos or fashion_mnist.")] = "photos",
    model: Annotated[
        str | None,
        typer.Option(
            help="zoo:NAME, zoo:NAME:option=value, or package.module:function that returns an nn.Module; for text a "
            "name such as minilm.",
            show_default="zoo:lenet; minilm for text, zoo:mlp for a table",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels a side.", show_default="32, or 28 for fashion_mnist"),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Channels, height, width, such as 3,64,48.", show_default=False)
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="The model's normalization, one number a channel.", show_default=False)
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="The model's normalization, one number a channel.", show_default=False)
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="The class of the example, or of all in the batch; of a table the column that holds it.",
            show_default=False,
        ),
    ] = None,
    missing: Annotated[
        Literal["refuse", "drop", "fill"], typer.Option(help="What to do about missing values of a table.")
    ] = "refuse",
    examples: Annotated[
        int | None, typer.Option(min=1, help="Examples behind a captured update, where known.", show_default=False)
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(help="fedsgd, or fedavg:lr=0.01,epochs=3,batch_size=8.", show_default="fedsgd"),
    ] = None,
    mode: Annotated[
        Literal["train", "eval", "as_is"] | None,
        typer.Option(help="How BatchNorm and dropout run on the client.", show_default="train"),
    ] = None,
    threat: Annotated[str, typer.Option(help="Who attacks, such as eavesdropper.")] = "honest_but_curious",
    defense: Annotated[str, typer.Option(help="What the client does about it, such as prune:0.2.")] = "none",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimization steps.", show_default=False)] = None,
    restarts: Annotated[
        int | None,
        typer.Option(min=1, help="Starts, at most.", show_default=f"{STARTS} for dlg and idlg, if they diverge"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the zoo's weights, the defense and the attack.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on the CPU.", show_default="1 for a small model, else all")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures and result.json.", show_default="runs/attack-..."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say of each route why it was taken or refused.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Attack one update and show what it gives away: original beside reconstruction, of pictures the iterations too.

    Example:  fedseal attack --recipe dlg --image cat.jpg --out runs/cat

    Example:  fedseal attack --text "See you at noon." --model minilm

    Example:  fedseal attack --before sent.pt --after returned.pt --model own.model:build --training fedavg:lr=0.01
    """
    update, kind = _captured(update, kind, before, after)
    recipe_of(recipe)
    with terminal.loading():
        from fedseal.audit.environment import usable_device
        from fedseal.cli import machine, sources
    chosen = build(recipe, steps=steps, restarts=restarts)
    request = sources.Request(
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
        shape=None if shape is None else options.whole_numbers(shape, "--shape"),
        mean=None if mean is None else options.numbers(mean, "--mean"),
        std=None if std is None else options.numbers(std, "--std"),
        label=label if label is None or table is not None else options.whole_number(label, "--label"),
        missing=missing,
        examples=examples,
        training=training,
        mode=mode,
        threat=threat,
        defense=defense,
        seed=seed,
        device=usable_device(device),
    )
    target = sources.aim(request)
    folder = options.folder(out or Path("runs") / f"attack-{recipe.partition(':')[0]}-{target.title}")
    if not quiet:
        terminal.note(f"{threat} attacks {target.title} with {recipe}")
        for line in target.notes:
            terminal.note(line)
    with machine.threads(threads, target.observation.model):
        found, frames = _run(chosen, target, seed, quiet=quiet)
    from fedseal.cli import attack_result

    result = attack_result.grade(recipe, request, target, found)
    attack_result.write(folder, result, frames)
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


def build(recipe: str, *, steps: int | None, restarts: int | None) -> Attack:
    """The attack, with the options that stand on their own; DLG and its kin start again where they diverge.

    Raises:
        UnknownName: no such recipe, or one without steps.
        BadConfig: an option that means nothing.
    """
    name, _, rest = recipe.partition(":")
    attacks.parse(recipe)  # complain of what was typed before anything is added to it
    known = [key for key, _ in options.pairs(rest)]
    takes = defaults(attacks.RECIPES[name])
    extra = {}
    if steps is not None:
        if "steps" not in takes:
            raise UnknownName(f"option of '{name}'", "steps", takes or ["(none)"])
        extra["steps"] = steps
    if restarts is None and name in ("dlg", "idlg") and "restarts" not in known:
        restarts = STARTS
    if restarts is not None and "restarts" in takes:
        extra["restarts"] = restarts
    written = ",".join([rest, *(f"{key}={value}" for key, value in extra.items())]).strip(",")
    chosen = attacks.parse(f"{name}:{written}")
    return chosen if restarts in (None, 1) or "restarts" in takes else attacks.restarts(restarts or 1, chosen)


def _run(chosen: Attack, target: sources.Aim, seed: int, *, quiet: bool) -> tuple[Verified, Frames]:
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
