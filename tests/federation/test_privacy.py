"""What was spent of an owner's privacy, against the analytic Gaussian, Opacus, and sums of integers term by term."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import log_ndtr
from torch.utils.data import DataLoader, TensorDataset

from federation.small import federation
from fedseal.cli.rounds import privacy_line
from fedseal.defense.accounting import TIGHT_BELOW
from fedseal.errors import BadConfig
from fedseal.federation.federation import Calls
from fedseal.federation.keys import StoredKeys
from fedseal.federation.ledger import stored_ledger
from fedseal.federation.members import Members
from fedseal.federation.owners import gradient_step
from fedseal.federation.privacy import Spent
from fedseal.federation.protocol import Ask, Link, Reply
from fedseal.federation.secure import Secure
from fedseal.secagg import SumRelease
from fedseal.secagg.accounting import sum_epsilon

DELTA = 1e-5
WIDE = 1e6  # elements, of one owner's noise


def analytic(ratio: float, delta: float = DELTA) -> float:
    """Epsilon of the Gaussian mechanism whose sensitivity is so many of its deviations (Balle and Wang, ICML 2018)."""

    def excess(epsilon: float) -> float:
        first, second = log_ndtr(ratio / 2 - epsilon / ratio), epsilon + log_ndtr(-ratio / 2 - epsilon / ratio)
        return float(np.exp(first) - np.exp(second)) - delta

    return float(brentq(excess, 0.0, ratio**2 + 40 * ratio + 10, xtol=1e-12)) if excess(0.0) > 0 else 0.0


def release(multiplier: float, owners: int = 3) -> SumRelease:
    """Of which the noise of these owners together is so many times what one contributes."""
    return SumRelease(WIDE * math.sqrt(owners) / multiplier, WIDE, owners, 100)


@pytest.mark.parametrize("multipliers", [[1.0], [0.5], [5.0], [1.1] * 20, [0.7, 2.0, 5.0, 1.0]])
def test_epsilon_is_the_analytic_gaussians_and_never_below(multipliers: list[float]) -> None:
    ratio = math.sqrt(sum(1 / multiplier**2 for multiplier in multipliers))
    found = Spent(tuple(map(release, multipliers)))
    tight = 1.005 if found.epsilon < TIGHT_BELOW else 1.12  # above by Renyi divergences
    assert analytic(ratio) <= found.epsilon <= tight * analytic(ratio) + 0.002
    among = math.sqrt(3 / 2) * ratio  # two of three owners' noise
    assert analytic(among) <= found.among_owners <= 1.12 * analytic(among)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # Opacus's, where every unit takes part
@pytest.mark.parametrize(("multiplier", "rounds"), [(1.0, 1), (2.0, 10), (5.0, 100)])
def test_epsilon_beside_opacus(multiplier: float, rounds: int) -> None:
    """By Renyi divergences, which are a bound, and numerically, with an error of its own that it states."""
    pytest.importorskip("opacus")
    from opacus.accountants import PRVAccountant, RDPAccountant

    found = Spent((release(multiplier),) * rounds).epsilon
    renyi, numeric = RDPAccountant(), PRVAccountant()
    renyi.history = numeric.history = [(multiplier, 1.0, rounds)]
    assert found <= 1.001 * renyi.get_epsilon(delta=DELTA)
    assert found == pytest.approx(numeric.get_epsilon(delta=DELTA, eps_error=0.01, delta_error=1e-8), abs=0.03)


def test_opacus_draws_at_one_over_the_number_of_batches() -> None:
    """And not at the batch over the examples, which is what one would enter as `sample_rate`."""
    pytest.importorskip("opacus")
    from opacus.data_loader import DPDataLoader

    loader = DataLoader(TensorDataset(torch.zeros(1000, 1)), batch_size=300)
    assert DPDataLoader.from_data_loader(loader).sample_rate == 1 / 4 != 300 / 1000


def test_sums_of_integers_are_no_worse_than_what_is_said() -> None:
    """One entry, where the grid shows most: the divergence of two owners' noise and itself shifted, term by term."""
    deviation = 1000
    reach = np.arange(-9 * deviation, 9 * deviation + 1)
    one = np.exp(-(reach**2) / (2.0 * deviation**2))
    density = np.fft.irfft(np.fft.rfft(one / one.sum(), 2 * one.size) ** 2)
    for shift in (300, 1414, 4001):
        said = Spent((SumRelease(float(shift), float(deviation), 2, 1),)).epsilon
        here, there = density[shift:], density[:-shift]
        assert np.clip(here - math.exp(said) * there, 0, None).sum() <= DELTA


def test_noise_that_is_narrow_against_the_grid_is_accounted_by_the_bound() -> None:
    narrow = SumRelease(2.0, 3.0, 4, 1)
    assert Spent((narrow,)).epsilon == sum_epsilon(narrow.rho(4), DELTA)


def test_nothing_and_no_noise() -> None:
    assert Spent(()).epsilon == 0
    bare = SumRelease(0.0, 0.0, 3, 10)
    mixed = Spent((release(1.0), bare, release(1.0)))
    assert (mixed.epsilon, mixed.among_owners, mixed.rounds, mixed.bare) == (math.inf, math.inf, 3, 1)
    assert mixed.plain() == {
        "rounds": 3, "bare": 1, "trusted": 3, "delta": DELTA, "epsilon": None, "among_owners": None,
    }  # fmt: skip
    assert privacy_line(mixed, "none") == "no differential privacy: 1 of 3 rounds that owners answered had no noise"


def test_what_is_printed_names_the_change_of_data_against_whom_and_whose_noise() -> None:
    said = privacy_line(Spent((release(1.0),) * 2), "shared")
    for words in ("one owner's updates", "against zeros in their place", "after 2 rounds", "at delta 1e-05",
                  "if 3 owners of each add their noise", "against one of them"):  # fmt: skip
        assert words in said


@pytest.mark.parametrize("ratio", [0.3, 0.77, 1.0, 1.9])
def test_what_is_printed_is_never_below_what_was_spent(ratio: float) -> None:
    for rounds in range(1, 8):
        spent = Spent((release(ratio),) * rounds)
        epsilon, among = re.findall(r"(?:epsilon|add their noise;) (\d+\.\d\d)", privacy_line(spent, "none"))
        assert spent.epsilon <= float(epsilon) <= spent.epsilon + 0.01
        assert spent.among_owners <= float(among) <= spent.among_owners + 0.01


def test_every_round_counts_with_its_own_noise_also_after_a_resume(tmp_path: Path) -> None:
    """T3: four rounds without noise and one with noise; four with little and one with much."""
    much, little = Secure("sharing", clip=1.0, noise=5.0), Secure("sharing", clip=1.0, noise=0.5)
    for name, before in (("bare", Secure("sharing")), ("run", little)):
        place = tmp_path / f"{name}.safetensors"
        federation(before, rule=gradient_step()).fit(4, checkpoint=place)
        found = federation(much, rule=gradient_step()).fit(5, checkpoint=place, resume=True).privacy
        if before.noise is None:
            assert (found.epsilon, found.bare, found.rounds) == (math.inf, 4, 5)
        else:
            ratio = math.sqrt(4 / 0.5**2 + 1 / 5.0**2)
            assert analytic(ratio) <= found.epsilon <= 1.15 * analytic(ratio)
    path = place.with_name("run.safetensors.ledger.json")
    assert len(stored_ledger(path).entries) == 5
    path.unlink()  # what nobody wrote down is taken for the worst
    lost = federation(much, rule=gradient_step()).fit(6, checkpoint=place, resume=True).privacy
    assert (lost.epsilon, lost.bare, lost.rounds) == (math.inf, 5, 6)


def test_no_training_begins_over_the_account_of_one_that_spent_privacy(tmp_path: Path) -> None:
    """Begun again, it told of its own rounds alone."""
    place, noisy = tmp_path / "run.safetensors", Secure("sharing", clip=1.0, noise=5.0)
    federation().fit(1, checkpoint=place)
    spent = federation(noisy).fit(2, checkpoint=place).privacy  # before it there was none to replace
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for secure in (noisy, Secure("sharing")):
        with pytest.raises(BadConfig, match="which a new one would replace"):
            federation(secure).fit(2, checkpoint=place)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert federation(noisy).fit(3, checkpoint=place, resume=True).privacy.epsilon > spent.epsilon


class _Killed(BaseException):
    """The end of a process in which all parties were, which nothing catches."""


class _UpTo:
    """In this process; it is killed when aggregators are to open the sum, so often."""

    def __init__(self, kills: int) -> None:
        self.kills, self.answers = kills, set[bytes]()

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        self._calls = Calls({number: members.party(number) for number in (*members.clients, *members.aggregators)})
        serve(self)

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        for ask, reply in self._calls.ask(asks):
            if ask.step == "count" and self.kills:
                self.kills -= 1
                raise _Killed
            if (ask.to, ask.step) == (0, "train"):
                self.answers.add(b"".join(bytes(message) for _, message in reply.messages))
            yield ask, reply


def test_a_round_that_is_answered_anew_after_a_kill_counts_each_time(tmp_path: Path) -> None:
    """Keys in a folder outlive a simulation, and so does the session; its owners' ledgers do not."""
    team, place = federation(Secure("sharing", clip=1.0, noise=5.0)), tmp_path / "run.safetensors"
    engine = _UpTo(kills=2)
    while True:
        members = team.members_of(StoredKeys.at(tmp_path / "keys", team.secure, 4))
        try:
            found = team.fit(2, engine=engine, members=members, checkpoint=place, resume=place.exists())
            break
        except _Killed:
            continue
    assert found.privacy.rounds == len(engine.answers) == 4
