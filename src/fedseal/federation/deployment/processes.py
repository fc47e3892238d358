"""Processes that a party starts: Flower's daemons, which end with it in whatever way it ends."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedseal.errors import EngineFailure
from fedseal.federation.deployment.daemon import PARENT
from fedseal.federation.flower_environment import SILENT

GRACE = 10.0  # seconds for a process to end by itself
LOOK = 0.1  # seconds between two looks
DAEMON = "fedseal.federation.deployment.daemon"
COLORS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Child:
    """A process and its log.

    Args:
        grace: seconds that it has to end by itself, once asked.
    """

    name: str
    log: Path
    process: subprocess.Popen[bytes]
    grace: float = GRACE

    @property
    def runs(self) -> bool:
        """Whether the process is still running."""
        return self.process.poll() is None

    def log_tail(self, most: int = 4000) -> str:
        """The last bytes of the process's log."""
        try:
            return COLORS.sub("", self.log.read_bytes()[-most:].decode(errors="replace"))
        except OSError:
            return ""

    def ask(self) -> None:
        """Ask it to end."""
        if self.runs:
            self.process.terminate()

    def end(self) -> None:
        """Ask it to end, then make it."""
        self.ask()
        if self.runs:
            try:
                self.process.wait(self.grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def daemon(name: str, arguments: Sequence[str], home: Path) -> Child:
    """One of Flower's daemons, on its own.

    Args:
        home: where it keeps its state and its log.
    """
    return start(name, [sys.executable, "-m", DAEMON, name, *arguments], home)


def start(name: str, command: Sequence[str], home: Path, *, grace: float = GRACE) -> Child:
    """A process with a log, which ends with this one if it watches `FEDSEAL_PARENT`, and hears no Ctrl-C.

    Args:
        grace: seconds that it has to end by itself, once asked; more where it has children of its own to end.
    """
    home.mkdir(parents=True, exist_ok=True)
    log = home / f"{name}.log"
    environment = {
        **os.environ,
        **SILENT,
        "FLWR_HOME": str(home / "flower"),
        PARENT: str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip
    return Child(name, log, process, grace)


def free_port() -> int:
    """A port of this machine that nobody listens on at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def until_open(child: Child, port: int, seconds: float = 60.0) -> None:
    """Wait until a process listens.

    Raises:
        EngineFailure: it ended, or did not get there.
    """
    end = time.monotonic() + seconds
    while child.runs and time.monotonic() < end:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(LOOK)
    raise EngineFailure(f"'{child.name}' does not start: {last_words(child)}", f"see its log '{child.log}'")


def last_words(child: Child) -> str:
    """The line of a log that says most about its end."""
    lines = [line.strip() for line in child.log_tail().splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"[Ee]rror|[Cc]ode|refused|in use", line)]
    return (telling or lines or ["it said nothing"])[-1]
