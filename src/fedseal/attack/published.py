"""The published attacks as combinations of the parts, one function a paper; `recipes.py` is their table."""

from __future__ import annotations

from fedseal.attack.base import best_of
from fedseal.attack.base import restarts as restarted
from fedseal.attack.batch.cocktail_party import CocktailParty, Contrast
from fedseal.attack.labels.sign import Sign
from fedseal.attack.labels.ways import Inferred, way_to_labels
from fedseal.attack.search.batchnorm import BatchStatistics, Source
from fedseal.attack.search.bayes import Bayes
from fedseal.attack.search.group import GroupConsistency
from fedseal.attack.search.init import INITS, grey, normal
from fedseal.attack.search.label_source import UnlessMixed
from fedseal.attack.search.matching import LBFGS, Adam, GradientMatching
from fedseal.attack.search.objective import cosine_distance, cosine_with_matrices, layerwise_distance
from fedseal.attack.search.prior import EpochOrder, OutOfRange, mean_square, total_variation
from fedseal.attack.search.schedule import cosine_decay, step_decay, warm_cosine
from fedseal.attack.search.update_model import MeanGradient, Simulate, Surrogate
from fedseal.types import Attack

LABELS = "best"  # how recipes for batches read labels


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
    attack = GradientMatching("idlg", labels=Inferred(Sign()), steps=steps)
    return attack if restarts == 1 else restarted(restarts, attack)


def dlg_batch(*, steps: int = 2400, restarts: int = 1) -> Attack:
    """DLG on a batch, one example at a time: step t moves example t modulo N alone, which breaks the symmetry of order.

    Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935, section 3.2; each visit is an L-BFGS of its own,
    with a line search: without one it diverges here.
    """
    attack = GradientMatching("dlg_batch", optimizer=LBFGS(line_search=True), steps=steps, one_at_a_time=True)
    return attack if restarts == 1 else restarted(restarts, attack)


def inverting_gradients(
    *, steps: int = 4800, tv: float = 1e-2, lr: float = 0.1, restarts: int = 1, labels: str = LABELS
) -> Attack:
    """Inverting Gradients: cosine, Adam on signs, total variation (Geiping et al., NeurIPS 2020, arXiv:2003.14053)."""
    attack = GradientMatching(
        "inverting_gradients",
        labels=way_to_labels(labels),
        init=normal,
        objective=cosine_distance,
        priors=((tv, total_variation),),
        optimizer=Adam(lr=lr, signed=True, schedule=step_decay),
        steps=steps,
        box=True,
    )
    return attack if restarts == 1 else best_of(restarts, attack)


def gradinversion(
    *,
    steps: int = 2000,
    lr: float = 0.1,
    seeds: int = 4,
    tv: float = 0.3,
    l2: float = 1e-6,
    bn: float = 30.0,
    group: float = 1.0,
    noise: float = 0.02,
    statistics: Source = "any",
    labels: str = LABELS,
) -> Attack:
    """GradInversion: layerwise distance, BatchNorm statistics, Langevin noise, consistency of a group of starts.

    Yin et al., "See through gradients", CVPR 2021, arXiv:2104.07586. The gradient's weight is 1, and the others, which
    multiply means here, are ours. Published: 20000 steps, 8 seeds.
    """
    attack = GradientMatching(
        "gradinversion",
        labels=way_to_labels(labels),
        objective=layerwise_distance,
        priors=((tv, total_variation), (l2, mean_square), (bn, BatchStatistics(statistics))),
        optimizer=Adam(lr=lr, signed=False, schedule=warm_cosine, noise=noise),
        steps=steps,
        box=True,
    )
    return attack if seeds == 1 else GroupConsistency(attack, seeds, group)


def geng(
    *,
    steps: int = 2400,
    lr: float = 0.1,
    tv: float = 1e-2,
    clip: float = 1e-2,
    init: str = "grey",
    seeds: int = 1,
    group: float = 0.1,
    labels: str = LABELS,
) -> Attack:
    """General deep leakage: counted labels, the mean gradient of local steps, a chosen start, TV, clipping, and
    consistency of several starts with their examples matched by label.

    Geng et al. 2021, arXiv:2110.09074. Several updates of one batch are matched together. The consistency is our form
    of the paper's label-aware one, whose weights were not at hand.
    """
    attack = GradientMatching(
        "geng",
        labels=way_to_labels(labels),
        init=INITS[init],
        objective=cosine_distance,
        priors=((tv, total_variation), (clip, OutOfRange())),
        optimizer=Adam(lr=lr, schedule=step_decay),
        steps=steps,
        update_model=MeanGradient(),
    )
    return attack if seeds == 1 else GroupConsistency(attack, seeds, group)


def dimitrov(
    *,
    steps: int = 200,
    lr: float = 0.4,
    tv: float = 3e-3,
    clip: float = 1e-2,
    order: float = 10.0,
    labels: str = LABELS,
) -> Attack:
    """Data leakage in FedAvg: simulate the client with a copy of the examples for every epoch, draw the epochs
    together by a prior that knows no order, match and average the copies.

    Dimitrov et al., TMLR 2022, arXiv:2206.12395. Weights, which multiply means here, and distance are ours.
    """
    return GradientMatching(
        "dimitrov",
        labels=way_to_labels(labels),
        init=grey,
        objective=cosine_with_matrices,
        priors=((tv, total_variation), (clip, OutOfRange()), (order, EpochOrder())),
        optimizer=Adam(lr=lr, signed=False, schedule=cosine_decay),
        steps=steps,
        update_model=Simulate(copies=True),
    )


def coarse(
    *,
    steps: int = 300,
    lr: float = 1.0,
    tv: float = 3e-3,
    local: int = 10,
    labels: str = LABELS,
) -> GradientMatching:
    """Simulate local training by a few steps of the whole batch: no order to guess, and a short graph; own form.

    `local`: how many steps stand for the client's. Adam's rate is wide, and the box holds it.
    """
    return GradientMatching(
        "coarse",
        labels=way_to_labels(labels),
        init=grey,
        objective=cosine_with_matrices,
        priors=((tv, total_variation),),
        optimizer=Adam(lr=lr, signed=False, schedule=cosine_decay),
        steps=steps,
        box=True,
        update_model=Simulate(coarse=local),
    )


def bayes(*, steps: int = 40, tv: float = 0.3, labels: str = LABELS) -> Bayes:
    """The most probable input under the known defense: its likelihood, total variation, L-BFGS by stages.

    Balunovic et al., "Bayesian framework for gradient leakage", ICLR 2022, arXiv:2111.04706. Where the defense is
    withheld it is taken for none. Where it mixes examples, the default searches labels along.
    """
    source = way_to_labels(labels)
    return Bayes(UnlessMixed(source) if labels == LABELS else source, steps=steps, tv=tv)


def sme(
    *, steps: int = 2400, lr: float = 0.1, tv: float = 1e-2, rate: float = 1e-3, labels: str = LABELS
) -> GradientMatching:
    """Surrogate model extension: one gradient at a learned point between the weights before and after local training.

    Zhu, Yao and Blaschko, ICML 2023, arXiv:2306.00127. `rate`: of the point. Needs no local training.
    """
    return GradientMatching(
        "sme",
        labels=way_to_labels(labels),
        objective=cosine_distance,
        priors=((tv, total_variation),),
        optimizer=Adam(lr=lr, schedule=step_decay),
        steps=steps,
        box=True,
        update_model=Surrogate(lr=rate),
    )


def cocktail_party(*, steps: int = 1000, tv: float = 1.0, gaussian: float = 5.0) -> Attack:
    """Cocktail party: unmix the inputs of a linear first layer by what makes pictures unlike noise.

    Kariyappa et al., ICML 2023, arXiv:2209.05578. Weights of total variation and of negentropy are ours.
    """
    return CocktailParty(steps=steps, contrast=Contrast(tv=tv, gaussian=gaussian))
