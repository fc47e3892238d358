"""Runs one audit in processes that kill themselves, each at a later operation, until one comes to its end.

Operations are the starts of attacks, the flushes and the moves of files. The last process's record is in FOLDER;
FOLDER.log has a line for every attack that started and, at the start of every process, one with the cells that were
finished by then. With several workers, the audit's process is the one that dies.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from audit.fakes import Guess, small_case
from fedseal import audit


def main(folder: Path, workers: int) -> None:
    audit.run(small_case(1), attacks=[Guess()], out=folder.with_name("warm"))  # load what every child would load anew
    deaths = 0
    while child := os.fork():
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        deaths += 1
    else:
        work(folder, deaths, workers)
        os._exit(0)
    print(deaths)  # noqa: T201 - read by the test


def work(folder: Path, deaths: int, workers: int) -> None:
    log = folder.with_suffix(".log").open("a", buffering=1)
    finished = sorted(path.stem for path in folder.glob("cells/*.json"))
    log.write(f"start {' '.join(finished)}\n")
    # a cell has nine operations: no place in it is spared, and now and then one is finished
    left = 1 + deaths % (9 + workers)

    def operation() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    flush, move = os.fsync, os.replace

    def dying_flush(handle: int) -> None:
        operation()
        flush(handle)

    def dying_move(source: str, target: str) -> None:
        operation()
        move(source, target)
        operation()

    os.fsync, os.replace = dying_flush, dying_move  # type: ignore[assignment]

    def note(event: audit.CellProgress) -> None:
        if event.progress is None and event.cell is None:
            log.write(f"attack {event.key.id}\n")
            operation()

    attacks = [Guess(), Guess("other")]
    audit.run(small_case(2), attacks=attacks, out=folder, workers=workers, on_progress=note)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
