"""What holds for every defense: inputs untouched, the generator decides, the name reads back, a chain is its parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedseal import Batch, Update, defense, local_update
from fedseal.types import Defense, Tensors
from laws.tables import DEFENSES, SETTINGS, STRENGTHS, parts, same, snapshot

SETTING = SETTINGS["batch norm, local steps"]
BATCH = SETTING.batch()
UPDATE = local_update(SETTING.model, BATCH, training=SETTING.training)
GRADS = {name: torch.stack([tensor, 2 * tensor, -tensor]) for name, tensor in UPDATE.tensors.items()}


def _hooks(value: Defense, seed: int = 0) -> list[object]:
    """Each hook's result, each from a fresh generator."""
    generators = [torch.Generator().manual_seed(seed) for _ in range(3)]
    batch = value.on_batch(BATCH, generators[0])
    return [
        [batch.inputs, batch.labels],
        dict(value.on_example_grads(GRADS, generators[1])),
        parts(value.on_update(UPDATE, generators[2])),
    ]


def test_every_defense_has_a_row_here() -> None:
    assert STRENGTHS.keys() == defense.DEFENSES.keys()


@pytest.mark.parametrize("name", DEFENSES)
def test_what_goes_in_is_untouched(name: str) -> None:
    before = snapshot([BATCH.inputs, BATCH.labels, GRADS, parts(UPDATE)])
    _hooks(DEFENSES[name])
    assert same([BATCH.inputs, BATCH.labels, GRADS, parts(UPDATE)], before)


@pytest.mark.parametrize("name", DEFENSES)
def test_the_same_generator_gives_the_same_answer_and_the_world_is_left_alone(name: str) -> None:
    world = torch.get_rng_state()
    assert same(_hooks(DEFENSES[name], seed=5), _hooks(DEFENSES[name], seed=5))
    assert torch.equal(torch.get_rng_state(), world)


@pytest.mark.parametrize("name", [n for n in DEFENSES if n != "none"])
def test_a_defense_changes_the_update_and_keeps_its_shapes_dtypes_and_facts(name: str) -> None:
    out = DEFENSES[name].on_update(UPDATE, torch.Generator().manual_seed(0))
    assert any(not torch.equal(out.tensors[n], UPDATE.tensors[n]) for n in UPDATE.tensors)
    assert _shapes(out.tensors) == _shapes(UPDATE.tensors)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in out.tensors.values())
    assert (out.kind, out.num_examples, out.num_clients) == (UPDATE.kind, UPDATE.num_examples, UPDATE.num_clients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_answers_in_the_updates_dtype(name: str, dtype: torch.dtype) -> None:
    cast = Update("gradient", {n: t.to(dtype) for n, t in UPDATE.tensors.items()})
    out = DEFENSES[name].on_update(cast, torch.Generator().manual_seed(0))
    assert {tensor.dtype for tensor in out.tensors.values()} == {dtype}


@pytest.mark.parametrize("name", DEFENSES)
def test_the_name_reads_back_as_the_same_defense(name: str) -> None:
    again = defense.parse(DEFENSES[name].name)
    assert again.name == DEFENSES[name].name
    assert same(_hooks(again), _hooks(DEFENSES[name]))


def test_none_is_the_identity() -> None:
    assert same(_hooks(defense.none()), [[BATCH.inputs, BATCH.labels], GRADS, parts(UPDATE)])
    plain = local_update(SETTING.model, BATCH, training=SETTING.training)
    guarded = local_update(
        SETTING.model, BATCH, training=SETTING.training, defense=defense.none(), generator=torch.Generator()
    )
    assert same(parts(plain), parts(guarded))


def _shift(amount: float) -> Defense:
    """A defense with all three hooks, none of which commutes with the next."""

    def tensors(values: Tensors, generator: torch.Generator) -> dict[str, Tensor]:
        return {n: (t + amount + torch.rand((), generator=generator)) * amount for n, t in values.items()}

    return defense.Hooks(
        f"shift:{amount:g}",
        batch=lambda batch, _: Batch((batch.inputs + amount) * amount, batch.labels),
        example_grads=tensors,
        update=lambda update, generator: Update(update.kind, tensors(update.tensors, generator)),
    )


@pytest.mark.parametrize("names", [("prune", "gaussian"), ("gaussian", "prune"), ("none", "gaussian"), ("prune",), ()])
def test_a_chain_is_the_manual_sequence(names: tuple[str, ...]) -> None:
    _assert_sequence([DEFENSES[name] for name in names])


def test_a_chain_runs_all_three_hooks_in_order_with_one_generator() -> None:
    _assert_sequence([_shift(2.0), _shift(3.0)])
    _assert_sequence([_shift(3.0), defense.chain(_shift(2.0), defense.none()), _shift(5.0)])


def _assert_sequence(values: list[Defense]) -> None:
    generators = [torch.Generator().manual_seed(0) for _ in range(3)]
    batch, grads, update = BATCH, GRADS, UPDATE
    for value in values:
        batch = value.on_batch(batch, generators[0])
        grads = dict(value.on_example_grads(grads, generators[1]))
        update = value.on_update(update, generators[2])
    assert same(_hooks(defense.chain(*values)), [[batch.inputs, batch.labels], grads, parts(update)])


def _shapes(tensors: Tensors) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
