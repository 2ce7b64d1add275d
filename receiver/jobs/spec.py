"""What an administrator wants of a job: one frozen value, checked in full when it is made.

Everything about a job that can be edited is in here, so an edit is a new value and a job's
row holds the intention (this) apart from what happened (its state).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from protocol.errors import USAGE
from protocol.wire.jobs import FreeSpacePolicy

HOUR = 3600.0

EVERY_SECONDS_MAX = 168 * HOUR
"""A week between two syncs: beyond it, a changed disk is nearly copied anew anyway."""

KEEP_MAX = 100
"""Preserved checkpoints of one job. Reflinked copies share blocks, but each one costs metadata."""

DISKS_MAX = 256
"""Disks of one job; a bound for what is decoded, far above any server seen."""

FREEZE_BUDGET_SECONDS_MAX = 600.0
"""The longest freeze that may be asked for: room for a hook that copies a disk while frozen."""

TEXT_MAX = 4096
"""Characters in a path or name (PATH_MAX of Linux)."""

EDITABLE = frozenset(
    {"bandwidth", "compress", "free_space", "freeze_budget", "every", "keep", "name", "valid"},
)
"""What ``job set`` may change while a job runs."""

Drill = Literal["none", "only", "before"]


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One job as wanted.

    Attributes:
        source: name of the enrolled source.
        name: what people call the job.
        disks: paths on the source, in the order of their numbers; empty: all that it offers.
        targets: ``raw`` or ``device:PATH`` for each disk, or one for all, or empty for ``raw``.
        start: ``now``, ``manual`` or ``at``; ``start_at`` is then Unix seconds.
        drill: whether a drill replaces (``only``) or precedes (``before``) the cutover.
        every: seconds between scheduled syncs; None: keep the copy close all the time.
        keep: preserved checkpoints to keep.
        bandwidth: bytes per second on the wire; 0: unlimited.
        compress: ``auto``, ``none`` or a zstd level ``1`` to ``19``.
        free_space: whether what nobody uses is left out: ``auto``, where that spares much.
        freeze_budget: seconds that a freeze may last.
        tunnel: name of the shared budget it draws from; empty: none.
        template: path of the drill's machine description; empty: the default.
        valid: seconds until the job expires; None: never.
    """

    source: str
    name: str = ""
    disks: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    start: Literal["now", "at", "manual"] = "now"
    start_at: float | None = None
    drill: Drill = "none"
    every: float | None = None
    keep: int = 3
    bandwidth: int = 0
    compress: str = "auto"
    free_space: FreeSpacePolicy = "auto"
    freeze_budget: float = 2.0
    tunnel: str = ""
    template: str = ""
    valid: float | None = None

    def problems(self) -> list[str]:
        """Everything that is wrong with it, each as a sentence; empty when it can be a job."""
        return [*self._disk_problems(), *self._number_problems(), *self._text_problems()]

    def _disk_problems(self) -> list[str]:
        found = []
        if len(self.disks) > DISKS_MAX or len(self.targets) > DISKS_MAX:
            found.append(f"at most {DISKS_MAX} disks make a job")
        if len(set(self.disks)) < len(self.disks):
            found.append("a disk is named twice")
        found += [f"disk {d} is not an absolute path" for d in self.disks if not d.startswith("/")]
        found += [f"target {t} is neither 'raw' nor 'device:/PATH'" for t in self._bad_targets()]
        devices = [target for target in self.targets if target != "raw"]
        if len(set(devices)) < len(devices):
            found.append("a target device is named twice")
        if devices and len(self.targets) != len(self.disks):
            found.append("with a target device, name every disk and one target for each")
        elif len(self.targets) > 1 and len(self.targets) != len(self.disks):
            found.append(f"{len(self.targets)} targets do not fit {len(self.disks)} disks")
        return found

    def _bad_targets(self) -> list[str]:
        return [
            target
            for target in self.targets
            if target != "raw" and not target.startswith("device:/")
        ]

    def _number_problems(self) -> list[str]:
        found = []
        if self.every is not None and not 1 <= self.every <= EVERY_SECONDS_MAX:
            found.append("every: from 1 second to 168 hours")
        if not 1 <= self.keep <= KEEP_MAX:
            found.append(f"keep: from 1 to {KEEP_MAX}")
        if not 0 <= self.bandwidth < 1 << 53:
            found.append("bandwidth: 0 (unlimited) or bytes per second")
        if not 0 < self.freeze_budget <= FREEZE_BUDGET_SECONDS_MAX:
            found.append(f"freeze_budget: above 0 and up to {FREEZE_BUDGET_SECONDS_MAX:g} seconds")
        if self.valid is not None and not 0 < self.valid < 1 << 40:
            found.append("valid: seconds above 0")
        if (self.start == "at") != (self.start_at is not None):
            found.append("start: 'at' needs a time, and only 'at' has one")
        return found

    def _text_problems(self) -> list[str]:
        texts = (self.source, self.name, self.tunnel, self.template, *self.disks, *self.targets)
        found = []
        if not self.source:
            found.append("source: missing")
        if any(len(text) > TEXT_MAX or not text.isprintable() for text in texts):
            found.append(f"names and paths are printable and at most {TEXT_MAX} characters")
        level = self.compress.isdecimal() and self.compress.isascii() and len(self.compress) < 3
        if self.compress not in {"auto", "none"} and not (level and 1 <= int(self.compress) <= 19):
            found.append("compress: auto, none or 1 to 19")
        return found

    def target_of(self, number: int) -> str:
        """``raw`` or ``device:PATH`` for the disk with this number."""
        if not self.targets:
            return "raw"
        return self.targets[number if len(self.targets) > 1 else 0]


def checked(spec: JobSpec) -> JobSpec:
    """``spec`` itself if it can be a job.

    Raises:
        LocalFault: USAGE, naming all problems at once.
    """
    problems = spec.problems()
    if problems:
        raise USAGE.fault(problem="; ".join(problems))
    return spec


def edited(spec: JobSpec, changes: dict[str, Any]) -> JobSpec:
    """``spec`` with ``job set``'s changes, values being of the field's own type and unit.

    Raises:
        LocalFault: USAGE for a key that cannot be edited or a value that does not fit.
    """
    fixed = sorted(changes.keys() - EDITABLE)
    if fixed:
        allowed = ", ".join(sorted(EDITABLE))
        raise USAGE.fault(problem=f"{', '.join(fixed)} cannot be set (can be: {allowed})")
    try:
        return checked(msgspec.convert({**msgspec.structs.asdict(spec), **changes}, JobSpec))
    except msgspec.ValidationError as error:
        raise USAGE.fault(problem=str(error)) from error
