"""A batch taken apart first, and every example read alone: no gradient to match, no examples to mix up.

The head gives each example's features and the gradient by them (`equations/separation.py`). Where the layers stand in a
row, can be inverted and have as many equations as unknowns over the whole batch, the inputs follow in closed form.
Elsewhere the recursion stops at the deepest layer where every example is still determined, and inputs are searched
whose activations there agree, under a total variation that is lowered in stages: a forward and a backward pass a step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from fedseal.attack.base import better, conclude, refused
from fedseal.attack.equations import separation
from fedseal.attack.equations.rank import CLOSED, invertible, rank_analysis
from fedseal.attack.equations.recursion import batch_signal, closed_form, reach
from fedseal.attack.equations.separation import Separated
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.labels.combination import Best
from fedseal.attack.proof.certificate import CERTAIN
from fedseal.attack.route import Route
from fedseal.attack.search.init import grey
from fedseal.attack.search.known_activation import KnownActivation
from fedseal.attack.search.label_source import Given
from fedseal.attack.search.matching import Adam, GradientMatching
from fedseal.attack.search.prior import color_variation, mean_square, total_variation
from fedseal.attack.search.schedule import cosine_decay
from fedseal.attack.search.update_model import Nothing
from fedseal.types import Candidate, ProgressCallback, Reconstruction

# Weights of total variation beside the relative distance of activations, and the descent. Through kinks the gradient's
# size says little: its sign leads, under one weight.
SMOOTH = ((0.1, 0.01, 0.003, 0.001), Adam(lr=0.05, signed=False, schedule=cosine_decay))
KINKED = ((0.01,), Adam(lr=0.1, signed=True, schedule=cosine_decay))


@dataclass(frozen=True)
class Separation(Route):
    """Separate the batch at the head, then read every example from its own signal.

    Args:
        steps: of the search, where there is no closed form.
    """

    steps: int = 500
    name: str = "separation"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        if evidence.observation.training is None:
            return f"it needs the local training, which the threat model '{evidence.observation.threat}' withholds"
        return separation.separation_obstacle(evidence)

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Labels, features, then inputs: in closed form where every layer determines them, else by a search."""
        started = time.perf_counter()
        obstacle = self.obstacle(evidence)
        if obstacle is not None:
            return refused(self.name, obstacle, started)
        separated = Best().find(evidence).separated
        assert separated is not None
        found = None
        if _determined(evidence, len(separated.labels)):
            found = self._solve(evidence, separated, started, generator, progress)
        if found is None or found.outcome.status not in CERTAIN:
            searched = self._search(evidence, separated, generator, progress)
            found = searched if found is None else better(found, searched)
        note = f"{found.outcome.note}; {describe(separated)}" if found.outcome.note else describe(separated)
        outcome = replace(found.outcome, seconds=time.perf_counter() - started, note=note)
        return replace(found, outcome=outcome)

    def _solve(
        self,
        evidence: Evidence,
        separated: Separated,
        started: float,
        generator: torch.Generator,
        progress: ProgressCallback | None,
    ) -> Reconstruction:
        """Closed form over the whole batch."""
        observation = evidence.observation
        closed = evidence.once(
            CLOSED, lambda: closed_form(evidence, batch_signal(evidence, separated), generator, progress)
        )
        inputs = closed.inputs.reshape(-1, *observation.modality.shape).to(observation.like)
        candidate = Candidate(inputs, separated.labels.to(inputs.device))
        return conclude(observation, candidate, route=self.name, steps=0, started=started, status="exact")

    def _search(
        self,
        evidence: Evidence,
        separated: Separated,
        generator: torch.Generator,
        progress: ProgressCallback | None,
    ) -> Reconstruction:
        """Inputs whose activations agree, total variation lowered in stages."""
        observation = evidence.observation
        reached = reach(evidence, separated, generator)
        known = KnownActivation(reached.weight, reached.side, reached.value, reached.error)
        shape = observation.modality.shape
        smooth = color_variation if len(shape) == 3 and shape[0] == 3 else total_variation
        smooth = mean_square if len(shape) == 1 else smooth  # the columns of a row have no neighbors
        weights, descent = KINKED if evidence.structure.nonsmooth else SMOOTH
        stage = GradientMatching(
            f"{self.name}+activations",
            labels=Given(separated.labels),
            init=grey,
            optimizer=descent,
            steps=max(1, self.steps // len(weights)),
            box=True,
            update_model=Nothing(),
        )
        found, steps = None, 0
        for weight in weights:
            attack = replace(stage, priors=((1.0, known), (weight, smooth)))
            attack = attack if found is None else replace(attack, start=found.inputs)
            found = attack(observation, generator=generator, progress=progress)
            steps += found.outcome.steps
            if found.inputs is None:
                break
        assert found is not None
        where = f"activations at the {reached.side} of '{reached.weight}' matched"
        return replace(found, outcome=replace(found.outcome, route=self.name, steps=steps, note=where))


def describe(separated: Separated) -> str:
    """What the separation says of itself."""
    seen, count = int(separated.visible.sum()), len(separated.labels)
    layer, held = separated.site.layer.weight, "hold" if separated.certified else "do not hold"
    equations = f"the equations of '{layer}' {held} (misfit {separated.misfit:.1g})"
    return f"{equations}; {seen} of {count} examples stand above the edge of precision"


def _determined(evidence: Evidence, count: int) -> bool:
    """Whether the closed form applies and every layer has at least as many equations as unknowns over the batch."""
    layers = evidence.structure.layers
    return invertible(evidence) is None and all(c.determined for c in rank_analysis(layers, count))
