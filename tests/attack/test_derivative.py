"""Certificates stand on derivatives and on arithmetic: both must be the client's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from attack.test_certificate import certificate_of, claim, made
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.jacobian import linearized
from fedseal.attack.proof.certificate import certify
from fedseal.attack.proof.derivative import derivative_is_real
from fedseal.attack.proof.sensitivity import VISIBLE, _without_bias
from fedseal.modality.tabular import Continuous, Tabular
from fedseal.types import Candidate, Observation
from marks import slowly

Way = Callable[[Tensor], Tensor]


def table(columns: int, most: float = 8.0) -> Tabular:
    return Tabular(columns=tuple(Continuous(f"c{n}", -most, most) for n in range(columns)))


def standardized(x: Tensor) -> Tensor:
    with torch.no_grad():
        mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    return (x - mean) / deviation


def rounded_column(x: Tensor) -> Tensor:
    first = x[:, :1]
    return torch.cat([first + ((4 * first).round() / 4 - first).detach(), x[:, 1:]], 1)


FALSE: dict[str, Way] = {
    "standardized under no_grad": standardized,
    "a detached length": lambda x: x / x.norm(dim=1, keepdim=True).detach(),
    "8 bits": lambda x: torch.fake_quantize_per_tensor_affine(x, 16 / 255, 0, -128, 127),
    "one column rounded": rounded_column,
    "faint columns less a detached mean": lambda x: torch.cat(
        [x[:, :4], 0.01 * (x[:, 4:] - x[:, 4:].mean(1, keepdim=True).detach())], 1
    ),
    "clamped straight through": lambda x: x + (x.clamp(-1, 1) - x).detach(),
}
TRUE: dict[str, Way] = {
    "as it is": lambda x: x,
    "standardized": lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
    "in single precision": lambda x: x.float(),
    "clamped": lambda x: x.clamp(-1, 1),
}


class Fed(nn.Module):
    """A perceptron on what a function makes of rows of 8 columns."""

    def __init__(self, way: Way, act: nn.Module) -> None:
        super().__init__()
        self.way, self.net = way, nn.Sequential(nn.Linear(8, 24), act, nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.net(self.way(x))
        return made


def seen(model: nn.Module, inputs: Tensor, labels: Tensor, *, most: float = 8.0, loss: object = None) -> Observation:
    training = fs.LocalTraining.fedsgd() if loss is None else fs.LocalTraining.fedsgd(loss=loss)  # type: ignore[arg-type]
    update = fs.local_update(model, fs.Batch(inputs, labels), training=training)
    return fs.ThreatModel.honest_but_curious().observe(model, update, modality=table(inputs.shape[1], most))


def rows(count: int, columns: int, seed: int) -> Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed))


TAKE_LONG = ("faint columns less a detached mean", "one column rounded", "clamped straight through", "8 bits")


@pytest.mark.parametrize("way", FALSE)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_derivative_of_its_own_making_proves_nothing(way: str) -> None:
    for seed in range(3):
        inputs, labels = rows(1, 8, seed), torch.tensor([1])
        observation = seen(made(lambda: Fed(FALSE[way], nn.Tanh()), seed), inputs, labels)
        assert not derivative_is_real(Evidence.of(observation), Candidate(inputs, labels), 1e-6)
        assert certify(observation, claim(inputs, labels)).certain.tolist() == [False]


@pytest.mark.parametrize("seed", slowly(range(3), (1, 2)))
@pytest.mark.parametrize("way", slowly(FALSE, TAKE_LONG))
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_nothing_that_is_found_behind_such_a_derivative_is_certain(way: str, seed: int) -> None:
    observation = seen(made(lambda: Fed(FALSE[way], nn.Tanh()), seed), rows(1, 8, seed), torch.tensor([1]))
    found = certify(observation, fs.attack.auto(steps=8)(observation, generator=torch.Generator().manual_seed(0)))
    assert not bool(found.certain.any())


@pytest.mark.parametrize("act", [nn.Tanh(), nn.ReLU(), nn.GELU()])
@pytest.mark.parametrize("way", TRUE)
def test_an_honest_derivative_is_taken_for_one(way: str, act: nn.Module) -> None:
    for seed in range(3):
        inputs, labels = rows(3, 8, seed), torch.tensor([0, 1, 2])
        observation = seen(made(lambda: Fed(TRUE[way], act), seed), inputs, labels)
        assert derivative_is_real(Evidence.of(observation), Candidate(inputs, labels), 1e-6)


def test_black_pixels_at_the_kink_are_no_false_derivative() -> None:
    """Without a bias a black picture stands at the kink of the unit behind, where the derivative is neither side's."""
    net = made(lambda: nn.Sequential(nn.Linear(8, 24, bias=False), nn.LeakyReLU(0.2), nn.Linear(24, 3)))
    inputs, labels = rows(2, 8, 0), torch.tensor([0, 1])
    inputs[0] = 0.0
    assert derivative_is_real(Evidence.of(seen(net, inputs, labels)), Candidate(inputs, labels), 1e-6)


def in_bfloat16(net: nn.Module) -> Way:
    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            made: Tensor = net(x)
        return made.float()

    return run


def test_autocast_leaves_what_its_own_format_leaves() -> None:
    """The rows rounded to bfloat16 make the very same update, and are 0.02 away and more."""

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 3))

        def forward(self, x: Tensor) -> Tensor:
            return in_bfloat16(self.net)(x)

    for seed in range(3):
        inputs, labels = 20 * rows(1, 8, seed), torch.tensor([1])
        observation = seen(made(Cast, seed), inputs, labels, most=500.0)
        found = certify(observation, claim(inputs.bfloat16().float(), labels))
        assert found.certain.tolist() == [False]
        assert certificate_of(found).tolerance > 1e-4


@pytest.mark.parametrize("weight", [0.0, 1e-12])
def test_an_example_without_weight_leaves_the_others_certain(weight: float) -> None:
    inputs, labels = rows(3, 8, 0), torch.tensor([1, 0, 2])
    loss = nn.CrossEntropyLoss(weight=torch.tensor([weight, 1.0, 1.0]))
    net = made(lambda: nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)))
    found = certify(seen(net, inputs, labels, loss=loss), claim(inputs, labels))
    assert found.certain.tolist() == [True, False, True]


@pytest.mark.parametrize("columns", [8, 30, 60])
def test_the_bound_without_a_bias_is_below_the_whole_jacobian(columns: int) -> None:
    """Also where raw columns are large, so that a little of another direction undoes a move along the input."""
    for seed in range(6):
        for scale in (1.0, 50.0):
            inputs, labels = scale * rows(1, columns, seed), torch.tensor([seed % 3])
            net = made(lambda: nn.Linear(columns, 3, bias=False), seed)
            observation = seen(net, inputs, labels, most=3000.0)
            evidence, candidate = Evidence.of(observation), Candidate(inputs, labels)
            bound = _without_bias(evidence, candidate)
            there = linearized(evidence, candidate)
            exact = float(torch.linalg.svdvals(there.matrix())[-1]) * VISIBLE * columns**0.5 / there.norm
            assert bound is None or bound[0] <= 1.01 * exact


def test_sums_of_as_many_examples_as_classes_are_no_proof() -> None:
    """Four examples of four classes: a combination of all four vanishes where all their units are on, and passes."""
    for seed in range(3):
        net = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)), seed)
        inputs, labels = torch.rand(4, 16, generator=torch.Generator().manual_seed(seed)), torch.arange(4)
        update = fs.local_update(net, fs.Batch(inputs, labels), training=fs.LocalTraining.fedsgd())
        on = (net[1](inputs) > 0).double()
        signal = (net(inputs).softmax(1) - torch.eye(4)).detach().double()
        mixed = torch.linalg.svd((signal @ net[3].weight.detach().double() * on)[:, on.all(0).bool()].T)[2][-1]
        mixed = mixed / mixed[0]
        whole = torch.cat([inputs.double(), torch.ones(4, 1, dtype=torch.float64)], 1)
        whole[1:] -= mixed[1:, None] * whole[0]
        other = (whole[:, :-1] / whole[:, -1:]).float()
        for threat in ("eavesdropper", "unknown_training", "honest_but_curious"):
            for told in (labels, None):
                observer: fs.ThreatModel = getattr(fs.ThreatModel, threat)()
                observation = observer.observe(net, update, modality=table(16))
                assert not bool(certify(observation, claim(other, told)).certain.any()), (seed, threat)


@pytest.mark.parametrize(("classes", "count"), [(3, 3), (4, 4), (8, 4)])
def test_a_listener_is_never_certain_of_a_batch_that_is_another(classes: int, count: int) -> None:
    for seed in range(6):
        net = made(lambda: nn.Sequential(nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, classes)), seed)
        drawn = torch.Generator().manual_seed(seed)
        inputs, labels = (
            torch.rand(count, 36, generator=drawn),
            torch.randint(0, classes, (count,), generator=drawn),
        )
        update = fs.local_update(net, fs.Batch(inputs, labels), training=fs.LocalTraining.fedsgd())
        observation = fs.ThreatModel.eavesdropper().observe(net, update, modality=table(36))
        found = certify(observation, fs.attack.parse("spear")(observation, generator=torch.Generator().manual_seed(0)))
        for one in range(0 if found.inputs is None else len(found.inputs)):
            assert found.inputs is not None
            if bool(found.certain[one]):
                assert float((found.inputs[one] - inputs).square().mean(1).sqrt().min()) <= VISIBLE
