"""Epsilon against closed forms and Opacus' accountant, and noise for a target."""

from __future__ import annotations

import math
import sys
import warnings

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedseal import defense
from fedseal.defense.accounting import Guarantee, epsilon, noise_for
from fedseal.errors import BadConfig, MissingExtra


def _gaussian(noise: float, steps: int, delta: float) -> float:
    """Balle and Wang, "Improving the Gaussian mechanism", ICML 2018, Theorem 8: exact without sampling."""
    mu = math.sqrt(steps) / noise
    return float(
        brentq(
            lambda e: norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta, 0, 100, xtol=1e-10
        )
    )


@pytest.mark.parametrize(("noise", "steps", "delta"), [(1.0, 1, 1e-5), (4.0, 10, 1e-6), (20.0, 100, 1e-3)])
def test_without_sampling_it_is_the_closed_form_and_never_below(noise: float, steps: int, delta: float) -> None:
    exact = _gaussian(noise, steps, delta)
    assert exact <= epsilon(noise, 1.0, steps, delta) <= exact * 1.01


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.1, 0.01, 1000), (2.0, 0.1, 50)])
def test_with_sampling_it_agrees_with_opacus(noise: float, rate: float, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant, RDPAccountant

        found = []
        for accountant in (PRVAccountant(), RDPAccountant()):
            accountant.history = [(noise, rate, steps)]
            found.append(accountant.get_epsilon(1e-5))
    tight, loose = found
    assert epsilon(noise, rate, steps, 1e-5) == pytest.approx(tight, rel=0.02)
    assert epsilon(noise, rate, steps, 1e-5) < loose


def test_sampling_noise_and_patience_help() -> None:
    base = epsilon(1.0, 0.1, 10, 1e-5)
    assert epsilon(1.0, 0.05, 10, 1e-5) < base < epsilon(1.0, 0.1, 20, 1e-5)
    assert epsilon(2.0, 0.1, 10, 1e-5) < base < epsilon(1.0, 0.1, 10, 1e-7)


def test_next_to_no_noise_is_accounted_for_at_once() -> None:
    """Its exact distribution would take minutes."""
    assert epsilon(0.01, 1.0, 1, 1e-5) == pytest.approx(5000, rel=0.2)


@pytest.mark.parametrize(("target", "rate", "steps"), [(2.0, 1.0, 1), (8.0, 0.05, 100), (100.0, 1.0, 3)])
def test_the_noise_for_a_target_keeps_it_and_no_smaller_does(target: float, rate: float, steps: int) -> None:
    noise = noise_for(target, sample_rate=rate, steps=steps, delta=1e-5)
    assert epsilon(noise, rate, steps, 1e-5) <= target < epsilon(0.995 * noise, rate, steps, 1e-5)


def test_a_defense_for_a_target_says_what_it_runs() -> None:
    shield = defense.parse("dpsgd:epsilon=4.4,steps=1,clip=2")
    assert isinstance(shield, defense.Hooks)
    privacy = shield.privacy()
    assert privacy is not None
    assert privacy.epsilon <= 4.4
    assert shield.name == f"dpsgd:{privacy.noise_multiplier:g},clip=2"
    assert (privacy.delta, privacy.unit, privacy.sample_rate, privacy.steps) == (1e-5, "example", 1.0, 1)


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_that_means_nothing_is_refused(target: float) -> None:
    with pytest.raises(BadConfig, match="an epsilon of 0 lets nothing through"):
        noise_for(target, sample_rate=1.0, steps=1, delta=1e-5)


@pytest.mark.parametrize("figures", [(0.0, 1.0, 1e-5), (1.0, 0.0, 1e-5), (1.0, 2.0, 1e-5), (1.0, 1.0, float("nan"))])
def test_figures_out_of_range_are_refused(figures: tuple[float, float, float]) -> None:
    with pytest.raises(BadConfig):
        Guarantee(*figures)
    noise, rate, delta = figures
    with pytest.raises(BadConfig):
        epsilon(noise, rate, 1, delta)


def test_a_missing_accountant_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingExtra, match=r"dp-accounting is not installed; pip install 'fedseal\[dp\]'"):
        epsilon(1.0, 1.0, 1, 1e-5)
    assert defense.parse("dpsgd:1,clip=1").name == "dpsgd:1,clip=1"  # only the account needs it
