"""A plan for several hosts: what each party's folder says of the training, and the federation made of it there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedseal.errors import BadConfig, StorageFailure, UnfitBatch
from fedseal.setup.absent_data import Absent, elsewhere, is_here, stand_in
from fedseal.setup.data.common import common_schema
from fedseal.setup.data.dataset import AS_STORED, SAY_CHANNELS, UNSAID, reading_notes
from fedseal.setup.data.images import BUNDLED, class_name, class_names
from fedseal.setup.data.load import data_kind
from fedseal.setup.data.proposal import pooled_terms
from fedseal.setup.data.terms import terms_of
from fedseal.setup.federation import FederationSpec, OwnersData
from fedseal.types import Batch

if TYPE_CHECKING:
    from fedseal.federation.deployment import Place
    from fedseal.federation.federation import Federation


@dataclass(frozen=True)
class PartySpec:
    """What a party's folder says of the training.

    Args:
        plan: as typed, without any path.
        shape: of one example.
        classes: of the labels.
        owners: number of data owners.
        bundled: the data set that is dealt out; None where every owner has its own.
        timeout: seconds after which a party that does not answer counts as gone.
        own: this party's examples, a path on its host: a data owner's, or the model owner's for validation.
        names: of the classes, as folders of pictures name them, in the order of their numbers.
        scale, channels: as of a `Dataset`, which every party's examples must have; None where the plan's terms say
            them.
    """

    plan: FederationSpec
    shape: tuple[int, ...]
    classes: int
    owners: int
    rounds: int
    evaluate_every: int
    timeout: float
    bundled: str | None
    own: str | None = None
    names: tuple[str, ...] = ()
    scale: str | None = None
    channels: str | None = None

    def plain(self) -> dict[str, Any]:
        """For a file."""
        terms = self.plan.terms
        plain = asdict(replace(self, plan=replace(self.plan, terms=None)))
        if terms is not None:
            plain["plan"]["terms"] = terms.model_dump(mode="json", exclude_defaults=True)
        return plain

    @property
    def values(self) -> str:
        """What the values of this party's examples have to be; empty where the terms say it, or they are dealt out."""
        if self.own is None or self.scale is None:
            return ""
        order = {None: "", "": "", UNSAID: ", the order of their channels not said"}.get(
            self.channels, f", {self.channels}"
        )
        scaled = self.scale if self.scale == AS_STORED else f"scaled from {self.scale}"
        return f"{scaled}{order}"

    @classmethod
    def of(cls, facts: dict[str, Any]) -> PartySpec:
        """What `plain` gave.

        Raises:
            StorageFailure: it did not give this.
        """
        try:
            asked = facts["plan"]
            plan = FederationSpec(**{**asked, "data": tuple(asked["data"]), "terms": terms_of(asked.get("terms"))})
            return cls(**{**facts, "plan": plan, "shape": tuple(facts["shape"]), "names": tuple(facts["names"])})
        except (KeyError, TypeError) as error:
            raise StorageFailure(
                f"a deployment of another version of fedseal ({error})", "run the version that wrote it"
            ) from None

    def federation(self, place: Place, notes: list[str] | None = None) -> Federation:
        """As one party sees it: other parties' data is on their hosts.

        Args:
            notes: on how this party's own file was read; they are appended.

        Raises:
            FedsealError: this party's data does not exist, or does not fit.
        """
        from fedseal.federation.owners import DataOwner

        rule = self.plan.rule[0]
        owners = [DataOwner(Absent(number), rule) for number in range(self.owners)]
        if place.number < self.owners:
            own = self._data(place, notes)
            self._check(own, place)
            owners[place.number] = DataOwner.holding(own, rule)
        found = replace(stand_in(self.shape, self.classes), validation=None)
        if place.leads:
            found = replace(found, validation=self._validation(place, notes))
        return self.plan.of(self.plan.model_owner(found), owners, place.pact.secure)

    def _data(self, place: Place, notes: list[str] | None) -> Batch:
        return self._dealt().owners[place.number] if self.own is None else self._own(place, notes)

    def _validation(self, place: Place, notes: list[str] | None) -> Batch | None:
        if self.own is not None:
            return self._own(place, notes)
        return None if self.bundled is None else self._dealt().validation

    def _own(self, place: Place, notes: list[str] | None = None) -> Batch:
        """The party's own examples, numbered and scaled as agreed."""
        path = self._path(place)
        if not self.names and path not in BUNDLED and Path(path).is_dir() and class_names(Path(path)):
            raise BadConfig(
                f"'{path}' names its classes ({', '.join(class_names(Path(path)))}), and no names were agreed on",
                "deploy anew with all names in their order: --classes benign,malign",
            )
        found = self.plan.read_one(path, names=self.names)
        if self.scale is not None and found.scale != self.scale:
            raise UnfitBatch(
                f"'{path}' is scaled from {found.scale or 'nothing'}, and {self.scale or 'nothing'} was agreed on",
                "store it alike, or deploy anew with the values that become 0 and 1, --range LOW,HIGH, or with what "
                "all owners propose: --terms FILE",
            )
        if self.channels is not None and found.channels != self.channels:
            raise UnfitBatch(
                f"'{path}' has channels in the order {found.channels or 'of no picture'}, and "
                f"{self.channels or 'no picture'} was agreed on",
                f"{SAY_CHANNELS}, or deploy anew with what all owners propose: --terms FILE",
            )
        if notes is not None:
            notes += reading_notes(path, found)
        return found.batch

    def _path(self, place: Place) -> str:
        assert self.own is not None
        return self.own if self.own in BUNDLED else str(place.folder.resolve() / self.own)

    def _dealt(self) -> OwnersData:
        assert self.bundled is not None
        return replace(self.plan, data=(self.bundled,), owners=self.owners).read()

    def _check(self, own: Batch, place: Place) -> None:
        shape, most = tuple(own.inputs.shape[1:]), place.pact.secure.max_weight
        if shape != self.shape or int(own.labels.max()) >= self.classes:
            raise UnfitBatch(
                f"the examples of {place.who} have the shape {shape} and labels up to {int(own.labels.max())}, and "
                f"{self.shape} and {self.classes} classes were agreed on",
                f"correct the path in '{place.folder}/party.json', training.own, or the data",
            )
        draw = self.plan.rule[0].draw
        counted = len(own) if draw is None else min(draw, len(own))
        if most is not None and 1 < most < counted:
            raise UnfitBatch(
                f"{place.who} has {counted} examples, and {most} at most were agreed on",
                "deploy with a higher --examples",
            )


@dataclass(frozen=True)
class Drawn:
    """A deployment on paper: the federation it is for, and what each party's folder says of the training.

    Args:
        notes: on how data that is here was read.
    """

    federation: Federation
    trainings: dict[int, PartySpec]
    notes: tuple[str, ...] = ()

    def write(self, folder: Path, *, hosts: Sequence[str], port: int) -> None:
        """Make the folders.

        Raises:
            StorageFailure, BadConfig: not there, or not at these hosts.
        """
        from fedseal.federation import deployment

        federation = self.federation
        federation.members()  # complains of figures that do not fit together
        facts = {number: training.plain() for number, training in self.trainings.items()}
        deployment.write_folders(folder, federation.secure, len(federation.data_owners), facts, hosts=hosts, port=port)


def deployment_of(
    plan: FederationSpec, *, rounds: int, evaluate_every: int, timeout: float, classes: str | None, examples: int | None
) -> Drawn:
    """The deployment of a plan.

    Args:
        classes: of the labels, where data is on other hosts: how many, or their names, with commas between them.
        examples: most of a data owner, there.

    Raises:
        BadConfig: data that cannot be dealt out to hosts, or data elsewhere of which too little is said.
    """
    from fedseal.federation.deployment import party_numbers

    bundled = plan.data[0] if len(plan.data) == 1 else None
    outputs, names = _class_terms(classes)
    _check_named(plan, bundled)
    plan = _with_schema(plan)
    if plan.terms is not None:
        if outputs is not None:
            raise BadConfig("the terms on the data, or tables themselves, say the classes", "leave out --classes")
        outputs, names = plan.terms.classes, plan.terms.names
    if bundled is not None or all(map(is_here, plan.data)):
        found = plan.read()
        federation = plan.adding(found)
    else:
        found, federation = elsewhere(plan, outputs, names, examples)
    federation = replace(federation, protocol=replace(federation.secure, rounds=rounds))
    count = len(federation.data_owners)
    common = PartySpec(
        plan=replace(
            plan, data=(), validation=None, validation_split=plan.validation_split if plan.validation is None else 0.0
        ),
        shape=found.shape,
        classes=max(found.classes, outputs or 0),
        owners=count,
        rounds=rounds,
        evaluate_every=evaluate_every,
        timeout=timeout,
        bundled=bundled,
        names=found.names or names,
        scale=found.scale if plan.terms is None else None,
        channels=found.channels if plan.terms is None else None,
    )
    aggregators = federation.secure.parties_who_add
    model_owner, *nodes = party_numbers(count, aggregators)
    parts = dict.fromkeys((model_owner, *nodes), common)
    if bundled is None:
        parts |= {number: replace(common, own=_place(name)) for number, name in enumerate(plan.data)}
    if plan.validation is not None:
        parts[model_owner] = replace(common, own=_place(plan.validation))
    return Drawn(federation, parts, found.notes)


def _class_terms(text: str | None) -> tuple[int | None, tuple[str, ...]]:
    """How many classes there are, and their names, sorted as folders are; None and none where nothing is said."""
    if text is None:
        return None, ()
    if text.isdecimal() and int(text) > 1:
        return int(text), ()
    names = tuple(sorted({class_name(part.strip()) for part in text.split(",")}))
    if len(names) < 2 or not all(names):
        raise BadConfig(f"--classes is '{text}'", "give a number of at least 2, or two or more names: benign,malign")
    return len(names), names


def _check_named(plan: FederationSpec, bundled: str | None) -> None:
    if bundled is not None and bundled not in BUNDLED:
        raise BadConfig(
            f"'{bundled}' for all owners would have to be on every owner's host",
            "name each owner's own: --data a.npz --data b.npz",
        )
    for name in plan.data:
        if plan.terms is None and data_kind(name) == "table" and not all(map(is_here, plan.data)):
            raise BadConfig(
                f"'{name}' is a table, and nobody has agreed on its columns with the owners on other hosts",
                "let each owner run 'fedseal train --data TABLE --propose FILE', and deploy with --terms FILE for each",
            )


def _with_schema(plan: FederationSpec) -> FederationSpec:
    """The plan, with terms on tables that are all here: as the rows of all owners together are encoded."""
    if plan.terms is not None or not all(data_kind(name) == "table" for name in plan.data):
        return plan
    found = common_schema(plan.data, plan.label)
    if found is None:
        return plan
    held = None if plan.validation is None or not is_here(plan.validation) else Path(plan.validation)
    return plan.under(pooled_terms([Path(name) for name in plan.data], found, plan.label, held))


def _place(name: str) -> str:
    """A path as it will be found: from anywhere, if it is here; as typed, if it is on another host."""
    return str(Path(name).resolve()) if Path(name).exists() else name
