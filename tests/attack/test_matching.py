"""Gradient matching does what the papers' loops do, on any model whose loss can be differentiated twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attack.cases import FEDSGD, initialized, observed, pictures, psnr, seeded
from fedseal import Batch, LocalTraining, Observation, Progress, ThreatModel, zoo
from fedseal.attack import dlg, idlg, inverting_gradients
from fedseal.attack.labels import Inferred
from fedseal.attack.labels.sign import Sign
from fedseal.attack.search.init import grey
from fedseal.attack.search.label_source import Oracle
from fedseal.attack.search.matching import Adam, GradientMatching, Search
from fedseal.attack.search.objective import cosine_distance, layerwise_distance, squared_distance
from fedseal.errors import NotTwiceDifferentiable, UnfitBatch, UnknownToAdversary


def _lenet(seed: int = 0) -> nn.Module:
    return zoo.lenet(size=8, width=4, num_classes=5, seed=seed)


def _single(seed: int = 0) -> Batch:
    return pictures(seed=seed, dtype=torch.float32)


def test_dlg_is_the_published_loop() -> None:
    """Written after the paper: joint soft labels, squared distance, torch's L-BFGS."""
    model, batch = _lenet(), _single()
    parameters = list(model.parameters())
    truth = torch.autograd.grad(F.cross_entropy(model(batch.inputs), batch.labels), parameters)
    generator = seeded(7)
    inputs = torch.randn(1, 3, 8, 8, generator=generator).requires_grad_()
    logits = torch.randn(1, 5, generator=generator).requires_grad_()
    optimizer = torch.optim.LBFGS([inputs, logits])
    history: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -(logits.softmax(-1) * F.log_softmax(model(inputs), -1)).sum(-1).mean()
        grads = torch.autograd.grad(loss, parameters, create_graph=True)
        total: Tensor = torch.stack([(g - t).pow(2).sum() for g, t in zip(grads, truth, strict=True)]).sum()
        total.backward(inputs=[inputs, logits])  # type: ignore[no-untyped-call]
        return total.detach()

    for _ in range(3):
        history.append(optimizer.step(closure).item())  # type: ignore[no-untyped-call]
    seen: list[Progress] = []
    found = dlg(steps=3)(observed(model, batch), generator=seeded(7), progress=seen.append)
    assert [report.objective for report in seen] == pytest.approx(history, rel=1e-3)
    assert found.inputs is not None
    torch.testing.assert_close(found.inputs, inputs.detach(), rtol=1e-2, atol=1e-3)
    assert found.outcome.steps == 3


def test_inverting_gradients_is_the_published_loop() -> None:
    """Written after the paper: label from the head, cosine, total variation, Adam on signs, step decay, box."""
    model, batch, steps = _lenet(), _single(), 8
    parameters = list(model.parameters())
    truth = torch.autograd.grad(F.cross_entropy(model(batch.inputs), batch.labels), parameters)
    inputs = torch.randn(1, 3, 8, 8, generator=seeded(7)).requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=0.1)
    history = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.1 ** sum(step / steps >= edge for edge in (0.375, 0.625, 0.875))
        grads = torch.autograd.grad(F.cross_entropy(model(inputs), batch.labels), parameters, create_graph=True)
        flat, target = (torch.cat([g.flatten() for g in side]) for side in (grads, truth))
        across = (inputs[..., 1:] - inputs[..., :-1]).abs().mean()
        down = (inputs[..., 1:, :] - inputs[..., :-1, :]).abs().mean()
        total = 1 - F.cosine_similarity(flat, target, dim=0) + 1e-2 * (across + down)
        inputs.grad = torch.autograd.grad(total, inputs)[0].sign()
        optimizer.step()
        with torch.no_grad():
            inputs.clamp_(0, 1)
        history.append(total.item())
    seen: list[Progress] = []
    found = inverting_gradients(steps=steps)(observed(model, batch), generator=seeded(7), progress=seen.append)
    assert [report.objective for report in seen] == pytest.approx(history, rel=1e-4)
    assert found.inputs is not None
    torch.testing.assert_close(found.inputs, inputs.detach(), rtol=1e-4, atol=1e-4)


def test_idlg_moves_the_picture_alone_with_the_right_label() -> None:
    model, batch = _lenet(), _single()
    found = idlg(steps=20)(observed(model, batch), generator=seeded(1))
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()


class Attention(nn.Module):
    """Multi-head attention over rows of pixels, through torch's own module or its fused function."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.attention = nn.MultiheadAttention(24, 2, batch_first=True)
        self.head = nn.Linear(24 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1).view(len(x), 8, 24)
        if self.fused:
            mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
        else:
            mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        out: Tensor = self.head((tokens + mixed).flatten(1))
        return out


def _models() -> dict[str, tuple[nn.Module, LocalTraining]]:
    train, evaluate = LocalTraining.fedsgd(), LocalTraining.fedsgd(mode="eval")
    resnet = zoo.resnet(width=4, blocks=(1, 1), num_classes=5)
    return {
        "batch norm, train": (resnet, train),
        "batch norm, eval": (resnet, evaluate),
        "batch norm, local steps": (resnet, LocalTraining.fedavg(lr=0.05, epochs=2)),
        "vit": (zoo.vit(size=8, width=16, depth=1, heads=2, num_classes=5), train),
        "max pooling": (zoo.convnet(size=8, width=4, num_classes=5), train),
        "multi-head attention": (initialized(Attention(False), dtype=torch.float32), train),
        "fused attention": (initialized(Attention(True), dtype=torch.float32), train),
        "dropout": (
            nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 5)),
            evaluate,
        ),
    }


@pytest.mark.parametrize("name", _models())
def test_a_few_steps_lower_the_objective(name: str) -> None:
    model, training = _models()[name]
    batch = pictures(2, dtype=torch.float32)
    seen: list[Progress] = []
    attack = GradientMatching("m", init=grey, objective=cosine_distance, optimizer=Adam(lr=0.05), steps=15, box=True)
    found = attack(observed(model, batch, training=training), generator=seeded(), progress=seen.append)
    assert seen[-1].objective < 0.9 * seen[0].objective
    assert found.inputs is not None
    assert found.inputs.shape == batch.inputs.shape
    assert found.outcome.status == "budget"


class Opaque(torch.autograd.Function):
    """A square whose author forbade second derivatives."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        slope: Tensor = 2 * x * grad
        return slope


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(192, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(Opaque.apply(self.body(x.flatten(1))))  # type: ignore[no-untyped-call]
        return out


class Distances(nn.Module):
    """Distances to learned prototypes, whose backward pass torch cannot differentiate."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes, self.head = nn.Parameter(torch.rand(1, 4, 24, generator=seeded())), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cdist(x.reshape(len(x), 8, 24), self.prototypes).flatten(1))
        return out


@pytest.mark.parametrize("model", [Custom(), Distances()], ids=["once differentiable", "no formula"])
def test_a_loss_without_second_derivative_is_refused_with_what_to_switch(model: nn.Module) -> None:
    """Torch itself drops the part of a once-differentiable operator where only the inputs are asked for."""
    with pytest.raises(NotTwiceDifferentiable, match=r"cannot be differentiated twice.*eager"):
        dlg(steps=3)(observed(model, _single()), generator=seeded())


@pytest.mark.parametrize("part", ["objective", "prior"])
@pytest.mark.parametrize("error", [TypeError, RuntimeError, ValueError, IndexError])
def test_a_fault_of_our_own_objective_or_prior_stays_a_crash(part: str, error: type[Exception]) -> None:
    """It used to be told as a batch that does not fit."""

    def fault(*_: object) -> Tensor:
        raise error("a fault of our own")

    broken = (
        GradientMatching("m", objective=fault) if part == "objective" else GradientMatching("m", priors=((1.0, fault),))
    )
    with pytest.raises(error, match="a fault of our own"):
        replace(broken, steps=2)(observed(_lenet(), _single()), generator=seeded())


STEPS = LocalTraining.fedavg(lr=0.1, epochs=2)  # after several, the head's rank no longer counts examples


def _withheld(*facts: str) -> ThreatModel:
    return ThreatModel("less", ThreatModel.honest_but_curious().grants - set(facts))


REFUSED: dict[str, tuple[Callable[[], Observation], GradientMatching, type[Exception], str]] = {
    "weights": (
        lambda: observed(_lenet(), _single(), threat=_withheld("state")),
        GradientMatching("m"),
        UnknownToAdversary,
        "weights",
    ),
    "training": (
        lambda: observed(_lenet(), _single(), threat=_withheld("training")),
        GradientMatching("m"),
        UnknownToAdversary,
        "local training",
    ),
    "batch size": (
        lambda: observed(_lenet(), _single(), training=STEPS, threat=_withheld("num_examples")),
        GradientMatching("m"),
        UnknownToAdversary,
        "batch size",
    ),
    "true labels": (
        lambda: observed(_lenet(), _single()),
        GradientMatching("m", labels=Oracle()),
        UnknownToAdversary,
        "takes the true labels",
    ),
    "two labels at once": (
        lambda: observed(_lenet(), pictures(2, dtype=torch.float32)),
        GradientMatching("m", labels=Inferred(Sign())),
        UnfitBatch,
        "the batch holds 2 examples",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_needed_and_withheld_is_named_before_work_starts(case: str) -> None:
    build, attack, error, words = REFUSED[case]
    seen: list[Progress] = []
    with pytest.raises(error, match=words):
        attack(build(), generator=seeded(), progress=seen.append)
    assert seen == []


def test_an_oracle_hands_the_true_labels_on() -> None:
    batch = pictures(3, dtype=torch.float32)
    observation = observed(_lenet(), batch, threat=ThreatModel.oracle())
    found = GradientMatching("m", labels=Oracle(), steps=2)(observation, generator=seeded())
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()


def test_several_rounds_are_matched_together() -> None:
    """Two updates of one picture at different weights; starting at the truth, both agree at once."""
    batch = _single()
    parts = [observed(_lenet(seed), batch) for seed in (0, 1)]
    both = replace(parts[0], rounds=(*parts[0].rounds, *parts[1].rounds))
    seen: list[Progress] = []
    attack = GradientMatching("m", labels=Inferred(Sign()), start=batch.inputs, optimizer=Adam(lr=0.0), steps=1)
    attack(both, generator=seeded(), progress=seen.append)
    assert seen[0].objective < 1e-9
    mixed = replace(parts[0], rounds=(parts[0].rounds[0], replace(parts[1].rounds[0], state=parts[0].state)))
    attack(mixed, generator=seeded(), progress=seen.append)
    assert seen[1].objective > 1e-3


def test_an_objective_that_is_not_finite_ends_as_diverged_without_a_picture() -> None:
    attack = GradientMatching("m", labels=Inferred(Sign()), optimizer=Adam(lr=float("inf")), steps=9)
    found = attack(observed(_lenet(), _single()), generator=seeded())
    assert (found.outcome.status, found.inputs) == ("diverged", None)
    assert found.outcome.steps < 9


def test_a_target_stops_the_search_and_coordinates_move_the_start() -> None:
    batch = _single()
    observation = observed(_lenet(), batch)
    near = batch.inputs + 0.01
    attack = GradientMatching(
        "m", labels=Inferred(Sign()), start=near, coordinates=lambda unit: 0.0 * unit, steps=50, target=1e9
    )
    found = attack(observation, generator=seeded())
    assert found.outcome.steps == 1
    assert found.inputs is not None
    torch.testing.assert_close(found.inputs, near)


def test_the_search_is_in_the_dtype_asked_for_and_answers_in_the_updates() -> None:
    batch = _single()
    seen: list[Progress] = []
    attack = GradientMatching("m", labels=Inferred(Sign()), steps=2, dtype=torch.float64)
    found = attack(observed(_lenet(), batch), generator=seeded(), progress=seen.append)
    assert seen[0].inputs is not None
    assert seen[0].inputs.dtype == torch.float64
    assert found.inputs is not None
    assert found.inputs.dtype == torch.float32


def test_a_tiny_smooth_network_is_recovered_by_dlg_from_a_near_start() -> None:
    """An end that counts: the picture, not only the objective."""
    batch = _single()
    observation = observed(_lenet(), batch, training=FEDSGD)
    attack = GradientMatching("m", labels=Inferred(Sign()), start=batch.inputs + 0.05, steps=60)
    found = attack(observation, generator=seeded())
    assert psnr(found, batch) > 35


def test_a_search_goes_on_in_a_new_stage_from_where_it_stands() -> None:
    batch = pictures()
    observation = observed(initialized(zoo.lenet(size=8, width=4, num_classes=5)), batch)
    attack = GradientMatching("staged", labels=Inferred(Sign()), objective=squared_distance, steps=3)
    search = Search(attack, observation, seeded())
    search.advance(3)
    before = search.found().inputs.clone()
    search.go_on(replace(attack, objective=layerwise_distance, optimizer=Adam(lr=0.0), steps=2))
    search.advance(99)
    assert search.done == 5
    assert torch.equal(search.found().inputs, before)
    assert torch.equal(torch.stack([t.norm() for t in search.predicted(0)]) > 0, torch.ones(8, dtype=torch.bool))
