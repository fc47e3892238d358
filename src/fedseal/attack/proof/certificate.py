"""The certificate: what can be proved of a reconstruction, from what the adversary sees and nothing else.

`certify` is the only maker of certificates. Attacks call it at their end to know whether to go on; whoever prints a
result calls it again, so that no claim stands on an attack's own word. Three facts are kept apart: the reconstruction
*explains* the update (`replay`), the update *determines* each example (`sensitivity`), and *nothing else was drawn in
secret* on the way.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch

from fedseal.attack.evidence.draw import drawn
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.input_traits import traits_of
from fedseal.attack.evidence.jacobian import small
from fedseal.attack.evidence.replay import (
    CAP,
    arithmetic,
    in_dtype,
    order_is_secret,
    replayable,
    residual,
    rounding,
)
from fedseal.attack.evidence.scale import scale_note, unscaled
from fedseal.attack.proof.batch import BESIDE, beside_open, without_silent
from fedseal.attack.proof.by_layer import by_layer
from fedseal.attack.proof.by_patches import by_patches
from fedseal.attack.proof.claims import judged_by, less_certain
from fedseal.attack.proof.derivative import derivative_is_real
from fedseal.attack.proof.elsewhere import (
    COLUMNS,
    ENTRIES,
    freed,
    on_its_ray,
    returning,
    scaled_inputs,
    solved,
    to_spare,
    valid,
)
from fedseal.attack.proof.mirrors import mirrored
from fedseal.attack.proof.other_sentences import swaps
from fedseal.attack.proof.preimages import Preimages
from fedseal.attack.proof.reasons import assumption_on_number, drawn_in_secret, modes_in_doubt, unknown_number
from fedseal.attack.proof.sensitivity import (
    CLOSED_FORM,
    FIRST_LAYER,
    VISIBLE,
    WHOLE,
    sensitivity,
)
from fedseal.errors import Misfit, NotTwiceDifferentiable
from fedseal.types import Candidate, Certificate, Observation, Reconstruction, Status
from fedseal.vocabulary import MARGIN

CERTAIN: tuple[Status, ...] = ("exact", "converged")
EVERYWHERE = (FIRST_LAYER,)  # proofs that hold far away as well
APART = 10.0  # times the margin that an example must move the update by beside others that are open
ROOM = 100.0  # times the margin that an example must move the update by where no equations are to spare
FAINT = "beside open examples it moves the update too little to be told from what these may become"
NOT_ITS_OWN = "the update does not move as the model's own derivative says"
NONE_TO_SPARE = "the update has no more independent values than the data, and other data far away may give the same"
OUTSIDE = "what explains the update lies outside the valid range, and other data may be inside"
SOLVED_ELSEWHERE = "other data explain the update as well, found by least squares from elsewhere"
NOT_NEARBY = "near these inputs the model does something else before its first layer than elsewhere, such as a clip"
LABEL_OPEN = "another label, visibly moved, explains the update as well"
MOVED, LEAST_MOVED = 0.1, 1e-2  # share of a label that is a number by which it moves visibly, and at least
SCALED_ALONE = "the same inputs, scaled, explain the update as well"
SCALED = "the model has no bias, and the same inputs, scaled, explain the update as well"


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
    certificate = by_patches(evidence, inputs)
    if certificate is None or not all(certificate.certain):  # patches alone settle it, and a replay takes far longer
        whole = _by_replay(evidence, found) if found.labels is not None else None
        if whole is None or not all(whole.certain):
            whole = by_layer(evidence, inputs, whole) or whole
        certificate = whole or certificate
    before = evidence.preprocessing if inputs.is_floating_point() else None
    if certificate is not None and before is not None and not before.holds_at(inputs, observation.modality, VISIBLE):
        certificate = less_certain(certificate, (False,) * len(certificate.certain), NOT_NEARBY)
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
    return (
        not traits_of(observation.modality).discrete and evidence.release.family != "sign" and not observation.secrets
    )


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
    reasons = [
        *unknown_number(observation, count),
        *drawn_in_secret(evidence, observation.secrets),
        *modes_in_doubt(evidence),
    ]
    if order_is_secret(training, count):
        reasons.append("the client's order is unknown: this is the residual of one possible order")
    nothing = Certificate("replay", value, CAP, (), (False,) * count, assumption_on_number(observation, count))
    wide = max(CAP, rounding(observation))
    if not value <= wide:
        return replace(nothing, note="; ".join(["does not explain the update", *reasons]))
    tolerance = max(arithmetic(observation, candidate), rounding(observation))
    if not value <= min(wide, tolerance):
        note = "; ".join(["does not explain the update to the arithmetic's precision", *reasons])
        return replace(nothing, tolerance=tolerance, note=note)
    bare, unseen = replace(nothing, tolerance=tolerance), max(tolerance, value)
    if traits_of(observation.modality).discrete:  # finitely many, of which some are tried: nothing lies between them
        judged = judged_by(bare, swaps(evidence, candidate), reasons, unseen)
        return beside_open(observation, candidate, training, judged, unseen)
    moved = sensitivity(evidence, candidate, tolerance)
    judged = judged_by(bare, moved, reasons, unseen)
    judged = without_silent(evidence, candidate, training, judged, unseen)
    alone = beside_open(observation, candidate, training, judged, unseen)
    if moved.how == WHOLE and small(evidence, count):  # `_elsewhere` counts equations to spare, and looks for others
        judged = beside_open(observation, candidate, training, judged, unseen, counted=True)
    else:
        judged = alone
    if any(judged.certain):
        judged = _moving(evidence, candidate, judged, moved.how)
    if any(judged.certain) and moved.how not in EVERYWHERE:
        judged = _elsewhere(evidence, candidate, judged, moved.how, alone.certain)
    judged = _alone(observation, candidate, judged) if any(judged.certain) else judged
    return _with_open_labels(observation, candidate, judged)


def _with_open_labels(observation: Observation, candidate: Candidate, judged: Certificate) -> Certificate:
    """The certificate with a note of labels that are numbers and, visibly moved, explain the update as well, such as
    those of an absolute error. Inputs may be certain all the same.
    """
    labels, tolerance = candidate.labels, max(judged.tolerance, judged.residual)
    if not labels.is_floating_point() or not any(judged.certain):
        return judged
    free = []
    for number in range(len(labels)):
        step = torch.zeros_like(labels)
        step[number] = (MOVED * labels[number].abs()).clamp_min(LEAST_MOVED)
        tried = (residual(observation, replace(candidate, labels=labels + sign * step)) for sign in (1, -1))
        if any(value is not None and value <= tolerance for value in tried):
            free.append(str(number + 1))
    if not free:
        return judged
    why = f"{LABEL_OPEN} (example {', '.join(free)})"
    return replace(judged, note="; ".join(filter(None, [judged.note, why])))


def _returning(
    evidence: Evidence,
    candidate: Candidate,
    judged: Certificate,
    firm: tuple[bool, ...],
    otherwise: tuple[bool, ...],
    why: str,
) -> Certificate:
    """The certificate where an example is certain only if it stands in everything else that is found to explain the
    update, and enough is found to say so.

    Args:
        firm: which may be certain then.
        otherwise: which are certain where not enough is found.
        why: the others are not.
    """
    tolerance = max(judged.tolerance, judged.residual)
    some = any(firm) and not all(judged.certain)
    others = returning(evidence, candidate, firm, tolerance) if some else None
    if others is None:
        return less_certain(judged, otherwise, why)
    judged = less_certain(judged, firm, why)
    for other in others:
        judged = _less_by(judged, candidate, other, SOLVED_ELSEWHERE)
    return judged


def _less_by(judged: Certificate, candidate: Candidate, other: Candidate, why: str) -> Certificate:
    """The certificate without the examples that are none, visibly, of other data that explain the update as well."""
    apart = torch.cdist(candidate.inputs.double().flatten(1), other.inputs.double().flatten(1)).amin(1)
    near = (apart <= VISIBLE * math.sqrt(candidate.inputs[0].numel())).tolist()
    return less_certain(judged, tuple(c and n for c, n in zip(judged.certain, near, strict=True)), why)


def _moving(evidence: Evidence, candidate: Candidate, judged: Certificate, how: str) -> Certificate:
    """The certificate, where the update really moves as the derivative says; none is certain where it does not."""
    try:
        # a proof that did without the whole Jacobian is not held up by one, but where it takes no time
        evenly = how not in (FIRST_LAYER, CLOSED_FORM) or small(evidence, len(candidate.inputs), COLUMNS, ENTRIES)
        real = derivative_is_real(evidence, candidate, max(judged.tolerance, judged.residual), evenly=evenly)
    except NotTwiceDifferentiable:  # only the first layer's algebra speaks then, which needs no derivative
        real = evidence.first_linear is not None and evidence.preprocessing is None
    if real:
        return judged
    return less_certain(judged, (False,) * len(judged.certain), NOT_ITS_OWN)


def _elsewhere(
    evidence: Evidence, candidate: Candidate, judged: Certificate, how: str, alone: tuple[bool, ...]
) -> Certificate:
    """The certificate without the examples in whose place others far away may stand: a Jacobian speaks of what is near.

    Nothing is certain where there are no equations to spare, since as many as unknowns have several solutions. Beside
    open examples it takes more: these may move to where a rectifier or a maximum lets others move as well.

    Args:
        alone: which examples are certain whatever the open ones put into the update.
    """
    observation = evidence.observation
    tolerance = max(judged.tolerance, judged.residual)
    count = len(candidate.inputs)
    if how == CLOSED_FORM and count == 1:  # one layer after the other, each solved alone
        return judged
    few = small(evidence, count, COLUMNS, ENTRIES) if how == CLOSED_FORM else small(evidence, count)
    if few and to_spare(evidence, candidate, tolerance) < 1:
        multiples = on_its_ray(evidence, candidate, tolerance)
        if multiples is None:
            pairs = zip(judged.certain, judged.sensitivity, strict=True)
            firm = tuple(c and v > ROOM * MARGIN * tolerance for c, v in pairs)
            judged = _returning(evidence, candidate, judged, firm, (False,) * count, NONE_TO_SPARE)
        elif multiples:
            judged = less_certain(judged, (False,), SCALED_ALONE)
    elif not few and on_its_ray(evidence, candidate, tolerance):
        judged = less_certain(judged, (False,), SCALED_ALONE)
    if not all(judged.certain):  # far from here others may stand together with what the open ones become
        pairs = zip(judged.certain, judged.sensitivity, strict=True)
        judged = less_certain(judged, tuple(c and v > APART * MARGIN * tolerance for c, v in pairs), FAINT)
    if any(held and not sure for held, sure in zip(judged.certain, alone, strict=True)):
        sure = tuple(c and a for c, a in zip(judged.certain, alone, strict=True))
        judged = _returning(evidence, candidate, judged, judged.certain, sure, BESIDE)
    inside = valid(observation, candidate.inputs).tolist()
    judged = less_certain(judged, tuple(c and i for c, i in zip(judged.certain, inside, strict=True)), OUTSIDE)
    if any(True for _ in scaled_inputs(evidence, candidate, judged.certain, tolerance)):
        return less_certain(judged, (False,) * len(judged.certain), SCALED)  # beside the other solution others may move
    hidden = Preimages.of(evidence, candidate) if any(judged.certain) else None
    if isinstance(hidden, str):
        return less_certain(judged, (False,) * count, hidden)
    others = itertools.chain(
        () if hidden is None else hidden.others(judged.certain, tolerance),
        solved(evidence, candidate, tolerance),
        freed(evidence, candidate, judged.certain, tolerance),
    )
    for other in others if any(judged.certain) else ():
        judged = _less_by(judged, candidate, other, SOLVED_ELSEWHERE)
        if not any(judged.certain):
            break
    return judged


def _alone(observation: Observation, candidate: Candidate, judged: Certificate) -> Certificate:
    """The certificate without the examples that, mirrored, moved or exchanged, explain the update as well.

    Sensitivity speaks of what is near. A model that averages over places, takes in two blocks of values by one layer or
    has no bias under an odd activation may give the same update for another input far away.
    """
    tolerance = max(judged.tolerance, judged.residual)
    for words, other in mirrored(observation, candidate, judged.certain, tolerance):
        value = residual(observation, other)
        if value is not None and value <= tolerance:
            far = (other.inputs - candidate.inputs).double().flatten(1).square().mean(1).sqrt() > VISIBLE
            certain = tuple(c and not f for c, f in zip(judged.certain, far.tolist(), strict=True))
            judged = less_certain(judged, certain, f"the same inputs {words} explain the update as well")
        if not any(judged.certain):
            break
    return judged
