"""What the loss computes decides what is read, not how it is spelled; targets have the shape that the loss takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attack.cases import initialized, observed, pictures, seeded
from fedseal import Batch, Image, LocalTraining, Observation, Reconstruction, ThreatModel, local_update, zoo
from fedseal.attack import auto, dlg
from fedseal.attack.batch.separate import Separation
from fedseal.attack.equations.rivals import rivaled, rivals
from fedseal.attack.equations.separation import _variances
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.labels import METHODS
from fedseal.errors import FedsealError, UnfitBatch
from marks import slowly

Loss = str | Callable[[Tensor, Tensor], Tensor]
W = torch.linspace(0.5, 2, 10)
SPELLED: dict[str, Loss] = {
    "name": "cross_entropy",
    "function": F.cross_entropy,
    "module": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "weights": nn.CrossEntropyLoss(weight=W),
    "weights, sum": nn.CrossEntropyLoss(weight=W, reduction="sum"),
    "smoothing": nn.CrossEntropyLoss(label_smoothing=0.1),
    "weights, smoothing": nn.CrossEntropyLoss(weight=W, label_smoothing=0.1),
}
SERVER, EAVESDROPPER, ORACLE = ThreatModel.honest_but_curious(), ThreatModel.eavesdropper(), ThreatModel.oracle()
PHOTO = Image(shape=(3, 16, 16))


def seen(model: nn.Module, batch: Batch, loss: Loss, threat: ThreatModel = SERVER) -> Observation:
    update = local_update(model, batch, training=LocalTraining.fedsgd(loss=loss))
    return threat.observe(model, update, modality=PHOTO, labels=batch.labels)


def errors(found: Reconstruction, batch: Batch) -> Tensor:
    """Of each true example against the nearest found one, root mean square, `(N,)`."""
    assert found.inputs is not None
    one, other = batch.inputs.flatten(1).double(), found.inputs.flatten(1).double()
    far: Tensor = torch.cdist(one, other).amin(1) / one.shape[1] ** 0.5
    return far


# ---- R1: the loss is known by what it computes


@pytest.mark.parametrize("name", SPELLED)
def test_one_picture_is_read_exactly_whatever_the_loss_is_called(name: str) -> None:
    batch = zoo.photos(size=16, num_classes=10)[:1]
    found = auto(steps=20)(seen(zoo.lenet(size=16, num_classes=10), batch, SPELLED[name]), generator=seeded())
    assert (found.outcome.status, found.outcome.route) == ("exact", "layerwise")
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()
    assert float(errors(found, batch).max()) < 10 ** (-120 / 20)


@pytest.mark.parametrize("name", slowly(SPELLED, SPELLED.keys() - {"name", "sum", "weights, smoothing"}))
def test_a_batch_is_taken_apart_whatever_the_loss_is_called(name: str) -> None:
    batch = zoo.photos(size=16, num_classes=10)[:4]
    found = auto(steps=20)(seen(zoo.lenet(size=16, num_classes=10), batch, SPELLED[name]), generator=seeded())
    assert found.outcome.route == "separation"
    assert found.labels is not None
    assert sorted(found.labels.tolist()) == sorted(batch.labels.tolist())
    assert float(errors(found, batch).max()) < 10 ** (-80 / 20)
    assert int(found.certain.sum()) >= 3


def test_a_model_that_ends_in_log_softmax_is_read_under_the_log_likelihood() -> None:
    batch = zoo.photos(size=16, num_classes=10)[:1]
    model = nn.Sequential(*zoo.lenet(size=16, num_classes=10), nn.LogSoftmax(1))
    found = auto(steps=20)(seen(model, batch, F.nll_loss), generator=seeded())
    assert found.outcome.status == "exact"
    assert float(errors(found, batch).max()) < 1e-5


def test_a_loss_that_is_unknown_leaves_exact_routes_out_and_says_so() -> None:
    batch = zoo.photos(size=16, num_classes=10)[:1]
    found = auto(steps=2)(seen(zoo.lenet(size=16, num_classes=10), batch, F.multi_margin_loss), generator=seeded())
    assert found.outcome.status == "not_applicable"
    assert "searches soft labels, which this loss does not take" in found.outcome.note
    reasons = [note.reason for note in found.explanation if note.route in ("layerwise", "separation")]
    assert len(reasons) == 2
    assert all(reason.startswith("the loss is not one that was recognized") for reason in reasons)


@pytest.mark.parametrize("factor", [1024.0, 1 / 7])
def test_a_scaled_gradient_is_divided_by_what_the_head_shows(factor: float) -> None:
    batch = zoo.photos(size=16)[:1]
    plain = seen(zoo.lenet(size=16), batch, "cross_entropy")
    update = replace(plain.update, tensors={name: factor * t for name, t in plain.update.tensors.items()})
    found = auto(steps=20)(replace(plain, rounds=(replace(plain.rounds[0], update=update),)), generator=seeded())
    assert found.outcome.status == "exact"
    assert float(errors(found, batch).max()) < 1e-5
    assert f"the gradient is {factor:.4g} times what the loss gives" in found.explanation[0].reason


# ---- R2: targets that are no class of several


def rows_of_wine(kind: str) -> Batch:
    batch = zoo.wine().batch[:4]
    labels = batch.labels.float()[:, None]
    return Batch(batch.inputs, labels if kind == "mse" else (labels > 0).float())


@pytest.mark.parametrize("kind", ["mse", "bce"])
@pytest.mark.parametrize("seed", slowly(range(3), [2]))
def test_a_server_reads_rows_and_targets_of_one_output_where_a_line_tells_two_readings(kind: str, seed: int) -> None:
    batch, modality = rows_of_wine(kind), zoo.wine().modality
    net = nn.Sequential(nn.Linear(13, 100), nn.ReLU(), nn.Linear(100, 1))
    model = initialized(net, seed, dtype=torch.float32)
    update = local_update(model, batch, training=LocalTraining.fedsgd(loss=kind))
    for threat in (SERVER, ORACLE):
        seen = threat.observe(model, update, modality=modality, labels=batch.labels)
        found = auto(steps=20)(seen, generator=seeded())
        assert found.outcome.route == "spear"
        assert float(errors(found, batch).max()) < 1e-5
        assert found.labels is not None
        nearest = torch.cdist(batch.inputs, found.inputs).argmin(1)  # type: ignore[arg-type]
        torch.testing.assert_close(found.labels[nearest], batch.labels, rtol=0, atol=1e-3)
        assert int(found.certain.sum()) >= 3
    line = auto(steps=20)(EAVESDROPPER.observe(model, update, modality=modality), generator=seeded())
    assert not bool(line.certain[errors_of(line, batch) > 1e-2].any())


def errors_of(found: Reconstruction, batch: Batch) -> Tensor:
    """Of each found example against the nearest true one, `(N,)`."""
    assert found.inputs is not None
    one, other = found.inputs.flatten(1).double(), batch.inputs.flatten(1).double()
    far: Tensor = torch.cdist(one, other).amin(1) / one.shape[1] ** 0.5
    return far


def test_examples_whose_gradients_are_parallel_have_rivals_and_others_have_none() -> None:
    on = (torch.rand(3, 60, generator=seeded(1)) > 0.5).double()
    parallel = on * torch.randn(60, generator=seeded(2)).double() * torch.tensor([[1.0], [-2.0], [0.5]]).double()
    assert rivaled(parallel).tolist() == [True, True, True]
    assert {rival.members for rival in rivals(parallel)} >= {(0, 1), (0, 2), (1, 2)}
    assert rivaled(on * torch.randn(3, 60, generator=seeded(2)).double()).tolist() == [False, False, False]


@pytest.mark.parametrize("outputs", [1, 14])
@pytest.mark.slow
def test_a_batch_under_binary_cross_entropy_raises_nothing(outputs: int) -> None:
    photos = zoo.photos(size=16)[:4]
    batch = Batch(photos.inputs, (torch.rand(4, outputs, generator=seeded(1)) > 0.5).float())
    found = auto(steps=4)(seen(zoo.lenet(size=16, num_classes=outputs), batch, "bce"), generator=seeded())
    assert found.labels is not None
    assert found.labels.shape == batch.labels.shape
    assert found.outcome.status == "budget"


@pytest.mark.parametrize("threat", [SERVER, ORACLE])
@pytest.mark.parametrize("loss", ["bce", "mse", nn.BCEWithLogitsLoss(pos_weight=torch.linspace(1, 3, 14))])
def test_a_photo_and_all_its_findings_are_read(loss: Loss, threat: ThreatModel) -> None:
    findings = (torch.rand(1, 14, generator=seeded(2)) > 0.5).float()
    batch = Batch(zoo.photos(size=16)[:1].inputs, findings)
    found = auto(steps=20)(seen(zoo.lenet(size=16, num_classes=14), batch, loss, threat), generator=seeded())
    assert found.outcome.status == "exact"
    assert float(errors(found, batch).max()) < 1e-5
    assert found.labels is not None
    torch.testing.assert_close(found.labels, findings, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_the_search_with_a_sigmoid_for_each_finding_finds_them_all() -> None:
    findings = (torch.rand(1, 14, generator=seeded(2)) > 0.5).float()
    batch = Batch(zoo.photos(size=16)[:1].inputs, findings)
    found = dlg()(seen(zoo.lenet(size=16, num_classes=14), batch, "bce"), generator=seeded())
    assert found.labels is not None
    assert found.labels.tolist() == findings.tolist()
    assert float(errors(found, batch).max()) < 5e-3


def test_findings_of_one_photo_show_in_the_sign_without_the_weights() -> None:
    findings = (torch.rand(1, 14, generator=seeded(2)) > 0.5).float()
    batch = Batch(zoo.photos(size=16)[:1].inputs, findings)
    evidence = Evidence(seen(zoo.lenet(size=16, num_classes=14), batch, "bce", EAVESDROPPER))
    assert evidence.target is not None
    assert evidence.target.tolist() == findings.tolist()


@pytest.mark.parametrize("loss", [F.mse_loss, lambda o, y: (o - y).square().mean(), F.l1_loss])
def test_labels_that_the_loss_would_broadcast_are_refused(loss: Loss) -> None:
    batch = Batch(torch.rand(4, 5, generator=seeded()), torch.rand(4, generator=seeded()))
    with pytest.raises(UnfitBatch, match=r"labels have shape \(4,\).*outputs \(4, 1\).*labels.float\(\)\[:, None\]"):
        local_update(nn.Linear(5, 1), batch, training=LocalTraining.fedsgd(loss=loss))
    flat = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    local_update(flat, batch, training=LocalTraining.fedsgd(loss=loss))
    wide = Batch(batch.inputs, batch.labels[:, None])
    with pytest.raises(UnfitBatch, match=r"give labels\[:, 0\]"):
        local_update(flat, wide, training=LocalTraining.fedsgd(loss=loss))


# ---- C4: a certified label is right


def small(classes: int, bias: bool, activation: type[nn.Module], seed: int) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(5, 6), activation(), nn.Linear(6, classes, bias=bias))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed)))
    return net


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(2, 5),
    st.booleans(),
    st.sampled_from([nn.Sigmoid, nn.Tanh, nn.ReLU]),
    st.integers(1, 3),
    st.integers(0, 2**16),
    st.sampled_from(["best", "soft", "sign"]),
    st.sampled_from(["plain", "told", "weights", "smoothing"]),
    st.booleans(),
)
@example(2, False, nn.Sigmoid, 1, 3, "best", "plain", False)
@example(3, False, nn.Sigmoid, 2, 7, "best", "plain", False)
@example(2, False, nn.Sigmoid, 1, 3, "soft", "plain", False)
def test_certified_labels_are_right(
    classes: int,
    bias: bool,
    activation: type[nn.Module],
    count: int,
    seed: int,
    method: str,
    case: str,
    server: bool,
) -> None:
    model = small(classes, bias, activation, seed)
    inputs = torch.rand(count, 1, 1, 5, generator=seeded(seed))
    batch = Batch(inputs, torch.randint(classes, (count,), generator=seeded(seed + 1)))
    losses: dict[str, Loss] = {
        "weights": nn.CrossEntropyLoss(weight=W[-classes:]),
        "smoothing": nn.CrossEntropyLoss(label_smoothing=0.2),
    }
    try:
        update = local_update(model, batch, training=LocalTraining.fedsgd(loss=losses.get(case, "cross_entropy")))
        update = replace(update, num_examples=None) if case == "told" else update
        threat = SERVER if server else EAVESDROPPER
        observation = threat.observe(model, update, modality=Image(shape=(1, 1, 5)))
        found = METHODS[method].infer(observation, generator=seeded())
    except FedsealError:
        return
    assert not found.certified or sorted(found.labels.tolist()) == sorted(batch.labels.tolist())
    assert not found.certified or observation.update.num_examples == count


def _certified_of_two_classes(activation: type[nn.Module], seed: int) -> bool:
    """Whether the label is certified, which must be right then."""
    batch = pictures(1, (1, 1, 5), classes=2, seed=seed, dtype=torch.float32)
    observation = observed(small(2, False, activation, seed), batch)
    found = METHODS["best"].infer(observation, generator=seeded())
    assert not found.certified or found.labels.tolist() == batch.labels.tolist()
    return found.certified


def test_two_classes_without_a_bias_are_told_apart_by_the_features_sign() -> None:
    assert sum(_certified_of_two_classes(nn.Sigmoid, seed) for seed in range(12)) >= 10


@pytest.mark.parametrize("seed", slowly(range(12), range(4, 12)))
def test_two_classes_without_a_bias_and_a_sign_of_the_features_are_not_told_apart(seed: int) -> None:
    assert not _certified_of_two_classes(nn.Tanh, seed)


# ---- R7: batches that break a solver


@pytest.mark.parametrize("kind", ["black", "equal", "white"])
@pytest.mark.parametrize("bias", [True, False])
def test_equal_pictures_end_in_a_status(kind: str, bias: bool) -> None:
    inputs = pictures(1, (3, 2, 2), dtype=torch.float32).inputs.repeat(4, 1, 1, 1)
    inputs = {"black": torch.zeros_like(inputs), "white": torch.ones_like(inputs)}.get(kind, inputs)
    for labels in ([0, 1, 2, 3], [1, 1, 1, 1]):
        for width in (1, 8):
            layers = [nn.Linear(12, width, bias=bias), nn.ReLU(), nn.Linear(width, 10, bias=bias)]
            model = initialized(nn.Sequential(nn.Flatten(), *layers), width, dtype=torch.float32)
            try:
                observation = observed(model, Batch(inputs, torch.tensor(labels)))
                evidence = Evidence(observation)
                if Separation(steps=4).obstacle(evidence) is None:
                    found = Separation(steps=4).read(evidence, generator=seeded())
                    assert found.inputs is None or bool(torch.isfinite(found.inputs).all())
            except FedsealError:
                continue


def test_errors_without_a_finite_normal_matrix_are_infinite() -> None:
    assert _variances(torch.full((3, 3), torch.nan).double()).tolist() == [torch.inf] * 3
    wide = torch.diag(torch.tensor([1e-12, 1.0, 1e12])).double()
    torch.testing.assert_close(_variances(wide), torch.tensor([1e12, 1.0, 1e-12]).double())
