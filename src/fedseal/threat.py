"""Who the adversary is, as redaction: `ThreatModel.observe` hands on what is granted and leaves the rest out.

Flags can lie, absence cannot: an attack that was not granted the weights finds None where they would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from fedseal.client import architecture, state_of
from fedseal.criterion import loss_function
from fedseal.errors import BadConfig, UnfitUpdate, UnknownName
from fedseal.layout import canonical
from fedseal.message import fit, fit_state
from fedseal.types import Defense, LocalTraining, Modality, Observation, Round, Secret, Tensors, Update
from fedseal.vocabulary import GRANTS as GRANTS


@dataclass(frozen=True)
class ThreatModel:
    """What an adversary knows.

    Args:
        name: as records and reports give it.
        grants: keys of `fedseal.threat.GRANTS`; what is not granted is absent from every observation.

    Raises:
        UnknownName: a grant that does not exist.

    >>> sorted(ThreatModel.eavesdropper().grants)
    ['buffers', 'num_examples', 'single_updates']
    """

    name: str
    grants: frozenset[str]

    def __post_init__(self) -> None:
        for grant in self.grants:
            if grant not in GRANTS:
                raise UnknownName("grant", grant, GRANTS)

    @classmethod
    def honest_but_curious(cls) -> ThreatModel:
        """The server: it sent the weights, set the local training, and receives each client's update."""
        return cls("honest_but_curious", frozenset(GRANTS) - {"labels", "choose_state"})

    @classmethod
    def eavesdropper(cls) -> ThreatModel:
        """Someone on the line from client to server: the message, and the architecture, but no weights."""
        return cls("eavesdropper", frozenset({"num_examples", "buffers", "single_updates"}))

    @classmethod
    def aggregate_only(cls) -> ThreatModel:
        """The server behind secure aggregation: weights and settings, but only an aggregate of several clients."""
        return cls("aggregate_only", frozenset({"state", "training", "defense", "num_examples", "buffers"}))

    @classmethod
    def unknown_training(cls) -> ThreatModel:
        """A server whose clients choose their local training themselves: weights and updates, but no settings.

        Whether the update is a gradient or a difference shows in the message. The architecture keeps the modes of the
        model that was handed in, as with `mode="as_is"`, since the client's is not known.
        """
        return cls("unknown_training", cls.honest_but_curious().grants - {"training"})

    @classmethod
    def unaware(cls) -> ThreatModel:
        """The server of published attacks: all that an honest-but-curious one knows, but not that there is a defense.

        Beside an attacker who knows the defense it shows what mere obscurity buys.
        """
        return cls("unaware", cls.honest_but_curious().grants - {"defense"})

    @classmethod
    def malicious_server(cls) -> ThreatModel:
        """A server that chooses the weights to make them leak; the labels stay the client's."""
        return cls("malicious_server", frozenset(GRANTS) - {"labels"})

    @classmethod
    def neighbor(cls) -> ThreatModel:
        """Another data owner, to whom a client hands what it sends where there is no server: in a ring or by gossip.

        All owners train one model by one rule, so that it knows as much beside an update as a server does. How much of
        the update it is handed depends on the exchange: a part, a partial sum, or weights that were mixed.
        """
        return cls("neighbor", cls.honest_but_curious().grants)

    @classmethod
    def oracle(cls) -> ThreatModel:
        """Everything but the inputs: no real adversary, an upper bound that published figures often assume."""
        return cls("oracle", frozenset(GRANTS) - {"choose_state"})

    def observe(
        self,
        model: nn.Module,
        update: Update,
        *,
        modality: Modality,
        training: LocalTraining | None = None,
        labels: Tensor | None = None,
        defense: Defense | None = None,
    ) -> Observation:
        """What this adversary holds of one update that the model's client sent.

        Args:
            model: the model at the round's start.
            training: the local training that the adversary assumes; it replaces the one recorded in the update, which
                is then withheld. Needed for a captured file that records none. It may be wrong.
            labels: the true labels, used only where granted.

        Raises:
            UnfitUpdate: the update is not this model's, is not finite, or is zero everywhere.
            UnfitModel: the model has no trainable parameters.
            BadConfig: single updates are withheld and the update is one client's own.
        """
        return self.observe_rounds(
            model, [(state_of(model), update)], modality=modality, training=training, labels=labels, defense=defense
        )

    def observe_rounds(
        self,
        model: nn.Module,
        rounds: Sequence[tuple[Tensors, Update]],
        *,
        modality: Modality,
        training: LocalTraining | None = None,
        labels: Tensor | None = None,
        defense: Defense | None = None,
    ) -> Observation:
        """What this adversary holds of several updates of one batch, each with the weights it was computed at."""
        if not rounds:
            raise BadConfig("there is no round to observe", "give at least one (state, update)")
        states = [fit_state(model, state) for state, _ in rounds]
        fitted = [fit(model, state, update) for state, (_, update) in zip(states, rounds, strict=True)]
        updates = [found.update for found in fitted]
        if training is not None:  # the adversary's assumption takes the place of what really happened
            updates = [replace(update, training=training) for update in updates]
        training = updates[0].training
        for update in updates:
            _check(update, training)
            if update.num_clients == 1 and "single_updates" not in self.grants:
                raise BadConfig(
                    f"the threat model '{self.name}' sees aggregates only, and this is one client's update",
                    "aggregate first: fedseal.aggregate([update, update])",
                )
        # the mode that BatchNorm runs in is a fact of the local training, and goes with it
        known = training if "training" in self.grants else None
        bare = architecture(model, known)
        secrets = _secrets(bare, known)
        for module in bare.modules():
            # the client's mask is the client's secret; attention applies its dropout layer's rate by function
            if isinstance(module, _DropoutNd) or any(isinstance(child, _DropoutNd) for child in module.children()):
                module.training = False
        granted = self.grants
        return Observation(
            model=bare,
            modality=modality,
            rounds=tuple(
                Round(_copy(state) if "state" in granted else None, self._redact(update))
                for state, update in zip(states, updates, strict=True)
            ),
            loss=training.loss if training else "cross_entropy",
            threat=self.name,
            training=training if "training" in granted else None,
            labels=canonical(labels).clone() if labels is not None and "labels" in granted else None,
            defense=(() if defense is None else defense.fit(model).public) if "defense" in granted else None,
            secrets=secrets,
            notes=tuple(dict.fromkeys(note for found in fitted for note in found.notes)),
        )

    def _redact(self, update: Update) -> Update:
        return replace(
            update,
            tensors=_copy(update.tensors),
            buffers=_copy(update.buffers) if update.buffers is not None and "buffers" in self.grants else None,
            num_examples=update.num_examples if "num_examples" in self.grants else None,
            training=update.training if "training" in self.grants else None,
        )


PRESETS = {
    "honest_but_curious": ThreatModel.honest_but_curious,
    "eavesdropper": ThreatModel.eavesdropper,
    "aggregate_only": ThreatModel.aggregate_only,
    "unknown_training": ThreatModel.unknown_training,
    "unaware": ThreatModel.unaware,
    "malicious_server": ThreatModel.malicious_server,
    "neighbor": ThreatModel.neighbor,
    "oracle": ThreatModel.oracle,
}


def preset(name: str) -> ThreatModel:
    """The threat model of that name.

    Raises:
        UnknownName: there is none.
    """
    if name not in PRESETS:
        raise UnknownName("threat model", name, PRESETS)
    return PRESETS[name]()


def aggregate(updates: Sequence[Update]) -> Update:
    """The mean of several clients' updates, as an aggregating server sees it; buffers and counts of single clients go.

    Raises:
        BadConfig: fewer than two updates, or of different kinds.

    >>> one = Update("gradient", {"w": torch.tensor([2.0])}, num_examples=1)
    >>> two = aggregate([one, one])
    >>> two.tensors["w"].item(), two.num_clients, two.num_examples
    (2.0, 2, 2)
    """
    shapes = [{name: tensor.shape for name, tensor in update.tensors.items()} for update in updates]
    if len(updates) < 2 or len({u.kind for u in updates}) > 1 or any(other != shapes[0] for other in shapes):
        raise BadConfig(f"{len(updates)} updates cannot be aggregated", "give two or more of one kind and one model")
    clients = sum(update.num_clients for update in updates)
    counts = [update.num_examples for update in updates]
    known = [count for count in counts if count is not None]
    return Update(
        kind=updates[0].kind,
        tensors={
            n: torch.stack([u.num_clients * u.tensors[n] for u in updates]).sum(0) / clients for n in updates[0].tensors
        },
        num_examples=sum(known) if len(known) == len(counts) else None,
        num_clients=clients,
        training=updates[0].training,
        rounding=updates[0].rounding,
    )


def _secrets(bare: nn.Module, training: LocalTraining | None) -> tuple[Secret, ...]:
    """The dropout of an architecture: whether it draws is known to who knows the training, its rate to everybody."""
    rates = {name: float(module.p) for name, module in bare.named_modules() if isinstance(module, _DropoutNd)}
    modes = {name: module.training for name, module in bare.named_modules()}
    return tuple(
        Secret("dropout", name, rate, None if training is None else modes[name])
        for name, rate in rates.items()
        if rate > 0 and (training is None or modes[name])
    )


def _copy(tensors: Tensors) -> dict[str, Tensor]:
    return {name: canonical(tensor.detach()).clone() for name, tensor in tensors.items()}


def _check(update: Update, training: LocalTraining | None) -> None:
    if update.num_examples is not None and update.num_examples < 1:
        raise UnfitUpdate(f"the update names {update.num_examples} examples", "an update is made from at least one")
    if training is not None:
        loss_function(training.loss)
        if training.kind != update.kind:
            raise UnfitUpdate(
                f"the update is a {update.kind}, but the local training named makes a {training.kind}",
                "name the training that made it: LocalTraining.fedsgd() or .fedavg(...), and of a file that does not "
                "say what it holds its kind: Update.load(path, kind=...)",
            )
