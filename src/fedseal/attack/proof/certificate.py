"""The certificate: what can be proved of a reconstruction, from what the adversary sees and nothing else.

`certify` is the only maker of certificates. Attacks call it at their end to know whether to go on; whoever prints a
result calls it again, so that no claim stands on an attack's own word. Three facts are kept apart: the reconstruction
*explains* the update (`replay`), the update *determines* each example (`sensitivity`), and *nothing else was drawn in
secret* on the way.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fedseal.attack.equations.rivals import borne_out, directions
from fedseal.attack.evidence.draw import drawn
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.jacobian import small
from fedseal.attack.evidence.modes import modes_differ
from fedseal.attack.evidence.replay import (
    CAP,
    arithmetic,
    in_dtype,
    order_is_secret,
    replay,
    replayable,
    residual,
    rounding,
)
from fedseal.attack.evidence.scale import scale_note, unscaled
from fedseal.attack.proof.derivative import OWN, derivative_is_real
from fedseal.attack.proof.elsewhere import COLUMNS, ENTRIES, scaled_inputs, solved, to_spare, valid
from fedseal.attack.proof.mirrors import mirrored
from fedseal.attack.proof.sensitivity import (
    CLOSED_FORM,
    FIRST_LAYER,
    VISIBLE,
    Sensitivity,
    first_layer,
    layer_misfit,
    sensitivity,
    swaps,
)
from fedseal.errors import Misfit, NotTwiceDifferentiable
from fedseal.modality.text import Text
from fedseal.norm import distance, length
from fedseal.types import Candidate, Certificate, LocalTraining, Observation, Reconstruction, Secret, Status
from fedseal.vocabulary import MARGIN

CERTAIN: tuple[Status, ...] = ("exact", "converged")
LINEAR = 1e-13  # relative error of the closed form of an outer product in float64
OUTPUTS = 4  # of a layer, from which weight decay shows in the form of its update
AFAR = 0.1  # of what is unseen, from which on an example may be off by 0.1 (root mean square) or more
FELT = 0.01  # of what is unseen, from which on another example in the place of one is tried
NEAR = 1e-2  # of 0 and 1, within which values may be signs
SILENT = "an example puts nothing into the update, and others that put nothing may stand in its place"
OPEN = "explains the update, does not determine"
EVERYWHERE = (FIRST_LAYER,)  # proofs that hold far away as well
NONE_TO_SPARE = "the update has no more independent values than the data, and other data far away may give the same"
OUTSIDE = "what explains the update lies outside the valid range, and other data may be inside"
SOLVED_ELSEWHERE = "other data explain the update as well, found by least squares from elsewhere"
SCALED = "the model has no bias, and the same inputs, scaled, explain the update as well"
CHANGED = {
    "mixed": "examples were mixed before training, in a ratio drawn in secret",
    "flipped": "signs were flipped in secret before training",
    "transformed": "examples were transformed before training, in a way drawn in secret",
    "bottleneck": "the model draws a random bottleneck in secret",
}


def certify(observation: Observation, found: Reconstruction) -> Reconstruction:
    """The reconstruction with residual, certificate and status worked out anew; whatever it claims itself is dropped.

    "exact" and "converged" stand only if every example is certain, and a result that is becomes "converged" if it did
    not claim to be "exact". Inputs that are not finite are dropped, as "diverged".

    >>> import fedseal as fs, torch
    >>> model, batch = fs.zoo.lenet(), fs.zoo.photos(size=32)[:1]
    >>> update = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd())
    >>> seen = fs.ThreatModel.honest_but_curious().observe(model, update, modality=fs.Image(shape=(3, 32, 32)))
    >>> claim = fs.Outcome("exact", "a guess", 0.0, 0, 0.0)
    >>> told = certify(seen, fs.Reconstruction(torch.zeros_like(batch.inputs), batch.labels, claim))
    >>> told.outcome.status, told.certain.tolist(), told.certificate.note
    ('budget', [False], 'does not explain the update')
    """
    end, inputs = found.outcome, found.inputs
    bare = replace(found, certificate=None)
    if inputs is None:
        status: Status = "not_applicable" if end.status in CERTAIN else end.status
        return replace(bare, outcome=replace(end, status=status, residual=None))
    shape = tuple(observation.modality.shape)
    if inputs.is_floating_point() and tuple(inputs.shape[1:]) != shape:
        raise Misfit(f"inputs of shape {tuple(inputs.shape)} are claimed of examples of shape {shape}", "give others")
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        return replace(bare, inputs=None, outcome=replace(end, status="diverged", residual=None))
    scaled = scale_note(observation)
    observation = drawn(unscaled(observation))
    evidence = Evidence.of(observation)
    certificate = _by_replay(evidence, found) if found.labels is not None else None
    if certificate is None or not all(certificate.certain):
        certificate = _by_layer(evidence, inputs, certificate) or certificate
    if certificate is not None and scaled:
        certificate = replace(certificate, assumption=f"{certificate.assumption}, and that {scaled}")
    if certificate is not None and math.isnan(certificate.residual):  # the replay is not finite: nothing is compared
        return replace(bare, outcome=replace(end, status="diverged", residual=None))
    value = None if certificate is None else certificate.residual
    if certificate is not None and certificate.certain and all(certificate.certain):
        status = "exact" if end.status == "exact" else "converged"
    elif value is not None and not value <= 1 and _near_means_right(evidence):  # further than sending nothing at all
        status = "diverged"
    else:
        status = "budget" if end.status in CERTAIN else end.status
    return replace(bare, certificate=certificate, outcome=replace(end, status=status, residual=value))


def _near_means_right(evidence: Evidence) -> bool:
    """Whether a replay far from the update shows that a search went astray.

    A wrong token moves two whole rows of the embedding, so that half of a sentence may lie further from the update
    than nothing at all; no replayed update is near its signs; and a replay drops no values.
    """
    observation = evidence.observation
    return not isinstance(observation.modality, Text) and evidence.release.family != "sign" and not observation.secrets


def _by_replay(evidence: Evidence, found: Reconstruction) -> Certificate | None:
    """By the client's own arithmetic; None where nobody without the truth can run it."""
    observation, training = evidence.observation, replayable(evidence.observation)
    assert found.inputs is not None
    assert found.labels is not None
    if training is None or len(found.labels) != len(found.inputs):
        return None
    candidate = Candidate(in_dtype(found.inputs, observation), found.labels)
    value = residual(observation, candidate)
    assert value is not None
    count = len(found.inputs)
    reasons = [*_unknown(observation, count), *_secrets(evidence, observation.secrets), *_modes(evidence)]
    if order_is_secret(training, count):
        reasons.append("the client's order is unknown: this is the residual of one possible order")
    nothing = Certificate("replay", value, CAP, (), (False,) * count, _assumption(observation, count))
    wide = max(CAP, rounding(observation))
    if not value <= wide:
        return replace(nothing, note="; ".join(["does not explain the update", *reasons]))
    tolerance = max(arithmetic(observation, candidate), rounding(observation))
    if not value <= min(wide, tolerance):
        note = "; ".join(["does not explain the update to the arithmetic's precision", *reasons])
        return replace(nothing, tolerance=tolerance, note=note)
    moved = _sensitivity(evidence, candidate, tolerance)
    judged = _judged(replace(nothing, tolerance=tolerance), moved, reasons, max(tolerance, value))
    judged = _without_silent(evidence, candidate, training, judged, max(tolerance, value))
    if any(judged.certain) and not all(judged.certain):
        judged = _beside(observation, candidate, training, judged, max(tolerance, value))
    if any(judged.certain):
        judged = _moving(evidence, candidate, judged, moved.how)
    if any(judged.certain) and moved.how not in EVERYWHERE:
        judged = _elsewhere(evidence, candidate, judged, moved.how)
    return _alone(observation, candidate, judged) if any(judged.certain) else judged


def _without_silent(
    evidence: Evidence, candidate: Candidate, training: LocalTraining, judged: Certificate, unseen: float
) -> Certificate:
    """The certificate without examples of a batch that put nothing into the update.

    Any other that puts nothing may stand in their places, with any label: zeros where there is no bias, or an input of
    which the model is sure.
    """
    observation, count = evidence.observation, len(candidate.inputs)
    # where BatchNorm takes statistics of the batch, every example is heard through those of the others
    mixing = any(isinstance(module, _BatchNorm) and module.training for module in observation.model.modules())
    if count == 1 or mixing or isinstance(observation.modality, Text):
        return judged
    round = observation.rounds[0]
    least = MARGIN * unseen * count * length(round.update.tensors.values())
    heard = []
    for number, held in enumerate(judged.certain):
        one = slice(number, number + 1)
        fed = observation.modality.forward(candidate.inputs[one])
        alone = replay(observation, round, Candidate(fed, candidate.labels[one]), training) if held else {}
        heard.append(held and length(alone.values()) > least)
    return _less(judged, tuple(heard), SILENT)


def _beside(
    observation: Observation, candidate: Candidate, training: LocalTraining, judged: Certificate, unseen: float
) -> Certificate:
    """The certificate where other examples are not determined: these may be far from the truth, and what is near here
    says nothing then, unless all that they put into the update is little beside what the certain ones do.
    """
    apart = not any(isinstance(module, _BatchNorm) and module.training for module in observation.model.modules())
    round = observation.rounds[0]
    size = length(round.update.tensors.values())
    weighted = Evidence.of(observation).criterion.reduction == "weights"
    open_ = 0.0 if apart or min(judged.sensitivity) > AFAR * unseen else 1.0
    for number, value in enumerate(judged.sensitivity):
        if value <= AFAR * unseen and apart:
            one = slice(number, number + 1)
            fed = observation.modality.forward(candidate.inputs[one])
            alone = replay(observation, round, Candidate(fed, candidate.labels[one]), training)
            share = length(alone.values()) / max(size, 1e-300)
            if weighted and not share <= FELT * unseen:  # alone it has all the weight, or 0 / 0
                other = _replaced(observation, candidate, training, number)
                share = other if math.isnan(share) else min(share, other)
            open_ += share
    pairs = zip(judged.certain, judged.sensitivity, strict=True)
    certain = tuple(held and value > MARGIN * (unseen + open_) for held, value in pairs)
    if certain == judged.certain:
        return judged
    return replace(judged, certain=certain, note=f"{judged.note}; beside these the others are open as well")


def _replaced(observation: Observation, candidate: Candidate, training: LocalTraining, one: int) -> float:
    """How far the update moves where this example is another one: not at all if its class has no weight."""
    round, modality = observation.rounds[0], observation.modality
    others = candidate.inputs.clone()
    drawn = torch.rand(others[one].shape, generator=torch.Generator().manual_seed(OWN)).to(others)
    others[one] = modality.project(drawn[None])[0]
    pair = (
        replay(observation, round, Candidate(modality.forward(x), candidate.labels), training)
        for x in (candidate.inputs, others)
    )
    return distance(*pair)


def _moving(evidence: Evidence, candidate: Candidate, judged: Certificate, how: str) -> Certificate:
    """The certificate, where the update really moves as the derivative says; none is certain where it does not."""
    if isinstance(evidence.observation.modality, Text):
        return judged
    try:
        # a proof that did without the whole Jacobian is not held up by one, but where it takes no time
        evenly = how not in (FIRST_LAYER, CLOSED_FORM) or small(evidence, len(candidate.inputs), COLUMNS, ENTRIES)
        real = derivative_is_real(evidence, candidate, max(judged.tolerance, judged.residual), evenly=evenly)
    except NotTwiceDifferentiable:  # only the first layer's algebra speaks then, which needs no derivative
        real = evidence.first_linear is not None and evidence.preprocessing is None
    if real:
        return judged
    note = "; ".join(filter(None, [judged.note, "the update does not move as the model's own derivative says"]))
    return replace(judged, certain=(False,) * len(judged.certain), note=note)


def _elsewhere(evidence: Evidence, candidate: Candidate, judged: Certificate, how: str) -> Certificate:
    """The certificate without the examples in whose place others far away may stand: a Jacobian speaks of what is near.

    Nothing is certain where there are no equations to spare, since as many as unknowns have several solutions.
    """
    observation = evidence.observation
    if isinstance(observation.modality, Text):
        return judged
    tolerance = max(judged.tolerance, judged.residual)
    count = len(candidate.inputs)
    if how == CLOSED_FORM and count == 1:  # one layer after the other, each solved alone
        return judged
    few = small(evidence, count, COLUMNS, ENTRIES) if how == CLOSED_FORM else small(evidence, count)
    if few and to_spare(evidence, candidate, tolerance) < 1:
        return _less(judged, (False,) * len(judged.certain), NONE_TO_SPARE)
    inside = valid(observation, candidate.inputs).tolist()
    judged = _less(judged, tuple(c and i for c, i in zip(judged.certain, inside, strict=True)), OUTSIDE)
    if any(True for _ in scaled_inputs(evidence, candidate, judged.certain, tolerance)):
        return _less(judged, (False,) * len(judged.certain), SCALED)  # beside the other solution others may move
    for other in solved(evidence, candidate, tolerance) if any(judged.certain) else ():
        apart = torch.cdist(candidate.inputs.double().flatten(1), other.inputs.double().flatten(1)).amin(1)
        near = (apart <= VISIBLE * math.sqrt(candidate.inputs[0].numel())).tolist()
        judged = _less(judged, tuple(c and n for c, n in zip(judged.certain, near, strict=True)), SOLVED_ELSEWHERE)
    return judged


def _less(judged: Certificate, certain: tuple[bool, ...], why: str) -> Certificate:
    """The certificate with fewer certain examples, and why; itself where there are as many."""
    if certain == judged.certain:
        return judged
    return replace(judged, certain=certain, note="; ".join(filter(None, [judged.note, why])))


def _modes(evidence: Evidence) -> list[str]:
    """Where the training is withheld: whether the model computes otherwise in training than in evaluation."""
    if evidence.observation.training is not None or isinstance(evidence.observation.modality, Text):
        return []
    differs = evidence.once("modes", lambda: modes_differ(evidence.observation))
    return ["the model computes otherwise in training, and nobody says how the client ran it"] if differs else []


def _alone(observation: Observation, candidate: Candidate, judged: Certificate) -> Certificate:
    """The certificate without the examples that, mirrored, moved or exchanged, explain the update as well.

    Sensitivity speaks of what is near. A model that averages over places, takes in two blocks of values by one layer or
    has no bias under an odd activation may give the same update for another input far away.
    """
    if isinstance(observation.modality, Text):
        return judged
    tolerance = max(judged.tolerance, judged.residual)
    for words, other in mirrored(observation, candidate, judged.certain, tolerance):
        value = residual(observation, other)
        if value is not None and value <= tolerance:
            far = (other.inputs - candidate.inputs).double().flatten(1).square().mean(1).sqrt() > VISIBLE
            certain = tuple(c and not f for c, f in zip(judged.certain, far.tolist(), strict=True))
            if certain != judged.certain:
                note = "; ".join(filter(None, [judged.note, f"the same inputs {words} explain the update as well"]))
                judged = replace(judged, certain=certain, note=note)
        if not any(judged.certain):
            break
    return judged


def _sensitivity(evidence: Evidence, candidate: Candidate, tolerance: float) -> Sensitivity:
    if isinstance(evidence.observation.modality, Text):
        return swaps(evidence, candidate)
    return sensitivity(evidence, candidate, tolerance)


def _judged(bare: Certificate, moved: Sensitivity, reasons: list[str], unseen: float) -> Certificate:
    """Which examples are certain, and why the others are not; by their number alone, as they stand in no order."""
    held = [not reasons and value > MARGIN * unseen for value in moved.values]
    short = sum(not value > MARGIN * unseen for value in moved.values)
    notes = list(reasons)
    if short:
        which = "the example" if len(held) == 1 else f"{short} of {len(held)} examples"
        notes.append(f"{OPEN} {which} ({moved.how})")
    return replace(bare, sensitivity=moved.values, certain=tuple(held), note="; ".join(notes))


def _by_layer(evidence: Evidence, inputs: Tensor, replayed: Certificate | None) -> Certificate | None:
    """By the equations of a fully connected first layer, whose gradient is a sum of outer products; None if it has
    none, or if the inputs do not solve them.

    The weights may be withheld, and whatever the client draws behind that layer does not matter.
    """
    observation, update, layer = evidence.observation, evidence.observation.update, evidence.first_linear
    if layer is None or layer.bias is None or isinstance(observation.modality, Text) or len(observation.rounds) > 1:
        return None
    if layer.weight not in update.tensors or layer.bias not in update.tensors or evidence.doubt:
        return None
    if replayed is not None and not _secrets(evidence, observation.secrets) and not _merely_open(replayed):
        return None  # a replay that says no is not outvoted
    value = layer_misfit(evidence, inputs)
    values = first_layer(evidence, inputs)
    if values is None or value is None:
        return None
    count = len(inputs)
    bare = Certificate("layer", value, CAP, values, (False,) * count, _assumption(observation, count))
    if not value <= CAP:
        dropped = _secrets(evidence, evidence.secrets_before(layer.weight))
        return replace(bare, note="; ".join(dropped) or "does not explain the first layer's gradient")
    eps = torch.finfo(observation.like.dtype).eps
    tolerance = max(min(CAP, 8 * eps), rounding(observation), LINEAR)
    if count > 1 and not value <= tolerance:  # what is off may hide that other sums fit as well
        return replace(bare, tolerance=tolerance, note="does not explain the first layer's gradient to its precision")
    reasons = [
        *_unknown(observation, count),
        *_secrets(evidence, evidence.secrets_before(layer.weight)),
        *_modes(evidence),
        *_sums(evidence, inputs),
        *_several(evidence, inputs),
        *_signs(evidence),
    ]
    return _judged(
        replace(bare, tolerance=max(tolerance, min(CAP, value))),
        Sensitivity(values, "the first layer's gradient"),
        reasons,
        max(tolerance, value),
    )


def _merely_open(replayed: Certificate) -> bool:
    """Whether a replay explains the update by one example, and says no more than that the update hardly moves with it.

    A small gradient of the first layer is drowned in larger ones of others then, and can be read all the same.
    """
    return len(replayed.certain) == 1 and replayed.note.startswith(OPEN) and ";" not in replayed.note


def _assumption(observation: Observation, count: int) -> str:
    told = observation.update.num_examples
    fed = "" if observation.defense is not None else ", and that it changed no example before training"
    if told is None and isinstance(observation.modality, Text):
        return "that these sentences, or all of them equally often, made the update; the message names no number"
    if told is None:
        return f"that {count} example{'s' if count > 1 else ''} made the update; the message names no number"
    return f"the client's word that {told} example{'s' if told > 1 else ''} made the update{fed}"


def _unknown(observation: Observation, count: int) -> list[str]:
    """What is not known of the number of examples.

    Sentences need none: there are finitely many, and other ones, in whatever number, do not reproduce an update to the
    arithmetic's precision; only all of them repeated do.
    """
    told = observation.update.num_examples
    if told is None and isinstance(observation.modality, Text):
        return []
    if told is None:
        return [f"the number of examples is unknown: {count} explain the update, and so may others"]
    return [] if told == count else [f"{told} examples made the update, and these are {count}"]


def _secrets(evidence: Evidence, layers: tuple[Secret, ...]) -> list[str]:
    """What was, or may have been, drawn in secret on the way."""
    found = [
        f"'{secret.module}' drops values at random{'' if secret.active else ', if the client trains in train mode'}"
        for secret in layers[:1]
    ]
    if not isinstance(evidence.observation.modality, Text):  # a language model's rows are read by its own wiring
        found += [f"the model draws random numbers in '{name}'" for name in evidence.structure.random[:1]]
    kinds = {step.kind for step in evidence.observation.defense or ()}
    return found + [words for kind, words in CHANGED.items() if kind in kinds]


def _sums(evidence: Evidence, inputs: Tensor) -> list[str]:
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


def _several(evidence: Evidence, inputs: Tensor) -> list[str]:
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


def _signs(evidence: Evidence) -> list[str]:
    """An update of signs alone has outer products of signs, which say nothing of the values."""
    layer = evidence.first_linear
    assert layer is not None
    sizes = evidence.observation.update.tensors[layer.weight].abs()
    sizes = sizes[sizes > 0]
    flat = len(sizes) > 8 and bool((sizes - sizes[0]).abs().max() <= 1e-6 * sizes[0])
    return ["every entry has the same size, as if signs alone had been sent"] if flat else []
