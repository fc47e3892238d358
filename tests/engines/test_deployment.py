"""Real deployments on loopback: SuperLink, SuperNodes and parties as processes, over TLS, known by their keys."""

from __future__ import annotations

import gc
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file

from federation.lying import Lying
from federation.small import Losing, federation, gap, reports, weights
from fedseal.errors import BadConfig
from fedseal.federation.deployment import Deployment, certificates, node, place, superlink, take_part, write_folders
from fedseal.federation.deployment.folder import places
from fedseal.federation.deployment.processes import free_port
from fedseal.federation.federation import Federation
from fedseal.federation.flower_environment import quiet
from fedseal.federation.keys import StoredKeys, read_identity, read_pact
from fedseal.federation.ledger import LEDGER, stored_ledger
from fedseal.federation.members import Members
from fedseal.federation.secure import Pact
from fedseal.secagg import SERVER, Identity, aggregator
from fedseal.secagg import Party as Role
from fedseal.setup.data.terms import write_terms
from fedseal.setup.deployment import PartySpec, deployment_of
from fedseal.setup.federation import FederationSpec
from setup.test_owners_data import tables
from setup.test_terms import proposed

# a shell that starts the tests in the background has them ignore Ctrl-C, which processes inherit
CLI = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import fedseal.cli; fedseal.cli.main()"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
PLAN = FederationSpec(
    data=("fashion_mnist",), model="zoo:mlp:widths=[8]", owners=3, split="iid", validation=None, validation_split=0.2,
    shape=None, label="label", protocol="sharing", aggregators=2, minimum=2, learning_rate=None,
    local_learning_rate=None, epochs=1, reptile=False, iterations=3, batch_size=40, dp=None, clip=None, bound=8.0,
    bits=32, seed=0, threads=1,
)  # fmt: skip
TYPED = ("--owners", "3", "--model", "zoo:mlp:widths=[8]", "--epochs", "1", "--batch-size", "40")
PATIENCE = 240.0


@dataclass(frozen=True)
class Folders:
    """The keys of a deployment whose folders are all here: owners draw by them."""

    root: Path

    @property
    def pact(self) -> Pact:
        return read_pact(self.root / "model-owner")

    def identity(self, number: int) -> Identity:
        party = Role.of(number)
        return read_identity(self.root / party.folder / party.key_file)


def drawing_alike(setup: Federation, root: Path) -> Members:
    """The parties of a deployment in this process."""
    return setup.members_of(cast(StoredKeys, Folders(root)))


class Party:
    """A `fedseal` of its own, and what it says."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.log = folder / f"{abs(hash(arguments))}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CLI, *arguments], cwd=folder, env=ENVIRONMENT, stdout=file, stderr=file
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def rounds(self) -> dict[int, str]:
        """What was said of each round, from 0."""
        return {int(number) - 1: rest for number, rest in re.findall(r"^round (\d+)/\d+: (.*)$", self.said, re.M)}

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    def ended(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def quit(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


def daemons(folder: Path) -> list[int]:
    """Processes of Flower or fedseal that work for a deployment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if str(folder) in (entry / "cmdline").read_text() and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.slow
def test_tables_are_trained_on_by_processes_under_terms_that_owners_proposed(tmp_path: Path) -> None:
    """Three hospitals' dialects; the owner whose table does not fit ends with its name and value."""
    hospitals = tables(tmp_path)
    files = [*hospitals, tmp_path / "held.csv"]
    write_terms(tmp_path / "all.json", proposed(*files))
    typed = [part for path in hospitals for part in ("--data", str(path))]
    typed += ["--terms", "all.json", "--validation", "held.csv", "--rounds", "2", "--protocol", "masking"]
    typed += ["--model", "zoo:mlp:widths=[8]", "--batch-size", "500"]
    here, party = (
        Party(tmp_path, "train", *typed, "--save", "here.st"),
        Party(tmp_path, "train", "--deploy", "all", *typed),
    )
    assert (here.ended(), party.ended()) == (0, 0), here.said + party.said
    party = Party(tmp_path, "join", "all", "--loopback", "--save", "model.st")
    assert party.ended() == 0, party.said
    one, other = load_file(tmp_path / "model.st"), load_file(tmp_path / "here.st")
    assert all(torch.equal(one[name], other[name]) for name in one)
    hospitals[2].write_text(hospitals[2].read_text("utf-8-sig").replace("malign\n", "malign\n712,5;64,0;malign\n", 1))
    party = Party(tmp_path, "join", "all/owner-2")
    assert party.ended() == 2
    assert "c.csv' has '712.5' in the column 'age'" in party.said
    assert "Traceback" not in party.said


@pytest.mark.slow
def test_an_interrupted_deployment_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    root = str(tmp_path / "all")
    typed = ["train", "--deploy", root, "--loopback", "--protocol", "masking", "--rounds", "3", *TYPED]
    first = Party(tmp_path, *typed, "--timeout", "60")
    try:
        first.until(lambda: bool(first.rounds()))
        assert len(daemons(tmp_path)) == 8  # SuperLink, and for each owner a party and a SuperNode, and itself
    finally:
        first.process.send_signal(signal.SIGINT)
        code = first.ended()
    assert code == 130, first.said
    assert re.search(rf"interrupted after \d rounds; go on with: fedseal join {root} --loopback", first.said)
    assert daemons(tmp_path) == []
    second = Party(tmp_path, "join", root, "--loopback", "--save", "model.st")
    try:
        assert second.ended() == 0, second.said
    finally:
        second.quit()
    assert daemons(tmp_path) == []
    told = first.rounds() | second.rounds()
    assert sorted(told) == [0, 1, 2]
    lost = {number for number, line in told.items() if "nothing was opened" in line}
    assert lost <= {1, 2}
    plan = FederationSpec(**{**vars(PLAN), "protocol": "masking", "minimum": None})
    setup = plan.adding(plan.read())
    members = drawing_alike(setup, tmp_path / "all")
    whole = setup.fit(3, engine=Losing(lambda ask: ask.round in lost), members=members)
    assert gap(weights(whole), load_file(tmp_path / "model.st")) == 0


@pytest.mark.slow
def test_a_party_that_is_asked_to_end_leaves_no_process(tmp_path: Path) -> None:
    """By SIGTERM, as by `kill`, a service manager or a container's stop."""
    paper = deployment_of(PLAN, rounds=1, evaluate_every=1, timeout=60.0, classes=None, examples=None)
    paper.write(tmp_path / "all", hosts=[], port=free_port())
    with fleet(tmp_path / "all") as all_of_it:
        party = all_of_it.start("owner-0")
        party.until(lambda: "looks for the model owner" in party.said)
        assert len(daemons(tmp_path)) == 2  # itself and its SuperNode
        party.process.terminate()
        assert party.ended() == 130, party.said
        assert "data owner 0 has left" in party.said
        assert daemons(tmp_path) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of a library of Flower's
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that Flower leaves open
@pytest.mark.parametrize(("protocol", "engine"), [("sharing", Lying(told=True)), ("masking", Lying(told=False))])
def test_nothing_is_opened_of_owners_that_were_sent_other_models(tmp_path: Path, protocol: str, engine: Lying) -> None:
    plan = FederationSpec(**{**vars(PLAN), "protocol": protocol})
    paper = deployment_of(plan, rounds=1, evaluate_every=1, timeout=60.0, classes=None, examples=None)
    paper.write(tmp_path / "all", hosts=[], port=free_port())
    owner, *nodes = places(tmp_path / "all")
    here = PartySpec.of(dict(owner.training)).federation(owner)
    deployed = replace(engine, over=Deployment(owner, nodes, timeout=60.0))
    (report,) = reports(here, 1, engine=deployed, members=here.members_of(owner.keys))
    assert report.clients == 0
    assert report.failure
    assert daemons(tmp_path) == []
    gc.collect()  # those sockets close here, and not in the next test


class Fleet:
    """All parties of one deployment, each started as on a host of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.parties = root, dict[str, Party]()

    def start(self, name: str, *options: str) -> Party:
        self.parties[name] = Party(self.root, "join", str(self.root / name), *options)
        return self.parties[name]

    def entered(self, name: str, round: int) -> bool:
        """Whether a party's ledger has the round."""
        return any(entry.round == round for entry in stored_ledger(self.root / name / LEDGER).entries)

    def quit(self) -> None:
        for party in self.parties.values():
            party.process.send_signal(signal.SIGINT) if party.process.poll() is None else None
        for party in self.parties.values():
            party.quit()


@contextmanager
def fleet(root: Path) -> Iterator[Fleet]:
    found = Fleet(root)
    try:
        yield found
    finally:
        found.quit()


@pytest.mark.slow
def test_a_deployment_outlives_killed_owners_aggregators_and_servers(tmp_path: Path) -> None:
    """Killed with -9 in the middle of a round; the model is what it would be had their messages been lost here."""
    paper = deployment_of(PLAN, rounds=6, evaluate_every=6, timeout=60.0, classes=None, examples=None)
    root = tmp_path / "all"
    paper.write(root, hosts=[], port=free_port())
    with fleet(root) as all_of_it:
        server = all_of_it.start("model-owner")
        for name in ("owner-0", "owner-1", "owner-2", "aggregator-0", "aggregator-1"):
            all_of_it.start(name)
        server.until(lambda: 0 in server.rounds())
        all_of_it.parties["owner-2"].kill()
        server.until(lambda: 1 in server.rounds())
        all_of_it.start("owner-2")
        server.until(lambda: all_of_it.entered("owner-0", 2))
        all_of_it.parties["aggregator-1"].kill()
        server.until(lambda: 2 in server.rounds())
        assert "nothing was opened, since aggregator 1" in server.rounds()[2]
        all_of_it.start("aggregator-1")
        server.until(lambda: all_of_it.entered("aggregator-0", 3))
        server.kill()
        again = all_of_it.start("model-owner", "--save", "model.st")
        assert again.ended() == 0, again.said
        told = server.rounds() | again.rounds()
    assert daemons(tmp_path) == []
    assert sorted(told) == list(range(6)), told
    assert told[0].startswith("3 owners")
    assert "owners" in told[3], "the round in which the model owner was killed is asked again, and answered"
    assert told[5].startswith("3 owners")
    lost = {number for number, line in told.items() if "nothing was opened" in line}
    assert lost == {2}
    without = {number for number, line in told.items() if line.startswith("2 owners")}
    here = paper.federation.fit(
        6,
        engine=Losing(lambda ask: ask.round in lost or (ask.to == 2 and ask.round in without)),
        members=drawing_alike(paper.federation, root),
    )
    assert gap(weights(here), load_file(root / "model.st")) == 0


def _reached(server: Party, told: dict[int, str], number: int) -> bool:
    return max({**told, **server.rounds()}, default=-1) >= number


KILLS = ("owner-0", "aggregator-0", "model-owner", "owner-1", "model-owner", "aggregator-1", "model-owner", "owner-2",
         "aggregator-0", "model-owner")  # fmt: skip


@pytest.mark.slow
@pytest.mark.long
def test_a_deployment_outlives_10_kills(tmp_path: Path) -> None:
    """One a round, with -9, at any moment of it: no model answered twice, no round uncounted, and all rounds run."""
    rounds, draw = len(KILLS) + 2, random.Random(0)
    paper = deployment_of(PLAN, rounds=rounds, evaluate_every=rounds, timeout=60.0, classes=None, examples=None)
    root, told = tmp_path / "all", dict[int, str]()
    paper.write(root, hosts=[], port=free_port())
    with fleet(root) as all_of_it:
        for name in ("model-owner", "owner-0", "owner-1", "owner-2", "aggregator-0", "aggregator-1"):
            all_of_it.start(name)
        for number, name in enumerate(KILLS):
            server = all_of_it.parties["model-owner"]
            server.until(partial(_reached, server, told, number))
            time.sleep(3 * draw.random())
            told |= server.rounds()
            all_of_it.parties[name].kill()
            all_of_it.start(name)
        server = all_of_it.parties["model-owner"]
        assert server.ended(5 * PATIENCE) == 0, server.said
        told |= server.rounds()
        said = "".join(log.read_text() for log in root.glob("*.log"))
    assert daemons(tmp_path) == []
    assert "Traceback" not in said
    assert sorted(told) == list(range(rounds)), told
    assert sum("nothing was opened" in line for line in told.values()) <= sum(not n.startswith("model") for n in KILLS)
    counted = {entry.round for entry in stored_ledger(root / "model-owner" / LEDGER).entries}
    assert {number for number, line in told.items() if "owners" in line and "nothing" not in line} <= counted
    for name in ("owner-0", "owner-1", "owner-2"):
        entries = stored_ledger(root / name / LEDGER).entries
        assert len({entry.state for entry in entries}) == len({entry.round for entry in entries}) == len(entries)


@pytest.mark.slow
def test_nodes_and_servers_who_should_not_meet_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = federation("sharing", count=2)
    numbers = [SERVER, 0, 1, *map(aggregator, range(3))]
    for name, days in (("one", 1.0), ("other", 1.0), ("old", -1.0)):
        write_folders(tmp_path / name, setup.secure, 2, {number: {} for number in numbers}, days=days)
    monkeypatch.setattr(node, "AGAIN", 0.1)
    monkeypatch.setattr(certificates, "check", lambda folder: None)
    quiet()

    def joins(folder: Path, port: int) -> str:
        own = place(folder).at(f"127.0.0.1:{port}")
        with pytest.raises(BadConfig) as caught:
            take_part(own, setup.members_of(own.keys))
        return str(caught.value)

    with ExitStack() as stack:
        ports = {name: free_port() for name in ("one", "old")}
        for name, port in ports.items():
            stack.enter_context(superlink.superlink(place(tmp_path / name / "model-owner"), port))
        assert "does not vouch for the certificate" in joins(tmp_path / "other" / "owner-0", ports["one"])
        assert "knows no key of data owner 1" in joins(tmp_path / "one" / "owner-1", ports["one"])
        assert "has expired" in joins(tmp_path / "old" / "owner-0", ports["old"])
    assert daemons(tmp_path) == []
