"""The application: all verbs together, and what becomes of their errors."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import click
import typer

from fedseal.cli import attack, audit, compare, join, recipes, report, rescore, terminal, train
from fedseal.errors import FedsealError

app = typer.Typer(
    name="fedseal",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Start with:  [bold]fedseal audit[/]   What others see of the data behind an update, on bundled pictures.",
)
app.command("audit")(audit.audit)
app.command("attack")(attack.attack)
app.command("report")(report.report)
app.command("train")(train.train_federation)
app.command("join")(join.join)
app.command("compare")(compare.compare_runs)
app.command("rescore")(rescore.rescore)
app.command("recipes")(recipes.recipes)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """What do your federated-learning updates leak? Attack them, measure it, stop it."""
    if show_version:
        terminal.say(f"fedseal {version('fedseal')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run_command(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; what the user did wrong becomes one line on standard error."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=list(arguments), prog_name="fedseal", standalone_mode=False)
    except FedsealError as problem:
        terminal.error(problem)
        return 2
    except click.ClickException as problem:
        context = getattr(problem, "ctx", None)
        where = f"; see '{context.command_path} --help'" if context is not None else ""
        terminal.error(problem.format_message().rstrip(".") + where)
        return 2
    except terminal.Interrupted as stopped:
        terminal.note(str(stopped))
        return 130
    if code == 130:  # typer's own answer to Ctrl-C
        terminal.note("interrupted")
    return code if isinstance(code, int) else 0
