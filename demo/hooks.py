"""The hooks of the demo: a second witness of what the source holds while it stands still.

The loop device is read with O_DIRECT, past the page cache: what is compared is what is on the
disk, not what the filesystem would still like to write. ``frozen.d`` runs after the freeze, when
the filesystem has written everything and nothing can follow; so whatever the engine reads before
or after the hook inside the same freeze must be the same bytes.

An image file cannot be frozen. There the writer itself stands still from ``pre-freeze.d`` to
``post-thaw.d``, and a plain copy is right, because file and copy share the page cache.
"""

from __future__ import annotations

from pathlib import Path

HEAD = "#!/bin/sh\nset -e\n"


def reference(place: Path) -> Path:
    """Where the witness is."""
    return place / "reference.img"


def taken_at(place: Path) -> int | None:
    """The epoch of the reference; None when there is none."""
    note = place / "reference.epoch"
    return int(note.read_text()) if note.exists() else None


def install(place: Path, disk: str, *, image: bool) -> None:
    """Write the hooks for a block device, or for an image file."""
    copy = reference(place)
    read = (
        f"cp --sparse=always '{disk}' '{copy}'"
        if image
        else f"dd if='{disk}' of='{copy}' bs=4M iflag=direct conv=sparse status=none"
    )
    _write(place, "frozen", f"{read}\necho \"$REPLICAD_EPOCH\" > '{place}/reference.epoch'\n")
    if image:
        wait = f"touch '{disk}.pause'\nuntil [ -e '{disk}.paused' ]; do sleep 0.01; done\n"
        _write(place, "pre-freeze", wait)
        _write(place, "post-thaw", f"rm -f '{disk}.pause'\n")


def remove_witness(place: Path) -> None:
    """Take the witness away: the next freeze is as long as an ordinary one."""
    (place / "hooks" / "frozen.d" / "demo").unlink()


def _write(place: Path, phase: str, script: str) -> None:
    hook = place / "hooks" / f"{phase}.d" / "demo"
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(HEAD + script)
    hook.chmod(0o755)
