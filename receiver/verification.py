"""Verifications of jobs: asked for, waited for, and what they found, which is never forgotten.

A verification that found something and repaired nothing leaves a copy that is known to be wrong.
The job remembers where (``verified.differing`` in its row), says so in ``job show`` as an error,
and has its source send it before the next checkpoint. Only a repair, a checkpoint or the next
verification takes it back.
"""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from protocol.errors import JOB_STATE, VERIFY_DIFFERS, VERIFY_SUPERSEDED, Fault, from_peer
from protocol.local import crash, log
from protocol.units import format_size
from protocol.views import VerifiedView
from protocol.wire.jobs import ErrorInfo, VerifyOrder
from receiver.jobs.reports import WORKING
from receiver.jobs.states import after_action
from receiver.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from protocol.wire.messages import Verified, VerifyFailed
    from receiver.catalog import Catalog, JobRow
    from receiver.shelf import Shelf

PREFIX = "verify-"
"""Of the names of requests, so that who asks for a result gets one of this kind."""

NAMED = 3
"""Ranges that the sentence of the error names."""

_log = log.get("verify")


# --- rules: pure functions of rows ------------------------------------------------------------


def wanted_of(row: JobRow, repair: bool) -> JobRow | None:
    """The row with a verification wanted; None when it is wanted already.

    Asking twice is asking once. Who asks for a repair while one without is under way has that one
    repair as well; who waits for it gets the result of the repair.

    Raises:
        LocalFault: JOB_STATE.
    """
    state = after_action(row.id, row.state, "verify", held=row.held)
    present = row.verify
    if present is not None and (present.repair or not repair):
        return None
    request = present.request if present is not None else PREFIX + secrets.token_hex(8)
    order = VerifyOrder(request=request, repair=repair)
    return msgspec.structs.replace(row, revision=row.revision + 1, state=state, verify=order)


def answered(row: JobRow, request: str, repair: bool | None) -> JobRow | None:
    """The row without the verification that its source has answered; None when that is not what
    is wanted (now). ``repair`` None: it cannot be made, with or without."""
    order = row.verify
    if order is None or order.request != request or repair not in {None, order.repair}:
        return None
    # A job with a schedule goes back to waiting for its next sync, unless that is under way.
    rests = row.spec.every is not None and row.wanted is None and row.state in WORKING
    state = "waiting" if rests else row.state
    return msgspec.structs.replace(row, revision=row.revision + 1, state=state, verify=None)


def mended(verified: Verified | None) -> Verified | None:
    """What a verification found, after everything that differed has been sent."""
    if verified is None or not verified.differing:
        return verified
    return msgspec.structs.replace(verified, differing=(), repaired=True)


def differs(row: JobRow) -> ErrorInfo | None:
    """The error of a job whose copy is known to be wrong, for as long as it is."""
    said = row.verified
    if said is None or not said.differing:
        return None
    named = [f"{each.path} at {each.offset}+{each.length}" for each in said.ranges[:NAMED]]
    count = len(said.ranges) + said.more_ranges
    if count > NAMED:
        named.append(f"and {count - NAMED} more")
    fault = VERIFY_DIFFERS.fault(
        size=format_size(said.differing_bytes), count=count, where=", ".join(named), job=row.id
    )
    return ErrorInfo(code=fault.code, message=fault.sentence, remedy=fault.remedy)


def verified_view(said: Verified) -> VerifiedView:
    """A verification that came to its end, as it is printed."""
    return VerifiedView(
        request=said.request,
        when=said.when,
        bytes_compared=said.bytes_compared,
        differing_bytes=said.differing_bytes,
        ranges=said.ranges,
        more_ranges=said.more_ranges,
        repaired=said.repaired,
        seconds=said.seconds,
    )


# --- who asks and who waits -------------------------------------------------------------------


class Verifications:
    """Of all jobs. Lives on the loop.

    Args:
        tell: gives a job's source the order that is now in force.

    Attributes:
        compared, differing: bytes by job since this process started, for the metrics.
    """

    def __init__(
        self, shelf: Shelf, tell: Callable[[JobRow], Awaitable[None]], errors: Counter[str]
    ) -> None:
        self.compared: Counter[str] = Counter()
        self.differing: Counter[str] = Counter()
        self._shelf = shelf
        self._tell = tell
        self._errors = errors
        self._waiting: Waiting[VerifiedView] = Waiting()

    async def ask(self, find: Callable[[Catalog], JobRow], repair: bool) -> tuple[JobRow, str]:
        """Ask for a verification: the job and the request's name.

        Raises:
            LocalFault: UNKNOWN_JOB, JOB_STATE.
        """

        def record(catalog: Catalog) -> tuple[JobRow, bool]:
            with catalog.transaction():
                row = find(catalog)
                after = wanted_of(row, repair)
                return (row, False) if after is None else (catalog.jobs.save(after), True)

        job, changed = await self._shelf.do(record)
        if changed:
            await self._tell(job)
        if job.verify is None:  # it was recorded a moment ago
            raise JOB_STATE.fault(job=job.id, state=job.state, action="verified")
        return job, job.verify.request

    async def result(self, job: str, request: str) -> VerifiedView:
        """Wait until a requested verification has come to its end.

        Raises:
            Fault: why it has not.
        """
        with self._waiting.waiter(job, request) as waiter:
            row = await self._shelf.do(lambda catalog: catalog.jobs.get(job))
            if row.verify is not None and row.verify.request == request:
                return await waiter
            if row.verified is not None and row.verified.request == request:
                return verified_view(row.verified)
            detail = row.error.message if row.error else f"the job is {row.state}"
            raise VERIFY_SUPERSEDED.fault(detail=detail)

    async def verified(self, source: str, message: Verified) -> None:
        """The source has come to the end of the wanted verification."""

        def record(catalog: Catalog) -> JobRow | None:
            with catalog.transaction():
                row = catalog.jobs.find(message.job)
                if row is None or row.source != source:
                    return None
                after = answered(row, message.request, message.repair)
                if after is None:
                    return None
                return catalog.jobs.save(msgspec.structs.replace(after, verified=message))

        row = await self._shelf.do(record)
        if row is None:
            return
        crash.here("verify.recorded")
        self.compared[row.id] += message.bytes_compared
        self.differing[row.id] += message.differing_bytes
        if message.differing:
            self._errors[VERIFY_DIFFERS.code] += 1
        level = _log.warning if message.differing_bytes else _log.info
        level(
            "job.verified",
            job=row.id,
            compared_bytes=message.bytes_compared,
            differing_bytes=message.differing_bytes,
            repaired=message.repaired,
        )
        self._waiting.done(row.id, message.request, verified_view(message))
        await self._tell(row)

    async def failed(self, source: str, message: VerifyFailed) -> None:
        """The source cannot make the wanted verification."""

        def record(catalog: Catalog) -> JobRow | None:
            with catalog.transaction():
                row = catalog.jobs.find(message.job)
                if row is None or row.source != source:
                    return None
                after = answered(row, message.request, None)
                return None if after is None else catalog.jobs.save(after)

        row = await self._shelf.do(record)
        if row is None:
            return
        error = message.error
        _log.warning("verify.failed", job=row.id, code=error.code, because=error.message)
        self._errors[error.code] += 1
        fault = from_peer(error.code, error.message, error.remedy)
        self._waiting.failed(row.id, fault, message.request)
        await self._tell(row)

    def superseded(self, job: str, detail: str) -> None:
        """The job goes another way: whoever waits is told."""
        self._waiting.failed(job, VERIFY_SUPERSEDED.fault(detail=detail))

    def ended(self, job: str, fault: Fault) -> None:
        """The job has failed: whoever waits is told why."""
        self._waiting.failed(job, fault)
