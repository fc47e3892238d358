"""A threat model hands on what it grants; the rest is absent. Updates that are not the model's stop at the door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, Update, aggregate, defense, local_update
from fedseal.client import local_training, state_of
from fedseal.errors import BadConfig, UnfitModel, UnfitUpdate, UnknownName, UnknownToAdversary
from fedseal.threat import GRANTS, PRESETS, preset

IMAGE = Image(shape=(1, 4, 4))
FEDSGD = LocalTraining.fedsgd()
BATCH = Batch(torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0]))


def _model() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.0), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
        )


def _sent(model: nn.Module, clients: int = 1) -> Update:
    update = local_update(model, BATCH, training=FEDSGD)
    if clients == 1:
        return update
    return replace(aggregate([update] * clients), buffers=update.buffers)


def _observe(threat: ThreatModel, clients: int = 1) -> Observation:
    model = _model()
    return threat.observe(model, _sent(model, clients), modality=IMAGE, labels=BATCH.labels, defense=defense.prune(0.5))


KNOWN = {
    "honest_but_curious": {"state", "training", "num_examples", "buffers", "defense"},
    "eavesdropper": {"num_examples", "buffers"},
    "aggregate_only": {"state", "training", "num_examples", "buffers", "defense"},
    "unknown_training": {"state", "num_examples", "buffers", "defense"},
    "unaware": {"state", "training", "num_examples", "buffers"},
    "malicious_server": {"state", "training", "num_examples", "buffers", "defense"},
    "neighbor": {"state", "training", "num_examples", "buffers", "defense"},
    "oracle": {"state", "training", "num_examples", "buffers", "defense", "labels"},
}


def _facts(observation: Observation) -> dict[str, object]:
    return {
        "state": observation.rounds[0].state,
        "training": observation.training,
        "num_examples": observation.update.num_examples,
        "buffers": observation.update.buffers,
        "defense": observation.defense,
        "labels": observation.labels,
    }


def test_every_preset_has_a_row_here() -> None:
    assert KNOWN.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_hands_on_what_it_grants_and_nothing_else(name: str) -> None:
    facts = _facts(_observe(preset(name), clients=2))
    assert {fact for fact, value in facts.items() if value is not None} == KNOWN[name]


@pytest.mark.parametrize("granted", GRANTS)
def test_each_grant_alone_hands_on_that_fact_alone(granted: str) -> None:
    facts = _facts(_observe(ThreatModel("one", frozenset({granted})), clients=2))
    assert {fact for fact, value in facts.items() if value is not None} == ({granted} & facts.keys())


@pytest.mark.parametrize("name", PRESETS)
def test_no_value_of_the_model_hides_in_the_architecture(name: str) -> None:
    model = _observe(preset(name), clients=2).model
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    seen = [v for module in model.modules() for v in vars(module).values() if isinstance(v, Tensor)]
    assert all(tensor.is_meta for tensor in seen)


def test_a_withheld_training_is_absent_from_the_update_too() -> None:
    observation = _observe(ThreatModel.eavesdropper())
    assert observation.update.training is None
    assert observation.rounds[0].update.training is None


TRUE = LocalTraining.fedavg(lr=0.1, epochs=2, momentum=0.9, shuffle=True)
ASSUMED = LocalTraining.fedavg(lr=0.02, epochs=5, batch_size=1, mode="eval")


def _difference(model: nn.Module) -> Update:
    return local_update(model, BATCH, training=TRUE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rounds", [1, 2])
def test_an_assumed_training_takes_the_place_of_the_true_one_everywhere(rounds: int) -> None:
    """A wrong assumption is the adversary's to make; what really happened is nowhere in what it holds."""
    model = _model()
    sent = [(state_of(model), _difference(model)) for _ in range(rounds)]
    seen = ThreatModel.honest_but_curious().observe_rounds(model, sent, modality=IMAGE, training=ASSUMED)
    assert seen.training == ASSUMED
    assert [round.update.training for round in seen.rounds] == [ASSUMED] * rounds
    assert not seen.model.training  # the assumed mode, not the true one
    assert all(update.training == TRUE for _, update in sent)
    for part in (seen, *seen.rounds):
        assert repr(TRUE) not in repr(part)
    simulated = local_training(seen.model, sent[0][0], BATCH.inputs, BATCH.labels, ASSUMED).tensors
    assert not torch.allclose(simulated["5.weight"], seen.update.tensors["5.weight"])


def test_an_assumption_of_another_kind_than_the_message_is_refused() -> None:
    model = _model()
    with pytest.raises(UnfitUpdate, match="is a difference, but the local training named makes a gradient"):
        ThreatModel.honest_but_curious().observe(model, _difference(model), modality=IMAGE, training=FEDSGD)


@pytest.mark.parametrize("assumed", [None, ASSUMED])
def test_a_server_whose_clients_choose_their_training_holds_weights_and_no_settings(
    assumed: LocalTraining | None,
) -> None:
    model = _model()
    seen = ThreatModel.unknown_training().observe(model, _difference(model), modality=IMAGE, training=assumed)
    assert seen.state is not None
    assert (seen.training, seen.update.training, seen.update.kind) == (None, None, "difference")
    with pytest.raises(UnknownToAdversary, match="'unknown_training' withholds"):
        seen.require_training("some attack")


@pytest.mark.parametrize("mode", [True, False])
def test_where_the_training_is_withheld_the_architecture_runs_as_the_model_was_given(mode: bool) -> None:
    model = _model().train(mode)
    update = local_update(model, BATCH, training=replace(FEDSGD, mode="eval" if mode else "train"))
    bare = ThreatModel.unknown_training().observe(model, update, modality=IMAGE).model
    assert isinstance(bare, nn.Sequential)
    assert (bare[1].training, bare[2].training) == (mode, False)


def test_the_clients_order_is_nowhere_in_what_is_sent() -> None:
    """The update holds the settings and no trace of the order but its effect on the weights."""
    model = _model()
    seen = ThreatModel.oracle().observe(model, _difference(model), modality=IMAGE, labels=BATCH.labels)
    assert seen.training == TRUE
    parameters = {name for name, _ in model.named_parameters()}
    buffers = {name for name, _ in model.named_buffers()}
    assert {f.name for f in fields(Update)} == {
        "kind", "tensors", "buffers", "num_examples", "num_clients", "training", "rounding",
    }  # fmt: skip
    assert (set(seen.update.tensors), set(seen.update.buffers or {})) == (parameters, buffers)


def test_what_is_handed_on_is_a_copy() -> None:
    model = _model()
    update = _sent(model)
    observation = ThreatModel.oracle().observe(model, update, modality=IMAGE, labels=BATCH.labels)
    assert observation.state is not None
    assert observation.labels is not None
    assert observation.update.buffers is not None
    assert update.buffers is not None
    for seen in (observation.state, observation.update.tensors, observation.update.buffers):
        for tensor in seen.values():
            tensor.zero_()
    observation.labels.zero_()
    assert all(bool(p.any()) for name, p in model.named_parameters() if name != "1.bias")
    assert any(bool(t.any()) for t in update.tensors.values())
    assert bool(update.buffers["1.running_mean"].any())
    assert BATCH.labels.tolist() == [2, 0]


def test_the_clients_dropout_mask_stays_secret_and_batch_norm_runs_as_it_did() -> None:
    model = _observe(ThreatModel.honest_but_curious()).model
    assert isinstance(model, nn.Sequential)
    assert (model[1].training, model[2].training) == (True, False)


@pytest.mark.parametrize("name", [n for n in PRESETS if n != "aggregate_only"])
def test_single_updates_can_be_seen(name: str) -> None:
    assert _observe(preset(name)).update.num_clients == 1


def test_a_single_update_is_not_shown_behind_secure_aggregation() -> None:
    with pytest.raises(BadConfig, match="aggregates only"):
        _observe(ThreatModel.aggregate_only())


def test_several_rounds_keep_their_own_weights() -> None:
    first, second = _model(), _model()
    with torch.no_grad():
        second.get_parameter("0.weight").add_(1.0)
    rounds = [(state_of(model), _sent(model)) for model in (first, second)]
    observation = ThreatModel.honest_but_curious().observe_rounds(first, rounds, modality=IMAGE)
    states = [round.state for round in observation.rounds]
    assert all(state is not None for state in states)
    torch.testing.assert_close(states[1]["0.weight"] - states[0]["0.weight"], torch.ones(2, 1, 3, 3))  # type: ignore[index]
    assert [r.state for r in ThreatModel.eavesdropper().observe_rounds(first, rounds, modality=IMAGE).rounds] == [
        None
    ] * 2


def test_no_round_is_nothing_to_observe() -> None:
    with pytest.raises(BadConfig, match="no round"):
        ThreatModel.oracle().observe_rounds(_model(), [], modality=IMAGE)


def test_asking_for_what_is_withheld_names_the_asker_and_the_threat_model() -> None:
    observation = _observe(ThreatModel.eavesdropper())
    for ask in (observation.require_state, observation.require_training):
        with pytest.raises(UnknownToAdversary, match=r"some attack needs .* 'eavesdropper' withholds"):
            ask("some attack")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'state'"):
        ThreatModel("x", frozenset({"stat"}))
    with pytest.raises(UnknownName, match="did you mean 'eavesdropper'"):
        preset("evesdropper")


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
CHANGES: dict[str, tuple[Change, str]] = {
    "missing": (lambda t: {n: v for n, v in t.items() if n != "5.bias"}, r"lacks '5\.bias'"),
    "foreign": (lambda t: {**t, "extra": torch.ones(1)}, "foreign 'extra'"),
    "both": (lambda t: {("6" + n[1:] if n == "5.bias" else n): v for n, v in t.items()}, r"lacks '5\.bias'.*'6\.bias'"),
    "empty": (lambda t: {}, r"lacks '0\.bias', '0\.weight', '1\.bias' and 3 more"),
    "shape": (lambda t: {**t, "5.bias": torch.ones(4)}, r"'5\.bias' has shape \(4,\), the model's \(3,\)"),
    "transposed": (
        lambda t: {**t, "5.weight": t["5.weight"].T},
        r"'5\.weight' has shape \(8, 3\), the model's \(3, 8\)",
    ),
    "integer": (lambda t: {**t, "5.bias": torch.ones(3, dtype=torch.int64)}, r"'5\.bias' has dtype torch\.int64"),
    "complex": (
        lambda t: {**t, "5.bias": torch.ones(3, dtype=torch.complex64)},
        r"'5\.bias' has dtype torch\.complex64",
    ),
    "nan": (lambda t: {**t, "0.weight": t["0.weight"] * torch.nan}, r"'0\.weight' holds NaN"),
    "inf": (lambda t: {**t, "0.weight": t["0.weight"] + torch.inf}, r"'0\.weight' holds NaN or infinity"),
    "zero": (lambda t: {n: torch.zeros_like(v) for n, v in t.items()}, "zero everywhere"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_an_update_that_is_not_the_models_is_refused_by_name(case: str) -> None:
    model = _model()
    change, words = CHANGES[case]
    update = _sent(model)
    with pytest.raises(UnfitUpdate, match=words):
        ThreatModel.oracle().observe(model, replace(update, tensors=change(dict(update.tensors))), modality=IMAGE)


def test_half_precision_updates_fit() -> None:
    model = _model()
    half = {name: tensor.half() for name, tensor in _sent(model).tensors.items()}
    seen = ThreatModel.oracle().observe(model, Update("gradient", half, training=FEDSGD), modality=IMAGE)
    assert seen.like.dtype == torch.float32
    (step,) = seen.update.rounding
    assert (step.kind, step.figures["eps"], step.where) == ("float", 2.0**-11, ())


def test_a_training_of_another_kind_is_refused() -> None:
    model = _model()
    with pytest.raises(UnfitUpdate, match="is a gradient, but the local training named makes a difference"):
        ThreatModel.oracle().observe(model, _sent(model), modality=IMAGE, training=LocalTraining.fedavg(lr=0.1))


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(UnfitModel, match="no trainable parameters"):
        ThreatModel.oracle().observe(nn.Flatten(), Update("gradient", {}), modality=IMAGE)


def test_an_aggregate_is_the_mean_and_names_no_single_client() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        Update("gradient", {"w": torch.randn(3, generator=generator)}, {"b": torch.ones(1)}, num_examples=n + 1)
        for n in range(3)
    ]
    total = aggregate(parts)
    torch.testing.assert_close(total.tensors["w"], sum((p.tensors["w"] for p in parts), torch.zeros(3)) / 3)
    assert (total.num_clients, total.num_examples, total.buffers) == (3, 6, None)
    assert aggregate([*parts, replace(parts[0], num_examples=None)]).num_examples is None


def test_an_aggregate_of_aggregates_weighs_every_client_alike() -> None:
    one, two, three = (Update("gradient", {"w": torch.tensor([float(v)])}) for v in (1, 2, 6))
    nested = aggregate([aggregate([one, two]), three])
    assert nested.num_clients == 3
    assert nested.tensors["w"].item() == pytest.approx(3.0)


MISMATCHED = {
    "none": [],
    "one": [Update("gradient", {"w": torch.ones(2)})],
    "kinds": [Update("gradient", {"w": torch.ones(2)}), Update("difference", {"w": torch.ones(2)})],
    "names": [Update("gradient", {"w": torch.ones(2)}), Update("gradient", {"v": torch.ones(2)})],
    "shapes": [Update("gradient", {"w": torch.ones(2)}), Update("gradient", {"w": torch.ones(3)})],
}


@pytest.mark.parametrize("case", MISMATCHED)
def test_updates_that_do_not_belong_together_are_not_aggregated(case: str) -> None:
    with pytest.raises(BadConfig):
        aggregate(MISMATCHED[case])


def test_the_mode_of_withheld_training_is_withheld_too() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).train()
    batch = Batch(torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1]))
    update = local_update(model, batch, training=LocalTraining.fedsgd(mode="eval"))
    image = Image(shape=(3, 4, 4))
    assert not ThreatModel.honest_but_curious().observe(model, update, modality=image).model.training
    assert ThreatModel.eavesdropper().observe(model, update, modality=image).model.training


def test_an_update_of_no_example_is_refused() -> None:
    model = _model()
    with pytest.raises(UnfitUpdate, match="names -3 examples"):
        ThreatModel.oracle().observe(model, replace(_sent(model), num_examples=-3), modality=Image(shape=(3, 4, 4)))
