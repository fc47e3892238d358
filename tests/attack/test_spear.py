"""A linear layer with a ReLU gives up its batch: on synthetic gradients, on networks; and where it must refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attack.cases import initialized, observed, pictures, seeded
from fedseal import Batch, LocalTraining, Observation, Progress, ThreatModel, local_update, zoo
from fedseal.attack.batch.spear import Spear
from fedseal.attack.equations.disaggregate import _Candidates, _independent, disaggregate
from fedseal.attack.evidence.structure import structure_of
from fedseal.client import architecture
from fedseal.modality.tabular import Continuous, Tabular
from laws.tables import facts, same, snapshot

SETTINGS = settings(max_examples=20, deadline=None, derandomize=True)
EAVESDROPPER = ThreatModel.eavesdropper()


def _made(count: int, units: int, inputs: int, seed: int, off: float = 0.5) -> tuple[Tensor, Tensor]:
    """Inputs `(count, inputs)` and sparse deltas `(count, units)`, straight from their definition."""
    generator = seeded(seed)
    x = torch.rand(count, inputs, generator=generator, dtype=torch.float64)
    deltas = torch.randn(count, units, generator=generator, dtype=torch.float64)
    return x, deltas * (torch.rand(count, units, generator=generator) >= off)


def _worst(found: Tensor, truth: Tensor) -> float:
    """The largest error of any true row against the found row nearest to it, each found row used once."""
    assert len(found) == len(truth)
    distances = torch.cdist(truth.double(), found.double())
    nearest = distances.argmin(1)
    assert len(set(nearest.tolist())) == len(truth)
    return float(distances.amin(1).max())


@SETTINGS
@given(st.integers(1, 8), st.integers(0, 2**16), st.sampled_from([torch.float32, torch.float64]))
def test_a_synthetic_batch_comes_apart(count: int, seed: int, dtype: torch.dtype) -> None:
    x, deltas = _made(count, 100, 30, seed)
    found = disaggregate((deltas.T @ x).to(dtype), deltas.sum(0).to(dtype), generator=seeded(seed))
    assert found.diagnostics.obstacle is None
    assert found.diagnostics.rank == found.diagnostics.directions == count
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    assert _worst(found.inputs, x) < tolerance
    assert _worst(found.deltas, deltas) < tolerance * 10
    assert found.diagnostics.residual is not None
    assert found.diagnostics.residual < tolerance


@pytest.mark.parametrize("seed", range(10))
def test_a_batch_of_two_has_few_zeros_among_the_live_rows(seed: int) -> None:
    """A third of the live rows at best: a fixed share of a half, or of 0.3 in bad luck, finds none."""
    x, deltas = _made(2, 40, 12, seed)
    found = disaggregate((deltas.T @ x).float(), deltas.sum(0).float(), generator=seeded(seed))
    assert _worst(found.inputs, x) < 1e-4
    assert max(found.diagnostics.zeros) < 0.5


def test_examples_that_are_on_together_nearly_always_still_come_apart() -> None:
    """Two pictures that differ by a few units only: five live rows in a hundred tell them apart."""
    x, deltas = _made(2, 200, 30, 0, off=0.05)
    found = disaggregate((deltas.T @ x).float(), deltas.sum(0).float(), generator=seeded())
    assert _worst(found.inputs, x) < 1e-3
    assert max(found.diagnostics.zeros) < 0.1


def test_dense_deltas_are_refused() -> None:
    """No zeros, no hyperplane: every direction that could be fitted is held up by its own rows only."""
    x, deltas = _made(4, 200, 30, 0, off=0.0)
    found = disaggregate(deltas.T @ x, deltas.sum(0), generator=seeded(), starts=256)
    assert len(found.inputs) == len(found.deltas) == 0
    assert found.diagnostics.directions == 0
    assert "0 of 4" in (found.diagnostics.obstacle or "")


def test_noise_far_above_rounding_is_measured_where_the_count_is_known() -> None:
    x, deltas = _made(4, 200, 60, 0)
    gradient = deltas.T @ x
    noisy = gradient + 1e-4 * torch.randn(gradient.shape, generator=seeded(1), dtype=torch.float64)
    noisy[~(gradient != 0).any(1)] = 0
    blind = disaggregate(noisy, deltas.sum(0), generator=seeded())
    assert "full rank" in (blind.diagnostics.obstacle or "")
    found = disaggregate(noisy, deltas.sum(0), generator=seeded(), count=4)
    assert _worst(found.inputs, x) < 2e-2


def test_a_direction_with_few_zeros_waits_until_nothing_better_is_found() -> None:
    directions = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1e-6]])
    directions = directions / directions.norm(dim=1, keepdim=True)
    candidates = _Candidates(directions, torch.tensor([100.0, 90.0, 40.0, 95.0]))
    assert _independent(candidates).tolist() == [0, 3, 2]
    assert _independent(candidates, 0.6).tolist() == [0, 3]


def test_a_common_null_vector_of_the_deltas_is_not_certified_without_the_weights() -> None:
    """Where as many examples as classes share one hidden layer, units that are always on bear out a false direction."""
    x, _ = _made(4, 300, 30, 0)
    generator = seeded(5)
    errors = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    on = torch.rand(4, 300, generator=generator) > 0.5
    on[:, :60] = True
    deltas = errors @ torch.randn(3, 300, generator=generator, dtype=torch.float64) * on
    found = disaggregate(deltas.T @ x, deltas.sum(0), generator=seeded())
    assert found.diagnostics.directions == 4
    assert found.diagnostics.candidates == 5
    assert _worst(found.inputs, x) < 1e-8


FASHION = zoo.fashion_mnist()


def _fashion(*places: int) -> Batch:
    return Batch(FASHION.inputs[list(places)], FASHION.labels[list(places)])


BATCHES = {
    "one": _fashion(3),
    "two": _fashion(0, 11),
    "two of one label": _fashion(2, 12),
    "eight, labels twice": _fashion(0, 1, 2, 3, 10, 11, 12, 13),
}


@pytest.mark.parametrize("threat", [ThreatModel.honest_but_curious(), EAVESDROPPER], ids=lambda threat: threat.name)
@pytest.mark.parametrize("case", BATCHES)
def test_a_float32_perceptron_gives_up_its_batch(case: str, threat: ThreatModel) -> None:
    batch = BATCHES[case]
    found = Spear()(observed(zoo.mlp(), batch, threat=threat), generator=seeded())
    assert found.inputs is not None
    assert found.inputs.shape == batch.inputs.shape
    assert found.inputs.dtype == torch.float32
    assert found.outcome.status == "exact"
    distances = torch.cdist(
        batch.inputs.flatten(1), found.inputs.flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    assert float(distances.amin(1).max()) < 28 * 1e-4  # root mean square of 1e-4 is 80 dB
    if threat is EAVESDROPPER:
        assert found.labels is None
        assert found.certificate is not None
        assert found.certificate.kind == "layer"
    else:
        assert found.labels is not None
        assert found.labels[distances.argmin(1)].tolist() == batch.labels.tolist()


def test_a_single_hidden_layer_and_a_batch_of_ten_classes() -> None:
    """Behind one hidden layer the deltas of ten examples and ten classes have a common null vector: a false direction
    that every row with all units on bears out.
    """
    batch = FASHION[:10]
    found = Spear()(observed(zoo.mlp(widths=(300,), seed=2), batch), generator=seeded())
    assert found.outcome.status == "exact"
    assert found.labels is not None
    assert sorted(found.labels.tolist()) == list(range(10))


def test_one_local_step_is_a_gradient() -> None:
    batch = BATCHES["eight, labels twice"]
    training = LocalTraining.fedavg(lr=0.1)
    found = Spear()(
        observed(initialized(zoo.mlp(widths=(150,))), _double(batch), training=training), generator=seeded()
    )
    assert found.inputs is not None
    assert _worst(found.inputs.flatten(1), batch.inputs.flatten(1)) < 1e-4


def _double(batch: Batch) -> Batch:
    return Batch(batch.inputs.double(), batch.labels)


def test_labels_of_another_loss_are_found_by_trying_them() -> None:
    def squared(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs - torch.nn.functional.one_hot(labels, outputs.shape[1])).square().mean()

    batch = BATCHES["two of one label"]
    found = Spear()(observed(zoo.mlp(), batch, training=LocalTraining.fedsgd(loss=squared)), generator=seeded())
    assert found.outcome.status == "exact"
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()


def test_class_probabilities_are_read_and_certified_by_who_has_the_weights() -> None:
    """Who knows more is told no less: no class explains such an update, and probabilities do."""
    torch.manual_seed(7)
    layers = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    inputs = torch.randn(4, 12).clamp(-2.9, 2.9)
    labels = nn.functional.one_hot(torch.tensor([1, 2, 3, 3]), 10) * 0.9 + 0.01
    table = Tabular(tuple(Continuous(f"t{column}", -3, 3) for column in range(12)))
    update = local_update(layers, Batch(inputs, labels), training=LocalTraining.fedsgd())
    for threat in (ThreatModel.honest_but_curious(), ThreatModel.eavesdropper()):
        found = Spear()(threat.observe(layers, update, modality=table), generator=seeded())
        assert found.inputs is not None
        assert found.certain.all()
        order = torch.cdist(inputs, found.inputs).argmin(1)
        assert torch.allclose(found.inputs[order], inputs, atol=1e-4)
        if threat.name == "honest_but_curious":
            assert found.labels is not None
            assert torch.allclose(found.labels[order], labels, atol=1e-4)


def test_an_inner_layer_gives_up_its_features() -> None:
    model, batch = zoo.mlp(widths=(120, 100)), FASHION[:5]
    update = observed(model, batch).update.tensors
    found = disaggregate(update["3.weight"], update["3.bias"], generator=seeded())
    with torch.no_grad():
        assert _worst(found.inputs, model[:3](batch.inputs)) < 1e-3


def _net(*layers: nn.Module) -> nn.Module:
    return initialized(nn.Sequential(nn.Flatten(), *layers))


THREE = pictures(3, shape=(1, 6, 6))
COPIES = Batch(THREE.inputs[[0, 0, 1]], THREE.labels[[0, 0, 1]])
STEPS = LocalTraining.fedavg(lr=0.1, epochs=2)
RELU = _net(nn.Linear(36, 40), nn.ReLU(), nn.Linear(40, 5))
REFUSED: dict[str, tuple[Observation, str]] = {
    "tanh": (observed(_net(nn.Linear(36, 40), nn.Tanh(), nn.Linear(40, 5)), THREE), "no ReLU follows"),
    "leaky": (observed(_net(nn.Linear(36, 40), nn.LeakyReLU(), nn.Linear(40, 5)), THREE), "no ReLU follows"),
    "head only": (observed(_net(nn.Linear(36, 40)), THREE), "no ReLU follows"),
    "no bias": (observed(_net(nn.Linear(36, 40, bias=False), nn.ReLU(), nn.Linear(40, 5)), THREE), "no bias"),
    "convolution": (
        observed(initialized(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))), THREE),
        "not fully connected",
    ),
    "local steps": (observed(RELU, THREE, training=STEPS), "several local steps"),
    "steps withheld": (
        observed(RELU, THREE, training=LocalTraining.fedavg(lr=0.1), threat=EAVESDROPPER),
        "that is withheld",
    ),
    "narrow": (observed(_net(nn.Linear(36, 3), nn.ReLU(), nn.Linear(3, 5)), pictures(9, shape=(1, 6, 6))), "rank"),
    "copies": (observed(RELU, COPIES), "has rank 2, and the batch holds 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_apart_is_refused_with_the_reason(case: str) -> None:
    observation, words = REFUSED[case]
    found = Spear()(observation, generator=seeded())
    assert (found.outcome.status, found.inputs, found.labels) == ("not_applicable", None, None)
    assert words in found.outcome.note


def test_a_batch_too_large_for_the_layer_says_what_draws_would_cost() -> None:
    model = _net(nn.Linear(36, 30), nn.ReLU(), nn.Linear(30, 5))
    found = Spear(starts=128)(observed(model, pictures(20, shape=(1, 6, 6))), generator=seeded())
    assert found.outcome.status == "not_applicable"
    assert "of 20 examples' directions" in found.outcome.note
    assert "2^19" in found.outcome.note


def test_an_update_of_another_net_behind_the_layer_is_not_certified() -> None:
    """The inputs come out right, since no weight was used for them, but the replay differs."""
    observation = observed(RELU, THREE)
    first = observation.rounds[0]
    assert first.state is not None
    state = {**first.state, "3.weight": first.state["3.weight"].flip(0)}
    found = Spear()(replace(observation, rounds=(replace(first, state=state),)), generator=seeded())
    assert found.outcome.status == "budget"
    assert found.inputs is not None
    assert _worst(found.inputs.flatten(1), THREE.inputs.flatten(1)) < 1e-6


def test_the_observation_is_untouched_and_the_generator_decides() -> None:
    observation = observed(zoo.mlp(widths=(100,)), BATCHES["eight, labels twice"])
    before, reports = snapshot(facts(observation)), list[Progress]()
    one = Spear()(observation, generator=seeded(3), progress=reports.append)
    two = Spear()(observation, generator=seeded(3))
    assert same(facts(observation), before)
    assert same([one.inputs, one.labels], [two.inputs, two.labels])
    assert replace(one.outcome, seconds=0.0) == replace(two.outcome, seconds=0.0)
    assert reports
    assert reports[-1].objective == 0


def test_the_structure_that_the_refusals_rest_on() -> None:
    assert [type(layer).__name__ for layer in structure_of(architecture(RELU), (1, 6, 6)).layers] == [
        "Reshape",
        "Linear",
        "Activation",
        "Linear",
    ]
