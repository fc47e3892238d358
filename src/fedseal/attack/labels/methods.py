"""The table of label methods by name; a row says where its method is built, so that it can be printed without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from fedseal.named import named

if TYPE_CHECKING:
    from fedseal.attack.labels.base import LabelMethod


@dataclass(frozen=True)
class Method:
    """A row of the table of label methods.

    Args:
        summary: what it does, in a line.
        needs: the grants (keys of `fedseal.threat.GRANTS`) without which it refuses.
        paper: where it was published.
        where: its class, as "module:name".
        options: those of its arguments that are no defaults.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    paper: str
    where: str
    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def infer(self) -> LabelMethod:
        """The method."""
        method: LabelMethod = named(self.where)(**self.options)
        return method


METHODS = {
    method.name: method
    for method in (
        Method(
            "sign",
            "one example: the class whose logit's gradient is negative",
            (),
            "Zhao, Mopuri and Bilen 2020, arXiv:2001.02610",
            "fedseal.attack.labels.sign:Sign",
        ),
        Method(
            "soft",
            "one example: its whole target, hard, smoothed or mixed",
            ("state",),
            "fedseal",
            "fedseal.attack.labels.soft:Soft",
        ),
        Method(
            "gradinversion",
            "the classes with the least entries in the head's gradient; none twice",
            (),
            "Yin et al., CVPR 2021, arXiv:2104.07586",
            "fedseal.attack.labels.gradinversion:GradInversionRule",
        ),
        Method(
            "llg",
            "labels one by one, each taking its share of the head gradient's row sums",
            (),
            "Wainakh et al., PoPETs 2022, arXiv:2105.09369",
            "fedseal.attack.labels.llg:LLG",
        ),
        Method(
            "geng",
            "counts by random inputs, from the head's weight gradient",
            ("state",),
            "Geng et al. 2021, arXiv:2110.09074",
            "fedseal.attack.labels.geng:Geng",
        ),
        Method(
            "geng_bias",
            "counts by random inputs, from the head's bias gradient",
            ("state",),
            "Geng et al. 2021, arXiv:2110.09074",
            "fedseal.attack.labels.geng:Geng",
            {"bias": True, "name": "geng_bias"},
        ),
        Method(
            "ilrg",
            "counts by linear equations in class-wise embeddings; falls back to geng_bias",
            ("state",),
            "Ma et al., ICLR 2023",
            "fedseal.attack.labels.ilrg:ILRG",
        ),
        Method(
            "dimitrov",
            "counts after local steps, interpolated between the weights before and after",
            ("state", "training"),
            "Dimitrov et al., TMLR 2022, arXiv:2206.12395",
            "fedseal.attack.labels.dimitrov:Dimitrov",
        ),
        Method(
            "rlu",
            "counts after local steps, by least squares over a simulated client",
            ("state", "training"),
            "Chen et al., ICML 2024, arXiv:2405.00955",
            "fedseal.attack.labels.rlu:RLU",
        ),
        Method(
            "moments",
            "counts by the mean logits that the head's own gradient implies, with an error",
            ("state",),
            "fedseal",
            "fedseal.attack.labels.moments:Moments",
        ),
        Method(
            "best",
            "separates the batch at the head and certifies the labels; else the count that fits the update",
            (),
            "fedseal",
            "fedseal.attack.labels.combination:Best",
        ),
    )
}
