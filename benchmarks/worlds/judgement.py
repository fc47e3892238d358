"""What is said of a world, held against its truth.

Every attack's result goes through `certify`, as the runner does. Then the truth is matched: first as many certain
examples as possible with truths within 0.01 (root mean square), each with one of its own, so that of two claims to one
example one is false.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import fedseal as fs
from benchmarks.worlds import oracle
from benchmarks.worlds.generate import Built, World
from benchmarks.worlds.table import PLANNER
from fedseal.attack.proof.certificate import certify
from fedseal.errors import Misfit
from fedseal.types import Attack

READ = oracle.VISIBLE  # root mean square error up to which an example counts as read: 40 dB
CAP = 60.0  # dB; what is better is the same to whoever looks
LEAD = 3.0  # dB by which a recipe or an adversary who knows less must be ahead to count
Certify = Callable[[fs.Observation, fs.Reconstruction], fs.Reconstruction]
Grave = Literal["false certificate", "false labels", "wrong label", "crash", "not finite"]
Kind = Grave | Literal["refused", "silent", "beaten", "below"]
GRAVE: tuple[Grave, ...] = get_args(Grave)
KINDS: tuple[Kind, ...] = (*GRAVE, "refused", "silent", "beaten", "below")
SERVER, LISTENER = fs.ThreatModel.honest_but_curious(), fs.ThreatModel.eavesdropper()


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: its kind, whose it is, and in words."""

    kind: Kind
    attack: str
    threat: str
    words: str


@dataclass(frozen=True)
class Read:
    """What one attack made of a world.

    Args:
        errors: of each true example the root mean square error of what was matched to it; infinite without.
        certain: of each true example whether what was matched to it is called certain.
        psnr: mean over the examples of the peak signal-to-noise ratio, from a blind guess's up to 60 dB.
    """

    attack: str
    threat: str
    status: str
    route: str
    errors: tuple[float, ...]
    certain: tuple[bool, ...]
    psnr: float
    seconds: float
    residual: float | None
    note: str = ""


@dataclass
class Judgement:
    """All that was found in a world.

    Args:
        refused: why no update came to be, or was taken; empty otherwise.
        determined: by the oracle, for each example.
        secret: whether the client drew something that nobody else can replay.
        thorough: whether all recipes of the table ran.
    """

    world: World
    refused: str = ""
    determined: tuple[bool, ...] = ()
    sensitivity: tuple[float, ...] = ()
    secret: bool = False
    thorough: bool = False
    reads: list[Read] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, *kinds: Kind) -> list[Fault]:
        """The faults of these kinds."""
        return [fault for fault in self.faults if fault.kind in kinds]


def judge(
    world: World,
    recipes: Sequence[str] = (),
    *,
    planner: str = PLANNER,
    attacks: Mapping[str, Attack] | None = None,
    certifier: Certify = certify,
    thorough: bool = False,
) -> Judgement:
    """Attack a world by the planner, as three adversaries, and by the recipes, and look for what is wrong.

    Args:
        recipes: specifications, such as "dlg:steps=20"; one that refuses the world is passed over.
        planner: its specification.
        attacks: more attacks by name, to test the judge itself.
        certifier: what makes certificates; another one to test the judge itself.
        thorough: whether the recipes are all there are, so that "beaten" means something.
    """
    started = time.process_time()
    built, judgement = world.build(), Judgement(world, thorough=thorough)
    try:
        update = fs.local_update(built.model, built.batch, training=built.training, generator=_generator(world))
        seen = {
            threat.name: threat.observe(built.model, update, modality=built.modality)
            for threat in (SERVER, LISTENER, built.threat)
        }
    except fs.FedsealError as error:
        judgement.refused = error.fact
        return judgement
    kinds = [tag.partition(":")[0] for tag in world.tags]
    judgement.secret = "dropout" in kinds or built.training.shuffle
    found = oracle.sensitivities(built.model, built.batch, built.training, seed=world.seed)
    judgement.sensitivity = tuple(found.tolist())
    judgement.determined = tuple(oracle.determined(found, seen[SERVER.name].like.dtype).tolist())
    court = _Court(built, judgement, certifier)
    for observation in seen.values():
        court.hear("auto", fs.attack.parse(planner), observation)
    own = {specification.partition(":")[0]: fs.attack.parse(specification) for specification in recipes}
    for name, attack in {**own, **(attacks or {})}.items():
        court.hear(name, attack, seen[built.threat.name])
    court.labels(seen[built.threat.name])
    court.compare()
    judgement.seconds = time.process_time() - started
    return judgement


class _Court:
    """One world's truth, and the judgement that it fills."""

    def __init__(self, built: Built, judgement: Judgement, certifier: Certify) -> None:
        self.truth, self.targets = built.batch.inputs.detach().double().flatten(1), built.batch.labels
        self.threat = built.threat.name
        self.judgement, self.certifier = judgement, certifier

    def hear(self, name: str, attack: Attack, observation: fs.Observation) -> None:
        """Run an attack, have its result certified, and keep what came of it."""
        started, threat = time.process_time(), observation.threat
        try:
            found = self.certifier(observation, attack(observation, generator=torch.Generator().manual_seed(0)))
        except Misfit as error:  # the client trained: an attack made up what does not fit the model
            self._fault("crash", name, threat, f"{error.fact} ({_place(error)})")
            found = _nothing(name, error.fact)
        except fs.FedsealError as error:
            if name == "auto":
                self._fault("refused", name, threat, f"{type(error).__name__}: {error.fact}")
            found = _nothing(name, error.fact)
        except Exception as error:  # noqa: BLE001 a crash of any kind is what is looked for, and is a fault
            where = traceback.extract_tb(error.__traceback__)[-1]
            words = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            self._fault("crash", name, threat, f"{words[:200]} ({_place(error)}, raised in {where.name})")
            found = _nothing(name, words)
        self._keep(name, threat, found, time.process_time() - started)

    def _keep(self, name: str, threat: str, found: fs.Reconstruction, seconds: float) -> None:
        guesses = self.truth[:0] if found.inputs is None else found.inputs.detach().double().flatten(1)
        if found.inputs is not None and guesses.shape[1] != self.truth.shape[1]:
            self._fault("crash", name, threat, f"inputs of shape {tuple(found.inputs.shape)}")
            guesses = self.truth[:0]
        certain = claimed(found)[: len(guesses)]
        if not bool(torch.isfinite(guesses).all()):
            self._fault("not finite", name, threat, f"{found.outcome.status} by {found.outcome.route}")
        value = found.outcome.residual
        if value is not None and not np.isfinite(value):
            self._fault("not finite", name, threat, f"residual {value} ({found.outcome.status})")
        pairs, distances = matched(self.truth, guesses, certain, self._same_labels_as(found, len(guesses)))
        for guess in certain.nonzero().flatten().tolist():
            if guess not in pairs.values():
                nearest = float(distances[:, guess].min())
                words = (
                    f"example {guess} of {len(guesses)} is certain ({found.outcome.status} by {found.outcome.route}, "
                )
                self._fault("false certificate", name, threat, f"{words}residual {value}), nearest truth {nearest:.3g}")
        self._check_labels(name, threat, found, {truth: guess for truth, guess in pairs.items() if certain[guess]})
        every = completed(pairs, distances)
        errors = [float(distances[t, every[t]]) if t in every else float("inf") for t in range(len(self.truth))]
        proved = [t in pairs and bool(certain[pairs[t]]) for t in range(len(self.truth))]
        outcome = found.outcome
        self.judgement.reads.append(
            Read(
                name, threat, outcome.status, outcome.route, tuple(errors), tuple(proved),
                float(np.mean([_decibels(e, b) for e, b in zip(errors, self._blind(), strict=True)])),
                seconds, value, outcome.note,
            )
        )  # fmt: skip

    def _same_labels_as(self, found: fs.Reconstruction, count: int) -> Tensor:
        """Which truths have the label of which guess, `(N, M)`."""
        if found.labels is None or found.labels.shape[1:] != self.targets.shape[1:] or len(found.labels) != count:
            return torch.zeros(len(self.truth), count, dtype=torch.bool)
        apart = found.labels.double()[None] - self.targets.double()[:, None]
        return (apart.flatten(2) if apart.ndim > 2 else apart[..., None]).abs().amax(2) <= READ

    def _check_labels(self, name: str, threat: str, found: fs.Reconstruction, pairs: dict[int, int]) -> None:
        """Whether certain examples come with their own labels; of equal examples either label will do."""
        if found.labels is None or self.targets.is_floating_point() or found.labels.is_floating_point():
            return
        for truth, guess in pairs.items():
            twins = (self.truth - self.truth[truth]).square().mean(1).sqrt() <= READ
            if found.labels[guess] not in self.targets[twins]:
                words = f"example {guess} is certain with label {int(found.labels[guess])}"
                self._fault("wrong label", name, threat, f"{words}, the truth is {int(self.targets[truth])}")

    def labels(self, observation: fs.Observation) -> None:
        """Whether labels that are certified are right."""
        try:
            found = fs.attack.labels.best(observation, generator=torch.Generator().manual_seed(0))
        except fs.FedsealError:
            return
        except Exception as error:  # noqa: BLE001 as above
            self._fault("crash", "labels", observation.threat, f"{type(error).__name__}: {error} ({_place(error)})")
            return
        if found.certified and not _same_labels(found.labels, self.targets):
            words = f"{found.labels.tolist()} certified, the truth is {self.targets.tolist()}"
            self._fault("false labels", "labels", observation.threat, words)

    def compare(self) -> None:
        """Who reads more than auto, and what is read and determined and not called certain."""
        reads = {(read.attack, read.threat): read for read in self.judgement.reads}
        auto = reads["auto", self.threat]
        recipes = [read for read in reads.values() if read.attack != "auto"]
        best = max(recipes, key=lambda read: read.psnr, default=auto)
        if best.psnr > auto.psnr + LEAD:
            words = f"{best.psnr:.1f} dB, auto {auto.psnr:.1f} dB ({auto.status} by {auto.route}: {auto.note[:160]})"
            self._fault("beaten", best.attack, self.threat, words)
        server, listener = reads["auto", SERVER.name], reads["auto", LISTENER.name]
        if listener.psnr > server.psnr + LEAD or sum(listener.certain) > sum(server.certain):
            words = f"eavesdropper {listener.psnr:.1f} dB, {sum(listener.certain)} certain ({listener.route}), server "
            words += f"{server.psnr:.1f} dB, {sum(server.certain)} certain "
            words += f"({server.status} by {server.route}: {server.note[:160]})"
            self._fault("below", "auto", SERVER.name, words)
        for read in self.judgement.reads:
            for number, is_determined in enumerate(self.judgement.determined):
                if is_determined and read.errors[number] <= READ and not read.certain[number]:
                    words = f"example {number}: error {read.errors[number]:.1e}, sensitivity "
                    words += f"{self.judgement.sensitivity[number]:.1e}, {read.status} by {read.route}, "
                    self._fault("silent", read.attack, read.threat, f"{words}residual {read.residual}")

    def _blind(self) -> list[float]:
        """Of each example, the error of the best guess of one value everywhere."""
        return [float(b) for b in (self.truth - self.truth.mean(1, keepdim=True)).square().mean(1).sqrt()]

    def _fault(self, kind: Kind, attack: str, threat: str, words: str) -> None:
        self.judgement.faults.append(Fault(kind, attack, threat, words))


def claimed(found: fs.Reconstruction) -> Tensor:
    """Which examples a result calls certain, `(N,)`; all where it does so by its status and brings no certificate."""
    count = 0 if found.inputs is None else len(found.inputs)
    if found.certificate is None:
        return torch.full((count,), found.outcome.status in ("exact", "converged"))
    return found.certain


def matched(
    truth: Tensor, guesses: Tensor, certain: Tensor, alike: Tensor | None = None
) -> tuple[dict[int, int], Tensor]:
    """Truths to guesses within `READ` of each other, as many of the certain ones as possible, then of the others; of
    truths that are equal the one whose label the guess has.

    Args:
        truth, guesses: `(N, values)` and `(M, values)`.
        certain: `(M,)`.
        alike: which truths have the label of which guess, `(N, M)`; None where that is no matter.

    Returns:
        Pairs by truth, and all distances `(N, M)`, root mean square; infinite where a guess is not finite.
    """
    distances = torch.stack([(guesses - one).square().mean(1).sqrt() for one in truth])
    distances = torch.nan_to_num(distances, nan=torch.inf)
    near = distances <= READ
    gain = near.double() * (1 + len(truth) * certain.double()) - 0.1 * torch.where(near, distances, 0.0) / READ
    if alike is not None:
        gain = gain + 0.2 * (near & alike).double()
    rows, columns = linear_sum_assignment(-gain.numpy())
    return {int(r): int(c) for r, c in zip(rows, columns, strict=True) if near[r, c]}, distances


def assigned(distances: Tensor) -> dict[int, int]:
    """Truths to guesses so that the sum of their squared distances is least."""
    rows, columns = linear_sum_assignment(distances.clamp_max(1e6).square().numpy())
    return {int(r): int(c) for r, c in zip(rows, columns, strict=True)}


def completed(pairs: dict[int, int], distances: Tensor) -> dict[int, int]:
    """The pairs, and the other truths with the other guesses: no guess is taken for two truths, be these equal."""
    truths = [truth for truth in range(len(distances)) if truth not in pairs]
    guesses = [guess for guess in range(distances.shape[1]) if guess not in pairs.values()]
    others = assigned(distances[truths][:, guesses])
    return pairs | {truths[one]: guesses[other] for one, other in others.items()}


def _decibels(error: float, blind: float) -> float:
    value = -20 * float(np.log10(max(min(error, max(blind, 1e-6)), 1e-6)))
    return min(value, CAP)


def _same_labels(found: Tensor, truth: Tensor) -> bool:
    if found.ndim != truth.ndim or truth.is_floating_point():
        return False
    return sorted(found.tolist()) == sorted(truth.tolist())


def _nothing(name: str, why: str) -> fs.Reconstruction:
    return fs.Reconstruction(None, None, fs.Outcome("not_applicable", name, None, 0, 0.0, why))


def _generator(world: World) -> torch.Generator:
    return torch.Generator().manual_seed(world.seed)


def _place(error: BaseException) -> str:
    """The last line of fedseal's own that an exception came through."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "fedseal" in frame.filename]
    return f"{own[-1].filename.rpartition('fedseal/')[2]}:{own[-1].lineno}" if own else "?"
