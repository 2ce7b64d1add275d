"""What an administrator on the source may ask of the receiver: changes of his own job only."""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.errors import UNKNOWN_JOB, Fault
from protocol.wire.messages import Answer, Ask
from receiver.catalog import JobRow
from receiver.manager import Manager
from receiver.verification import PREFIX


async def answer(manager: Manager, source: str, ask: Ask) -> Answer:
    """Carry out an Ask.

    Raises:
        Fault: why not.
    """
    job = await manager.shelf.do(lambda catalog: catalog.jobs.unfinished_of(source))
    if ask.action == "show":
        found: Any = await _progress(manager, source, ask.request)
    elif job is None:
        raise UNKNOWN_JOB.fault(job=f"of source {source}")
    elif ask.action == "pause":
        found = await manager.act(job.id, "pause")
    elif ask.action == "resume":
        found = await manager.act(job.id, "resume")
    elif ask.action == "limit":
        found = await manager.edit(job.id, {"bandwidth": ask.bandwidth or 0})
    elif ask.action == "verify":
        _, request = await manager.verify(job.id, repair=ask.repair)
        found = {"request": request}
    else:
        _, request = await manager.checkpoint(
            job.id, hold=ask.hold, cutover=ask.action == "cutover"
        )
        found = {"request": request}
    return Answer(answers=ask.id, result=msgspec.Raw(msgspec.json.encode(found)))


async def _progress(manager: Manager, source: str, request: str) -> dict[str, Any]:
    """Where a requested checkpoint or verification stands: the job, and its result or why there
    is none."""

    def newest(catalog: Any) -> JobRow | None:
        mine = [row for row in catalog.jobs.all() if row.source == source]
        return mine[-1] if mine else None

    job = await manager.shelf.do(newest)
    if job is None:
        raise UNKNOWN_JOB.fault(job=f"of source {source}")
    found: dict[str, Any] = {"job": await manager.view(job), "result": None, "error": None}
    verify = request.startswith(PREFIX)
    wanted = job.verify if verify else job.wanted
    if request and (wanted is None or wanted.request != request):
        try:
            found["result"] = await (manager.verified if verify else manager.result)(job, request)
        except Fault as fault:
            found["error"] = fault.as_dict()
    return found
