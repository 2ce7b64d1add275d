"""The configuration of ``receiver``: what ``/etc/receiver/receiver.toml`` may say.

Every key has a default, so an absent file is a valid configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from protocol.local.config import Reads, read
from protocol.local.sections import Log, Runtime, Section
from protocol.local.values import (
    Address,
    Directory,
    Listen,
    OptionalListen,
    auto_or,
    between,
    read_cipher,
    read_size,
    seconds_up_to,
)
from protocol.wire.limits import HEARTBEAT, HEARTBEAT_MAX
from receiver.grouping import MOST_SECONDS

DEFAULT_PATH: Final = Path("/etc/receiver/receiver.toml")


class ListenOn(Section, frozen=True):
    """``[listen]``: the two ports that sources dial, and ours for Prometheus (``""``: off)."""

    control: Listen = Address("0.0.0.0", 8080)  # noqa: S104 (sources come from anywhere; see TLS)
    data: Listen = Address("0.0.0.0", 8703)  # noqa: S104
    metrics: OptionalListen = Address("127.0.0.1", 9871)


class Storage(Section, frozen=True):
    """``[storage]``: catalog, authority, intermediate disks, snapshots, images."""

    directory: Directory = Path("/var/lib/receiver")


class RuntimeHere(Runtime, frozen=True):
    """``[runtime]`` with this daemon's default."""

    directory: Directory = Path("/run/receiver")


class Limits(Section, frozen=True):
    """``[limits]``: what peers together may make us hold.

    ``connections`` counts open sockets of both ports, ``handshakes`` those of one port that
    have not proved who they are, ``memory`` the bytes of pooled extent buffers: a data
    connection needs about 1 MiB of it and is refused when there is none. ``heartbeat`` is in
    seconds: each side says something so often, and who hears nothing three times as long gives
    the connection up.
    """

    connections: Annotated[int, between(1, 65_536)] = 1024
    handshakes: Annotated[int, between(1, 4096)] = 32
    memory: Annotated[int, between(16 << 20, 1 << 40, read_size)] = 256 << 20
    heartbeat: Annotated[int, between(1, int(HEARTBEAT_MAX))] = int(HEARTBEAT)


class Tuning(Section, frozen=True):
    """``[tuning]``: fixes what follows what is measured unless it is fixed (``"auto"``, here 0).

    ``connections``: data connections of each session; ``workers``: threads that serve sessions
    at a time, while no disk keeps them; ``sync``: seconds for which a group of writes forms;
    ``cipher``: the only one that is taken, otherwise the one that a source likes best.
    """

    connections: Annotated[int, auto_or(between(1, 16))] = 0
    workers: Annotated[int, auto_or(between(1, 32))] = 0
    sync: Annotated[float, auto_or(seconds_up_to(MOST_SECONDS))] = 0.0
    cipher: Annotated[str, Reads(read_cipher)] = "auto"


class Config(Section, frozen=True):
    """The whole file."""

    listen: ListenOn = ListenOn()
    storage: Storage = Storage()
    runtime: RuntimeHere = RuntimeHere()
    log: Log = Log()
    limits: Limits = Limits()
    tuning: Tuning = Tuning()


def load(path: Path | None = None) -> Config:
    """The configuration in ``path``; None reads :data:`DEFAULT_PATH`, which may be missing.

    Raises:
        LocalFault: CONFIGURATION, naming every wrong key with its line.
    """
    return read(path, DEFAULT_PATH, Config)
