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
from fedseal.federation.deployment import certificates
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
    from flwr.supercore.run import RunNotRunningException

    try:
        yield
    except (BrokenOff, httpx.HTTPError, RunNotRunningException) as error:
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
        from flwr.proto import control_pb2
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        self._requests = control_pb2
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=authority.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def admit(self, nodes: Mapping[int, bytes]) -> None:
        """Let nodes join that prove to have these keys."""
        for key in nodes.values():
            self._client.RegisterNode(self._requests.RegisterNodeRequest(public_key=key))

    def begin(self, app: Path) -> int:
        """A new run, by its number."""
        from flwr.cli.build import build_fab_from_disk
        from flwr.common.serde import fab_to_proto
        from flwr.supercore.fab import Fab

        content = build_fab_from_disk(app)
        bundle = Fab(hashlib.sha256(content).hexdigest(), content, {})
        return int(self._client.StartRun(self._requests.StartRunRequest(fab=fab_to_proto(bundle))).run_id)


@contextmanager
def grid(place: Place, address: str, number: int) -> Iterator[Any]:
    """The grid of a run, in the role of its ServerApp.

    Raises:
        EngineFailure: SuperLink does not hand out the run.
    """
    from flwr.common.constant import SubStatus
    from flwr.common.serde import run_from_proto
    from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid import HttpGrid

    authority = (place.folder / certificates.AUTHORITY).read_bytes()
    token = _acquired(place, address, number, authority)
    found = HttpGrid(runtime_api_address=address, root_certificates=authority, token=token)
    found._retry_invoker.max_time = PATIENCE
    client = found._runtime_client
    pulse = HeartbeatSender(make_task_heartbeat_fn_http(client))
    pulse.start()
    status = SubStatus.FAILED
    try:
        task = client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        found.set_run(run_from_proto(task.run))
        yield found
        status = SubStatus.COMPLETED
    finally:
        found._retry_invoker.max_tries = 1
        with suppress(Exception):  # SuperLink may be gone, and ends with this process anyway
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=""))
        pulse.stop()
        found.close()


def _acquired(place: Place, address: str, number: int, authority: bytes) -> str:
    """The token of the run's task; tasks of runs that others began are left to expire."""
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType

    client = runtime(address, (place.work / SECRET).read_bytes(), authority)
    end = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < end:
            found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
            if found.token and found.task.run_id == number:
                return str(found.token)
            time.sleep(LOOK)
    finally:
        client.close()
    raise EngineFailure("SuperLink does not hand out its run", f"see its log in '{place.work}'")


def runtime(address: str, secret: bytes, authority: bytes | None = None, token: str | None = None) -> Any:
    """A client for Flower's runtime interface, over TLS if an authority is given."""
    from flwr.supercore import interceptors
    from flwr.supercore.runtime import RuntimeHttpClient

    chain: list[Any] = [interceptors.RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    if token is None:
        method = "/flwr.proto.Runtime/AcquireTask"
        chain.append(interceptors.SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={method}))
    else:
        chain.append(interceptors.RuntimeTokenHttpInterceptor(token))
    return RuntimeHttpClient.from_server_address(
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
