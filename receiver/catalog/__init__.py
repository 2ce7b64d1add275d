"""What the receiver must not forget: one SQLite file under the storage directory.

``Catalog`` is plain and synchronous and belongs to the one thread that opened it; the daemon
gives it a thread of its own. Read ``schema`` for what is kept, ``store`` for how it is kept
safe, ``rows`` for what comes out, then one file a table.
"""

from __future__ import annotations

from receiver.catalog.catalog import Catalog
from receiver.catalog.rows import (
    ActivationRow,
    CheckpointRow,
    DiskRow,
    JobRow,
    SourceRow,
    TargetIdentity,
)

__all__ = [
    "ActivationRow",
    "Catalog",
    "CheckpointRow",
    "DiskRow",
    "JobRow",
    "SourceRow",
    "TargetIdentity",
]
