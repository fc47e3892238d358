"""The runner takes nothing on an attack's word."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from audit.fakes import SHAPE, Divide, Told, pictures, small_case
from fedseal import audit
from fedseal.audit.verification import NOT_FINITE, verified
from fedseal.defense import none
from fedseal.errors import BrokenAttack, UnknownToAdversary
from fedseal.threat import ThreatModel
from fedseal.types import (
    Attack,
    Batch,
    Certificate,
    LocalTraining,
    Observation,
    Outcome,
    ProgressCallback,
    Reconstruction,
)

SURE = Certificate("replay", 0.0, 1e-6, (9.0,), (True,), "nothing")
EXACT = Outcome("exact", "liar", 0.0, 0, 0.0)
LABEL = torch.tensor([0])


def claiming(inputs: Tensor | None, labels: Tensor | None = LABEL, certificate: Certificate | None = None) -> Attack:
    """An attack that says of whatever it answers that it is exact."""
    return Told(lambda: Reconstruction(inputs, labels, EXACT, certificate=certificate), "liar")


LIARS = {
    "zeros": claiming(torch.zeros(1, *SHAPE)),
    "noise with a certificate of its own": claiming(pictures(1, 3), certificate=SURE),
    "nothing at all": claiming(None),
    "a wrong label": Told(lambda: Reconstruction(pictures(1, 0), torch.tensor([2]), EXACT), "liar"),
    "a label that does not exist": claiming(pictures(1, 0), torch.tensor([77])),
    "two for one": claiming(
        pictures(2, 0), torch.tensor([0, 0]), replace(SURE, sensitivity=(9.0, 9.0), certain=(True, True))
    ),
    "a certificate of another length": claiming(pictures(1, 3), certificate=replace(SURE, certain=(True,) * 5)),
}


@pytest.mark.parametrize("liar", LIARS)
def test_a_liar_is_certain_of_nothing(tmp_path: Path, liar: str) -> None:
    record = audit.run(small_case(1), attacks=[LIARS[liar]], out=tmp_path)
    (cell,) = record.cells
    assert cell.status in ("budget", "diverged", "not_applicable")
    assert cell.residual is None or cell.residual > 1e-3
    assert not any(cell.certain)
    assert cell.scores is None or not any(sample.certain for sample in cell.scores.samples)
    assert [group.certified for group in audit.summarize(record)] == [0]


def test_the_truth_is_certain_whatever_its_attack_says(tmp_path: Path) -> None:
    case = small_case(3)
    modest = Told(
        lambda: Reconstruction(case.batch.inputs[:1], LABEL, Outcome("budget", "modest", 0.9, 0, 9e9)), "modest"
    )
    record = audit.run(case, attacks=[modest], out=tmp_path, samples=1)
    (cell,) = record.cells
    assert cell.status == "converged"
    assert cell.certificate is not None
    assert cell.certificate.kind == "replay"
    assert cell.residual == cell.certificate.residual
    assert cell.residual < 1e-5
    assert cell.certain == (True,)
    assert cell.certificate.assumption
    assert [group.certified for group in audit.summarize(record)] == [1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, -1])
def test_what_is_not_finite_is_left_out_as_diverged(tmp_path: Path, value: float, place: int) -> None:
    inputs = pictures(2, 0)
    inputs.view(-1)[place] = value
    record = audit.run(small_case(2), attacks=[claiming(inputs, torch.tensor([0, 1]))], out=tmp_path, batch_size=2)
    (cell,) = record.cells
    assert (cell.status, cell.residual, cell.scores) == ("diverged", None, None)
    assert NOT_FINITE in cell.note
    assert cell.labels == (0, 1)  # which are finite
    assert audit.pictures(record, cell).reconstruction is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            lambda: Reconstruction(torch.zeros(1, 1, 9, 9), LABEL, EXACT),
            r"inputs \(1, 1, 9, 9\).*return \(N, 1, 12, 12\)",
        ),
        (lambda: Reconstruction(torch.zeros(*SHAPE), LABEL, EXACT), r"inputs \(1, 12, 12\)"),
        (lambda: Reconstruction(torch.zeros(0, *SHAPE), None, EXACT), r"inputs \(0, 1, 12, 12\)"),
        (lambda: Reconstruction(torch.zeros(2, *SHAPE), LABEL, EXACT), r"2 inputs and labels \(1,\)"),
        (lambda: Reconstruction(torch.zeros(1, *SHAPE), torch.tensor(0), EXACT), r"1 inputs and labels \(\)"),
        (lambda: None, "a NoneType"),
    ],
    ids=["shape", "no batch", "empty", "labels", "scalar", "nothing"],
)
def test_an_answer_of_another_shape_is_a_fault_of_the_attack(
    tmp_path: Path, answer: Callable[[], Reconstruction], said: str
) -> None:
    attack = _Silent(answer)
    with pytest.raises(BrokenAttack, match=said):
        verified(attack, observed(), generator=torch.Generator())
    (cell,) = audit.run(small_case(1), attacks=[attack], out=tmp_path).cells
    assert cell.status == "failed"
    assert "correct the attack" in cell.note


@dataclass(frozen=True)
class _Silent:
    """Answers what the test says, and reports no step."""

    answer: Callable[[], Reconstruction] = field(repr=False)
    name: str = "silent"
    sleep: float = 0.0

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        time.sleep(self.sleep)
        return self.answer()


def observed() -> Observation:
    case = small_case(1)
    return case.observe(first=0, batch_size=1, defense=none(), threat=ThreatModel.honest_but_curious(), seed=0)[0]


def test_time_is_measured_and_not_believed() -> None:
    slow = _Silent(lambda: Reconstruction(pictures(1, 0), LABEL, replace(EXACT, seconds=1e9)), sleep=0.2)
    answer = verified(slow, observed(), generator=torch.Generator())
    assert 0.2 <= answer.found.outcome.seconds < 1e8
    assert answer.check_seconds > 0


def test_the_seconds_of_the_check_are_recorded_apart(tmp_path: Path) -> None:
    cells = audit.run(small_case(1), attacks=[Divide(), claiming(None)], out=tmp_path).cells
    assert cells[0].check_seconds is not None
    assert cells[0].check_seconds > 0
    assert cells[1].check_seconds is None


def test_what_cannot_be_checked_is_not_certain_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(observation: Observation, found: Reconstruction) -> Reconstruction:
        raise UnknownToAdversary("the moon is withheld", "grant it")

    monkeypatch.setattr("fedseal.audit.verification.certify", refuses)
    found = verified(claiming(pictures(1, 0), certificate=SURE), observed(), generator=torch.Generator()).found
    assert (found.outcome.status, found.outcome.residual, found.certificate) == ("budget", None, None)
    assert found.outcome.note == "not checked: the moon is withheld"


def _two() -> audit.Case:
    """A layer of 8 and a batch of two, whose update determines both."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    batch = Batch(pictures(2, 0), torch.tensor([0, 1]))
    return audit.Case(model, batch, LocalTraining.fedsgd(), gallery=pictures(5, 7))


def test_certainty_stands_in_the_order_of_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = _two()
    swapped = Told(
        lambda: Reconstruction(
            case.batch.inputs.flip(0), case.batch.labels.flip(0), Outcome("budget", "a", 1.0, 0, 0.0)
        )
    )

    def first_only(observation: Observation, found: Reconstruction) -> Reconstruction:
        return replace(found, certificate=replace(SURE, sensitivity=(0.5, 0.0), certain=(True, False)))

    with monkeypatch.context() as patch:
        patch.setattr("fedseal.audit.verification.certify", first_only)
        record = audit.run(case, attacks=[swapped], out=tmp_path, batch_size=2)
    (cell,) = record.cells
    assert cell.certain == (False, True)  # the first that was read is the second of the truth
    assert cell.certificate is not None
    assert cell.certificate.sensitivity == (0.0, 0.5)
    assert cell.scores is not None
    assert [sample.certain for sample in cell.scores.samples] == [False, True]
    assert [group.certified for group in audit.summarize(record)] == [1]
    assert audit.load(tmp_path) == record


def test_an_example_that_nothing_was_matched_to_is_not_certain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = _two()
    one = Told(lambda: Reconstruction(case.batch.inputs[1:], case.batch.labels[1:], EXACT))
    monkeypatch.setattr(
        "fedseal.audit.verification.certify", lambda observation, found: replace(found, certificate=SURE)
    )
    (cell,) = audit.run(case, attacks=[one], out=tmp_path, batch_size=2).cells
    assert cell.certain == (False, True)
    assert cell.certificate is not None
    assert cell.certificate.sensitivity == (None, 9.0)


def test_the_true_batch_is_certain_in_both_examples(tmp_path: Path) -> None:
    case = _two()
    truth = Told(
        lambda: Reconstruction(
            case.batch.inputs.flip(0), case.batch.labels.flip(0), Outcome("budget", "a", 1.0, 0, 0.0)
        )
    )
    record = audit.run(case, attacks=[truth], out=tmp_path, batch_size=2)
    assert record.cells[0].certain == (True, True)
    assert [group.certified for group in audit.summarize(record)] == [2]
