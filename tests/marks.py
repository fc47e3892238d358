"""Marks that several tests give to their cases."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slowly(cases: Iterable[Any], slow: Collection[Any]) -> list[Any]:
    """Cases of a test, of which some take seconds: CI runs these, and `make test` leaves them out."""
    return [pytest.param(case, marks=pytest.mark.slow) if case in slow else case for case in cases]
