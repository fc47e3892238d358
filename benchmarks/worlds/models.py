"""Models of small worlds, as lines of Python: what stands in the world is what runs and what is printed."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.worlds.draw import Draw, one_in

SMOOTH = ("nn.Sigmoid()", "nn.Tanh()", "nn.GELU()", "nn.SiLU()", "nn.ELU()", "nn.Softplus()")
KINKED = ("nn.ReLU()", "nn.LeakyReLU(0.2)")
WIDTHS = (8, 16, 24, 4, 3, 2, 1)

AFFINE = """
class Affine(nn.Module):
    def __init__(self, factor, shift):
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, inputs):
        return inputs * torch.as_tensor(self.factor).to(inputs) + torch.as_tensor(self.shift).to(inputs)
"""
GRAY = """
class Gray(nn.Module):
    def forward(self, inputs):
        return inputs.mean(1, keepdim=True)
"""


@dataclass
class Model:
    """A network in a row in the making.

    Args:
        shape: of one example after the layers so far.
        layers: the modules as Python.
        classes: definitions that they need.
        after: statements that change the built `model`.
        tags: what kinds the world is counted under.
    """

    shape: tuple[int, ...]
    layers: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)

    def add(self, layer: str, shape: tuple[int, ...] | None = None) -> None:
        """Append a module, and say what shape it gives."""
        self.layers.append(layer)
        self.shape = shape or self.shape

    @property
    def size(self) -> int:
        """Values of one example after the layers so far."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @property
    def linear(self) -> list[int]:
        """Places of the layers with weights."""
        return [n for n, layer in enumerate(self.layers) if layer.startswith(("nn.Linear", "nn.Conv"))]

    def lines(self) -> list[str]:
        """The definitions, the model and what changes it."""
        inner = ",\n".join(f"    {layer}" for layer in self.layers)
        return [*self.classes, f"model = nn.Sequential(\n{inner},\n)", *self.after]


def model(draw: Draw, shape: tuple[int, ...], outputs: int, batch: int) -> Model:
    """A random model for examples of that shape.

    Args:
        outputs: of the head.
        batch: examples; what normalizes by the batch needs two.
    """
    made = Model(shape)
    _before(draw, made)
    families = ["mlp", "softmax", "convolutional"]
    family = draw.pick([families[0], families[0], families[2], families[2], families[1]])
    made.tags.add(f"model: {family}")
    normalizes = batch > 1
    if family == "convolutional":
        _convolutions(draw, made, normalizes)
    if len(made.shape) > 1:
        made.add("nn.Flatten()", (made.size,))
    if family == "mlp":
        _hidden(draw, made, normalizes)
    if one_in(draw, 10):
        _dropout(draw, made, "after the layers")
    bias = not one_in(draw, 6)
    made.tags.add(f"head: {'with' if bias else 'without'} bias")
    made.add(f"nn.Linear({made.size}, {outputs}{'' if bias else ', bias=False'})", (outputs,))
    _changes(draw, made)
    return made


def _before(draw: Draw, made: Model) -> None:
    """What stands before the first layer with weights: nothing in most worlds."""
    kind = draw.pick(["none"] * 14 + ["affine", "normalize", "batchnorm", "layernorm", "gray", "dropout"])
    if kind == "affine":
        made.classes.append(AFFINE)
        made.add(f"Affine({draw.pick([2.0, 0.5, -1.0])}, {draw.pick([-1.0, 0.25])})")
    elif kind == "normalize":
        shape = (made.shape[0],) + (1,) * (len(made.shape) - 1)
        made.classes.append(AFFINE)
        made.add(f"Affine(torch.rand{shape} + 0.5, torch.randn{shape})".replace(",)", ")"))
    elif kind == "batchnorm":
        made.add(f"nn.BatchNorm{'2d' if len(made.shape) == 3 else '1d'}({made.shape[0]})")
        made.after += _statistics(len(made.layers) - 1)
    elif kind == "layernorm":
        made.add(f"nn.LayerNorm({list(made.shape)})")
    elif kind == "gray" and made.shape[0] == 3:
        made.classes.append(GRAY)
        made.add("Gray()", (1, *made.shape[1:]))
    elif kind == "dropout":
        _dropout(draw, made, "before the layers")
    else:
        kind = "none"
    made.tags.add(f"before: {kind}")


def _dropout(draw: Draw, made: Model, where: str) -> None:
    rate = draw.pick([0.5, 0.2, 0.1])
    made.add(f"nn.Dropout{'2d' if len(made.shape) == 3 and one_in(draw, 3) else ''}({rate})")
    made.tags.add(f"dropout: {where}")


def _statistics(place: int) -> list[str]:
    """Statistics that earlier rounds left."""
    return [
        f"model[{place}].running_mean.uniform_(-0.5, 0.5)",
        f"model[{place}].running_var.uniform_(0.5, 2.0)",
    ]


def _activation(draw: Draw, made: Model) -> None:
    kinked = draw.whole(0, 1)
    chosen = draw.pick(KINKED if kinked else SMOOTH)
    if one_in(draw, 15):
        made.tags.add("activation: identity")
        return
    made.tags.add(f"activation: {chosen.removeprefix('nn.').partition('(')[0].lower()}")
    made.add(chosen)


def _hidden(draw: Draw, made: Model, normalizes: bool) -> None:
    for number in range(draw.pick([1, 1, 2, 3])):
        bias = not one_in(draw, 8)
        width = draw.pick([*WIDTHS, made.size])
        if number == 0 and not bias:
            made.tags.add("first layer: without bias")
        if number == 0:
            made.tags.add(f"first layer: width {'1 to 4' if width <= 4 else 'above 4'}")
        made.add(f"nn.Linear({made.size}, {width}{'' if bias else ', bias=False'})", (width,))
        kind = draw.pick(["none"] * 10 + ["layernorm", "batchnorm"])
        if kind == "layernorm":
            made.add(f"nn.LayerNorm({width})")
        elif kind == "batchnorm" and normalizes:
            made.add(f"nn.BatchNorm1d({width})")
            made.after += _statistics(len(made.layers) - 1)
        if kind != "none":
            made.tags.add("inside: normalization")
        _activation(draw, made)
        if one_in(draw, 14):
            _dropout(draw, made, "between the layers")


def _convolutions(draw: Draw, made: Model, normalizes: bool) -> None:
    flat = len(made.shape) == 1 or made.shape[1] == 1
    if len(made.shape) == 1:  # a row as a signal of one channel
        made.add(f"nn.Unflatten(1, (1, {made.size}))", (1, made.size))
    elif flat:
        made.add("nn.Flatten(2)", (made.shape[0], made.size // made.shape[0]))
    plain = "1d" if flat else "2d"
    made.tags.add(f"convolution: {plain}")
    for number in range(draw.pick([1, 1, 2])):
        kernel = min(draw.pick([3, 2, 1, 5]), made.shape[-1])
        stride = draw.pick([1, 1, 1, 2, 3])
        padding = draw.pick([0, kernel // 2])
        channels = draw.pick([4, 8, 12, 2, 1])
        bias = not one_in(draw, 6)
        if stride > kernel:
            made.tags.add("convolution: stride skips pixels")
        extents = tuple((extent + 2 * padding - kernel) // stride + 1 for extent in made.shape[1:])
        given = f"{made.shape[0]}, {channels}, {kernel}, stride={stride}, padding={padding}"
        made.add(f"nn.Conv{plain}({given}{'' if bias else ', bias=False'})", (channels, *extents))
        if number == 0 and not bias:
            made.tags.add("first layer: without bias")
        if normalizes and one_in(draw, 8):
            made.tags.add("inside: normalization")
            made.add(f"nn.BatchNorm{plain}({channels})")
            made.after += _statistics(len(made.layers) - 1)
        _activation(draw, made)
        pool = draw.pick(["none"] * 5 + ["Max", "Avg"])
        if pool != "none" and min(made.shape[1:]) >= 2:
            made.tags.add(f"pooling: {pool.lower()}")
            made.add(f"nn.{pool}Pool{plain}(2)", (channels, *(extent // 2 for extent in made.shape[1:])))
        if one_in(draw, 14):
            _dropout(draw, made, "between the layers")


def _changes(draw: Draw, made: Model) -> None:
    """Dead units, averaged colors, frozen parts, a head of zeros: none in most worlds."""
    first, head = made.linear[0], made.linear[-1]
    kind = draw.pick(
        ["none"] * 13 + ["dead", "all dead", "colors", "frozen", "frozen bias", "zero head", "larger", "large"]
    )
    if kind in ("dead", "all dead") and first != head and "bias=False" not in made.layers[first]:
        units = f"[: model[{first}].bias.numel() {'// 2 + 1' if kind == 'dead' else ''}]".replace(" ]", "]")
        made.after.append(f"model[{first}].bias.data{units} = -100.0")
    elif kind == "colors" and made.layers[first].startswith("nn.Conv2d(3"):
        made.after.append(f"model[{first}].weight.data[:] = model[{first}].weight.data.mean(1, keepdim=True)")
    elif kind == "frozen" and first != head:
        made.after.append(f"model[{first}].requires_grad_(False)")
    elif kind == "frozen bias" and "bias=False" not in made.layers[first]:
        made.after.append(f"model[{first}].bias.requires_grad_(False)")
    elif kind == "zero head":
        made.after.append(f"model[{head}].weight.data.zero_()")
        if "bias=False" not in made.layers[head]:
            made.after.append(f"model[{head}].bias.data.zero_()")
    elif kind in ("large", "larger"):
        made.after.append(f"model[{head}].weight.data.mul_({4.0 if kind == 'large' else 30.0})")
    else:
        kind = "none"
    made.tags.add(f"changed: {kind}")
