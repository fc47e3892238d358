"""Options of `fedseal train` that would be of no use beside others: refused, so that none is dropped without a word."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import typer
from click.core import ParameterSource

from fedseal.errors import BadConfig

UNSAID = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
ABOUT_DATA = ("--shape", "--range", "--label")
PROPOSING = ("--propose", "--terms", "--data", "--quiet", *ABOUT_DATA)
DEPLOYING = ("--loopback", "--host", "--port", "--classes", "--examples", "--timeout")


class _Rule(NamedTuple):
    """Options that are of no use where a fact holds."""

    holds: bool
    fact: str
    options: Iterable[str]
    more: str = ""


def given_options(context: typer.Context) -> dict[str, Any]:
    """What was typed, by the long names of the options; what was left out is not in it."""
    return {
        parameter.opts[0]: context.params[parameter.name]
        for parameter in context.command.params
        if parameter.name in context.params and context.get_parameter_source(parameter.name) not in UNSAID
    }


def check_options(given: Mapping[str, Any]) -> None:
    """Refuse what is of no use, or makes no sense, whatever the data is.

    Raises:
        BadConfig: an option beside another one.
    """
    topology = given.get("--topology", "star")
    if "--deploy" in given and topology != "star":
        raise BadConfig(f"--deploy has no --topology {topology}: nodes reach the model owner alone", "simulate it here")
    for option in ("--validation-split", "--timeout"):
        if not isfinite(given.get(option, 0.0)):  # which no range excludes
            raise BadConfig(f"{option} is {given[option]}", "give a number")
    if topology == "gossip" and given.get("--statistics") == "local":
        raise BadConfig(
            "owners who gossip send all of their weights, statistics too, and --statistics is local",
            "leave --statistics out, or train with another --topology",
        )
    if given.get("--resume") and "--checkpoint" not in given:
        raise BadConfig("--resume has nothing to go on from", "name the file with --checkpoint")
    if "--terms" in given and "--data" not in given and "--propose" not in given:
        raise BadConfig("--terms says what data has to be like, and no data is named", "name it: --data scans")
    _leave_out(given, _rules(given, topology))
    _check_places(given)


def check_data_options(given: Mapping[str, Any], kinds: Sequence[str], *, elsewhere: bool) -> None:
    """Refuse what is of no use for such data.

    Args:
        kinds: "pictures", "arrays" or "table", of each data set.
        elsewhere: whether any of it is on another host.

    Raises:
        BadConfig: an option that none of the data has a use for.
    """
    rules = [
        _Rule("table" not in kinds, "--label names a column, and no --data is a table", ("--label",)),
        _Rule({*kinds} == {"table"}, "a table has neither shape nor range to be told", ("--shape", "--range")),
        _Rule(not elsewhere, "the number of examples is read off data that is here", ("--examples",)),
    ]
    _leave_out(given, rules)


def _rules(given: Mapping[str, Any], topology: str) -> list[_Rule]:
    alone = topology == "star" and given.get("--protocol", "sharing") == "sharing"
    without = "among owners alone" if topology != "star" else f"under --protocol {given.get('--protocol')}"
    proposes, deploys = "--propose" in given, "--deploy" in given
    return [
        _Rule(proposes, "--propose trains nothing", _but(given, PROPOSING)),
        _Rule(proposes and "--data" not in given, "--propose without --data reads no data", ABOUT_DATA),
        _Rule(
            deploys and not given.get("--loopback"),
            "--deploy without --loopback trains nothing yet",
            ("--save", "--record", "--json"),
            "; 'fedseal join' has some of its own",
        ),
        _Rule(
            deploys, "a deployment has an engine and a checkpoint of its own", ("--engine", "--checkpoint", "--resume")
        ),
        _Rule(not deploys, "nothing is deployed", DEPLOYING, ", or name its folder with --deploy"),
        _Rule(
            len(given.get("--data", ())) > 1,
            "of several data sets each is one owner's, whole",
            ("--split", "--validation-split"),
            "; --validation names data for validation",
        ),
        _Rule("--validation" in given, "--validation names the data for validation", ("--validation-split",)),
        _Rule("clip=" in str(given.get("--dp")), "--dp has a clip of its own", ("--clip",)),
        _Rule(not given.get("--reptile"), "only --reptile takes a number of steps", ("--iterations",)),
        _Rule(not alone, f"no aggregators add {without}", ("--aggregators",)),
        _Rule(
            topology != "gossip" and given.get("--protocol") == "plain",
            "nothing is added up in secret under --protocol plain",
            ("--floor", "--bits", "--statistics-clip"),
        ),
        _Rule(
            given.get("--statistics") == "local",
            "statistics stay at their owners under --statistics local",
            ("--statistics-bound", "--statistics-clip"),
        ),
        _Rule(
            topology != "gossip" and given.get("--clip") is None and given.get("--dp") is None,
            "updates are not clipped without --clip or --dp",
            ("--statistics-clip",),
        ),
    ]


def _check_places(given: Mapping[str, Any]) -> None:
    """One would be written over the other, or over what is read."""
    taken: dict[Path, str] = {}
    for option in ("--save", "--checkpoint", "--record", "--deploy", "--propose"):
        if option in given:
            other = taken.setdefault(Path(given[option]).resolve(), option)
            if other != option:
                raise BadConfig(f"{other} and {option} both name '{given[option]}'", "give each a place of its own")
    for option in ("--data", "--validation", "--terms"):
        named = given.get(option, ())
        for place in (named,) if isinstance(named, str | Path) else named:
            if Path(place).exists() and (other := taken.get(Path(place).resolve(), "")):
                raise BadConfig(f"{other} would be written over '{place}', which {option} reads", "name another place")


def _but(given: Iterable[str], useful: Collection[str]) -> list[str]:
    return [option for option in given if option not in useful]


def _leave_out(given: Mapping[str, Any], rules: Iterable[_Rule]) -> None:
    for rule in rules:
        useless = [option for option in rule.options if given.get(option) is not None]
        if rule.holds and useless:
            raise BadConfig(f"{rule.fact}, and {useless[0]} is given", f"leave out {', '.join(useless)}{rule.more}")
