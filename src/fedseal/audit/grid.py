"""What is to be computed: the axes of an audit multiplied out into cells, and the values behind their names."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from fedseal import attack as attacks_module
from fedseal import defense as defenses_module
from fedseal.audit.case import Case, without_addresses
from fedseal.audit.cell import Worker
from fedseal.audit.record import CellKey, Config, Step
from fedseal.errors import BadConfig, FedsealError
from fedseal.threat import ThreatModel, preset
from fedseal.types import Attack, Defense

Named = TypeVar("Named")


@dataclass(frozen=True, eq=False)
class Job:
    """All that computing cells takes; specifications stay text, so that it can be handed to other processes.

    Args:
        case: the truth, not yet on the device.
        lr: of local epochs, where the case's training has none.
    """

    case: Case
    attacks: Sequence[str | Attack]
    defenses: Sequence[str | Defense]
    threats: Sequence[str | ThreatModel]
    device: str = "cpu"
    lr: float | None = None

    def worker(self) -> Worker:
        """What computes cells, with its own copy of the model.

        Raises:
            UnknownName: an attack, defense or threat model that does not exist.
            BadConfig: there is none of a kind, or one twice.
        """
        return Worker(
            self.case.to(self.device), self.named_attacks(), self.named_defenses(), self.named_threats(), self.lr
        )

    def named_attacks(self) -> dict[str, Attack]:
        """The attacks by the names that keys hold."""
        return _named(
            "attack",
            [(a.strip(), attacks_module.parse(a)) if isinstance(a, str) else (a.name, a) for a in self.attacks],
        )

    def named_defenses(self) -> dict[str, Defense]:
        """The defenses by the names that keys hold."""
        shields = [defenses_module.parse(d) if isinstance(d, str) else d for d in self.defenses]
        return _named("defense", [(defense.name, defense) for defense in shields])

    def named_threats(self) -> dict[str, ThreatModel]:
        """The threat models by the names that keys hold."""
        adversaries = [preset(t) if isinstance(t, str) else t for t in self.threats]
        return _named("threat model", [(threat.name, threat) for threat in adversaries])


@dataclass(frozen=True)
class AuditPlan:
    """The resolved arguments of an audit, and its cells in order."""

    config: Config
    keys: tuple[CellKey, ...]


def plan(
    job: Job, *, samples: int | None, batch_sizes: Sequence[int], epochs: Sequence[int] | None, seeds: Sequence[int]
) -> AuditPlan:
    """Multiply the axes out; attacks come first, then smaller updates before larger ones.

    Raises:
        BadConfig: an axis is empty, has a value twice or one that means nothing; or too little data.
        UnknownName: an attack, defense or threat model that does not exist.
    """
    case, by_attack, by_defense, by_threat = job.case, job.named_attacks(), job.named_defenses(), job.named_threats()
    by_seed = _distinct("seed", seeds)
    sizes = _distinct("batch size", batch_sizes)
    courses: tuple[int | None, ...] = (None,) if epochs is None else _distinct("number of local epochs", epochs)
    if job.lr is not None and not any(courses):
        raise BadConfig("a learning rate is given and no local epochs", "add them, such as epochs: [0, 1, 5]")
    _check_places(by_defense.values(), [case.over(course, job.lr) for course in courses])
    samples = _samples(case, samples, sizes)
    config = Config(
        case=case.title,
        model=f"{type(case.model).__name__} ({sum(p.numel() for p in case.model.parameters()):,} parameters)",
        training=case.training.describe(),
        modality=case.inputs_as.describe(),
        attacks=tuple(by_attack),
        defenses=tuple(by_defense),
        threats=tuple(by_threat),
        samples=samples,
        batch_sizes=sizes,
        epochs=None if epochs is None else tuple(epochs),
        lr=job.lr,
        seeds=by_seed,
        cohort=case.cohort,
        recipes={name: without_addresses(repr(attack)) for name, attack in by_attack.items()},
        knows={name: tuple(sorted(threat.grants)) for name, threat in by_threat.items()},
        public={name: public_steps(defense, case.model) for name, defense in by_defense.items()},
        fingerprint=case.fingerprint(),
    )
    return AuditPlan(config, tuple(_keys(config, samples, courses)))


def public_steps(defense: Defense, model: nn.Module) -> tuple[Step, ...]:
    """What is public of a defense on this model; of one that does not fit it, what is public on any."""
    with contextlib.suppress(FedsealError):  # its cells say why
        defense = defense.fit(defense.on_model(model))
    return tuple(Step(kind=step.kind, figures=dict(step.figures), where=step.where) for step in defense.public)


def _keys(config: Config, samples: int, courses: Sequence[int | None]) -> Iterable[CellKey]:
    axes = (
        config.attacks,
        config.batch_sizes,
        courses,
        range(samples),
        config.threats,
        config.defenses,
        config.seeds,
    )
    for attack, size, course, sample, threat, defense, seed in itertools.product(*axes):
        yield CellKey(
            attack=attack,
            defense=defense,
            threat=threat,
            first=sample * size,
            batch_size=size,
            seed=seed,
            epochs=course,
        )


def _named(kind: str, items: Sequence[tuple[str, Named]]) -> dict[str, Named]:
    if not items:
        raise BadConfig(f"the audit has no {kind}", "name at least one")
    twice = [name for name, count in Counter(name for name, _ in items).items() if count > 1]
    if twice:
        raise BadConfig(f"the {kind} '{twice[0]}' is there twice", "name it once, or give the other another name")
    return dict(items)


def _distinct(kind: str, values: Sequence[int]) -> tuple[int, ...]:
    return tuple(_named(kind, [(str(value), value) for value in values]).values())


def _check_places(defenses: Iterable[Defense], cases: Sequence[Case]) -> None:
    """A defense that no local training of the audit has a place for is a mistake; one that some has not, a finding."""
    for defense in defenses:
        if defense.per_example and all(case.training.kind != "gradient" for case in cases):
            raise BadConfig(
                f"the defense '{defense.name}' changes single examples' gradients, and the client takes local steps",
                "audit a case with LocalTraining.fedsgd(), or add 0 to the epochs",
            )


def _samples(case: Case, samples: int | None, sizes: Sequence[int]) -> int:
    """How many batches of each size are attacked: as many as the largest size allows, unless told."""
    largest = max(sizes)
    fitting = len(case.batch) // largest if min(sizes) >= 1 else 0
    wanted = fitting if samples is None else samples
    if not 1 <= wanted <= fitting:
        size = largest if min(sizes) >= 1 else min(sizes)
        raise BadConfig(
            f"{'samples' if samples is None else f'{samples} samples'} of {size} examples each from a case of "
            f"{len(case.batch)} examples",
            f"it holds {fitting} such samples: lower samples or batch_size, or give more data"
            if fitting
            else "set batch_size between 1 and the number of examples",
        )
    return wanted
