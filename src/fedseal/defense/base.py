"""A defense is four pure hooks on the client's way from batch to update, and one on the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from fedseal.defense.accounting import Guarantee, Privacy
from fedseal.errors import BadConfig
from fedseal.mechanism import Mechanism
from fedseal.types import Batch, Defense, LocalStep, Tensors, Update


def unchanged(batch: Batch, generator: torch.Generator) -> Batch:
    """The examples as they are; the default of `Hooks.batch`."""
    return batch


def untouched(update: Update, generator: torch.Generator) -> Update:
    """The update as it is; the default of `Hooks.update`."""
    return update


def _same_model(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class Hooks:
    """A named defense; every hook left out is the identity.

    Hooks take the value and the client's generator, and return a new value.

    Args:
        name: the specification that `parse` reads back.
        public: its steps as an attacker who has read the source knows them; what it draws is not among them.
        feedback: what it takes from one update is added to the client's next, by whoever runs several rounds.
        guarantee: the differential privacy that it gives in one round; None where it promises none.
        gradient: changes each local step's mean gradient; None where it is left alone.
        fitted: makes the defense anew for the model that is trained; None where it is the same for all.
    """

    name: str
    public: tuple[Mechanism, ...] = ()
    batch: Callable[[Batch, torch.Generator], Batch] = field(default=unchanged, repr=False)
    example_grads: Callable[[Tensors, torch.Generator], Tensors] | None = field(default=None, repr=False)
    update: Callable[[Update, torch.Generator], Update] = field(default=untouched, repr=False)
    model: Callable[[nn.Module], nn.Module] = field(default=_same_model, repr=False)
    feedback: bool = False
    guarantee: Guarantee | None = None
    gradient: Callable[[Tensors, LocalStep, torch.Generator], Tensors] | None = field(default=None, repr=False)
    fitted: Callable[[nn.Module], Defense] | None = field(default=None, repr=False)

    @property
    def per_example(self) -> bool:
        """Whether single examples' gradients are changed."""
        return self.example_grads is not None

    @property
    def per_batch(self) -> bool:
        """Whether the examples, or their gradients, are changed before there is an update."""
        return self.per_example or self.per_step or self.changes_batch

    @property
    def changes_batch(self) -> bool:
        """Whether the examples are changed before training."""
        return self.batch is not unchanged

    @property
    def changes_update(self) -> bool:
        """Whether the finished update is changed."""
        return self.update is not untouched

    def privacy(self, steps: int = 1) -> Privacy | None:
        """The (epsilon, delta) that so many updates of one client keep; None where the defense guarantees none.

        Raises:
            MissingExtra: dp-accounting is not installed.
        """
        return None if self.guarantee is None else self.guarantee.after(steps)

    def on_model(self, model: nn.Module) -> nn.Module:
        """The model that clients train in place of the given one."""
        return self.model(model)

    def fit(self, model: nn.Module) -> Defense:
        """The same defense, knowing the model that is trained."""
        return self if self.fitted is None else self.fitted(model)

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change the examples before training."""
        return self.batch(batch, generator)

    def on_example_grads(self, grads: Tensors, generator: torch.Generator) -> Tensors:
        """Change single examples' gradients, `(N, *parameter.shape)` each, before they are averaged."""
        return grads if self.example_grads is None else self.example_grads(grads, generator)

    @property
    def per_step(self) -> bool:
        """Whether the gradients of local steps are changed."""
        return self.gradient is not None

    def on_gradient(self, grads: Tensors, step: LocalStep, generator: torch.Generator) -> Tensors:
        """Change the mean gradient of one local step before it is used."""
        return grads if self.gradient is None else self.gradient(grads, step, generator)

    def on_update(self, update: Update, generator: torch.Generator) -> Update:
        """Change the finished update."""
        return self.update(update, generator)


def none() -> Defense:
    """No defense: the update as the training made it."""
    return Hooks("none")


def hooks_of(defense: Defense) -> Hooks:
    """Any defense as hooks: the door where one that is written elsewhere comes in, its guarantee with it.

    One that was written before `Defense` asked for these promises nothing, and is taken to change batch and update.

    Raises:
        BadConfig: a guarantee whose figures are out of range.
    """
    promise = getattr(defense, "guarantee", None)
    if promise is not None:
        promise = Guarantee(promise.noise_multiplier, promise.sample_rate, promise.delta, promise.unit)
    return Hooks(
        defense.name,
        defense.public,
        batch=defense.on_batch if getattr(defense, "changes_batch", True) else unchanged,
        example_grads=defense.on_example_grads if defense.per_example else None,
        update=defense.on_update if getattr(defense, "changes_update", True) else untouched,
        model=defense.on_model,
        feedback=defense.feedback,
        guarantee=promise,
        gradient=defense.on_gradient if defense.per_step else None,
        fitted=defense.fit,
    )


def needs_batch(defense: Defense) -> bool:
    """Whether it acts on examples or on their single gradients, so that a finished update comes too late for it.

    >>> from fedseal import defense
    >>> [needs_batch(defense.parse(name)) for name in ("prune:0.5", "dpsgd:1", "dpsgd:1+prune:0.5")]
    [False, True, True]
    """
    return hooks_of(defense).per_batch


def figure(value: float) -> str:
    """A number as names of defenses hold it: the shortest that reads back as the same, and without a "+".

    >>> figure(0.5), figure(1.0), figure(1e-5), figure(1e20)
    ('0.5', '1', '1e-05', '1e20')
    """
    return repr(float(value)).removesuffix(".0").replace("e+", "e")


def positive(what: str, value: float, *, most: float = 1e10) -> None:
    """Check a strength.

    Raises:
        BadConfig: not a number above 0, or beyond all sense.

    >>> positive("a clip to the norm", -1)
    Traceback (most recent call last):
        ...
    fedseal.errors.BadConfig: a clip to the norm -1; give a positive number, 1e+10 at most
    """
    if not 0 < value <= most:
        raise BadConfig(f"{what} {value}", f"give a positive number, {most:g} at most")


def fraction(what: str, value: float) -> None:
    """Check a share of entries.

    Raises:
        BadConfig: not above 0 and below 1.
    """
    if not 0 < value < 1:
        raise BadConfig(f"{what} {value}", "give a number above 0 and below 1")
