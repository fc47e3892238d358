"""Why nothing is certain whatever the update says: what nobody told, and what was drawn in secret."""

from __future__ import annotations

from torch import Tensor

from fedseal.attack.equations.rivals import borne_out, directions
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.input_traits import traits_of
from fedseal.attack.evidence.modes import modes_differ
from fedseal.types import Observation, Secret

OUTPUTS = 4  # of a layer, from which weight decay shows in the form of its update
NEAR = 1e-2  # of 0 and 1, within which values may be signs
CHANGED = {
    "mixed": "examples were mixed before training, in a ratio drawn in secret",
    "flipped": "signs were flipped in secret before training",
    "transformed": "examples were transformed before training, in a way drawn in secret",
    "bottleneck": "the model draws a random bottleneck in secret",
}


def assumption_on_number(observation: Observation, count: int) -> str:
    """What a certificate takes for granted of how many examples made the update."""
    told = observation.update.num_examples
    fed = "" if observation.defense is not None else ", and that it changed no example before training"
    if told is None and traits_of(observation.modality).discrete:
        return "that these sentences, or all of them equally often, made the update; the message names no number"
    if told is None:
        return f"that {count} example{'s' if count > 1 else ''} made the update; the message names no number"
    return f"the client's word that {told} example{'s' if told > 1 else ''} made the update{fed}"


def unknown_number(observation: Observation, count: int) -> list[str]:
    """What is not known of the number of examples.

    Sentences need none: there are finitely many, and other ones, in whatever number, do not reproduce an update to the
    arithmetic's precision; only all of them repeated do.
    """
    told = observation.update.num_examples
    if told is None and traits_of(observation.modality).discrete:
        return []
    if told is None:
        return [f"the number of examples is unknown: {count} explain the update, and so may others"]
    return [] if told == count else [f"{told} examples made the update, and these are {count}"]


def drawn_in_secret(
    evidence: Evidence, layers: tuple[Secret, ...], operators: tuple[str, ...] | None = None
) -> list[str]:
    """What was, or may have been, drawn in secret on the way.

    Args:
        layers: dropout modules on it.
        operators: others that draw, by name; None for all of the model's.
    """
    found = [
        f"'{secret.module}' drops values at random{'' if secret.active else ', if the client trains in train mode'}"
        for secret in layers[:1]
    ]
    if not traits_of(evidence.observation.modality).discrete:  # a language model's rows are read by its own wiring
        drawing = evidence.structure.random if operators is None else operators
        found += [f"the model draws random numbers in '{name}'" for name in drawing[:1]]
    kinds = {step.kind for step in evidence.observation.defense or ()}
    return found + [words for kind, words in CHANGED.items() if kind in kinds]


def modes_in_doubt(evidence: Evidence) -> list[str]:
    """Where the training is withheld: whether the model computes otherwise in training than in evaluation."""
    if evidence.observation.training is not None or traits_of(evidence.observation.modality).discrete:
        return []
    differs = evidence.once("modes", lambda: modes_differ(evidence.observation))
    return ["the model computes otherwise in training, and nobody says how the client ran it"] if differs else []


def sums_in_doubt(evidence: Evidence, inputs: Tensor) -> list[str]:
    """Why a weight difference may be no sum of outer products with the inputs.

    Where the local training is withheld, weight decay leaves the form of an outer product, unless the layer has hardly
    any outputs; Adam keeps it, and makes signs of the inputs.
    """
    observation, layer = evidence.observation, evidence.first_linear
    training = observation.training
    if observation.update.kind == "gradient":
        return []
    if training is None:
        assert layer is not None
        live = int(observation.update.tensors[layer.weight].any(1).sum())
        plain = inputs.double().abs()
        if live < OUTPUTS or bool(((plain < NEAR) | ((plain - 1).abs() < NEAR)).all()):
            return ["the local training is withheld: weight decay or Adam would change what the layer's update says"]
        return []
    if training.optimizer != "sgd" or training.weight_decay or not training.fresh_optimizer:
        return ["the local optimizer changes what the layer's update says"]
    return []


def mixtures_in_doubt(evidence: Evidence, inputs: Tensor) -> list[str]:
    """Why sums of a batch's examples may pass for examples.

    What is sparse is taken for one example's gradient by the layer's outputs. Where the layers behind hand back
    gradients of fewer directions than there are examples, some combinations of these are as sparse. The weights, where
    they are known, say at which units an example is on.
    """
    count = len(inputs)
    if count == 1:
        return []
    most = directions(evidence)
    if count > most:
        return [
            f"the layers behind hand back {most} directions at most, so that sums of {count} examples may pass for one"
        ]
    if not borne_out(evidence, inputs):
        return ["by the weights other units are on than the layer's gradient shows"]
    return []


def signs_alone(evidence: Evidence) -> list[str]:
    """An update of signs alone has outer products of signs, which say nothing of the values."""
    layer = evidence.first_linear
    assert layer is not None
    sizes = evidence.observation.update.tensors[layer.weight].abs()
    sizes = sizes[sizes > 0]
    flat = len(sizes) > 8 and bool((sizes - sizes[0]).abs().max() <= 1e-6 * sizes[0])
    return ["every entry has the same size, as if signs alone had been sent"] if flat else []
