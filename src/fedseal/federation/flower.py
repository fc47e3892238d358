"""Flower as engine: its simulation on Ray, and a federation's apps for whatever runs Flower's apps.

Flower carries messages between a ServerApp and ClientApps; parties answer them as they do in one process. Whatever a
party keeps between two messages stays in its node's context. Telemetry, update checks and usage statistics are off in
everything that is started here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fedseal.errors import BadConfig, MissingExtra
from fedseal.federation.flower_environment import SILENT, flwr, only_errors
from fedseal.federation.grid import PART, GridLink, answered, asks_who, hello, refusal_or
from fedseal.federation.keys import StoredKeys
from fedseal.federation.members import Members
from fedseal.federation.owners import DataOwner, Local
from fedseal.federation.protocol import LOG, Link, Reply, refusal_kind
from fedseal.federation.secure import Secure
from fedseal.secagg import Public, Roster


@dataclass(frozen=True)
class Simulation:
    """Flower's simulation on Ray, on this machine; every party is a node.

    Args:
        workers: processes that play the nodes; None for one a core.
        timeout: seconds after which a party counts as gone.
    """

    workers: int | None = None
    timeout: float = 600.0

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        """Serve from a ServerApp.

        Raises:
            MissingExtra: Flower or Ray is not installed.
            BadConfig: owners or their functions that cannot be handed to another process.
        """
        flower = flwr()
        server, failed = flower.serverapp.ServerApp(), list[BaseException]()

        @server.main()  # type: ignore[untyped-decorator]
        def main(grid: Any, context: Any) -> None:
            try:
                serve(GridLink(grid, members, self.timeout))
            except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
                failed.append(error)

        with _as_before(), only_errors("flwr", "ray"):
            self._simulate(server, client_app(bare(members)), len(members.clients) + len(members.aggregators))
        if failed:
            raise failed[0]

    def _simulate(self, server: Any, client: Any, nodes: int) -> None:
        try:
            import ray
            import ray.cloudpickle
            from flwr.simulation import run_simulation
        except ModuleNotFoundError as error:
            raise MissingExtra(f"{error.name} is not installed", "pip install 'fedseal[federation]'") from None
        dumps: Callable[[Any], bytes] = ray.cloudpickle.dumps
        try:
            dumps(client)
        except Exception as error:  # whatever a user's own class raises when it is asked for its content
            raise BadConfig(
                f"the data owners cannot be handed to another process ({type(error).__name__}: {error})",
                "define their functions in a module, load data in build_data, or use engine='local'",
            ) from error
        workers = self.workers or min(nodes, os.cpu_count() or 1)
        began = not ray.is_initialized()
        init = {"num_cpus": workers, "log_to_driver": False, "logging_level": 40, "include_dashboard": False}
        config: Any = {"init_args": init, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
        try:
            run_simulation(server, client, nodes, backend_config=config)
        finally:
            if began and ray.is_initialized():
                ray.shutdown()


def client_app(members: Members) -> Any:
    """The ClientApp in which every party answers, whichever it is.

    A node is told which by its configuration: `partition-id` counts data owners, then aggregators.
    """
    flower = flwr()
    app = flower.clientapp.ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def answer(message: Any, context: Any) -> Any:
        try:
            return _answer_kept(members, message, context)
        except Exception as error:  # noqa: BLE001 - Flower would send its text to the server
            LOG.exception("a node fails")
            return refusal_or(Reply(refused=refusal_kind(error)), message)

    return app


def _answer_kept(members: Members, message: Any, context: Any) -> Any:
    """A party's answer, with what it keeps between two messages in its node's context."""
    number = _number(members, context.node_config)
    if asks_who(message):
        return hello(message, number)
    party = members.party(number, kept=True)
    if PART in context.state:
        party.load({name: list(values) for name, values in context.state[PART].items()})
    answer = answered(party, message, number)
    context.state[PART] = flwr().app.ConfigRecord(party.dump())
    return answer


def _number(members: Members, node: Any) -> int:
    place = int(node["partition-id"])
    everyone = (*members.clients, *members.aggregators)
    if not 0 <= place < len(everyone):
        raise BadConfig(f"partition {place} of {len(everyone)} parties", "count data owners first, then aggregators")
    return everyone[place]


def bare(members: Members) -> Members:
    """The same with keys that nobody used: used ones hold objects that cannot go to another process."""
    keys, roster = members.keys, members.pact.roster
    unused = Roster(
        {number: _unused(public) for number, public in roster.clients.items()},
        _unused(roster.opener),
        tuple(map(_unused, roster.aggregators)),
    )
    pact = replace(members.pact, roster=unused)
    return replace(members, keys=keys if isinstance(keys, StoredKeys) else keys.copied(), pact=pact)


def _unused(public: Public) -> Public:
    return Public(public.verifying, public.sealing)


class Fits(Protocol):
    """What a ServerApp needs of a federation."""

    @property
    def secure(self) -> Secure:
        """How updates are added up."""

    @property
    def data_owners(self) -> Sequence[DataOwner]:
        """Who trains."""

    def members_of(self, keys: StoredKeys) -> Members:
        """All parties with the keys of a folder."""

    @property
    def fit(self) -> Callable[..., Any]:
        """Train that many rounds; what comes of it can `save`."""


def flower_apps(federation: Fits, keys: str | Path, **options: Any) -> tuple[Any, Any]:
    """A ServerApp and a ClientApp for `flwr run`, in simulation or on a deployment.

    Args:
        keys: a folder of keys that `fedseal train --deploy` or this function wrote; made where it is missing. A node
            needs `pact.json` and its own key, and nothing else of it.
        options: of `Federation.fit`; rounds may come from the run's configuration instead.

    Raises:
        BadConfig: a record of owners who draw examples by their own keys, of whom no audit could say which.
        MissingExtra: Flower is not installed.
        StorageFailure: the folder cannot be written or read.
    """
    flower = flwr()
    rules = [owner.model_fn for owner in federation.data_owners]
    if options.get("record") is not None and any(isinstance(rule, Local) and rule.draw for rule in rules):
        raise BadConfig(
            "owners draw their examples from their own keys, and nobody could audit a record of them",
            "record with Federation.fit, or let owners train on all examples",
        )
    members = federation.members_of(StoredKeys.at(Path(keys), federation.secure, len(federation.data_owners)))
    server = flower.serverapp.ServerApp()
    rounds, save = options.pop("rounds", 1), options.pop("save", None)
    timeout = options.pop("timeout", 600.0)

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        asked = int(context.run_config.get("rounds", rounds))
        trained = federation.fit(asked, engine=OnGrid(grid, timeout), members=members, **options)
        if save is not None:
            trained.save(save)

    return server, client_app(members)


@dataclass(frozen=True)
class OnGrid:
    """An engine for who has a grid already, inside a ServerApp."""

    grid: Any
    timeout: float = 600.0

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        """Serve through the grid."""
        serve(GridLink(self.grid, members, self.timeout))


@contextmanager
def _as_before() -> Iterator[None]:
    """Flower's simulation adds to the environment, and what it adds grows from run to run."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before) - set(SILENT):
            del os.environ[name]
        os.environ.update(before)
