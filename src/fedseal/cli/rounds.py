"""Rounds of a federated training on the terminal: run, told one by one, and summed up at the end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedseal.cli import terminal

if TYPE_CHECKING:
    from fedseal.federation.federation import Federation, Trained
    from fedseal.federation.report import RoundReport


def fit_rounds(
    federation: Federation, rounds: int, *, again: str, as_json: bool, quiet: bool, **arguments: Any
) -> Trained:
    """Train, and say after every round what it gave.

    Args:
        again: how to go on after Ctrl-C, where that can be done.
        arguments: of `Federation.fit`.
    """
    done: list[RoundReport] = []

    def progress(report: RoundReport) -> None:
        done.append(report)
        if not quiet and not as_json:
            terminal.note(round_line(report, rounds))

    try:
        return federation.fit(rounds, progress=progress, **arguments)
    except KeyboardInterrupt:
        kept = f"; {again}" if again and done else ""
        raise terminal.Interrupted(f"interrupted after {len(done)} rounds{kept}") from None


def round_line(report: RoundReport, rounds: int) -> str:
    """One round for people."""
    start = f"round {report.round + 1}/{rounds}:"
    if report.failure:
        return f"{start} nothing was opened, since {report.failure}"
    figures = [f"{report.clients} owners"]
    figures += [f"training {name} {value:.4f}" for name, value in report.metrics.items()]
    figures += [f"{name} {value:.4f}" for name, value in report.validation.items()]
    sent = report.uploaded / report.clients / 1e6
    return f"{start} {', '.join(figures)}, {sent:.2f} MB from each, {report.seconds:.2f} s"


def tell_trained(trained: Trained, federation: Federation, save: Path | None, *, as_json: bool) -> None:
    """The end of a run: what it reached, and who could have read what."""
    secure = federation.secure
    if as_json:
        rounds = [report.plain() for report in trained.history]
        terminal.machine({"secure": asdict(secure), "rounds": rounds, "epsilon": trained.epsilon})
        return
    last = trained.history[-1]
    figures = ", ".join(f"{name} {value:.4f}" for name, value in last.validation.items())
    terminal.say(f"{len(trained.history)} rounds; {figures or 'no validation data'}")
    seen = {
        "plain": "the server could read every owner's update; --protocol sharing hides them",
        "sharing": f"nobody could read an owner's update unless all {secure.aggregators} aggregators collude",
        "masking": "the server could read sums only, unless it colludes with too many owners",
    }
    terminal.say(seen[secure.protocol])
    if trained.epsilon is not None:
        terminal.say(f"differential privacy of an owner: epsilon {trained.epsilon:.2f} at delta 1e-05")
    if save is not None:
        terminal.say(f"the model is in {save}")
