"""What is kept of an exchange with clients of another framework, and what is said of the rest as it comes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.audit import recording
from fedseal.client import state_of
from fedseal.errors import BadConfig, UnknownName
from fedseal.federation import View
from fedseal.federation.foreign.exchange import Exchange
from fedseal.types import Batch, LocalTraining, Tensors

STEPS = LocalTraining.fedavg(lr=0.1, epochs=2)


class Tied(nn.Module):
    """As a language model has it: the matrix of the first layer is that of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.last.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.tanh(self.first(inputs)))
        return scores


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))


def client(model: nn.Module, training: LocalTraining, count: int = 4, width: int = 48) -> fs.Update:
    draw = torch.Generator().manual_seed(5)
    batch = Batch(torch.rand(count, width, generator=draw), torch.arange(count) % 3)
    return fs.local_update(model, batch, training=training)


def after(model: nn.Module, update: fs.Update) -> dict[str, Tensor]:
    """A state dict after the update."""
    own = dict(model.state_dict())
    moved = {n: own[n] + update.tensors.get(n, torch.tensor(0)) for n in own}
    return {**moved, **(update.buffers or {})}


def kept(folder: Path, state: Tensors, answer: Tensors, **facts: Any) -> fs.Update:
    exchange = Exchange(folder, None, facts.pop("training", None), facts.pop("sends", None))
    exchange.receives(exchange.sends(state, 1), "7", answer, 4, **facts)
    exchange.close()
    view = View.load(folder)
    (entry,) = view.entries
    assert (entry.party, entry.sender, entry.round, entry.weight) == ("the server", "7", 1, 4)
    return view.update(entry)


def gap(one: Tensors, other: Tensors) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def test_weights_become_their_difference_and_statistics_stay_as_they_came(tmp_path: Path) -> None:
    model = net()
    sent = client(model, STEPS)
    found = kept(tmp_path, model.state_dict(), after(model, sent))
    assert gap(found.tensors, sent.tensors) < 1e-7
    assert found.kind == "difference"
    assert found.buffers is not None
    assert sent.buffers is not None
    assert gap(found.buffers, sent.buffers) == 0


def test_a_difference_is_not_taken_for_weights(tmp_path: Path) -> None:
    model = net()
    sent = client(model, STEPS)
    answer = {n: t - model.state_dict()[n] for n, t in after(model, sent).items()}
    found = kept(tmp_path, model.state_dict(), answer)
    assert gap(found.tensors, sent.tensors) < 1e-7
    assert found.kind == "difference"
    assert found.buffers is not None
    assert sent.buffers is not None
    assert gap(found.buffers, sent.buffers) < 1e-6


@pytest.mark.parametrize("said", ["by the training", "by the user", "by the framework"])
def test_a_gradient_is_one_if_somebody_says_so(tmp_path: Path, said: str) -> None:
    model, training = net(), LocalTraining.fedsgd()
    sent = client(model, training)
    facts: dict[str, dict[str, object]] = {
        "by the training": {"training": training},
        "by the user": {"sends": "gradient"},
        "by the framework": {"kind": "gradient"},
    }
    found = kept(tmp_path, model.state_dict(), sent.tensors, **facts[said])
    assert gap(found.tensors, sent.tensors) == 0
    assert found.kind == "gradient"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_format_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {"w": torch.tensor([1.0, -2.0, 3.0], dtype=dtype)}
    found = kept(tmp_path, state, {"w": state["w"] + 0.5})
    assert found.tensors["w"].dtype == dtype
    assert found.tensors["w"].tolist() == [0.5, 0.5, 0.5]


def test_without_a_number_another_model_is_the_next_round(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path, None, None)
    for start in (1.0, 1.0, 2.0):
        state = {"w": torch.full((3,), start)}
        exchange.receives(exchange.sends(state, None), str(start), {"w": state["w"] + 0.1}, None)
        exchange.receives(exchange.sends(state, None), "8", {"w": state["w"] + 0.2}, None)
    exchange.close()
    view = View.load(tmp_path)
    assert [(entry.round, entry.sender) for entry in view.entries] == [(0, "1.0"), (0, "8"), (1, "2.0"), (1, "8")]
    assert [float(view.state(round)["w"][0]) for round in (0, 1)] == [1.0, 2.0]


class Masked(nn.Module):
    """With a mask of -inf, which a state dict holds."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()
        self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.inner(inputs) * torch.softmax(self.mask, 0)
        return scores


def test_a_mask_of_infinite_entries_stops_no_record(tmp_path: Path) -> None:
    """The answer "holds NaN or infinity", and nothing of it was kept."""
    model, update = Masked(), client(Masked(), STEPS)
    sent = dict(model.state_dict())
    found = kept(tmp_path, sent, after(model, update))
    assert "mask" not in found.tensors
    for name, tensor in update.tensors.items():
        assert float((found.tensors[name] - tensor).abs().max()) < 1e-6
    state = View.load(tmp_path).state(1)
    assert torch.equal(state["mask"], model.mask)
    assert torch.equal(recording.at(Masked(), state).get_buffer("mask"), model.mask)


START = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}


@pytest.mark.parametrize(
    ("answer", "facts", "said"),
    [
        ({"x": torch.ones(2)}, {}, "'x' (2,) is not of the model that was sent"),
        ({"w": torch.ones(3)}, {}, "'w' (3,) was sent as (2,)"),
        ({"w": torch.tensor([1.0, float("nan")])}, {}, "'w' holds NaN or infinity"),
        (START, {}, "zero everywhere"),
        ({"w": torch.tensor([0.1, 0.1])}, {"sends": "weights"}, "nearer to 0 than to the weights"),
        ({"w": torch.tensor([1.1, 2.1])}, {"kind": "difference"}, "nearer to the model that was sent than to 0"),
        (
            {"w": torch.tensor([1.1, 2.1])},
            {"training": LocalTraining.fedsgd()},
            "clients send weights, and the training named makes a gradient",
        ),
    ],
    ids=["foreign", "shape", "nan", "zero", "no weights", "no difference", "training"],
)
def test_what_cannot_be_kept_is_said_at_once_and_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: Tensors, facts: dict[str, Any], said: str
) -> None:
    exchange = Exchange(tmp_path, None, facts.pop("training", None), facts.pop("sends", None))
    for sender in ("1", "2"):
        exchange.receives(exchange.sends(START, 1), sender, answer, 4, **facts)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum(said in text for text in told) == 1
    assert len(told) == len(set(told))
    exchange.close()
    assert not list(tmp_path.iterdir())


def test_one_model_a_round_and_one_answer_a_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(tmp_path, None, None)
    other = {name: tensor + 1 for name, tensor in START.items()}
    for state, sender in ((START, "1"), (other, "2"), (START, "1"), (START, "3")):
        moved = {name: tensor + 0.1 for name, tensor in state.items()}
        exchange.receives(exchange.sends(state, 5), sender, moved, None)
    exchange.close()
    assert [entry.sender for entry in View.load(tmp_path).entries] == ["1", "3"]
    assert gap(View.load(tmp_path).state(5), START) == 0
    assert "sent different models" in caplog.text
    assert "answers twice" in caplog.text


def test_another_kind_is_refused(tmp_path: Path) -> None:
    sends: Any = "steps"
    with pytest.raises(UnknownName, match="kind of update"):
        Exchange(tmp_path, None, None, sends)


def test_a_senders_name_stays_one_file(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path / "seen", None, None)
    exchange.receives(exchange.sends(START, 1), "../../site", {"w": START["w"] + 0.1}, 4)
    exchange.close()
    (entry,) = View.load(tmp_path / "seen").entries
    assert View.load(tmp_path / "seen").update(entry).num_examples == 4
    assert [path.name for path in tmp_path.iterdir()] == ["seen"]


def audited(
    folder: Path, model: nn.Module, state: Tensors, keep: Callable[[str], bool], training: LocalTraining
) -> View:
    sent = fs.local_update(model, picture(), training=training)
    exchange = Exchange(folder, None, training)
    exchange.receives(exchange.sends(state, 1), "7", {n: t for n, t in sent.tensors.items() if keep(n)}, 1)
    exchange.close()
    return View.load(folder)


def picture() -> Batch:
    return fs.zoo.photos(size=4, num_classes=3)[:1]


def plain(seed: int) -> nn.Module:
    return fs.zoo.mlp(inputs=48, widths=(20,), num_classes=3, seed=seed)


@pytest.mark.parametrize("server", ["never has the head", "has the head, which stays frozen"])
def test_a_picture_is_read_where_the_last_layer_stays_at_the_client(
    tmp_path: Path, server: Literal["never has the head", "has the head, which stays frozen"]
) -> None:
    owner, training = plain(1), LocalTraining.fedsgd()
    first, head = [name for name in state_of(owner) if name.startswith("1.")], server != "never has the head"
    state = state_of(owner) if head else {name: state_of(owner)[name] for name in first}
    view = audited(tmp_path / "seen", owner, state, first.__contains__, training)
    record = recording.audit_recording(
        view,
        owner if head else plain(2),  # whoever audits knows the architecture, not the client's last layer
        lambda round, name: picture(),
        out=tmp_path / "out",
        attacks=("auto",),
        modality=fs.Image(shape=(3, 4, 4)),
    )
    (cell,) = record.cells
    assert ("state" in cell.knows) == head
    assert ("state" in record.header.config.knows["the server: updates"]) == head
    assert cell.scores is not None
    (scores,) = cell.scores.samples
    assert ({score.name: score.value for score in scores.scores}["psnr"] or 0) > 80


def test_tied_weights_are_one_tensor_at_the_audit(tmp_path: Path) -> None:
    model = Tied()
    state = dict(model.state_dict())
    assert "last.weight" in state
    view_of = {n: t + torch.full_like(t, 0.1) for n, t in state.items()}
    found = kept(tmp_path, state, view_of)
    assert set(found.tensors) == set(state)
    other = Tied()
    with torch.no_grad():
        other.first.weight.zero_()
    at = recording.at(other, View.load(tmp_path).state(1))
    assert gap(state_of(at), state_of(model)) == 0
    seen = fs.ThreatModel.unknown_training().observe(at, found, modality=fs.Image(shape=(1, 2, 3)))
    assert set(seen.rounds[0].update.tensors) == {"first.weight", "first.bias"}
    with pytest.raises(BadConfig, match="one tensor in the model, and hold different numbers"):
        recording.at(other, {**state, "last.weight": state["last.weight"] + 1})


def test_weights_are_no_gradient_whatever_the_audit_is_told(tmp_path: Path) -> None:
    kept(tmp_path, START, {name: tensor + 0.1 for name, tensor in START.items()})
    view = View.load(tmp_path)
    with pytest.raises(BadConfig, match="client 7 sent weights, and FedSGD makes a gradient"):
        view.update(view.entries[0], training=LocalTraining.fedsgd())
    assert view.update(view.entries[0], training=STEPS).training == STEPS
