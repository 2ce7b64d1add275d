"""How the present session sends, in the words of ``status``: what was chosen, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.views import ReadingView, SendersView
from replicad.report import Sending

if TYPE_CHECKING:
    from replicad.engine.disks import DiskSet
    from replicad.transfer import Transfer


def sending(transfer: Transfer | None, disks: DiskSet | None) -> Sending:
    """What is chosen now; nothing while there is no session."""
    if transfer is None or disks is None:
        return Sending()
    ways, now = transfer.courtesies, transfer.processors
    return Sending(
        connections=transfer.connections,
        senders=SendersView(now.at_work, now.because),
        cipher=transfer.cipher,
        congestion=transfer.congestion,
        reading=tuple(
            ReadingView(disk.path, way.share, way.because)
            for disk in disks.disks
            if (way := ways.get(disk.number)) is not None
        ),
    )
