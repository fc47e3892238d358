"""How long a test may take: the limit of pyproject.toml, more for those that are marked slow or long."""

from __future__ import annotations

import pytest

SLOW, LONG = 1800, 14400  # seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time, and long ones more than that."""
    for item in items:
        if item.get_closest_marker("slow") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONG if item.get_closest_marker("long") else SLOW))
