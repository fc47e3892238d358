"""The model owner's side of Flower: its SuperLink, the nodes that may join, and one run whose messages it carries.

SuperLink's own way is to run whatever app comes in over its control interface, which anybody can reach who can reach a
node. Here its tasks go to who has a secret of this process, and this process runs no app but itself.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedseal.errors import EngineFailure
from fedseal.federation.deployment import certificates, flower_internals
from fedseal.federation.deployment.folder import Place
from fedseal.federation.deployment.processes import LOOK, Child, daemon, until_open

PATIENCE = 5.0  # seconds without a SuperLink, which is on this machine, after which a run ends
SECRET = "executor.secret"


class BrokenOff(Exception):
    """A run cannot go on. It is no `FedsealError`, which would cost a round and let the next one begin."""


@contextmanager
def broken_off(place: Place) -> Iterator[None]:
    """Whatever broke a run off, as an error for its user.

    Raises:
        EngineFailure: it did.
    """
    import httpx

    try:
        yield
    except (BrokenOff, httpx.HTTPError, flower_internals.RunNotRunningException) as error:
        raise EngineFailure(
            f"the run was broken off: {error or type(error).__name__}",
            f"see the logs in '{place.work}', and start again: it goes on with the next round",
        ) from error


@contextmanager
def superlink(place: Place, port: int) -> Iterator[Child]:
    """SuperLink, as long as needed; it listens where the place says.

    Raises:
        EngineFailure: it does not start.
        BadConfig, StorageFailure: certificates that are not valid.
    """
    certificates.check(place.folder)
    folder = place.folder.resolve()
    child = daemon(
        "flower-superlink",
        [
            *("--host", place.listen, "--port", str(port), "--isolation", "process"),
            *("--ssl-ca-certfile", str(folder / certificates.AUTHORITY)),
            *("--ssl-certfile", str(folder / certificates.CERTIFICATE)),
            *("--ssl-keyfile", str(folder / certificates.KEY)),
            *("--superexec-auth-secret-file", str(fresh_secret(place.work))),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        ],
        place.work,
    )
    try:
        until_open(child, port)
        yield child
    finally:
        child.end()


class Control:
    """What the model owner orders SuperLink to do.

    Args:
        address: of SuperLink on this machine.
        authority: the certificate that vouches for it.
    """

    def __init__(self, address: str, authority: Path) -> None:
        self._client = flower_internals.ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=authority.read_bytes(),
            interceptors=[flower_internals.RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def admit(self, nodes: Mapping[int, bytes]) -> None:
        """Let nodes join that prove to have these keys."""
        for key in nodes.values():
            self._client.RegisterNode(flower_internals.RegisterNodeRequest(public_key=key))

    def begin(self, app: Path) -> int:
        """A new run, by its number."""
        content = flower_internals.build_fab_from_disk(app)
        bundle = flower_internals.Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = flower_internals.StartRunRequest(fab=flower_internals.fab_to_proto(bundle))
        return int(self._client.StartRun(request).run_id)


@contextmanager
def grid(place: Place, address: str, number: int) -> Iterator[Any]:
    """The grid of a run, in the role of its ServerApp.

    Raises:
        EngineFailure: SuperLink does not hand out the run.
    """
    authority = (place.folder / certificates.AUTHORITY).read_bytes()
    token = _acquired(place, address, number, authority)
    found = flower_internals.HttpGrid(runtime_api_address=address, root_certificates=authority, token=token)
    flower_internals.limit_patience(found, seconds=PATIENCE)
    client = flower_internals.client_of(found)
    pulse = flower_internals.HeartbeatSender(flower_internals.make_task_heartbeat_fn_http(client))
    pulse.start()
    status = flower_internals.SubStatus.FAILED
    try:
        task = client.PullTaskInput(flower_internals.PullTaskInputRequest())
        identity = flower_internals.TaskIdentity
        identity.task_id, identity.run_id, identity.node_id = task.task_id, task.run.run_id, task.context.node_id
        found.set_run(flower_internals.run_from_proto(task.run))
        yield found
        status = flower_internals.SubStatus.COMPLETED
    finally:
        flower_internals.limit_patience(found, tries=1)
        with suppress(Exception):  # SuperLink may be gone, and ends with this process anyway
            client.PushTaskOutput(flower_internals.PushTaskOutputRequest(sub_status=status, details=""))
        pulse.stop()
        found.close()


def _acquired(place: Place, address: str, number: int, authority: bytes) -> str:
    """The token of the run's task; tasks of runs that others began are left to expire."""
    client = runtime(address, (place.work / SECRET).read_bytes(), authority)
    end = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < end:
            wanted = flower_internals.AcquireTaskRequest(supported_task_types=[flower_internals.TaskType.SERVER_APP])
            found = client.AcquireTask(wanted)
            if found.token and found.task.run_id == number:
                return str(found.token)
            time.sleep(LOOK)
    finally:
        client.close()
    raise EngineFailure("SuperLink does not hand out its run", f"see its log in '{place.work}'")


def runtime(address: str, secret: bytes, authority: bytes | None = None, token: str | None = None) -> Any:
    """A client for Flower's runtime interface, over TLS if an authority is given."""
    chain: list[Any] = [flower_internals.RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    if token is None:
        method = "/flwr.proto.Runtime/AcquireTask"
        chain.append(flower_internals.SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={method}))
    else:
        chain.append(flower_internals.RuntimeTokenHttpInterceptor(token))
    return flower_internals.RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=authority is None,
        root_certificates=authority,
        interceptors=chain,
    )


def fresh_secret(work: Path) -> Path:
    """A file with a new secret, for this process and its daemon."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / SECRET
    path.unlink(missing_ok=True)
    certificates.write_secret(path, secrets.token_bytes(32))
    return path
