"""Descents: L-BFGS and Adam over leaves of a search, all leaves at once or in turns.

The descent knows nothing of what it lowers: `Descent.step` asks a function for the objective and moves the leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.search.schedule import Schedule, constant


class Leaf(NamedTuple):
    """A tensor that a descent moves.

    Args:
        tensor: requires grad; written to by the descent.
        inputs: whether it holds candidate inputs, to which an optimizer's treatment of pixels applies.
        lr: a fixed learning rate of its own under Adam, which then always takes the gradient's sign; None for the
            optimizer's.
    """

    tensor: Tensor
    inputs: bool = False
    lr: float | None = None


@dataclass(frozen=True)
class LBFGS:
    """Torch's L-BFGS with its defaults; one step is up to `inner` evaluations."""

    lr: float = 1.0
    inner: int = 20
    line_search: bool = False

    def build(self, leaves: Sequence[Leaf]) -> torch.optim.Optimizer:
        """The optimizer over these leaves."""
        variables = [leaf.tensor for leaf in leaves]
        if not self.line_search:
            return torch.optim.LBFGS(variables, lr=self.lr, max_iter=self.inner)
        return torch.optim.LBFGS(
            variables,
            lr=self.lr,
            max_iter=self.inner,
            line_search_fn="strong_wolfe",
            tolerance_grad=0,
            tolerance_change=0,
        )


@dataclass(frozen=True)
class Adam:
    """Adam with a schedule over the steps.

    Args:
        lr: learning rate.
        signed: take the sign of the inputs' gradient first (Geiping et al., NeurIPS 2020, arXiv:2003.14053).
        schedule: the factor of the learning rate by the share of steps done.
        noise: standard deviation, in learning rates, of normal noise added to the inputs after every step: Langevin
            noise (Yin et al., CVPR 2021, arXiv:2104.07586).
    """

    lr: float = 0.1
    signed: bool = True
    schedule: Schedule = constant
    noise: float = 0.0

    def build(self, leaves: Sequence[Leaf]) -> torch.optim.Optimizer:
        """The optimizer over these leaves; those with a rate of their own stand in groups of their own."""
        groups: list[dict[str, object]] = [{"params": [leaf.tensor for leaf in leaves if leaf.lr is None]}]
        groups += [{"params": [leaf.tensor], "lr": leaf.lr} for leaf in leaves if leaf.lr is not None]
        return torch.optim.Adam(groups, lr=self.lr)


class Descent:
    """A running optimization.

    Args:
        optimizer: what moves the leaves.
        turns: leaves that move together; step t moves those of turn t modulo their number, each turn with an optimizer
            of its own.
        steps: the number of steps planned, for the schedule.
        generator: of the noise.
    """

    def __init__(
        self, optimizer: LBFGS | Adam, turns: Sequence[Sequence[Leaf]], steps: int, generator: torch.Generator
    ) -> None:
        self.optimizer, self.turns, self.steps, self.generator = optimizer, turns, steps, generator
        self.running = [optimizer.build(turn) for turn in turns]

    def step(self, number: int, objective: Callable[[], Tensor]) -> Tensor:
        """Take step `number`; the objective before it, a detached scalar."""
        turn = number % len(self.turns)
        if len(self.turns) > 1 and isinstance(self.optimizer, LBFGS):
            # anew at every visit: its memory is of slopes before the others moved
            self.running[turn] = self.optimizer.build(self.turns[turn])
        leaves, running = self.turns[turn], self.running[turn]
        signed = isinstance(self.optimizer, Adam) and self.optimizer.signed
        variables = [leaf.tensor for leaf in leaves]

        def closure() -> Tensor:
            total = objective()
            # a model may hand nothing back to some inputs, such as behind a conversion to whole numbers
            grads = torch.autograd.grad(total, variables, allow_unused=True, materialize_grads=True)
            for leaf, grad in zip(leaves, grads, strict=True):
                leaf.tensor.grad = grad.sign() if (signed and leaf.inputs) or leaf.lr is not None else grad
            return total.detach()

        if isinstance(self.optimizer, Adam):
            rate = self.optimizer.lr * self.optimizer.schedule(number / self.steps)
            running.param_groups[0]["lr"] = rate
        value: Tensor = running.step(closure)  # type: ignore[assignment,arg-type]
        if isinstance(self.optimizer, Adam) and self.optimizer.noise:
            self._shake(leaves, rate * self.optimizer.noise)
        return value

    def _shake(self, leaves: Sequence[Leaf], deviation: float) -> None:
        with torch.no_grad():
            for leaf in leaves:
                if leaf.inputs:
                    noise = torch.randn(leaf.tensor.shape, generator=self.generator, dtype=leaf.tensor.dtype)
                    leaf.tensor.add_(noise.to(leaf.tensor.device), alpha=deviation)
