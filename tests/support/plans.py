"""What happens to the line in a seed.

The same integer gives the same :class:`Plan` on every machine: which troubles, to which connections
of which port, when, and for how long. Seeds in a row go through all kinds of trouble.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from protocol.wire.data import HELLO_SIZE
from tests.support.trouble import Port, Trouble

MOST = {("data", True): 1 << 20, ("data", False): 200, ("control", True): 1000}
"""Bytes from now on within which something happens: answers are small, and so is all control."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens in a seed.

    Attributes:
        kind: the trouble that the seed is about; it may have others beside it.
        seconds: for how long, after which the line is quiet.
        ask: when a checkpoint is asked for.
        troubles: when each is let loose.
        cuts: when all connections of a port are cut, so that new ones are made.
    """

    seed: int
    kind: str
    seconds: float
    ask: float
    troubles: tuple[tuple[float, Trouble], ...]
    cuts: tuple[tuple[float, Port], ...]


def plan(seed: int) -> Plan:
    """The plan of a seed."""
    chance = Random(seed)
    kind = tuple(KINDS)[seed % len(KINDS)]
    seconds = chance.uniform(0.5, 1.5)
    troubles = [(chance.uniform(0, 0.3), KINDS[kind](chance))]
    cuts: list[tuple[float, Port]] = []
    if kind == "everything":
        for _ in range(6):
            other = chance.choice(tuple(KINDS))
            troubles.append((chance.uniform(0, seconds), KINDS[other](chance)))
        cuts.append((chance.uniform(0, seconds), "control"))
    elif chance.random() < 0.4:
        troubles.append((chance.uniform(0, seconds), KINDS[chance.choice(BESIDE)](chance)))
    # Where a new connection is meant one must be made.
    cuts += [(when + 0.05, trouble.port) for when, trouble in troubles if trouble.new]
    ask = chance.uniform(0, seconds)
    in_time = tuple(sorted(troubles, key=lambda pair: pair[0]))
    return Plan(seed, kind, seconds, ask, in_time, tuple(sorted(cuts)))


# --- the kinds ---------------------------------------------------------------------------------


def _place(chance: Random, kind: str, port: Port, up: bool | None, by: float) -> Trouble:
    """To a connection that stands, some bytes from now: most often few."""
    way = chance.random() < 0.5 if up is None else up
    most = MOST.get((port, way), 300)
    at = int(most ** chance.random())
    return Trouble(kind, way, at, by, which=chance.randrange(8), port=port)


def _at_once(chance: Random, kind: str, port: Port, by: float) -> Trouble:
    up, which = chance.random() < 0.5, chance.randrange(8)
    return Trouble(kind, up, 0, by, which=which, port=port)


def _frame(chance: Random, kind: str) -> Trouble:
    """To a frame of the source's, or of the receiver's."""
    which, bit = chance.randrange(8), chance.randrange(1 << 10)
    return Trouble(kind, chance.random() < 0.6, chance.randrange(4), bit, which=which)


def _hello(chance: Random, kind: str) -> Trouble:
    """Within the hello of the next data connection."""
    return Trouble(kind, True, chance.randrange(HELLO_SIZE), chance.randrange(1024), new=True)


def _bit(chance: Random) -> float:
    return float(chance.randrange(8))


def _amount(chance: Random) -> float:
    return float(int(5000 ** chance.random()))


KINDS: Final[dict[str, Callable[[Random], Trouble]]] = {
    "data: cut by reset": lambda c: _place(c, "cut", "data", None, 1),
    "data: cut by end": lambda c: _place(c, "cut", "data", None, 0),
    "data: flip up": lambda c: _place(c, "flip", "data", True, _bit(c)),
    "data: flip down": lambda c: _place(c, "flip", "data", False, _bit(c)),
    "data: flip length": lambda c: _frame(c, "flip length"),
    "data: flip tag": lambda c: _frame(c, "flip tag"),
    "data: lose": lambda c: _place(c, "lose", "data", None, _amount(c)),
    "data: replay": lambda c: _place(c, "replay", "data", None, _amount(c)),
    "data: frame twice": lambda c: _frame(c, "twice"),
    "data: frames swapped": lambda c: _frame(c, "swap"),
    "data: swallow up": lambda c: _place(c, "swallow", "data", True, 0),
    "data: swallow down": lambda c: _place(c, "swallow", "data", False, 0),
    "data: vanish": lambda c: _place(c, "vanish", "data", None, 0),
    "data: delay": lambda c: _at_once(c, "delay", "data", c.uniform(0.01, 0.2)),
    "data: slow": lambda c: _at_once(c, "rate", "data", 10 ** c.uniform(4, 6)),
    "data: dribble": lambda c: _place(c, "rate", "data", None, c.uniform(50, 500)),
    "data: stall up": lambda c: _place(c, "stall", "data", True, c.uniform(0.5, 2)),
    "data: stall down": lambda c: _place(c, "stall", "data", False, c.uniform(0.5, 2)),
    "data: overtaken": lambda c: Trouble("stall", True, HELLO_SIZE, c.uniform(0.5, 2), new=True),
    "data: late": lambda c: Trouble("late", True, 0, c.uniform(0.3, 2), new=True),
    "data: hello cut": lambda c: _hello(c, "cut"),
    "data: hello flipped": lambda c: _hello(c, "flip"),
    "data: hello swallowed": lambda c: _hello(c, "swallow"),
    "control: cut": lambda c: _place(c, "cut", "control", None, c.randrange(2)),
    "control: flip": lambda c: _place(c, "flip", "control", None, _bit(c)),
    "control: swallow": lambda c: _place(c, "swallow", "control", None, 0),
    "control: vanish": lambda c: _place(c, "vanish", "control", None, 0),
    "control: dribble": lambda c: _place(c, "rate", "control", None, c.uniform(50, 500)),
    "control: delay": lambda c: _at_once(c, "delay", "control", c.uniform(0.01, 0.2)),
    "everything": lambda c: _place(c, "vanish", "data", None, 0),
}
"""What a seed can be about; "everything" is several of the others at once."""

BESIDE: Final = ("data: delay", "data: slow", "control: delay", "data: cut by reset")
"""What may happen beside it."""
