"""Who takes part in a federation: its parties, made where they are needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from fedseal.federation.keys import Keys
from fedseal.federation.owners import DataOwner
from fedseal.federation.protocol import AggregatorMember, Member
from fedseal.federation.protocol.client import ClientMember
from fedseal.federation.secure import Keyring, Pact
from fedseal.secagg import Identity, Ledger, Party, aggregator

STATISTICS = "statistics.safetensors"  # in an owner's own folder


@dataclass(frozen=True)
class Members:
    """All parties of a federation, simulated or deployed.

    Args:
        seed: of all owners' draws where one process plays them all. Where keys are in files, each owner's draws start
            from its own key, so that nobody else can tell them.
    """

    owners: tuple[DataOwner, ...]
    model: nn.Module = field(repr=False)
    pact: Pact
    keys: Keys
    seed: int | None
    threads: int

    @property
    def clients(self) -> tuple[int, ...]:
        """Numbers of the data owners."""
        return tuple(range(len(self.owners)))

    @property
    def aggregators(self) -> tuple[int, ...]:
        """Numbers of the aggregators."""
        return tuple(aggregator(place) for place in range(len(self.pact.roster.aggregators)))

    def party(
        self, number: int, *, kept: bool = False, ledger: Ledger | None = None, folder: Path | None = None
    ) -> Member:
        """The party of a number, as it starts.

        Args:
            kept: whether it will be dumped and loaded.
            folder: of its own, in which statistics that stay at an owner outlive the process.
        """
        identity = self.keys.identity(number)
        if number in self.aggregators:
            return AggregatorMember(Party.of(number).index, self.pact, identity, kept=kept, ledger=ledger)
        return ClientMember(
            number,
            self.owners[number],
            self.model,
            self.pact,
            identity,
            seed=self.seed if isinstance(self.keys, Keyring) else _own_seed(identity),
            threads=self.threads,
            ledger=ledger,
            statistics=None if folder is None else folder / STATISTICS,
        )


def _own_seed(identity: Identity) -> int:
    return int.from_bytes(identity.derived(b"draws"), "little")
