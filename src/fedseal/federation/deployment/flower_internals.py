"""All that a deployment uses of Flower beyond its public interface, `flwr.app`, `flwr.clientapp`, `flwr.serverapp` and
`flwr.simulation`.

Flower's public way to run on several hosts executes apps that come over the line, on the server's side anybody's and
at a node the server's. What a deployment here needs instead, to answer messages in a process of its own and to run its
own server code, Flower keeps in modules that it may change with any version: that is why it is pinned to one.
`tests/federation/test_flower_internals.py` holds every name and signature, and says what would no longer work.
"""

from __future__ import annotations

import importlib
import time
from types import SimpleNamespace
from typing import Any

MODULES = {  # each name with its module; loaded when it is asked for, since a daemon needs few of them
    "flower_superlink": "flwr.superlink.cli",  # run SuperLink in this process
    "flower_supernode": "flwr.supernode.cli",  # run SuperNode in this process
    "start_parent_process_monitor": "flwr.supercore.app_utils",  # end with the process that started this one
    "RuntimeHttpClient": "flwr.supercore.runtime",  # fetch tasks of a SuperLink or SuperNode
    "RuntimeVersionHttpInterceptor": "flwr.supercore.interceptors",  # ...as which component
    "SuperExecAuthHttpInterceptor": "flwr.supercore.interceptors",  # ...with a secret that others do not have
    "RuntimeTokenHttpInterceptor": "flwr.supercore.interceptors",  # ...as the holder of a task
    "AcquireTaskRequest": "flwr.proto.runtime_pb2",  # take a task
    "TaskType": "flwr.supercore.constant",
    "HeartbeatSender": "flwr.supercore.heartbeat",  # keep it
    "make_task_heartbeat_fn_http": "flwr.supercore.heartbeat",
    "PullTaskInputRequest": "flwr.proto.runtime_pb2",  # begin and end it at the model owner
    "PushTaskOutputRequest": "flwr.proto.runtime_pb2",
    "SubStatus": "flwr.common.constant",
    "pull_task_input": "flwr.supernode.runtime.run_clientapp",  # read a message at a node, answer it, and end the task
    "push_message": "flwr.supernode.runtime.run_clientapp",
    "push_task_output": "flwr.supernode.runtime.run_clientapp",
    "ControlHttpClient": "flwr.supercore.control",  # admit nodes and begin a run
    "RegisterNodeRequest": "flwr.proto.control_pb2",
    "StartRunRequest": "flwr.proto.control_pb2",
    "build_fab_from_disk": "flwr.cli.build",  # the app that a run must have
    "fab_to_proto": "flwr.common.serde",
    "Fab": "flwr.supercore.fab",
    "HttpGrid": "flwr.superlink.grid",  # send messages to nodes
    "run_from_proto": "flwr.common.serde",
    "TaskIdentity": "flwr.supercore.task_identity",
    "RunNotRunningException": "flwr.supercore.run",  # know that the run was ended
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(name)
    return getattr(importlib.import_module(MODULES[name]), name)


def limit_patience(grid: Any, *, seconds: float | None = None, tries: int | None = None) -> None:
    """How long an `HttpGrid` calls a SuperLink that does not answer; its own patience has no end."""
    invoker = grid._retry_invoker
    if seconds is not None:
        invoker.max_time = seconds
    if tries is not None:
        invoker.max_tries = tries


def client_of(grid: Any) -> Any:
    """The client with which an `HttpGrid` fetches tasks."""
    return grid._runtime_client


def shorten_naps(most: float) -> None:
    """SuperNode of this process sleeps three seconds whenever there is no message, and a round has several: less."""
    supernode = importlib.import_module("flwr.supernode.start_client_internal")
    supernode.__dict__["time"] = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, most)))
