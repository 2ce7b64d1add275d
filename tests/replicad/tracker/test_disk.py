"""What sysfs says of a disk's writes that have not ended, and what is said when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicad.tracker import disk, writes_under_way


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(disk, "SYS_DEV_BLOCK", tmp_path)
    place = tmp_path / "7:1"
    (place / "queue").mkdir(parents=True)
    (place / "queue/iostats").write_text("1\n")
    return place


@pytest.mark.parametrize(("said", "there"), [("       3        0\n", False), ("0 2\n", True)])
def test_reads_do_not_count(sysfs: Path, said: str, there: bool) -> None:
    (sysfs / "inflight").write_text(said)
    assert writes_under_way(7, 1) is there


@pytest.mark.parametrize("said", ["", "0\n", "0 much\n"])
def test_what_cannot_be_understood_is_not_known(sysfs: Path, said: str) -> None:
    (sysfs / "inflight").write_text(said)
    assert writes_under_way(7, 1) is None


def test_a_disk_that_is_gone_or_does_not_count_is_not_known(sysfs: Path) -> None:
    assert writes_under_way(7, 2) is None
    (sysfs / "inflight").write_text("0 0\n")
    (sysfs / "queue/iostats").write_text("0\n")
    assert writes_under_way(7, 1) is None
    (sysfs / "inflight").write_text("0 1\n")
    assert writes_under_way(7, 1) is True
