"""The table of all attacks by name: what each does, what it needs to know, and where it was published."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import get_args

from fedseal.attack import published as presets
from fedseal.attack.auto import auto
from fedseal.attack.batch.separate import Separation
from fedseal.attack.batch.spear import Spear
from fedseal.attack.inference.property import PropertyInference
from fedseal.attack.layers.layerwise import Layerwise
from fedseal.attack.layers.linear import LinearFirstLayer
from fedseal.attack.search.batchnorm import Source
from fedseal.attack.search.init import INITS
from fedseal.attack.search.matching import label_ways
from fedseal.attack.tabular.tableak import TabLeak
from fedseal.attack.text import search as text
from fedseal.attack.text.dager import Dager
from fedseal.attack.text.lamp import lamp
from fedseal.attack.text.tokens import Tokens
from fedseal.types import Attack

# What an option that is a name may be.
CHOICES: dict[str, Callable[[], Iterable[str]]] = {
    "labels": label_ways,
    "init": lambda: INITS,
    "statistics": lambda: get_args(Source),
}


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


_SERVER = ("state", "training")

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
            "spear",
            "exact: whole batch from a linear first layer with bias and ReLU; needs no weights",
            (),
            "Dimitrov et al., NeurIPS 2024, arXiv:2403.03945",
            Spear,
        ),
        Recipe(
            "layerwise",
            "exact: one example through layers in a row with sigmoid, tanh, leaky ReLU or no activation",
            ("state",),
            "after Zhu and Blaschko, ICLR 2021, arXiv:2010.07733; weighting and error propagation are ours",
            Layerwise,
        ),
        Recipe(
            "separation",
            "exact or nearly: takes the batch apart at the head, then reads every example alone",
            _SERVER,
            "fedseal",
            Separation,
        ),
        Recipe(
            "cocktail_party",
            "unmixes the pictures of a batch, blurred, from a linear first layer; needs no weights",
            (),
            "Kariyappa et al., ICML 2023, arXiv:2209.05578",
            presets.cocktail_party,
        ),
        Recipe(
            "dlg",
            "optimizes inputs and soft labels together: squared distance, L-BFGS, 300 outer steps",
            _SERVER,
            "Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935",
            presets.dlg,
        ),
        Recipe(
            "idlg",
            "reads the label off the head, then optimizes the input as DLG does",
            _SERVER,
            "Zhao, Mopuri and Bilen 2020, arXiv:2001.02610",
            presets.idlg,
        ),
        Recipe(
            "inverting_gradients",
            "labels off the head; cosine distance, signed Adam, total variation, box",
            _SERVER,
            "Geiping et al., NeurIPS 2020, arXiv:2003.14053",
            presets.inverting_gradients,
        ),
        Recipe(
            "bayes",
            "the most probable input under the known defense: its likelihood, total variation, L-BFGS by stages",
            _SERVER,
            "after Balunovic et al., ICLR 2022, arXiv:2111.04706; stages, weights, other likelihoods ours",
            presets.bayes,
        ),
        Recipe(
            "dlg_batch",
            "DLG on a batch, one example at a time, in turns",
            _SERVER,
            "Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935, section 3.2",
            presets.dlg_batch,
        ),
        Recipe(
            "gradinversion",
            "distance of gradients, BatchNorm statistics, Langevin noise, several starts drawn together",
            _SERVER,
            "Yin et al., CVPR 2021, arXiv:2104.07586",
            presets.gradinversion,
        ),
        Recipe(
            "geng",
            "counted labels, mean gradient of local steps, chosen start; takes several updates of one batch",
            ("state",),
            "Geng et al. 2021, arXiv:2110.09074",
            presets.geng,
        ),
        Recipe(
            "dimitrov",
            "simulates local epochs of unknown order with a copy of the examples for each",
            _SERVER,
            "Dimitrov et al., TMLR 2022, arXiv:2206.12395",
            presets.dimitrov,
        ),
        Recipe(
            "coarse",
            "simulates local training by a few steps of the whole batch, which know no order",
            _SERVER,
            "fedseal",
            presets.coarse,
        ),
        Recipe(
            "dager",
            "exact: batches of sentences from the spans of a transformer's first block; needs no labels or batch size",
            ("state",),
            "after Petrov et al., NeurIPS 2024, arXiv:2405.15586; how sentences are put together is ours",
            Dager,
        ),
        Recipe(
            "tokens",
            "exact: which tokens occur, also in a sum over clients; needs no weights",
            (),
            "Melis et al., IEEE S&P 2019, arXiv:1805.04049; shared embeddings and noise are ours",
            Tokens,
        ),
        Recipe(
            "dlg_text",
            "searches embeddings of sentences: squared distance, L-BFGS, then the nearest leaked tokens",
            _SERVER,
            "Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935, section 4.2",
            text.dlg_text,
        ),
        Recipe(
            "tag",
            "searches embeddings of sentences: squared and weighted absolute distance, Adam",
            _SERVER,
            "Deng et al., Findings of EMNLP 2021, arXiv:2103.06819",
            text.tag,
        ),
        Recipe(
            "lamp",
            "searches embeddings of sentences in turns with moves of tokens; takes a language model as prior",
            _SERVER,
            "Balunovic et al., NeurIPS 2022, arXiv:2202.08827",
            lamp,
        ),
        Recipe(
            "mixture",
            "the order of one sentence in closed form where places are embedded, else mixtures of the leaked tokens",
            _SERVER,
            "fedseal",
            text.mixture,
        ),
        Recipe(
            "tableak",
            "rows of a table: soft categories, an ensemble of searches, its median; then the numbers are polished",
            _SERVER,
            "Vero et al., ICML 2023, arXiv:2210.01785; temperature and polish are ours",
            TabLeak,
        ),
        Recipe(
            "sme",
            "matches local training by one gradient at a learned point between start and end",
            ("state",),
            "Zhu, Yao and Blaschko, ICML 2023, arXiv:2306.00127",
            presets.sme,
        ),
    )
}


@dataclass(frozen=True)
class Inference:
    """A question to an update whose answer is no input; it needs the attacker's own data, so it is asked from Python.

    Args:
        needs: the grants without which it refuses.
        brings: what the attacker must have beside them.
        call: how to ask it, in lines of Python.
        build: makes it; its keyword arguments are the options.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    brings: str
    paper: str
    call: tuple[str, ...]
    build: Callable[..., object]


INFERENCES = {
    inference.name: inference
    for inference in (
        Inference(
            "property",
            "whether the batch had a property, such as a kind of object: a classifier of the attacker's own updates",
            _SERVER,
            "examples of the attacker's own, with the property and without it",
            "Melis et al., IEEE S&P 2019, arXiv:1805.04049",
            (
                "attack = fs.attack.PropertyInference(present, absent, number=1)",
                "finding = attack(observation, generator=torch.Generator().manual_seed(0))",
                "print(finding.probability, finding.accuracy, finding.interval, finding.chance, finding.note)",
            ),
            PropertyInference,
        ),
    )
}
