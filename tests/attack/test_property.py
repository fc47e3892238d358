"""Property inference: found where it shows, at chance where it does not, and from auxiliary examples alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attack.cases import seeded
from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, local_update, zoo
from fedseal.attack.inference.property import Detector, PropertyFinding, PropertyInference, Sketch
from fedseal.errors import BadConfig, UnknownToAdversary

MODEL = zoo.mlp(widths=(24,), num_classes=2)
FASHION = zoo.fashion_mnist()
PARITY = Batch(FASHION.inputs, FASHION.labels % 2)
SANDALS = FASHION.labels == 5
AUXILIARY = torch.arange(500) < 300
HONEST = ThreatModel.honest_but_curious()


def pool(*masks: torch.Tensor) -> Batch:
    rows = torch.stack(masks).all(0)
    return Batch(PARITY.inputs[rows], PARITY.labels[rows])


def observed(batch: Batch, threat: ThreatModel = HONEST, training: LocalTraining | None = None) -> Observation:
    update = local_update(MODEL, batch, training=training or LocalTraining.fedsgd())
    return threat.observe(MODEL, update, modality=Image(shape=(1, 28, 28)))


HAVING, LACKING = pool(AUXILIARY, SANDALS), pool(AUXILIARY, ~SANDALS)
ATTACK = PropertyInference(HAVING, LACKING, number=4, updates=120, width=512)
THEIR_HAVING, THEIR_LACKING = pool(~AUXILIARY, SANDALS), pool(~AUXILIARY, ~SANDALS)


def clients(number: int, count: int = 40) -> list[tuple[bool, Observation]]:
    """Clients of eight pictures that the adversary does not have, every other one with sandals among them."""
    generator, found = seeded(7), []
    for client in range(count):
        sandals = number * (client % 2)
        one = torch.randperm(len(THEIR_HAVING), generator=generator)[:sandals]
        two = torch.randperm(len(THEIR_LACKING), generator=generator)[: 8 - sandals]
        inputs = torch.cat([THEIR_HAVING.inputs[one], THEIR_LACKING.inputs[two]])
        labels = torch.cat([THEIR_HAVING.labels[one], THEIR_LACKING.labels[two]])
        found.append((sandals > 0, observed(Batch(inputs, labels))))
    return found


def accuracy(detector: Detector, cases: list[tuple[bool, Observation]]) -> float:
    return sum((detector(observation).probability > 0.5) == truth for truth, observation in cases) / len(cases)


def test_sandals_are_found_in_the_updates_of_other_clients() -> None:
    cases = clients(4)
    detector = ATTACK.fit(cases[0][1], generator=seeded())
    assert accuracy(detector, cases) > 0.8
    assert detector.interval[0] > 0.6
    assert detector.interval[0] < detector.accuracy < detector.interval[1] + 1e-12


def test_a_property_that_does_not_exist_is_at_chance() -> None:
    """The control: the same pictures called with and without."""
    attack = replace(ATTACK, present=LACKING)
    cases = clients(4)
    detector = attack.fit(cases[0][1], generator=seeded())
    assert detector.interval[0] < 0.5 < detector.interval[1]
    assert "no better than chance" in detector(cases[0][1]).note


def test_the_observed_update_does_not_train_the_classifier() -> None:
    (_, one), (_, other) = clients(4, 2)
    first, second = (ATTACK.fit(observation, generator=seeded()) for observation in (one, other))
    assert torch.equal(first.weight, second.weight)
    assert first(one) == second(one)
    assert first(one).probability != first(other).probability
    assert ATTACK(one, generator=seeded()) == first(one)


def test_local_training_is_imitated() -> None:
    training = LocalTraining.fedavg(lr=0.05, epochs=2, batch_size=4)
    (_, one), (_, other) = (
        (True, observed(Batch(HAVING.inputs[:8], HAVING.labels[:8]), training=training)),
        (False, observed(Batch(LACKING.inputs[:8], LACKING.labels[:8]), training=training)),
    )
    detector = replace(ATTACK, number=None, updates=60).fit(one, generator=seeded())
    assert detector(one).probability > 0.9 > 0.1 > detector(other).probability


def test_a_sketch_keeps_small_tensors_and_nearly_the_length_of_large_ones() -> None:
    large = torch.randn(100, 77, generator=seeded(), dtype=torch.float64)
    small, absolute, short, _ = Sketch(64, seed=1)({"a": torch.tensor([1.0, -2.0]), "b": large})
    assert small.tolist() == [1, -2]
    assert absolute.tolist() == [1, 2]
    assert short.shape == (64,)
    assert 0.6 < float(short.norm() / large.norm()) < 1.4
    again = Sketch(64, seed=1)({"a": torch.tensor([1.0, -2.0]), "b": 3 * large})
    torch.testing.assert_close(again[2], 3 * short)


@pytest.mark.parametrize(
    ("threat", "words"),
    [
        (ThreatModel.eavesdropper(), "weights"),
        (ThreatModel.unknown_training(), "local training"),
        (ThreatModel("unsized", HONEST.grants - {"num_examples"}), "batches as large as the client's"),
    ],
)
def test_what_it_needs_it_asks_for(threat: ThreatModel, words: str) -> None:
    observation = observed(Batch(PARITY.inputs[:8], PARITY.labels[:8]), threat)
    with pytest.raises(UnknownToAdversary, match=words):
        ATTACK(observation, generator=seeded())


def test_too_little_to_learn_from_is_refused() -> None:
    with pytest.raises(BadConfig, match="too few"):
        PropertyInference(HAVING[:3], LACKING)
    with pytest.raises(BadConfig, match="differ in shape"):
        PropertyInference(Batch(HAVING.inputs[:, :, :8], HAVING.labels), LACKING)
    with pytest.raises(BadConfig, match="9 examples with the property in a batch of 8"):
        replace(ATTACK, number=9)(clients(4, 1)[0][1], generator=seeded())


def test_a_finding_says_when_it_says_nothing() -> None:
    assert PropertyFinding(0.9, 0.8, (0.7, 0.9)).note == ""
    assert "says nothing" in PropertyFinding(0.9, 0.55, (0.45, 0.65)).note
