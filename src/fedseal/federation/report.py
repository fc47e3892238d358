"""What the model owner learns of a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class RoundReport:
    """One round.

    Args:
        round: from 0.
        clients: whose steps are in the sum.
        weight: the sum of their weights.
        metrics: clients' means of the model before the round.
        validation: the evaluator's figures of the model after the round; empty where it was not called.
        uploaded: bytes from clients.
        downloaded: bytes to clients, the model included.
        relayed: bytes between the model owner and aggregators.
        failure: why nothing was opened; the model is then as it was.
    """

    round: int
    clients: int
    weight: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    uploaded: int = 0
    downloaded: int = 0
    relayed: int = 0
    seconds: float = 0.0
    failure: str = ""

    def plain(self) -> dict[str, object]:
        """All fields as plain values, for files."""
        return asdict(self)
