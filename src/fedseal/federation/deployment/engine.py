"""The model owner's engine: it brings up SuperLink, waits for the nodes and lets the federation serve."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from fedseal.federation.deployment import superlink
from fedseal.federation.deployment.certificates import AUTHORITY
from fedseal.federation.deployment.folder import APP, Place
from fedseal.federation.deployment.processes import GRACE, Child, free_port, last_words, start
from fedseal.federation.flower_environment import only_errors, quiet
from fedseal.federation.grid import GridLink
from fedseal.federation.members import Members
from fedseal.federation.protocol import Link

JOIN = "from fedseal.cli import main; main()"


@dataclass(frozen=True)
class Deployment:
    """Flower's SuperLink here, and every party on its own host, over TLS, known by its key.

    Args:
        place: the model owner's folder.
        here: folders of nodes to start on this machine too, on loopback and with a port of their own.
        timeout: seconds after which a party that does not answer counts as gone.
        say: told what happens.
    """

    place: Place
    here: Sequence[Place] = ()
    timeout: float = 600.0
    say: Callable[[str], None] = lambda line: None

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        """Serve.

        Raises:
            BadConfig, StorageFailure: certificates that are not valid.
            EngineFailure: SuperLink does not start, or ends; or no node joins.
        """
        quiet()
        place = self.place
        port = free_port() if self.here else int(place.address.rpartition(":")[2])
        if self.here:
            place = place.at(f"127.0.0.1:{port}")
        address = f"127.0.0.1:{port}"
        keys = {number: _wire(line) for number, line in place.nodes.items()}
        with ExitStack() as stack, only_errors("flwr"), superlink.broken_off(place):
            control = superlink.Control(address, place.folder / AUTHORITY)  # ready: nodes may be waiting already
            link = stack.enter_context(superlink.superlink(place, port))
            control.admit(keys)
            children = [_started(node, address, stack) for node in self.here]
            stack.callback(_ask, children)  # all at once, then each is waited for
            run = control.begin(place.folder / APP)
            grid = stack.enter_context(superlink.grid(place, address, run))
            self.say(f"the model owner waits for {len(keys)} nodes at {place.address}")

            def watch() -> None:
                if not link.runs:
                    raise superlink.BrokenOff(f"'{link.name}' has ended: {last_words(link)}")
                if children and not any(child.runs for child in children):
                    raise superlink.BrokenOff(f"all nodes have ended: {last_words(children[0])}")

            known = {key: number for number, key in keys.items()}
            serve(GridLink(grid, members, self.timeout, known, watch))


def _started(node: Place, address: str, stack: ExitStack) -> Child:
    command = [sys.executable, "-c", JOIN, "join", str(node.folder), "--at", address]
    child = start("fedseal", command, node.work, grace=3 * GRACE)  # it ends a SuperNode first
    stack.callback(child.end)
    return child


def _ask(children: Sequence[Child]) -> None:
    for child in children:
        child.ask()


def _wire(line: str) -> bytes:
    """A public key as Flower's messages have it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

    return load_ssh_public_key(line.encode()).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
