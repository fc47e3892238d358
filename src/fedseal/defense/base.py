"""A defense is three pure hooks on the client's way from batch to update; `chain` composes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from fedseal.mechanism import Mechanism
from fedseal.types import Batch, Defense, Tensors, Update


@dataclass(frozen=True)
class Hooks:
    """A named defense; every hook left out is the identity.

    Hooks take the value and the client's generator, and return a new value.

    Args:
        name: the specification that `parse` reads back.
        public: its steps as an attacker who has read the source knows them; what it draws is not among them.
        feedback: what it takes from one update is added to the client's next, by whoever runs several rounds.
    """

    name: str
    public: tuple[Mechanism, ...] = ()
    batch: Callable[[Batch, torch.Generator], Batch] = field(default=lambda batch, _: batch, repr=False)
    example_grads: Callable[[Tensors, torch.Generator], Tensors] | None = field(default=None, repr=False)
    update: Callable[[Update, torch.Generator], Update] = field(default=lambda update, _: update, repr=False)
    model: Callable[[nn.Module], nn.Module] = field(default=lambda model: model, repr=False)
    feedback: bool = False

    @property
    def per_example(self) -> bool:
        """Whether single examples' gradients are changed."""
        return self.example_grads is not None

    def on_model(self, model: nn.Module) -> nn.Module:
        """The model that clients train in place of the given one."""
        return self.model(model)

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change the examples before training."""
        return self.batch(batch, generator)

    def on_example_grads(self, grads: Tensors, generator: torch.Generator) -> Tensors:
        """Change single examples' gradients, `(N, *parameter.shape)` each, before they are averaged."""
        return grads if self.example_grads is None else self.example_grads(grads, generator)

    def on_update(self, update: Update, generator: torch.Generator) -> Update:
        """Change the finished update."""
        return self.update(update, generator)


def none() -> Defense:
    """No defense: the update as the training made it."""
    return Hooks("none")


def chain(*defenses: Defense) -> Defense:
    """Run defenses one after the other, each hook in the order given.

    >>> from fedseal import defense
    >>> defense.chain(defense.prune(0.5), defense.gaussian(1e-3)).name
    'prune:0.5+gaussian:0.001'
    """

    def batch(value: Batch, generator: torch.Generator) -> Batch:
        for defense in defenses:
            value = defense.on_batch(value, generator)
        return value

    def example_grads(value: Tensors, generator: torch.Generator) -> Tensors:
        for defense in defenses:
            value = defense.on_example_grads(value, generator)
        return value

    def update(value: Update, generator: torch.Generator) -> Update:
        for defense in defenses:
            value = defense.on_update(value, generator)
        return value

    def model(value: nn.Module) -> nn.Module:
        for defense in defenses:
            value = defense.on_model(value)
        return value

    return Hooks(
        "+".join(defense.name for defense in defenses),
        tuple(step for defense in defenses for step in defense.public),
        batch,
        example_grads if any(d.per_example for d in defenses) else None,
        update,
        model,
        any(d.feedback for d in defenses),
    )
