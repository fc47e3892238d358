from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import Command
from fedseal.cli import app, terminal
from fedseal.errors import BadConfig, FedsealError

VERBS = ("audit", "attack", "report", "train", "join", "compare", "rescore", "recipes")


def test_bare_command_shows_every_verb(fedseal: Command) -> None:
    answer = fedseal()
    assert answer.code == 0
    assert all(verb in answer.out for verb in VERBS)
    assert "--install-completion" in answer.out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(fedseal: Command, verb: str) -> None:
    answer = fedseal(verb, "--help")
    assert answer.code == 0
    assert f"Example:  fedseal {verb}" in answer.out


def test_version_is_the_packages(fedseal: Command) -> None:
    assert fedseal("--version").out.split() == ["fedseal", importlib.metadata.version("fedseal")]


@pytest.mark.parametrize(
    "arguments", [["audti"], ["audit", "--no-such"], ["audit", "--samples", "many"], ["audit", "--samples", "0"]]
)
def test_usage_error_is_one_line(fedseal: Command, arguments: list[str]) -> None:
    assert "--help" in fedseal(*arguments).complaint


def test_error_is_one_line_whatever_it_quotes(fedseal: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> FedsealError:
        raise BadConfig("a name like '[bold]x[/]'\nover two lines [/", "correct it")

    monkeypatch.setattr("fedseal.setup.audit.load_config", fail)
    assert fedseal("audit", "x.yaml").complaint == "error: a name like '[bold]x[/]' over two lines [/; correct it"


def test_a_bug_is_not_dressed_up_as_the_users_mistake(fedseal: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fedseal.setup.audit.load_config", fail)
    with pytest.raises(ZeroDivisionError):
        fedseal("audit", "x.yaml")


def test_numbers_without_json_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.machine({"a": [float("inf"), 1.5], "b": (float("nan"),)})
    assert capsys.readouterr().out.split() == ["{", '"a":', "[", "null,", "1.5", "],", '"b":', "[", "null", "]", "}"]


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    code = "import fedseal.cli; fedseal.cli.main()"
    command = [sys.executable, "-c", code, "recipes", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode < 0  # ended by SIGPIPE, like every other filter


INTERRUPTED_WHILE_LOADING = """
import os, signal, sys
class Trap:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Trap())
import fedseal.cli
fedseal.cli.main()
"""


@pytest.mark.parametrize("verb", ["attack", "audit", "train"])
def test_interruption_while_torch_is_loading_is_quiet(verb: str, tmp_path: Path) -> None:
    # Needs `import fedseal` to load nothing yet: the first word of the command line must be its own.
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_LOADING, verb], capture_output=True, text=True, cwd=tmp_path
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_every_verb_is_there() -> None:
    assert {command.name for command in app.app.registered_commands} == set(VERBS)
