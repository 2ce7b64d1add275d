"""What sources say of their jobs, and how many bytes came: the living part of ``job show``.

A source is believed about its own job only. Its last word is also kept in the catalog, with the
bytes of all sessions so far, so that ``job show`` goes on where it was after a restart.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from protocol.errors import UNKNOWN_JOB

if TYPE_CHECKING:
    from protocol.wire.jobs import JobReport
    from receiver.catalog import JobRow
    from receiver.grouping import Grouping
    from receiver.sessions import Sessions

KEEP_REPORT_SECONDS = 10.0
"""Between writes of a source's report to the catalog, where it outlives the daemon."""


class Figures:
    """Live reports and byte counts by job. Lives on the loop.

    Attributes:
        sessions: set by the daemon; counts the bytes.
    """

    def __init__(self) -> None:
        self.sessions: Sessions
        self._reports: dict[str, JobReport] = {}
        self._owners: dict[str, str] = {}
        self._kept: dict[str, float] = {}
        self._before: dict[str, tuple[int, int]] = {}

    def report(self, job: JobRow) -> JobReport | None:
        """The source's last word, live or stored."""
        live, stored = self._reports.get(job.id), job.report
        if live is not None and not live.disks and stored is not None:
            # A source that was restarted while nothing is wanted of it has not opened its disks.
            return msgspec.structs.replace(live, disks=stored.disks)
        return live or stored

    def owner(self, job: str) -> str | None:
        """The source of a job whose reports are taken; None before :meth:`adopt`."""
        return self._owners.get(job)

    def adopt(self, job: JobRow) -> None:
        """Take reports of this job, from its source only."""
        self._owners[job.id] = job.source
        self.received(job)

    def take(self, source: str, report: JobReport) -> JobReport | None:
        """A source's word: what to keep in the catalog now, or None when that can wait.

        Raises:
            PeerFault: UNKNOWN_JOB: it is not this source's.
        """
        if self._owners.get(report.job) != source:
            raise UNKNOWN_JOB.peer(job=report.job)
        known = self._reports.get(report.job)
        self._reports[report.job] = report
        now = time.monotonic()
        same = known is not None and (known.state, known.error, known.revision) == (
            report.state,
            report.error,
            report.revision,
        )
        if same and now - self._kept.get(report.job, 0.0) < KEEP_REPORT_SECONDS:
            return None
        self._kept[report.job] = now
        logical, wire = self._received(report.job)
        return msgspec.structs.replace(report, logical_bytes=logical, wire_bytes=wire)

    def received(self, job: JobRow) -> tuple[int, int]:
        """Logical and wire bytes that all of a job's sessions have received."""
        if job.id not in self._before:
            stored = job.report
            self._before[job.id] = (stored.logical_bytes, stored.wire_bytes) if stored else (0, 0)
        return self._received(job.id)

    def since_start(self, job: str) -> tuple[int, int]:
        """The same since this process started: a counter that only a restart resets."""
        return self.sessions.bytes_of(job)

    def _received(self, job: str) -> tuple[int, int]:
        before = self._before.get(job, (0, 0))
        logical, wire = self.sessions.bytes_of(job)
        return before[0] + logical, before[1] + wire

    def grouping(self, job: str) -> Grouping | None:
        """How its data is brought to stable storage; None while no session is open."""
        session = self.sessions.of_job(job)
        return session.grouping if session is not None else None

    def last_words(self) -> list[JobReport]:
        """The reports of all jobs, with their bytes: to be kept when the daemon ends."""
        return [
            msgspec.structs.replace(report, logical_bytes=count[0], wire_bytes=count[1])
            for report in self._reports.values()
            for count in [self._received(report.job)]
        ]

    def forget(self, job: str) -> None:
        """A job is deleted."""
        for kept in (self._reports, self._owners, self._kept, self._before):
            kept.pop(job, None)
