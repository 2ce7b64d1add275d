"""The SQLite file: opened so that what was committed survives a power cut.

The choices, each with its reason:

* WAL with ``synchronous=FULL``: a commit is on stable storage when it returns, because a
  source is told "committed" on the strength of it (https://sqlite.org/wal.html, "Performance
  Considerations": with NORMAL a commit may roll back after a power loss).
* transactions are ``BEGIN IMMEDIATE``: the write lock is taken at the start, so a
  transaction that has read cannot fail at its first write.
* one connection, one thread (sqlite3 checks it): no lock order to think about.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from protocol.errors import CATALOG_UNUSABLE
from protocol.local import crash
from receiver.catalog import schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BUSY_TIMEOUT_MS = 5000
"""How long to wait for another process's lock, such as an administrator's ``sqlite3`` backup."""

UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What a damaged file raises. The second: sqlite3 decodes SQLite's sentence about a damaged schema,
which quotes the damage, as UTF-8."""

Value = str | bytes | int | float | None


class Store:
    """A connection with migrations done, and transactions that join when nested."""

    def __init__(self, path: Path) -> None:
        """Open, or create with mode 0600, and bring the schema up to date.

        Raises:
            LocalFault: CATALOG_UNUSABLE: no database, damaged, or of a newer release.
        """
        self._path = path
        path.touch(mode=0o600, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            self._prepare()
        except UNREADABLE as error:
            self._connection.close()
            raise CATALOG_UNUSABLE.fault(path=path, problem=str(error)) from error
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        self._connection.row_factory = sqlite3.Row
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
        ):
            self._connection.execute(f"PRAGMA {pragma}")
        self._migrate()

    def _migrate(self) -> None:
        with self.transaction():
            version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
            if version > schema.VERSION:
                raise CATALOG_UNUSABLE.fault(
                    path=self._path,
                    problem=f"it is of a newer release (schema {version}, ours {schema.VERSION})",
                )
            for step in schema.STEPS[version:]:
                # Not executescript(): that would commit the transaction first.
                for statement in filter(str.strip, step.split(";")):
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version={schema.VERSION}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; inside another transaction, a part of that one."""
        if self._within():
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            crash.here("catalog.uncommitted")
            self._connection.execute("COMMIT")
            crash.here("catalog.committed")
        except BaseException:
            # Also when the commit itself fails (disk full): a transaction that is left open
            # would swallow all later ones. SQLite may have rolled back by itself already.
            if self._within():
                self._connection.execute("ROLLBACK")
            raise

    def _within(self) -> bool:
        return self._connection.in_transaction

    def change(self, statement: str, values: Sequence[Value] = ()) -> int:
        """Run a statement that writes; how many rows it changed."""
        return self._connection.execute(statement, values).rowcount

    def one(self, statement: str, values: Sequence[Value] = ()) -> sqlite3.Row | None:
        """The first row, or None."""
        row: sqlite3.Row | None = self._connection.execute(statement, values).fetchone()
        return row

    def all(self, statement: str, values: Sequence[Value] = ()) -> list[sqlite3.Row]:
        """All rows."""
        return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Close the file; the write-ahead log is folded into it."""
        self._connection.close()
