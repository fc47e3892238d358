"""What the model owner learns of a round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedseal.errors import Diverged
from fedseal.types import Tensors


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
        colluders: see `Secure.colluders`; None where it was not kept.
        refused: parties who refused, or of whom something was refused, and the kind of the reason.
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
    colluders: int | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, object]:
        """All fields as plain values, for files."""
        return asdict(self)


def check_finite(moved: Tensors, history: Sequence[RoundReport], checkpoint: str | Path | None) -> None:
    """Stop a training that has diverged, while its checkpoint is still of a round before.

    Args:
        moved: what rounds move of the model; what is fixed, such as a mask of -inf, diverges never.
        history: rounds so far, that of the model last.
        checkpoint: where the rounds before are kept, if anywhere.

    Raises:
        Diverged: an entry of these, or the model's loss, is no number.
    """
    last = history[-1]
    wrong = [name for name, tensor in moved.items() if not bool(tensor.isfinite().all())]
    loss = last.validation.get("loss", 0.0)
    if not wrong and math.isfinite(loss):
        return
    what = f"'{wrong[0]}' of the model is no number" if wrong else f"the loss is {loss}"
    kept = "no checkpoint was kept" if checkpoint is None else "no round before it was good"
    if checkpoint is not None and last.round > 0 and Path(checkpoint).is_file():
        kept = f"'{checkpoint}' holds the model of round {last.round}, the last that was good"
    raise Diverged(
        f"the training diverged in round {last.round + 1}: {what}",
        f"lower the learning rates, or set a lower clip or noise; {kept}",
    )
