"""What a trace says of random numbers, and what a layer sees in a model of several formats."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedseal as fs
from fedseal.attack.evidence.structure import structure_of
from fedseal.attack.proof.certificate import certify
from fedseal.client import architecture
from fedseal.types import Observation, Outcome, Reconstruction

FEDSGD = fs.LocalTraining.fedsgd()


class Attention(nn.Module):
    """Self-attention over six places, as torch calls it without asking for its weights."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(48, 3)
        self.attend = nn.MultiheadAttention(8, 2, dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x[:, 0])
        out: Tensor = self.head((z + self.attend(z, z, z, need_weights=False)[0]).flatten(1))
        return out


class Drops(nn.Module):
    """A function with a chance of its own between two layers."""

    def __init__(self, p: float, function: str) -> None:
        super().__init__()
        self.one, self.head, self.p, self.function = nn.Linear(30, 8), nn.Linear(8, 3), p, function

    def forward(self, x: Tensor) -> Tensor:
        z = self.one(x.flatten(1))
        if self.function == "rrelu":
            z = F.rrelu(z, training=self.p > 0)
        elif self.function == "native":
            z = torch.native_dropout(z, self.p, True)[0]
        else:
            z = F.dropout(z, self.p, training=True)
        out: Tensor = self.head(z)
        return out


class Mixed(nn.Module):
    """A body in bfloat16 under a head in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(36, 40).to(torch.bfloat16), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x.flatten(1).to(torch.bfloat16)).relu().float())
        return out


def encoder(dropout: float = 0.0) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
    return nn.Sequential(nn.Flatten(1, 2), nn.Linear(5, 8), layer, nn.Flatten(), nn.Linear(48, 3))


def seen(model: nn.Module, batch: fs.Batch) -> Observation:
    _, channels, height, width = batch.inputs.shape
    update = fs.local_update(model, batch, training=FEDSGD)
    modality = fs.Image(shape=(channels, height, width))
    return fs.ThreatModel.honest_but_curious().observe(model, update, modality=modality)


def random_in(model: nn.Module) -> tuple[str, ...]:
    return structure_of(architecture(model).train(), (1, 6, 5)).random


@pytest.mark.parametrize("model", [encoder(), Attention()], ids=["encoder", "attention"])
def test_attention_without_dropout_draws_nothing(model: nn.Module) -> None:
    assert random_in(model) == ()
    batch = fs.Batch(torch.rand(1, 1, 6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([1]))
    claim = Reconstruction(batch.inputs, batch.labels, Outcome("exact", "truth", 0.0, 0, 0.0))
    found = certify(seen(model, batch), claim).certificate
    assert found is not None
    assert "random" not in found.note
    assert found.certain == (True,)


def test_attention_with_dropout_draws() -> None:
    assert random_in(Attention(0.1)) != ()
    assert random_in(encoder(0.1)) != ()


@pytest.mark.parametrize("function", ["dropout", "native", "rrelu"])
def test_a_function_draws_where_its_argument_says_so(function: str) -> None:
    assert random_in(Drops(0.0, function)) == ()
    assert random_in(Drops(0.5, function)) != ()


def test_an_update_of_several_formats_is_attacked_in_them() -> None:
    torch.manual_seed(0)
    batch = fs.Batch(torch.rand(2, 1, 6, 6), torch.tensor([1, 0]))
    found = fs.attack.auto(steps=24)(seen(Mixed(), batch), generator=torch.Generator().manual_seed(0))
    assert found.inputs is not None
