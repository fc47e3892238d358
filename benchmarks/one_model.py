"""What it costs to hold owners to one model that moves: its digest, and a sketch of it, beside a round of training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.federation import OWNERS, PROTOCOLS, SETTINGS, Setting, trained_with
from fedseal.client import state_of
from fedseal.federation.packing import state_digest, trained_arrays
from fedseal.secagg import Ledger

TIMES = 50


def run(scale: float = 1.0) -> dict[str, object]:
    """Processor time. In one process the digest is worked out once, and on hosts of their own once by every owner."""
    figures: dict[str, object] = {}
    for setting in SETTINGS[:2]:
        figures |= _measured(setting._replace(rounds=max(3, round(setting.rounds * scale))))
    return figures


def _measured(setting: Setting) -> dict[str, object]:
    model, ledger = setting.model(0), Ledger()
    state, name = state_of(model), setting.name
    digest = _seconds(lambda: state_digest(state))
    sketch = _seconds(lambda: ledger.sketch(trained_arrays(model.parameters())))
    figures: dict[str, object] = {
        f"{name}: milliseconds of a digest, of a sketch": f"{1e3 * digest:.2f}, {1e3 * sketch:.2f}"
    }
    for protocol in PROTOCOLS[1:]:
        started = time.process_time()
        trained_with(protocol, setting, 0)
        whole = (time.process_time() - started) / setting.rounds
        shares = (100 * digest / whole, 100 * (OWNERS + 1) * sketch / whole, 100 * OWNERS * digest / whole)
        what = f"a round in ms; % of it: one digest, {OWNERS + 1} sketches, {OWNERS} digests"
        figures[f"{name}, {protocol}: {what}"] = f"{1e3 * whole:.0f}; " + ", ".join(f"{s:.2f}" for s in shares)
    return figures


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(TIMES):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)
