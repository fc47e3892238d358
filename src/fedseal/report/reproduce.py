"""How to run an audit again, from its record: a configuration file and commands, or the lines of Python."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

import yaml

from fedseal.audit.record import Config, Record

_OWN = (
    "case",
    "model",
    "data",
    "text",
    "table",
    "label",
    "missing",
    "size",
    "training",
    "normalization",
    "cost",
)  # what only the user's arguments know of the case


@dataclass(frozen=True)
class Reproduction:
    """Texts to copy.

    Args:
        file: the content of a configuration file; empty if the audit was started from Python.
        commands: for a shell, or for Python.
        given: the arguments as given, as JSON.
    """

    file: str
    commands: str
    given: str


def reproduction(record: Record) -> Reproduction:
    """How to run a record's audit again, into another folder, so that both can be compared."""
    config, given = record.header.config, record.header.given
    folder = shlex.quote(record.folder)
    compare = f"fedseal compare {folder} runs/again"
    texts = json.dumps(given, indent=2, ensure_ascii=False, default=str)
    if "recorded" in given:  # what a federation's parties could read
        asked = f"--attacks {shlex.quote(','.join(config.attacks))} --samples {given.get('samples')} --out runs/again"
        return Reproduction("", f"fedseal audit {shlex.quote(str(given['recorded']))} {asked}\n{compare}", texts)
    if "fingerprint" in given:  # the arguments of `audit.run` itself, whose case only the user's own code can build
        return Reproduction("", f"{_python(config, record.header.environment.device)}\n\n# then: {compare}", texts)
    return Reproduction(
        _yaml(config, given, record.header.environment.device), f"fedseal audit audit.yaml\n{compare}", texts
    )


def _yaml(config: Config, given: dict[str, object], device: str) -> str:
    content = {name: given[name] for name in _OWN if given.get(name) is not None}
    content |= {
        "attacks": list(config.attacks),
        "defenses": list(config.defenses),
        "threats": list(config.threats),
        "samples": config.samples,
        "batch_size": list(config.batch_sizes),
        **({} if config.epochs is None else {"epochs": list(config.epochs)}),
        **({} if config.lr is None else {"lr": config.lr}),
        "seeds": list(config.seeds),
        "device": device,
        "out": "runs/again",
    }
    plain = json.loads(json.dumps(content, default=str))  # YAML's safe dump takes plain values only
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100).rstrip()


def _python(config: Config, device: str) -> str:
    return "\n".join(
        [
            "fs.audit.run(",
            "    case,  # the same model, weights and data: its fingerprint tells",
            f"    attacks={list(config.attacks)!r},",
            f"    defenses={list(config.defenses)!r},",
            f"    threats={list(config.threats)!r},",
            f"    samples={config.samples}, batch_size={list(config.batch_sizes)!r}, seeds={list(config.seeds)!r},",
            f"    epochs={config.epochs!r}, lr={config.lr!r},",
            f"    device={device!r}, out='runs/again',",
            ")",
        ]
    )
