"""How many connections a session has."""

from __future__ import annotations

import pytest

from receiver.sessions import connections_for


@pytest.mark.parametrize(
    ("cores", "round_trip", "connections"),
    [
        (1, 0.0, 2),
        (2, 0.0, 2),
        (16, 0.0, 4),
        (2, 0.001, 2),
        (2, 0.08, 4),
        (2, 0.2, 8),
        (2, 15.0, 8),
    ],
)
def test_a_long_line_has_more_connections(cores: int, round_trip: float, connections: int) -> None:
    assert connections_for(cores, round_trip) == connections
