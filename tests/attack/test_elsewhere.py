"""Data far from a reconstruction that explain the update as well, though none nearby do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

import fedseal as fs
from fedseal import Batch, LocalTraining, Observation, Outcome, Reconstruction, ThreatModel, local_update
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.least_squares import steps_from
from fedseal.attack.proof.certificate import NONE_TO_SPARE, OUTSIDE, SCALED, SCALED_ALONE, SOLVED_ELSEWHERE, certify
from fedseal.attack.proof.elsewhere import to_spare
from fedseal.errors import Misfit, UnfitModel
from fedseal.modality.tabular import Continuous, Tabular
from fedseal.types import Candidate
from marks import slowly

SERVER, LISTENER = ThreatModel.honest_but_curious(), ThreatModel.eavesdropper()


def _table(columns: int, most: float = 3.0) -> Tabular:
    return Tabular(columns=tuple(Continuous(f"c{n}", -most, most) for n in range(columns)))


def _drawn(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _rows(count: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed)).clamp(-2.9, 2.9)


def _seen(
    model: nn.Module, inputs: Tensor, labels: Tensor, threat: ThreatModel = SERVER, loss: object = "cross_entropy"
) -> Observation:
    training = LocalTraining.fedsgd(loss=loss)  # type: ignore[arg-type]
    modality = (
        _table(inputs.shape[1])
        if inputs.ndim == 2
        else fs.Image(shape=(inputs.shape[1], inputs.shape[2], inputs.shape[3]))
    )
    update = local_update(model, Batch(inputs, labels), training=training)
    return threat.observe(model, update, modality=modality)


def _claimed(observation: Observation, inputs: Tensor, labels: Tensor) -> Reconstruction:
    return certify(observation, Reconstruction(inputs, labels, Outcome("exact", "by hand", 0.0, 0, 0.0)))


def _note(found: Reconstruction) -> str:
    assert found.certificate is not None
    return found.certificate.note


@pytest.mark.parametrize("seed", range(3))
def test_as_many_equations_as_unknowns_prove_nothing(seed: int) -> None:
    """A softmax of three classes without a bias hands out two equations a column, for the columns of two rows."""
    net = _drawn(lambda: nn.Sequential(nn.Linear(4, 3, bias=False)), seed)
    inputs, labels = _rows(2, 4, seed), torch.tensor([0, 1])
    observation = _seen(net, inputs, labels)
    assert to_spare(Evidence.of(observation), Candidate(inputs, labels), 1e-6) == 0
    found = _claimed(observation, inputs, labels)
    assert found.certain.tolist() == [False, False]
    assert NONE_TO_SPARE in _note(found)
    read = fs.attack.auto(steps=20)(observation, generator=torch.Generator().manual_seed(0))
    assert not bool(certify(observation, read).certain.any())


def test_equations_to_spare_are_counted() -> None:
    """With a bias there are two more: 3 x 5 entries, of which each column of five sums to zero over the classes."""
    net = _drawn(lambda: nn.Sequential(nn.Linear(4, 3)))
    inputs, labels = _rows(2, 4), torch.tensor([0, 1])
    observation = _seen(net, inputs, labels)
    assert to_spare(Evidence.of(observation), Candidate(inputs, labels), 1e-6) == 10 - 8
    assert _claimed(observation, inputs, labels).certain.tolist() == [True, True]


class Offset(nn.Module):
    """Two classes without a bias that is trained, and of which one is ahead all the same."""

    def __init__(self, ahead: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2, bias=False)
        self.register_buffer("ahead", torch.tensor([ahead, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(x.flatten(1)) + self.ahead
        return made


@pytest.mark.parametrize("margin", [0.1, 1.0, 1.1])
@pytest.mark.parametrize("ahead", [0.0, 0.2])
def test_one_picture_that_leaves_a_factor_open_is_certain_unless_a_valid_multiple_fits(
    margin: float, ahead: float
) -> None:
    """Two classes leave as many equations as unknowns, but d x^T leaves nothing open besides a factor s with
    s (1 - sigmoid(s m + b)) = 1 - sigmoid(m + b), for the margin m and the offset b.
    """
    net = _drawn(lambda: Offset(ahead))
    inputs = 0.4 * torch.rand(1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = net.layer(inputs.flatten(1))[0]  # type: ignore[operator]
        net.layer.weight *= margin / (logits[0] - logits[1])  # type: ignore[union-attr]

    def off(factor: float) -> float:
        return factor / (1 + math.exp(factor * margin + ahead)) - 1 / (1 + math.exp(margin + ahead))

    fits = any(off(factor) < 0 for factor in torch.linspace(1.001, 1 / float(inputs.max()), 10_000).tolist())
    found = _claimed(_seen(net, inputs, torch.tensor([0])), inputs, torch.tensor([0]))
    assert fits == (margin > 0.5)
    assert found.certain.tolist() == [not fits]
    assert (SCALED_ALONE in _note(found)) == fits


class Moved(nn.Module):
    """What a network makes of inputs whose zero lies at some place."""

    def __init__(self, net: nn.Module, center: float) -> None:
        super().__init__()
        self.net, self.center = net, center

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.net((x - self.center) / 0.5)
        return made


@pytest.mark.parametrize("center", [0.0, 0.4])
@pytest.mark.parametrize("head", ["two classes", "one output"])
def test_without_any_bias_a_scaled_row_gives_the_same_update(head: str, center: float) -> None:
    outputs, loss = (2, "cross_entropy") if head == "two classes" else (1, nn.BCEWithLogitsLoss())
    net = _drawn(lambda: nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, outputs, bias=False)))
    inputs = _rows(1, 8)
    moved = Moved(net, center)
    with torch.no_grad():
        scores = moved(inputs)
        margin = (scores.max() - scores.min() if outputs == 2 else scores.abs()).sum()
        net.get_parameter("2.weight").mul_(2.5 / margin)
    labels = scores.argmax(1) if outputs == 2 else (scores > 0).float()
    observation = _seen(moved, inputs, labels, loss=loss)
    factor = brentq(lambda t: t / (1 + math.exp(2.5 * t)) - 1 / (1 + math.exp(2.5)), 0.01, 0.5, xtol=1e-15)
    twin = _claimed(observation, center + factor * (inputs.double() - center), labels)
    assert twin.certificate is not None
    assert twin.certificate.residual < 1e-4
    for found in (twin, _claimed(observation, inputs, labels)):
        assert found.certain.tolist() == [False]
    assert SCALED in _note(_claimed(observation, inputs, labels))


def test_a_bias_tells_scaled_rows_apart() -> None:
    net = _drawn(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2, bias=False)))
    inputs, labels = _rows(1, 8), torch.tensor([1])
    assert _claimed(_seen(net, inputs, labels), inputs, labels).certain.tolist() == [True]


class Swish(nn.Module):
    """By hand."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


@pytest.mark.parametrize("fold", [nn.GELU, Swish])
def test_a_fold_has_two_preimages(fold: Callable[[], nn.Module]) -> None:
    """Behind a frozen square layer an activation gives one value for two, and all that is sent is behind it."""
    net = _drawn(lambda: nn.Sequential(nn.Linear(6, 6), fold(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)), 1)
    for parameter in net[0].parameters():  # type: ignore[index]
        parameter.requires_grad_(False)
    turned = torch.linalg.qr(_rows(6, 6))[0]
    net.get_parameter("0.weight").data.copy_(turned)
    net.get_parameter("0.bias").data.zero_()
    inputs, labels = torch.tensor([[-0.3, 0.5, -0.4, 0.2, 0.8, -0.2]]) @ turned, torch.tensor([1])
    found = _claimed(_seen(net, inputs, labels), inputs, labels)
    assert found.certain.tolist() == [False]
    assert SOLVED_ELSEWHERE in _note(found)


class Pooled(nn.Module):
    """Thirty entries by the head, which repeat two features, and eight by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 2, 3, padding=1), nn.Linear(2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.conv(x[:, None])).mean(2))
        return out


class Functional(nn.Module):
    """The same, whose layers are not called."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Pooled()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv, head = self.own.conv, self.own.head
        hidden = torch.tanh(nn.functional.conv1d(x[:, None], conv.weight, conv.bias, padding=1)).mean(2)
        return nn.functional.linear(hidden, head.weight, head.bias)


@pytest.mark.parametrize(("build", "width", "spare"), [(Pooled, 10, 0), (Pooled, 9, 1), (Functional, 10, 0)])
@pytest.mark.parametrize("seed", [0, 3])
def test_entries_that_repeat_a_few_numbers_are_no_more_equations(
    build: Callable[[], nn.Module], width: int, spare: int, seed: int
) -> None:
    """A false certificate as it was found: ten numbers show of ten values, which have several solutions."""
    torch.manual_seed(seed)
    net = build()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    inputs, labels = torch.randn(1, width).clamp(-2.9, 2.9), torch.tensor([seed])
    observation = _seen(net, inputs, labels)
    assert to_spare(Evidence.of(observation), Candidate(inputs, labels), 1e-6) == spare
    if not spare:
        found = _claimed(observation, inputs, labels)
        assert found.certain.tolist() == [False]
        assert NONE_TO_SPARE in _note(found)


@pytest.mark.parametrize("behind", [(), (nn.Tanh(),)])
def test_a_frozen_trunk_leaves_as_many_numbers_as_the_head_takes_in(behind: tuple[nn.Module, ...]) -> None:
    net = _drawn(lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6), *behind, nn.Linear(6, 3)), 1)
    for parameter in [*net[0].parameters(), *net[2].parameters()]:  # type: ignore[index]
        parameter.requires_grad_(False)
    inputs, labels = _rows(1, 6), torch.tensor([1])
    assert not _claimed(_seen(net, inputs, labels), inputs, labels).certain.any()


def test_a_row_without_a_bias_s_gradient_is_scaled_whatever_its_size() -> None:
    """More values than a Jacobian is worked out of; a bias that is not trained tells no size."""
    layer = nn.Linear(1089, 2)
    inputs = 0.2 + 0.2 * torch.rand(1, 1, 33, 33, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.2, 0.0]))
        layer.weight.div_((layer.weight[0] - layer.weight[1]) @ inputs.flatten())
    layer.bias.requires_grad_(False)
    net, labels = nn.Sequential(nn.Flatten(), layer), torch.tensor([0])
    update = fs.local_update(net, fs.Batch(inputs, labels), training=fs.LocalTraining.fedsgd())
    seen = fs.ThreatModel.honest_but_curious().observe(net, update, modality=fs.Image(shape=(1, 33, 33)))
    found = _claimed(seen, inputs, labels)
    assert found.certain.tolist() == [False]
    assert "scaled" in _note(found)


def test_what_lies_outside_the_valid_range_is_not_certain() -> None:
    net = _drawn(lambda: nn.Sequential(nn.Linear(6, 12, bias=False), nn.Tanh(), nn.Linear(12, 3)))
    inputs, labels = _rows(1, 6), torch.tensor([1])
    inputs[0, 0] = 3.5
    found = _claimed(_seen(net, inputs, labels), inputs, labels)
    assert found.certain.tolist() == [False]
    assert OUTSIDE in _note(found)


def test_outputs_that_change_places_take_their_targets_along() -> None:
    """One perceptron for each of two series: the series exchanged, with their targets, give the same update."""

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2))

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.net(x.view(-1, 6)).view(len(x), 4)
            return made

    inputs, labels = _rows(1, 12), _rows(1, 4, 1)
    observation = _seen(_drawn(Forecaster), inputs, labels, loss=nn.MSELoss())
    for rows, targets in ((inputs, labels), (inputs.roll(6, 1), labels.roll(2, 1))):
        found = _claimed(observation, rows, targets)
        assert found.certificate is not None
        assert found.certificate.residual < 1e-5
        assert found.certain.tolist() == [False]


@pytest.mark.parametrize("turns", slowly([1, 2, 3], [2, 3]))
def test_a_net_that_averages_over_quarter_turns_is_blind_to_them(turns: int) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 4))

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = sum(self.net(x.rot90(k, (2, 3))) for k in range(4))
            return made

    inputs = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2])
    observation = _seen(_drawn(Turned), inputs, labels)
    assert not bool(_claimed(observation, inputs.rot90(turns, (2, 3)), labels).certain.any())


@pytest.mark.parametrize("threat", [SERVER, LISTENER], ids=["server", "listener"])
def test_a_layer_whose_bias_is_used_twice_is_not_read_by_it(threat: ThreatModel) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.head(torch.relu(self.first(x) + self.first.bias))
            return made

    inputs, labels = _rows(1, 8), torch.tensor([1])
    observation = _seen(_drawn(Twice), inputs, labels, threat)
    found = certify(observation, fs.attack.auto(steps=8)(observation, generator=torch.Generator().manual_seed(0)))
    if bool(found.certain.any()):
        assert found.inputs is not None
        assert float((found.inputs - inputs).abs().max()) < 1e-2
    assert not (threat is LISTENER and bool(found.certain.any()))


def test_what_cannot_be_judged_is_refused_in_words() -> None:
    inputs, labels = _rows(2, 6), torch.tensor([1, 2])
    net = _drawn(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)))
    for threat in (SERVER, LISTENER):
        with pytest.raises(Misfit, match="shape"):
            _claimed(_seen(net, inputs, labels, threat), inputs[:, :3], labels)
    nothing = _claimed(_seen(net, inputs, labels), inputs[:0], labels[:0])
    assert nothing.outcome.status == "budget"


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_model_that_keeps_computed_tensors_is_refused_in_words() -> None:
    net = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(6, 8)), nn.Linear(8, 4))
    with pytest.raises(UnfitModel, match="cannot be copied"):
        _seen(net, _rows(1, 6), torch.tensor([1]))


@pytest.mark.slow
def test_a_model_that_draws_by_python_crashes_no_attack() -> None:
    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(8, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.head(torch.tanh(self.first(x * random.choice([-1, 1]))))
            return made

    before = random.getstate()
    try:
        for seed in range(6):
            random.seed(seed)
            observation = _seen(_drawn(Flipped), _rows(1, 8), torch.tensor([1]))
            fs.attack.auto(steps=4)(observation, generator=torch.Generator().manual_seed(0))
    finally:
        random.setstate(before)


def test_what_stands_beside_open_examples_may_move_where_these_go_far() -> None:
    """Two of four rows are fixed in the neighborhood of what is found, and are none of the truth: where the other two
    are elsewhere, a maximum takes other values and these are free (world 1794).
    """
    with torch.random.fork_rng():
        torch.manual_seed(4071)
        model = nn.Sequential(
            nn.Unflatten(1, (1, 2)),
            nn.Conv1d(1, 2, 2, padding=1),
            nn.LeakyReLU(0.2),
            nn.MaxPool1d(2),
            nn.Conv1d(2, 1, 1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1, 10),
        ).double()
        inputs, labels = torch.randn(4, 2).double(), torch.randint(10, (4,))
    update = local_update(model, Batch(inputs, labels), training=LocalTraining.fedsgd())
    seen = SERVER.observe(model, update, modality=_table(2, 8.0))
    # least squares end there, and on other kernels perhaps elsewhere, where nothing is certain either
    near = torch.tensor([[1.3890, 0.1018], [-1.1656, -0.4985], [0.8845, -0.2813], [-0.2303, 1.0403]]).double()
    *_, (end, _) = steps_from(Evidence.of(seen), Candidate(near, torch.tensor([1, 4, 5, 9])), 25)
    found = _claimed(seen, end.inputs, end.labels)
    assert found.certificate is not None
    assert found.certificate.residual <= found.certificate.tolerance
    assert _wrong(found, inputs) == 0


def _wrong(found: Reconstruction, truth: Tensor) -> int:
    """Certain examples that are none of the truth."""
    assert found.inputs is not None
    far = torch.cdist(found.inputs.double().flatten(1), truth.double().flatten(1)).amin(1) > 0.01
    return int((far & found.certain).sum())
