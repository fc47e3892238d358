"""Secure sums: `sharing` and `masking` beside Flower's SecAgg+ and CKKS by TenSEAL, on the same vectors in one run."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.before import BEFORE, both, said
from benchmarks.secagg_sides import Clock, Parties, ckks_round, flower_round, masking_round, sharing_round
from fedseal.secagg import Ledger, Outgoing, Party, aggregator, masking, sharing

CLIENTS, SIZE, REPEATS = 10, 1_000_000, 9
MEMORY_SIZE = 100_000_000
MEASURED = 5  # clients among many: the others leave out what only costs time
SINCE = """
import time
from benchmarks.secagg_sides import Clock, Parties, masking_round, sharing_round

parties = Parties({clients}, {size})


class Wall(Clock):  # alike on both sides, and alone: reading the processor's clock takes as long as a small call
    def time(self, name, call, *arguments):
        start = time.perf_counter()
        result = call(*arguments)
        self._now[name][0] += 1e3 * (time.perf_counter() - start)
        return result


def measure(turn):
    clock = Wall()
    sharing_round(parties, clock)
    masking_round(parties, clock)
    masking_round(parties, clock, drop=0)
    clock.lap({{name: {clients} for name in ("sharing client", "masking client", "masking client, mask work")}})
    return {{name: values[0] for name, values in clock.wall.items() if name != "with a drop"}}
"""
ROLES = ("client", "aggregator", "owner", "masking client", "masking server")


def run(scale: float = 1.0) -> dict[str, object]:
    """All figures."""
    size, repeats = max(20_000, round(SIZE * scale)), max(3, round(REPEATS * scale))
    parties, clock = Parties(CLIENTS, size), Clock()
    sums: dict[str, Any] = {}
    for _ in range(repeats):
        sums["sharing"] = sharing_round(parties, clock)
        clock.lap({"sharing client": CLIENTS})
        sums["masking"] = masking_round(parties, clock)
        clock.lap({"masking client": CLIENTS, "masking client, mask work": CLIENTS})
        sums["dropped"] = masking_round(parties, clock, drop=0)
        clock.lap()
        sums["flower"] = flower_round(parties, clock)
        clock.lap({"flower client": CLIENTS, "flower client, mask work": CLIENTS})
    for _ in range(max(1, repeats // 3)):
        sums["ckks"] = ckks_round(parties, clock)
        clock.lap()
    figures = _compared(clock, sums, parties, size)
    return figures | _since(size, 2 * repeats) | _growth(scale) | _memory(scale)


def _since(size: int, turns: int) -> dict[str, object]:
    """The same rounds at an earlier commit, turn by turn."""
    with tempfile.TemporaryDirectory() as folder:
        now, then = both(SINCE.format(clients=CLIENTS, size=size), turns, Path(folder))
    return {
        f"{name}, {CLIENTS} clients, {size:,} float32: ms of the wall now; at {BEFORE}; ratio": said(
            now[name], then[name], 1
        )
        for name in now
    }


def _compared(clock: Clock, sums: dict[str, Any], parties: Parties, size: int) -> dict[str, object]:
    truth = parties.total()
    upload, found = sums["sharing"]
    first, seeds = upload[aggregator(0)], max(upload[aggregator(1)], upload[aggregator(2)])
    masked, answered = sums["masking"]
    what = f"{CLIENTS} clients, {size:,} float32"
    ours = ("masking client", "masking server")
    flower = ("flower client", "flower server")
    ckks = ("ckks client", "ckks server")
    dropped = sums["dropped"][1] - (truth - parties.vector(0))
    return {
        f"sharing, {what}: a client": clock.said("sharing client"),
        "sharing: slowest of 3 aggregators and the owner": clock.said("sharing slowest aggregator and owner"),
        "sharing: all 3 aggregators and the owner, added": clock.said("sharing aggregators and owner"),
        "sharing: upload of a client": f"{first / 1e6:.3f} MB to one aggregator, {seeds} bytes to each other",
        "sharing: largest error of the sum": f"{np.abs(found - truth).max():.1e}",
        f"masking, {what}: a client's mask work": clock.said("masking client, mask work"),
        "masking: a client, all phases": clock.said("masking client"),
        "masking: server, all phases": clock.said("masking server"),
        "masking: server with one client dropped after sharing keys": clock.said("masking server, one dropped"),
        "masking: upload of a client": f"{masked / 1e6:.3f} MB",
        "masking: largest error of the sum, and with a drop": (
            f"{np.abs(answered - truth).max():.1e}, {np.abs(dropped).max():.1e}"
        ),
        "Flower 1.41.0 SecAgg+, all neighbors: a client's mask work": clock.said("flower client, mask work"),
        "Flower SecAgg+: a client, all phases": clock.said("flower client"),
        "Flower SecAgg+: server": clock.said("flower server"),
        "Flower SecAgg+: upload of a client, largest error": (
            f"{sums['flower'][0] / 1e6:.3f} MB, {np.abs(sums['flower'][1] - truth).max():.1e}"
        ),
        "CKKS by TenSEAL, 8192 [60, 40, 40]: a client's encryption": clock.said("ckks client"),
        "CKKS: server": clock.said("ckks server"),
        "CKKS: decryption by a client": clock.said("ckks decryption"),
        "CKKS: upload of a client, largest error": (
            f"{sums['ckks'][0] / 1e6:.1f} MB, {np.abs(sums['ckks'][1] - CLIENTS * parties.vector(0)).max():.1e}"
        ),
        "ratio: Flower to masking, client, server (processor time)": (
            f"{clock.median(flower[0]) / clock.median(ours[0]):.1f}, "
            f"{clock.median(flower[1]) / clock.median(ours[1]):.1f}"
        ),
        "ratio: CKKS to masking, client, server, a client and the server (processor time)": (
            f"{clock.median(ckks[0]) / clock.median(ours[0]):.0f}, "
            f"{clock.median(ckks[1]) / clock.median(ours[1]):.0f}, "
            f"{clock.median(*ckks) / clock.median(*ours):.0f}"
        ),
        "ratio: CKKS to sharing, client, slowest aggregator and owner (processor time)": (
            f"{clock.median(ckks[0]) / clock.median('sharing client'):.0f}, "
            f"{clock.median(ckks[1]) / clock.median('sharing slowest aggregator and owner'):.0f}"
        ),
    }


def _growth(scale: float) -> dict[str, object]:
    """More clients, shorter vectors: what each of them and the server pay."""
    figures: dict[str, object] = {}
    size = max(10_000, round(100_000 * scale))
    for clients in (10, 100, 1000) if scale >= 1 else (10, 100):
        parties, clock = Parties(clients, size, distinct=10), Clock()
        _, found = sharing_round(parties, clock)
        clock.lap({"sharing client": clients})
        worst = np.abs(found - parties.total()).max() / clients
        figures[
            f"sharing, {clients} clients, {size:,} entries: processor ms of a client, of the slowest aggregator"
        ] = (
            f"{clock.median('sharing client'):.1f}, {clock.median('sharing slowest aggregator and owner'):.0f} "
            f"with the owner (error of the mean {worst:.0e})"
        )
        degree = masking.degree_for(clients, corrupt=0.05, dropping=0.05) if clients > 10 else 0
        clock = Clock()
        _, found = masking_round(parties, clock, measured=range(MEASURED), degree=degree)
        clock.lap({"masking client": MEASURED})
        worst = np.abs(found - parties.total()).max() / clients
        figures[f"masking, {clients} clients, {size:,} entries: processor ms of a client, of the server"] = (
            f"{clock.median('masking client'):.1f}, {clock.median('masking server'):.0f} "
            f"(each draws {degree or clients - 1} holders, error of the mean {worst:.0e})"
        )
    return figures


def _memory(scale: float) -> dict[str, object]:
    """Peak memory of each role in a process of its own, beside the vector's size."""
    size = round(MEMORY_SIZE * min(1.0, scale))
    figures: dict[str, object] = {}
    for role in ROLES:
        command = [sys.executable, "-m", "benchmarks.secagg", role, str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, seconds = map(float, done.stdout.split())
        figures[f"memory, {size:,} float32 ({4 * size / 1e6:.0f} MB): peak of the {role}"] = (
            f"{peak / 1e6:.0f} MB, {peak / 4 / size:.2f} of the vector; {seconds:.1f} s"
        )
    return figures


def measure_memory(role: str, size: int) -> None:
    """Print the peak above what the imports took, in bytes, and seconds. Others' vectors are one number repeated."""
    parties = Parties(3, 8, aggregators=2)
    repeated = np.broadcast_to(np.float32(0.5), (size,))
    parties.vectors = [repeated]
    base, started = _peak(), time.perf_counter()
    mine = np.full(size, 0.25, np.float32) if role.endswith("client") else repeated
    (_masking_alone if role.startswith("masking") else _sharing_alone)(role, parties, mine)
    print(_peak() - base, time.perf_counter() - started)


def _peak() -> int:
    """Bytes. Of `ru_maxrss` a new process inherits its parent's, so that a small one would seem to take nothing."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _sharing_alone(role: str, parties: Parties, mine: np.ndarray) -> None:
    terms = parties.terms("sharing", minimum=2)
    held = [sharing.SharingAggregator(terms, place, who) for place, who in enumerate(parties.aggregators)]
    for number in range(2):
        client = sharing.SharingClient(terms, number, parties.clients[number], Ledger())
        for to, raw in client.contribute(mine):
            if role != "client":
                held[Party.of(to).index].receive(raw)
        if role == "client":
            return
    pending = [message for party in held for message in party.close_intake()]
    while pending:
        to, raw = pending.pop(0)
        pending += held[Party.of(to).index].receive(raw)
    if role == "aggregator":
        for _ in held[0].open():
            pass
        return
    with tempfile.TemporaryFile() as line:  # so that the aggregators are gone before the owner comes
        while held:
            for _, raw in held.pop().open():
                line.write(len(raw).to_bytes(8, "little") + raw)
        line.seek(0)
        owner = sharing.Owner(terms, parties.opener)
        while length := line.read(8):
            owner.receive(line.read(int.from_bytes(length, "little")))
    assert owner.result().taken()[0] == 0.5


def _masking_alone(role: str, parties: Parties, mine: np.ndarray) -> None:
    terms = parties.terms("masking", minimum=2)
    server = masking.Server(terms, parties.opener)
    clients = [masking.MaskingClient(terms, number, who, Ledger()) for number, who in enumerate(parties.clients)]

    def answers() -> list[Outgoing]:
        return [message for to, raw in server.advance() for message in clients[to].receive(raw)]

    for client in clients:
        server.receive(client.advertise()[0].message)
    for message in answers():
        server.receive(message.message)
    answers()
    for client in clients:
        for message in client.contribute(mine):
            if role == "masking server":
                server.receive(message.message)
        if role == "masking client":
            return
    for _ in range(2):
        for message in answers():
            server.receive(message.message)
    assert server.result().weight == 3


if __name__ == "__main__":
    measure_memory(sys.argv[1], int(sys.argv[2]))
