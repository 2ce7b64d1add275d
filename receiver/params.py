"""What the methods of the receiver's control socket take: decoded and checked by msgspec."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from protocol.errors import USAGE
from protocol.units import parse_instant
from protocol.wire.jobs import FreeSpacePolicy
from receiver.jobs.spec import JobSpec, checked


class Params(msgspec.Struct, frozen=True):
    """Base of all parameters."""


class CreateActivation(Params, frozen=True):
    """``activation.create``."""

    uses: int = 1
    valid_seconds: float = 7 * 86400.0


class Named(Params, frozen=True):
    """A source by name."""

    name: str


class Job(Params, frozen=True):
    """A job by id, beginning of an id, or name."""

    job: str


class MaybeJob(Params, frozen=True):
    """A job, or all of them."""

    job: str | None = None


class JobDisk(Params, frozen=True):
    """A disk of a job, by its path on the source or its number."""

    job: str
    disk: str


class SetJob(Params, frozen=True):
    """``job.set``: new values by field of the specification."""

    job: str
    changes: dict[str, Any]


class CheckpointJob(Params, frozen=True):
    """``job.checkpoint`` and ``job.cutover``."""

    job: str
    wait: bool = False
    hold: bool = False


class VerifyJob(Params, frozen=True):
    """``job.verify``."""

    job: str
    wait: bool = False
    repair: bool = False


class Start(msgspec.Struct, frozen=True):
    """When a job starts; ``at`` is RFC 3339."""

    kind: Literal["now", "at", "manual"] = "now"
    at: str | None = None


class Target(msgspec.Struct, frozen=True):
    """Where one disk is copied to."""

    kind: Literal["raw", "device"] = "raw"
    path: str = ""


class CreateJob(Params, frozen=True):
    """``job.create``."""

    source: str
    name: str = ""
    disks: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    start: Start = Start()
    every: float | None = None
    keep: int = 3
    bandwidth: int = 0
    compress: str = "auto"
    free_space: FreeSpacePolicy = "auto"
    freeze_budget: float = 2.0
    valid_seconds: float | None = None

    def spec(self) -> JobSpec:
        """What is wanted, checked.

        Raises:
            LocalFault: USAGE.
        """
        try:
            at = None if self.start.at is None else parse_instant(self.start.at).timestamp()
        except ValueError as error:
            raise USAGE.fault(problem=str(error)) from error
        targets = tuple(
            "raw" if target.kind == "raw" else f"device:{target.path}" for target in self.targets
        )
        return checked(
            JobSpec(
                source=self.source,
                name=self.name,
                disks=self.disks,
                targets=targets,
                start=self.start.kind,
                start_at=at,
                every=self.every,
                keep=self.keep,
                bandwidth=self.bandwidth,
                compress=self.compress,
                free_space=self.free_space,
                freeze_budget=self.freeze_budget,
                valid=self.valid_seconds,
            )
        )
