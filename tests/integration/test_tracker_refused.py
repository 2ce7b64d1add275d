"""What cannot be tracked is refused, and a start that fails leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicad.tracker import CannotTrack, EbpfTracker, TrackerUnavailable, libbpf, pin_directory
from replicad.tracker import disk as block
from tests.replicad.tracker.devices import MIB, loop_device

pytestmark = pytest.mark.root


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    with loop_device(tmp_path / "image", 64 * MIB) as path:
        yield path


def test_a_failed_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor, so no program either: an open link is an attached program."""
    runtime = tmp_path / "run"
    runtime.mkdir()
    real = libbpf.Libbpf.pin

    def refused(self: libbpf.Libbpf, fd: int, path: Path) -> None:
        if path.name == "link_rq_complete_0_2":
            raise libbpf.LibbpfError(1, "pinning")
        real(self, fd, path)

    monkeypatch.setattr(libbpf.Libbpf, "pin", refused)
    with contextlib.suppress(TrackerUnavailable):
        EbpfTracker.open(pin_directory(runtime), runtime)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TrackerUnavailable):
        EbpfTracker.open(pin_directory(runtime), runtime)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not pin_directory(runtime).exists()


@pytest.mark.parametrize(
    ("name", "content", "because"),
    [("dax", "1", "DAX"), ("zoned", "host-managed", "zones"), ("zoned", "none", None)],
)
def test_what_is_written_unseen_is_refused(
    tmp_path: Path,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str,
    because: str | None,
) -> None:
    """Memory that programs write to, and appends of which nobody says where they went."""
    number = os.stat(device).st_rdev
    place = tmp_path / f"{os.major(number)}:{os.minor(number)}"
    (place / "queue").mkdir(parents=True)
    (place / "size").write_text("2048")
    (place / "queue" / name).write_text(f"{content}\n")
    monkeypatch.setattr("replicad.tracker.disk.SYS_DEV_BLOCK", tmp_path)
    if because is None:
        assert block.inspect(device).bio_based
    else:
        with pytest.raises(CannotTrack, match=because):
            block.inspect(device)
