"""What settles a federation, as typed: one value that goes into a deployment's files and comes back the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedseal.cli import options, parties

if TYPE_CHECKING:
    from fedseal.federation.federation import Federation
    from fedseal.federation.owners import DataOwner, Local, ModelOwner
    from fedseal.federation.secure import Secure
    from fedseal.types import Batch


@dataclass(frozen=True)
class Plan:
    """Options of `fedseal train`, under their names there; what was left out is None."""

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

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """Of pictures in a folder."""
        return None if self.shape is None else options.whole_numbers(self.shape, "--shape")

    @property
    def rule(self) -> tuple[Local, float]:
        """How an owner trains, and the model owner's learning rate that goes with it.

        Raises:
            BadConfig: options of two ways at once.
        """
        return parties.rule(
            use_reptile=self.reptile,
            epochs=self.epochs,
            rate=self.local_learning_rate,
            iterations=self.iterations,
            batch_size=self.batch_size,
        )

    @property
    def secure(self) -> Secure:
        """The protocol.

        Raises:
            UnknownName, BadConfig: what means nothing, or does not go together.
        """
        return parties.secure(
            self.protocol,
            dp=self.dp,
            clip=self.clip,
            bound=self.bound,
            minimum=self.minimum,
            aggregators=self.aggregators,
            bits=self.bits,
        )

    def read(self) -> parties.Data:
        """All owners' examples, and those for validation.

        Raises:
            FedsealError: whatever of it does not exist or does not fit.
        """
        return parties.data(
            self.data,
            owners=self.owners,
            how=self.split,
            validation=self.validation,
            share=self.validation_split,
            shape=self.sizes,
            label=self.label,
            seed=self.seed,
        )

    def read_one(self, name: str) -> Batch:
        """One owner's examples, whole and in their order."""
        return parties.one(name, shape=self.sizes, label=self.label)

    def model_owner(self, found: parties.Data) -> ModelOwner:
        """The model owner of such data.

        Raises:
            UnknownName, BadConfig: no such model, or a learning rate that is none.
        """
        from fedseal.federation.owners import ModelOwner

        rate = self.rule[1] if self.learning_rate is None else self.learning_rate
        return ModelOwner(parties.model(self.model, found, self.seed), validation=found.validation, learning_rate=rate)

    def federation(self, found: parties.Data) -> Federation:
        """All parties with their data, on one machine."""
        return self.of(self.model_owner(found), parties.owners(found, self.rule[0]), self.secure)

    def of(self, model_owner: ModelOwner, owners: list[DataOwner], secure: Secure) -> Federation:
        """These parties, with the plan's seed and threads."""
        from fedseal.federation.federation import Federation

        return Federation(model_owner, owners, secure, seed=self.seed, threads=self.threads)
