"""What holds for every defense: inputs untouched, the generator decides, the name reads back, a chain is its parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedseal import Batch, Update, defense, local_update
from fedseal.client import architecture, state_of
from fedseal.types import Defense, LocalStep, Tensors
from laws.tables import DEFENSES, SETTINGS, STRENGTHS, parts, same, snapshot

SETTING = SETTINGS["batch norm, local steps"]
BATCH = SETTING.batch()
UPDATE = local_update(SETTING.model, BATCH, training=SETTING.training)
GRADS = {name: torch.stack([tensor, 2 * tensor, -tensor]) for name, tensor in UPDATE.tensors.items()}
STEP = LocalStep(0, architecture(SETTING.model, SETTING.training), state_of(SETTING.model), BATCH.inputs, BATCH.labels)
INPUTS = [BATCH.inputs, BATCH.labels, GRADS, parts(UPDATE), STEP.state, state_of(SETTING.model)]
NOISE = {"gaussian", "gaussian_sum", "laplace", "levels", "random_mask"}


def _hooks(value: Defense, seed: int = 0) -> list[object]:
    """Each hook's result, each from a fresh generator; of a defense that knows its model."""
    value = value.fit(value.on_model(SETTING.model))
    generators = [torch.Generator().manual_seed(seed) for _ in range(4)]
    batch = value.on_batch(BATCH, generators[0])
    return [
        [batch.inputs, batch.labels],
        dict(value.on_example_grads(GRADS, generators[1])),
        dict(value.on_gradient(UPDATE.tensors, STEP, generators[2])),
        parts(value.on_update(UPDATE, generators[3])),
        dict(value.on_model(SETTING.model).named_parameters()),
    ]


def test_every_defense_has_a_row_here() -> None:
    assert STRENGTHS.keys() == defense.DEFENSES.keys()


@pytest.mark.parametrize("name", DEFENSES)
def test_what_goes_in_is_untouched(name: str) -> None:
    before = snapshot(INPUTS)
    _hooks(DEFENSES[name])
    assert same(INPUTS, before)
    assert same(state_of(SETTING.model), INPUTS[-1])


@pytest.mark.parametrize("name", DEFENSES)
def test_the_same_generator_gives_the_same_answer_and_the_world_is_left_alone(name: str) -> None:
    world = torch.get_rng_state()
    assert same(_hooks(DEFENSES[name], seed=5), _hooks(DEFENSES[name], seed=5))
    assert torch.equal(torch.get_rng_state(), world)


@pytest.mark.parametrize("name", [n for n in DEFENSES if n != "none"])
def test_a_defense_changes_something_and_keeps_the_updates_shapes_dtypes_and_facts(name: str) -> None:
    value = DEFENSES[name]
    out = value.on_update(UPDATE, torch.Generator().manual_seed(0))
    assert not same(_hooks(value), _hooks(defense.none()))
    if value.changes_update:
        assert any(not torch.equal(out.tensors[n], UPDATE.tensors[n]) for n in UPDATE.tensors)
    assert _shapes(out.tensors) == _shapes(UPDATE.tensors)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in out.tensors.values())
    assert (out.kind, out.num_examples, out.num_clients) == (UPDATE.kind, UPDATE.num_examples, UPDATE.num_clients)


@pytest.mark.parametrize("name", [n for n in DEFENSES if DEFENSES[n].per_example])
def test_single_gradients_keep_their_shapes_and_each_examples_is_its_own(name: str) -> None:
    out = DEFENSES[name].on_example_grads(GRADS, torch.Generator().manual_seed(0))
    assert _shapes(out) == _shapes(GRADS)
    alone = [
        DEFENSES[name].on_example_grads({n: g[i : i + 1] for n, g in GRADS.items()}, torch.Generator()) for i in (0, 1)
    ]
    assert all(torch.equal(out[n][i], alone[i][n][0]) for n in GRADS for i in (0, 1))


@pytest.mark.parametrize("name", [n for n in DEFENSES if n != "none"])
def test_a_defense_names_its_steps_and_draws_if_they_say_so(name: str) -> None:
    value = DEFENSES[name].fit(DEFENSES[name].on_model(SETTING.model))
    assert value.public
    if NOISE & {step.kind for step in value.public}:
        assert not same(_hooks(value, seed=1), _hooks(value, seed=2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_answers_in_the_updates_dtype(name: str, dtype: torch.dtype) -> None:
    cast = Update("gradient", {n: t.to(dtype) for n, t in UPDATE.tensors.items()}, num_examples=2)
    out = DEFENSES[name].on_update(cast, torch.Generator().manual_seed(0))
    assert {tensor.dtype for tensor in out.tensors.values()} == {dtype}


@pytest.mark.parametrize("name", DEFENSES)
def test_the_name_reads_back_as_the_same_defense(name: str) -> None:
    value, again = DEFENSES[name], defense.parse(DEFENSES[name].name)
    assert (again.name, again.public, again.feedback) == (value.name, value.public, value.feedback)
    assert defense.needs_batch(again) == defense.needs_batch(value)
    assert again.guarantee == value.guarantee
    assert same(_hooks(again), _hooks(DEFENSES[name]))


def test_none_is_the_identity() -> None:
    model = dict(SETTING.model.named_parameters())
    assert same(
        _hooks(defense.none()), [[BATCH.inputs, BATCH.labels], GRADS, dict(UPDATE.tensors), parts(UPDATE), model]
    )
    plain = local_update(SETTING.model, BATCH, training=SETTING.training)
    guarded = local_update(
        SETTING.model, BATCH, training=SETTING.training, defense=defense.none(), generator=torch.Generator()
    )
    assert same(parts(plain), parts(guarded))


def _shift(amount: float) -> Defense:
    """A defense with all four hooks, none of which commutes with the next."""

    def tensors(values: Tensors, generator: torch.Generator) -> dict[str, Tensor]:
        return {n: (t + amount + torch.rand((), generator=generator)) * amount for n, t in values.items()}

    return defense.Hooks(
        f"shift:{amount:g}",
        batch=lambda batch, _: Batch((batch.inputs + amount) * amount, batch.labels),
        example_grads=tensors,
        gradient=lambda grads, _, generator: tensors(grads, generator),
        update=lambda update, generator: Update(update.kind, tensors(update.tensors, generator)),
    )


@pytest.mark.parametrize(
    "names",
    [
        ("prune", "gaussian"),
        ("gaussian", "prune"),
        ("none", "gaussian"),
        ("prune",),
        (),
        ("dpsgd", "laplace", "int8"),
        ("clip", "gaussian", "float16", "sign"),
    ],
)
def test_a_chain_is_the_manual_sequence(names: tuple[str, ...]) -> None:
    _assert_sequence([DEFENSES[name] for name in names])


def test_a_chain_runs_all_hooks_in_order_with_one_generator() -> None:
    _assert_sequence([_shift(2.0), _shift(3.0)])
    _assert_sequence([_shift(3.0), defense.chain(_shift(2.0), defense.none()), _shift(5.0)])


def _assert_sequence(values: list[Defense]) -> None:
    generators = [torch.Generator().manual_seed(0) for _ in range(4)]
    batch, grads, mean, update = BATCH, GRADS, dict(UPDATE.tensors), UPDATE
    for value in values:
        batch = value.on_batch(batch, generators[0])
        grads = dict(value.on_example_grads(grads, generators[1]))
        mean = dict(value.on_gradient(mean, STEP, generators[2]))
        update = value.on_update(update, generators[3])
    model = dict(SETTING.model.named_parameters())
    assert same(_hooks(defense.chain(*values)), [[batch.inputs, batch.labels], grads, mean, parts(update), model])


def _shapes(tensors: Tensors) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
