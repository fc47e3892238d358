"""The table of all attacks by name: what each does, what it needs to know, and where it was published.

A row says where its attack is built, so that the table can be printed before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from fedseal.named import named

if TYPE_CHECKING:
    from fedseal.types import Attack

# What an option that is a name may be.
CHOICES: dict[str, Callable[[], Iterable[str]]] = {
    "labels": lambda: named("fedseal.attack.labels.ways:label_ways")(),
    "init": lambda: named("fedseal.attack.search.init:INITS"),
    "statistics": lambda: get_args(named("fedseal.attack.search.batchnorm:Source")),
}


@dataclass(frozen=True)
class Recipe:
    """A row of the table of attacks.

    Args:
        summary: what it does, in a line.
        needs: the grants (keys of `fedseal.threat.GRANTS`) without which it refuses.
        paper: where it was published.
        where: the function or class that builds it, as "module:name".
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    paper: str
    where: str

    @property
    def build(self) -> Callable[..., Attack]:
        """Makes the attack; its keyword arguments are the recipe's options."""
        build: Callable[..., Attack] = named(self.where)
        return build


_SERVER = ("state", "training")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "auto",
            "cheapest exact route whose precondition holds, else the best optimization; explains itself",
            (),
            "fedseal",
            "fedseal.attack.planner:auto",
        ),
        Recipe(
            "linear",
            "exact: input of a fully connected first layer with bias; needs no weights",
            (),
            "Phong et al., IEEE TIFS 2018",
            "fedseal.attack.layers.linear:LinearFirstLayer",
        ),
        Recipe(
            "patches",
            "exact: picture of a vision transformer with learned positions, by one linear solve; needs no weights",
            (),
            "fedseal",
            "fedseal.attack.layers.patches:Patches",
        ),
        Recipe(
            "spear",
            "exact: whole batch from a linear first layer with bias and ReLU; needs no weights",
            (),
            "Dimitrov et al., NeurIPS 2024, arXiv:2403.03945",
            "fedseal.attack.batch.spear:Spear",
        ),
        Recipe(
            "layerwise",
            "exact: one example through layers in a row with sigmoid, tanh, leaky ReLU or no activation",
            ("state",),
            "after Zhu and Blaschko, ICLR 2021, arXiv:2010.07733; weighting and error propagation are ours",
            "fedseal.attack.layers.layerwise:Layerwise",
        ),
        Recipe(
            "separation",
            "exact or nearly: takes the batch apart at the head, then reads every example alone",
            _SERVER,
            "fedseal",
            "fedseal.attack.batch.separate:Separation",
        ),
        Recipe(
            "cocktail_party",
            "unmixes the pictures of a batch, blurred, from a linear first layer; needs no weights",
            (),
            "Kariyappa et al., ICML 2023, arXiv:2209.05578",
            "fedseal.attack.published:cocktail_party",
        ),
        Recipe(
            "dlg",
            "optimizes inputs and soft labels together: squared distance, L-BFGS, 300 outer steps",
            _SERVER,
            "Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935",
            "fedseal.attack.published:dlg",
        ),
        Recipe(
            "idlg",
            "reads the label off the head, then optimizes the input as DLG does",
            _SERVER,
            "Zhao, Mopuri and Bilen 2020, arXiv:2001.02610",
            "fedseal.attack.published:idlg",
        ),
        Recipe(
            "inverting_gradients",
            "labels off the head; cosine distance, signed Adam, total variation, box",
            _SERVER,
            "Geiping et al., NeurIPS 2020, arXiv:2003.14053",
            "fedseal.attack.published:inverting_gradients",
        ),
        Recipe(
            "bayes",
            "the most probable input under the known defense: its likelihood, total variation, L-BFGS by stages",
            _SERVER,
            "after Balunovic et al., ICLR 2022, arXiv:2111.04706; stages, weights, other likelihoods ours",
            "fedseal.attack.published:bayes",
        ),
        Recipe(
            "dlg_batch",
            "DLG on a batch, one example at a time, in turns",
            _SERVER,
            "Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935, section 3.2",
            "fedseal.attack.published:dlg_batch",
        ),
        Recipe(
            "gradinversion",
            "distance of gradients, BatchNorm statistics, Langevin noise, several starts drawn together",
            _SERVER,
            "Yin et al., CVPR 2021, arXiv:2104.07586",
            "fedseal.attack.published:gradinversion",
        ),
        Recipe(
            "geng",
            "counted labels, mean gradient of local steps, chosen start; takes several updates of one batch",
            ("state",),
            "Geng et al. 2021, arXiv:2110.09074",
            "fedseal.attack.published:geng",
        ),
        Recipe(
            "dimitrov",
            "simulates local epochs of unknown order with a copy of the examples for each",
            _SERVER,
            "Dimitrov et al., TMLR 2022, arXiv:2206.12395",
            "fedseal.attack.published:dimitrov",
        ),
        Recipe(
            "coarse",
            "simulates local training by a few steps of the whole batch, which know no order",
            _SERVER,
            "fedseal",
            "fedseal.attack.published:coarse",
        ),
        Recipe(
            "dager",
            "exact: batches of sentences from the spans of a transformer's first block; needs no labels or batch size",
            ("state",),
            "after Petrov et al., NeurIPS 2024, arXiv:2405.15586; how sentences are put together is ours",
            "fedseal.attack.text.dager:Dager",
        ),
        Recipe(
            "tokens",
            "exact: which tokens occur, also in a sum over clients; needs no weights",
            (),
            "Melis et al., IEEE S&P 2019, arXiv:1805.04049; shared embeddings and noise are ours",
            "fedseal.attack.text.tokens:Tokens",
        ),
        Recipe(
            "dlg_text",
            "searches embeddings of sentences: squared distance, L-BFGS, then the nearest leaked tokens",
            _SERVER,
            "Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935, section 4.2",
            "fedseal.attack.text.search:dlg_text",
        ),
        Recipe(
            "tag",
            "searches embeddings of sentences: squared and weighted absolute distance, Adam",
            _SERVER,
            "Deng et al., Findings of EMNLP 2021, arXiv:2103.06819",
            "fedseal.attack.text.search:tag",
        ),
        Recipe(
            "lamp",
            "searches embeddings of sentences in turns with moves of tokens; takes a language model as prior",
            _SERVER,
            "Balunovic et al., NeurIPS 2022, arXiv:2202.08827",
            "fedseal.attack.text.lamp:lamp",
        ),
        Recipe(
            "mixture",
            "the order of one sentence in closed form where places are embedded, else mixtures of the leaked tokens",
            _SERVER,
            "fedseal",
            "fedseal.attack.text.search:mixture",
        ),
        Recipe(
            "tableak",
            "rows of a table: soft categories, an ensemble of searches, its median; then the numbers are polished",
            _SERVER,
            "Vero et al., ICML 2023, arXiv:2210.01785; temperature and polish are ours",
            "fedseal.attack.tabular.tableak:tableak",
        ),
        Recipe(
            "sme",
            "matches local training by one gradient at a learned point between start and end",
            ("state",),
            "Zhu, Yao and Blaschko, ICML 2023, arXiv:2306.00127",
            "fedseal.attack.published:sme",
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
        where: the class that makes it, as "module:name".
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    brings: str
    paper: str
    call: tuple[str, ...]
    where: str

    @property
    def build(self) -> Callable[..., object]:
        """Makes it; its keyword arguments are the options."""
        build: Callable[..., object] = named(self.where)
        return build


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
            "fedseal.attack.inference.property:PropertyInference",
        ),
    )
}
