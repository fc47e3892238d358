"""What holds of every answer once the runner has verified it: liars are certain of nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from fedseal import Observation, Outcome, Reconstruction
from fedseal.audit.verification import verified
from fedseal.errors import BrokenAttack
from fedseal.types import Certificate, ProgressCallback
from laws.tables import SETTINGS, Setting

Answer = Callable[[Setting, Observation], tuple[Tensor, Tensor]]


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
