"""Reference models, built from a seed.

Every builder draws its weights from its own seed and leaves torch's global generator as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedseal.errors import BadConfig, UnknownName

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "identity": nn.Identity,
    "relu": nn.ReLU,
}


def lenet(
    *,
    num_classes: int = 100,
    channels: int = 3,
    size: int = 32,
    activation: str = "sigmoid",
    width: int = 12,
    kernel: int = 5,
    seed: int = 0,
) -> nn.Sequential:
    """The LeNet of DLG (Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935): convolutions of stride 2, 2, 1, a linear.

    Inputs `(N, channels, size, size)`, outputs `(N, num_classes)`. Every weight and bias is uniform in [-0.5, 0.5];
    seed 1234 with the defaults gives the weights of the published run. Leaky ReLU has the slope 0.2.

    Raises:
        UnknownName: an activation that does not exist.
        BadConfig: a size that is not positive.

    >>> lenet()[-1].in_features
    768
    """
    _positive(num_classes=num_classes, channels=channels, size=size, width=width, kernel=kernel)
    layers: list[nn.Module] = []
    before, side = channels, size
    with seeded(seed):
        for stride in (2, 2, 1):
            layers += [nn.Conv2d(before, width, kernel, stride, padding=kernel // 2), _activation(activation)]
            before, side = width, (side + 2 * (kernel // 2) - kernel) // stride + 1
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side * side, num_classes))
    # Seeded anew after construction, as the published run does, so that the default initialization does not count.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5, generator=generator)
    return model


def mlp(
    *,
    inputs: int = 784,
    widths: Sequence[int] = (200, 100),
    num_classes: int = 10,
    activation: str = "relu",
    seed: int = 0,
) -> nn.Sequential:
    """A multilayer perceptron with torch's default initialization, from `(N, ...)` of `inputs` numbers each.

    Raises:
        UnknownName: an activation that does not exist.
        BadConfig: a width that is not positive.

    >>> mlp()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    _positive(inputs=inputs, num_classes=num_classes, **{f"widths[{i}]": width for i, width in enumerate(widths)})
    layers: list[nn.Module] = [nn.Flatten()]
    with seeded(seed):
        before = inputs
        for width in widths:
            layers += [nn.Linear(before, width), _activation(activation)]
            before = width
        return nn.Sequential(*layers, nn.Linear(before, num_classes))


def convnet(
    *,
    num_classes: int = 10,
    channels: int = 3,
    size: int = 32,
    width: int = 32,
    activation: str = "relu",
    seed: int = 0,
) -> nn.Sequential:
    """An ordinary convolutional net with torch's default initialization: 3x3, max-pooling, two linear layers.

    Inputs `(N, channels, size, size)`, outputs `(N, num_classes)`.

    Raises:
        UnknownName: an activation that does not exist.
        BadConfig: a size below 4, which two poolings would leave empty, or a width that is not positive.

    >>> convnet(size=28, channels=1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    _positive(num_classes=num_classes, channels=channels, size=size, width=width)
    if size < 4:
        raise BadConfig(f"convnet halves its input twice, and the size is {size}", "give a size of at least 4")
    with seeded(seed):
        layers: list[nn.Module] = []
        for before, after in ((channels, width), (width, 2 * width)):
            layers += [nn.Conv2d(before, after, 3, padding=1), _activation(activation)]
            layers += [nn.Conv2d(after, after, 3, padding=1), _activation(activation), nn.MaxPool2d(2)]
        features = 2 * width * (size // 4) ** 2
        head = [nn.Flatten(), nn.Linear(features, 4 * width), _activation(activation)]
        return nn.Sequential(*layers, *head, nn.Linear(4 * width, num_classes))


def resnet(
    *,
    num_classes: int = 10,
    channels: int = 3,
    width: int = 64,
    blocks: Sequence[int] = (2, 2, 2, 2),
    seed: int = 0,
) -> nn.Sequential:
    """ResNet-18 with BatchNorm and a 3x3 stem for small pictures (He et al., CVPR 2016, arXiv:1512.03385).

    Inputs `(N, channels, H, W)` of any size, outputs `(N, num_classes)`. Each stage after the first halves the sides
    and doubles the width.

    Raises:
        BadConfig: no stage, or a width that is not positive.
    """
    _positive(num_classes=num_classes, channels=channels, width=width)
    if not blocks or min(blocks) < 1:
        raise BadConfig(f"resnet has the stages {tuple(blocks)}", "give at least one stage of at least one block")
    with seeded(seed):
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        before = width
        for stage, count in enumerate(blocks):
            after = width * 2**stage
            for block in range(count):
                layers.append(_Residual(before, after, stride=2 if stage > 0 and block == 0 else 1))
                before = after
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes))


def vit(
    *,
    num_classes: int = 10,
    channels: int = 3,
    size: int = 32,
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    seed: int = 0,
) -> nn.Module:
    """A small vision transformer (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929) with eager attention.

    Inputs `(N, channels, size, size)`, outputs `(N, num_classes)`. Learned position embedding, class token, pre-norm;
    the attention is twice differentiable everywhere.

    Raises:
        BadConfig: the patch does not divide the size, or the heads do not divide the width.
    """
    _positive(num_classes=num_classes, channels=channels, size=size, patch=patch, width=width, depth=depth, heads=heads)
    if size % patch or width % heads:
        raise BadConfig(
            f"vit cuts a side of {size} into patches of {patch} and a width of {width} into {heads} heads",
            "give a patch that divides the size and heads that divide the width",
        )
    with seeded(seed):
        return _VisionTransformer(num_classes, channels, size, patch, width, depth, heads)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet": lenet,
    "mlp": mlp,
    "convnet": convnet,
    "resnet": resnet,
    "vit": vit,
}


def build(name: str, **options: object) -> nn.Module:
    """The reference model of that name, with its options by keyword.

    Raises:
        UnknownName: there is no such model, or it has no such option.
        BadConfig: an option of the wrong type or value.

    >>> build("lenet", num_classes=10)[-1].out_features
    10
    """
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    known = inspect.signature(MODELS[name]).parameters
    for option in options:
        if option not in known:
            raise UnknownName(f"option of the model '{name}' named", option, known)
    try:
        return MODELS[name](**options)
    except (TypeError, RuntimeError, MemoryError, OverflowError) as error:  # torch's, of more memory than there is
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadConfig(f"the model '{name}' cannot be built with {given} ({said})", "check the options") from error


class _Residual(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to a shortcut that is projected where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            projection = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(after))
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.body(x) + self.shortcut(x))
        return out


class _Attention(nn.Module):
    """Multi-head self-attention as plain matrix products: fused kernels have no second derivative."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        n, tokens, width = x_NTD.shape
        qkv = self.qkv(x_NTD).view(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        out: Tensor = self.out((weights @ value).transpose(1, 2).reshape(n, tokens, width))
        return out


class _Encoder(nn.Module):
    """One transformer layer: attention and a two-layer perceptron, each on a normalized copy and added back."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), _Attention(width, heads))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        out: Tensor = x + self.perceptron(x)
        return out


class _VisionTransformer(nn.Module):
    def __init__(
        self, num_classes: int, channels: int, size: int, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + (size // patch) ** 2, width), std=0.02))
        self.layers = nn.Sequential(*[_Encoder(width, heads) for _ in range(depth)], nn.LayerNorm(width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1)
        out: Tensor = self.head(self.layers(tokens + self.position)[:, 0])
        return out


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let default initializations draw from the seed.

    Only the CPU generator is seeded and put back: `torch.manual_seed` would reseed accelerators too, for good.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise UnknownName("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise BadConfig(f"the model's {name} is {number}", "give at least 1")
