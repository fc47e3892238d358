"""A server that sends clients models of their own, so that one update stands alone in a secure sum.

Pasquini, Francati and Ateniese, "Eluding secure aggregation in federated learning via model inconsistency", CCS 2022.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from federation.lying import LIES, VICTIM, Lying, LyingLink
from federation.small import reports
from fedseal.errors import EngineFailure
from fedseal.federation.federation import Calls, Federation
from fedseal.federation.owners import DataOwner, ModelOwner, gradient_step
from fedseal.federation.packing import ModelState, Packing, state_digest
from fedseal.federation.protocol import PROTOCOLS, Call
from fedseal.federation.report import RoundReport
from fedseal.secagg import SERVER
from fedseal.secagg.errors import CohortTooSmall
from fedseal.types import Batch, Tensors


def _net() -> nn.Module:
    return fs.zoo.mlp(inputs=6, widths=(5,), num_classes=3, activation="tanh", seed=0)


STATE: Tensors = dict(_net().named_parameters())


def _rows() -> Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


def _train(protocol: str, told: bool) -> tuple[list[RoundReport], list[Tensors]]:
    opened: list[Tensors] = []

    def keep(total: Tensors, weight: int, model: nn.Module) -> Tensors:
        opened.append(total)
        return dict(model.named_parameters())

    rows = _rows()
    owners = [
        DataOwner.holding(Batch(rows[place : place + 1], torch.tensor([place])), gradient_step()) for place in range(3)
    ]
    federation = Federation(ModelOwner(_net(), keep), owners, protocol)
    return reports(federation, 1, engine=Lying(told=told)), opened


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("protocol", ["sharing", "masking"])
def test_clients_with_other_weights_are_not_added_up(protocol: str, told: bool) -> None:
    (report,), opened = _train(protocol, told)
    assert opened == []
    assert report.clients == 0
    assert report.failure


@pytest.mark.parametrize(("lying", "least"), [(True, 0), (False, 100)])
@pytest.mark.parametrize("protocol", ["sharing", "masking"])
def test_of_100_rounds_with_lies_none_is_opened(protocol: str, least: int, *, lying: bool) -> None:
    """Every round from another model, with another lie, told or not."""
    rows = _rows()
    owners = [DataOwner.holding(Batch(rows[n : n + 1], torch.tensor([n])), gradient_step()) for n in range(3)]
    members = Federation(ModelOwner(_net()), owners, protocol).members()
    honest = Calls({number: members.party(number) for number in (*members.clients, *members.aggregators)})
    generator, size, opened = torch.Generator().manual_seed(0), Packing.of(_net()).size, 0
    for number in range(100):
        state = ModelState({n: t.detach() + torch.randn(t.shape, generator=generator) for n, t in STATE.items()})
        call = Call(members.pact, members.keys.identity(SERVER), members.clients, number, size, state)
        link = LyingLink(honest, number % 2 == 0, LIES[number % len(LIES)], state) if lying else honest
        try:
            PROTOCOLS[protocol].conduct(call, link)
        except (CohortTooSmall, EngineFailure):
            continue
        opened += 1
    assert opened == least


@pytest.mark.parametrize("protocol", ["sharing", "masking"])
def test_without_the_digest_the_row_comes_out(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedseal.federation.packing.state_digest", lambda state: bytes(32))
    _, opened = _train(protocol, told=False)
    weight, bias = (opened[0][name] for name in list(STATE)[:2])
    place = int(bias.abs().argmax())
    assert float((weight[place] / bias[place] - _rows()[VICTIM]).abs().max()) < 1e-3


@pytest.mark.parametrize("change", [{"a": torch.zeros(3)}, {"b": torch.zeros(2)}, {"a": torch.zeros(2).double()}])
def test_a_digest_tells_names_shapes_formats_and_bits(change: Tensors) -> None:
    base = {"a": torch.zeros(2), "c": torch.arange(3), "d": torch.tensor(1.5, dtype=torch.bfloat16)}
    other = {name: change.get(name, tensor) for name, tensor in base.items()} | dict(change)
    assert state_digest(base) == state_digest({name: base[name].clone() for name in reversed(base)})
    assert state_digest(other) != state_digest(base)
    assert state_digest({**base, "a": torch.tensor([0.0, -0.0])}) != state_digest(base)
    assert state_digest({**base, "d": base["d"].half()}) != state_digest(base)


@pytest.mark.parametrize("protocol", ["plain", "sharing", "masking"])
def test_a_model_in_half_precision_is_trained(protocol: str) -> None:
    rows = _rows().bfloat16()
    owners = [
        DataOwner.holding(Batch(rows[place : place + 1], torch.tensor([place])), gradient_step()) for place in range(3)
    ]
    trained = Federation(ModelOwner(_net().bfloat16(), learning_rate=0.5), owners, protocol).fit(2)
    assert [report.failure for report in trained.history] == ["", ""]
    assert {p.dtype for p in trained.model.parameters()} == {torch.bfloat16}
