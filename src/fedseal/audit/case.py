"""The case: a model, private data and a way of training. The only place where truth and observation meet."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fedseal.audit.kinds import input_kind
from fedseal.client import local_update, state_of
from fedseal.criterion import fingerprint, loss_function
from fedseal.errors import BadConfig, UnfitBatch
from fedseal.modality import Image
from fedseal.threat import ThreatModel, aggregate
from fedseal.types import Batch, Defense, LocalTraining, Modality, Observation

FEW = 4  # examples on which a loss is tried that takes no rows of outputs


@dataclass(frozen=True, eq=False)
class Case:
    """What an audit attacks: the truth, which no attack sees.

    Args:
        model: the model that the client receives; not changed.
        batch: the private examples `(N, ...)`, as the model is fed them; an audit attacks consecutive parts of it.
        training: the client's local training.
        modality: what an input is, such as `fs.Text` or `fs.Tabular`; None for pictures `(N, 1 or 3, H, W)` with values
            in [0, 1].
        name: as records and reports give it; None for the name of the model's class.
        gallery: of pictures, others `(G, C, H, W)` in [0, 1] to identify the truth among; None for the zoo's own. Blind
            guesses of sentences come from the zoo's, those of rows from the case's other rows.
        cohort: of how many clients an adversary that gets no single updates sees the mean. The other clients hold the
            examples that follow the attacked ones; after the last one comes the first again.

    Raises:
        BadConfig: no modality and inputs that are no plain pictures, a modality or gallery of another shape, or a
            gallery of what is no picture.

    >>> import fedseal as fs
    >>> batch = fs.Batch(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    >>> Case(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), batch, fs.LocalTraining.fedsgd()).inputs_as
    Image(shape=(3, 8, 8), mean=None, std=None)
    """

    model: nn.Module
    batch: Batch
    training: LocalTraining
    modality: Modality | None = None
    name: str | None = None
    gallery: Tensor | None = None
    cohort: int = 2

    def __post_init__(self) -> None:
        shape = tuple(self.batch.inputs.shape[1:])
        if tuple(self.inputs_as.shape) != shape:
            raise BadConfig(
                f"the case's inputs have shape {shape} each, its modality {self.inputs_as.shape}",
                "give both the same shape",
            )
        if self.gallery is not None and not input_kind(self.inputs_as).pictured:
            raise BadConfig("the case has a gallery, and its inputs are no pictures", "leave the gallery out")
        if self.gallery is not None and tuple(self.gallery.shape[1:]) != shape:
            raise BadConfig(
                f"the gallery has shape {tuple(self.gallery.shape)}, the inputs {shape} each",
                "give a gallery (G, C, H, W) of pictures in [0, 1] of the inputs' shape",
            )
        if self.cohort < 2:
            raise BadConfig(f"a cohort of {self.cohort}", "an aggregate needs 2 or more clients")

    @cached_property
    def inputs_as(self) -> Modality:
        """The modality given, or the one that plain pictures have."""
        return self.modality or _plain(self.batch.inputs)

    @property
    def title(self) -> str:
        """The name given, or that of the model's class."""
        return self.name or type(self.model).__name__

    @cached_property
    def num_classes(self) -> int | None:
        """How many labels there are, by what the model gives for an example; None if that is no row of logits."""
        with torch.no_grad():
            outputs = copy.deepcopy(self.model).eval()(self.batch.inputs[:1])
        return int(outputs.shape[1]) if isinstance(outputs, Tensor) and outputs.ndim == 2 else None

    def over(self, epochs: int | None, lr: float | None = None) -> Case:
        """The same case with more or fewer local steps.

        Args:
            epochs: of local training; 0 for FedSGD, one gradient without a step; None for the case's own training.
            lr: where the client's own training has no learning rate.

        Raises:
            BadConfig: epochs below 0, or local steps without a learning rate.
        """
        own = self.training
        if epochs is None:
            return self
        if epochs < 0:
            raise BadConfig(f"{epochs} local epochs", "give 0 for one gradient, or the number of epochs")
        if epochs == 0:
            return replace(self, training=LocalTraining.fedsgd(mode=own.mode, loss=own.loss))
        rate = own.lr if lr is None else lr
        if rate is None:
            raise BadConfig(
                f"{epochs} local epochs, and the case's training has no learning rate", "give one, such as lr: 0.01"
            )
        return replace(self, training=replace(own, epochs=epochs, lr=rate))

    def to(self, device: torch.device | str) -> Case:
        """The same case with its own copy of the model on another device."""
        return replace(self, model=copy.deepcopy(self.model).to(device), batch=self.batch.to(device))

    def part(self, first: int, batch_size: int) -> Batch:
        """The attacked examples.

        Raises:
            UnfitBatch: the case has no such examples.
        """
        if first < 0 or batch_size < 1 or first + batch_size > len(self.batch):
            raise UnfitBatch(
                f"examples {first} to {first + batch_size - 1} of a case of {len(self.batch)}",
                "attack fewer samples or smaller batches, or give more data",
            )
        return self.batch[first : first + batch_size]

    def observe(
        self, *, first: int, batch_size: int, defense: Defense, threat: ThreatModel, seed: int
    ) -> tuple[Observation, Batch]:
        """What the adversary holds of the client with examples `first` to `first + batch_size - 1`, and these examples.

        The client's chance (dropout, the defense's noise) depends on the examples and the seed alone, so that attacks,
        threat models and strengths of a defense are compared on the same draw.

        Raises:
            UnfitBatch: too few examples, or a model that does not take them.
            UnfitUpdate: the update is not finite, or zero everywhere.
        """
        truth = self.part(first, batch_size)
        generator = stream("client", first, batch_size, seed)
        clients = [truth] if "single_updates" in threat.grants else self._cohort(first, batch_size)
        model = defense.on_model(self.model)
        updates = [
            local_update(model, batch, training=self.training, defense=defense, generator=generator)
            for batch in clients
        ]
        observation = threat.observe(
            model,
            updates[0] if len(updates) == 1 else aggregate(updates),
            modality=self.inputs_as,
            labels=truth.labels,
            defense=defense,
        )
        return observation, truth

    def _cohort(self, first: int, batch_size: int) -> list[Batch]:
        total, needed = len(self.batch), self.cohort * batch_size
        if total < needed:
            raise UnfitBatch(
                f"an aggregate of {self.cohort} clients with {batch_size} examples each needs {needed} examples, "
                f"and the case has {total}",
                "give more data, or attack smaller batches",
            )
        rows = (torch.arange(needed) + first).remainder(total).to(self.batch.inputs.device)
        whole = Batch(self.batch.inputs[rows], self.batch.labels[rows])
        return [whole[start : start + batch_size] for start in range(0, needed, batch_size)]

    def fingerprint(self, *, loss_by_name: bool = False) -> str:
        """SHA-256 over the model with its weights, the data, the gallery and the local training.

        A loss counts by what it computes: spellings of one loss are alike, and two losses under one name are not.

        Args:
            loss_by_name: count it by its name, as records before version 5 do.
        """
        digest = hashlib.sha256()
        modes = [module.training for module in self.model.modules()] if self.training.mode == "as_is" else None
        trainable = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        training = self.training.describe()
        if not loss_by_name:
            training = {**training, "loss": loss_digest(self.model, self.batch, self.training)}
        facts = [without_addresses(repr(self.model)), modes, trainable, training]
        digest.update(json.dumps(facts).encode())
        data = {"inputs": self.batch.inputs, "labels": self.batch.labels}
        gallery = {} if self.gallery is None else {"gallery": self.gallery}
        for name, tensor in [*sorted(state_of(self.model).items()), *data.items(), *gallery.items()]:
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def loss_digest(model: nn.Module, batch: Batch, training: LocalTraining) -> str:
    """A hash of what the loss computes, whatever it is called.

    Where the model gives `(N, outputs)` the loss is tried on numbers of that shape; else on what the model gives for
    the first examples: its value, and its gradient by the outputs.

    Raises:
        UnknownName: a name that no loss has.
    """
    few = batch[:FEW]
    loss = loss_function(training.loss)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            outputs = copy.deepcopy(model).eval()(few.inputs)
        except (RuntimeError, ValueError, LookupError, TypeError):  # the client's training says what does not fit
            return training.loss_name
    if isinstance(outputs, Tensor) and outputs.ndim == 2:
        return fingerprint(training.loss, int(outputs.shape[1]), batch.labels)
    said: list[object] = [training.loss_name]
    if isinstance(outputs, Tensor):
        leaf = outputs.detach().requires_grad_(outputs.is_floating_point())
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            try:
                value = loss(leaf, few.labels)
                (gradient,) = torch.autograd.grad(value, leaf)
            except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError):
                return training.loss_name
        said = [f"{float(value.detach()):.5g}", f"{float(gradient.double().norm()):.5g}"]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def stream(*key: object) -> torch.Generator:
    """A generator seeded by everything in the key, and by nothing else; other keys give unrelated numbers."""
    seed = int.from_bytes(hashlib.sha256(json.dumps([str(part) for part in key]).encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(seed >> 1)


def without_addresses(text: str) -> str:
    """A `repr` without memory addresses, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _plain(inputs: Tensor) -> Image:
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        raise BadConfig(
            f"inputs of shape {tuple(inputs.shape)} are no pictures (N, 1 or 3, H, W)",
            "pass the case's modality: fs.Image(shape=..., mean=..., std=...) for pictures, fs.Text(...) for token "
            "ids, fs.Tabular(...) for rows",
        )
    low, high = inputs.min().item(), inputs.max().item()
    if not 0 <= low <= high <= 1:
        raise BadConfig(
            f"the inputs lie between {low:.3g} and {high:.3g}, so they are no plain pixels in [0, 1]",
            "pass the client's normalization: modality=fs.Image(shape=..., mean=..., std=...)",
        )
    _, channels, height, width = inputs.shape
    return Image(shape=(channels, height, width))
