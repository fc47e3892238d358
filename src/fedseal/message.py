"""An update that was sent, as the model's own: by its names, in its order and number format, what is tied taken once.

Files and frameworks differ in how they spell an update; here is the one place where that is settled. What cannot be
settled is refused, and what was changed is said in a note.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fedseal.captured import UNNAMED, match_names
from fedseal.errors import UnfitModel, UnfitUpdate
from fedseal.layout import canonical
from fedseal.mechanism import Mechanism, rounded_to
from fedseal.types import Tensors, Update

SURE = 0.3  # how near to the model's weights, by their own size, an update lies that says itself what it is


@dataclass(frozen=True, eq=False)
class MessageNames:
    """A model's tensors by all of their names: what is tied has several, of which the first counts."""

    model: nn.Module

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters, each once, in the model's order."""
        return dict(self.model.named_parameters())

    @cached_property
    def trainable(self) -> dict[str, nn.Parameter]:
        """What an update holds."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad}

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """All buffers, each once, in the model's order."""
        return dict(self.model.named_buffers())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers."""
        return {**self.parameters, **self.buffers}

    @cached_property
    def first(self) -> dict[str, str]:
        """The name that counts, by each of a tensor's names."""
        first = {id(tensor): name for name, tensor in self.tensors.items()}
        every = [
            *self.model.named_parameters(remove_duplicate=False),
            *self.model.named_buffers(remove_duplicate=False),
        ]
        return {name: first[id(tensor)] for name, tensor in every}

    def of(self, given: Iterable[str]) -> dict[str, str | None]:
        """For each name the one that counts of the tensor that is meant; None if the model has none."""
        return {name: own and self.first[own] for name, own in match_names(given, self.first).items()}

    def in_order(self, tensors: Tensors) -> dict[str, str]:
        """The names that count of tensors without names, which stand in the model's order; empty if they do not."""
        if not tensors or not all(re.fullmatch(UNNAMED.format(r"\d+"), name) for name in tensors):
            return {}
        shapes = [tuple(tensor.shape) for tensor in tensors.values()]
        for names in (list(self.trainable), list(self.parameters), list(self.model.state_dict())):
            own = [self.first.get(name) for name in names]
            if [None if name is None else tuple(self.tensors[name].shape) for name in own] == shapes:
                return {given: name for given, name in zip(tensors, own, strict=True) if name is not None}
        return {}


@dataclass(frozen=True)
class Fitted:
    """An update as the model's own, and what was changed to make it so, as sentences."""

    update: Update
    notes: tuple[str, ...]


def fit(model: nn.Module, state: Tensors, update: Update) -> Fitted:
    """An update by the model's own names, in its order and number formats, what the model does not train left out.

    Names of wrappers (`captured.WRAPPERS`) are taken off, and tensors that stand in a file without names are taken in
    the model's order. Of tied tensors one is kept. Buffers that stand among the tensors, as in a state dict, go to the
    update's buffers, those of a difference added to the state's. A format other than the model's is computed in the
    model's, and where it is coarser noted in `Update.rounding`.

    Args:
        state: the weights that it was computed at, by the model's names.

    Raises:
        UnfitUpdate: it is not this model's, is not finite, is zero everywhere, or holds the model's weights.
        UnfitModel: the model has no trainable parameters.
    """
    names = MessageNames(model)
    if not names.trainable:
        raise UnfitModel("the model has no trainable parameters", "unfreeze some, or attack another model")
    notes: list[str] = []
    called = _called(names, update, notes)
    own = _once(called, update.tensors, notes)
    foreign = [name for name in update.tensors if called[name] is None]
    missing = [name for name in names.trainable if name not in own]
    if missing or foreign:
        raise UnfitUpdate(
            f"the update is not this model's: {_some('it lacks', missing)}{_some('it has the foreign', foreign)}"[:-2],
            "give the model that the client trained, with the same parameter names",
        )
    _check_shapes(names, own)
    frozen = [name for name in names.parameters if name in own and name not in names.trainable]
    if frozen:
        notes.append(f"left out what the model does not train: {_listed(frozen)}")
    computed, rounding = _computed(names, {name: own[name] for name in names.trainable}, notes)
    if all(not bool(tensor.any()) for tensor in computed.values()):
        raise UnfitUpdate("the update is zero everywhere, so it holds nothing to read", "send one from a real step")
    _check_not_weights(computed, state, known=update.training is not None)
    renamed = tuple(replace(step, where=tuple(called.get(n) or n for n in step.where)) for step in update.rounding)
    fitted = replace(
        update, tensors=computed, buffers=_buffers(names, own, state, update, notes), rounding=renamed + rounding
    )
    return Fitted(fitted, tuple(notes))


def fit_state(model: nn.Module, given: Tensors) -> dict[str, Tensor]:
    """Weights and buffers by the model's own names, in its order and formats.

    Buffers that no state dict holds are taken from the model.

    Raises:
        UnfitUpdate: they are another model's.
    """
    names = MessageNames(model)
    called = names.of(given)
    if unnamed := names.in_order(given):
        called = {**called, **unnamed}
    own = _once(called, given, [])
    held = set(model.state_dict())
    own = {**{name: buffer.detach() for name, buffer in names.buffers.items() if name not in held}, **own}
    foreign = [name for name in given if called[name] is None]
    missing = [name for name in names.tensors if name not in own]
    if missing or foreign:
        raise UnfitUpdate(
            f"the weights are not this model's: {_some('they lack', missing)}{_some('they have the foreign', foreign)}"[
                :-2
            ],
            "give all parameters and buffers of the model that the client trained",
        )
    _check_shapes(names, own, "weights'")
    return {name: canonical(own[name].detach().to(tensor.dtype)) for name, tensor in names.tensors.items()}


def _called(names: MessageNames, update: Update, notes: list[str]) -> dict[str, str | None]:
    """The model's name for every tensor of an update."""
    called = names.of(update.tensors)
    if unnamed := names.in_order(update.tensors):
        notes.append("the tensors have no names, and were taken in the model's order")
        return {**called, **unnamed}
    longer = [name for name, own in called.items() if own is not None and name not in names.first]
    if longer:
        had = {part for name in longer for part in name.split(".")}
        kept = {part for name in names.first for part in name.split(".")}
        parts = sorted(had - kept) or sorted(had ^ kept)
        notes.append(f"names differ from the model's by a wrapper ({', '.join(parts)}), which was left aside")
    return called


def _once(called: Mapping[str, str | None], tensors: Tensors, notes: list[str]) -> dict[str, Tensor]:
    """Each tensor once, by the model's name; names of one tensor must hold the same numbers."""
    found: dict[str, Tensor] = {}
    by: dict[str, str] = {}
    for name, own in called.items():
        if own is None:
            continue
        tensor = tensors[name]
        if own in found:
            if found[own].shape != tensor.shape or not torch.equal(found[own], tensor.to(found[own])):
                raise UnfitUpdate(
                    f"'{by[own]}' and '{name}' are one tensor in the model, and hold different numbers",
                    "give the model that the client trained, tied as it was",
                )
            notes.append(f"'{name}' is tied to '{by[own]}', and was taken once")
            continue
        found[own], by[own] = tensor, name
    return found


def _check_shapes(names: MessageNames, own: Tensors, whose: str = "update's") -> None:
    for name, tensor in own.items():
        if tensor.shape != names.tensors[name].shape:
            raise UnfitUpdate(
                f"the {whose} '{name}' has shape {tuple(tensor.shape)}, the model's {tuple(names.tensors[name].shape)}",
                "give the model that the client trained",
            )


def _computed(names: MessageNames, sent: Tensors, notes: list[str]) -> tuple[dict[str, Tensor], tuple[Mechanism, ...]]:
    """The tensors in the model's number formats, and what a coarser format rounded off."""
    made: dict[str, Tensor] = {}
    apart: dict[tuple[torch.dtype, torch.dtype], list[str]] = {}
    for name, tensor in sent.items():
        dtype = names.trainable[name].dtype
        if not tensor.is_floating_point():
            raise UnfitUpdate(f"the update's '{name}' has dtype {tensor.dtype}", "send floating-point tensors")
        if not bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all()):
            raise UnfitUpdate(f"the update's '{name}' holds NaN or infinity", "find out why the client's step diverged")
        made[name] = canonical(tensor.detach().to(dtype))
        if tensor.dtype == dtype:
            continue
        apart.setdefault((tensor.dtype, dtype), []).append(name)
        if not bool(torch.isfinite(made[name]).all()):
            raise UnfitUpdate(
                f"the update's '{name}' goes beyond the model's {_short(dtype)}",
                "give the model in the update's format",
            )
    rounding: list[Mechanism] = []
    for (wire, dtype), which in apart.items():
        step = rounded_to(wire, dtype, () if len(which) == len(sent) else tuple(which))
        said = "" if step is None else ", and taken for the rounding that it is"
        notes.append(f"sent as {_short(wire)}: computed in the model's {_short(dtype)}{said}")
        rounding += [] if step is None else [step]
    return made, tuple(rounding)


def _check_not_weights(sent: Tensors, state: Tensors, *, known: bool) -> None:
    """Refuse an update that lies at the model's own weights: it is what the client had after training.

    A gradient can point along the weights too, in a small model, so that an update must be nearer to the weights than
    either is to 0; one that says which training made it must lie at them closely.
    """
    square = sum(_square(tensor) for tensor in sent.values())
    own = sum(_square(state[name].to(sent[name].device)) for name in sent)
    apart = sum(_square(sent[name] - state[name].to(sent[name].device)) for name in sent)
    if apart < (SURE**2 * own if known else min(square, own)):
        raise UnfitUpdate(
            "the update lies nearer to the model's own weights than to 0: it holds weights after training "
            f"({math.sqrt(apart / own):.2g} of their size away)",
            "load them as such: --kind weights, or Update.load(path, kind='weights', before=model.state_dict())",
        )


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def _buffers(
    names: MessageNames, own: Tensors, state: Tensors, update: Update, notes: list[str]
) -> dict[str, Tensor] | None:
    """What was sent beside the update, by the model's names and in its order and formats."""
    among = {name: tensor for name, tensor in own.items() if name in names.buffers}
    if update.kind == "difference":
        among = {name: state[name].double().to(t.device) + t.double() for name, t in among.items()}
    if among:
        notes.append(f"took for buffers after the step: {_listed(list(among))}")
    if update.buffers is None and not among:
        return None
    sent = update.buffers or {}
    beside = {own or name: sent[name] for name, own in names.of(sent).items()}
    found = {**among, **beside}
    order = [*(name for name in names.buffers if name in found), *(name for name in found if name not in names.buffers)]
    formats = {name: names.buffers[name].dtype if name in names.buffers else found[name].dtype for name in order}
    return {name: canonical(found[name].detach().to(formats[name])) for name in order}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{n}'" for n in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _some(words: str, names: Iterable[str]) -> str:
    listed = _listed(sorted(names))
    return f"{words} {listed}, " if listed else ""
