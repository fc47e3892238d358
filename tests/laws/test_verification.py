"""What holds of every answer once the runner has verified it: liars are certain of nothing, and certain means right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from fedseal import Observation, Outcome, Reconstruction
from fedseal.audit.verification import DOOR, verified
from fedseal.errors import BrokenAttack
from fedseal.metric.match import match
from fedseal.modality import Text
from fedseal.types import Certificate, ProgressCallback
from laws.tables import ATTACKS, SETTINGS, Setting

Answer = Callable[[Setting, Observation], tuple[Tensor, Tensor]]
NEAR = 1e-2  # root mean square


@dataclass(frozen=True)
class Liar:
    """Gives what its row says and calls it exact, with a certificate of its own."""

    setting: Setting
    answer: Answer = field(repr=False)
    name: str = "liar"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        inputs, labels = self.answer(self.setting, observation)
        own = Certificate("replay", 0.0, 1.0, (9.0,) * len(inputs), (True,) * len(inputs), "nothing")
        return Reconstruction(inputs, labels, Outcome("exact", "liar", 0.0, 0, 0.0), certificate=own)


def _zeros(setting: Setting, observation: Observation) -> tuple[Tensor, Tensor]:
    batch = setting.batch()
    return torch.zeros_like(batch.inputs), batch.labels


def _others(setting: Setting, observation: Observation) -> tuple[Tensor, Tensor]:
    batch = setting.batch(first=8)
    return batch.inputs, batch.labels


def _nowhere(setting: Setting, observation: Observation) -> tuple[Tensor, Tensor]:
    batch = setting.batch()
    return torch.full_like(batch.inputs.float(), torch.nan), batch.labels


def _shaped_otherwise(setting: Setting, observation: Observation) -> tuple[Tensor, Tensor]:
    batch = setting.batch()
    return batch.inputs[:, None], batch.labels


def _too_many_labels(setting: Setting, observation: Observation) -> tuple[Tensor, Tensor]:
    batch = setting.batch()
    return batch.inputs, torch.cat([batch.labels, batch.labels])


LIARS: dict[str, Answer] = {"zeros": _zeros, "other examples": _others, "no numbers": _nowhere}
BROKEN: dict[str, Answer] = {"another shape": _shaped_otherwise, "too many labels": _too_many_labels}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("liar", LIARS)
def test_a_liar_is_certain_of_nothing(liar: str, setting: str) -> None:
    one = Liar(SETTINGS[setting], LIARS[liar])
    found = verified(one, SETTINGS[setting].observation(), generator=torch.Generator()).found
    assert found.outcome.status in ("budget", "diverged")
    assert not bool(found.certain.any())
    assert found.inputs is None or bool(torch.isfinite(found.inputs).all())


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("broken", BROKEN)
def test_an_answer_of_another_shape_is_none(broken: str, setting: str) -> None:
    with pytest.raises(BrokenAttack, match="the attack 'liar' answered with"):
        verified(Liar(SETTINGS[setting], BROKEN[broken]), SETTINGS[setting].observation(), generator=torch.Generator())


@pytest.mark.parametrize("setting", ["perceptron", "relu perceptron, two", "table, two rows", "a sentence"])
@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_called_certain_is_right(name: str, setting: str) -> None:
    observation, truth = SETTINGS[setting].observation(), SETTINGS[setting].batch()
    try:
        found = verified(ATTACKS[name], observation, generator=torch.Generator().manual_seed(0)).found
    except DOOR:
        return
    assert found.outcome.status not in ("exact", "converged") or bool(found.certain.all())
    if not bool(found.certain.any()):
        return
    assert found.inputs is not None
    assert found.inputs.shape == truth.inputs.shape
    for index, place in enumerate(match(truth.inputs.float(), found.inputs.float())):
        if place is not None and bool(found.certain[place]):
            apart = (found.inputs[place].double() - truth.inputs[index].double()).square().mean().sqrt()
            assert apart <= (0 if isinstance(observation.modality, Text) else NEAR)
