"""Flower's records and grids, without a Flower run; `tests/engines/test_flower.py` has those."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from federation.small import STEPS, federation, gap, net, weights
from fedseal.errors import BadConfig, EngineFailure, StorageFailure
from fedseal.federation import DataOwner, Federation, ModelOwner, View, flower, recorded
from fedseal.federation import grid as carrier
from fedseal.federation.flower_environment import quiet
from fedseal.federation.grid import GridLink
from fedseal.federation.keys import StoredKeys, read_identity
from fedseal.federation.members import Members
from fedseal.federation.owners import gradient_step
from fedseal.federation.packing import state_digest
from fedseal.federation.protocol import Ask, Link, Reply
from fedseal.secagg import SERVER, Outgoing, Party, aggregator
from fedseal.types import Batch, LocalTraining


class FakeGrid:
    """Calls a ClientApp for every node in this process; some nodes are deaf, and answers come in reverse order."""

    def __init__(self, app: Any, count: int, deaf: Iterable[int] = ()) -> None:
        from flwr.app import Context, RecordDict

        self.app, self.deaf = app, set(deaf)
        self.contexts = {
            100 + place: Context(1, 100 + place, {"partition-id": place}, RecordDict(), {}) for place in range(count)
        }
        self.name = "fake"

    def get_node_ids(self) -> list[int]:
        return [node for node in self.contexts if node not in self.deaf]

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        self.pushed = list(messages)
        for count, message in enumerate(self.pushed):
            message.metadata.__dict__["_message_id"] = f"m{count}"
        return [message.metadata.message_id for message in self.pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        from flwr.supercore.task_identity import TaskIdentity

        answers = []
        for message in self.pushed:
            node = message.metadata.dst_node_id
            TaskIdentity.node_id = node
            if node not in self.deaf:
                answers.append(self.app(message, self.contexts[node]))
        return answers[::-1]

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        return self.pull_messages(self.push_messages(messages))


@dataclass(frozen=True)
class OnFakeGrid:
    deaf: tuple[int, ...] = ()

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        count = len(members.clients) + len(members.aggregators)
        grid = FakeGrid(flower.client_app(flower.bare(members)), count, self.deaf)
        serve(GridLink(grid, members, timeout=0.01))


@pytest.fixture(autouse=True)
def _in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages can be made in a run only."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.mark.parametrize("protocol", ["plain", "sharing", "masking"])
def test_parties_behind_a_grid_give_the_same_model_bit_for_bit(protocol: str) -> None:
    here, there = federation(protocol).fit(2), federation(protocol).fit(2, engine=OnFakeGrid())
    assert gap(weights(here), weights(there)) == 0
    traffic = [(report.uploaded, report.downloaded, report.relayed) for report in here.history]
    assert traffic == [(report.uploaded, report.downloaded, report.relayed) for report in there.history]


def test_a_node_that_never_answers_is_not_in_the_sum() -> None:
    found = federation("masking").fit(1, engine=OnFakeGrid(deaf=(102,)))
    assert (found.history[0].clients, found.history[0].failure) == (3, "")
    with pytest.raises(EngineFailure, match="no party answers"):
        federation("masking").fit(1, engine=OnFakeGrid(deaf=tuple(range(100, 104))))


def test_answers_come_in_the_order_of_the_questions() -> None:
    """On which a plain sum depends, since adding floating-point numbers in another order gives other last bits."""
    members = federation("plain").members()
    link = GridLink(FakeGrid(flower.client_app(flower.bare(members)), 4), members, timeout=0.01)
    asks = [Ask(number, "train", 0, 0) for number in (2, 0, 3, 1)]
    assert [ask.to for ask, _ in link.ask(asks)] == [2, 0, 3, 1]


class Keyed(FakeGrid):
    """Nodes that are known by their keys, of whom some do not answer and one is a stranger."""

    def __init__(self, members: Members, mute: tuple[int, ...] = ()) -> None:
        super().__init__(flower.client_app(flower.bare(members)), 4)
        self.mute, self.looks = mute, 0
        self.away = dict.fromkeys(self.contexts, 0)  # looks until it is there
        self.known = {f"key {number}".encode(): number - 100 for number in self.contexts}

    def get_nodes(self) -> list[Any]:
        self.looks += 1
        found = [
            SimpleNamespace(node_id=number, public_key=f"key {number}".encode(), last_activated_at=self.since(number))
            for number in self.contexts
            if self.looks > self.away[number]
        ]
        return [*found, SimpleNamespace(node_id=7, public_key=b"a stranger's", last_activated_at="1")]

    def since(self, number: int) -> str:
        return "1"

    def get_node_ids(self) -> list[int]:
        raise AssertionError("nodes without their keys")

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        self.deaf = set(self.mute)
        found, self.pushed = super().pull_messages(message_ids), []
        return found


def steps(link: GridLink, *numbers: int) -> list[int]:
    return [ask.to for ask, _ in link.ask([Ask(number, "train", 0, 0) for number in numbers])]


def test_nodes_are_known_by_their_keys_and_strangers_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "WAIT", 0.0)
    members = federation("plain").members()
    grid = Keyed(members)
    grid.away = {number: 3 * (number - 100) for number in grid.contexts}  # they come one after the other
    link = GridLink(grid, members, 60.0, grid.known)
    assert grid.looks == 10
    assert steps(link, 3, 1) == [3, 1]


def test_who_is_missing_is_waited_for_while_no_round_could_end_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "WAIT", 0.0)
    members = federation("plain").members()
    assert members.pact.secure.minimum == 3
    grid = Keyed(members)
    link = GridLink(grid, members, 60.0, grid.known)
    grid.looks, grid.away = 0, {100: 99, 101: 50, 102: 0, 103: 0}
    assert steps(link, 0, 1, 2, 3) == [1, 2, 3]  # the fourth is not waited for
    assert 51 <= grid.looks < 99


@pytest.mark.parametrize("fate", ["gone", "anew"])
def test_who_is_gone_or_starts_anew_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, fate: str) -> None:
    for name in ("WAIT", "POLL", "PRESENCE"):
        monkeypatch.setattr(carrier, name, 0.0)
    members = federation("plain").members()

    class Fated(Keyed):
        def get_nodes(self) -> list[Any]:
            found = super().get_nodes()
            return [node for node in found if fate != "gone" or node.node_id != 102 or self.looks < 9]

        def since(self, number: int) -> str:
            return "2" if fate == "anew" and number == 102 and self.looks >= 9 else "1"

    grid = Fated(members, mute=(102,))
    link = GridLink(grid, members, 5.0, grid.known)
    assert steps(link, 0, 1, 2, 3) == [0, 1, 3]
    assert grid.looks == 9


def test_what_the_engine_sees_meanwhile_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "WAIT", 0.0)
    members = federation("plain").members()
    grid = Keyed(members, mute=(101,))

    def watch() -> None:
        if grid.looks > 3:
            raise KeyboardInterrupt

    grid.away[103] = 2
    link = GridLink(grid, members, 5.0, grid.known, watch)
    with pytest.raises(KeyboardInterrupt):
        steps(link, 0, 1)


def test_questions_and_answers_survive_the_records() -> None:
    state = weights(net()) | {"count": torch.tensor(3)}
    ask = Ask(7, "train", 2, 11, (b"", b"\x00\xff"), state)
    back = carrier.ask_of(carrier.packed_arrays(ask), 7)
    assert (back.to, back.step, back.round, back.size, back.messages) == (7, "train", 2, 11, (b"", b"\x00\xff"))
    assert back.state is not None
    assert gap(dict(back.state), state) == 0
    assert {tensor.dtype for tensor in back.state.values()} == {torch.float32, torch.int64}
    for reply in (Reply(), Reply((Outgoing(aggregator(1), b"x"), Outgoing(SERVER, b""))), Reply(refused="UnfitUpdate")):
        assert carrier.reply_of(carrier.packed_reply(reply)) == reply


def test_nothing_reaches_out() -> None:
    quiet()
    assert {os.environ[name] for name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED")} == {"0"}
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_a_node_of_another_number_is_refused() -> None:
    members = federation("sharing").members()
    with pytest.raises(BadConfig, match="partition 7 of 7 parties"):
        flower._number(members, {"partition-id": 7})
    assert flower._number(members, {"partition-id": 4}) == aggregator(0)


def test_keys_in_files(tmp_path: Path) -> None:
    setup, folder = federation("sharing"), tmp_path / "keys"
    keys = StoredKeys.at(folder, setup.secure, 4)
    again = StoredKeys.at(folder, setup.secure, 4)
    assert keys == again
    assert keys.pact == again.pact
    for number in (0, aggregator(2), SERVER):
        assert (folder / Party.of(number).key_file).stat().st_mode & 0o77 == 0
        assert keys.identity(number).public in {
            *keys.pact.roster.clients.values(), *keys.pact.roster.aggregators, keys.pact.roster.opener
        }  # fmt: skip
    found = setup.fit(1, members=setup.members_of(keys), engine=OnFakeGrid())
    assert gap(weights(found), weights(setup.fit(1, members=setup.members_of(keys)))) == 0
    assert gap(weights(found), weights(setup.fit(1))) > 0, "draws are by the owners' own keys"
    (folder / "client-0.key").unlink()
    with pytest.raises(StorageFailure, match="no key"):
        keys.identity(0)
    (folder / "client-1.key").write_text('{"version": 1}')
    with pytest.raises(StorageFailure, match="is no key"):
        read_identity(folder / "client-1.key")
    with pytest.raises(BadConfig, match="another federation's"):
        StoredKeys.at(folder, federation("masking").secure, 4)
    with pytest.raises(BadConfig, match="another federation's"):
        StoredKeys.at(folder, setup.secure, 5)
    (folder / "pact.json").write_text("{}")
    with pytest.raises(StorageFailure, match="no pact"):
        StoredKeys.at(folder, setup.secure, 4)


def test_apps_for_a_run_of_ones_own(tmp_path: Path) -> None:
    saved = tmp_path / "model.safetensors"
    server, client = federation("sharing").apps(tmp_path / "keys", rounds=2, save=saved, timeout=0.01)
    from flwr.app import Context, RecordDict

    server(FakeGrid(client, 7), Context(1, 0, {}, RecordDict(), {"rounds": 1}))
    setup = federation("sharing")
    members = setup.members_of(StoredKeys.at(tmp_path / "keys", setup.secure, 4))
    assert gap(load_file(saved), weights(setup.fit(1, members=members))) == 0
    drawing = federation("sharing", rule=gradient_step(2))
    with pytest.raises(BadConfig, match="nobody could audit a record"):
        drawing.apps(tmp_path / "keys", record=tmp_path / "seen")


def _own_app(gain: float) -> Any:
    """A ClientApp as a user writes it: it answers with its weights."""
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Any, context: Any) -> Any:
        place = int(context.node_config["partition-id"])
        arrays = {
            name: Array(np.asarray(array.numpy() + gain + place).astype(array.numpy().dtype))
            for name, array in message.content["arrays"].items()
        }
        records: dict[str, Any] = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 5 + place})}
        return Message(RecordDict(records), reply_to=message)

    return app


@pytest.mark.parametrize("way", ["send", "push"])
def test_one_line_records_a_server_of_ones_own(tmp_path: Path, way: str) -> None:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

    below = FakeGrid(_own_app(0.5), 2)
    grid = recorded(below, tmp_path, rounds={2, 3}, training=LocalTraining.fedavg(lr=0.1))
    assert grid.name == "fake"
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    arrays = {name: Array(tensor.numpy()) for name, tensor in model.state_dict().items()}
    for round in (1, 2):
        content: dict[str, Any] = {"arrays": ArrayRecord(arrays), "config": ConfigRecord({"server-round": round})}
        asks = [Message(RecordDict(content), dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
        replies = (
            grid.send_and_receive(asks, timeout=1) if way == "send" else grid.pull_messages(grid.push_messages(asks))
        )
        assert len(replies) == 2
    view = View.load(tmp_path)
    assert {entry.round for entry in view.entries} == {2}
    assert len(view.of(2, "weights")) == 2
    for entry in view.of(2, "weights"):
        update, place = view.update(entry), int(entry.sender) - 100
        assert set(update.tensors) == {"0.weight", "0.bias", "1.weight", "1.bias"}
        assert all(torch.allclose(tensor, torch.tensor(0.5 + place)) for tensor in update.tensors.values())
        assert update.buffers is not None
        assert torch.allclose(update.buffers["1.running_var"], torch.tensor(1.5 + place))
        assert (update.kind, update.num_examples) == ("difference", 5 + place)
        assert update.training == LocalTraining.fedavg(lr=0.1)
    assert gap(view.state(2), dict(model.state_dict())) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_arrays_hold_every_format(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.arange(6).to(dtype)[: math.prod(shape)].reshape(shape)
    array = carrier.array_of(tensor)
    found = carrier.tensor_of(array)
    assert (found.dtype, found.shape) == (dtype, tensor.shape)
    assert state_digest({"": found}) == state_digest({"": tensor})


def test_numbers_of_no_format_are_refused() -> None:
    with pytest.raises(TypeError, match="format 'words'"):
        carrier.tensor_from(np.zeros(3, "V3"), "words")


def test_a_model_in_bfloat16_trains_behind_a_grid_as_in_one_process() -> None:
    def trained(**engine: Any) -> dict[str, Any]:
        found = federation("sharing")
        found.model_owner.model.bfloat16()
        parts = [owner.build_data() for owner in found.data_owners]
        rows = [Batch(part.inputs.bfloat16(), part.labels) for part in parts]
        owners = [DataOwner.holding(batch, STEPS) for batch in rows]
        return weights(Federation(ModelOwner(found.model_owner.model), owners, "sharing").fit(2, **engine))

    here, there = trained(), trained(engine=OnFakeGrid())
    assert {tensor.dtype for tensor in here.values()} == {torch.bfloat16}
    assert gap(here, there) == 0


def _exchanged(folder: Path, sent: dict[str, Any], answer: Callable[[Any], dict[str, Any]], **facts: Any) -> list[Any]:
    """Two rounds in which a server sends array records and a client answers with some."""
    from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Any, context: Any) -> Any:
        return Message(RecordDict(answer(message.content)), reply_to=message)

    grid = recorded(FakeGrid(app, 1), folder, **facts)
    for round in (1, 2):
        records = {name: ArrayRecord(arrays) for name, arrays in sent.items()}
        content: dict[str, Any] = {**records, "config": ConfigRecord({"server-round": round})}
        grid.send_and_receive([Message(RecordDict(content), dst_node_id=100, message_type="train")])
    return list(View.load(folder).entries) if (folder / "view.json").exists() else []


def _tensors(value: float) -> dict[str, Any]:
    return {"weight": torch.full((2, 3), value), "bias": torch.full((2,), value)}


def test_a_second_record_of_the_same_names_is_not_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As SCAFFOLD sends them: the model, and beside it what a client corrects its steps by."""
    from flwr.app import ArrayRecord

    def answer(content: Any) -> dict[str, Any]:
        return {"arrays": ArrayRecord(_tensors(2.5)), "control": ArrayRecord(_tensors(9.0))}

    entries = _exchanged(tmp_path, {"arrays": _tensors(2.0), "control": _tensors(7.0)}, answer)
    assert len(entries) == 2
    view = View.load(tmp_path)
    assert all(float(t.sub(0.5).abs().max()) == 0 for e in entries for t in view.update(e).tensors.values())
    assert float(view.state(1)["bias"][0]) == 2.0
    assert caplog.text.count("an answer has array records 'control' beside the model") == 1


def test_which_of_several_records_is_the_model_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from flwr.app import ArrayRecord

    def answer(content: Any) -> dict[str, Any]:
        return {"head": ArrayRecord(_tensors(9.0)), "body": ArrayRecord(_tensors(2.5))}

    sent = {"body": _tensors(2.0), "head": _tensors(7.0)}
    assert not _exchanged(tmp_path / "one", sent, answer)
    assert "array records 'body', 'head'; name the model's: recorded(..., arrays=...)" in caplog.text
    (entry, _) = _exchanged(tmp_path / "other", sent, answer, arrays="head")
    assert float(View.load(tmp_path / "other").update(entry).tensors["bias"][0]) == 2.0


def test_what_a_client_keeps_to_itself_is_left_out_of_its_update(tmp_path: Path) -> None:
    from flwr.app import ArrayRecord

    def answer(content: Any) -> dict[str, Any]:
        return {"arrays": ArrayRecord({"weight": _tensors(2.5)["weight"]})}

    (entry, _) = _exchanged(tmp_path, {"arrays": _tensors(2.0)}, answer)
    assert View.load(tmp_path).update(entry).tensors.keys() == {"weight"}
    assert View.load(tmp_path).state(1).keys() == {"weight", "bias"}


def test_arrays_that_are_no_numbers_are_said_and_end_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from flwr.app import Array, ArrayRecord

    def answer(content: Any) -> dict[str, Any]:
        return {"arrays": ArrayRecord({"weight": Array(dtype="float32", shape=(2, 3), stype="own", data=b"\x00")})}

    assert not _exchanged(tmp_path, {"arrays": _tensors(2.0)}, answer)
    assert caplog.text.count("'weight' holds no numbers that can be read") == 1


@pytest.mark.parametrize(
    ("written", "count"), [(5, 5), (5.0, 5), (5.5, None), (float("nan"), None), ([5], None), (0, None)]
)
def test_a_number_of_examples_is_one_or_is_not_known(tmp_path: Path, written: Any, count: int | None) -> None:
    from flwr.app import ArrayRecord, MetricRecord

    def answer(content: Any) -> dict[str, Any]:
        return {"arrays": ArrayRecord(_tensors(2.5)), "metrics": MetricRecord({"num-examples": written})}

    (entry, _) = _exchanged(tmp_path, {"arrays": _tensors(2.0)}, answer)
    assert entry.weight == count
