"""`fedseal train --deploy` and `fedseal join`, as far as they start no process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cli.conftest import Command
from cli.test_train import arrays
from fedseal.cli import deployment
from fedseal.errors import BadConfig, StorageFailure, UnfitBatch
from fedseal.federation.deployment import place
from fedseal.federation.deployment.folder import places
from fedseal.federation.federation import Calls
from fedseal.federation.members import Members
from fedseal.federation.protocol import Link
from fedseal.setup.deployment import PartySpec

# all examples at once, since what owners draw they draw by their own keys
QUICK = ("--owners", "3", "--model", "zoo:mlp:widths=[8]", "--batch-size", "500", "--aggregators", "2")


@dataclass(frozen=True)
class Apart:
    """All parties in this process, each made of nothing but its own folder."""

    root: Path

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        parties = {}
        for own in places(self.root)[1:]:
            federation = PartySpec.of(dict(own.training)).federation(own)
            parties[own.number] = federation.members_of(own.keys).party(own.number)
        serve(Calls(parties))


def trained(root: Path) -> dict[str, torch.Tensor]:
    owner = place(root / "model-owner")
    training = PartySpec.of(dict(owner.training))
    federation = training.federation(owner)
    found = federation.fit(training.rounds, engine=Apart(root), members=federation.members_of(owner.keys))
    assert all(report.validation for report in found.history)
    return dict(found.model.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("protocol", ["sharing", "masking"])
def test_parties_who_have_their_folders_only_train_the_same_model(
    fedseal: Command, tmp_path: Path, protocol: str
) -> None:
    usual = QUICK if protocol == "sharing" else QUICK[: QUICK.index("--aggregators")]
    options = [*usual, "--rounds", "2", "--protocol", protocol, "--split", "dirichlet:0.5"]
    if protocol == "masking":
        options += ["--validation", arrays(tmp_path / "held.npz", side=28).name]
    answer = fedseal("train", "--deploy", "all", *options)
    assert answer.code == 0, answer.err
    count = 6 if protocol == "sharing" else 4
    first, second = answer.out.splitlines()
    assert first == f"all has a folder for each of {count} parties; all/README.md says who gets which"
    assert second == "to try it on this machine: fedseal join all --loopback"
    assert fedseal("train", *options, "--save", "here.st", "-q").code == 0
    assert same(trained(tmp_path / "all"), load_file(tmp_path / "here.st"))


def own_data(tmp_path: Path) -> list[str]:
    names = [arrays(tmp_path / f"{number}.npz", count=6 + number, seed=number).name for number in range(3)]
    return [part for name in names for part in ("--data", name)]


def test_owners_with_data_of_their_own(fedseal: Command, tmp_path: Path) -> None:
    data = own_data(tmp_path)
    options = ["--validation", "0.npz", "--rounds", "2", "--batch-size", "500", "--aggregators", "2"]
    assert fedseal("train", "--deploy", "all", *data, *options).code == 0
    for own in places(tmp_path / "all"):
        named = own.training["own"]
        expected = {0: "0.npz", 1: "1.npz", 2: "2.npz"}.get(own.number)
        if expected is not None:
            assert named == str(tmp_path / expected)  # and nobody else's
        assert json.dumps(own.training).count(".npz") == (0 if named is None else 1)
    assert fedseal("train", *data, *options, "--save", "here.st", "-q").code == 0
    assert same(trained(tmp_path / "all"), load_file(tmp_path / "here.st"))


def test_data_that_is_on_other_hosts(fedseal: Command, tmp_path: Path) -> None:
    away = ["--data", "/srv/a.npz", "--data", "/srv/b.npz"]
    complaint = fedseal("train", "--deploy", "all", *away, "--shape", "1,6,6").complaint
    assert "'/srv/a.npz' is not on this machine, and --classes and --examples must say" in complaint
    said = ["--shape", "1,6,6", "--classes", "3", "--examples", "9", "--rounds", "1", "--aggregators", "2"]
    assert fedseal("train", "--deploy", "all", *away, *said, "--epochs", "1").code == 0
    own = place(tmp_path / "all" / "owner-1")
    assert own.training["own"] == "/srv/b.npz"
    assert own.pact.secure.max_weight == 9
    with pytest.raises(StorageFailure, match=r"there is no data '/srv/b\.npz'"):
        PartySpec.of(dict(own.training)).federation(own)

    def holding(classes: int = 3, **facts: Any) -> Any:
        path = arrays(tmp_path / "b.npz", **facts)
        return PartySpec.of({**own.training, "own": str(path), "classes": classes}).federation(own)

    assert len(holding(count=9).data_owners[1].build_data()) == 9
    with pytest.raises(BadConfig, match="data owner 0 are on its own host"):
        holding(count=9).data_owners[0].build_data()
    arrays(own.folder / "near.npz", count=9)
    near = PartySpec.of({**own.training, "own": "near.npz"}).federation(own)  # from the party's folder
    assert len(near.data_owners[1].build_data()) == 9
    with pytest.raises(UnfitBatch, match="10 examples, and 9 at most"):
        holding(count=10)
    with pytest.raises(UnfitBatch, match=r"the shape \(1, 7, 7\).*training\.own"):
        holding(count=9, side=7)
    with pytest.raises(UnfitBatch, match="labels up to 2"):
        holding(count=9, classes=2)


def test_an_owner_elsewhere_is_told_what_values_its_data_has_to_have(fedseal: Command, tmp_path: Path) -> None:
    """Its data was of any scale, beside others' of 0 to 1."""
    options = ["--shape", "1,6,6", "--classes", "3", "--examples", "12", "--rounds", "1", "--aggregators", "2"]
    assert fedseal("train", "--deploy", "all", "--data", "a.npz", "--data", "b.npz", *options).code == 0
    arrays(tmp_path / "all/owner-0/a.npz")
    with np.load(arrays(tmp_path / "x.npz")) as file:
        np.savez(tmp_path / "all/owner-1/b.npz", images=file["images"].astype(np.float32), labels=file["labels"])
    told = "the data of every owner has to be of 1 x 6 x 6: scaled from 8 bits or 0 to 1, grey"
    assert told in fedseal("join", "all/owner-0", "--terms").out
    complaint = fedseal("join", "all/owner-1", "--terms").complaint
    assert "b.npz' is scaled from numbers as they are, and 8 bits or 0 to 1 was agreed on" in complaint
    assert "--range LOW,HIGH" in complaint


def test_an_owner_is_told_how_its_own_table_was_read(fedseal: Command, tmp_path: Path) -> None:
    for name, sign in (("a", ","), ("b", ";")):
        rows = [f"{20 + row % 9}{sign}{row % 7}.5{sign}{'yn'[row % 2]}" for row in range(20)]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"age{sign}size{sign}label", *rows]))
    tables = ["--data", "a.csv", "--data", "b.csv", "--validation", "b.csv", "--aggregators", "2"]
    assert fedseal("train", "--deploy", "all", *tables, "--rounds", "1").code == 0
    assert fedseal("join", "all/owner-0", "--terms").err == ""
    answer = fedseal("join", "all/owner-1", "--terms")
    assert answer.err.endswith("b.csv': columns are separated by semicolons\n")
    assert fedseal("join", "all/owner-1", "--terms", "-q").err == ""


def test_a_shape_that_no_memory_holds_is_refused_in_a_sentence(fedseal: Command, tmp_path: Path) -> None:
    facts = {"version": 1, "kind": "arrays", "classes": 2, "shape": [65536, 65536], "scale": "numbers as they are"}
    (tmp_path / "t.json").write_text(json.dumps(facts))
    away = ["--deploy", "all", "--data", "a.npz", "--data", "b.npz", "--examples", "9"]
    assert "one example is larger than any that is read" in fedseal("train", *away, "--terms", "t.json").complaint
    wide = ["--shape", "9999999999,9999999999", "--classes", "2"]
    assert "is larger than any that is read" in fedseal("train", *away, *wide).complaint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--deploy", "used"], "'used' is not empty; choose a new folder"),
        (["--deploy", "all", "--data", "a.npz"], "name each owner's own"),
        (["--deploy", "all", "--data", "a.csv", "--data", "b.csv"], "'a.csv' is a table, and nobody has agreed"),
        (["--deploy", "all", "--host", "no host"], "'no host' is no name of a host"),
        (["--deploy", "all", "--port", "0"], "--port"),
        (["--deploy", "all", "--owners", "1"], "one client is its update"),
        (["--deploy", "all", "--save", "m.st"], "trains nothing yet, and --save is given; leave out --save; 'fedseal"),
        (["--deploy", "all", "--record", "r", "--json"], "leave out --record, --json; 'fedseal join' has some"),
        (["--deploy", "all", "--engine", "flower"], "a deployment has an engine and a checkpoint of its own"),
        (["--deploy", "all", "--checkpoint", "x.st"], "a deployment has an engine and a checkpoint of its own"),
        (["--loopback"], "name its folder with --deploy"),
        (["--host", "fl.example.org"], "name its folder with --deploy"),
    ],
)
def test_what_is_typed_wrong_is_one_line(fedseal: Command, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    assert said in fedseal("train", "--rounds", "1", *arguments).complaint
    assert not (tmp_path / "all").exists()


def test_who_joins_what_is_none(fedseal: Command, tmp_path: Path) -> None:
    assert "name a party's folder" in fedseal("join", "nowhere").complaint
    assert fedseal("train", "--deploy", "all", *QUICK, "--rounds", "1").code == 0
    assert "name a party's folder" in fedseal("join", "all").complaint
    assert "name a party's folder" in fedseal("join", "all/owner-0", "--loopback").complaint
    file = tmp_path / "all" / "owner-0" / "party.json"
    facts = json.loads(file.read_text())
    del facts["training"]["rounds"]
    file.write_text(json.dumps(facts))
    assert "another version of fedseal" in fedseal("join", "all/owner-0").complaint
    (tmp_path / "all" / "owner-1" / "client-1.key").unlink()
    assert "no key" in fedseal("join", "all/owner-1").complaint


def test_a_complete_run_is_not_repeated(fedseal: Command, tmp_path: Path) -> None:
    """Its owners would refuse: they answer a round once."""
    assert fedseal("train", "--deploy", "all", *QUICK, "--rounds", "1").code == 0
    owner = place(tmp_path / "all" / "model-owner")
    federation = PartySpec.of(dict(owner.training)).federation(owner)
    members = federation.members_of(owner.keys)
    federation.fit(1, engine=Apart(tmp_path / "all"), members=members, checkpoint=owner.work / deployment.CHECKPOINT)
    answer = fedseal("join", "all/model-owner")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("1 rounds; loss ")
    assert (tmp_path / "all" / "model-owner" / "model.safetensors").is_file()


def test_apps_for_flowers_own_executors(fedseal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.app import Context, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    from federation.test_flower import FakeGrid

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    with pytest.raises(BadConfig, match="FEDSEAL_PARTY is not set"):
        deployment.apps()
    assert fedseal("train", "--deploy", "all", *QUICK, "--rounds", "1").code == 0
    both = {}
    for own in places(tmp_path / "all"):
        monkeypatch.setenv("FEDSEAL_PARTY", str(own.folder))
        both[own.number] = deployment.apps()
    server, *clients = both.values()

    def app(message: Any, context: Any) -> Any:
        return clients[context.node_config["partition-id"]][1](message, context)

    server[0](FakeGrid(app, len(clients)), Context(1, 0, {}, RecordDict(), {}))
    assert fedseal("train", *QUICK, "--rounds", "1", "--save", "here.st", "-q").code == 0
    assert same(load_file(tmp_path / "all/model-owner/model.safetensors"), load_file(tmp_path / "here.st"))


def test_an_owner_reads_the_terms_and_takes_no_part_below_its_floors(
    fedseal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*QUICK, "--rounds", "7", "--dp", "1.5,clip=0.5", "--minimum", "3"]
    assert fedseal("train", "--deploy", "all", *options).code == 0
    answer = fedseal("join", "all/owner-1", "--terms")
    assert (answer.code, answer.err) == (0, "")
    for said in (
        "data owner 1", "zoo:mlp:widths=[8]", "up to 7 rounds among 3 data owners", "and aggregator 1 collude",
        "a sum of 3 owners or more", "2 of them together", "norm 0.5", "noise of 1.5 times", "epsilon",
        "no owner.yaml asks",
    ):  # fmt: skip
        assert said in answer.out, said
    digest = answer.out.split("architecture ")[1][:16]
    floors = tmp_path / "all/owner-1/owner.yaml"
    floors.write_text(f"minimum: 3\nnoise: 1.5\nrounds: 7\nmodels: ['{digest}']\n")
    answer = fedseal("join", "all/owner-1", "--terms")
    assert f"owner.yaml asks for minimum 3, noise 1.5, rounds 7, models ['{digest}']: kept" in answer.out
    reached: list[object] = []
    monkeypatch.setattr("fedseal.federation.deployment.take_part", lambda *args, **more: reached.append(more["floors"]))
    assert fedseal("join", "all/owner-1").code == 0
    assert "a sum of 3 owners or more" in fedseal("join", "all/owner-1").err
    floors.write_text("minimum: 4\nnoise: 2.0\n")
    complaint = fedseal("join", "all/owner-1").complaint
    assert "owner.yaml asks for minimum 4 where 3 was agreed on, and noise 2.0 where 1.5 was agreed on" in complaint
    assert len(reached) == 2
    assert "terms itself" in fedseal("join", "all/model-owner", "--terms").complaint


@pytest.mark.parametrize("rounds", ["1000", "null"])
def test_an_owner_who_is_told_of_fewer_rounds_than_it_would_answer_takes_no_part(
    fedseal: Command, tmp_path: Path, rounds: str
) -> None:
    assert fedseal("train", "--deploy", "all", *QUICK, "--rounds", "7").code == 0
    pact = tmp_path / "all/owner-1/pact.json"
    text = pact.read_text()
    assert '"rounds": 7' in text
    pact.write_text(text.replace('"rounds": 7', f'"rounds": {rounds}'))
    complaint = fedseal("join", "all/owner-1", "--terms").complaint
    assert "tells of 7 rounds, and its pact.json has this party answer" in complaint
