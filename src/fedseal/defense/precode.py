"""A variational bottleneck before the model's head."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedseal.client import RandomLayer
from fedseal.defense.base import Hooks
from fedseal.defense.soteria import layer_of
from fedseal.errors import BadConfig, UnfitModel
from fedseal.mechanism import Mechanism
from fedseal.types import Defense


class VariationalBottleneck(RandomLayer):
    """Features `(..., F)` to features: a normal draw of `width` numbers whose mean and spread are linear in them.

    Without `draws`, and with none to repeat, the mean stands for the draw.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.mean = nn.Linear(features, width)
        self.spread = nn.Linear(features, width)
        self.out = nn.Linear(width, features)

    def forward(self, features: Tensor) -> Tensor:
        """Draw from torch's global generator, which `local_update` sets by the client's own."""
        code = self.mean(features)
        noise = torch.randn_like(code) if self.draws else self.drawn
        if noise is not None:
            code = code + F.softplus(self.spread(features)) * noise.to(code)
        passed: Tensor = self.out(code)
        return passed


def precode(width: int = 256) -> Defense:
    """Put a random bottleneck before the model's last linear layer; its draw in every forward is the client's secret.

    Scheliga, Maeder and Seeland (WACV 2022, arXiv:2108.04725). It promises that gradients of the bottleneck and behind
    it are noise to who does not know the draw. It costs `(3 features + 2) width + features` parameters, and by its
    authors' account little accuracy. It is broken by leaving those gradients out of the match (the same authors,
    arXiv:2208.04767; Balunovic et al., ICLR 2022, arXiv:2111.04706): the layers before keep theirs. For one example
    the bottleneck leaks features and code exactly, as every linear layer with a bias does, and with them the draw: see
    `fedseal.attack.layers.bottleneck`.

    Assumed: the Kullback-Leibler term (weight 1e-3 in the paper) is left out, since a client's loss is a function of
    outputs and labels; without it training may shrink the spread, and the protection with it. New weights are torch's
    default initialization from a fixed seed, and public. Who evaluates or attacks the model gets the mean of the draw.

    Args:
        width: how many numbers are drawn for an example; the paper takes 256.

    Raises:
        BadConfig: a width that is not a whole number of at least 1.
        UnfitModel: on a model without a linear layer; in a training whose model has no bottleneck yet.

    >>> import fedseal as fs
    >>> guarded = precode(16).on_model(fs.zoo.lenet(num_classes=10))
    >>> guarded(torch.zeros(2, 3, 32, 32)).shape, [name for name, _ in guarded.named_parameters()][6:8]
    (torch.Size([2, 10]), ['7.0.mean.weight', '7.0.mean.bias'])
    """
    if not (float(width).is_integer() and width >= 1):
        raise BadConfig(
            f"PRECODE's bottleneck is {width} wide", "give a whole number of at least 1; the paper uses 256"
        )
    name = f"precode:{int(width)}"

    def fitted(model: nn.Module) -> Defense:
        inside = [place for place, module in model.named_modules() if isinstance(module, VariationalBottleneck)]
        if not inside:
            raise UnfitModel(
                "the model that is to be trained under PRECODE has no bottleneck",
                "train the model that defense.on_model(model) returns, and observe that one",
            )
        blocks = [place.rpartition(".")[0] for place in inside]  # the bottleneck and the head behind it
        where = tuple(n for n, _ in model.named_parameters() if any(n.startswith(f"{b}." if b else b) for b in blocks))
        return Hooks(name, (Mechanism("bottleneck", where=where),), model=lambda m: _guarded(m, int(width)))

    return Hooks(name, (Mechanism("bottleneck"),), model=lambda m: _guarded(m, int(width)), fitted=fitted)


def _guarded(model: nn.Module, width: int) -> nn.Module:
    """A copy of the model with the bottleneck and the head in place of the head."""
    head = layer_of(model, None, "PRECODE")
    guarded = copy.deepcopy(model)
    old = guarded.get_submodule(head)
    assert isinstance(old, nn.Linear)
    new = nn.Sequential(_initialized(old.in_features, width).to(old.weight.device, old.weight.dtype), old)
    new.train(old.training)
    if not head:
        return new
    parent, _, attribute = head.rpartition(".")
    setattr(guarded.get_submodule(parent), attribute, new)
    return guarded


def _initialized(features: int, width: int) -> VariationalBottleneck:
    """A bottleneck with the same weights each time, which leaves torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return VariationalBottleneck(features, width)
