"""One of Flower's daemons as a process that ends with the party that started it.

    FEDSEAL_PARENT=PID python -m fedseal.federation.deployment.daemon NAME [ARGUMENTS]

It loads no model code: a daemon needs none, and a party waits for it. See `processes.daemon`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from fedseal.federation.deployment import flower_internals

PARENT = "FEDSEAL_PARENT"  # whose end is this process's end
NAP = 0.5  # seconds between two looks of SuperNode for a message


def _superlink() -> Callable[[], None]:
    return flower_internals.flower_superlink  # type: ignore[no-any-return]


def _supernode() -> Callable[[], None]:
    flower_internals.shorten_naps(NAP)
    return flower_internals.flower_supernode  # type: ignore[no-any-return]


DAEMONS: dict[str, Callable[[], Callable[[], None]]] = {
    "flower-superlink": _superlink,
    "flower-supernode": _supernode,
}


def run_daemon(name: str, arguments: Sequence[str]) -> NoReturn:
    """Be the daemon of that name until it ends or its parent does."""
    flower_internals.start_parent_process_monitor(int(os.environ[PARENT]))
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
