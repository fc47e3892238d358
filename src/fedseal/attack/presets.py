"""The published attacks as recipes, and the table of all attacks by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedseal.attack.auto import Auto
from fedseal.attack.base import best_of
from fedseal.attack.base import restarts as restarted
from fedseal.attack.exact.layerwise import Layerwise
from fedseal.attack.exact.linear import LinearFirstLayer
from fedseal.attack.init import normal
from fedseal.attack.matching import Adam, GradientMatching
from fedseal.attack.objective import cosine_distance
from fedseal.attack.prior import total_variation
from fedseal.attack.schedule import step_decay
from fedseal.types import Attack


def dlg(*, steps: int = 300, restarts: int = 1) -> Attack:
    """Deep Leakage from Gradients: inputs and soft labels together by L-BFGS.

    Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935. `restarts`: starts in all, a new one only where the last diverged.
    """
    attack = GradientMatching("dlg", steps=steps)
    return attack if restarts == 1 else restarted(restarts, attack)


def idlg(*, steps: int = 300, restarts: int = 1) -> Attack:
    """Improved DLG: the label first, from the head's gradient, then DLG on the input.

    Zhao, Mopuri and Bilen 2020, arXiv:2001.02610.
    """
    attack = GradientMatching("idlg", labels="sign", steps=steps)
    return attack if restarts == 1 else restarted(restarts, attack)


def inverting_gradients(*, steps: int = 4800, tv: float = 1e-2, lr: float = 0.1, restarts: int = 1) -> Attack:
    """Inverting Gradients: cosine, Adam on signs, total variation (Geiping et al., NeurIPS 2020, arXiv:2003.14053)."""
    attack = GradientMatching(
        "inverting_gradients",
        labels="sign",
        init=normal,
        objective=cosine_distance,
        priors=((tv, total_variation),),
        optimizer=Adam(lr=lr, signed=True, schedule=step_decay),
        steps=steps,
        box=True,
    )
    return attack if restarts == 1 else best_of(restarts, attack)


def auto(*, steps: int = 2400) -> Attack:
    """The planner: the cheapest exact route that the evidence allows, else the best optimization; explains itself."""
    return Auto(steps=steps)


@dataclass(frozen=True)
class Recipe:
    """A row of the table of attacks.

    Args:
        summary: what it does, in a line.
        needs: the grants (keys of `fedseal.threat.GRANTS`) without which it refuses.
        paper: where it was published.
        build: makes the attack; its keyword arguments are the recipe's options.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    paper: str
    build: Callable[..., Attack]


_MATCHING = ("state", "training")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "auto",
            "cheapest exact route whose precondition holds, else the best optimization; explains itself",
            (),
            "fedseal",
            auto,
        ),
        Recipe(
            "linear",
            "exact: input of a fully connected first layer with bias; needs no weights",
            (),
            "Phong et al., IEEE TIFS 2018",
            LinearFirstLayer,
        ),
        Recipe(
            "layerwise",
            "exact: one example through layers in a row with sigmoid, tanh, leaky ReLU or no activation",
            ("state", "training"),
            "after Zhu and Blaschko, ICLR 2021, arXiv:2010.07733; weighting and error propagation are ours",
            Layerwise,
        ),
        Recipe(
            "dlg",
            "optimizes inputs and soft labels together: squared distance, L-BFGS, 300 outer steps",
            _MATCHING,
            "Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935",
            dlg,
        ),
        Recipe(
            "idlg",
            "reads the label off the head, then optimizes the input as DLG does",
            _MATCHING,
            "Zhao, Mopuri and Bilen 2020, arXiv:2001.02610",
            idlg,
        ),
        Recipe(
            "inverting_gradients",
            "label off the head; cosine distance, signed Adam, total variation, box",
            _MATCHING,
            "Geiping et al., NeurIPS 2020, arXiv:2003.14053",
            inverting_gradients,
        ),
    )
}
