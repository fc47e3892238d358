"""Proofs that a stranger's model broke: what rounds, draws by mode, hides behind other examples, or is blanked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from attack.test_certificate import certificate_of, claim, made, pictures, seeded, seen
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.least_squares import steps_from
from fedseal.attack.proof.certificate import certify
from fedseal.modality.tabular import Continuous, Tabular
from fedseal.types import Candidate
from marks import slowly

ROWS = Tabular(columns=tuple(Continuous(f"c{n}", -8, 8) for n in range(8)))


class Before(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor], training_only: bool = False) -> None:
        super().__init__()
        self.change, self.training_only = change, training_only

    def forward(self, inputs: Tensor) -> Tensor:
        return self.change(inputs) if self.training or not self.training_only else inputs


def rows(model: nn.Module, batch: fs.Batch, threat: fs.ThreatModel, loss: object = "cross_entropy") -> fs.Observation:
    training = fs.LocalTraining.fedsgd(loss=loss)  # type: ignore[arg-type]
    return threat.observe(model, fs.local_update(model, batch, training=training), modality=ROWS)


def one(seed: int = 3) -> Tensor:
    return torch.randn(1, 8, generator=seeded(seed))


def head() -> list[nn.Module]:
    return [nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + (x.round() - x).detach(),
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.25, 0, -128, 127),
    ],
    ids=["straight through", "fake quantization"],
)
def test_a_gradient_of_a_models_own_making_proves_nothing(change: Callable[[Tensor], Tensor]) -> None:
    model, batch = made(lambda: nn.Sequential(Before(change), *head())), fs.Batch(one(), torch.tensor([1]))
    observation = rows(model, batch, fs.ThreatModel.honest_but_curious())
    assert certify(observation, claim(batch.inputs, batch.labels)).certain.tolist() == [False]


@pytest.mark.parametrize(
    "change",
    [lambda x: nn.functional.dropout(x, 0.3), lambda x: x + 0.1 * torch.randn_like(x), lambda x: x.flip(1)],
    ids=["dropout", "noise", "flip"],
)
@pytest.mark.parametrize("threat", [fs.ThreatModel.eavesdropper(), fs.ThreatModel.unknown_training()])
def test_what_only_training_does_is_known_to_who_knows_the_training(
    change: Callable[[Tensor], Tensor], threat: fs.ThreatModel
) -> None:
    model = made(lambda: nn.Sequential(Before(change, training_only=True), *head())).eval()
    observation = rows(model, fs.Batch(one(), torch.tensor([1])), threat)
    found = fs.attack.auto(steps=8)(observation, generator=seeded())
    assert not bool(found.certain.any())


def _ends(observation: fs.Observation, labels: Tensor, starts: int) -> list[fs.Reconstruction]:
    """What least squares from random rows make of an update, certified."""
    found, evidence = [], Evidence.of(observation)
    for number in range(starts):
        drawn = seeded(100 + number)
        targets = torch.randn(labels.shape, generator=drawn) if labels.is_floating_point() else labels
        rows = (1.5 * torch.randn(len(labels), 8, generator=drawn)).clamp(-8, 8)
        *_, (end, _) = steps_from(evidence, Candidate(rows, targets), 40)
        whole = end.labels.float() if labels.is_floating_point() else end.labels
        found.append(certify(observation, claim(end.inputs.float(), whole)))
    return found


@pytest.mark.parametrize("seed", slowly([0, 4, 6, 7], [6]))
def test_no_end_of_a_search_is_certain_and_false_beside_kinks_and_open_examples(seed: int) -> None:
    """Of a few ReLUs: a unit that is off by a hair, as from seed 0, is the edge of a family along which it is on."""
    width, count = (2, 3, 4)[seed % 3], (2, 3, 4)[seed // 3 % 3]
    net = made(lambda: nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3)), seed)
    inputs = torch.randn(count, 8, generator=seeded(seed + 1))
    numbers = torch.randn(count, 3, generator=seeded(seed + 2))
    batch = fs.Batch(inputs, numbers if seed % 2 == 0 else numbers.argmax(1))
    loss = nn.functional.mse_loss if seed % 2 == 0 else "cross_entropy"
    observation = rows(net, batch, fs.ThreatModel.honest_but_curious(), loss)
    for found in _ends(observation, batch.labels, 6):
        assert found.inputs is not None
        for row in found.inputs[found.certain]:
            assert float((inputs - row).square().mean(1).sqrt().min()) <= 1e-2


def test_findings_between_yes_and_no_are_free() -> None:
    net = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(25, 10, bias=False)))
    findings = torch.full((1, 10), 0.4)
    batch = fs.Batch(pictures(1, size=5), findings)
    observation = seen(net, batch, training=fs.LocalTraining.fedsgd(loss=nn.BCEWithLogitsLoss()))
    assert certify(observation, claim(batch.inputs, findings)).certain.tolist() == [False]


def test_a_blank_patch_of_a_large_picture_is_open() -> None:
    class Masked(nn.Module):
        keep: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.net = fs.zoo.lenet(size=32)
            keep = torch.ones(1, 1, 32, 32)
            keep[:, :, :4, :8] = 0
            self.register_buffer("keep", keep)

        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.net(inputs * self.keep)
            return scores

    batch = fs.zoo.photos(size=32)[:1]
    other = batch.inputs.clone()
    other[:, :, :4, :8] = 1 - other[:, :, :4, :8]
    found = certify(seen(Masked(), batch), claim(other, batch.labels))
    assert certificate_of(found).residual < 1e-6
    assert found.certain.tolist() == [False]


def test_the_assumption_names_a_defense_that_nobody_told() -> None:
    batch = fs.Batch(pictures(1), torch.tensor([3]))
    net = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10)))
    found = fs.attack.parse("linear")(seen(net, batch, "eavesdropper"), generator=seeded())
    assert "changed no example before training" in certificate_of(found).assumption
