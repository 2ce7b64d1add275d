"""All mutations, in the order of the data."""

from __future__ import annotations

from tests.mutations import checkpoints, freezing, gaps, leaving, sessions, wire, writes
from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    *writes.WRITES,
    *writes.ORDER,
    *gaps.GAPS,
    *gaps.BEFORE,
    *gaps.TRACKER,
    *leaving.LEAVING_OUT,
    *freezing.FREEZE,
    *freezing.ENGINE,
    *sessions.ACKS,
    *sessions.FENCES,
    *checkpoints.GENERATIONS,
    *checkpoints.CHECKPOINTS,
    *wire.DANGERS,
    *wire.WIRE,
)
