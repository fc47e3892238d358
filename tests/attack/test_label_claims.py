"""Certified labels are right: under weight decay, Adam and local steps, and whoever looks; and `best` always counts."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack.cases import initialized, observed, pictures, seeded
from fedseal import Batch, LocalTraining, ThreatModel
from fedseal.attack.evidence.evidence import Evidence, course_of
from fedseal.attack.labels import METHODS, Labels, best
from fedseal.errors import FedsealError, UnfitModel, UnfitUpdate, UnknownToAdversary

WHO = [ThreatModel.honest_but_curious(), ThreatModel.eavesdropper(), ThreatModel.unknown_training()]
CURIOUS, EAVESDROPPER, UNKNOWN = WHO
DECAYED = {
    "one step": LocalTraining.fedavg(lr=0.1, weight_decay=0.01),
    "epochs": LocalTraining.fedavg(lr=0.1, weight_decay=0.01, epochs=5),
    "momentum": LocalTraining.fedavg(lr=0.1, weight_decay=0.01, epochs=3, momentum=0.9),
    "adam": LocalTraining.fedavg(lr=0.01, weight_decay=0.01, optimizer="adam"),
    "adam, epochs": LocalTraining.fedavg(lr=0.01, weight_decay=0.01, optimizer="adam", epochs=5),
}
PLAIN = {
    "gradient": LocalTraining.fedsgd(),
    "one step": LocalTraining.fedavg(lr=0.1),
    "momentum": LocalTraining.fedavg(lr=0.1, epochs=5, momentum=0.9),
    "adam": LocalTraining.fedavg(lr=0.01, optimizer="adam"),
    "adam, epochs": LocalTraining.fedavg(lr=0.01, optimizer="adam", epochs=5),
}


@cache
def trained(*, bias: bool = True, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Batch]:
    """A model that is sure of the examples that it was trained on."""
    batch = pictures(12, (1, 4, 4), classes=4, dtype=dtype)
    layers = [nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4, bias=bias)]
    model = initialized(nn.Sequential(*layers), dtype=dtype)
    descent = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        descent.zero_grad()
        F.cross_entropy(model(batch.inputs), batch.labels).backward()  # type: ignore[no-untyped-call]
        descent.step()
    return model, batch


def read(model: nn.Module, batch: Batch, training: LocalTraining, threat: ThreatModel) -> list[tuple[Labels, bool]]:
    """What is read of every example on its own, and whether it is right; nothing of one that no method reads."""
    found = []
    for inputs, label in zip(batch.inputs, batch.labels, strict=True):
        observation = observed(model, Batch(inputs[None], label[None]), training=training, threat=threat)
        with suppress(UnknownToAdversary, UnfitUpdate):
            labels = best(observation, generator=seeded())
            found.append((labels, labels.labels.tolist() == [int(label)]))
    return found


@cache
def read_of_sure(training: LocalTraining, threat: ThreatModel, *, bias: bool = True) -> list[tuple[Labels, bool]]:
    """The same of every example that a model was trained on, once for all tests of this file."""
    return read(*trained(bias=bias), training, threat)


@pytest.mark.parametrize("threat", WHO, ids=lambda threat: threat.name)
@pytest.mark.parametrize("training", DECAYED)
@pytest.mark.parametrize("bias", [True, False])
def test_weight_decay_leaves_no_wrong_certified_label(bias: bool, training: str, threat: ThreatModel) -> None:
    """Decay moves the bias more than a sure model's gradient does."""
    found = read_of_sure(DECAYED[training], threat, bias=bias)
    assert all(right for labels, right in found if labels.certified)


@pytest.mark.parametrize("training", ["one step", "epochs", "momentum"])
def test_a_known_decay_of_sgd_is_taken_off(training: str) -> None:
    found = read_of_sure(DECAYED[training], CURIOUS)
    assert len(found) == len(trained()[1])
    assert all(labels.certified and right for labels, right in found)


def test_a_withheld_decay_shows_in_the_weights() -> None:
    """The rows of the gradient sum to zero, those of the decay to the weights' own sums."""
    assert all(labels.certified and right for labels, right in read_of_sure(DECAYED["one step"], UNKNOWN))
    assert not any(labels.certified for labels, _ in read_of_sure(DECAYED["one step"], EAVESDROPPER))
    assert not any(labels.certified for labels, _ in read_of_sure(DECAYED["adam"], UNKNOWN))


@pytest.mark.parametrize("training", PLAIN)
def test_without_decay_the_sign_of_a_known_training_certifies(training: str) -> None:
    assert all(labels.certified and right for labels, right in read_of_sure(PLAIN[training], CURIOUS))


def test_a_withheld_training_certifies_one_gradient_alone() -> None:
    for training, who in itertools.product(("gradient", "one step"), (EAVESDROPPER, UNKNOWN)):
        found = read_of_sure(PLAIN[training], who)
        assert all(right for _, right in found)
        sure = training == "gradient" or who is UNKNOWN
        assert all(labels.certified == sure for labels, _ in found)


def test_velocity_of_an_earlier_round_is_not_certified() -> None:
    model, batch = trained()
    one = Batch(batch.inputs[:1], batch.labels[:1])
    fresh = LocalTraining.fedavg(lr=0.1, momentum=0.9)
    stale = LocalTraining.fedavg(lr=0.1, momentum=0.9, fresh_optimizer=False)
    seen = observed(model, one, training=fresh)
    assert Evidence(seen).sums_gradients
    carried = replace(seen, training=stale)
    assert not best(carried, generator=seeded()).certified
    assert not METHODS["soft"].infer(carried, generator=seeded()).certified


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_course_of_local_steps_is_torch_s(momentum: float) -> None:
    weight = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    gradients = torch.randn(4, generator=seeded(), dtype=torch.float64)
    descent = torch.optim.SGD([weight], lr=0.3, momentum=momentum, weight_decay=0.2)
    for gradient in gradients:
        weight.grad = gradient[None].clone()
        descent.step()
    course = course_of(LocalTraining.fedavg(lr=0.3, momentum=momentum, weight_decay=0.2, epochs=4), 1)
    moved = sum(share * float(g) for share, g in zip(course.shares, gradients.flip(0), strict=True))
    assert float(weight.detach()) == pytest.approx(course.kept * 2.0 - moved, abs=1e-12)


def test_signs_lost_to_rounding_are_not_certified() -> None:
    """Without a bias a third class's row is lost in the rounding of the others', and its sign with it."""
    for seed in range(40):
        model = initialized(
            nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 3, bias=False)), seed
        )
        with torch.no_grad():
            model.get_parameter("3.weight").mul_(400)
        batch = pictures(1, (1, 4, 4), classes=3, seed=seed)
        for labels, right in read(model, batch, PLAIN["gradient"], CURIOUS):
            assert right or not labels.certified


def test_an_absurd_example_certifies_no_label() -> None:
    """Two sure examples of a difference: the equations of the ReLU's layer hold to 25 errors for a wrong label too."""
    torch.manual_seed(76)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 2))
    with torch.no_grad():
        model.get_parameter("3.weight").mul_(30)
    batch = Batch(torch.randn(2, 1, 4, 4), torch.randint(0, 2, (2,)))
    found = best(observed(model, batch, training=PLAIN["one step"]), generator=seeded())
    assert found.labels.tolist() == [0, 1] or not found.certified


# ---- losses that are cross-entropy near ordinary outputs alone


def flooded(outputs: Tensor, labels: Tensor) -> Tensor:
    """Below 0.05 the gradient points the other way."""
    return (F.cross_entropy(outputs, labels) - 0.05).abs() + 0.05


def saturating(outputs: Tensor, labels: Tensor) -> Tensor:
    """Where the label's probability is below the epsilon the gradient is shorter than that of cross-entropy."""
    return -(outputs.softmax(1) + 1e-8).log().gather(1, labels[:, None]).mean()


def extreme(seed: int, count: int) -> tuple[nn.Module, Tensor]:
    """A model of two classes that is sure of most examples, and examples."""
    model = initialized(nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 2)), seed)
    with torch.no_grad():
        model.get_parameter("3.weight").mul_(40)
    return model, pictures(count, (1, 4, 4), classes=2, seed=seed).inputs


@pytest.mark.parametrize("threat", WHO, ids=lambda threat: threat.name)
@pytest.mark.parametrize("local", [False, True])
def test_a_flooded_loss_of_sure_examples_certifies_no_label(local: bool, threat: ThreatModel) -> None:
    training = LocalTraining.fedavg(lr=0.1, loss=flooded) if local else LocalTraining.fedsgd(loss=flooded)
    for seed in range(10):
        model, inputs = extreme(seed, 1)
        seen = observed(model, Batch(inputs, model(inputs).argmax(1)), training=training, threat=threat)
        for name in ("best", "sign", "soft"):
            with suppress(FedsealError):
                assert not METHODS[name].infer(seen, generator=seeded()).certified


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["best", "soft", "sign"])
def test_labels_that_an_epsilon_hides_are_not_certified(name: str, count: int) -> None:
    """Examples that the model gets wholly wrong, one alone and two."""
    hidden = 0
    for seed in range(30):
        model, inputs = extreme(seed, count)
        scores = model(inputs)
        labels = scores.argmin(1)
        costs = F.cross_entropy(scores, labels, reduction="none")
        hidden += bool(((costs > 16) & (costs < 30)).any())
        seen = observed(model, Batch(inputs, labels), training=LocalTraining.fedsgd(loss=saturating))
        with suppress(FedsealError):
            found = METHODS[name].infer(seen, generator=seeded())
            assert not found.certified or found.labels.tolist() == labels.sort().values.tolist()
    assert hidden > 3


# ---- best always counts


class _Centered(nn.Module):
    """Features that sum to zero, and a head with or without a bias."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(16, 12), nn.Linear(12, 5, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x.flatten(1))
        return F.linear(hidden - hidden.mean(1, keepdim=True), self.head.weight, self.head.bias)


WEIGHED = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0, 0.5, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("local", [0, 1, 5])
@pytest.mark.parametrize("loss", ["cross_entropy", WEIGHED])
@pytest.mark.parametrize("bias", [True, False])
def test_best_passes_on_to_a_method_that_reads_the_update(bias: bool, loss: nn.Module | str, local: int) -> None:
    batch = pictures(8, (1, 4, 4))
    training = LocalTraining.fedavg(lr=0.3, epochs=local, loss=loss) if local else LocalTraining.fedsgd(loss=loss)
    for threat in (CURIOUS, EAVESDROPPER):
        observation = observed(initialized(_Centered(bias=bias)), batch, training=training, threat=threat)
        if threat is EAVESDROPPER and local:  # how far the steps went is withheld, and no method goes without
            with pytest.raises(FedsealError, match="withholds"):
                best(observation, generator=seeded())
            continue
        found = best(observation, generator=seeded())
        assert len(found.labels) == len(batch)
        assert not found.certified or found.labels.tolist() == batch.labels.sort().values.tolist()


def test_best_says_what_no_method_can_go_without() -> None:
    headless = initialized(nn.Sequential(nn.Conv2d(1, 5, 4), nn.Flatten()))
    with pytest.raises(UnfitModel, match="no classification head"):
        best(observed(headless, pictures(3, (1, 4, 4))), generator=seeded())
