"""How long a test may take: the limit of pyproject.toml, more for those that are marked slow."""

from __future__ import annotations

import pytest

SLOW = 1800  # seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time."""
    for item in items:
        if item.get_closest_marker("slow") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW))
