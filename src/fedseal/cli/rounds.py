"""Rounds of a federated training on the terminal: run, told one by one, and summed up at the end."""

from __future__ import annotations

from dataclasses import asdict
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedseal.cli import terminal
from fedseal.errors import FedsealError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedseal.federation.federation import Federation, Trained
    from fedseal.federation.gossip import Gossip
    from fedseal.federation.privacy import Spent
    from fedseal.federation.report import RoundReport
    from fedseal.federation.secure import Secure
    from fedseal.secagg import Ledger


INSIDE = {"shared": ", statistics included,", "local": ", without its statistics, which are not sent,", "none": ""}


def fit_rounds(
    federation: Federation | Gossip, rounds: int, *, again: str, as_json: bool, quiet: bool, **arguments: Any
) -> Trained:
    """Train, and say after every round what it gave; of a training that breaks off, who could have read what.

    Args:
        again: how to go on after Ctrl-C, where that can be done.
        arguments: of `Federation.fit`.
    """
    done: list[RoundReport] = []
    account: list[tuple[Sequence[RoundReport], Ledger | None]] = []
    if federation.topology == "gossip":  # which adds nothing up, and keeps no ledger
        account.append((done, None))
    else:
        arguments["account"] = lambda history, ledger: account.append((history, ledger))

    def progress(report: RoundReport) -> None:
        done.append(report)
        if not quiet and not as_json:
            terminal.note(round_line(report, rounds))

    try:
        return federation.fit(rounds, progress=progress, **arguments)
    except KeyboardInterrupt:
        _tell_broken_off(federation, account, as_json=as_json)
        kept = f"; {again}" if again and done else ""
        raise terminal.Interrupted(f"interrupted after {len(done)} rounds{kept}") from None
    except FedsealError:
        _tell_broken_off(federation, account, as_json=as_json)
        raise


def _tell_broken_off(
    federation: Federation | Gossip, account: Sequence[tuple[Sequence[RoundReport], Ledger | None]], *, as_json: bool
) -> None:
    """Who could have read what, and what was spent, of a training without a model at its end: beside its error.

    Args:
        account: the rounds and the ledger, as far as they came; empty where none began.
    """
    from fedseal.federation.privacy import Spent
    from fedseal.federation.report import RoundReport

    for history, ledger in account if not as_json else ():
        entries = () if ledger is None else ledger.entries
        rounds = list(history)
        if any(entry.round >= len(rounds) for entry in entries):  # an owner answered, and the round did not end
            rounds.append(RoundReport(len(rounds), 0, 0, uploaded=1, failure="it did not end"))
        if rounds:
            for line in _what_was_given(federation, rounds, Spent(tuple(entry.release for entry in entries))):
                terminal.note(line)


def _what_was_given(federation: Federation | Gossip, history: Sequence[RoundReport], privacy: Spent) -> list[str]:
    """Who could have read what in these rounds, and what they spent of an owner's privacy, if any had noise."""
    secure, noisy = federation.secure, bool(privacy.rounds) and not privacy.bare
    lines = who_could_read(secure, history, federation.topology, noisy=noisy)
    if secure.noise is not None or privacy.bare < privacy.rounds:
        lines.append(privacy_line(privacy, secure.statistics))
    return lines


def round_line(report: RoundReport, rounds: int) -> str:
    """One round for people."""
    start = f"round {report.round + 1}/{rounds}:"
    refused = [f"{who} ({kind})" for who, kind in report.refused.items()]
    beside = f"; refused: {', '.join(refused)}" if refused else ""
    if report.failure:
        return f"{start} nothing was opened, since {report.failure}{beside}"
    figures = [f"{report.clients} owners"]
    figures += [f"training {name} {value:.4f}" for name, value in report.metrics.items()]
    figures += [f"{name} {value:.4f}" for name, value in report.validation.items()]
    sent = report.uploaded / report.clients / 1e6
    return f"{start} {', '.join(figures)}, {sent:.2f} MB from each, {report.seconds:.2f} s{beside}"


def who_could_read(
    secure: Secure, history: Sequence[RoundReport], topology: str = "star", *, noisy: bool = False
) -> list[str]:
    """Sentences on who could have read an owner's update in these rounds, by their smallest cohort.

    Of a model owner who breaks the protocol they say nothing: one that sends the same model in two rounds gets two sums
    that may differ by one update, see docs/secagg.md.

    Args:
        noisy: whether every round had noise, those before a resume included.
    """
    cohorts = [report.clients for report in history if not report.failure]
    if not any(report.uploaded for report in history) and not cohorts:
        return ["no owner answered, and nobody could read an update"]
    if topology == "gossip":
        return [
            "every owner could read its neighbors' weights, and so their updates: those of the first round exactly, "
            "later ones as far as it can guess what its neighbors were sent by others"
        ]
    if secure.protocol == "plain":
        return ["the server could read every owner's update; --protocol sharing hides them"]
    if secure.protocol == "ring":
        if secure.minimum == 2:  # a ring's cohort is all of it
            return ["either owner could read the other's update, as of two owners under any protocol"]
        reader = "every owner could read a part of the update of the owner before it, and sums of few"
        return [f"{reader}; --protocol masking hides them"]
    asked = [report.colluders for report in history if report.uploaded and report.colluders is not None]
    weakest = by_colluding(secure, min(asked, default=None))
    if not cohorts:
        return [f"no sum was opened; {weakest}"]
    return [weakest, _by_subtracting(min(cohorts), noisy=noisy)]


def by_colluding(secure: Secure, few: int | None = None) -> str:
    """Who would have to hand over more than the protocol asks; of `masking` for the fewest who may take part.

    Args:
        few: how many suffice in some round, where a training went on on other terms; None for what these terms ask.
    """
    if secure.protocol == "masked_ring":
        return "owners who follow the protocol could read the sum of all only"
    few = secure.colluders if few is None else min(few, secure.colluders)
    if secure.protocol == "sharing":
        *first, last = [f"aggregator {place}" for place in range(few)]
        return (
            f"nobody who follows the protocol could read an owner's update unless {', '.join(first)} and {last} collude"
        )
    who = "of one owner's neighbors" if secure.degree else "owners"
    alone = f"colludes with {few} or more {who}" if few else "colludes with an owner"
    return f"a server that follows the protocol could read sums only, unless it {alone}"


def _by_subtracting(cohort: int, *, noisy: bool) -> str:
    """What owners of the smallest sum can do with what all are told."""
    left = ", which has the noise of --dp in it" if noisy else ""
    if cohort == 2:
        return f"a round added up 2 owners: either could subtract its own update and read the other's{left}"
    return (
        f"the smallest round added up {cohort} owners: {cohort - 1} of them together could subtract theirs and read "
        f"the last one's{left}"
    )


def privacy_line(privacy: Spent, statistics: str) -> str:
    """What was spent of an owner's privacy: by which change of data, against whom, and on whose word.

    Args:
        statistics: as of `Secure`.
    """
    if not privacy.rounds:
        return "no owner answered, and nothing was spent of an owner's privacy"
    if privacy.bare:
        return f"no differential privacy: {privacy.bare} of {privacy.rounds} rounds that owners answered had no noise"
    alone = privacy.among_owners
    among = f"{written_epsilon(alone)} against one of them" if isfinite(alone) else "none against them"
    return (
        f"differential privacy of one owner's updates{INSIDE[statistics]} against zeros in their place: epsilon "
        f"{written_epsilon(privacy.epsilon)} at delta {privacy.delta:g} after {privacy.rounds} rounds against who sees "
        f"all sums, if {privacy.trusted} owners of each add their noise; {among}"
    )


def written_epsilon(value: float) -> str:
    """In hundredths, rounded up: what is printed is never below what was spent.

    >>> written_epsilon(1.231), written_epsilon(1.23)
    ('1.24', '1.23')
    """
    found = f"{value:.2f}"
    return found if float(found) >= value else f"{ceil(value * 100) / 100:.2f}"


def tell_trained(trained: Trained, federation: Federation | Gossip, save: Path | None, *, as_json: bool) -> None:
    """The end of a run: what it reached, and who could have read what."""
    secure = federation.secure
    if as_json:
        rounds = [report.plain() for report in trained.history]
        privacy = trained.privacy.plain()
        said = {
            "topology": federation.topology,
            "secure": asdict(secure),
            "rounds": rounds,
            "epsilon": privacy["epsilon"],
            "privacy": privacy,
        }
        terminal.machine(said | {"ended": trained.ended})
        return
    if trained.ended:
        terminal.say(f"the training ended after round {len(trained.history)}: {trained.ended}")
    last = trained.history[-1]
    figures = ", ".join(f"{name} {value:.4f}" for name, value in last.validation.items())
    terminal.say(f"{len(trained.history)} rounds; {figures or 'no validation data'}")
    for line in _what_was_given(federation, trained.history, trained.privacy):
        terminal.say(line)
    if save is not None:
        terminal.say(f"the model is in {save}")
