"""What may be called certain in a batch in which other examples are open."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.attack.proof import elsewhere
from fedseal.attack.proof.certificate import NONE_TO_SPARE, SOLVED_ELSEWHERE, certify
from fedseal.modality.tabular import Continuous, Tabular
from fedseal.types import Candidate


def _net(seed: int, hidden: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3))


def _claimed(net: nn.Module, inputs: Tensor, labels: Tensor, claim: Tensor) -> fs.Reconstruction:
    modality = Tabular(columns=tuple(Continuous(f"c{n}", -3, 3) for n in range(inputs.shape[1])))
    update = fs.local_update(net, fs.Batch(inputs, labels), training=fs.LocalTraining.fedsgd())
    observation = fs.ThreatModel.honest_but_curious().observe(net, update, modality=modality)
    return certify(observation, fs.Reconstruction(claim, labels, fs.Outcome("converged", "by hand", 0.0, 0, 0.0)))


def _rows(seed: int, count: int) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)).clamp(-2.9, 2.9)


@pytest.mark.parametrize("seed", range(4))
def test_an_example_that_stands_twice_leaves_the_others_certain(seed: int) -> None:
    """To first order one of the two may move as far as the other moves back, and the update stays."""
    inputs, labels = _rows(seed, 4)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 2])
    found = _claimed(_net(seed, 12), inputs, labels, inputs)
    assert found.certain.tolist() == [True, True, False, False]
    assert found.outcome.status == "budget"


def _softmax(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow
def test_without_equations_to_spare_other_starts_must_lead_back(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax's update has ten independent values; with one of two equal rows moved freely, twelve are sought."""
    inputs, labels = _rows(seed, 3)[[0, 1, 1]], torch.tensor([0, 1, 1])
    assert _claimed(_softmax(seed), inputs, labels, inputs).certain.tolist() == [True, False, False]
    monkeypatch.setattr(elsewhere, "AGREEING", 2 * elsewhere.STARTS + 1)  # more than there are starts
    found = _claimed(_softmax(seed), inputs, labels, inputs)
    assert found.certificate is not None
    assert found.certificate.sensitivity[0] > 1e3 * found.certificate.tolerance  # nothing nearby gives the same
    assert NONE_TO_SPARE in found.certificate.note
    assert not bool(found.certain.any())


def test_where_a_start_leads_to_another_example_none_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = _rows(0, 3)[[0, 1, 1]], torch.tensor([0, 1, 1])
    moved = Candidate(inputs + torch.tensor([[0.1], [0.0], [0.0]]), labels)
    monkeypatch.setattr(elsewhere, "_ends", lambda *_: [Candidate(inputs, labels)] * 3 + [moved])
    found = _claimed(_softmax(0), inputs, labels, inputs)
    assert found.certificate is not None
    assert SOLVED_ELSEWHERE in found.certificate.note
    assert not bool(found.certain.any())


def test_where_none_is_open_starts_prove_nothing() -> None:
    """As many equations as values: each solution is alone in its neighborhood, and others are not told by starts."""
    inputs, labels = _rows(0, 2), torch.tensor([0, 1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3, bias=False))
    found = _claimed(net, inputs, labels, inputs)
    assert found.certificate is not None
    assert NONE_TO_SPARE in found.certificate.note
    assert not bool(found.certain.any())
