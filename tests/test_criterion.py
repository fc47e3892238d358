"""What a loss computes is settled by trying it: laws over a table of losses, and what is not known is said to be so."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedseal.criterion import Criterion, Link, fingerprint, form_of, settle_loss

W = torch.tensor([1.0, 2.0, 0.5, 3.0])
Loss = Callable[[Tensor, Tensor], Tensor]


def smoothed_by_hand(outputs: Tensor, labels: Tensor) -> Tensor:
    targets = 0.9 * F.one_hot(labels, 4).to(outputs) + 0.1 / 4
    return -(targets * outputs.log_softmax(-1)).sum(1).mean()


CLASSES: dict[str, tuple[str | Loss, str, float, float]] = {  # the loss, its reduction, factor and smoothing
    "name": ("cross_entropy", "mean", 1, 0),
    "function": (F.cross_entropy, "mean", 1, 0),
    "module": (nn.CrossEntropyLoss(), "mean", 1, 0),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), "sum", 1, 0),
    "weights": (nn.CrossEntropyLoss(weight=W), "weights", 1, 0),
    "weights, float64": (nn.CrossEntropyLoss(weight=W.double()), "weights", 1, 0),
    "weights, sum": (nn.CrossEntropyLoss(weight=W, reduction="sum"), "sum", 1.625, 0),
    "weights by hand": (lambda o, y: (F.cross_entropy(o, y, reduction="none") * W.to(o)[y]).mean(), "mean", 1.625, 0),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), "mean", 1, 0.1),
    "smoothing by hand": (smoothed_by_hand, "mean", 1, 0.1),
    "weights, smoothing": (nn.CrossEntropyLoss(weight=W, label_smoothing=0.1), "weights", 1, 0.1),
    "partial": (partial(F.cross_entropy, reduction="sum", label_smoothing=0.2), "sum", 1, 0.2),
    "scaled": (lambda o, y: 1024 * F.cross_entropy(o, y), "mean", 1024, 0),
}
ROWS: dict[str, tuple[str | Loss, str, str]] = {  # the loss, its kind and reduction
    "bce": ("bce", "bce", "mean"),
    "bce by its long name": ("binary_cross_entropy", "bce", "mean"),
    "bce, sum": (nn.BCEWithLogitsLoss(reduction="sum"), "bce", "sum"),
    "bce, weights of positives": (nn.BCEWithLogitsLoss(pos_weight=W), "bce", "mean"),
    "bce, weights": (nn.BCEWithLogitsLoss(weight=W), "bce", "mean"),
    "bce, summed over outputs": (
        lambda o, y: F.binary_cross_entropy_with_logits(o, y, reduction="none").sum(1).mean(),
        "bce",
        "mean",
    ),
    "mse": ("mse", "mse", "mean"),
    "mse, sum": (nn.MSELoss(reduction="sum"), "mse", "sum"),
    "mse, halved": (lambda o, y: 0.5 * (o - y).square().sum(1).mean(), "mse", "mean"),
    "mse, weights": (lambda o, y: (W.to(o) * (o - y).square()).mean(), "mse", "mean"),
}
COLUMNS: dict[str, tuple[Loss, str, Link, str]] = {  # of one output: the loss, its kind, the model's link, the form
    "bce": (F.binary_cross_entropy_with_logits, "bce", (), "rows"),
    "bce, squeezed": (lambda o, y: F.binary_cross_entropy_with_logits(o.squeeze(1), y), "bce", (), "column"),
    "bce, of whole numbers": (lambda o, y: F.binary_cross_entropy_with_logits(o[:, 0], y.to(o)), "bce", (), "column"),
    "bce, a model without an axis": (F.binary_cross_entropy_with_logits, "bce", ("column",), "column"),
    "bce, of probabilities": (F.binary_cross_entropy, "bce", ("sigmoid", "column"), "column"),
    "mse": (F.mse_loss, "mse", (), "rows"),
    "mse, squeezed": (lambda o, y: F.mse_loss(o[:, 0], y), "mse", (), "column"),
    "mse, broadcast in silence": (lambda o, y: (o - y).square().mean(), "mse", (), "rows"),
}


def gradient(loss: str | Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """By torch, in float32 as a client computes."""
    names: dict[str, Loss] = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
    function = names.get(loss, F.binary_cross_entropy_with_logits) if isinstance(loss, str) else loss
    leaf = outputs.clone().requires_grad_()
    return torch.autograd.grad(function(leaf, targets), leaf)[0].double()


def drawn(count: int, outputs: int, seed: int = 9) -> Tensor:
    return 2 * torch.randn(count, outputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CLASSES)
def test_cross_entropy_in_any_spelling_is_settled(name: str) -> None:
    loss, reduction, factor, smoothing = CLASSES[name]
    found = settle_loss(loss, 4)
    assert (found.kind, found.reduction) == ("cross_entropy", reduction)
    assert (found.factor, found.smoothing) == pytest.approx((factor, smoothing), abs=1e-5)
    assert found.forms == ("classes",)
    assert found.classes


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("count", [1, 4])
def test_the_closed_form_is_the_gradient_and_its_inverse_gives_the_labels(name: str, count: int) -> None:
    if isinstance(CLASSES[name][0], nn.Module) and "float64" in name:
        pytest.skip("such weights take no float32")
    loss, found, labels = CLASSES[name][0], settle_loss(CLASSES[name][0], 4), torch.tensor([3, 1, 1, 0])[:count]
    outputs = drawn(count, 4)
    signal = gradient(loss, outputs, labels)
    torch.testing.assert_close(found.signal(outputs, labels), signal, rtol=1e-4, atol=1e-7 * float(signal.abs().max()))
    for norm in (float(found.norm(labels)), "free"):
        reading = found.read(outputs, signal, norm)
        assert reading.targets.tolist() == labels.tolist()
        assert float(reading.misfit.max()) < 1e-4
    if count == 1:
        assert found.read(outputs, signal, "own").targets.tolist() == labels.tolist()


@pytest.mark.parametrize("name", ROWS)
def test_losses_of_rows_are_settled_and_inverted(name: str) -> None:
    loss, kind, reduction = ROWS[name]
    found, outputs = settle_loss(loss, 4), drawn(5, 4)
    targets = (drawn(5, 4, 3) > 0).float() if kind == "bce" else drawn(5, 4, 3)
    assert (found.kind, found.reduction, found.forms[0], found.classes) == (kind, reduction, "rows", False)
    signal = gradient(loss, outputs, targets)
    torch.testing.assert_close(found.signal(outputs, targets), signal, rtol=1e-4, atol=1e-7)
    read = found.read(outputs, signal, float(found.norm(targets))).targets
    torch.testing.assert_close(read.float(), targets, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", COLUMNS)
def test_one_output_takes_the_form_that_the_loss_takes(name: str) -> None:
    loss, kind, link, form = COLUMNS[name]
    found = settle_loss(loss, 1, link=link)
    assert (found.kind, found.forms[0]) == (kind, form)
    told = found.formed(torch.tensor([[1.0], [0.0]]))
    assert form_of(told, 1) == form
    assert found.misfit(told) is None
    other = told[:, 0] if told.ndim == 2 else told[:, None]
    assert "takes one" in str(found.misfit(other))


@pytest.mark.parametrize("name", [*CLASSES, *ROWS])
def test_the_soft_loss_is_the_loss_where_targets_are_hard(name: str) -> None:
    loss = CLASSES[name][0] if name in CLASSES else ROWS[name][0]
    found = settle_loss(loss, 4)
    hard = torch.tensor([0, 2, 2, 1])
    targets = F.one_hot(hard, 4).double()
    outputs = drawn(4, 4).double().requires_grad_()
    (slope,) = torch.autograd.grad(found.loss(outputs, targets), outputs)
    torch.testing.assert_close(slope, found.signal(outputs, hard if found.classes else targets).detach())


UNKNOWN: dict[str, tuple[Loss, str]] = {
    "absolute error": (F.l1_loss, "its gradient is that of no loss known here"),
    "focal": (lambda o, y: ((1 - (-F.cross_entropy(o, y, reduction="none")).exp()) ** 2).mean(), "none of softmax"),
    "with a penalty": (lambda o, y: F.cross_entropy(o, y) + 0.1 * o.square().mean(), "none of softmax"),
    "random": (lambda o, y: F.cross_entropy(F.dropout(o), y), "as if it drew random numbers"),
    "log-likelihood of no probabilities": (F.nll_loss, "none of softmax"),
    "a crash": (lambda o, y: o.nothing, "it fails on targets of shape"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_another_loss_is_unknown_and_says_why(name: str) -> None:
    loss, words = UNKNOWN[name]
    before = torch.random.get_rng_state()
    found = settle_loss(loss, 4)
    assert not found.known
    assert words in found.reason
    assert found.obstacle.startswith("the loss is not one that was recognized: ")
    assert torch.equal(before, torch.random.get_rng_state())


def each(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


def entries(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")


BEYOND: dict[str, tuple[Loss, str]] = {  # another loss for some numbers, and what it is for ordinary ones
    "flooded": (lambda o, y: (F.cross_entropy(o, y) - 0.05).abs() + 0.05, "cross-entropy"),
    "flooded, hardly": (lambda o, y: (F.cross_entropy(o, y) - 1e-6).abs(), "cross-entropy"),
    "trimmed": (lambda o, y: each(o, y).clamp(max=6).mean(), "cross-entropy"),
    "the hardest 16": (lambda o, y: each(o, y).topk(min(16, len(y))).values.mean(), "cross-entropy"),
    "of outputs that are clamped": (lambda o, y: F.cross_entropy(o.clamp(-8, 8), y), "cross-entropy"),
    "an epsilon that counts": (
        lambda o, y: -(o.softmax(1) + 1e-6).log().gather(1, y[:, None]).mean(),
        "cross-entropy",
    ),
    "bce, flooded": (lambda o, y: (entries(o, y).mean() - 0.05).abs() + 0.05, "binary cross-entropy"),
    "bce, trimmed": (lambda o, y: entries(o, y).clamp(max=6).mean(), "binary cross-entropy"),
    "bce of outputs that are clamped": (lambda o, y: entries(o.clamp(-6, 6), y).mean(), "binary cross-entropy"),
    "Huber, wide": (lambda o, y: 6 * F.smooth_l1_loss(o, y, beta=6.0), "the squared error"),
    "Huber, wider": (partial(F.huber_loss, delta=1000.0), "the squared error"),
    "trimmed error": (lambda o, y: (o - y).square().clamp(max=1e4).mean(), "the squared error"),
}


@pytest.mark.parametrize("outputs", [1, 2, 4, 10])
@pytest.mark.parametrize("name", BEYOND)
def test_a_loss_that_is_another_for_some_numbers_is_unknown(name: str, outputs: int) -> None:
    loss, like = BEYOND[name]
    if outputs == 1 and like == "cross-entropy":
        pytest.skip("one output has no classes")
    found = settle_loss(loss, outputs)
    assert not found.known
    assert f"it is {like} near ordinary outputs alone" in found.reason or "none of softmax" in found.reason


SATURATES: dict[str, tuple[Loss, str]] = {
    "epsilon": (lambda o, y: -(o.softmax(1) + 1e-8).log().gather(1, y[:, None]).mean(), "cross_entropy"),
    "clamp": (lambda o, y: -o.softmax(1).clamp(1e-7, 1 - 1e-7).log().gather(1, y[:, None]).mean(), "cross_entropy"),
    "of probabilities": (lambda o, y: F.binary_cross_entropy(o.sigmoid(), y), "bce"),
    "bce, epsilon": (
        lambda o, y: -(y * (o.sigmoid() + 1e-8).log() + (1 - y) * (1 - o.sigmoid() + 1e-8).log()).mean(),
        "bce",
    ),
}


@pytest.mark.parametrize("name", SATURATES)
def test_an_epsilon_that_shrinks_gradients_of_what_is_wholly_wrong_is_noted(name: str) -> None:
    loss, kind = SATURATES[name]
    found = settle_loss(loss, 4)
    assert (found.kind, found.everywhere) == (kind, False)


@pytest.mark.parametrize("name", [*CLASSES, *ROWS])
def test_the_loss_itself_holds_everywhere(name: str) -> None:
    assert settle_loss(CLASSES[name][0] if name in CLASSES else ROWS[name][0], 4).everywhere
    naive: Loss = lambda o, y: -o.softmax(1).log().gather(1, y[:, None]).mean()  # noqa: E731
    assert settle_loss(naive, 4).everywhere


def test_a_module_whose_weights_change_is_settled_anew() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.ones(3))
    assert settle_loss(loss, 3) is settle_loss(loss, 3)
    assert settle_loss(loss, 3).uniform
    assert loss.weight is not None
    loss.weight[1] = 5.0
    assert not settle_loss(loss, 3).uniform
    loss.label_smoothing = 0.25
    assert settle_loss(loss, 3).smoothing == pytest.approx(0.25)


def test_a_final_log_softmax_makes_the_log_likelihood_cross_entropy() -> None:
    assert settle_loss(F.nll_loss, 5, link=("log_softmax",)).plain
    assert settle_loss(nn.NLLLoss(reduction="sum"), 5, link=("log_softmax",)).reduction == "sum"


def test_many_classes_cost_no_square_of_their_number() -> None:
    found = settle_loss(nn.CrossEntropyLoss(label_smoothing=0.1), 20_000)
    assert found.smoothing == pytest.approx(0.1)
    outputs = drawn(1, 20_000)
    assert found.read(outputs, found.signal(outputs, torch.tensor([777])), "own").targets.tolist() == [777]


def test_fingerprints_tell_behavior_not_spelling() -> None:
    targets = torch.tensor([0, 1, 2, 3])
    one = fingerprint("cross_entropy", 4, targets)
    assert (
        one
        == fingerprint(nn.CrossEntropyLoss(), 4, targets)
        == fingerprint(lambda o, y: F.cross_entropy(o, y), 4, targets)
    )
    others: list[Loss] = [
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(weight=W),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda o, y: 2 * F.cross_entropy(o, y),
        F.multi_margin_loss,
        lambda o, y: F.multi_margin_loss(o, y, p=2),
        partial(F.multi_margin_loss, margin=0.5),
    ]
    assert len({one, *(fingerprint(loss, 4, targets) for loss in others)}) == len(others) + 1
    rows = (drawn(3, 4) > 0).float()
    several: list[Loss] = [
        nn.BCEWithLogitsLoss(),
        nn.MSELoss(),
        nn.L1Loss(),
        nn.SmoothL1Loss(),
        nn.HuberLoss(delta=0.5),
    ]
    assert len({fingerprint(loss, 4, rows) for loss in several}) == len(several)


def test_unit_and_scale_undo_sum_and_factor() -> None:
    for name in CLASSES:
        found, labels, outputs = settle_loss(CLASSES[name][0], 4), torch.tensor([0, 1, 1]), drawn(3, 4)
        expected: Criterion = found.unit()
        torch.testing.assert_close(found.scale(3) * found.signal(outputs, labels), expected.signal(outputs, labels))
