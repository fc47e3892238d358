"""The command line, one file a verb."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """The `fedseal` command: exit code 0, 1 for a finding above a threshold, 2 for bad input, 130 for Ctrl-C."""
    # Loading torch takes seconds; until Ctrl-C can be answered with a sentence, it ends the process without a word.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `fedseal recipes | head` ends as quietly as `cat` would
    from fedseal.cli.app import run_command

    signal.signal(signal.SIGINT, interrupt)
    sys.exit(run_command(sys.argv[1:]))
