"""Outer products in a sum, taken apart: one layer's gradient, every left factor a known function of the right one.

The gradient of a linear layer is a mean of outer products, dL/dW = (1/K) sum_k delta_k x_k^T and dL/db = (1/K) sum_k
delta_k, and delta_k follows from x_k by what stands behind the layer: for the head softmax, for the layer before it
ReLU, head and softmax. The x_k lie in the row space of dL/dW, so that K codes of K numbers are unknown.

The solver is Levenberg and Marquardt's, on all starts at once, with the geodesic acceleration of Transtrum and Sethna
(2012, arXiv:1201.5885): the valley is narrow, for the equations are known to seven digits, and bent, for softmax bends
it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.criterion import Criterion

MARGINS = (0.5, 0.35, 0.25, 0.18, 0.12, 0.09, 0.06, 0.04, 0.025, 0.015, 0.005, 0.0)  # of the outputs' spread
LOST = (0.1, 1e4)  # below this margin a start whose misfit is still so large is given up
PATIENCE = 20  # steps after which the best start must have improved, or any by half


class Behind(NamedTuple):
    """The head behind an inner layer's ReLU: weight `(classes, rows)`, bias `(classes,)`."""

    weight: Tensor
    bias: Tensor


class Mixture(NamedTuple):
    """The equations of one linear layer in the row space of its gradient; all float64 on the CPU.

    Args:
        weight: `(rows, K)`, the layer's in that basis. bias: `(rows,)`.
        behind: None for the head itself.
        target: `(rows, K + 1)` scaled to unit error, the last column the bias gradient times `unit`.
        scale: `(rows, 1)`, one over the standard errors.
        basis: `(K, features)`, orthonormal rows, each off by `tilt` `(K,)`.
        size: number of examples K. typical: the size of an input of the layer. criterion: the loss, a mean over the
            examples.
    """

    weight: Tensor
    bias: Tensor
    behind: Behind | None
    target: Tensor
    scale: Tensor
    unit: float
    basis: Tensor
    tilt: Tensor
    size: int
    typical: float
    criterion: Criterion


def mass_of(mixture: Mixture, labels: Tensor) -> Tensor:
    """How much each class counts for each example, `(S, K, classes)` of labels `(S, K)`: one-hot vectors, or what class
    weights and smoothing make of them.
    """
    norms = torch.stack([mixture.criterion.norm(one) for one in labels])
    mass = mixture.criterion.mass(labels.flatten()).view(*labels.shape, -1)
    return mass * (mixture.size / norms)[:, None, None]


class State(NamedTuple):
    """One evaluation of S starts: the layer's outputs and scaled deltas `(S, K, rows)`, softmax `(S, K, classes)`, the
    examples' total mass `(S, K, 1)`, residual `(S, rows, K + 1)`, chi squared `(S,)`.
    """

    codes: Tensor
    outputs: Tensor
    probabilities: Tensor
    total: Tensor
    deltas: Tensor
    extended: Tensor
    residual: Tensor
    chi: Tensor


def refine(mixture: Mixture, codes: Tensor, labels: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Levenberg and Marquardt on S starts at once: codes `(S, K, K)`, labels `(S, K)`; gives codes, misfits `(S,)`."""
    mass = mass_of(mixture, labels)
    state = evaluate_mixture(mixture, codes, mass)
    damping = torch.full((len(codes),), 1e-2, dtype=torch.float64)
    before = state.chi
    for step in range(steps):
        move, trusted = _step(mixture, state, mass, damping)
        tried = evaluate_mixture(mixture, state.codes + move, mass)
        ok = (tried.chi < state.chi) & torch.isfinite(tried.chi) & trusted
        damping = torch.where(ok, 0.2 * damping, 4 * damping).clamp(1e-15, 1e8)
        state = State(*(torch.where(ok.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(tried, state, strict=True)))
        if step % PATIENCE == PATIENCE - 1:
            if not bool((state.chi.min() < 0.99 * before.min()) | (state.chi < 0.5 * before).any()):
                break
            before = state.chi
    return state.codes, (state.chi / mixture.target.numel()).sqrt()


def descend(mixture: Mixture, codes: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """The same for one start `(K, K)` behind an inner layer, whose deltas jump where a ReLU opens or closes.

    At first only the rows count whose unit stands far from that edge for every example; as the codes settle, the rows
    nearer to it join, until all are in.
    """
    present, names = codes[None], labels[None]
    for margin in MARGINS:
        outputs = present[0] @ mixture.weight.T + mixture.bias
        sure = (outputs.abs().amin(0) >= margin * outputs.std()).double()[:, None]
        part = mixture._replace(scale=mixture.scale * sure, target=mixture.target * sure)
        present, misfits = refine(part, present, names, 60)
        if margin < LOST[0] and float(misfits[0]) > LOST[1]:
            break
    state = evaluate_mixture(mixture, present, mass_of(mixture, names))
    return present[0], float((state.chi[0] / mixture.target.numel()).sqrt())


def evaluate_mixture(mixture: Mixture, codes: Tensor, mass: Tensor) -> State:
    """Every example's deltas by the layer's own forward pass, and how far the equations are from holding."""
    outputs, total = codes @ mixture.weight.T + mixture.bias, mass.sum(-1, keepdim=True)
    if mixture.behind is None:
        probabilities = torch.softmax(outputs, -1)
        deltas = total * probabilities - mass
    else:
        weight, bias = mixture.behind
        probabilities = torch.softmax(outputs.relu() @ weight.T + bias, -1)
        deltas = ((total * probabilities - mass) @ weight) * (outputs > 0)
    deltas = deltas * mixture.scale[:, 0]
    extended = torch.cat([codes, codes.new_full((*codes.shape[:2], 1), mixture.unit)], 2)
    residual = deltas.mT @ extended / mixture.size - mixture.target
    return State(codes, outputs, probabilities, total, deltas, extended, residual, residual.square().sum((1, 2)))


def jacobian_of(mixture: Mixture, state: State) -> Tensor:
    """How every example's scaled deltas move with its own code, `(S, K, rows, K)`; the softmax's own derivative."""
    p = state.probabilities
    if mixture.behind is None:
        mean = (p @ mixture.weight)[:, :, None, :]
        return (state.total * p)[..., None] * (mixture.weight - mean) * mixture.scale
    weight, open_ = mixture.behind.weight, (state.outputs > 0)[..., None]
    logits = weight @ (mixture.weight * open_)
    moved = (state.total * p)[..., None] * (logits - (p[..., None, :] @ logits))
    return (weight.T @ moved) * open_ * mixture.scale


def normal_of(mixture: Mixture, state: State, jacobian: Tensor) -> Tensor:
    """J^T J of the residual by all codes, `(S, K * K, K * K)`, without forming J: its columns are rank-one matrices."""
    many, count, classes, size = jacobian.shape
    flat = jacobian.transpose(1, 2).reshape(many, classes, count * size)
    normal = (flat.mT @ flat).view(many, count, size, count, size)
    normal = normal * (state.extended @ state.extended.mT)[:, :, None, :, None]
    cross = torch.einsum("sknr,sln->sklr", jacobian, state.deltas)
    normal = normal + torch.einsum("sklr,skq->skrlq", cross, state.codes)
    normal = normal + torch.einsum("slr,slkq->skrlq", state.codes, cross)
    products = state.deltas @ state.deltas.mT
    normal = normal + torch.einsum("skl,rq->skrlq", products, torch.eye(size, dtype=torch.float64))
    return (normal / mixture.size**2).reshape(many, count * size, count * size)


def _pull(mixture: Mixture, state: State, jacobian: Tensor, residual: Tensor) -> Tensor:
    """J^T times a residual `(S, classes, K + 1)`, `(S, K * K, 1)`."""
    by_deltas = torch.einsum("sknr,snq,skq->skr", jacobian, residual, state.extended)
    by_codes = torch.einsum("snr,skn->skr", residual[..., :-1], state.deltas)
    return ((by_deltas + by_codes) / mixture.size).flatten(1)[..., None]


def _push(mixture: Mixture, state: State, jacobian: Tensor, move: Tensor) -> Tensor:
    """J times a move of the codes `(S, K, K)`, `(S, classes, K + 1)`."""
    pushed = torch.einsum("sknr,skr,skq->snq", jacobian, move, state.extended)
    pushed[..., :-1] += state.deltas.mT @ move
    return pushed / mixture.size


def _step(mixture: Mixture, state: State, mass: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """The damped step with its geodesic correction, and which starts may trust it."""
    jacobian = jacobian_of(mixture, state)
    normal = normal_of(mixture, state, jacobian)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    floor = 1e-13 * diagonal.amax(1, keepdim=True)
    factor, _ = torch.linalg.cholesky_ex(normal + torch.diag_embed(damping[:, None] * diagonal + floor))
    velocity = -torch.cholesky_solve(_pull(mixture, state, jacobian, state.residual), factor).view_as(state.codes)
    logits = velocity @ mixture.weight.T
    if mixture.behind is not None:
        logits = (logits * (state.outputs > 0)) @ mixture.behind.weight.T
    change = (logits - logits.mean(-1, keepdim=True)).abs().amax(-1)
    velocity = velocity * (3.0 / change.clamp_min(3.0))[..., None]
    ahead = evaluate_mixture(mixture, state.codes + 0.1 * velocity, mass).residual
    bend = 20.0 * ((ahead - state.residual) / 0.1 - _push(mixture, state, jacobian, velocity))
    correction = -torch.cholesky_solve(_pull(mixture, state, jacobian, bend), factor).view_as(state.codes)
    lengths = [(v.flatten(1) * diagonal.sqrt()).norm(dim=1) for v in (correction, velocity)]
    trusted = 2 * lengths[0] <= 0.75 * lengths[1]
    return velocity + 0.5 * correction.where(trusted[:, None, None], 0.0), trusted
