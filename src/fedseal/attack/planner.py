"""The planner: the cheapest exact route whose precondition the evidence meets, else the best optimization.

It explains itself: every route is noted as taken or refused, with the reason, in the order in which it was considered.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.base import badness, best_of, better, order_is_secret
from fedseal.attack.batch.cocktail_party import CocktailParty
from fedseal.attack.batch.repeats import Repeated, with_repeats
from fedseal.attack.batch.separate import Separation
from fedseal.attack.batch.spear import Spear
from fedseal.attack.equations.rank import rank_analysis
from fedseal.attack.evidence.draw import drawn
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.input_traits import traits_of
from fedseal.attack.evidence.jacobian import small
from fedseal.attack.evidence.replay import CAP, replayable
from fedseal.attack.evidence.scale import scale_note, unscaled
from fedseal.attack.labels.ways import way_to_labels
from fedseal.attack.layers.bottleneck import Bottleneck
from fedseal.attack.layers.layerwise import Layerwise
from fedseal.attack.layers.linear import LinearFirstLayer
from fedseal.attack.layers.patches import Patches
from fedseal.attack.proof.sensitivity import layer_misfit
from fedseal.attack.published import bayes, coarse, sme
from fedseal.attack.route import Route
from fedseal.attack.search.init import grey
from fedseal.attack.search.label_source import given_or
from fedseal.attack.search.matching import LBFGS, Adam, GradientMatching
from fedseal.attack.search.objective import CosineWithLayers
from fedseal.attack.search.polish import COLUMNS, ENTRIES, hopped, polished
from fedseal.attack.search.prior import total_variation
from fedseal.attack.search.schedule import cosine_decay
from fedseal.attack.search.update_model import number_of_steps
from fedseal.attack.tabular.tableak import tableak
from fedseal.attack.text.dager import Dager
from fedseal.attack.text.search import mixture
from fedseal.attack.text.tokens import Tokens
from fedseal.errors import (
    BadConfig,
    FedsealError,
    Misfit,
    NotTwiceDifferentiable,
    UnfitModel,
    UnfitUpdate,
    UnknownToAdversary,
)
from fedseal.mechanism import Mechanism
from fedseal.types import Attack, Modality, Observation, Outcome, ProgressCallback, Reconstruction, RouteNote

CERTAIN = ("exact", "converged")
SPEAKS = 0.01  # residual above which the first layer's gradient says more of the inputs than the whole update
SPOKEN = 0.1  # share of the first layer's misfit below which its gradient speaks for another end
ENDS = 3  # of searches that Newton's steps go on from
FEW, SOME = 256, 4096  # input values up to which a plain search from noise pays, through kinks and without
STARTS = 3  # of a search with a line search for one example
FEWEST = 10  # steps of a plain search, less than which shows nothing
COARSE = 10  # steps that stand for a client's many
MATCHED = 0.1  # residual from which on a second way to simulate local steps was the better one, as measured
NEAR = 0.2  # residual up to which joint matching made a batch that was taken apart worse, as measured


BAYES = 60  # steps of a search with Adam that cost as much as one of L-BFGS
SURROGATE = (
    "the local training cannot be simulated; one gradient at a learned point between start and end stands for it"
)
DRAWN = "the update gives it away, exactly: the model is attacked as one without a secret"
# What keeps one route from looking, others not: a fact that is withheld, a trial of its own that the model or its loss
# does not take. Of searches also memory that is short, and an update that leaves them nothing to read.
OF_ROUTES = (UnknownToAdversary, Misfit)
OF_SEARCHES = (*OF_ROUTES, BadConfig, UnfitUpdate, UnfitModel)
FOUND = {
    "mixed": "what it finds are the mixed inputs",
    "flipped": "what it finds are the encoded inputs, signs and all",
    "transformed": "what it finds are the transformed inputs",
    "bottleneck": "the bottleneck's draw is the client's secret, and taken for another",
}


class PlannedSearch(NamedTuple):
    """An optimization, and why this one.

    `instead`: only where all before it were refused; else also where the one before it ended far from the update.
    """

    attack: Attack
    reason: str
    instead: bool = False


@dataclass(frozen=True)
class Auto:
    """Choose the route by the evidence alone."""

    steps: int = 2400
    name: str = "auto"

    def routes(self, modality: Modality) -> tuple[Route, ...]:
        """What is tried before any search for the update itself, cheapest first."""
        if traits_of(modality).discrete:
            return (Dager(),)
        if traits_of(modality).columns:
            separation, unmixing = (
                Separation(steps=max(4, self.steps // 5)),
                CocktailParty(steps=max(1, self.steps // 2)),
            )
            return LinearFirstLayer(), Repeated(), Spear(), Layerwise(), separation, unmixing
        return (
            LinearFirstLayer(),
            Repeated(),
            Spear(),
            Bottleneck(),
            Layerwise(),
            Separation(steps=max(4, self.steps // 5)),
            CocktailParty(steps=max(1, self.steps // 2)),
            Patches(),
        )

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack by the first route that certifies its result; else keep the smallest residual."""
        started = time.perf_counter()
        plain = unscaled(observation)
        evidence = Evidence.of(drawn(plain))
        notes: list[RouteNote] = []
        if plain is not observation:
            notes.append(RouteNote("scale", True, f"{scale_note(observation)}: it is divided by that"))
        if evidence.observation is not plain:
            notes.append(RouteNote("bottleneck's draw", True, DRAWN))
        readings: list[Reconstruction] = []
        seed = int(torch.randint(2**62, (), generator=generator))
        for place, route in enumerate(self.routes(observation.modality)):
            own = torch.Generator().manual_seed(seed + place)  # who knows more draws no other numbers here
            obstacle = route.obstacle(evidence) or _outdone(evidence, route)
            if obstacle is not None:
                notes.append(RouteNote(route.name, False, obstacle))
                continue
            found = _tried(partial(route.read, evidence, generator=own, progress=progress), OF_ROUTES)
            if isinstance(found, str):
                notes.append(RouteNote(route.name, False, found))
                continue
            notes.append(RouteNote(route.name, True, _because(evidence, route.name, found)))
            again = with_repeats(evidence, found, own)
            if again is not None:
                notes.append(RouteNote(route.name, True, f"with repeated examples; {_ended(again)}"))
                found = again
            readings.append(found)
            best = reduce(better, readings)
            done = _enough(evidence, route, best)
            if done is not None:
                notes.append(RouteNote("matching", False, done))
                ends = {id(end): end for end in (best, _chosen(evidence, readings))}.values()
                finished = [self._polished(evidence, end, notes, generator, progress) for end in ends]
                finished += self._hopped(evidence, finished, notes, generator, progress)
                best = _chosen(evidence, [*readings, *finished])
                break
        else:
            best = self._search(evidence, readings, notes, generator, progress)
        outcome = replace(best.outcome, seconds=time.perf_counter() - started)
        return replace(best, outcome=outcome, explanation=tuple(notes))

    def _search(
        self,
        evidence: Evidence,
        readings: Sequence[Reconstruction],
        notes: list[RouteNote],
        generator: torch.Generator,
        progress: ProgressCallback | None,
    ) -> Reconstruction:
        observation = evidence.observation
        start = reduce(better, readings) if readings else None
        missing = [fact for fact in ("state", "training") if getattr(observation, fact) is None]
        reason = f"it needs {' and '.join(missing)}, which the threat model '{observation.threat}' withholds"
        if missing:
            notes.append(RouteNote("matching", False, reason))
        found: list[Reconstruction] = []
        for attack, why, instead in (
            plans(evidence, start, self.steps, generator) if observation.state is not None else ()
        ):
            if found and (instead or (found[-1].outcome.residual or 0.0) <= MATCHED):
                continue
            again = _tried(partial(attack, observation, generator=generator, progress=progress), OF_SEARCHES)
            if isinstance(again, str):
                reason = again
                notes.append(RouteNote(attack.name, False, reason))
                continue
            found.append(again)
            notes.append(RouteNote(attack.name, True, why))
        if found and _modeled(evidence) and found[0].inputs is not None:
            return found[0]  # by the residual alone, the picture that fits the noise would win
        if readings or found:
            ends = [*readings, *found]
            ends += self._finish(evidence, ends, notes, generator, progress)
            return _chosen(evidence, ends)
        if traits_of(observation.modality).discrete:
            return self._words(evidence, notes, generator)
        return Reconstruction(None, None, Outcome("not_applicable", self.name, None, 0, 0.0, reason))

    def _finish(
        self,
        evidence: Evidence,
        ends: Sequence[Reconstruction],
        notes: list[RouteNote],
        generator: torch.Generator,
        progress: ProgressCallback | None,
    ) -> Iterator[Reconstruction]:
        """What Newton's steps make of the ends of searches, then of what a plain search from noise finds, until all is
        certain.
        """
        observation, training = evidence.observation, replayable(evidence.observation)
        if training is None or traits_of(observation.modality).discrete or _drawn(evidence) or observation.secrets:
            return
        if order_is_secret(training, evidence.batch_size or 1):
            return
        finished = []
        for end in sorted(ends, key=badness)[:ENDS]:
            finished.append(self._polished(evidence, end, notes, generator, progress))
            yield finished[-1]
            if finished[-1].outcome.status in CERTAIN:
                return
        for attack, why in self._further(evidence):
            found = _tried(partial(attack, observation, generator=generator, progress=progress), OF_SEARCHES)
            if isinstance(found, str):
                notes.append(RouteNote(attack.name, False, found))
                continue
            notes.append(RouteNote(attack.name, True, f"{why}; {_ended(found)}"))
            finished.append(self._polished(evidence, found, notes, generator, progress))
            yield finished[-1]
            if finished[-1].outcome.status in CERTAIN:
                return
        yield from self._hopped(evidence, finished, notes, generator, progress)

    def _further(self, evidence: Evidence) -> list[tuple[Attack, str]]:
        """Other searches with their reasons, where they cost little: from noise, and from what pictures look like."""
        plain = plain_searches(evidence, max(FEWEST, self.steps // 8)) if plain_search_pays(evidence) else []
        further = [(attack, "a plain search from noise, as the first paper's") for attack in plain]
        if _values(evidence) <= SOME and evidence.observation.defense is not None:
            search = bayes(steps=max(1, self.steps // BAYES), labels=_labels(evidence))
            further.append((search, "the most probable input, by the likelihood of the update as it is"))
        return further

    def _polished(
        self,
        evidence: Evidence,
        end: Reconstruction,
        notes: list[RouteNote],
        generator: torch.Generator,
        progress: ProgressCallback | None,
    ) -> Reconstruction:
        """The better of an end and what Newton's steps make of it."""
        if _drawn(evidence) or evidence.observation.secrets:
            return end
        again = polished(evidence, end, generator, progress)
        if again is None:
            return end
        notes.append(RouteNote("newton", True, f"least squares from '{end.outcome.route}'; {_ended(again)}"))
        return better(end, again)

    def _hopped(
        self,
        evidence: Evidence,
        ends: Sequence[Reconstruction],
        notes: list[RouteNote],
        generator: torch.Generator,
        progress: ProgressCallback | None,
    ) -> Iterator[Reconstruction]:
        """What lies beside the best end."""
        if not ends or _drawn(evidence) or evidence.observation.secrets:
            return
        best = reduce(better, ends)
        again = hopped(evidence, best, generator, progress)
        if again is not None:
            notes.append(RouteNote("newton", True, f"least squares beside '{best.outcome.route}'; {_ended(again)}"))
            yield again

    def _words(self, evidence: Evidence, notes: list[RouteNote], generator: torch.Generator) -> Reconstruction:
        """Where no sentence can be read, the tokens that occur."""
        found = Tokens().read(evidence, generator=generator)
        notes.append(RouteNote("tokens", found.inputs is not None, found.outcome.note))
        return found


def _tried(attack: Callable[[], Reconstruction], refusals: tuple[type[FedsealError], ...]) -> Reconstruction | str:
    """What an attack found, or the fact that kept it from looking.

    Raises:
        NotTwiceDifferentiable: a finding on the model, which users can mend.
    """
    try:
        return attack()
    except NotTwiceDifferentiable:
        raise
    except refusals as error:
        return error.fact


def auto(*, steps: int = 2400) -> Attack:
    """The planner: the cheapest exact route that the evidence allows, else the best optimization; explains itself."""
    return Auto(steps=steps)


def plans(
    evidence: Evidence, start: Reconstruction | None, steps: int, generator: torch.Generator
) -> Iterator[PlannedSearch]:
    """The optimizations for this evidence, in the order in which to try them."""
    training = evidence.observation.training
    if traits_of(evidence.observation.modality).discrete:
        if training is not None and training.fresh_optimizer and _classifies(evidence.observation):
            search = mixture(steps=max(1, steps // 8), labels=_labels(evidence))
            yield PlannedSearch(
                search, "no span tells the sentences; mixtures of the tokens that the update leaks are searched"
            )
        return
    if traits_of(evidence.observation.modality).columns:
        if training is not None and training.fresh_optimizer:
            ensemble = tableak(steps=max(1, steps * 5 // 8), labels=_labels(evidence))
            yield PlannedSearch(
                ensemble, "the inputs are rows whose columns are known: soft categories, an ensemble, its median"
            )
            yield matching(evidence, start, steps)._replace(instead=True)  # for models that take no rows side by side
            return
        yield PlannedSearch(sme(steps=steps, labels=_labels(evidence)), SURROGATE)
        return
    if training is not None and training.fresh_optimizer and _modeled(evidence):
        yield probable(evidence, start, steps, generator)
    elif training is not None and training.fresh_optimizer:
        if evidence.gradient_scale is not None:
            yield matching(evidence, start, steps)
            return
        yield PlannedSearch(
            coarse(steps=max(1, steps // 8), local=COARSE, labels=_labels(evidence)),
            "the update is no multiple of one gradient; local training is simulated by few steps of the whole batch",
        )
        count = evidence.batch_size
        if count is not None and not order_is_secret(training, count) and number_of_steps(training, count) <= COARSE:
            own = matching(evidence, None, max(1, steps // 8)).attack
            yield PlannedSearch(
                own, "few steps in a known order, and much is unexplained: the client's own are differentiated"
            )
    yield PlannedSearch(sme(steps=steps, labels=_labels(evidence)), SURROGATE, instead=True)


def matching(evidence: Evidence, start: Reconstruction | None, steps: int) -> PlannedSearch:
    """The search for one gradient, from the best that the routes found."""
    search = GradientMatching(
        "matching",
        labels=way_to_labels(_labels(evidence)),
        init=grey,
        objective=CosineWithLayers(_linear_layers(evidence)),
        priors=((1e-2, total_variation),),
        optimizer=Adam(lr=0.05, signed=True, schedule=cosine_decay),
        steps=steps,
        box=True,
    )
    if start is None or not _whole(evidence, start):
        whence = "no exact route applies" if start is None else f"'{start.outcome.route}' led nowhere"
        return PlannedSearch(
            search, f"{whence}; cosine distance of the update and of its linear layers, with total variation"
        )
    gentle = Adam(lr=0.02, signed=True, schedule=cosine_decay)
    known = given_or(start.labels, search.labels)
    going_on = replace(search, start=start.inputs, labels=known, optimizer=gentle)
    return PlannedSearch(going_on, f"the result of '{start.outcome.route}' is not certified; matching goes on from it")


def _whole(evidence: Evidence, start: Reconstruction) -> bool:
    """Whether a search can go on from there: all examples have inputs, and all or none a label."""
    if start.inputs is None or start.outcome.status == "diverged":
        return False
    count = len(start.inputs)
    return count == (evidence.batch_size or count) and (start.labels is None or len(start.labels) == count)


def probable(evidence: Evidence, start: Reconstruction | None, steps: int, generator: torch.Generator) -> PlannedSearch:
    """The search for the most probable input under a known defense, from the best that the routes found."""
    search = bayes(steps=max(1, steps // BAYES), labels=_labels(evidence))
    # where entries are missing, not moved, a start that fits what was sent hides what the prior knows of the rest
    if _drawn(evidence) and start is not None and start.inputs is not None and _whole(evidence, start):
        known = None if _mixes(evidence) else start.labels
        search = replace(search, starts=(start.inputs,), labels=given_or(known, search.labels))
        if start.outcome.route == Layerwise.name:
            plain = _at_its_word(evidence, generator)
            search = replace(
                search,
                starts=search.starts if plain is None else (start.inputs, plain),
                coordinates=Layerwise().coordinates(evidence, generator),
            )
    defense = ", ".join(dict.fromkeys(_said(step) for step in evidence.release.steps))
    said = [f"the defense is known, and its likelihood modeled: {defense}", *_at_most(evidence)]
    return PlannedSearch(search, "; ".join(said))


def _at_its_word(evidence: Evidence, generator: torch.Generator) -> Tensor | None:
    """The closed form as if there were no defense: a better starting point when the noise is weak."""
    unaware = Evidence(replace(evidence.observation, defense=None))
    if Layerwise().obstacle(unaware) is not None:
        return None
    return Layerwise().read(unaware, generator=generator).inputs


def _at_most(evidence: Evidence) -> list[str]:
    """What any attack can find at most, where inputs were changed before training."""
    return [words for kind, words in FOUND.items() if evidence.release.of_kind(kind)]


def _said(step: Mechanism) -> str:
    """A step of a defense in words, such as "gaussian (sigma 0.001)"."""
    figures = ", ".join(f"{name} {value:g}" for name, value in step.figures.items())
    return f"{step.kind} ({figures})" if figures else step.kind


def _modeled(evidence: Evidence) -> bool:
    """Whether pictures were defended or rounded, and the attacker knows how."""
    return bool(evidence.release.steps) and len(evidence.observation.modality.shape) == 3


def _drawn(evidence: Evidence) -> bool:
    """Whether a known defense left errors that no equation removes."""
    return _modeled(evidence) and evidence.release.family != "exact"


def _mixes(evidence: Evidence) -> bool:
    return bool(evidence.release.of_effect("mixture"))


def _labels(evidence: Evidence) -> str:
    """How a search comes to its labels: read where the update still holds the head's gradient, else searched along."""
    head, update, training = evidence.structure.head, evidence.observation.update, evidence.observation.training
    if _mixes(evidence):
        return "joint"
    if evidence.label is not None:
        return "sign"
    if head is None or head.weight not in update.tensors or not evidence.criterion.known:
        return "joint"
    summed = update.kind == "gradient" or (training is not None and training.optimizer == "sgd")
    return "best" if summed else "joint"


def _classifies(observation: Observation) -> bool:
    """Whether the model gives sentences as a whole a class, which is what searches for sentences can use."""
    return getattr(observation.model, "task", None) == "sequence"


def _linear_layers(evidence: Evidence) -> tuple[int, ...]:
    """Where the update's matrices are, if one example made it; convolutions' and token layers' gradients are sums."""
    if evidence.batch_size != 1:
        return ()
    tensors = evidence.observation.update.tensors.values()
    return tuple(place for place, tensor in enumerate(tensors) if tensor.ndim == 2)


def _outdone(evidence: Evidence, route: Route) -> str | None:
    """Why a route that applies is not worth its time, None if it is."""
    if isinstance(route, Separation) and evidence.batch_size == 1:
        return "one example needs no taking apart, and matching its gradient shows more than matching its activations"
    return None


def _enough(evidence: Evidence, route: Route, best: Reconstruction) -> str | None:
    """Why nothing further is tried after a route, None to go on."""
    value = best.outcome.residual
    if isinstance(route, Repeated) and best.inputs is not None:
        return "one example repeated explains the update, and nothing tells it from others that add up to it"
    if best.outcome.status == "exact" or (best.outcome.status in CERTAIN and not _drawn(evidence)):
        return "; ".join(["an exact route has certified its result", *_at_most(evidence)])
    reads = isinstance(route, (LinearFirstLayer, Spear, CocktailParty)) and best.inputs is not None
    if reads and evidence.observation.secrets:
        return "the first layer was read; a search takes the model for one that drops nothing"
    rounded = _modeled(evidence) and evidence.release.family == "interval"
    if rounded and isinstance(route, LinearFirstLayer):
        return "rounding leaves more in the first layer's rows than a search would add"
    if isinstance(route, Patches) and best.outcome.route == Patches.name and not small(evidence, 1):
        return "the patches were read as far as the update tells them, and a search through the whole model takes hours"
    if _modeled(evidence):
        return None
    if isinstance(route, Layerwise) and value is not None and value <= _ends(evidence) and _valid(evidence, best):
        return "the route has already matched as far as precision reaches"
    if isinstance(route, Separation) and value is not None and value <= NEAR:
        return f"'{best.outcome.route}' read every example by itself; joint matching from there mixes them up again"
    return None


def _chosen(evidence: Evidence, ends: Sequence[Reconstruction]) -> Reconstruction:
    """The best of several ends; where none is near the update, the one that the first layer's gradient speaks for.

    That gradient is a sum of outer products with the inputs: inputs out of the span of its rows are none of the batch,
    however near the rest of a replay with guessed labels is.
    """
    best = reduce(better, ends)
    value = best.outcome.residual
    layer, secrets = evidence.first_linear, bool(evidence.observation.secrets)
    if layer is None or bool(best.certain.any()) or _drawn(evidence) or evidence.secrets_before(layer.weight):
        return best
    if not (secrets or value is None or value > SPEAKS):
        return best
    misfits = {id(end): layer_misfit(evidence, end.inputs) for end in ends if end.inputs is not None}
    known = [(misfit, end) for end in ends if (misfit := misfits.get(id(end))) is not None]
    if not known:
        return best
    least, nearest = min(known, key=lambda pair: pair[0])
    own = misfits.get(id(best))
    return nearest if own is None or least < SPOKEN * own else best


def _ends(evidence: Evidence) -> float:
    """The residual at which layers in a row were matched as far as it pays: small inputs can be searched on at once."""
    return CAP if small(evidence, 1, COLUMNS, ENTRIES) else NEAR


def _valid(evidence: Evidence, found: Reconstruction) -> bool:
    """Whether inputs lie near the valid ones: a saturated unit that was inverted throws them far out."""
    assert found.inputs is not None
    away = (found.inputs - evidence.observation.modality.project(found.inputs)).abs().max()
    return bool(away <= 1.0)


def _ended(found: Reconstruction) -> str:
    """A search's status in words."""
    end = found.outcome
    return end.status if end.residual is None else f"residual {end.residual:.1e}, {end.status}"


def plain_search_pays(evidence: Evidence) -> bool:
    """Whether a search by curvature from noise is worth its time: through kinks it leads astray unless the input is
    small, and on large inputs it takes longer than all before.
    """
    return _values(evidence) <= (FEW if evidence.structure.nonsmooth else SOME)


def _values(evidence: Evidence) -> int:
    """Input values of the whole batch."""
    return (evidence.batch_size or 1) * math.prod(evidence.observation.modality.shape)


def plain_searches(evidence: Evidence, steps: int) -> list[Attack]:
    """L-BFGS on the squared distance from noise: labels as they were read, then along with the inputs."""
    known, joint = _labels(evidence), GradientMatching("dlg", steps=steps)
    read = [] if known == "joint" else [GradientMatching("idlg", labels=way_to_labels(known), steps=steps)]
    searches = [*read, joint]
    several = (evidence.batch_size or 1) > 1
    careful = GradientMatching("dlg_batch", optimizer=LBFGS(line_search=True), steps=steps, one_at_a_time=several)
    if several:
        return [*searches, careful]
    return [*searches, best_of(STARTS, careful)] if _values(evidence) <= FEW else [*searches]


def _because(evidence: Evidence, route: str, found: Reconstruction) -> str:
    counts = rank_analysis(evidence.structure.layers) if route == "layerwise" else ()
    ranks = "; ".join(
        f"layer '{c.layer}': {c.equations} equations for {c.unknowns} unknowns"
        + ("" if c.determined else " (not determined)")
        for c in counts
    )
    ends = _ended(found)
    if found.outcome.status == "not_applicable":
        return f"its precondition seemed to hold; {found.outcome.note}"
    return f"{ranks}; {ends}" if ranks else f"its precondition holds; {ends}"
