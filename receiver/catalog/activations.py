"""Activation codes: stored as hashes, counted down under the write lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.catalog import rows

if TYPE_CHECKING:
    from receiver.catalog.rows import ActivationRow
    from receiver.catalog.store import Store


class Activations:
    """The ``activations`` table. What the hashes are of is ``receiver.activation``'s affair."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(
        self, label: str, secret_hash: bytes, *, uses: int, created: float, expires: float
    ) -> bool:
        """Keep a new code; False when its label is already taken."""
        changed = self._store.change(
            "INSERT INTO activations (label, secret_hash, uses, created, expires)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT (label) DO NOTHING",
            (label, secret_hash, uses, created, expires),
        )
        return changed == 1

    def find(self, label: str) -> tuple[ActivationRow, bytes] | None:
        """The code with this label and the hash of its secret."""
        row = self._store.one("SELECT * FROM activations WHERE label = ?", (label,))
        return None if row is None else (rows.activation(row), bytes(row["secret_hash"]))

    def count_use(self, label: str) -> bool:
        """Use the code once more; False when all its uses are gone."""
        return (
            self._store.change(
                "UPDATE activations SET used = used + 1 WHERE label = ? AND used < uses", (label,)
            )
            == 1
        )

    def all(self) -> list[ActivationRow]:
        """All codes, oldest first."""
        found = self._store.all("SELECT * FROM activations ORDER BY created, label")
        return [rows.activation(row) for row in found]

    def remove(self, label: str) -> bool:
        """Forget a code; False when there is none with this label."""
        return self._store.change("DELETE FROM activations WHERE label = ?", (label,)) == 1
