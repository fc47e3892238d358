"""Least squares from the end of a search: within the valid range, over kinks, across local steps; repeated examples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from attack.test_certificate import made
from attack.test_derivative import rows, table
from fedseal.attack.base import badness, better, conclude
from fedseal.attack.batch.repeats import Repeated, with_repeats
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.search.newton import Newton
from fedseal.attack.search.polish import _exchanged, hopped, polished
from fedseal.types import Candidate, Observation, Outcome, Reconstruction


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen(
    net: nn.Module, inputs: Tensor, labels: Tensor, training: fs.LocalTraining | None = None, modality: object = None
) -> Observation:
    training = training or fs.LocalTraining.fedsgd()
    update = fs.local_update(net, fs.Batch(inputs, labels), training=training)
    kind = table(inputs.shape[1]) if modality is None else modality
    return fs.ThreatModel.honest_but_curious().observe(net, update, modality=kind)  # type: ignore[arg-type]


def away(found: Reconstruction, inputs: Tensor) -> float:
    assert found.inputs is not None
    return float((found.inputs - inputs).square().mean().sqrt())


def test_steps_that_leave_the_range_stop_at_its_end_and_the_rest_is_solved_anew() -> None:
    """Black pixels and white ones: a step that is merely cut off ends before the truth."""
    kind = fs.Image(shape=(1, 4, 4))
    inputs = (torch.rand(1, 1, 4, 4, generator=seeded(1)) > 0.5).double()
    inputs[0, 0, 0] = torch.tensor([0.2, 0.4, 0.6, 0.8])
    net = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 5))).double()
    observation = seen(net, inputs, torch.tensor([2]), modality=kind)
    start = kind.project(inputs + 0.3 * torch.randn(inputs.shape, generator=seeded(3)))
    found = Newton(start, torch.tensor([2]), 60)(observation, generator=seeded())
    assert found.outcome.status == "converged"
    assert away(found, inputs) < 1e-6


def test_findings_are_yes_or_no_at_the_end() -> None:
    inputs, labels = rows(2, 6, 0).double(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    net = made(lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))).double()
    training = fs.LocalTraining.fedsgd(loss=nn.BCEWithLogitsLoss())
    observation = seen(net, inputs, labels, training)
    found = Newton(inputs + 1e-3, labels.clamp(5e-4, 1 - 5e-4))(observation, generator=seeded())
    assert found.labels is not None
    assert torch.equal(found.labels, labels)
    assert found.certain.tolist() == [True, True]


def test_a_unit_across_its_kink_is_reached() -> None:
    """From an end with one unit on the wrong side no step of least squares leads to the truth; a small move does."""
    reached = 0
    for seed in range(60):  # most ends are no such place
        inputs, labels = rows(3, 4, seed).double(), torch.tensor([0, 1, 2])
        net = made(lambda: nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 6)), seed).double()
        observation = seen(net, inputs, labels)
        start = inputs + 0.03 * torch.randn(inputs.shape, generator=seeded(seed + 50)).double()
        stuck = Newton(start, labels, 120)(observation, generator=seeded())
        found = hopped(Evidence.of(observation), stuck, seeded(), None)
        if not bool(stuck.certain.all()):
            reached += found is not None and bool(found.certain.all())
        if reached:
            break
    assert reached


def test_a_batch_of_many_values_is_finished_where_its_search_ended_close() -> None:
    """Five pictures, 960 values, by local steps; from farther away a search in descent's steps is left as it is."""
    kind = fs.Image(shape=(3, 8, 8))
    inputs, labels = torch.rand(5, 3, 8, 8, generator=seeded(1)), torch.tensor([1, 2, 4, 7, 9])
    net = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10)))
    observation = seen(net, inputs, labels, fs.LocalTraining.fedavg(lr=0.1, epochs=2), kind)
    evidence = Evidence.of(observation)
    for off, finishes in ((1e-4, True), (0.3, False)):
        start = kind.project(inputs + off * torch.randn(inputs.shape, generator=seeded(2)))
        end = conclude(observation, Candidate(start, labels), route="by hand", steps=0, started=0.0)
        found = polished(evidence, end, seeded(), None)
        assert (found is not None) == finishes
        if found is not None:
            assert found.outcome.status == "converged"
            assert away(found, inputs) < 1e-5


def test_an_example_that_stands_twice_is_reached_where_steps_crawl() -> None:
    """Under two labels: beside it one may go as the other comes, and the update changes by the square of that."""
    inputs, labels = rows(3, 6, 0)[[0, 0, 1]].double(), torch.tensor([0, 1, 2])
    net = made(lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))).double()
    observation = seen(net, inputs, labels)
    evidence = Evidence.of(observation)
    start = inputs + 1e-4 * torch.tensor([[1.0], [-1.0], [0.0]]).double()
    end = conclude(observation, Candidate(start, labels), route="by hand", steps=0, started=0.0)
    assert end.outcome.residual is not None
    assert end.certificate is not None
    assert end.outcome.residual > end.certificate.tolerance
    found = hopped(evidence, end, seeded(), None)
    assert found is not None
    assert away(found, inputs) < 1e-9
    assert found.certain.tolist() == [True, True, True]


def test_examples_of_different_steps_are_put_in_their_places() -> None:
    inputs, labels = rows(4, 5, 2).double(), torch.tensor([0, 1, 2, 3])
    net = made(lambda: nn.Linear(5, 6)).double()
    training = fs.LocalTraining.fedavg(lr=0.1, batch_size=2)
    observation = seen(net, inputs, labels, training)
    wrong = torch.tensor([2, 1, 0, 3])
    start = conclude(observation, Candidate(inputs[wrong], labels[wrong]), route="start", steps=0, started=0.0)
    assert not bool(start.certain.any())
    placed = _exchanged(Evidence.of(observation), start, seeded())
    assert placed is not None
    evidence = Evidence.of(observation)
    near = polished(evidence, start, seeded(), None) or start
    found = hopped(evidence, near, seeded(), None)
    assert found is not None
    assert found.certain.tolist() == [True] * 4


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 2, 1]])
def test_one_example_repeated_is_read_with_its_labels(labels: list[int]) -> None:
    inputs = rows(1, 6, 4).repeat(3, 1)
    net = made(lambda: nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)))
    observation = seen(net, inputs, torch.tensor(labels))
    found = Repeated()(observation, generator=seeded())
    assert away(found, inputs) < 1e-5
    assert found.labels is not None
    assert sorted(found.labels.tolist()) == sorted(labels)
    assert found.certain.tolist() == [len(set(labels)) > 1] * 3  # under one label they may move against each other
    assert away(fs.attack.auto(steps=8)(observation, generator=seeded()), inputs) < 1e-5


def test_fewer_examples_are_completed_only_if_that_explains_the_update() -> None:
    inputs, labels = rows(3, 6, 5), torch.tensor([0, 1, 1])
    inputs[2] = inputs[1]
    net = made(lambda: nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)))
    evidence = Evidence.of(seen(net, inputs, labels))
    two = Reconstruction(inputs[:2], labels[:2], Outcome("budget", "two", None, 0, 0.0))
    found = with_repeats(evidence, two, seeded())
    assert found is not None
    assert away(found, inputs) == 0.0
    other = Reconstruction(inputs[1:], labels[1:], Outcome("budget", "others", None, 0, 0.0))
    assert with_repeats(evidence, other, seeded()) is None


def test_below_the_arithmetic_a_smaller_residual_says_nothing() -> None:
    inputs, labels = rows(1, 6, 6), torch.tensor([1])
    net = made(lambda: nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 4)))
    observation = seen(net, inputs, labels)
    first, second = (
        conclude(observation, Candidate(inputs + off, labels), route=name, steps=0, started=0.0)
        for name, off in (("first", 2e-7), ("second", 0.0))
    )
    assert first.outcome.residual is not None
    assert second.outcome.residual == 0.0 < first.outcome.residual
    assert badness(first) == badness(second)
    assert better(first, second) is first


@pytest.mark.parametrize("seed", range(2))
def test_the_last_steps_look_at_the_whole_update(seed: int) -> None:
    """In units of each tensor's own size, what single precision left of small differences outweighs the rest."""
    inputs, labels = rows(4, 8, seed).float(), torch.tensor([0, 1, 2, 0])
    net = made(lambda: nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.LayerNorm(24), nn.Linear(24, 6)), seed).float()
    net.get_parameter("3.weight").data.mul_(30)
    observation = seen(net, inputs, labels, fs.LocalTraining.fedavg(lr=1e-3, epochs=2, momentum=0.9))
    start = inputs.double() + 0.01 * torch.randn(inputs.shape, generator=seeded(7)).double()
    found = Newton(start, labels, 30)(observation, generator=seeded())
    assert found.outcome.residual is not None
    assert found.outcome.residual < 3e-6  # 2e-5 without these steps
