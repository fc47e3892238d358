"""Words and plain facts that records, tables and the command line share with the rest; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["train", "eval", "as_is"]
Optimizer = Literal["sgd", "adam"]
Status = Literal["exact", "converged", "budget", "diverged", "not_applicable"]
FileKind = Literal["gradient", "difference", "weights"]
MARGIN = 2.0  # times the tolerance by which another example must move an update, where an example is to be certain
OWN_SEED = 1_000_003  # of draws that hang on an observation alone; nobody draws data by it
SPACED = ("Ġ", "▁")  # how byte-pair and unigram tokenizers begin a token that follows a space

# What an adversary may be granted to know.
GRANTS = {
    "state": "the model's weights and buffers at the round's start",
    "training": "the local training: epochs, learning rate, batch size, optimizer, mode",
    "num_examples": "the number of examples that the client names beside its update",
    "buffers": "buffers that the client sends, such as BatchNorm statistics",
    "defense": "which defense the client runs, and its public parameters",
    "labels": "the true labels",
    "single_updates": "each client's own update, not only an aggregate",
    "choose_state": "the right to choose the weights that the client trains",
}


@dataclass(frozen=True)
class RouteNote:
    """One line of an attack's explanation: a route, whether it was taken, and why or why not."""

    route: str
    taken: bool
    reason: str


@dataclass(frozen=True)
class Outcome:
    """How an attack ended, judged by what the adversary sees.

    Args:
        status: "exact": a closed form, and "converged": a search, of whose result every example is certain (see
            `Certificate`); "budget": not every example is; "diverged": not finite, or further from the observed update
            than an update of zeros; "not_applicable": no route fits.
        route: the name of the way taken.
        residual: relative distance between the observed update and the replayed one; where the weights are withheld,
            between the observed update of the attacked layer and the one its equations give; None if nothing can be
            compared.
        steps: optimization steps, 0 for a closed form.
        seconds: wall time.
        note: a sentence on what limits the result.
    """

    status: Status
    route: str
    residual: float | None
    steps: int
    seconds: float
    note: str = ""
