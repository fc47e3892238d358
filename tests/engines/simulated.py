"""Federations in Flower's simulation, those of one name on one Ray; prints a line for what came of each."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

import ray
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from federation.lying import Lying, Repeating
from federation.small import STEPS, federation, gap, net, owners, reports, weights
from fedseal.errors import BadConfig, EngineFailure
from fedseal.federation.federation import Federation
from fedseal.federation.flower import Simulation
from fedseal.federation.flower_environment import quiet
from fedseal.federation.gossip import Gossip
from fedseal.federation.owners import DataOwner, ModelOwner
from fedseal.federation.secure import Secure
from fedseal.types import Batch, Update

ENGINE = Simulation(workers=2)


def fails(model: nn.Module, batch: Batch, generator: torch.Generator) -> Update:
    raise ZeroDivisionError


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self) -> Batch:
        return owners()[0].build_data()


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def same(protocol: str) -> bool:
    here, there = federation(protocol).fit(2), federation(protocol).fit(2, engine=ENGINE)
    assert [report.clients for report in there.history] == [4, 4]
    assert [report.failure for report in there.history] == ["", ""]
    assert logging.getLogger("flwr").level != logging.ERROR  # as it was
    return gap(weights(here), weights(there)) == 0


def failing(minimum: int, rounds: int) -> Federation:
    team = [*owners()[:3], DataOwner.holding(owners()[3].build_data(), fails)]
    return Federation(ModelOwner(net()), team, Secure("masking", minimum=minimum, quorum=(1, 2), max_weight=8))


def alike() -> None:
    """The same models as in this process."""
    for protocol in ("sharing", "masking", "plain", "ring", "masked_ring"):
        say(protocol, same(protocol))
    team = Gossip(ModelOwner(net()), owners())
    say("gossip", gap(weights(team.fit(2)), weights(team.fit(2, engine=ENGINE))) == 0)


def lies() -> None:
    """A model owner that sends others other weights, or the same ones twice."""
    for protocol in ("sharing", "masking"):
        for told in (False, True):
            (report,) = reports(federation(protocol), 1, engine=Lying(told, over=ENGINE))
            say(f"{protocol}-{told}", report.clients, bool(report.failure))
    repeated = federation("sharing").fit(2, engine=Repeating(ENGINE)).history
    say("repeats", *(report.clients for report in repeated))


def fails_where_it_should() -> None:
    """Owners whose own code fails, and one that no other process can be handed."""
    say("failing", failing(3, 1).fit(1, engine=ENGINE).history[0].clients)
    try:
        failing(4, 4).fit(4, engine=ENGINE)
    except EngineFailure as error:
        say("strict", error)
    try:
        Federation(ModelOwner(net()), [DataOwner(Locked(), STEPS)] * 3).fit(1, engine=ENGINE)
    except BadConfig as error:
        say("locked", error)


if __name__ == "__main__":
    quiet()
    ray.init(num_cpus=2, log_to_driver=False, logging_level=40, include_dashboard=False)
    {"alike": alike, "lies": lies, "fails": fails_where_it_should}[sys.argv[1]]()
