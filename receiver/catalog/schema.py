"""The tables, as numbered steps that are never edited once released.

``PRAGMA user_version`` counts the steps that a file has been through, so a file of any
release is brought up to date by running the rest, in one transaction.

Instants are Unix seconds (REAL), sizes bytes, structures JSON text. Jobs and sources are
joined by name: a source that enrols again under its name finds its history.
"""

from __future__ import annotations

STEPS: tuple[str, ...] = (
    # 1: the first release
    """
    CREATE TABLE activations (
        label       TEXT PRIMARY KEY,
        secret_hash BLOB NOT NULL,
        uses        INTEGER NOT NULL CHECK (uses > 0),
        used        INTEGER NOT NULL DEFAULT 0 CHECK (used BETWEEN 0 AND uses),
        created     REAL NOT NULL,
        expires     REAL NOT NULL
    ) STRICT;

    CREATE TABLE sources (
        name                    TEXT PRIMARY KEY,
        certificate_fingerprint TEXT NOT NULL UNIQUE,
        certificate_serial      TEXT NOT NULL,
        enrolled                REAL NOT NULL,
        last_seen               REAL,
        address                 TEXT NOT NULL DEFAULT '',
        software                TEXT NOT NULL DEFAULT '',
        inventory               TEXT NOT NULL DEFAULT '[]',
        forgotten               REAL
    ) STRICT;

    CREATE TABLE jobs (
        id          TEXT PRIMARY KEY,
        source      TEXT NOT NULL REFERENCES sources (name),
        name        TEXT NOT NULL,
        spec        TEXT NOT NULL,
        state       TEXT NOT NULL,
        outcome     TEXT NOT NULL DEFAULT '',
        revision    INTEGER NOT NULL DEFAULT 1,
        epoch       INTEGER NOT NULL DEFAULT 0,
        held        INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)),
        wanted      TEXT,
        error       TEXT,
        report      TEXT,
        created     REAL NOT NULL,
        started     REAL,
        valid_until REAL,
        next_sync   REAL
    ) STRICT;
    CREATE UNIQUE INDEX one_unfinished_job_a_source ON jobs (source) WHERE state <> 'finished';

    CREATE TABLE disks (
        job          TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        number       INTEGER NOT NULL,
        source_path  TEXT NOT NULL,
        size         INTEGER NOT NULL CHECK (size >= 0),
        identity     TEXT NOT NULL DEFAULT '{}',
        kind         TEXT NOT NULL CHECK (kind IN ('raw', 'device')),
        intermediate TEXT NOT NULL,
        target       TEXT NOT NULL DEFAULT '{}',
        generation   TEXT NOT NULL,
        fresh        INTEGER NOT NULL CHECK (fresh IN (0, 1)),
        PRIMARY KEY (job, number),
        UNIQUE (job, source_path)
    ) STRICT;
    CREATE UNIQUE INDEX one_job_a_target ON disks (intermediate);

    CREATE TABLE checkpoints (
        job            TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        epoch          INTEGER NOT NULL CHECK (epoch > 0),
        request        TEXT NOT NULL DEFAULT '',
        consistency    TEXT NOT NULL,
        taken          TEXT NOT NULL,
        committed      REAL NOT NULL,
        frozen_seconds REAL NOT NULL,
        snapshot       TEXT,
        preserved      TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (job, epoch)
    ) STRICT;
    CREATE UNIQUE INDEX one_checkpoint_a_request ON checkpoints (job, request) WHERE request <> '';
    """,
    # an intermediate disk that is being extended, because the source's disk has grown
    """
    ALTER TABLE disks ADD COLUMN growing INTEGER;
    """,
    # the verification that is wanted of a job, and what the last one found
    """
    ALTER TABLE jobs ADD COLUMN verify TEXT;
    ALTER TABLE jobs ADD COLUMN verified TEXT;
    """,
    # why a generation was minted, and whether everything is to be sent
    """
    ALTER TABLE disks ADD COLUMN reason TEXT NOT NULL DEFAULT '';
    ALTER TABLE disks ADD COLUMN full INTEGER NOT NULL DEFAULT 0;
    """,
)

VERSION = len(STEPS)
