"""A defense that is no `Hooks` stands wherever one of the library's does, and its guarantee with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from fedseal import Batch, LocalTraining, Update, defense, local_update, zoo
from fedseal.client import state_of
from fedseal.defense.base import hooks_of
from fedseal.errors import BadConfig
from fedseal.federation.local import sample_rate, split, train
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, LocalStep, NoiseGuarantee, Tensors
from laws.tables import DEFENSES, parts, same

NEW = ("guarantee", "changes_batch", "changes_update")  # members that the protocol once did not have


class Elsewhere:
    """Another defense's members, and none of its type."""

    def __init__(self, inner: Defense, without: tuple[str, ...] = ()) -> None:
        self._inner, self._without = inner, without

    def __getattr__(self, member: str) -> Any:
        if member in self._without:
            raise AttributeError(member)
        return getattr(self._inner, member)


def foreign(inner: Defense, *without: str) -> Defense:
    return cast("Defense", Elsewhere(inner, without))


class Quiet:
    """All members written out: what mypy holds a class of one's own to."""

    name = "quiet"
    public: tuple[Mechanism, ...] = ()
    feedback = False
    guarantee: NoiseGuarantee | None = None
    changes_batch = changes_update = per_example = per_step = False

    def on_model(self, model: torch.nn.Module) -> torch.nn.Module:
        return model

    def fit(self, model: torch.nn.Module) -> Defense:
        return self

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        return batch

    def on_example_grads(self, grads: Tensors, generator: torch.Generator) -> Tensors:
        return grads

    def on_gradient(self, grads: Tensors, step: LocalStep, generator: torch.Generator) -> Tensors:
        return grads

    def on_update(self, update: Update, generator: torch.Generator) -> Update:
        return update


@pytest.mark.parametrize("name", DEFENSES)
def test_as_hooks_it_says_and_does_the_same(name: str) -> None:
    inner = DEFENSES[name]
    made = hooks_of(foreign(inner))
    for member in ("name", "public", "feedback", "per_example", "per_step", *NEW):
        assert getattr(made, member) == getattr(inner, member)
    assert defense.needs_batch(foreign(inner)) == defense.needs_batch(inner)
    assert sample_rate(foreign(inner)) == sample_rate(inner)
    assert hooks_of(made).changes_update == inner.changes_update


@pytest.mark.parametrize("without", [(), NEW])
@pytest.mark.parametrize("specification", ["dpsgd:1,clip=0.1", "mixup:1", "soteria:0.5", "prune:0.5"])
def test_a_client_and_a_chain_run_it(specification: str, without: tuple[str, ...]) -> None:
    inner, model, batch = defense.parse(specification), zoo.lenet(size=8, width=4), zoo.photos(size=8)[:3]

    def sent(shield: Defense) -> object:
        draws = torch.Generator().manual_seed(0)
        return parts(local_update(model, batch, training=LocalTraining.fedsgd(), defense=shield, generator=draws))

    assert same(sent(inner), sent(foreign(inner, *without)))
    assert same(sent(inner), sent(defense.chain(foreign(inner, *without))))


def test_a_federation_draws_as_its_guarantee_asks() -> None:
    data, model = zoo.fashion_mnist()[:24], zoo.mlp(widths=(4,))
    inner = defense.dpsgd(0.5, clip=1.0, sample_rate=0.5)

    def trained(shield: Defense) -> object:
        draws = torch.Generator().manual_seed(0)
        rounds = train(
            model, split(data, 2), training=LocalTraining.fedsgd(), rounds=2, generator=draws, defense=shield
        )
        return state_of(list(rounds)[-1])

    assert same(trained(inner), trained(foreign(inner)))
    assert not same(trained(inner), trained(foreign(inner, "guarantee")))


def _mixing(batch: Batch, generator: torch.Generator) -> Batch:
    return batch


MIX = defense.Hooks("mix:2", (Mechanism("mixed", {"examples": 2}),), batch=_mixing)
PRIVATE = defense.dpsgd(1.0, clip=1.0)
CLIENT = defense.chain(defense.clip(1.0), defense.gaussian(2.0))


@pytest.mark.parametrize("inner", [PRIVATE, CLIENT])
@pytest.mark.parametrize("around", [foreign, lambda part: part])
def test_a_chain_keeps_its_guarantee(inner: Defense, around: Callable[[Defense], Defense]) -> None:
    assert defense.chain(foreign(inner), around(defense.prune(0.5))).guarantee == inner.guarantee is not None
    assert defense.chain(Quiet(), foreign(inner), Quiet()).guarantee == inner.guarantee


def test_a_chain_refuses_what_voids_it() -> None:
    with pytest.raises(BadConfig, match=r"'mix:2' before 'dpsgd:1,clip=1' voids .* it mixes people's examples"):
        defense.chain(MIX, foreign(PRIVATE))
    with pytest.raises(BadConfig, match="'dpsgd:1,clip=1' and 'dpsgd:1,clip=1' each account for their own noise"):
        defense.chain(foreign(PRIVATE), foreign(PRIVATE))
    with pytest.raises(BadConfig, match="a sample rate of 2"):
        defense.chain(foreign(defense.Hooks("wrong", guarantee=cast("Any", _Wrong()))))


class _Wrong:
    noise_multiplier, sample_rate, delta, unit = 1.0, 2.0, 1e-5, "example"


def test_the_unit_decides_what_voids_a_guarantee_and_not_the_hook_that_keeps_it() -> None:
    """Who promises each example its privacy by noise on the update alone is voided by mixing as DP-SGD is."""
    own = defense.Hooks("own", PRIVATE.public, update=lambda update, _: update, guarantee=defense.Guarantee(1.0))
    with pytest.raises(BadConfig, match="it mixes people's examples"):
        defense.chain(MIX, own)
    single = defense.Hooks("single", (Mechanism("clip_examples", {"norm": 1.0}),), example_grads=lambda grads, _: grads)
    client = defense.chain(single, defense.clip(1.0), defense.gaussian(2.0))
    assert defense.chain(MIX, client).guarantee == defense.Guarantee(1.0, unit="client")


def test_one_that_does_not_say_what_it_changes_is_taken_to_change_all() -> None:
    silent = foreign(defense.prune(0.5), *NEW)
    assert defense.needs_batch(silent)
    assert hooks_of(silent).changes_update
    assert hooks_of(foreign(PRIVATE, *NEW)).guarantee is None
    with pytest.raises(BadConfig, match="cannot be shown to treat each by itself"):
        defense.chain(PRIVATE, silent)
