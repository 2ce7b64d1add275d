"""Where the job stands: what is counted over all its sessions, and the report made of it.

One frozen report is the source of status, metrics, log and of what the receiver is told. It is
made by whoever asks, as often as they ask; making it changes nothing but what measures.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Final, NamedTuple

from protocol.errors import Fault
from protocol.wire.jobs import DiskRange, ErrorInfo, JobOrder, JobReport, JobState, VerifyOrder
from protocol.wire.messages import CheckpointFailed, Verified, VerifyFailed
from replicad.bell import Bell
from replicad.compression import Tuner
from replicad.convergence import Outlook
from replicad.engine.disks import DiskSet
from replicad.pace import Speedometer, remaining_seconds
from replicad.sentence import describe
from replicad.transfer import Transfer
from replicad.verification import Tally, Verification, shown

_NEWS: Final = frozenset({"job", "state", "error", "verification", "verified_order"})
"""What is news when it changes. (Of passes, who makes them says so.)"""


class News(NamedTuple):
    """Of a report, what the receiver should know at once; two are equal as long as there is nothing
    new."""

    job: str
    state: JobState
    error: tuple[str, str] | None
    passes: tuple[tuple[str, int], ...]
    verifying: bool


class Standing:
    """The job as it stands.

    Attributes:
        bell: rings when there may be news.
        job: whose standing it is; until it is that of the job that is ordered, nothing is told.
        answered: the checkpoint request that was committed or refused last.
        refusal: what the receiver must be told about ``answered``; again in every new session,
            as long as the order still wants it.
        verification: the one that is under way, or has just ended.
        verified_order, verdict: the order that was answered last, and what the receiver must be
            told about it, likewise.
        differing: what is known to differ, until a checkpoint has sent it.
        tally: of all verifications of this process.
        frozen: seconds of each freeze that was committed.
        errors: faults by code.
        outlook: whether passes converge, and what a freeze would take.
        tuner: how hard is compressed, and why.
    """

    def __init__(self, outlook: Outlook) -> None:
        self.bell = Bell()
        self.outlook = outlook
        self.tuner = Tuner()
        self.job = ""
        self.state: JobState = "ready"
        self.sentence = ""
        self.error: Fault | None = None
        self.epoch = 0
        self.answered = ""
        self.refusal: CheckpointFailed | None = None
        self.verification: Verification | None = None
        self.verified_order: VerifyOrder | None = None
        self.verdict: Verified | VerifyFailed | None = None
        self.differing: tuple[DiskRange, ...] = ()
        self.tally = Tally()
        self.frozen: list[float] = []
        self.errors: Counter[str] = Counter()
        self.reconnects = 0
        self.speed = Speedometer()
        self._logical = 0
        self._wire = 0

    def __setattr__(self, name: str, value: object) -> None:
        """Whoever sets it need not think of those who want to know."""
        news = name in _NEWS and getattr(self, name, None) is not value
        super().__setattr__(name, value)
        if news:
            self.bell.ring()

    def add(self, ended: Transfer) -> None:
        """A transfer is over: what it carried stays counted."""
        self._logical += ended.acked_bytes
        self._wire += ended.wire_bytes

    def speak_of(self, order: JobOrder) -> None:
        """From here on it is that of this order's job: another one's state and error are not."""
        if self.job != order.job:
            self.error, self.sentence = None, ""
            self.state = "preparing" if order.want == "run" else order.state
            self.job = order.job

    def forget(self) -> None:
        """Another job begins from nothing."""
        self._logical = self._wire = 0
        self.epoch = 0
        self.verification = self.verified_order = self.verdict = None
        self.differing = ()
        self.speed.restart()
        self.outlook.forget()

    def verifying(self, order: JobOrder) -> bool:
        """Whether a verification is under way now."""
        wanted = order.verify is not None and order.verify != self.verified_order
        return wanted and self.state == "syncing"

    def news(self, order: JobOrder, disks: DiskSet | None) -> News | None:
        """What is new is seen in it; None when there is no job, or its standing is not known."""
        if not order.job or order.job != self.job:
            return None
        error = (self.error.code, self.error.sentence) if self.error else None
        passes = tuple((disk.kind, disk.passed) for disk in disks.disks) if disks else ()
        verifying = self.verification is not None and self.verifying(order)
        return News(order.job, self.state, error, passes, verifying)

    def report(
        self, order: JobOrder, disks: DiskSet | None, transfer: Transfer | None
    ) -> JobReport | None:
        """The report; None when there is no job, or its standing is not known."""
        if not order.job or order.job != self.job:
            return None
        now = time.monotonic()
        listed = tuple(disk.report() for disk in disks.disks) if disks else ()
        logical = self._logical + (transfer.acked_bytes if transfer else 0)
        self.speed.sample(now, logical)
        passing = [disk for disk in listed if disk.pass_ != "idle"]  # noqa: S105 - a pass
        oldest = disks.oldest if disks else None
        lag = max(0.0, now - oldest) if oldest is not None else 0.0
        remaining = remaining_seconds(
            sum(disk.total_bytes for disk in passing),
            sum(disk.transferred_bytes for disk in passing),
            self.speed.speed,
        )
        convergence = self.outlook.look(disks, transfer, order.freeze_budget, order.bandwidth)
        doing = describe(listed, remaining, lag, convergence) if self.state == "syncing" else ""
        if self.verification is not None and self.verifying(order):
            listed, remaining, doing = shown(self.verification, listed, remaining, doing)
        return JobReport(
            job=order.job,
            revision=order.revision,
            state=self.state,
            epoch=self.epoch,
            speed_bytes_per_second=self.speed.speed,
            remaining_seconds=remaining,
            logical_bytes=logical,
            wire_bytes=self._wire + (transfer.wire_bytes if transfer else 0),
            lag_seconds=lag,
            sentence=self.sentence or doing,
            error=info(self.error) if self.error else None,
            disks=listed,
            reconnects=self.reconnects,
            tracker_misses=disks.misses if disks else 0,
            convergence=convergence,
        )


def info(fault: Fault) -> ErrorInfo:
    """A fault as it travels."""
    return ErrorInfo(code=fault.code, message=fault.sentence, remedy=fault.remedy)
