"""A federation: what `fedseal train` was asked for, as one value that goes into files and comes back the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from fedseal import grammar
from fedseal.errors import BadConfig
from fedseal.federation import data as shares
from fedseal.federation.local import check_targets
from fedseal.federation.owners import DataOwner, Local, ModelOwner, gradient_step, local_steps, reptile
from fedseal.federation.secure import Secure
from fedseal.setup import models
from fedseal.setup.data.common import check_one, class_union, common_schema, read_agreed
from fedseal.setup.data.dataset import Dataset, digest, reading_notes
from fedseal.setup.data.load import load_data
from fedseal.setup.data.terms import KINDS, DataTerms
from fedseal.types import Batch, Modality

if TYPE_CHECKING:
    from fedseal.federation.federation import Federation
    from fedseal.federation.gossip import Gossip

LOCAL_RATE, GRADIENT_RATE = 0.1, 0.5
EXCHANGES = {  # by --topology and --protocol, the usual protocol of each topology first
    ("star", "sharing"): "sharing",
    ("star", "masking"): "masking",
    ("star", "plain"): "plain",
    ("ring", "masking"): "masked_ring",
    ("ring", "plain"): "ring",
    ("gossip", "plain"): "plain",
}


@dataclass(frozen=True)
class OwnersData:
    """Each owner's examples and those for validation.

    Args:
        modality: what an example is; None where the data does not say it.
        names: of the classes, where they have any.
        scale, channels: as of a `Dataset`.
        notes: on how files were read, each of which names its file.
    """

    owners: tuple[Batch, ...]
    validation: Batch | None
    classes: int
    modality: Modality | None = None
    names: tuple[str, ...] = ()
    scale: str = ""
    channels: str = ""
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.owners[0].inputs.shape[1:])

    @property
    def digest(self) -> str:
        """SHA-256 of all owners' examples, so that the same can be told from others."""
        return digest(*self.owners)


@dataclass(frozen=True)
class FederationSpec:
    """Options of `fedseal train`, under their names there; None for what was left out.

    Args:
        terms: on the data, where they were agreed on; `under` brings the other options in line with them.
    """

    data: tuple[str, ...]
    model: str
    owners: int | None
    split: str
    validation: str | None
    validation_split: float
    shape: str | None
    label: str
    protocol: str
    aggregators: int
    minimum: int | None
    learning_rate: float | None
    local_learning_rate: float | None
    epochs: int | None
    reptile: bool
    iterations: int
    batch_size: int
    dp: str | None
    clip: float | None
    bound: float
    bits: int
    seed: int
    threads: int
    topology: str = "star"
    statistics: str = "shared"
    statistics_bound: float = 1000.0
    statistics_clip: float | None = None
    range: str | None = None
    floor: float = 1e-4
    terms: DataTerms | None = None

    def under(self, terms: DataTerms) -> FederationSpec:
        """The same training of data as was agreed on.

        Raises:
            BadConfig: an option that the terms have.
        """
        if self.shape is not None or self.range is not None:
            raise BadConfig("shape and range of the data are agreed on", "leave out --shape and --range beside --terms")
        if self.label not in ("label", terms.label):
            agreed = f"'{terms.label}' was agreed on"
            if terms.label is None:
                agreed = f"the terms are on {KINDS[terms.kind]}, which have no columns"
            raise BadConfig(f"--label is '{self.label}', and {agreed}", "leave it out")
        span = None if terms.range is None else f"{terms.range[0]!r},{terms.range[1]!r}"
        shape = ",".join(map(str, terms.inputs))
        return replace(self, terms=terms, shape=shape, range=span, label=terms.label or self.label)

    @property
    def span(self) -> tuple[float, float] | None:
        """The stored values that become 0 and 1, where they were given.

        Raises:
            BadConfig: no two numbers, the lower first.
        """
        if self.range is None:
            return None
        try:
            low, high = (float(part) for part in self.range.split(","))
        except ValueError:
            low, high = 1.0, 0.0
        if not -float("inf") < low < high < float("inf"):
            raise BadConfig(f"--range is '{self.range}'", "give two numbers, the lower first: --range -1024,3071")
        return low, high

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """Shape of one example, where it was given."""
        return None if self.shape is None else grammar.whole_numbers(self.shape, "--shape")

    @property
    def rule(self) -> tuple[Local, float]:
        """How an owner trains, and the model owner's learning rate that goes with it.

        Raises:
            BadConfig: options of two ways at once.
        """
        rate = LOCAL_RATE if self.local_learning_rate is None else self.local_learning_rate
        if self.reptile and self.epochs is not None:
            raise BadConfig("--reptile takes steps, and --epochs passes over all examples", "give one of them")
        if self.reptile:
            return reptile(lr=rate, batch_size=self.batch_size, iterations=self.iterations), 1.0
        if self.epochs is not None or self.local_learning_rate is not None:
            return local_steps(lr=rate, epochs=self.epochs or 1, batch_size=self.batch_size), 1.0
        return gradient_step(self.batch_size), GRADIENT_RATE

    @property
    def exchange(self) -> str:
        """How steps are added up: the protocol around a model owner, or among owners alone.

        Raises:
            BadConfig: a topology that does not have the protocol.
        """
        found = EXCHANGES.get((self.topology, self.protocol))
        if found is None:
            there = [protocol for topology, protocol in EXCHANGES if topology == self.topology]
            raise BadConfig(
                f"--topology {self.topology} has no --protocol {self.protocol}", f"choose of: {', '.join(there)}"
            )
        return found

    @property
    def secure(self) -> Secure:
        """The protocol; `dp` is "NOISE" or "NOISE,clip=NORM".

        Raises:
            UnknownName, BadConfig: what means nothing, or does not go together.
        """
        noise, clip = None, self.clip
        if self.dp is not None:
            named = grammar.read(f"--dp:{self.dp}", strength=True)
            options = {name: _positive(text) for name, text in grammar.options(named, {"clip": str}).items()}
            noise, clip = _positive(named.strength or ""), options.get("clip", 1.0 if clip is None else clip)
        return Secure(
            self.exchange,
            clip=clip,
            noise=noise,
            bound=self.bound,
            minimum=self.minimum,
            aggregators=self.aggregators,
            bits=self.bits,
            statistics=self.statistics,
            statistics_bound=self.statistics_bound,
            statistics_clip=self.statistics_clip,
            floor=self.floor,
        )

    def read(self) -> OwnersData:
        """All owners' examples, and those for validation, as one data set: classes, columns and scale are one.

        Raises:
            FedsealError: whatever of it does not exist or does not fit.
        """
        generator = torch.Generator().manual_seed(self.seed)
        named = (*self.data, *([] if self.validation is None else [self.validation]))
        if self.owners not in (None, len(self.data)) and len(self.data) > 1:
            raise BadConfig(
                f"--owners is {self.owners}, and {len(self.data)} data sets are named", "leave --owners out"
            )
        names, like = ((), None) if self.terms else (class_union(named), common_schema(self.data, self.label))
        found = {named[0]: self.read_one(named[0], like=like, names=names)}
        like = like or found[named[0]]
        found |= {name: self.read_one(name, like=like, names=names) for name in named[1:]}
        if self.terms is None:
            check_one(found)
            self._check_shape(found)
        first, *others = (found[name] for name in self.data)
        held = None if self.validation is None else found[self.validation].batch
        parts = [first.batch, *(other.batch for other in others)]
        if not others:
            whole = first.batch
            if held is None:
                whole, held = shares.held_out(whole, self.validation_split, generator)
            parts = shares.split_among(whole, self.owners or 10, self.split, generator)
        classes = self.terms.classes if self.terms else max(one.classes for one in (first, *others))
        return OwnersData(
            tuple(parts),
            held,
            classes,
            first.modality,
            first.names,
            first.scale,
            first.channels,
            tuple(note for name, one in found.items() for note in reading_notes(name, one)),
        )

    def _check_shape(self, found: Mapping[str, Dataset]) -> None:
        """Pictures in files are brought to the shape that was asked for; others have it or not."""
        for name, one in found.items():
            if self.sizes not in (None, one.shape):
                held = ",".join(map(str, one.shape))
                raise BadConfig(f"--shape is {self.shape}, and '{name}' holds examples of {held}", "leave --shape out")

    def read_one(self, name: str, *, like: Dataset | None = None, names: tuple[str, ...] = ()) -> Dataset:
        """One owner's examples, whole and in their order.

        Args:
            like: as which tables are encoded.
            names: of the classes of folders.
        """
        if self.terms is not None:
            found = read_agreed(name, self.terms)
        else:
            found = load_data(name, size=self.sizes, label=self.label, like=like, names=names, span=self.span)
        check_targets(found.batch, "cross_entropy", where=f" in '{name}'")
        return found

    def model_owner(self, found: OwnersData) -> ModelOwner:
        """The model owner of such data.

        Raises:
            UnknownName, BadConfig: no such model, or a learning rate that is none.
        """
        rate = self.rule[1] if self.learning_rate is None else self.learning_rate
        model = models.build_model(self.model, shape=found.shape, classes=found.classes, seed=self.seed)
        return ModelOwner(model, validation=found.validation, learning_rate=rate)

    def federation(self, found: OwnersData) -> Federation | Gossip:
        """All parties with their data, on one machine.

        Raises:
            BadConfig: a minimum where there is no sum.
        """
        if self.topology != "gossip":
            return self.adding(found)
        from fedseal.federation.gossip import Gossip

        if self.minimum is not None:
            raise BadConfig("--minimum is of a sum, and owners who gossip have none", "leave it out")
        if self.dp is not None or self.clip is not None:
            raise BadConfig(
                "noise and a clip are of a sum, and owners who gossip have none", "choose another --topology"
            )
        secure, usual = self.secure, Secure()  # which complains of what else belongs to a sum
        for option in ("floor", "bits", "statistics_clip"):
            if getattr(secure, option) != getattr(usual, option):
                named = f"--{option.replace('_', '-')}"
                raise BadConfig(f"{named} is of a secure sum, and owners who gossip have none", "leave it out")
        return Gossip(
            self.model_owner(found),
            [DataOwner.holding(part, self.rule[0]) for part in found.owners],
            seed=self.seed,
            threads=self.threads,
            bound=secure.bound,
            statistics_bound=secure.statistics_bound,
        )

    def adding(self, found: OwnersData) -> Federation:
        """All parties with their data where steps are added up, by a model owner or around a ring."""
        owners = [DataOwner.holding(part, self.rule[0]) for part in found.owners]
        return replace(self.of(self.model_owner(found), owners, self.secure), schema=self._schema(found))

    def _schema(self, found: OwnersData) -> str:
        """A digest of what the examples are read as: columns and their normalization, classes, scale."""
        modality = None if found.modality is None else found.modality.describe()
        facts = (found.shape, found.classes, found.names, found.scale, self.span, modality)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def of(self, model_owner: ModelOwner, owners: Sequence[DataOwner], secure: Secure) -> Federation:
        """These parties, with the seed and threads that were asked for."""
        from fedseal.federation.federation import Federation

        return Federation(model_owner, list(owners), secure, seed=self.seed, threads=self.threads)


def usual_protocol(topology: str) -> str:
    """The protocol of a topology unless another is named.

    >>> usual_protocol("star"), usual_protocol("ring")
    ('sharing', 'masking')
    """
    return next(protocol for place, protocol in EXCHANGES if place == topology)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise BadConfig(f"--dp has '{text}' where a positive number is due", "write it as --dp 1.1,clip=1")
    return value
