from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audit.fakes import SHAPE, Divide, linear_model, pictures, small_case
from fedseal import audit, defense
from fedseal.audit import Case
from fedseal.audit.case import stream
from fedseal.client import local_update
from fedseal.errors import BadConfig, UnfitBatch
from fedseal.modality import Image
from fedseal.threat import ThreatModel
from fedseal.types import Batch, LocalTraining, LossFunction, Observation

SERVER = ThreatModel.honest_but_curious()


def observed(
    case: Case, *, threat: ThreatModel = SERVER, shield: str = "none", seed: int = 0, first: int = 0
) -> Observation:
    observation, _ = case.observe(first=first, batch_size=1, defense=defense.parse(shield), threat=threat, seed=seed)
    return observation


def test_plain_pictures_need_no_modality() -> None:
    assert small_case().inputs_as == Image(shape=SHAPE)


@pytest.mark.parametrize("inputs", [pictures(2, 0) - 0.5, pictures(2, 0) * 2, torch.rand(2, 5), torch.rand(2, 4, 6, 6)])
def test_anything_else_must_name_its_modality(inputs: torch.Tensor) -> None:
    with pytest.raises(BadConfig, match=r"modality.*fs\.Image"):
        Case(linear_model(), Batch(inputs, torch.tensor([0, 1])), LocalTraining.fedsgd())


def test_a_modality_or_gallery_of_another_shape_is_refused_at_once() -> None:
    case = small_case()
    with pytest.raises(BadConfig, match="modality"):
        replace(case, modality=Image(shape=(3, 12, 12)))
    with pytest.raises(BadConfig, match="gallery"):
        replace(case, gallery=torch.rand(4, 3, 12, 12))
    with pytest.raises(BadConfig, match="cohort of 1"):
        replace(case, cohort=1)


def test_the_truth_is_the_named_part_of_the_data() -> None:
    case = small_case(examples=6)
    _, truth = case.observe(first=2, batch_size=3, defense=defense.none(), threat=SERVER, seed=0)
    assert torch.equal(truth.inputs, case.batch.inputs[2:5])
    with pytest.raises(UnfitBatch, match="examples 4 to 6 of a case of 6"):
        case.part(4, 3)


def test_labels_reach_the_oracle_alone() -> None:
    case = small_case()
    assert observed(case).labels is None
    oracle = observed(case, threat=ThreatModel.oracle(), first=1)
    assert oracle.labels is not None
    assert oracle.labels.tolist() == [1]


def test_the_client_draws_the_same_noise_at_every_strength_and_another_for_every_seed() -> None:
    case = small_case()
    clean = observed(case).update.tensors["1.weight"]
    weak = observed(case, shield="gaussian:0.01").update.tensors["1.weight"] - clean
    strong = observed(case, shield="gaussian:0.1").update.tensors["1.weight"] - clean
    other = observed(case, shield="gaussian:0.01", seed=1).update.tensors["1.weight"] - clean
    torch.testing.assert_close(10 * weak, strong, atol=1e-5, rtol=0)
    correlation = torch.corrcoef(torch.stack([weak.flatten(), other.flatten()]))[0, 1]
    assert abs(correlation) < 0.2


def test_client_and_attack_draw_unrelated_numbers() -> None:
    client, attack = (torch.randn(1000, generator=stream(role, 0, 1, 0)) for role in ("client", "attack"))
    assert abs(torch.corrcoef(torch.stack([client, attack]))[0, 1]) < 0.15


@pytest.mark.parametrize(("first", "others"), [(0, [1, 2]), (2, [3, 0])])
def test_an_aggregate_is_the_mean_over_the_attacked_and_the_following_clients(first: int, others: list[int]) -> None:
    case = replace(small_case(examples=4), cohort=3)
    observation = observed(case, threat=ThreatModel.aggregate_only(), first=first)
    singles = [
        local_update(case.model, case.batch[i : i + 1], training=case.training).tensors["1.weight"]
        for i in [first, *others]
    ]
    torch.testing.assert_close(observation.update.tensors["1.weight"], sum(singles) / 3)
    assert observation.update.num_clients == 3


def test_an_aggregate_needs_enough_examples() -> None:
    with pytest.raises(UnfitBatch, match="2 clients with 1 examples each needs 2 examples, and the case has 1"):
        observed(small_case(examples=1), threat=ThreatModel.aggregate_only())


def _other_weight(case: Case) -> Case:
    model = copy.deepcopy(case.model)
    with torch.no_grad():
        next(model.parameters()).flatten()[0].add_(1e-3)
    return replace(case, model=model)


def _frozen(case: Case) -> Case:
    model = copy.deepcopy(case.model)
    next(model.parameters()).requires_grad_(False)
    return replace(case, model=model)


@pytest.mark.parametrize(
    "change",
    [
        _other_weight,
        _frozen,
        lambda case: replace(case, model=nn.Sequential(*case.model.children(), nn.Tanh())),
        lambda case: replace(case, batch=Batch(case.batch.inputs.flip(0), case.batch.labels)),
        lambda case: replace(case, batch=Batch(case.batch.inputs, case.batch.labels.flip(0))),
        lambda case: replace(case, gallery=None),
        lambda case: replace(case, training=LocalTraining.fedavg(lr=0.1)),
    ],
    ids=["weight", "frozen", "architecture", "inputs", "labels", "gallery", "training"],
)
def test_the_fingerprint_tells_cases_apart(change: Callable[[Case], Case]) -> None:
    assert change(small_case()).fingerprint() != small_case().fingerprint()


def test_the_fingerprint_of_an_equal_case_is_equal() -> None:
    case = small_case()
    assert replace(small_case(), name="another name").fingerprint() == case.fingerprint()
    case.model.eval()  # the training sets the mode, so the model's own is no part of the case
    assert case.fingerprint() == small_case().fingerprint()


def test_moving_a_case_leaves_the_given_model_alone() -> None:
    case = small_case()
    assert case.to("cpu").model is not case.model


SPELLINGS = {
    "name": "cross_entropy",
    "function": F.cross_entropy,
    "module": nn.CrossEntropyLoss(),
    "partial": partial(F.cross_entropy, reduction="mean"),
    "lambda": lambda outputs, labels: F.cross_entropy(outputs, labels),
}
OTHERS = {
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "smoothing": nn.CrossEntropyLoss(label_smoothing=0.1),
    "less smoothing": nn.CrossEntropyLoss(label_smoothing=0.05),
    "weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
    "partial": partial(F.cross_entropy, reduction="sum", label_smoothing=0.2),
    "margin": nn.MultiMarginLoss(),
    "wider margin": nn.MultiMarginLoss(margin=2.0),
    "lambda": lambda outputs, labels: 2 * F.cross_entropy(outputs, labels),
    "other lambda": lambda outputs, labels: 3 * F.cross_entropy(outputs, labels),
}


def _scaled(factor: float) -> LossFunction:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return factor * (outputs**4).mean() + outputs.gather(1, labels[:, None]).sum()

    return loss


def _under(loss: str | LossFunction) -> str:
    return small_case(training=LocalTraining.fedsgd(loss=loss)).fingerprint()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_fingerprint_knows_a_loss_by_what_it_computes(spelling: str) -> None:
    assert _under(SPELLINGS[spelling]) == _under("cross_entropy")  # type: ignore[arg-type]


def test_the_fingerprint_tells_losses_apart_whatever_they_are_called() -> None:
    losses = [*OTHERS.values(), _scaled(1.0), _scaled(2.0), "cross_entropy"]
    assert len({_under(loss) for loss in losses}) == len(losses)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 1), (4, 3)], ids=["one output", "findings"])
def test_the_fingerprint_tells_losses_of_rows_apart(shape: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[1] * SHAPE[2], shape[1]))
    batch = Batch(pictures(4, 0), torch.rand(shape, generator=torch.Generator().manual_seed(0)).round())
    losses = [nn.BCEWithLogitsLoss(), nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.HuberLoss(delta=0.1)]
    cases = [Case(model, batch, LocalTraining.fedsgd(loss=loss)) for loss in losses]
    assert len({case.fingerprint() for case in cases}) == len(losses)
    alike = replace(cases[0], training=LocalTraining.fedsgd(loss=F.binary_cross_entropy_with_logits))
    assert alike.fingerprint() == cases[0].fingerprint()


def test_the_fingerprint_tells_losses_of_positions_apart() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[1] * SHAPE[2], 12), nn.Unflatten(1, (3, 4)))
    batch = Batch(pictures(4, 0), torch.arange(16).view(4, 4) % 3)
    losses = ["cross_entropy", nn.CrossEntropyLoss(reduction="sum"), nn.CrossEntropyLoss(ignore_index=0)]
    prints = {Case(model, batch, LocalTraining.fedsgd(loss=loss)).fingerprint() for loss in losses}  # type: ignore[arg-type]
    assert len(prints) == len(losses)


def test_old_cells_do_not_stand_for_another_loss_under_the_same_name(tmp_path: Path) -> None:
    """The smallest input that showed it: two modules, which were both called torch.nn.modules.loss:?"""
    first, other = (
        small_case(1, LocalTraining.fedsgd(loss=loss))
        for loss in (lambda o, y: F.cross_entropy(o, y), lambda o, y: F.cross_entropy(2 * o, y))
    )
    audit.run(first, attacks=[Divide()], out=tmp_path)
    with pytest.raises(BadConfig, match="holds another audit"):
        audit.run(other, attacks=[Divide()], out=tmp_path)
