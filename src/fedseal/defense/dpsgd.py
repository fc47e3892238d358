"""Differentially private gradients: every example's own gradient clipped, then noise on their mean."""

from __future__ import annotations

import torch

from fedseal.defense.accounting import Guarantee, noise_for
from fedseal.defense.base import Hooks, figure, positive
from fedseal.defense.noise import add_normal
from fedseal.errors import BadConfig, UnfitUpdate
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, Tensors, Update


def dpsgd(
    noise_multiplier: float | None = None,
    *,
    clip: float = 1.0,
    sample_rate: float = 1.0,
    delta: float = 1e-5,
    epsilon: float | None = None,
    steps: int | None = None,
) -> Defense:
    """Shrink each example's gradient to the norm `clip`, average, add noise of deviation `noise_multiplier * clip / B`.

    Abadi et al. (CCS 2016, arXiv:1607.00133). It promises (epsilon, delta)-differential privacy to every example
    against anybody, see `privacy(steps)`: reconstruction is bounded, whatever the attack. It costs accuracy, most for
    small batches B and large models, where noise drowns the mean, and for rare examples, whose gradients are clipped
    most; and a gradient for every example. It protects no person who gave several examples, nor B, which the client
    names.

    The promise holds for one gradient a round on a batch that was drawn by Poisson sampling at `sample_rate`; 1 where
    the batch is all that the client has, or was drawn otherwise. Noise is drawn from a research generator in floating
    point: whoever deploys this needs a secure one (Mironov, CCS 2012).

    Args:
        noise_multiplier: above 0, up to 1e10.
        clip: the norm that no example's gradient exceeds.
        delta: well below one over the number of examples.
        epsilon, steps: in place of the noise multiplier: the least noise that keeps this epsilon over so many steps.

    Raises:
        BadConfig: a figure out of range, or not exactly one of noise multiplier and epsilon.
        MissingExtra: an epsilon is given and dp-accounting is not installed.
        UnfitUpdate: on an update that does not say of how many examples it is the mean.
    """
    if (noise_multiplier is None) == (epsilon is None) or (epsilon is None) != (steps is None):
        raise BadConfig(
            "DP-SGD takes either a noise multiplier, or an epsilon with a number of steps",
            "write dpsgd:1.1,clip=1, or dpsgd:epsilon=8,steps=1000,clip=1",
        )
    positive("clipping examples to the norm", clip)
    if noise_multiplier is None:
        assert epsilon is not None
        assert steps is not None
        noise_multiplier = noise_for(epsilon, sample_rate=sample_rate, steps=steps, delta=delta)
    positive("a noise multiplier of", noise_multiplier)
    deviation = noise_multiplier * clip

    def on_example_grads(grads: Tensors, generator: torch.Generator) -> Tensors:
        return clipped(grads, clip)

    def on_update(update: Update, generator: torch.Generator) -> Update:
        if update.num_examples is None or update.num_examples < 1:
            raise UnfitUpdate(
                f"the update names {update.num_examples} examples, and the noise of DP-SGD is divided by their number",
                "give an update with num_examples",
            )
        return add_normal(update, deviation / update.num_examples, generator)

    options = {"clip": clip, "sample_rate": sample_rate, "delta": delta}
    shown = [f"{key}={figure(value)}" for key, value in options.items() if key == "clip" or value != _DEFAULTS[key]]
    return Hooks(
        ",".join([f"dpsgd:{figure(noise_multiplier)}", *shown]),
        (Mechanism("clip_examples", {"norm": clip}), Mechanism("gaussian_sum", {"sigma": deviation})),
        example_grads=on_example_grads,
        update=on_update,
        guarantee=Guarantee(noise_multiplier, sample_rate, delta),
    )


_DEFAULTS = {"sample_rate": 1.0, "delta": 1e-5}


def clipped(grads: Tensors, norm: float) -> dict[str, torch.Tensor]:
    """Single examples' gradients `(N, ...)`, each example's together no longer than `norm`; copies.

    Raises:
        UnfitUpdate: one is not finite, so that nothing bounds it.
    """
    squares = torch.stack([grad.double().flatten(1).square().sum(1) for grad in grads.values()]).sum(0)
    if not bool(torch.isfinite(squares).all()):
        raise UnfitUpdate("an example's gradient holds NaN or infinity, which no clip bounds", "look at its inputs")
    factors = (norm / squares.sqrt().clamp_min(1e-300)).clamp_max(1.0)
    return {
        name: (grad.double() * factors.view(-1, *[1] * (grad.ndim - 1))).to(grad.dtype) for name, grad in grads.items()
    }
