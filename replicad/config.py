"""The configuration of ``replicad``: what ``/etc/replicad/replicad.toml`` may say.

Every key has a default, so an absent file is a valid configuration. Receiver and ports are
not here: they are learned at enrolment.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from protocol.local.config import Reads, read
from protocol.local.sections import Log, Runtime, Section
from protocol.local.values import (
    Address,
    Directory,
    Name,
    OptionalListen,
    Paths,
    auto_or,
    between,
    read_cipher,
    read_congestion,
    read_extent,
    seconds_up_to,
)
from replicad.freeze.watchdog import MOST_SECONDS

DEFAULT_PATH: Final = Path("/etc/replicad/replicad.toml")


class Source(Section, frozen=True):
    """``[source]``: the name this server enrols with, and the disks that may be copied.

    ``disks`` empty: all of them.
    """

    name: Name = msgspec.field(default_factory=socket.gethostname)
    disks: Paths = ()


class Metrics(Section, frozen=True):
    """``[metrics]``: where Prometheus finds us; ``""`` switches it off."""

    listen: OptionalListen = Address("127.0.0.1", 9870)


class Hooks(Section, frozen=True):
    """``[hooks]``: the directory that holds ``pre-freeze.d`` and its siblings."""

    directory: Directory = Path("/etc/replicad/hooks")


class Freeze(Section, frozen=True):
    """``[freeze]``: for how long this server's filesystems may stand still at a checkpoint,
    whatever freeze budget the receiver's job names."""

    longest: Annotated[float, seconds_up_to(MOST_SECONDS)] = 60.0


class State(Section, frozen=True):
    """``[state]``: what outlives a boot: identity, certificate, receiver."""

    directory: Directory = Path("/var/lib/replicad")


class RuntimeHere(Runtime, frozen=True):
    """``[runtime]`` with this daemon's default."""

    directory: Directory = Path("/run/replicad")


class Tracker(Section, frozen=True):
    """``[tracker]``: ``off`` makes every sync a compare pass."""

    enabled: Literal["auto", "off"] = "auto"


class Tuning(Section, frozen=True):
    """``[tuning]``: fixes what follows what is measured unless it is fixed (``"auto"``, here 0).

    ``extent``: bytes of one; ``senders``: that work at once, of those that the receiver offers
    connections for; ``courtesy``: whether reading steps back where others wait for a disk;
    ``cipher``: what seals frames, the fastest here unless it is fixed; ``congestion``: the
    congestion control of data connections.
    """

    extent: Annotated[int, auto_or(Reads(read_extent))] = 0
    senders: Annotated[int, auto_or(between(1, 64))] = 0
    courtesy: Literal["auto", "off"] = "auto"
    cipher: Annotated[str, Reads(read_cipher)] = "auto"
    congestion: Annotated[str, Reads(read_congestion)] = "auto"


class Config(Section, frozen=True):
    """The whole file."""

    source: Source = msgspec.field(default_factory=Source)
    metrics: Metrics = Metrics()
    hooks: Hooks = Hooks()
    freeze: Freeze = Freeze()
    state: State = State()
    runtime: RuntimeHere = RuntimeHere()
    tracker: Tracker = Tracker()
    tuning: Tuning = Tuning()
    log: Log = Log()


def load(path: Path | None = None) -> Config:
    """The configuration in ``path``; None reads :data:`DEFAULT_PATH`, which may be missing.

    Raises:
        LocalFault: CONFIGURATION, naming every wrong key with its line.
    """
    return read(path, DEFAULT_PATH, Config)
