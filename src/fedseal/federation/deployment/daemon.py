"""One of Flower's daemons as a process that ends with the party that started it.

    FEDSEAL_PARENT=PID python -m fedseal.federation.deployment.daemon NAME [ARGUMENTS]

It loads no model code: a daemon needs none, and a party waits for it. See `processes.daemon`.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NoReturn

PARENT = "FEDSEAL_PARENT"  # whose end is this process's end
NAP = 0.5  # seconds between two looks of SuperNode for a message


def _superlink() -> Callable[[], None]:
    from flwr.superlink.cli import flower_superlink

    return flower_superlink


def _supernode() -> Callable[[], None]:
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    # SuperNode sleeps three seconds whenever there is no message, and cannot be told otherwise; a round has several
    naps = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, NAP)))
    start_client_internal.time = naps  # type: ignore[attr-defined, assignment]
    return flower_supernode


DAEMONS: dict[str, Callable[[], Callable[[], None]]] = {
    "flower-superlink": _superlink,
    "flower-supernode": _supernode,
}


def run_daemon(name: str, arguments: Sequence[str]) -> NoReturn:
    """Be the daemon of that name until it ends or its parent does."""
    from flwr.supercore.app_utils import start_parent_process_monitor

    start_parent_process_monitor(int(os.environ[PARENT]))
    run = DAEMONS[name]()
    sys.argv = [name, *arguments]
    try:
        run()
    except SystemExit:
        pass
    except BaseException:  # noqa: BLE001 - its log is all that is left of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(
            1
        )  # its servers' threads would let it linger where a second refusal interrupts the answer to the first


if __name__ == "__main__":
    run_daemon(sys.argv[1], sys.argv[2:])
