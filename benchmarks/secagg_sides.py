"""One round of each side of the comparison, timed: ours, Flower's SecAgg+ from its own functions, CKKS by TenSEAL."""

from __future__ import annotations

import contextlib
import importlib
import secrets
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import numpy as np

from benchmarks.measure import spread
from fedseal.secagg import Identity, Ledger, Outgoing, Party, Roster, Terms, masking, sharing
from fedseal.secagg.hazmat import shamir
from fedseal.secagg.hazmat.keys import Public

CKKS_SLOTS = 4096


class Clock:
    """Milliseconds by name: of the wall, and of the processor, which what else runs lengthens less."""

    def __init__(self) -> None:
        self._now: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.wall: dict[str, list[float]] = defaultdict(list)
        self.cpu: dict[str, list[float]] = defaultdict(list)

    def time(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Add the call's time to the name's in this repeat."""
        now, cpu = self._now[name], time.process_time()  # which on some machines takes as long as a small call
        wall = time.perf_counter()
        result = call(*arguments)
        now[0] += 1e3 * (time.perf_counter() - wall)
        now[1] += 1e3 * (time.process_time() - cpu)
        return result

    def lap(self, parts: dict[str, int] | None = None) -> None:
        """End a repeat; a name in `parts` is divided by that many parties."""
        for name, (wall, cpu) in self._now.items():
            count = (parts or {}).get(name, 1)
            self.wall[name].append(wall / count)
            self.cpu[name].append(cpu / count)
        self._now.clear()

    def said(self, name: str) -> str:
        """Medians with intervals."""
        return f"{spread(self.wall[name], 1)} ms of the wall, {spread(self.cpu[name], 1)} ms of the processor"

    def median(self, *names: str) -> float:
        """Of processor time, added."""
        return sum(statistics.median(self.cpu[name]) for name in names)


class Parties:
    """Identities and vectors for so many clients."""

    def __init__(self, clients: int, size: int, aggregators: int = 3, distinct: int | None = None) -> None:
        self.clients = [Identity.fresh() for _ in range(clients)]
        self.aggregators = [Identity.fresh() for _ in range(aggregators)]
        self.opener = Identity.fresh()
        generator = np.random.Generator(np.random.PCG64(0))
        kinds = min(clients, distinct or clients)
        self.vectors = [generator.standard_normal(size, np.float32).clip(-7.9, 7.9) for _ in range(kinds)]
        self.round = 0

    def vector(self, client: int) -> np.ndarray:
        """Of one client."""
        return self.vectors[client % len(self.vectors)]

    def terms(self, protocol: str, **changed: Any) -> Terms:
        """A new round."""
        self.round += 1
        publics = {number: who.public for number, who in enumerate(self.clients)}
        others = tuple(who.public for who in self.aggregators) if protocol == "sharing" else ()
        facts = {"bound": 8.0, "minimum": 3, "size": self.vectors[0].size, "round": self.round} | changed
        return Terms(protocol, Roster(publics, self.opener.public, others), secrets.token_bytes(16), **facts)

    def total(self) -> np.ndarray:
        """In float64."""
        out = np.zeros(self.vectors[0].size)
        for client in range(len(self.clients)):
            out += self.vector(client)
        return out


def every(call: Callable[..., Iterable[Any]], *arguments: Any) -> list[Any]:
    """What the call yields."""
    return list(call(*arguments))


def sharing_round(parties: Parties, clock: Clock, **changed: Any) -> tuple[dict[int, int], np.ndarray]:
    """Uploaded bytes of a client by aggregator, and the opened sum."""
    terms = parties.terms("sharing", **changed)
    held = [sharing.SharingAggregator(terms, place, who) for place, who in enumerate(parties.aggregators)]
    owner, upload, own = sharing.Owner(terms, parties.opener), dict[int, int](), Clock()

    def carry(messages: list[Outgoing]) -> None:
        while messages:
            to, message = messages.pop(0)
            place = Party.of(to).index
            messages += own.time(str(place), held[place].receive, message)

    for number, who in enumerate(parties.clients):
        client = sharing.SharingClient(terms, number, who, Ledger())
        out = clock.time("sharing client", every, client.contribute, parties.vector(number))
        upload = {to: sum(len(raw) for where, raw in out if where == to) for to, _ in out}
        carry(out)
    carry([message for place, party in enumerate(held) for message in own.time(str(place), party.close_intake)])
    sums = [message for place, party in enumerate(held) for message in own.time(str(place), every, party.open)]
    for _, message in sums:
        own.time("owner", owner.receive, message)
    total = own.time("owner", lambda: owner.result().total(np.float32))
    own.lap()
    for name, times in (("wall", own.wall), ("cpu", own.cpu)):
        each = [times[str(place)][0] for place in range(len(held))]
        into = getattr(clock, name)
        into["sharing slowest aggregator and owner"].append(max(each) + times["owner"][0])
        into["sharing aggregators and owner"].append(sum(each) + times["owner"][0])
    return upload, total


def masking_round(
    parties: Parties, clock: Clock, drop: int | None = None, measured: Container[int] | None = None, **changed: Any
) -> tuple[int, np.ndarray]:
    """Uploaded bytes of a client, and the opened sum. Clients that are not measured skip checks and shares."""
    terms = parties.terms("masking", **changed)
    server_name = "masking server" if drop is None else "masking server, one dropped"
    server = masking.Server(terms, parties.opener)
    clients = [masking.MaskingClient(terms, number, who, Ledger()) for number, who in enumerate(parties.clients)]

    def ask(number: int, call: Callable[..., Any], *arguments: Any) -> Any:
        if measured is not None and number not in measured:
            with hurried():
                return call(*arguments)
        return clock.time("masking client", call, *arguments) if drop is None else call(*arguments)

    def deliver(messages: list[Outgoing]) -> None:
        for _, raw in messages:
            clock.time(server_name, server.receive, raw)

    def phase() -> None:
        for to, raw in clock.time(server_name, server.advance):
            deliver(ask(to, clients[to].receive, raw))

    for number, client in enumerate(clients):
        deliver(ask(number, client.advertise))
    phase()
    phase()
    uploaded = 0
    for number, client in enumerate(clients):
        if number == drop:
            continue
        name = "masking client, mask work" if drop is None else "with a drop"
        out = clock.time(name, ask, number, every, client.contribute, parties.vector(number))
        uploaded = sum(len(raw) for _, raw in out)
        deliver(out)
    phase()
    phase()
    return uploaded, clock.time(server_name, server.result).total(np.float32)


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """No signature is checked, and shares are zeros: of a thousand clients in one process, nobody needs them."""
    verify, split = Public.verify, shamir.split_secret
    Public.verify = lambda self, signature, data: None  # type: ignore[method-assign]
    shamir.split_secret = lambda secret, threshold, holders: (bytes(32),) * holders
    try:
        yield
    finally:
        Public.verify, shamir.split_secret = verify, split  # type: ignore[method-assign]


def flower_round(parties: Parties, clock: Clock) -> tuple[int, np.ndarray]:
    """Flower's own functions in its protocol's order: its client's four stages, and what its server does to vectors."""
    from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
    from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares
    from flwr.common.secure_aggregation.quantization import dequantize
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    mod: Any = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    count = len(parties.clients)
    key, clip, target, modulus = mod.Key, 8.0, 4_194_304, 2**32
    configs = {
        key.SAMPLE_NUMBER: count,
        key.SHARE_NUMBER: count,
        key.THRESHOLD: count * 2 // 3 + 1,
        key.CLIPPING_RANGE: clip,
        key.TARGET_RANGE: target,
        key.MOD_RANGE: modulus,
        key.MAX_WEIGHT: 1.0,
    }
    states = {number: mod.SecAggPlusState() for number in range(count)}

    def client(call: Callable[..., Any], *arguments: Any) -> Any:
        return clock.time("flower client", call, *arguments)

    publics = {}
    for number, state in states.items():
        state.nid = number
        reply = client(mod._setup, state, configs)
        publics[str(number)] = [reply[key.PUBLIC_KEY_1], reply[key.PUBLIC_KEY_2]]
    boxes: dict[int, dict[int, bytes]] = defaultdict(dict)
    for number, state in states.items():
        reply = client(mod._share_keys, state, publics)
        for to, box in zip(reply[key.DESTINATION_LIST], reply[key.CIPHERTEXT_LIST], strict=True):
            boxes[to][number] = box
    total: list[Any] = []
    uploaded = 0
    for number, state in states.items():
        told = {key.SOURCE_LIST: list(boxes[number]), key.CIPHERTEXT_LIST: list(boxes[number].values())}
        parameters = ndarrays_to_parameters([parties.vector(number)])
        masked = (client, mod._collect_masked_vectors, state, told, 1, parameters)
        reply = clock.time("flower client, mask work", *masked)[key.MASKED_PARAMETERS]
        uploaded = sum(map(len, reply))

        def add(reply: Any = reply) -> None:
            vectors = [bytes_to_ndarray(raw) for raw in reply]
            total[:] = arithmetic.parameters_addition(total, vectors) if total else vectors

        clock.time("flower server", add)
    total[:] = clock.time("flower server", lambda: arithmetic.parameters_mod(total, modulus))
    told = {key.ACTIVE_NODE_ID_LIST: list(states), key.DEAD_NODE_ID_LIST: []}
    answers = [client(mod._unmask, state, told) for state in states.values()]

    def unmask() -> np.ndarray:
        vectors = list(total)
        for place in range(count):
            seed = combine_shares([answer[key.SHARE_LIST][place] for answer in answers])
            private = pseudo_rand_gen(seed, modulus, arithmetic.get_parameters_shape(vectors))
            vectors = arithmetic.parameters_subtraction(vectors, private)
        weight, vectors = arithmetic.factor_extract(arithmetic.parameters_mod(vectors, modulus))
        (vector,) = dequantize(vectors, clip, target)
        return np.asarray((vector - (count - 1) * clip) * (target * count / weight))

    return uploaded, clock.time("flower server", unmask)


def ckks_round(parties: Parties, clock: Clock) -> tuple[int, np.ndarray]:
    """One upload stands for all. All clients hold the secret key: any of them and the server open everything."""
    import tenseal

    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40])
    context.global_scale = 2**40
    values = parties.vector(0)

    def encrypt() -> list[bytes]:
        starts = range(0, values.size, CKKS_SLOTS)
        return [tenseal.ckks_vector(context, values[at : at + CKKS_SLOTS].tolist()).serialize() for at in starts]

    def add() -> list[Any]:
        sums = [tenseal.ckks_vector_from(context, raw) for raw in upload]
        for _ in range(len(parties.clients) - 1):
            for place, raw in enumerate(upload):
                sums[place] += tenseal.ckks_vector_from(context, raw)
        return sums

    upload = clock.time("ckks client", encrypt)
    sums = clock.time("ckks server", add)
    opened = clock.time("ckks decryption", lambda: np.concatenate([np.array(part.decrypt()) for part in sums]))
    return sum(map(len, upload)), opened
