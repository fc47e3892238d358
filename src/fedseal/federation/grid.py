"""Questions and answers as messages of Flower, and a link that sends them through a Flower grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedseal.errors import EngineFailure, FedsealError
from fedseal.federation.flower_environment import flwr
from fedseal.federation.members import Members
from fedseal.federation.packing import ModelState
from fedseal.federation.protocol import LOG, Ask, Member, Reply, known_kind, refusal_kind
from fedseal.secagg import Outgoing, Party
from fedseal.secagg.errors import BadMessage
from fedseal.types import Tensors

T = TypeVar("T")
PART = "fedseal"  # of a message's records
HELLO = "hello"
WAIT = 0.2  # seconds between two looks for nodes
POLL = 0.1  # seconds between two looks for answers
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number
PRESENCE = 2.0  # seconds between two looks whether the nodes that have not answered are still there


class GridLink:
    """Asks parties through a Flower grid.

    Args:
        timeout: seconds after which a party that does not answer counts as gone.
        known: which node a party is, by its public key; None to ask all nodes who they are.
        watch: called while it waits; what it raises ends the run.
    """

    def __init__(
        self,
        grid: Any,
        members: Members,
        timeout: float,
        known: Mapping[bytes, int] | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self._grid, self._timeout = grid, timeout
        self._known, self._watch, self._members = known, watch, members
        self._nodes: dict[int, int] = {}  # by party
        self._greeted: set[int] = set()
        self._meet(lambda: self._everybody <= self._nodes.keys(), timeout)

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        """Answers in the order of the questions."""
        begins = any(ask.step in ("advertise", "train") for ask in asks)
        if begins or self._known is not None:
            self._meet(self._enough, self._timeout if begins else 0.0)
        places = {self._nodes[ask.to]: ask for ask in asks if ask.to in self._nodes}
        models = {id(ask.state): packed_state(ask.state) for ask in asks[:1] if ask.state is not None}
        found = {}
        contents = {node: packed_arrays(ask, models.get(id(ask.state))) for node, ask in places.items()}
        for node, content in self._sent(contents).items():
            found[places[node].to] = reply_of(content)
        for ask in asks:
            if ask.to in found:
                yield ask, found[ask.to]

    @property
    def _everybody(self) -> set[int]:
        return {*self._members.clients, *self._members.aggregators}

    def _enough(self) -> bool:
        """Whether those are there without whom a round cannot end."""
        clients = sum(number in self._nodes for number in self._members.clients)
        all_add = all(number in self._nodes for number in self._members.aggregators)
        return all_add and clients >= (self._members.pact.secure.minimum or 1)

    def _meet(self, done: Callable[[], bool], seconds: float) -> None:
        """Find out who is which node, and wait some time for those who are missing."""
        end = time.monotonic() + seconds
        while True:
            self._watch()
            if self._known is None:
                self._greet()
            else:
                present = {bytes(node.public_key): int(node.node_id) for node in self._grid.get_nodes()}
                self._nodes = {party: present[key] for key, party in self._known.items() if key in present}
            if done() or time.monotonic() > end:
                break
            time.sleep(WAIT)
        if not self._nodes:
            raise EngineFailure("no party answers", "start the nodes, each with its own key")

    def _present(self) -> dict[int, str]:
        """Nodes that are online, and since when where that is known."""
        if self._known is None:
            return dict.fromkeys(self._grid.get_node_ids(), "")
        return {int(node.node_id): str(node.last_activated_at) for node in self._grid.get_nodes()}

    def _greet(self) -> None:
        new = set(self._grid.get_node_ids()) - self._greeted
        for node, content in self._sent({node: greeting() for node in new}).items():
            self._greeted.add(node)
            number = _party_of(content)
            if number not in self._everybody or number in self._nodes:
                LOG.warning("a node says that it is nobody, or somebody who is there already")
                continue
            self._nodes[number] = node

    def _sent(self, contents: dict[int, Any]) -> dict[int, Any]:
        """Contents of the answers, by node. Who goes offline, or starts anew, is not waited for."""
        if not contents:
            return {}
        before = self._present()
        messages = [
            flwr().app.Message(content, dst_node_id=node, message_type="train") for node, content in contents.items()
        ]
        pushed = set(self._grid.push_messages(messages))
        waiting = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
        waiting = {message: node for message, node in waiting.items() if message in pushed}
        answers, end, look = {}, time.monotonic() + self._timeout, time.monotonic() + PRESENCE
        while waiting:
            for message in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(message.metadata.reply_to_message_id, None)
                if message.has_error():
                    LOG.warning("a node fails: Flower's code %s", message.error.code)  # the reason is its own text
                elif node is not None:
                    answers[node] = message.content
            if not waiting or time.monotonic() > end:
                break
            self._watch()
            if time.monotonic() > look:
                present, look = self._present(), time.monotonic() + PRESENCE
                waiting = {
                    message: node
                    for message, node in waiting.items()
                    if node in present and present[node] == before.get(node, present[node])
                }
            time.sleep(POLL)
        return answers


def asks_who(message: Any) -> bool:
    """Whether a message asks who a node is."""
    content = message.content if message.has_content() else {}
    return bool(PART in content and dict(content[PART]).get("step") == HELLO)


def hello(message: Any, number: int) -> Any:
    """The answer to that."""
    app = flwr().app
    return app.Message(app.RecordDict({PART: app.ConfigRecord({"party": str(number)})}), reply_to=message)


def answered(party: Member, message: Any, number: int) -> Any:
    """A party's answer to any other message; a refusal where it cannot be read."""
    try:
        reply = party.answer(ask_of(message.content, number))
    except BadMessage as error:
        LOG.warning("%s refuses a question: %s", Party.of(number), error)
        reply = Reply(refused=refusal_kind(error))
    return refusal_or(reply, message)


def refusal_or(reply: Reply, message: Any) -> Any:
    """A reply as a message."""
    return flwr().app.Message(packed_reply(reply), reply_to=message)


def packed_state(state: Tensors) -> Any:
    """A model as a record."""
    app = flwr().app
    return app.ArrayRecord({name: array_of(tensor) for name, tensor in state.items()})


def packed_arrays(ask: Ask, model: Any = None) -> Any:
    """A question as records.

    Args:
        model: its state as a record, where that was made before; many questions carry the same one.
    """
    app = flwr().app
    facts: dict[str, Any] = {"step": ask.step, "round": ask.round, "size": ask.size, "digest": ask.digest}
    facts["messages"] = [bytes(m) for m in ask.messages]
    records: dict[str, Any] = {PART: app.ConfigRecord(facts)}
    if ask.state is not None:
        records["model"] = packed_state(ask.state) if model is None else model
    return app.RecordDict(records)


def greeting() -> Any:
    """The question who a node is."""
    app = flwr().app
    return app.RecordDict({PART: app.ConfigRecord({"step": HELLO})})


def ask_of(content: Any, number: int) -> Ask:
    """What `packed_arrays` wrote.

    Raises:
        BadMessage: it did not write this.
    """
    with _untrusted("a question"):
        facts, state = dict(content[PART]), None
        if "model" in content:
            state = ModelState({str(name): tensor_of(array) for name, array in content["model"].items()})
        step, round, size = _a(facts["step"], str), _a(facts["round"], int), _a(facts["size"], int)
        messages = tuple(_a(message, bytes) for message in facts["messages"])
        return Ask(number, step, round, size, messages, state, _a(facts["digest"], bytes))


def packed_reply(reply: Reply) -> Any:
    """An answer as records; numbers of parties are too large for Flower's integers."""
    app = flwr().app
    facts = {
        "to": [str(out.to) for out in reply.messages],
        "messages": [bytes(out.message) for out in reply.messages],
        "refused": reply.refused,
    }
    return app.RecordDict({PART: app.ConfigRecord(facts)})


def reply_of(content: Any) -> Reply:
    """What `packed_reply` wrote; the refusal of a bad message, where it did not write this."""
    try:
        with _untrusted("an answer"):
            facts = dict(content[PART])
            pairs = zip(facts["to"], facts["messages"], strict=True)
            messages = tuple(Outgoing(int(_a(to, str)), _a(message, bytes)) for to, message in pairs)
            refused = _a(facts["refused"], str)
    except BadMessage as error:
        LOG.warning("%s", error)
        return Reply(refused=refusal_kind(error))
    return Reply(refused=known_kind(refused)) if refused else Reply(messages)


def _party_of(content: Any) -> int:
    """Who a node says that it is; a number that nobody has, where it says nothing of the kind."""
    try:
        with _untrusted("a greeting"):
            return int(_a(dict(content[PART])["party"], str))
    except BadMessage:
        return -1


@contextmanager
def _untrusted(what: str) -> Iterator[None]:
    """Records that another party made, read by Flower and NumPy, which raise whatever they raise."""
    try:
        yield
    except FedsealError:
        raise
    except Exception as error:  # noqa: BLE001 - of foreign code on foreign bytes
        raise BadMessage(f"{what} that cannot be read ({type(error).__name__})", "run one version everywhere") from None


def _a(value: Any, kind: type[T]) -> T:
    """A value of a record, of that type and no other."""
    if type(value) is not kind:
        raise BadMessage(f"a record with a {type(value).__name__} where a {kind.__name__} is due", "send what was made")
    return value


def array_of(tensor: Tensor) -> Any:
    """A Flower array; of a format that numpy does not know, such as bfloat16, the bits, under the format's name."""
    app, content = flwr().app, tensor.detach().cpu().contiguous()
    try:
        return app.Array(content.numpy())
    except TypeError:
        bits = app.Array(content.view(BITS[content.itemsize]).numpy())
        name = str(content.dtype).removeprefix("torch.")
        return app.Array(dtype=name, shape=bits.shape, stype=bits.stype, data=bits.data)


def tensor_of(array: Any) -> Tensor:
    """The tensor of an array that `array_of` or Flower made, in memory of its own.

    Raises:
        TypeError, ValueError: it holds no numbers.
    """
    return tensor_from(np.asarray(array.numpy()), str(array.dtype))


def tensor_from(content: NDArray[Any], name: str) -> Tensor:
    """Numbers, or bits of a format of that name that numpy does not know.

    >>> tensor_from(np.array([16256, 16384], np.int16), "bfloat16")
    tensor([1., 2.], dtype=torch.bfloat16)

    Raises:
        TypeError: it holds neither.
    """
    found = getattr(torch, name, None)
    wanted = found if isinstance(found, torch.dtype) and found.itemsize == content.dtype.itemsize else None
    if content.dtype.kind == "V" or (wanted and wanted.is_floating_point and content.dtype.kind in "iu"):
        if wanted is None:
            raise TypeError(f"numbers of the format '{name[:40]}'")
        bits = np.dtype(f"i{content.dtype.itemsize}" if content.dtype.itemsize > 1 else "u1")
        return torch.from_numpy(np.array(content).view(bits)).view(wanted)
    return torch.from_numpy(np.array(content, content.dtype.newbyteorder("="), order="C"))
