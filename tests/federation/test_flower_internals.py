"""Flower's parts that are not public, as they are used: what breaks with another version says so here."""

from __future__ import annotations

import ast
import importlib
import inspect
import time
from pathlib import Path

import pytest

import fedseal
from fedseal.federation.deployment import flower_internals

pytest.importorskip("flwr")
SOURCE = Path(fedseal.__file__).parent
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation"}
# how each is called; the rest are enumerations, messages and errors
CALLED: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "flower_superlink": ((), ()),
    "flower_supernode": ((), ()),
    "start_parent_process_monitor": ((1,), ()),
    "RuntimeVersionHttpInterceptor": ((), ("component_name",)),
    "SuperExecAuthHttpInterceptor": ((), ("master_secret", "protected_methods")),
    "RuntimeTokenHttpInterceptor": (("token",), ()),
    "HeartbeatSender": ((None,), ()),
    "make_task_heartbeat_fn_http": ((None,), ()),
    "pull_task_input": ((None,), ()),
    "push_message": ((None, None, None), ()),
    "push_task_output": ((None, None, "", ""), ()),
    "build_fab_from_disk": ((Path(),), ()),
    "fab_to_proto": ((None,), ()),
    "Fab": (("", b"", {}), ()),
    "HttpGrid": ((), ("runtime_api_address", "root_certificates", "token")),
    "run_from_proto": ((None,), ()),
}
FIELDS = {
    "AcquireTaskRequest": {"supported_task_types"},
    "PullTaskInputRequest": set(),
    "PushTaskOutputRequest": {"sub_status", "details"},
    "RegisterNodeRequest": {"public_key"},
    "StartRunRequest": {"fab"},
}


@pytest.mark.parametrize("name", flower_internals.MODULES)
def test_every_part_is_where_it_is_looked_for(name: str) -> None:
    found = getattr(flower_internals, name)
    if name in CALLED:
        arguments, keywords = CALLED[name]
        inspect.signature(found).bind(*arguments, **dict.fromkeys(keywords))
    if name in FIELDS:
        assert FIELDS[name] <= {field.name for field in found.DESCRIPTOR.fields}


def test_clients_are_made_from_an_address() -> None:
    for name in ("RuntimeHttpClient", "ControlHttpClient"):
        made = inspect.signature(getattr(flower_internals, name).from_server_address)
        made.bind(server_address="", insecure=False, root_certificates=b"", interceptors=[])
    for name in ("AcquireTask", "PullTaskInput", "PushTaskOutput", "close"):
        assert callable(getattr(flower_internals.RuntimeHttpClient, name))
    for name in ("RegisterNode", "StartRun"):
        assert callable(getattr(flower_internals.ControlHttpClient, name))


def test_a_grids_patience_has_an_end() -> None:
    """A run that is over would else call a SuperLink that is gone, forever."""
    grid = flower_internals.HttpGrid(runtime_api_address="127.0.0.1:9", insecure=True, token="task")
    invoker = grid._retry_invoker
    assert invoker.max_time is None
    flower_internals.limit_patience(grid, seconds=5.0, tries=2)
    assert [invoker.max_time, invoker.max_tries] == [5.0, 2]
    assert "_runtime_client" in dir(type(grid))


def test_supernode_naps_by_the_clock_that_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loop sleeps by the name `time` of its module; asleep for three seconds, it would slow every round."""
    supernode = importlib.import_module("flwr.supernode.start_client_internal")
    assert "time.sleep(3)" in inspect.getsource(supernode)
    monkeypatch.setattr(supernode, "time", supernode.time)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    flower_internals.shorten_naps(0.5)
    supernode.time.sleep(3)
    supernode.time.sleep(0.1)
    assert slept == [0.5, 0.1]


def test_nobody_else_uses_what_is_not_public() -> None:
    used = {
        (str(path.relative_to(SOURCE)), module) for path in SOURCE.rglob("*.py") for module in _flower(path.read_text())
    }
    assert {pair for pair in used if pair[1] not in PUBLIC} == set()


def test_a_private_part_is_found() -> None:
    assert _flower("def f():\n    from flwr.supercore.run import Run\nimport flwr.app") == [
        "flwr.supercore.run",
        "flwr.app",
    ]


def _flower(code: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return sorted((name for name in found if name.split(".")[0] == "flwr"), reverse=True)
