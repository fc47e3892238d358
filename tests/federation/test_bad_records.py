"""Flower's records with something wrong in them: one party's loss at the model owner, a refusal at a party."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from federation.small import federation, gap, net, weights
from federation.test_flower import FakeGrid
from fedseal.federation import flower
from fedseal.federation import grid as carrier
from fedseal.federation.deployment import Place, node
from fedseal.federation.deployment.superlink import SECRET as SECRET_FILE
from fedseal.federation.grid import PART, GridLink
from fedseal.federation.members import Members
from fedseal.federation.protocol import Ask, Link
from fedseal.federation.secure import Secure

BAD = 101  # the node of data owner 1
SECRET = "label 7 of row 3"


@pytest.fixture(autouse=True)
def _in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages can be made in a run only."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def _records(**facts: Any) -> Any:
    from flwr.app import ConfigRecord, RecordDict

    return RecordDict({PART: ConfigRecord(facts)}) if facts else RecordDict()


ANSWERS: dict[str, Callable[[], Any]] = {
    "no record": _records,
    "another record": lambda: _records(x=1),
    "lists of unlike length": lambda: _records(to=["1", "2"], messages=[b"x"], refused=""),
    "numbers as recipients": lambda: _records(to=[1], messages=[b"x"], refused=""),
    "no number": lambda: _records(to=["one"], messages=[b"x"], refused=""),
    "text as message": lambda: _records(to=["1"], messages=["x"], refused=""),
    "no list": lambda: _records(to="1", messages=b"x", refused=""),
    "refused for a number": lambda: _records(to=["1"], messages=[b"x"], refused=3),
    "a text of its own": lambda: _records(to=["1"], messages=[b"x"], refused=SECRET),
}


class _BadGrid(FakeGrid):
    """One node's answers to questions are others."""

    def __init__(self, app: Any, count: int, content: Callable[[], Any], greets: bool) -> None:
        super().__init__(app, count)
        self.content, self.greets = content, greets

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        answers = super().pull_messages(message_ids)
        for message in answers:
            if message.metadata.src_node_id == BAD and ("party" in message.content.get(PART, {})) is self.greets:
                message.content = self.content()
        return answers


@dataclass(frozen=True)
class _OnBadGrid:
    content: Callable[[], Any]
    greets: bool = False

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        count = len(members.clients) + len(members.aggregators)
        grid = _BadGrid(flower.client_app(flower.bare(members)), count, self.content, self.greets)
        serve(GridLink(grid, members, timeout=0.01))


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("protocol", ["plain", "sharing", "masking"])
def test_a_malformed_answer_costs_its_node_alone(protocol: str, answer: str) -> None:
    found = federation(Secure(protocol, minimum=3)).fit(1, engine=_OnBadGrid(ANSWERS[answer]))
    assert (found.history[0].clients, found.history[0].failure) == (3, "")
    assert found.history[0].refused == {"data owner 1": "BadMessage"}
    assert SECRET not in str(found.history)


@pytest.mark.parametrize(
    "greeting",
    [*ANSWERS.values(), lambda: _records(party="0"), lambda: _records(party="99"), lambda: _records(party=0)],
)
def test_a_node_that_is_nobody_or_somebody_else_is_not_asked(greeting: Callable[[], Any]) -> None:
    found = federation(Secure("sharing", minimum=3)).fit(1, engine=_OnBadGrid(greeting, greets=True))
    assert (found.history[0].clients, found.history[0].failure) == (3, "")


def _question(**changed: Any) -> Any:
    facts = {"step": "train", "round": 0, "size": 1, "digest": b"", "messages": [b""]} | changed
    return _records(**{name: value for name, value in facts.items() if value is not None})


def _with_model(array: Any) -> Any:
    from flwr.app import ArrayRecord

    content = _question()
    content["model"] = ArrayRecord({"0.weight": array})
    return content


def _array(dtype: str, shape: tuple[int, ...], data: bytes) -> Any:
    from flwr.app import Array

    return Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=data)


QUESTIONS: dict[str, Callable[[], Any]] = {
    "no record": _records,
    "no step": lambda: _question(step=None),
    "a number for a step": lambda: _question(step=3),
    "a text for a round": lambda: _question(round="0"),
    "a huge round": lambda: _question(round=2**62),
    "a negative size": lambda: _question(size=-1),
    "no digest": lambda: _question(digest=None),
    "text messages": lambda: _question(messages=["x"]),
    "no list of messages": lambda: _question(messages=b"x"),
    "an array of nothing": lambda: _with_model(_array("float32", (3,), b"")),
    "an array that lies": lambda: _with_model(_array("float32", (2**50,), b"\x93NUMPY\x01\x00v\x00{'descr'")),
    "an array of objects": lambda: _with_model(_array("object", (1,), _pickled())),
    "an array of text": lambda: _with_model(_array("<U3", (1,), _saved(np.array(["abc"])))),
}


def _saved(array: Any) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _pickled() -> bytes:
    return _saved(np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("place", [0, 4])
def test_a_malformed_question_is_refused_by_its_kind_and_the_next_one_is_answered(question: str, place: int) -> None:
    from flwr.app import Message

    setup = federation("sharing")
    members = flower.bare(setup.members())
    grid = FakeGrid(flower.client_app(members), 7)
    grid.push_messages([Message(QUESTIONS[question](), dst_node_id=100 + place, message_type="train")])
    (answer,) = grid.pull_messages([])
    assert not answer.has_error()
    assert carrier.reply_of(answer.content).refused in {"BadMessage", "UnfitUpdate", "OutOfPhase", "BadConfig"}
    assert SECRET not in str(answer.content)
    state = {name: tensor.detach() for name, tensor in net().named_parameters()}
    size = sum(map(torch.numel, state.values()))
    step = Ask(0, "train", 1, size, (), state) if place == 0 else Ask(0, "take", 1, size)
    grid.push_messages([Message(carrier.packed_arrays(step), dst_node_id=100 + place, message_type="train")])
    (answer,) = grid.pull_messages([])
    assert carrier.reply_of(answer.content).refused == ""


def test_what_a_node_raises_never_reaches_flower_which_would_send_its_text() -> None:
    """In `flwr run` the server got `str(exception)` of whatever an owner's own code raised."""
    from flwr.app import Message

    members = federation("sharing").members()
    grid = FakeGrid(flower.client_app(flower.bare(members)), 9)  # nobody has the last two places
    grid.push_messages([Message(_question(), dst_node_id=108, message_type="train")])
    (answer,) = grid.pull_messages([])
    assert carrier.reply_of(answer.content).refused == "BadConfig"
    assert "partition" not in str(answer.content)


def test_a_good_grid_is_as_ever() -> None:
    found = federation("sharing").fit(1, engine=_OnBadGrid(lambda: _records(party="1"), greets=True))
    assert gap(weights(found), weights(federation("sharing").fit(1))) == 0


class _Tasks:
    """Hands out tasks as a SuperNode's runtime, and ends after the last."""

    def __init__(self, count: int) -> None:
        self.left = count

    def AcquireTask(self, request: object) -> Any:  # noqa: N802 - Flower's name
        self.left -= 1
        return SimpleNamespace(token=f"task {self.left}")

    def close(self) -> None: ...


def test_a_process_answers_the_next_message_whatever_the_last_one_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tasks, answered = _Tasks(3), list[str]()

    def answer(address: str, secret: bytes, token: str, party: object, number: int) -> None:
        answered.append(token)
        if len(answered) < 3:
            raise [KeyError(f"\x1b[2J{SECRET}"), RuntimeError("no")][len(answered) - 1]

    def runs(self: object) -> bool:
        return len(answered) < 3

    monkeypatch.setattr(node, "runtime", lambda address, secret: tasks)
    monkeypatch.setattr(node, "_answer", answer)
    monkeypatch.setattr(node, "POLL", 0.0)
    monkeypatch.setattr(node, "LOOK", 0.0)
    child = type("Ended", (), {"runs": property(runs), "log_tail": lambda self: ""})()
    (tmp_path / SECRET_FILE).write_bytes(b"x")
    place = cast(Place, SimpleNamespace(work=tmp_path, who="data owner 0", number=0))
    party = federation("plain").members().party(0)
    assert node.serve(place, child, 1, party, lambda line: None) is False
    assert len(answered) == 3
    assert caplog.text.count("cannot be answered") == 2
    assert "\x1b" not in caplog.text
