"""Reading the head and passing activations where a defense moved or took entries: posteriors in place of inverses.

Under noise a ratio of two gradients is a poor estimate, and the inverse of a saturated sigmoid none at all. Both steps
have few unknowns and known error laws, so that their posteriors are computed instead, in the two moments that the
recursion hands on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GRID = 129  # points on which an activation's argument is weighed, over six standard deviations to each side


class NoisyReading(NamedTuple):
    """The head's input h `(features,)` and the gradient by it, with standard errors, in float64."""

    value: Tensor
    value_error: Tensor
    delta: Tensor
    delta_error: Tensor


class NoisyHead(NamedTuple):
    """What was sent of a softmax head of one example, in float64 on the CPU.

    Args:
        weight, bias: the head's own, `(classes, features)` and `(classes,)`.
        gradient, error: by the weight, with standard errors; infinite for what was not sent.
        bias_gradient, bias_error: by the bias.
        label: the example's.
        prior: mean and spread of the features.
    """

    weight: Tensor
    bias: Tensor
    gradient: Tensor
    error: Tensor
    bias_gradient: Tensor
    bias_error: Tensor
    label: int
    prior: tuple[float, float]


def read_noisy_head(head: NoisyHead, *, eps: float, iterations: int = 30) -> NoisyReading:
    """The most probable input of a softmax head, by damped Gauss-Newton steps on all equations of its gradient.

    The gradient by the logits is no unknown of its own: d = softmax(V h + b) - e_y follows from h, and dL/dV = d h^T,
    dL/db = d are the equations.

    Args:
        eps: relative error of a number that the client computed.
    """
    weights, bias_weights = head.error**-2, head.bias_error**-2
    value = _start(head, weights)
    damping, best = 0.0, _energy(head, weights, bias_weights, value)
    for _ in range(iterations):
        slope, normal = _normal(head, weights, bias_weights, value)
        normal.diagonal().mul_(1 + damping)
        step = _solved(normal, slope)
        tried = _energy(head, weights, bias_weights, value + step)
        if not tried <= best:
            damping = max(10 * damping, 1e-3)
            if damping > 1e6:
                break
            continue
        done = best - tried < 1e-6
        value, best, damping = value + step, tried, 0.1 * damping if damping > 1e-6 else 0.0
        if done:
            break
    _, normal = _normal(head, weights, bias_weights, value)
    covariance = torch.linalg.inv(normal)
    d, jacobian = _logit_gradient(head, value)
    mixing = head.weight.T @ jacobian  # the derivative of delta by h
    delta = d @ head.weight
    delta_error = torch.einsum("ij,jk,ik->i", mixing, covariance, mixing).clamp_min(0).sqrt()
    return NoisyReading(
        value,
        covariance.diagonal().clamp_min(0).sqrt() + eps * value.abs(),
        delta,
        delta_error + eps * (d.abs() @ head.weight.abs()),
    )


def _start(head: NoisyHead, weights: Tensor) -> Tensor:
    """A weighted rank-one fit: d as the bias gradient has it, then one h for all rows."""
    d = head.bias_gradient
    mean, spread = head.prior
    # what d's own error makes of a row is an error of the row's equations
    rows = head.bias_error.nan_to_num(posinf=1.0).square()[:, None] * (mean**2 + spread**2)
    weights = 1.0 / (1.0 / weights.clamp_min(1e-300) + rows)
    return ((weights * head.gradient).T @ d + mean / spread**2) / (weights.T @ d.square() + spread**-2)


def _logit_gradient(head: NoisyHead, value: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient by the logits, d = softmax(V h + b) - e_y, and its derivative by h, `(classes, features)`."""
    p = torch.softmax(head.weight @ value + head.bias, 0)
    d = p.clone()
    d[head.label] -= 1.0
    return d, p[:, None] * (head.weight - p @ head.weight)


def _energy(head: NoisyHead, weights: Tensor, bias_weights: Tensor, value: Tensor) -> float:
    d = _logit_gradient(head, value)[0]
    mean, spread = head.prior
    misfit = (weights * (head.gradient - torch.outer(d, value)).square()).sum()
    misfit = misfit + (bias_weights * (head.bias_gradient - d).square()).sum()
    return 0.5 * float(misfit + ((value - mean) / spread).square().sum())


def _normal(head: NoisyHead, weights: Tensor, bias_weights: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The negative slope of the energy and its Gauss-Newton matrix, `(features,)` and `(features, features)`."""
    d, jacobian = _logit_gradient(head, value)
    mean, spread = head.prior
    rest = weights * (head.gradient - torch.outer(d, value))
    rows = rest @ value + bias_weights * (head.bias_gradient - d)
    slope = rest.T @ d + jacobian.T @ rows - (value - mean) / spread**2
    cross = (weights * torch.outer(d, value)).T @ jacobian
    size = weights @ value.square() + bias_weights
    normal = jacobian.T @ (size[:, None] * jacobian) + cross + cross.T
    normal.diagonal().add_(weights.T @ d.square() + spread**-2)
    return slope, normal


def _solved(normal: Tensor, slope: Tensor) -> Tensor:
    scale = normal.diagonal().rsqrt()
    factor, _ = torch.linalg.cholesky_ex(scale[:, None] * normal * scale + 1e-13 * torch.eye(len(slope)).to(normal))
    return scale * torch.cholesky_solve((scale * slope)[:, None], factor)[:, 0]


class Argument(NamedTuple):
    """An activation's argument and slope, each with a standard error; like the activation's value."""

    value: Tensor
    error: Tensor
    slope: Tensor
    slope_error: Tensor


def through_squashing(kind: str, value: Tensor, error: Tensor, mean: Tensor, spread: Tensor) -> Argument:
    """The argument z of a "sigmoid" or "tanh" whose value was seen with an error, where z has a normal prior.

    Both moments come from a grid of arguments; the prior is then taken out of them again, because the equations before
    the activation bring it anew (the cavity of expectation propagation; Minka, UAI 2001).
    """
    steps = torch.linspace(-6, 6, GRID, dtype=torch.float64)
    # in the coordinate of the value where that is sharp, in the prior's where the value says little
    low, high = (0.0, 1.0) if kind == "sigmoid" else (-1.0, 1.0)
    tiny = 1e-12
    ends = [(value + 6 * sign * error).clamp(low + tiny, high - tiny) for sign in (-1, 1)]
    bottom, top = (torch.special.logit(e) if kind == "sigmoid" else torch.atanh(e) for e in ends)
    bottom = torch.maximum(bottom, torch.minimum(mean - 6 * spread, top - 12 * spread))
    top = torch.minimum(top, torch.maximum(mean + 6 * spread, bottom + 12 * spread))
    z = bottom[..., None] + (top - bottom)[..., None] * (steps + 6) / 12
    a = torch.sigmoid(z) if kind == "sigmoid" else torch.tanh(z)
    slopes = a * (1 - a) if kind == "sigmoid" else 1 - a.square()
    log = -0.5 * ((a - value[..., None]) / error[..., None]).square()
    log = log - 0.5 * ((z - mean[..., None]) / spread[..., None]).square()
    mass = torch.softmax(log, -1)
    first = (mass * z).sum(-1)
    variance = (mass * (z - first[..., None]).square()).sum(-1)
    variance = variance + ((top - bottom) / GRID).square() / 12
    slope = (mass * slopes).sum(-1)
    slope_error = (mass * (slopes - slope[..., None]).square()).sum(-1).clamp_min(0).sqrt()
    precision = (1 / variance - spread**-2).clamp_min(1e-6 * spread**-2)
    cavity = (first / variance - mean / spread**2) / precision
    return Argument(cavity, precision.rsqrt(), slope, slope_error)
