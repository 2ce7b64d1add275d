"""What a verification knows to differ, kept where a kill does not take it away.

A verification that has found damage may have hours to go. Until its end only this process knows,
and every checkpoint that it takes repairs what is known. So that this is true of the next process
as well, the ranges lie in a small file beside the dirty maps, in memory and for this boot: after
another boot everything is compared anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from protocol.local import log
from protocol.wire.jobs import DiskRange

SUFFIX = ".differs"

_log = log.get("verify")


class KeptRanges:
    """The file of a job. It is there while something is known to differ."""

    def __init__(self, directory: Path, job: str) -> None:
        self._path = directory / f"{job}{SUFFIX}"

    def recall(self) -> tuple[DiskRange, ...]:
        """What an earlier process knew."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=tuple[DiskRange, ...])
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.DecodeError) as error:
            # Whoever wants to know verifies again; the order still stands.
            _log.warning("verify.forgotten", because=str(error))
            return ()

    def keep(self, ranges: Sequence[DiskRange]) -> None:
        """Replace what is kept."""
        try:
            if not ranges:
                self._path.unlink(missing_ok=True)
                return
            fresh = self._path.with_name(f"{self._path.name}.new")
            fresh.write_bytes(msgspec.json.encode(tuple(ranges)))
            fresh.replace(self._path)
        except OSError as error:
            # It is known to this process all the same.
            _log.warning("verify.not_kept", because=error.strerror or str(error))
