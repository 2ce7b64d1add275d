from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.diskidentity import compare_identity
from protocol.errors import LocalFault
from protocol.wire.jobs import DiskIdentity, DiskInfo
from replicad.inventory import disks_of, inventory_report, parse_export

if TYPE_CHECKING:
    from pathlib import Path

MARK = st.sampled_from(["", "a", "b"])
IDENTITIES = st.builds(
    DiskIdentity,
    serial=MARK,
    wwn=MARK,
    partition_table=MARK,
    filesystems=st.sets(st.sampled_from(["u", "v", "w"])).map(lambda found: tuple(sorted(found))),
)
FULL = DiskIdentity(serial="S1", wwn="W1", partition_table="P1", filesystems=("F1", "F2"))


def disk(identity: DiskIdentity, size: int = 100) -> DiskInfo:
    return DiskInfo(path="/dev/vdb", size=size, kind="disk", identity=identity)


@given(IDENTITIES)
def test_a_disk_is_itself(identity: DiskIdentity) -> None:
    assert compare_identity(identity, 100, disk(identity)) is None


@given(IDENTITIES, IDENTITIES)
def test_the_strongest_mark_that_both_have_decides(one: DiskIdentity, two: DiskIdentity) -> None:
    answer = compare_identity(one, 100, disk(two))
    for before, after in (
        (one.serial, two.serial),
        (one.wwn, two.wwn),
        (one.partition_table, two.partition_table),
    ):
        if before and after:
            assert (answer is None) == (before == after)
            return


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (DiskIdentity(serial="S2", filesystems=("F1",)), "its serial number is S2"),
        (DiskIdentity(wwn="W2"), "its WWN is W2"),
        (DiskIdentity(partition_table="P2"), "its partition table is P2"),
        (DiskIdentity(filesystems=("F3",)), "it holds the filesystems F3"),
        (DiskIdentity(), "it bears none of the marks"),
    ],
)
def test_another_disk_is_described(now: DiskIdentity, sentence: str) -> None:
    assert sentence in (compare_identity(FULL, 100, disk(now)) or "")


def test_a_repartitioned_disk_is_still_the_disk() -> None:
    now = DiskIdentity(serial="S1", partition_table="new", filesystems=("new",))
    assert compare_identity(FULL, 100, disk(now)) is None


def test_one_filesystem_in_common_is_enough() -> None:
    before = DiskIdentity(filesystems=("F1", "F2"))
    assert compare_identity(before, 100, disk(DiskIdentity(filesystems=("F2", "F3")))) is None


def test_another_size_is_said() -> None:
    assert compare_identity(FULL, 100, disk(FULL, 200)) == "it has 200 bytes, the job's disk 100"


def test_export_format() -> None:
    text = "DEVNAME=/dev/vda1\nLABEL=my\\ disk\\\\\nUUID=1-2\n\nnonsense\n"
    assert parse_export(text) == {"DEVNAME": "/dev/vda1", "LABEL": "my disk\\", "UUID": "1-2"}


@given(st.text())
def test_export_takes_anything(text: str) -> None:
    parse_export(text)


def test_an_image_file_is_a_disk(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    assert disks_of([str(image)]) == [DiskInfo(path=str(image), size=1 << 20, kind="file")]


def test_a_link_keeps_its_name(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    (tmp_path / "link").symlink_to(image)
    (info,) = disks_of([str(tmp_path / "link")])
    assert (info.path, info.size) == (str(tmp_path / "link"), 4096)


def test_what_is_no_disk_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, detail in (
        (tmp_path / "missing", "No such file"),
        (tmp_path / "empty", "it is empty"),
        (tmp_path, "neither a block device nor a regular file"),
    ):
        with pytest.raises(LocalFault, match=r"RPL-5001") as caught:
            disks_of([str(path)])
        assert str(path) in caught.value.sentence
        assert detail in caught.value.sentence


def test_the_report_is_json() -> None:
    report = inventory_report()
    assert report["host"]
    assert len(report["boot_id"]) == 36
    assert all("/loop" not in one["path"] and one["size"] > 0 for one in report["disks"])
    msgspec.json.encode(report)
