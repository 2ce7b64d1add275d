"""The enrolled sources and what they offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.errors import (
    JOB_UNFINISHED,
    SOURCE_FORGOTTEN,
    SOURCE_NAME_TAKEN,
    UNKNOWN_SOURCE,
)
from receiver.catalog import rows

if TYPE_CHECKING:
    from protocol.wire.jobs import DiskInfo
    from receiver.catalog.rows import SourceRow
    from receiver.catalog.store import Store


class Sources:
    """The ``sources`` table: who may come back, known by certificate."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def enrol(
        self,
        name: str,
        *,
        fingerprint: str,
        serial: str,
        now: float,
        replaces: str = "",
    ) -> SourceRow:
        """Record a source's new certificate.

        A name that is in use is only given to the source that proves to be the present one by
        coming with its certificate (``replaces``): a code must not buy another's identity.

        Raises:
            LocalFault: SOURCE_NAME_TAKEN.
        """
        with self._store.transaction():
            # Names that differ in case only would be taken for each other by people.
            alike = self._store.one(
                "SELECT * FROM sources WHERE name = ? COLLATE NOCASE AND name <> ?"
                " AND forgotten IS NULL",
                (name, name),
            )
            if alike is not None:
                raise SOURCE_NAME_TAKEN.fault(name=alike["name"])
            row = self._store.one("SELECT * FROM sources WHERE name = ?", (name,))
            present = None if row is None or row["forgotten"] else row["certificate_fingerprint"]
            if present is not None and present != replaces:
                raise SOURCE_NAME_TAKEN.fault(name=name)
            self._store.change(
                "INSERT INTO sources (name, certificate_fingerprint, certificate_serial, enrolled)"
                " VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET"
                " certificate_fingerprint = ?2, certificate_serial = ?3, enrolled = ?4,"
                " forgotten = NULL, last_seen = NULL, inventory = '[]'",
                (name, fingerprint, serial, now),
            )
            return self.get(name)

    def with_certificate(self, fingerprint: str, name: str) -> SourceRow:
        """The source that this certificate belongs to: asked at every connection.

        Args:
            fingerprint: of the certificate that the peer proved to hold.
            name: its common name, for the sentence only.

        Raises:
            PeerFault: SOURCE_FORGOTTEN: forgotten, or enrolled anew with another certificate.
        """
        row = self._store.one(
            "SELECT * FROM sources WHERE certificate_fingerprint = ? AND forgotten IS NULL",
            (fingerprint,),
        )
        if row is None:
            raise SOURCE_FORGOTTEN.peer(name=name)
        return rows.source(row)

    def get(self, name: str) -> SourceRow:
        """The enrolled source with this name.

        Raises:
            LocalFault: UNKNOWN_SOURCE, also for one that has been forgotten.
        """
        row = self._store.one("SELECT * FROM sources WHERE name = ? AND forgotten IS NULL", (name,))
        if row is None:
            raise UNKNOWN_SOURCE.fault(name=name)
        return rows.source(row)

    def all(self) -> list[SourceRow]:
        """All enrolled sources, by name."""
        found = self._store.all("SELECT * FROM sources WHERE forgotten IS NULL ORDER BY name")
        return [rows.source(row) for row in found]

    def seen(self, name: str, now: float, *, address: str = "", software: str = "") -> None:
        """The source is connected now; empty text leaves what is known."""
        self._store.change(
            "UPDATE sources SET last_seen = ?2, address = iif(?3 = '', address, ?3),"
            " software = iif(?4 = '', software, ?4) WHERE name = ?1",
            (name, now, address, software),
        )

    def last_seen(self, name: str) -> float | None:
        """When a source was last heard, as Unix seconds; None when it never was."""
        row = self._store.one("SELECT last_seen FROM sources WHERE name = ?", (name,))
        return None if row is None else row["last_seen"]

    def offer(self, name: str, disks: tuple[DiskInfo, ...]) -> None:
        """Record the disks that the source says it has."""
        self._store.change(
            "UPDATE sources SET inventory = ? WHERE name = ?", (rows.text(disks), name)
        )

    def forget(self, name: str, now: float) -> None:
        """From now on its certificate is refused. Its finished jobs and their disks stay.

        Raises:
            LocalFault: UNKNOWN_SOURCE, or JOB_UNFINISHED: cancel that job first.
        """
        with self._store.transaction():
            self.get(name)
            job = self._store.one(
                "SELECT id FROM jobs WHERE source = ? AND state <> 'finished'", (name,)
            )
            if job is not None:
                raise JOB_UNFINISHED.fault(source=name, job=job["id"])
            self._store.change("UPDATE sources SET forgotten = ? WHERE name = ?", (now, name))
