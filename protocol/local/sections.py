"""The sections that the configurations of both daemons have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

# Evaluated when a file is read: they say how each key is judged.
from protocol.local.values import Directory, OptionalName

if TYPE_CHECKING:
    from pathlib import Path

LogFormat = Literal["auto", "json", "pretty"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every section: immutable, and every key has a default."""


class Log(Section, frozen=True):
    """``[log]``: ``auto`` is pretty on a terminal and JSON lines elsewhere."""

    format: LogFormat = "auto"
    level: LogLevel = "info"


class Runtime(Section, frozen=True):
    """``[runtime]``: what lives as long as this boot. Must be in memory, not on a copied disk.

    ``group`` may use the control socket besides root; empty: only the daemon's own group.
    """

    directory: Directory
    group: OptionalName = ""

    @property
    def control_socket(self) -> Path:
        """Where the daemon answers its commands."""
        return self.directory / "control.sock"
