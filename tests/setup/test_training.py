"""A local training has one set of defaults, whoever names it."""

from __future__ import annotations

import inspect

from fedseal.setup.training import TrainingSpec, training
from fedseal.types import LocalTraining


def test_defaults_are_those_of_the_value() -> None:
    made = inspect.signature(LocalTraining.fedavg).parameters
    shared = made.keys() - {"lr", "epochs"}
    assert shared | {"lr", "epochs"} == LocalTraining.__dataclass_fields__.keys()
    assert {name: made[name].default for name in shared} == {name: getattr(LocalTraining, name) for name in shared}


def test_a_specification_that_says_nothing_more_is_plain() -> None:
    assert TrainingSpec(kind="fedavg", lr=0.1).resolved() == LocalTraining.fedavg(lr=0.1) == training("fedavg:lr=0.1")
    assert TrainingSpec().resolved() == LocalTraining.fedsgd() == training("fedsgd")
