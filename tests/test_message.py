"""What was sent is the model's own, however it is spelled; what holds something else is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, Update, attack, local_update, zoo
from fedseal.attack.evidence.release import Release
from fedseal.attack.search.label_source import Given
from fedseal.attack.search.matching import GradientMatching, Search
from fedseal.client import state_of
from fedseal.errors import UnfitUpdate
from fedseal.message import fit, fit_state

IMAGE = Image(shape=(1, 4, 4))
FEDSGD = LocalTraining.fedsgd()
STEPS = LocalTraining.fedavg(lr=0.1, epochs=3)
BATCH = Batch(torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0]))
SERVER = ThreatModel.honest_but_curious()


def net(*, norm: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        middle = [nn.BatchNorm2d(2)] if norm else []
        return nn.Sequential(nn.Conv2d(1, 2, 3), *middle, nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))


class Tied(nn.Module):
    """An encoder and a decoder of one matrix, as language models have."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encode, self.head = nn.Linear(16, 6, bias=False), nn.Linear(16, 6, bias=False)
            self.last = nn.Linear(6, 3)
        self.head.weight = self.encode.weight

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return self.last(torch.tanh(self.encode(flat)) + self.head(flat))  # type: ignore[no-any-return]


def observed(model: nn.Module, update: Update, **facts: object) -> Observation:
    return SERVER.observe(model, update, modality=IMAGE, **facts)  # type: ignore[arg-type]


def same(one: Observation, other: Observation) -> bool:
    ours, theirs = one.update.tensors, other.update.tensors
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "order", [sorted, lambda names: sorted(names, reverse=True), lambda names: names[3:] + names[:3]]
)
def test_the_order_of_names_in_a_file_means_nothing(tmp_path: Path, order: Callable[[list[str]], list[str]]) -> None:
    """The same update once from memory and once from a file: two rounds, and the truth explains both."""
    model, sent = net(), local_update(net(), BATCH, training=FEDSGD)
    turned = replace(
        sent,
        tensors={name: sent.tensors[name] for name in order(list(sent.tensors))},
        buffers={name: (sent.buffers or {})[name] for name in order(list(sent.buffers or {}))},
    )
    turned.save(tmp_path / "u.safetensors")
    state = {name: model.state_dict()[name] for name in order(list(model.state_dict()))}
    rounds = [(state_of(model), sent), (state, turned), (state, Update.load(tmp_path / "u.safetensors"))]
    seen = SERVER.observe_rounds(model, rounds, modality=IMAGE)
    names = [name for name, _ in model.named_parameters()]
    for round in seen.rounds:
        assert list(round.update.tensors) == names
        assert list(round.update.buffers or {}) == [name for name, _ in model.named_buffers()]
        assert list(round.state or {}) == list(state_of(model))
    search = Search(
        GradientMatching("truth", start=BATCH.inputs, labels=Given(BATCH.labels)),
        seen,
        torch.Generator().manual_seed(0),
    )
    assert search.value() < 1e-12


WRAPPED: dict[str, Callable[[str], str]] = {
    "DataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "a training framework": lambda name: f"model.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "both, the other way": lambda name: f"_orig_mod.module.{name}",
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name.partition('.')[0]}._fsdp_wrapped_module.{name.partition('.')[2]}",
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_of_wrappers_are_taken_off_with_a_note(wrapper: str) -> None:
    model, sent = net(), local_update(net(), BATCH, training=FEDSGD)
    renamed = {WRAPPED[wrapper](name): tensor for name, tensor in sent.tensors.items()}
    seen = observed(model, Update("gradient", renamed, num_examples=2, training=FEDSGD))
    assert same(seen, observed(model, sent))
    (note,) = seen.notes
    assert "wrapper" in note
    assert WRAPPED[wrapper]("0.w").split(".")[0] in note


def test_a_wrapped_model_takes_an_update_of_the_bare_one() -> None:
    sent = local_update(net(), BATCH, training=FEDSGD)
    wrapped = nn.Sequential()
    wrapped.add_module("module", net())
    seen = observed(wrapped, sent)
    assert list(seen.update.tensors) == [f"module.{name}" for name in sent.tensors]
    assert observed(wrapped, local_update(wrapped, BATCH, training=FEDSGD)).notes == ()


def test_a_wrapped_models_state_is_taken() -> None:
    model = net()
    found = fit_state(model, {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()})
    assert list(found) == list(state_of(model))


@pytest.mark.parametrize("kind", ["gradient", "state dict", "alias alone"])
def test_tied_weights_are_taken_once(kind: str) -> None:
    model, sent = Tied(), local_update(Tied(), BATCH, training=FEDSGD)
    assert "head.weight" not in sent.tensors
    twice = {**sent.tensors, "head.weight": sent.tensors["encode.weight"].clone()}
    if kind == "alias alone":
        del twice["encode.weight"]
    if kind == "state dict":
        twice = {name: twice[name] for name in model.state_dict()}
    seen = observed(model, Update("gradient", twice, training=FEDSGD))
    assert same(seen, observed(model, sent))
    assert any("tied" in note for note in seen.notes) == (kind != "alias alone")


def test_tied_weights_that_differ_are_refused() -> None:
    sent = local_update(Tied(), BATCH, training=FEDSGD)
    with pytest.raises(UnfitUpdate, match=r"'encode\.weight' and 'head\.weight' are one tensor in the model"):
        observed(Tied(), Update("gradient", {**sent.tensors, "head.weight": sent.tensors["encode.weight"] + 1}))


def test_a_state_dict_of_a_tied_model_is_written_and_read(tmp_path: Path) -> None:
    """`Update(tensors=model.state_dict()).save()` raised a bare RuntimeError."""
    model, sent = Tied(), local_update(Tied(), BATCH, training=STEPS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(sent.tensors[name])
    Update("difference", model.state_dict()).save(tmp_path / "u.safetensors")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    assert set(Update.load(tmp_path / "u.safetensors").tensors) == set(model.state_dict())
    moved = Update.load(tmp_path / "w.pt", kind="weights", before=Tied().state_dict())
    seen = observed(Tied(), moved, training=STEPS)
    for name, tensor in seen.update.tensors.items():
        torch.testing.assert_close(tensor, sent.tensors[name], rtol=0, atol=2e-7)


def test_weights_files_hold_what_is_frozen_and_buffered_too(tmp_path: Path) -> None:
    model = net()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    sent = local_update(model, BATCH, training=STEPS)
    after = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in sent.tensors:
        after[name] += sent.tensors[name]
    after.update(sent.buffers or {})
    torch.save(after, tmp_path / "after.pt")
    update = Update.load(tmp_path / "after.pt", kind="weights", before=model.state_dict())
    seen = observed(model, update, training=STEPS)
    assert list(seen.update.tensors) == [n for n, p in model.named_parameters() if p.requires_grad]
    for name, tensor in sent.tensors.items():
        torch.testing.assert_close(seen.update.tensors[name], tensor, rtol=0, atol=2e-7)
    assert seen.update.buffers is not None
    assert sent.buffers is not None
    for name, buffer in sent.buffers.items():
        assert seen.update.buffers[name].dtype == buffer.dtype
        torch.testing.assert_close(seen.update.buffers[name], buffer, rtol=2e-7, atol=2e-7)
    assert [words for note in seen.notes for words in ("frozen", "does not train", "buffers") if words in note] == [
        "does not train", "buffers"
    ]  # fmt: skip


def test_buffers_beside_a_gradient_are_as_they_are() -> None:
    model, sent = net(), local_update(net(), BATCH, training=FEDSGD)
    seen = observed(model, Update("gradient", {**sent.tensors, **(sent.buffers or {})}, training=FEDSGD))
    assert all(torch.equal((seen.update.buffers or {})[name], buffer) for name, buffer in (sent.buffers or {}).items())
    eavesdropper = ThreatModel("deaf", SERVER.grants - {"buffers"})
    assert eavesdropper.observe(model, sent, modality=IMAGE).update.buffers is None


@pytest.mark.parametrize("held", ["trainable", "state dict"])
def test_tensors_without_names_are_taken_in_the_models_order(tmp_path: Path, held: str) -> None:
    model, sent = net(), local_update(net(), BATCH, training=FEDSGD)
    if held == "trainable":
        torch.save(list(sent.tensors.values()), tmp_path / "u.pt")
    else:
        everything = {**sent.tensors, **(sent.buffers or {})}
        torch.save([everything[name] for name in model.state_dict()], tmp_path / "u.pt")
    seen = observed(model, Update.load(tmp_path / "u.pt"), training=FEDSGD)
    assert same(seen, observed(model, sent))
    assert any("no names" in note for note in seen.notes)
    torch.save([*sent.tensors.values()][1:], tmp_path / "u.pt")
    with pytest.raises(UnfitUpdate, match=r"it lacks .* it has the foreign 'arr_0'"):
        observed(model, Update.load(tmp_path / "u.pt"), training=FEDSGD)


FORMATS = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float64: None, torch.float32: None}


@pytest.mark.parametrize("wire", FORMATS)
def test_another_format_is_computed_in_the_models_and_is_a_rounding(wire: torch.dtype) -> None:
    model, sent = net(norm=False), local_update(net(norm=False), BATCH, training=FEDSGD)
    update = replace(sent, tensors={name: tensor.to(wire) for name, tensor in sent.tensors.items()})
    for threat in (SERVER, ThreatModel.eavesdropper(), ThreatModel.unaware()):
        seen = threat.observe(model, update, modality=IMAGE)
        assert {tensor.dtype for tensor in seen.update.tensors.values()} == {torch.float32}
        release, eps = Release(seen), FORMATS[wire]
        assert release.family == ("exact" if eps is None else "interval")
        for name, tensor in sent.tensors.items():
            off = (seen.update.tensors[name] - tensor).double().abs()
            assert bool((off <= release.half_width(name)).all())
        if eps is not None:
            assert [step.figures["eps"] for step in release.steps] == [eps]
            assert any("rounding" in note for note in seen.notes)


@pytest.mark.parametrize("wire", [torch.float16, torch.bfloat16])
def test_a_certificate_counts_with_what_the_format_rounded_off(wire: torch.dtype) -> None:
    model = zoo.mlp(inputs=16, widths=(8,), num_classes=3, seed=0)
    one = Batch(BATCH.inputs[:1], BATCH.labels[:1])
    sent = local_update(model, one, training=FEDSGD)
    rounded = replace(sent, tensors={name: tensor.to(wire) for name, tensor in sent.tensors.items()})
    linear, draws = attack.parse("linear"), torch.Generator().manual_seed(0)
    plain, found = (linear(observed(model, update), generator=draws) for update in (sent, rounded))
    assert plain.certificate is not None
    assert plain.outcome.status == "exact"
    assert found.inputs is not None
    off = float((found.inputs - one.inputs).square().mean().sqrt())
    assert off > 1e-5
    assert found.certificate is None or found.certificate.tolerance > 20 * plain.certificate.tolerance
    assert off < 1e-2 or not bool(found.certain.any())


def test_numbers_beyond_the_models_format_are_refused() -> None:
    model = net(norm=False).half()
    sent = local_update(net(norm=False), BATCH, training=FEDSGD)
    with pytest.raises(UnfitUpdate, match="goes beyond the model's float16; give the model in the update's format"):
        observed(model, replace(sent, tensors={name: 1e7 * tensor for name, tensor in sent.tensors.items()}))


@pytest.mark.parametrize("said", ["gradient", "difference"])
@pytest.mark.parametrize("known", [False, True])
def test_weights_that_are_called_something_else_are_refused_with_the_remedy(said: str, known: bool) -> None:
    model, sent = net(), local_update(net(), BATCH, training=STEPS)
    after = {name: parameter.detach() + sent.tensors[name] for name, parameter in model.named_parameters()}
    training = FEDSGD if said == "gradient" else STEPS
    update = Update(said, after, training=training if known else None)  # type: ignore[arg-type]
    for whole in (update, replace(update, tensors={**model.state_dict(), **after})):
        with pytest.raises(
            UnfitUpdate, match=r"nearer to the model's own weights .*; load them as such: --kind weights"
        ):
            observed(model, whole, training=training)


@pytest.mark.parametrize("training", [FEDSGD, STEPS, LocalTraining.fedavg(lr=0.5, epochs=20)], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_no_real_update_is_taken_for_weights(training: LocalTraining, scale: float) -> None:
    """Large gradients point along small weights now and then; none lies near them."""
    for seed in range(30):
        widths = (2,) if seed % 2 else (8, 8)
        model = zoo.mlp(inputs=16, widths=widths, num_classes=2 + seed % 3, seed=seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        labels = torch.arange(2) % (2 + seed % 3)
        sent = local_update(model, Batch(BATCH.inputs, labels), training=training)
        values = torch.cat([tensor.flatten() for tensor in sent.tensors.values()])
        if bool(values.isfinite().all()) and bool(values.any()):
            observed(model, sent)
            observed(model, replace(sent, training=None), training=training)


def test_a_state_that_is_another_models_is_refused() -> None:
    model, sent = net(), local_update(net(), BATCH, training=FEDSGD)
    state = state_of(model)
    for bad, said in (
        ({name: tensor for name, tensor in state.items() if name != "0.bias"}, r"they lack '0\.bias'"),
        ({**state, "other": torch.ones(1)}, "they have the foreign 'other'"),
        ({**state, "0.bias": torch.ones(3)}, r"the weights' '0\.bias' has shape \(3,\)"),
    ):
        with pytest.raises(UnfitUpdate, match=said):
            SERVER.observe_rounds(model, [(bad, sent)], modality=IMAGE)


def test_buffers_that_no_state_dict_holds_are_the_models() -> None:
    model = net()
    model.register_buffer("scale", torch.full((2,), 3.0), persistent=False)
    assert fit_state(model, model.state_dict())["scale"].tolist() == [3.0, 3.0]


def test_an_update_that_fits_is_handed_on_without_a_note(tmp_path: Path) -> None:
    model, sent = net(), local_update(net(), BATCH, training=FEDSGD)
    assert fit(model, state_of(model), sent).notes == ()
    save_file(dict(sent.tensors), tmp_path / "u.safetensors")
    assert fit(model, state_of(model), Update.load(tmp_path / "u.safetensors")).notes == ()
