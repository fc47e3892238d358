"""FedAvg in the shape of FEMNIST, clients simulated by few long steps (`coarse`); the others are in `fedavg`."""

from __future__ import annotations

import fedseal as fs
from benchmarks.fedavg import on_clients

CLIENTS, STEPS = 5, 400


def run(scale: float = 1.0) -> dict[str, object]:
    """Below full scale fewer clients and steps."""
    attack = fs.attack.coarse(steps=max(8, round(STEPS * scale)), labels="dimitrov")
    return on_clients("coarse", attack, max(1, round(CLIENTS * scale)))
