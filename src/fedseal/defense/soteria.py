"""Pruning the representation at the gradient of one fully connected layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedseal.client import forward
from fedseal.defense.base import Hooks, figure
from fedseal.errors import BadConfig, UnfitBatch, UnfitModel, UnknownName
from fedseal.mechanism import Mechanism
from fedseal.types import Defense, LocalStep, Tensors

_TOGETHER = 64  # features whose gradients are taken in one backward pass


def soteria(fraction: float, *, layer: str | None = None) -> Defense:
    """Zero the columns of one linear layer's gradient that belong to the features which tell most of the input.

    Sun et al. (CVPR 2021, arXiv:2012.06043). The layer's input r is the representation of an example x `(N, ...)`. The
    features with the largest |r_i| / ||dr_i/dx|| are taken for zero where the gradient of the weight `(outputs,
    features)` is made, and nowhere else: moving x's features there moves x furthest. It promises a reconstruction far
    from the input and certifies neither norm nor picture; accuracy hardly suffers, but every local step costs a
    backward pass for every feature. It is broken by leaving the layer out of the match (Balunovic et al., ICLR 2022,
    arXiv:2111.04706), and protects nothing of the layers before it.

    Assumed: for a batch the ratio is summed over its examples (the authors' code sums its inverse); a feature that is 0
    counts as telling nothing; the step's own batch decides at each local step; the last linear layer is defended, as in
    the authors' experiments.

    Args:
        fraction: of the features that are pruned, rounded down, but at least one.
        layer: the name of an `nn.Linear` on one row of features an example; None for the model's last.

    Raises:
        BadConfig: a fraction not above 0 and below 1.
        UnfitModel: on a model without a linear layer, or whose layer sees several rows an example.
        UnknownName: the model has no linear layer of that name.
        UnfitBatch: inputs that are whole numbers, which have no gradient.

    >>> import fedseal as fs
    >>> steps = soteria(0.5).fit(fs.zoo.lenet()).public
    >>> steps[0].kind, steps[0].where
    ('masked_layer', ('7.weight',))
    """
    if not 0 < fraction < 1:
        raise BadConfig(f"Soteria prunes a fraction of {fraction}", "give a number above 0 and below 1")
    name = f"soteria:{figure(fraction)}" + ("" if layer is None else f",layer={layer}")

    def fitted(model: nn.Module) -> Defense:
        defended = layer_of(model, layer, "Soteria")
        weight = f"{defended}.weight" if defended else "weight"

        def on_gradient(grads: Tensors, step: LocalStep, generator: torch.Generator) -> Tensors:
            if weight not in grads:
                raise UnfitModel(f"the layer '{defended}' is not trained", "defend another: soteria:0.5,layer=NAME")
            score = telling(step, defended)
            pruned = score.argsort(descending=True, stable=True)[: max(1, int(fraction * len(score)))]
            kept = torch.ones_like(score, dtype=grads[weight].dtype)
            kept[pruned] = 0
            return {**grads, weight: grads[weight] * kept}

        return Hooks(name, (Mechanism("masked_layer", where=(weight,)),), gradient=on_gradient)

    def unknown(grads: Tensors, step: LocalStep, generator: torch.Generator) -> Tensors:
        return fitted(step.model).on_gradient(grads, step, generator)

    return Hooks(name, (Mechanism("masked_layer"),), gradient=unknown, fitted=fitted)


def layer_of(model: nn.Module, layer: str | None, who: str) -> str:
    """The name of the linear layer meant, the model's last if none is named.

    Raises:
        UnfitModel: the model has no linear layer.
        UnknownName: it has none of that name.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise UnfitModel(
            f"{who} defends a fully connected layer, and {type(model).__name__} has no torch.nn.Linear",
            "use a defense of the whole update, such as 'gaussian:0.001'",
        )
    if layer is not None and layer not in names:
        raise UnknownName("linear layer", layer, names)
    return names[-1] if layer is None else layer


def telling(step: LocalStep, layer: str) -> Tensor:
    """|r_i| / ||dr_i/dx|| of each feature i of a layer's input, summed over the step's examples: `(features,)`."""
    if not step.inputs.is_floating_point():
        raise UnfitBatch(
            f"Soteria differentiates the inputs, and these are whole numbers such as tokens ({step.inputs.dtype})",
            "defend text by a defense of the update, such as 'gaussian:0.001'",
        )
    buffers = {name for name, _ in step.model.named_buffers()}
    state = {n: t.detach().clone() if n in buffers else t.detach() for n, t in step.state.items()}
    seen: list[Tensor] = []
    handle = step.model.get_submodule(layer).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.enable_grad():
        inputs = step.inputs.detach().requires_grad_()
        try:
            forward(step.model, state, inputs)
        finally:
            handle.remove()
        if len(seen) != 1 or seen[0].ndim != 2:
            raise UnfitModel(
                f"the layer '{layer}' sees several rows of each example, as of tokens",
                "defend one that sees one row of features: soteria:0.5,layer=NAME",
            )
        size = _slopes(seen[0], inputs)
    return torch.where(size > 0, seen[0].detach().abs() / size, 0.0).sum(0)


def _slopes(features: Tensor, inputs: Tensor) -> Tensor:
    """||dr_ni/dx_n|| of every example and feature, `(N, features)`; examples are taken not to mix."""
    sizes = []
    for first in range(0, features.shape[1], _TOGETHER):
        ones = torch.eye(features.shape[1], device=features.device, dtype=features.dtype)[first : first + _TOGETHER]
        (slopes,) = torch.autograd.grad(
            features, inputs, ones[:, None].expand(-1, len(features), -1), retain_graph=True, is_grads_batched=True
        )
        sizes.append(slopes.flatten(2).norm(dim=2))
    return torch.cat(sizes).T
