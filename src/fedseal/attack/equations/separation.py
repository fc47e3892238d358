"""A batch taken apart: from the mean gradient to every example's own features, labels certified.

Under cross-entropy the head's gradient is a mean of outer products whose left factors follow from the right ones,

    dL/dV = (1/K) sum_k (p_k - e_k) h_k^T,    dL/db = (1/K) sum_k (p_k - e_k),    p_k = softmax(V h_k + b),

so that the features h_k alone are unknown (`unmixing.py` solves for them). The rank of dL/dV is the number of examples
K as long as that is below classes and features. A linear layer with a ReLU before the head obeys the same kind of
equations, mostly more of them: where there is one, it is taken first, and carries batches larger than the classes.

Every equation is weighted by what floating point leaves of it. The weighted misfit is the certificate: it comes down
to one for the right labels only. The posterior's spread says which examples stand above the edge of precision; a
well-classified example, whose p_k - e_k vanishes, does not, and that it cannot be seen is a finding too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.equations.unmixing import (
    Behind,
    Mixture,
    State,
    descend,
    evaluate_mixture,
    jacobian_of,
    mass_of,
    normal_of,
    refine,
)
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.structure import Activation, Linear

CERTAIN = 25.0  # standard errors per equation up to which the head's equations hold: a wrong label is off by 1e5
CERTAIN_INSIDE = 40.0  # the same behind a ReLU, where rounding adds up
VISIBLE = 1e-2  # relative standard error of an example's features up to which it counts as seen
RACERS = 8  # starts for each hypothesis on a batch's labels
LAPS = ((60, 0.25), (60, 0.25), (400, 0.0))  # steps, and the share of starts that goes on; the last lap leaves one
MOST = 64  # examples; the normal matrix has (K^2)^2 entries


class Site(NamedTuple):
    """Where a batch is taken apart: a linear layer, and its place in the structure's tail."""

    layer: Linear
    place: int
    is_head: bool


@dataclass(frozen=True)
class Separated:
    """The examples of a batch, as one layer saw them; the order is that of `labels`.

    Args:
        site: the layer.
        labels: `(K,)`, sorted.
        features: inputs of the layer `(K, features)`, float64.
        deltas: gradients of each example's own loss by the layer's outputs `(K, rows)`.
        error: relative standard error of each example's features `(K,)`.
        misfit: root mean square misfit of the equations in standard errors.
    """

    site: Site
    labels: Tensor
    features: Tensor
    deltas: Tensor
    error: Tensor
    misfit: float

    @property
    def certified(self) -> bool:
        """Whether the equations hold to the precision they are known to."""
        return self.misfit <= (CERTAIN if self.site.is_head else CERTAIN_INSIDE)

    @property
    def visible(self) -> Tensor:
        """Which examples' features are determined to a hundredth, `(K,)` of bool."""
        return self.error <= VISIBLE


def separation_obstacle(evidence: Evidence) -> str | None:
    """Why a batch cannot be separated, None if it can."""
    observation, head, count = evidence.observation, evidence.structure.head, evidence.batch_size
    if head is None or head.weight not in observation.update.tensors:
        return "the update has no gradient of a linear head"
    if observation.state is None:
        return f"it needs the weights, which the threat model '{observation.threat}' withholds"
    if evidence.criterion.kind != "cross_entropy":
        return evidence.criterion.obstacle or f"the loss is {evidence.criterion.describe()}, not cross-entropy"
    if evidence.gradient_scale is None:
        return "the update mixes the gradients of several local steps"
    if count is None:
        return "the batch size is unknown: it is withheld, and the head's gradient has full rank"
    if not bool(observation.update.tensors[head.weight].any()):
        return f"the gradient of the head's weight '{head.weight}' is zero"
    if not sites(evidence):
        most = min(evidence.structure.num_classes - 1, head.in_shape[-1], MOST)
        return f"the batch holds {count} examples, and the head's gradient separates at most {most}"
    return None


def sites(evidence: Evidence) -> list[Site]:
    """The layers whose gradient separates this batch, the one with more equations first."""
    head, tail, count = evidence.structure.head, evidence.structure.tail, evidence.batch_size or 0
    assert head is not None
    found: list[Site] = []
    if len(tail) > 1 and isinstance(tail[-1], Activation) and tail[-1].kind == "relu" and isinstance(tail[-2], Linear):
        inner = tail[-2]
        tensors = evidence.observation.update.tensors
        sent = inner.weight in tensors and bool(tensors[inner.weight].any())  # black pictures leave zeros
        # half of the units are off for an example; with fewer on than examples its own part cannot be told apart
        if sent and count <= min(inner.out_shape[0] // 4, inner.in_shape[-1], MOST):
            found.append(Site(inner, len(tail) - 2, False))
    shown = bool(evidence.observation.update.tensors[head.weight].any())
    if shown and count <= min(evidence.structure.num_classes - 1, head.in_shape[-1], MOST):
        found.append(Site(head, len(tail), True))
    return found


def mixture_of(evidence: Evidence, site: Site) -> Mixture:
    """The site's equations."""
    state, sent, count = evidence.observation.state, evidence.observation.update.tensors, evidence.batch_size
    head = evidence.structure.head
    assert state is not None
    assert count is not None
    assert head is not None
    factor = evidence.gradient_scale or 1.0

    def bias_of(layer: Linear) -> Tensor:
        return torch.zeros(layer.out_shape[0]).double() if layer.bias is None else state[layer.bias].double().cpu()

    gradient = sent[site.layer.weight].double().cpu() * factor
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    left, values, basis = left[:, :count], values[:count], right[:count]
    noise = evidence.noise(site.layer.weight).cpu()
    biased = site.layer.bias is not None and site.layer.bias in sent
    if biased and site.layer.bias is not None:
        last = sent[site.layer.bias].double().cpu() * factor
        typical = float(gradient.norm() / last.norm().clamp_min(1e-300))
    else:
        last, typical = gradient.new_zeros(len(gradient)), float(gradient.norm()) * math.sqrt(count)
    unit = typical / math.sqrt(basis.shape[1]) if biased else 0.0
    tilt = (left * noise[:, None]).norm(dim=0) * math.sqrt(basis.shape[1]) / values.clamp_min(1e-300)
    behind = None if site.is_head else Behind(state[head.weight].double().cpu(), bias_of(head))
    return Mixture(
        weight=state[site.layer.weight].double().cpu() @ basis.T,
        bias=bias_of(site.layer),
        behind=behind,
        target=torch.cat([gradient @ basis.T, unit * last[:, None]], 1) / noise[:, None],
        scale=1.0 / noise[:, None],
        unit=unit,
        basis=basis,
        tilt=tilt.clamp_max(1.0),
        size=count,
        typical=typical,
        criterion=evidence.unit,
    )


def starts(mixture: Mixture, labels: Tensor, times: int, generator: torch.Generator) -> Tensor:
    """Codes `(times, K, K)` to start from: each label's mean embedding dL/dV_y / dL/db_y, perturbed.

    An inner layer's rows are weighted by how they serve the class. Where a class's bias gradient nearly cancels, the
    ratio means nothing; its direction is kept, its size is not.
    """
    rows = mixture.target / mixture.scale
    if mixture.behind is not None:
        rows = mixture.behind.weight @ rows
    embedding = -rows[:, :-1]
    if mixture.unit:
        bias = rows[:, -1:] / mixture.unit
        embedding = rows[:, :-1] / torch.where(bias.abs() > 1e-12, bias, -1.0)
    size = embedding.norm(dim=1, keepdim=True).clamp_min(1e-300)
    fitted = embedding * mixture.typical / size
    embedding = torch.where(size > 1.5 * mixture.typical, fitted, embedding) if mixture.unit else fitted
    noise = torch.randn(times, mixture.size, mixture.size, generator=generator, dtype=torch.float64)
    spread = torch.linspace(0.05, 0.4, times, dtype=torch.float64).view(-1, 1, 1)
    return embedding[labels] + spread * mixture.typical / math.sqrt(mixture.size) * noise


def separate(
    evidence: Evidence,
    labels: Tensor,
    *,
    generator: torch.Generator,
    site: Site | None = None,
    times: int = 8,
    steps: int = 120,
    rounds: int = 4,
) -> Separated:
    """The batch's examples under a hypothesis of their labels.

    Args:
        labels: `(K,)` class indices.
        site: where; None for the first of `sites`.
        times: starts tried together. steps: of each, and five times as many of the best two. rounds: fresh starts
            while the equations do not hold.

    Returns:
        The start with the least misfit; it is `certified` only where the equations hold.
    """
    site = site or sites(evidence)[0]
    mixture = mixture_of(evidence, site)
    labels = labels.cpu().sort().values
    if not site.is_head:
        return _separate_inside(evidence, site, mixture, labels, generator, times)
    times = max(2, min(times, int(2e8 / mixture.size**4)))
    best: Separated | None = None
    for _ in range(rounds):
        several = labels.repeat(times, 1)
        codes, misfits = refine(mixture, starts(mixture, labels, times, generator), several, steps)
        few = misfits.argsort()[:2]
        codes, misfits = refine(mixture, codes[few], several[few], 5 * steps)
        found = finish(evidence, site, mixture, codes[misfits.argmin()], labels)
        best = found if best is None or found.misfit < best.misfit else best
        if best.certified:
            break
    assert best is not None
    return best


def _separate_inside(
    evidence: Evidence, site: Site, mixture: Mixture, labels: Tensor, generator: torch.Generator, tries: int
) -> Separated:
    best, found = math.inf, None
    for codes in starts(mixture, labels, tries, generator):
        ended, misfit = descend(mixture, codes, labels)
        if misfit < best:
            best, found = misfit, finish(evidence, site, mixture, ended, labels)
            if found.certified:
                break
    assert found is not None
    return found


def settle(evidence: Evidence, guess: Tensor, *, generator: torch.Generator) -> Separated:
    """The batch's examples and their labels, at the first site where the equations hold, else where they nearly do.

    Args:
        guess: `(K,)` class indices, such as a counting method gives.
    """
    best: Separated | None = None
    for site in sites(evidence):
        found = _exchanged(evidence, site, guess, generator, rounds=4 if site.is_head else 0)
        if best is None or (found.certified, -found.misfit) > (best.certified, -best.misfit):
            best = found
        if best.certified and bool(best.visible.all()):
            break
    assert best is not None
    return best


def _exchanged(evidence: Evidence, site: Site, guess: Tensor, generator: torch.Generator, rounds: int) -> Separated:
    """Exchange one label at a time while that helps.

    Every multiset that differs in one label is raced from several starts, and the winner is separated anew.
    """
    mixture = mixture_of(evidence, site)
    best = separate(evidence, guess, generator=generator, site=site, rounds=2 if rounds else 4)
    for _ in range(rounds):
        if best.certified:
            break
        codes, labels = _race(mixture, _exchanges(mixture, best.labels), generator)
        tried = finish(evidence, site, mixture, codes, labels)
        if tried.misfit > 0.9 * best.misfit:
            break
        best = tried
    return best


def _race(mixture: Mixture, hypotheses: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The codes `(K, K)` and labels `(K,)` that come nearest to the equations, of hypotheses `(H, K)`.

    A right hypothesis is solved from one start in six or so, mostly within a hundred steps; a wrong one never is. So
    all run a little, and the better part of them further.
    """
    times = max(2, min(RACERS, int(4e9 / mixture.size**4 / len(hypotheses))))
    codes = torch.cat([starts(mixture, labels, times, generator) for labels in hypotheses])
    labels = hypotheses.repeat_interleave(times, 0)
    for steps, share in LAPS:
        codes, misfits = refine(mixture, codes, labels, steps)
        few = misfits.argsort()[: max(1, int(share * len(misfits)))]
        codes, labels, misfits = codes[few], labels[few], misfits[few]
        if float(misfits[0]) <= CERTAIN:
            break
    return codes[0], labels[0]


def _exchanges(mixture: Mixture, present: Tensor) -> Tensor:
    """Labels `(H, K)`, sorted, that differ from the present ones `(K,)` in one example, likely classes first."""
    rows = mixture.target / mixture.scale
    if mixture.behind is not None:
        rows = mixture.behind.weight @ rows
    likely = rows[:, -1] if mixture.unit else rows[:, :-1] @ rows[:, :-1].sum(0)
    most = max(4, min(96, int(4e8 / mixture.size**4)))
    found: list[Tensor] = []
    for other in likely.argsort().tolist():
        for place, label in enumerate(present.tolist()):
            first = place == 0 or label != int(present[place - 1])  # equal labels are one exchange
            if label != other and first and len(found) < most:
                anew = torch.cat([present[:place], present.new_tensor([other]), present[place + 1 :]])
                found.append(anew.sort().values)
    return torch.stack(found)


def finish(evidence: Evidence, site: Site, mixture: Mixture, codes: Tensor, labels: Tensor) -> Separated:
    """Features, deltas, errors and misfit of the codes `(K, K)` found.

    The misfit allows for what the client's own forward pass rounds: a logit is a sum of products, off by some units
    in the last place of their size, and softmax hands that on in proportion to p (1 - p).
    """
    state = evaluate_mixture(mixture, codes[None], mass_of(mixture, labels[None]))
    normal = normal_of(mixture, state, jacobian_of(mixture, state))[0]
    normal = normal + torch.eye(len(normal), dtype=torch.float64) * mixture.typical**-2  # a feature is of typical size
    spread = _variances(normal).view(mixture.size, -1).sum(1).sqrt()
    sizes = codes.norm(dim=1)
    tilted = (codes * mixture.tilt).norm(dim=1)  # what lies outside of the row space that noise lets us see
    allowed = (1 + (_rounding(evidence, mixture, state, sizes)[:, None] * mixture.scale).square()).sqrt()
    return Separated(
        site=site,
        labels=labels,
        features=codes @ mixture.basis,
        deltas=(state.deltas / mixture.scale[:, 0])[0],
        error=(spread.square() + tilted.square()).sqrt() / sizes.clamp_min(1e-300),
        misfit=float((state.residual[0] / allowed).square().mean().sqrt()),
    )


def _variances(normal: Tensor) -> Tensor:
    """The diagonal of a normal matrix's inverse, infinite where the matrix is not finite: equal examples, or rows that
    are known to no error at all, may leave it so.
    """
    unit = normal.diagonal().clamp_min(1e-300).rsqrt()
    scaled = normal * unit * unit[:, None]
    if not bool(torch.isfinite(scaled).all()):
        return torch.full_like(unit, math.inf)
    values, vectors = torch.linalg.eigh(scaled)
    variances: Tensor = (vectors.square() / values.clamp_min(1e-300)).sum(1) * unit.square()
    return variances


def _rounding(evidence: Evidence, mixture: Mixture, state: State, sizes: Tensor) -> Tensor:
    """By how much the client's rounded softmax moves a gradient's entries, by row."""
    p, total, features = state.probabilities[0], state.total[0], mixture.basis.shape[1]
    unit = (4 if mixture.behind is None else 12) * evidence.eps
    by_outputs = unit * sizes[:, None] * mixture.weight.norm(dim=1) / math.sqrt(features)
    if mixture.behind is None:
        moved = total * p * (1 - p) * by_outputs
    else:
        hidden, weight = state.outputs[0].relu(), mixture.behind.weight
        logits = unit * hidden.norm(dim=1, keepdim=True) * weight.norm(dim=1) / math.sqrt(weight.shape[1])
        logits = logits + (by_outputs.square() @ weight.square().T).sqrt()
        moved = ((total * p * (1 - p) * logits).square() @ weight.square()).sqrt()
    rounding: Tensor = (moved * sizes[:, None]).square().sum(0).sqrt() / mixture.size**1.5
    return rounding
