"""A client's local training as users write it: on the command line, or as keys of a file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from fedseal import grammar
from fedseal.errors import BadConfig, UnknownName
from fedseal.types import LocalTraining, Mode, Optimizer

EXAMPLE = "fedavg:lr=0.01,epochs=3,batch_size=8"


class TrainingSpec(BaseModel, extra="forbid", frozen=True):
    """Every field of a `LocalTraining`, with the kind that says which of its two makers is meant."""

    kind: Literal["fedsgd", "fedavg"] = "fedsgd"
    lr: float | None = None
    epochs: int = 1
    batch_size: int | None = LocalTraining.batch_size
    mode: Mode = LocalTraining.mode
    loss: str = str(LocalTraining.loss)
    optimizer: Optimizer = LocalTraining.optimizer
    momentum: float = LocalTraining.momentum
    weight_decay: float = LocalTraining.weight_decay
    betas: tuple[float, float] = LocalTraining.betas
    eps: float = LocalTraining.eps
    shuffle: bool = LocalTraining.shuffle
    fresh_optimizer: bool = LocalTraining.fresh_optimizer

    def resolved(self) -> LocalTraining:
        """As a value.

        Raises:
            BadConfig: an option of the other kind, or a value out of range.
        """
        if self.kind == "fedsgd":
            if extra := sorted(self.model_fields_set - {"kind", "mode", "loss"}):
                raise BadConfig(f"'training: {extra[0]}' means nothing to fedsgd", "remove it, or choose fedavg")
            return LocalTraining.fedsgd(mode=self.mode, loss=self.loss)
        if self.lr is None:
            raise BadConfig("fedavg has no learning rate", f"give one: lr: 0.01 in a file, or {EXAMPLE}")
        return LocalTraining.fedavg(lr=self.lr, **self.model_dump(exclude={"kind", "lr"}))


def training(text: str, mode: Mode | None = None) -> LocalTraining:
    """A local training as typed: "fedsgd", or "fedavg:lr=0.01,epochs=3,batch_size=8".

    Args:
        mode: how BatchNorm and dropout run; None for what the text says, else "train".

    Raises:
        UnknownName: another kind, or another option.
        BadConfig: an option's value means nothing, or two modes.

    >>> training("fedavg:lr=0.1,epochs=2,optimizer=adam,betas=[0.9,0.99]").betas
    (0.9, 0.99)
    """
    named = grammar.read(text)
    if named.name not in ("fedsgd", "fedavg"):
        raise UnknownName("training", named.name, ["fedsgd", "fedavg"])
    hints = {name: field.annotation for name, field in TrainingSpec.model_fields.items() if name != "kind"}
    options = grammar.options(named, hints if named.name == "fedavg" else {k: hints[k] for k in ("mode", "loss")})
    if mode not in (None, options.get("mode", mode)):
        raise BadConfig(f"the training says mode={options['mode']}, and --mode {mode}", "give one of them")
    if mode is not None:
        options["mode"] = mode
    return TrainingSpec(kind=named.name, **options).resolved()  # type: ignore[arg-type]
