"""A vision transformer with learned positions shows its picture by one linear solve, without weights, label or search.

For one example the gradient by the table of positions is that by what the patches' layer gives, and the gradient by
that layer's weight is its product with the patches: `delta^T rows = gradient` with both known. The patches follow where
delta has as many independent rows as there are patches. Blocks that normalize first make the rows orthogonal to the
vector of ones, so that a layer of `width` outputs reads `width - 1` patches at most; what is beyond, or drowned by
noise, is left to what pictures look like.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from fedseal.attack.base import refused
from fedseal.attack.equations.patch_solution import PatchSolution, errors_of, solve_patches
from fedseal.attack.evidence.belief import belief
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.patch_equations import PatchEquations, patch_equations
from fedseal.attack.proof.certificate import certify
from fedseal.attack.route import Route
from fedseal.types import Outcome, ProgressCallback, Reconstruction

FITS = 30.0  # times the error that shows elsewhere, up to which the equations of one example hold
COUNTED = "the order of the positions was not handed over, and is taken for the one in which they are numbered"


@dataclass(frozen=True)
class Patches(Route):
    """Read one picture off the gradients of a patch embedding and of the positions that are added to it."""

    name: str = "patches"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        equations = patch_equations(evidence)
        if isinstance(equations, str):
            return equations
        if evidence.batch_size not in (1, None):
            return f"the update is of {evidence.batch_size} examples, whose equations add up and do not come apart"
        if len(evidence.observation.rounds) > 1:
            return "it reads one update, and there are several"
        if evidence.release.of_error("sign"):
            return "only signs were sent, which are no equations"
        names = (equations.layer.weight, equations.layer.table)
        if any(evidence.release.sent(name) is not None for name in names):
            return "of the patches' layer or the positions entries are missing"
        return _several(equations)

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Closed form; draws nothing."""
        started = time.perf_counter()
        observation, obstacle = evidence.observation, self.obstacle(evidence)
        if obstacle is not None:
            return refused(self.name, obstacle, started)
        equations = patch_equations(evidence)
        assert not isinstance(equations, str)
        prior = belief(observation.modality)
        solution = solve_patches(equations, prior)
        undone = equations.inputs(solution.rows, 30 * evidence.eps)
        notes = [
            determined(equations, solution),
            *filter(None, [undone.note]),
            *([] if equations.ordered else [COUNTED]),
        ]
        inputs = (
            undone.inputs if solution.rank == equations.layer.places else observation.modality.project(undone.inputs)
        )
        misfit = equations.misfit(solution.rows)
        outcome = Outcome("exact", self.name, misfit, 0, 0.0, "; ".join(notes))
        found = certify(observation, Reconstruction(inputs.to(observation.like), evidence.target, outcome))
        if found.outcome.residual is None:
            found = replace(found, outcome=replace(found.outcome, residual=misfit))
        return replace(found, outcome=replace(found.outcome, seconds=time.perf_counter() - started))


def determined(equations: PatchEquations, solution: PatchSolution) -> str:
    """How many directions the update determines."""
    layer = equations.layer
    words = f"{layer.places} patches through a width of {layer.width}: {solution.rank} directions are determined"
    left = layer.places - solution.rank
    return f"{words}; {left} {'is' if left == 1 else 'are'} left to what pictures look like" if left else words


def _several(equations: PatchEquations) -> str | None:
    """Why the update cannot be of one example; None if it may.

    The positions' gradients add up to the bias's for any number of examples, which shows how large errors are. Of one
    alone the gradient by the weight lies in the span of the positions' up to these.
    """
    evidence = equations.evidence
    if equations.bias is None and (evidence.altered or evidence.observation.update.kind == "difference"):
        return None
    if errors_of(equations).excess <= FITS:
        return None
    return "the gradient of the patches' layer is not in the span of the positions': more than one example"
