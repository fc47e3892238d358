"""Cells on a Ray cluster (Moritz et al., OSDI 2018, arXiv:1712.05889), for audits that outgrow one machine.

Every cell is a task; the object store holds the case once a machine. The audit's process alone writes the record, so
the machines need no common disk. They need the same packages, and the modules that the case is made of.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import torch

from fedseal.audit.environment import environment
from fedseal.audit.executor import Cells, Computes, Done, Failed, Tell, Work, attempt, cores, loss
from fedseal.audit.record import CellKey
from fedseal.errors import BadConfig, EngineFailure, MissingExtra

PATIENCE = 10.0  # seconds for an address to answer
RETRIES = 3  # machines that may go away under one cell, and other workers that take it over
STORE = 2**27  # bytes of a local cluster's object store, which holds little more than the case
REMEDY = "start the cluster, correct the address, or leave out Ray: all cores of this machine do the same audit"


@dataclass(frozen=True)
class Ray:
    """A Ray cluster as the place where cells are computed. A worker or machine that is lost costs its cells only.

    Args:
        address: "HOST:PORT" of a cluster that this machine belongs to, "ray://HOST:PORT" of any other, "auto" for the
            one that runs here, or "local" to start one in which all workers are on this machine, reached by loopback.
        workers: of a local cluster, None for one a core; else how many cells are in work at the same time at most, None
            for as many as the cluster has cores.
        threads: of each.

    Raises:
        MissingExtra: ray is not installed.
        BadConfig: no worker or thread, or what is no address.
        EngineFailure: nothing that could be Ray answers at the address within ten seconds.
    """

    address: str = "local"
    workers: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if (self.workers is not None and self.workers < 1) or self.threads < 1:
            raise BadConfig(f"{self.workers} workers of {self.threads} threads", "give at least 1 of both")
        _prepare(self.address)
        _ray()

    def compute(self, job: Work, keys: Sequence[CellKey], tell: Tell) -> Cells:
        """Yield every cell once. A cell starts, as told, when it is handed to the cluster, and tells no steps."""
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray)
        try:
            yield from self._computed(ray, job, keys, tell)
        finally:
            if ours:  # which ends the tasks that still run
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address == "local":
            own = {"num_cpus": self.workers or cores(), "include_dashboard": False, "object_store_memory": STORE}
            ray.init(address="local", _node_ip_address="127.0.0.1", **own, **quiet)
            return
        try:
            ray.init(address=self.address, **quiet)
        except (OSError, RuntimeError, ValueError, SystemExit) as error:  # Ray leaves the process where it gives up
            reason = " ".join(str(error).split())[:200]
            raise EngineFailure(f"no connection to Ray at '{self.address}' ({reason})", REMEDY) from None

    def _computed(self, ray: Any, job: Work, keys: Sequence[CellKey], tell: Tell) -> Cells:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_compute)
        case, packages = ray.put(job), environment(job.device, self.threads).packages
        waiting, running, lost = list(reversed(keys)), dict[Any, CellKey](), dict[CellKey, str]()
        while waiting or running:
            room = self.workers or 2 * int(ray.cluster_resources().get("CPU", 1))  # one in work and one on its way
            while waiting and len(running) < room:
                key = waiting.pop()
                # in a list the reference stays one, and a process that has seen the job does not fetch it again
                running[task.remote([case], case.hex(), self.threads, packages, key)] = key
                tell(key, None)
            for reference in ray.wait(list(running), num_returns=1)[0]:
                key = running.pop(reference)
                try:
                    result: Done | Failed = ray.get(reference)
                except (ray.exceptions.RayTaskError, ray.exceptions.TaskUnschedulableError):
                    raise
                except ray.exceptions.RayError as error:
                    lost[key] = type(error).__name__
                    continue
                if isinstance(result, Failed):
                    raise result.error
                yield result.finished()
        if lost:
            raise loss(lost, len(keys), RETRIES + 1)


def _ray() -> Any:
    # No numbers about the user's machine leave it, and Ray's advice is for its developers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtra("ray is not installed", "pip install 'fedseal[scale]'") from None
    return ray


_KNOWN: dict[str, Computes] = {}  # in a worker process: the job it works for, with the blind guesses it has scored


def _compute(case: list[Any], job: str, threads: int, packages: dict[str, str], key: CellKey) -> Done | Failed:
    """A cell, in a process of the cluster."""
    if job not in _KNOWN:
        torch.set_num_threads(threads)
        here = environment("cpu", threads).packages
        if differing := [
            f"{name} {here.get(name)} instead of {v}" for name, v in packages.items() if here.get(name) != v
        ]:
            remedy = "install the same packages on all machines"
            return Failed(EngineFailure(f"the worker on {socket.gethostname()} has {', '.join(differing)}", remedy))
        ray = _ray()
        try:
            received: Work = ray.get(case[0])
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            remedy = (
                "install the modules that the case is made of on all machines, or run in the folder that holds them"
            )
            return Failed(
                EngineFailure(f"the worker on {socket.gethostname()} cannot load the case ({reason})", remedy)
            )
        _KNOWN.clear()
        _KNOWN[job] = received.worker()
    return attempt(_KNOWN[job], key, lambda _: None)


def _prepare(address: str) -> None:
    """See that somebody answers: Ray itself waits for minutes, and then leaves the process."""
    if address == "auto":
        return
    if address == "local":
        _stay_on_loopback()
        return
    host, port = _parts(address)
    if not _answers(host, port):
        raise EngineFailure(f"no Ray cluster answers at '{address}' within {PATIENCE:.0f} seconds", REMEDY)
    if host in ("127.0.0.1", "::1", "localhost") and not _answers(_own_address(), port):
        _stay_on_loopback()


def _stay_on_loopback() -> None:
    # The switch by which Ray keeps to loopback on systems whose firewall would ask; else it takes the machine's address
    # in place of 127.0.0.1, where a cluster on loopback does not listen.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _parts(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise BadConfig(f"'{address}' is no address of Ray", "write HOST:PORT, ray://HOST:PORT, auto or local")
    return host, port


def _answers(host: str, port: int) -> bool:
    """Whether something speaks HTTP/2 there, as every part of Ray does (RFC 9113, section 3.4)."""
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # with settings, none of them
    with suppress(OSError), socket.create_connection((host, port), timeout=PATIENCE) as line:
        if os.environ.get("RAY_USE_TLS") == "1":
            return True
        line.settimeout(PATIENCE)
        line.sendall(hello)
        answer = line.recv(9)
        return len(answer) == 9 and answer[3] == 4
    return False


def _own_address() -> str:
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.connect(("8.8.8.8", 53))  # sends nothing, but chooses the way out
        return str(line.getsockname()[0])
    return "127.0.0.1"
