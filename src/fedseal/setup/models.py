"""Models by name: one builder for every verb, so that the same name and data give the same model everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from fedseal import grammar, zoo
from fedseal.errors import BadConfig, UnknownName
from fedseal.modality import LanguageModel, Text
from fedseal.setup.factory import build_object

ZOO = "zoo:"
WIDTHS = (100, 100)  # of a perceptron for rows that nobody describes: TabLeak's


def build_model(
    name: str,
    *,
    shape: Sequence[int],
    classes: int,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
) -> nn.Module:
    """A model of the zoo that fits such inputs, or what "package.module:function" returns.

    Args:
        name: "zoo:NAME", "zoo:NAME:option=value", or "package.module:function".
        shape: of one input, `(C, H, W)` or `(features,)`.
        classes: outputs of a model of the zoo, unless its options say otherwise.
        seed: of the zoo's weights.
        options: keyword arguments for the function that builds it; they go before what fits.

    Raises:
        UnknownName: no such model, or option.
        BadConfig: an option that means nothing, or a model of pictures for rows.

    >>> build_model("zoo:mlp:widths=[8]", shape=(4,), classes=3)[-1]
    Linear(in_features=8, out_features=3, bias=True)
    """
    if not name.startswith(ZOO):
        return build_object(name, nn.Module, options)
    named = grammar.read(name.removeprefix(ZOO))
    if named.name not in zoo.MODELS:
        raise UnknownName("model in the zoo", named.name, [*zoo.MODELS, "package.module:function"])
    known = grammar.kinds(zoo.MODELS[named.name])
    fitting: dict[str, object] = {"inputs": math.prod(shape), "num_classes": classes, "seed": seed}
    if len(shape) == 3:
        fitting |= {"channels": shape[0], "size": shape[1]}
    elif "inputs" in known:
        fitting |= {"widths": WIDTHS}
    else:
        raise BadConfig(f"the model '{named.name}' takes pictures, and these are rows", "use zoo:mlp")
    fitting = {option: value for option, value in fitting.items() if option in known}
    return zoo.build(named.name, **fitting | dict(options or {}) | grammar.options(named, known))


def short(name: str) -> str:
    """A model's name for titles.

    >>> short("zoo:lenet:activation=tanh")
    'lenet:activation=tanh'
    """
    return name.removeprefix(ZOO)


def outputs_in(name: str, tensors: Mapping[str, Tensor], *, shape: Sequence[int], classes: int) -> int:
    """How many outputs a model of the zoo has by an update of it, whose last layer has a row for each.

    Args:
        tensors: the update as it was captured, where a wrapper may have made the names longer.
        classes: what holds where the update does not tell.
    """
    if not name.startswith(ZOO):
        return classes
    *_, last = build_model(name, shape=shape, classes=classes).state_dict()
    found = [tensor for key, tensor in tensors.items() if f".{key}".endswith(f".{last}") and tensor.ndim]
    return len(found[0]) if len(found) == 1 else classes


def is_language(name: str) -> bool:
    """Whether the zoo has a language model of that name."""
    return short(name) in zoo.text_models()


def language_model(name: str) -> tuple[LanguageModel, Text]:
    """A language model and the modality of its inputs, by the zoo's name or "package.module:function".

    Raises:
        UnknownName: the zoo has none of that name.
        BadConfig: the function gives something else.
        MissingExtra: transformers, or the model's package, is not installed.
    """
    known = zoo.text_models()
    if short(name) in known:
        return known[short(name)]()
    if name.startswith(ZOO) or ":" not in name:
        raise UnknownName("language model", short(name), [*known, "package.module:function"])
    built = build_object(name, tuple)
    if len(built) != 2 or not isinstance(built[0], LanguageModel) or not isinstance(built[1], Text):
        raise BadConfig(f"'{name}' returned no language model with its text", "return (fs.LanguageModel, fs.Text)")
    model, text = built
    rows = model.state_dict()[model.embedding_name].shape[0]
    if text.size > rows:
        raise BadConfig(
            f"the tokenizer of '{name}' has {text.size} tokens and the model's embedding {rows} rows",
            "return the tokenizer that the model was trained with",
        )
    return model, text
