"""PRECODE's random bottleneck, taken out of a single example's update: the draw that was to be the client's secret.

The bottleneck makes code = mean(h) + softplus(spread(h)) * draw of the features h, and hands on out(code). All three
are linear layers with a bias, and each gives its input away as any such layer does for one example: `mean` the
features, `out` the code. Their difference, divided by the public spread, is the draw. With it the model is like any
other: it replays, and everything that attacks models attacks this one. Before the bottleneck stands the gradient by
the features, W_mean^T dL/db_mean + W_spread^T dL/db_spread, without any draw in it, from where the closed form goes on.

That PRECODE falls where its own gradients are left out is known (Scheliga et al., arXiv:2208.04767; Balunovic et al.,
ICLR 2022, arXiv:2111.04706); that its own gradients give the draw is ours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedseal.attack.base import better, conclude, precision, refused
from fedseal.attack.equations.rank import CLOSED, invertible
from fedseal.attack.equations.recursion import closed_form, head_signal
from fedseal.attack.evidence.draw import bottleneck_of, drawn
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.structure import Linear, Structure
from fedseal.attack.layers.layerwise import Layerwise, unread
from fedseal.attack.route import Route
from fedseal.client import RandomLayer
from fedseal.types import Candidate, Observation, ProgressCallback, Reconstruction

STACKED = ("bottleneck.weight", "bottleneck.bias")  # of mean and spread as one layer


@dataclass(frozen=True)
class Bottleneck(Route):
    """Read one example off the gradient before a random bottleneck: layer by layer, as `Layerwise` does."""

    name: str = "bottleneck"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        if bottleneck_of(evidence.observation) is None:
            return "the model holds no random bottleneck"
        known = _known(evidence)
        if known is None:
            return "the bottleneck's draw does not follow: it takes a single gradient of one example, and the weights"
        row = _Before(known)
        if row.structure.obstacle is not None:
            return row.structure.obstacle
        if Evidence(known).target is None:
            return unread(Evidence(known))
        return invertible(row)

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Closed form, then matching of the model with its draw known where that falls short of precision."""
        started = time.perf_counter()
        obstacle = self.obstacle(evidence)
        known = _known(evidence)
        if obstacle is not None or known is None:
            return refused(self.name, obstacle or "", started)
        row, target = _Before(known), Evidence(known).target
        assert target is not None
        form = closed_form(row, head_signal(row), generator, progress)
        Evidence.of(known).once(CLOSED, lambda: form)
        inputs = form.inputs.reshape(1, *known.modality.shape).to(known.like)
        candidate = Candidate(inputs, target)
        found = conclude(known, candidate, route=self.name, steps=0, started=started, status="exact")
        if found.outcome.residual is None or found.outcome.residual > precision(known):
            determined = not form.open and Layerwise().determined(row)
            found = better(found, Layerwise().match(Evidence(known), form, determined, generator, progress))
        seconds = time.perf_counter() - started
        return replace(found, outcome=replace(found.outcome, route=self.name, seconds=seconds))


class _Before(Evidence):
    """The evidence of the layers before the bottleneck, with its mean and spread as one linear layer for a head."""

    def __init__(self, known: Observation) -> None:
        state, update = known.state, known.update
        place = bottleneck_of(known)
        assert state is not None
        assert place is not None
        stacked = replace(update, tensors={**update.tensors, **_stacked(update.tensors, place)})
        super().__init__(
            replace(
                known, rounds=(replace(known.rounds[0], state={**state, **_stacked(state, place)}, update=stacked),)
            )
        )
        before = Evidence(known).structure
        weight = stacked.tensors[STACKED[0]]
        last = before.layers[-1] if before.layers else None
        head = Linear(*STACKED, (weight.shape[1],), (weight.shape[0],))
        shape = getattr(last, "out_shape", None)
        fits = last is None or shape in (None, head.in_shape)
        obstacle = None if fits else f"the data is not known on its way to the bottleneck: {before.obstacle}"
        self.__dict__["structure"] = Structure(
            (*before.layers, head), obstacle, head, before.layers, weight.shape[0], before.nonsmooth
        )


def _known(evidence: Evidence) -> Observation | None:
    """The observation with the draw, read once."""
    known = drawn(evidence.observation)
    place = bottleneck_of(known)
    layer = None if place is None else known.model.get_submodule(place.removesuffix("."))
    return known if isinstance(layer, RandomLayer) and layer.drawn is not None else None


def _stacked(tensors: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    both = [[tensors[f"{place}{part}.{kind}"] for part in ("mean", "spread")] for kind in ("weight", "bias")]
    return {name: torch.cat(pair) for name, pair in zip(STACKED, both, strict=True)}
