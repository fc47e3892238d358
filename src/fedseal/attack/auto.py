"""The planner: the cheapest exact route whose precondition the evidence meets, else the best optimization.

It explains itself: every route is noted as taken or refused, with the reason, in the order in which it was considered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from fedseal.attack.base import better
from fedseal.attack.evidence import Evidence
from fedseal.attack.exact.layerwise import Layerwise, rank_analysis
from fedseal.attack.exact.linear import LinearFirstLayer
from fedseal.attack.init import grey
from fedseal.attack.matching import Adam, GradientMatching, Labels
from fedseal.attack.objective import CosineWithLayers
from fedseal.attack.prior import total_variation
from fedseal.attack.schedule import cosine_decay
from fedseal.errors import UnknownToAdversary
from fedseal.types import Observation, Outcome, ProgressCallback, Reconstruction, RouteNote

EXACT_ROUTES = (LinearFirstLayer(), Layerwise())  # cheapest first


@dataclass(frozen=True)
class Auto:
    """Choose the route by the evidence alone."""

    steps: int = 2400
    name: str = "auto"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack by the first route that certifies its result; else keep the smallest residual."""
        started = time.perf_counter()
        evidence = Evidence(observation)
        notes: list[RouteNote] = []
        best: Reconstruction | None = None
        for route in EXACT_ROUTES:
            obstacle = route.obstacle(evidence)
            if obstacle is not None:
                notes.append(RouteNote(route.name, False, obstacle))
                continue
            found = route.read(evidence, generator=generator, progress=progress)
            notes.append(RouteNote(route.name, True, _because(evidence, route.name, found)))
            best = found if best is None else better(best, found)
            if best.outcome.status in ("exact", "converged"):
                notes.append(RouteNote("matching", False, "an exact route has certified its result"))
                break
            if isinstance(route, Layerwise):
                notes.append(RouteNote("matching", False, "the route has already matched as far as precision reaches"))
                break
        else:
            best = self._search(evidence, best, notes, generator, progress)
        outcome = replace(best.outcome, seconds=time.perf_counter() - started)
        return replace(best, outcome=outcome, explanation=tuple(notes))

    def _search(
        self,
        evidence: Evidence,
        start: Reconstruction | None,
        notes: list[RouteNote],
        generator: torch.Generator,
        progress: ProgressCallback | None,
    ) -> Reconstruction:
        observation = evidence.observation
        missing = [fact for fact in ("state", "training") if getattr(observation, fact) is None]
        if missing:
            reason = f"it needs {' and '.join(missing)}, which the threat model '{observation.threat}' withholds"
            notes.append(RouteNote("matching", False, reason))
            return start or Reconstruction(None, None, Outcome("not_applicable", self.name, None, 0, 0.0, reason))
        attack, reason = plan(evidence, start, self.steps)
        try:
            found = attack(observation, generator=generator, progress=progress)
        except UnknownToAdversary as error:
            notes.append(RouteNote(attack.name, False, error.fact))
            return start or Reconstruction(None, None, Outcome("not_applicable", self.name, None, 0, 0.0, error.fact))
        notes.append(RouteNote(attack.name, True, reason))
        return found if start is None else better(start, found)


def plan(evidence: Evidence, start: Reconstruction | None, steps: int) -> tuple[GradientMatching, str]:
    """The optimization for this evidence, and why."""
    labels: Labels = "sign" if evidence.label is not None else "joint"
    search = GradientMatching(
        "matching",
        labels=labels,
        init=grey,
        objective=CosineWithLayers(_linear_layers(evidence)),
        priors=((1e-2, total_variation),),
        optimizer=Adam(lr=0.05, signed=True, schedule=cosine_decay),
        steps=steps,
        box=True,
    )
    if start is None or start.inputs is None:
        return (
            search,
            "no exact route applies; cosine distance of the update and of its linear layers, with total variation",
        )
    gentle = Adam(lr=0.02, signed=True, schedule=cosine_decay)
    return (
        replace(search, start=start.inputs, optimizer=gentle),
        "the closed form is not certified; matching goes on from it",
    )


def _linear_layers(evidence: Evidence) -> tuple[int, ...]:
    """Where the update's matrices are, if one example made it; convolutions' and token layers' gradients are sums."""
    if evidence.batch_size != 1:
        return ()
    tensors = evidence.observation.update.tensors.values()
    return tuple(place for place, tensor in enumerate(tensors) if tensor.ndim == 2)


def _because(evidence: Evidence, route: str, found: Reconstruction) -> str:
    counts = rank_analysis(evidence.structure.layers) if route == "layerwise" else ()
    ranks = "; ".join(
        f"layer '{c.layer}': {c.equations} equations for {c.unknowns} unknowns"
        + ("" if c.determined else " (not determined)")
        for c in counts
    )
    value = found.outcome.residual
    ends = f"residual {value:.1e}, {found.outcome.status}" if value is not None else found.outcome.status
    return f"{ranks}; {ends}" if ranks else f"its precondition holds; {ends}"
