"""Defenses one after the other, and which orders would break what one of them promises.

Every hook of a chain runs through all parts before the next hook starts: first all changes of the batch, then all of
single gradients, of their mean, and of the update, each in the order given. For DP-SGD that means:

- what changes the batch, wherever it stands, comes before the clipping; it voids the clip where it mixes people's
  examples, and is refused wherever it could;
- what runs on the update before the noise must not let one example count for more than the clip: independent noise, a
  mask drawn without the data, and a clip of the whole (a projection) do not; choosing, rounding and signs do;
- what runs after the noise may do anything that uses the noisy update alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from fedseal.defense.accounting import Guarantee
from fedseal.defense.base import Hooks, hooks_of, unchanged, untouched
from fedseal.errors import BadConfig
from fedseal.mechanism import Kept, Mechanism
from fedseal.types import Batch, Defense, LocalStep, Tensors, Update


def chain(*defenses: Defense) -> Hooks:
    """Run defenses one after the other, each hook in the order given.

    A chain keeps the guarantee of the part that has one, such as DP-SGD, if all others leave it whole; parts that list
    no mechanism cannot be vouched for, and the chain then has none. A clip of the update followed by Gaussian noise of
    `sigma` is a Gaussian mechanism for the client's whole data, of noise multiplier `sigma / (2 norm)`: two clipped
    updates are at most two norms apart.

    Raises:
        BadConfig: an order that voids the guarantee, or noise that feedback would take back in the next round.

    >>> from fedseal import defense
    >>> defense.chain(defense.prune(0.5), defense.gaussian(1e-3)).name
    'prune:0.5+gaussian:0.001'
    """
    parts = [hooks_of(defense) for defense in defenses]

    def batch(value: Batch, generator: torch.Generator) -> Batch:
        for part in parts:
            value = part.on_batch(value, generator)
        return value

    def example_grads(value: Tensors, generator: torch.Generator) -> Tensors:
        for part in parts:
            value = part.on_example_grads(value, generator)
        return value

    def gradient(value: Tensors, step: LocalStep, generator: torch.Generator) -> Tensors:
        for part in parts:
            value = part.on_gradient(value, step, generator)
        return value

    def update(value: Update, generator: torch.Generator) -> Update:
        for part in parts:
            value = part.on_update(value, generator)
        return value

    def model(value: nn.Module) -> nn.Module:
        for part in parts:
            value = part.on_model(value)
        return value

    _check_feedback(parts)
    _check_clip_comes_first(parts)
    return Hooks(
        "+".join(part.name for part in parts) or "none",
        tuple(step for part in parts for step in part.public),
        batch if any(part.changes_batch for part in parts) else unchanged,
        example_grads if any(part.per_example for part in parts) else None,
        update if any(part.changes_update for part in parts) else untouched,
        model,
        any(part.feedback for part in parts),
        _of_part(parts) or _of_client(parts),
        gradient if any(part.per_step for part in parts) else None,
        lambda model: chain(*(part.fit(model) for part in parts)),
    )


def _check_feedback(parts: Sequence[Hooks]) -> None:
    noisy = [part.name for part in parts if any(step.facts.effect == "noise" for step in part.public)]
    if noisy and any(part.feedback for part in parts):
        raise BadConfig(
            f"error feedback beside '{noisy[0]}': what a client adds to its next update is what this one lost, and the "
            "noise with the opposite sign, so that over rounds the noise cancels",
            "write topk:FRACTION,feedback=false, or leave out one of the two",
        )


def _check_clip_comes_first(parts: Sequence[Hooks]) -> None:
    """Refuse update noise whose size a later clip was to justify."""
    steps = [step for part in parts for step in part.public]
    private = any(part.guarantee is not None for part in parts)
    independent = (place for place, step in enumerate(steps) if _independent_noise(step))
    noise, clips = next(independent, None), [place for place, step in enumerate(steps) if step.kind == "clip"]
    if noise is not None and not private and clips and clips[0] > noise:
        raise BadConfig(
            f"{steps[noise].kind} noise before the clip: the noise goes onto an update of any length, so that no noise "
            "is large enough for a guarantee, and the clip then only shrinks both",
            "clip first: clip:NORM+gaussian:SIGMA",
        )


def _independent_noise(step: Mechanism) -> bool:
    return step.facts.effect == "noise" and "sensitivity" in step.facts.keeps


def _of_part(parts: Sequence[Hooks]) -> Guarantee | None:
    """The guarantee of the part that has one, if all others leave it whole.

    Raises:
        BadConfig: one of them voids it.
    """
    given = [place for place, part in enumerate(parts) if part.guarantee is not None]
    if not given:
        return None
    if len(given) > 1:
        raise BadConfig(
            f"'{parts[given[0]].name}' and '{parts[given[1]].name}' each account for their own noise alone",
            "name one of them, with the noise that you need",
        )
    private = parts[given[0]]
    of_example = private.guarantee is not None and private.guarantee.unit == "example"
    others = [(part, place < given[0]) for place, part in enumerate(parts) if place != given[0]]
    for part, before in others:
        reason = _voids_examples(part, before) if of_example else _voids_client(part, before)
        if reason:
            raise BadConfig(
                f"'{part.name}' {'before' if before else 'after'} '{private.name}' voids its differential privacy: "
                f"{reason}",
                f"leave '{part.name}' out, or put it behind if all it changes is the finished update",
            )
    return private.guarantee if all(_vouched(part) for part, _ in others) else None


def _vouched(part: Hooks) -> bool:
    """Whether all that the part does is listed, so that nothing unknown can spoil a guarantee."""
    return bool(part.public) or not (part.per_batch or part.changes_update)


def _voids_examples(part: Hooks, before: bool) -> str | None:
    """Why a part leaves nothing of a guarantee for single examples; None if it does not."""
    if any(step.facts.effect == "mixture" for step in part.public):
        return "it mixes people's examples before each is clipped, so that one person counts in several of them"
    if part.changes_batch:
        return "it changes examples before they are clipped, and cannot be shown to treat each by itself"
    if part.per_step:
        return "it changes the mean gradient by what the examples hold, after the clip and before the noise"
    if part.per_example and not before:
        return "it changes single gradients after they were clipped, so that the clip bounds them no longer"
    if part.per_example:
        return "it changes single gradients, and cannot be shown to treat each by itself"
    return _voids_client(part, before)


def _voids_client(part: Hooks, before: bool) -> str | None:
    """Why a part's change of the update leaves nothing of a guarantee; None if it does not."""
    if not part.changes_update:
        return None
    kept: Kept = "sensitivity" if before else "privacy"
    bad = [step.kind for step in part.public if step.facts.alters and kept not in step.facts.keeps]
    if bad and before:
        return f"it runs before the noise ({min(bad)}), and may let one person count for more than the clip"
    return f"it uses the data again after the noise ({min(bad)})" if bad else None


def _of_client(parts: Sequence[Hooks]) -> Guarantee | None:
    """Gaussian noise on an update that was clipped, and only ever shortened since, hides all of a client's data."""
    norm: float | None = None
    for part in parts:
        if not part.changes_update:
            continue  # whatever it does comes before the clip
        if not part.public:
            return None
        for step in part.public:
            if step.kind == "clip":
                norm = min(norm or math.inf, step.figures["norm"])
            elif step.kind == "gaussian" and norm is not None and not step.where:
                return Guarantee(step.figures["sigma"] / (2 * norm), unit="client")
            elif "length" not in step.facts.keeps:
                norm = None
    return None
