"""The machine is started first: it takes longest, and nobody shall wait for it alone at the end."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves what boots a machine to the front; the order is otherwise kept."""
    items.sort(key=lambda item: item.get_closest_marker("vm") is None)
