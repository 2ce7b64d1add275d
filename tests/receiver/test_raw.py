"""Raw intermediate disks: holes, marks, names and what is not theirs to touch."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Fault
from receiver.catalog import TargetIdentity
from receiver.disk import RawDisk, files, raw

SIZE = 1 << 20


def make(storage: Path, generation: str = "g1", job: str = "job1") -> RawDisk:
    return RawDisk.create(
        storage, job, number=0, source_path="/dev/vda", size=SIZE, generation=generation
    )


def again(storage: Path, identity: TargetIdentity, generation: str = "g1") -> RawDisk:
    return RawDisk.open(
        storage, "job1", "0-vda.raw", size=SIZE, generation=generation, identity=identity
    )


def made(storage: Path) -> TargetIdentity:
    with make(storage) as disk:
        disk.write(0, memoryview(b"content"))
        disk.sync()
        return disk.identity()


def test_a_new_disk_is_a_private_sparse_file(tmp_path: Path) -> None:
    with make(tmp_path) as disk:
        path = tmp_path / "disks" / "job1" / "0-vda.raw"
        assert disk.path == str(path)
        status = path.stat()
        assert (status.st_mode & 0o777, status.st_size) == (0o600, SIZE)
        assert disk.known_zero
        assert disk.allocated_extents() == []
        disk.write(8192, memoryview(b"x" * 4096))
        assert disk.allocated_extents() == [(8192, 4096)]
        disk.zero(8192, 4096)
        assert disk.allocated_bytes() == 0


def test_a_disk_is_known_to_be_zero_only_while_it_is(tmp_path: Path) -> None:
    with make(tmp_path) as disk:
        identity = disk.identity()
    with again(tmp_path, identity) as disk:
        assert disk.known_zero
        disk.write(SIZE - 1, memoryview(b"\0"))
    with again(tmp_path, identity) as disk:
        assert not disk.known_zero


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with make(tmp_path) as disk:
        with pytest.raises(Fault, match="RPL-4103"):
            again(tmp_path, disk.identity())
        identity = disk.identity()
    with again(tmp_path, identity):
        pass


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from receiver.disk import RawDisk\n"
        "d = RawDisk.create(Path(sys.argv[1]), 'job1', number=0, source_path='/dev/vda',"
        f" size={SIZE}, generation='g1')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, check=False)
    inode = (tmp_path / "disks/job1/0-vda.raw").stat().st_ino
    with again(tmp_path, TargetIdentity(size=SIZE, inode=inode)) as disk:
        assert disk.trusted


def test_a_leftover_without_data_is_made_anew_and_one_with_data_is_not(tmp_path: Path) -> None:
    make(tmp_path).close()
    with make(tmp_path) as disk:
        disk.write(0, memoryview(b"precious"))
    with pytest.raises(Fault, match=r"RPL-4103.*exists"):
        make(tmp_path)
    assert (tmp_path / "disks/job1/0-vda.raw").read_bytes()[:8] == b"precious"


def test_a_disk_is_recognised(tmp_path: Path) -> None:
    identity = made(tmp_path)
    with again(tmp_path, identity) as disk:
        assert disk.trusted
        assert disk.identity() == identity


def test_another_generation_is_not_believed(tmp_path: Path) -> None:
    identity = made(tmp_path)
    with again(tmp_path, identity, generation="g2") as disk:
        assert not disk.trusted
        assert "another generation" in disk.doubt


@pytest.mark.parametrize("options", [("-a",), ("--no-preserve=xattr",)], ids=["marked", "bare"])
def test_a_copy_put_in_its_place_is_not_believed(tmp_path: Path, options: tuple[str, ...]) -> None:
    """It is taken, because it may be written, but what it holds is compared."""
    identity = made(tmp_path)
    path = tmp_path / "disks/job1/0-vda.raw"
    subprocess.run(["cp", *options, path, path.with_suffix(".old")], check=True)
    path.with_suffix(".old").rename(path)
    with again(tmp_path, identity) as disk:
        assert not disk.trusted
        assert "another file" in disk.doubt
        assert disk.identity().inode != identity.inode


def test_a_file_that_lost_its_mark_is_not_believed(tmp_path: Path) -> None:
    identity = made(tmp_path)
    os.removexattr(tmp_path / "disks/job1/0-vda.raw", files.MARK)
    with again(tmp_path, identity) as disk:
        assert not disk.trusted


@pytest.mark.parametrize(
    "damage", ["short", "link", "hardlink", "fifo", "gone", "another job's", "copy of another's"]
)
def test_what_is_not_the_file_is_refused(tmp_path: Path, damage: str) -> None:
    identity = made(tmp_path)
    path = tmp_path / "disks/job1/0-vda.raw"
    victim = tmp_path / "victim"
    if damage == "short":
        os.truncate(path, SIZE - 1)
    elif damage == "another job's":
        os.setxattr(path, files.MARK, b"job2:g1")
    elif damage == "copy of another's":
        subprocess.run(["cp", "-a", path, victim], check=True)
        os.setxattr(victim, files.MARK, b"job2:?")
        victim.rename(path)
    elif damage == "hardlink":
        victim.hardlink_to(path)
    else:
        path.rename(victim)
        if damage == "link":
            path.symlink_to(victim)
        elif damage == "fifo":
            os.mkfifo(path)
    with pytest.raises(Fault, match="RPL-4105" if damage == "gone" else "RPL-4106"):
        again(tmp_path, identity)


def test_a_linked_directory_leads_nowhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "disks").mkdir()
    (tmp_path / "disks" / "job1").symlink_to(elsewhere)
    with pytest.raises(Fault, match="RPL-410"):
        make(tmp_path)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("job", ["", "..", "../x", "a/b", ".", "A", "a b"])
def test_a_job_id_cannot_lead_out(tmp_path: Path, job: str) -> None:
    with pytest.raises(ValueError, match="not a job id"):
        make(tmp_path, job=job)
    with pytest.raises(Fault, match="leads out"):
        RawDisk.open(
            tmp_path, "job1", "../x", size=1, generation="g", identity=TargetIdentity(size=1)
        )


@given(st.integers(0, 999), st.text(max_size=200))
def test_any_source_path_makes_a_plain_file_name(number: int, path: str) -> None:
    name = raw.file_name(number, path)
    assert name.isascii()
    assert len(name) < 100
    assert "/" not in name
    assert not name.startswith(".")
    assert name.split("-")[0] == str(number)
    assert name.endswith(".raw")


def test_a_failed_sync_is_remembered_by_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make(tmp_path)
    identity = disk.identity()
    disk.write(0, memoryview(b"x"))

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(Fault, match="RPL-4108"):
            disk.sync()
    disk.close()
    with again(tmp_path, identity) as disk:
        assert not disk.trusted
        disk.set_generation("g2")
    with again(tmp_path, identity, "g2") as disk:
        assert disk.trusted


def test_a_crash_while_minting_a_generation_is_seen(tmp_path: Path) -> None:
    identity = made(tmp_path)
    with again(tmp_path, identity) as disk:
        disk.distrust()
    for catalog_says in ("g1", "g2"):
        with again(tmp_path, identity, catalog_says) as disk:
            assert not disk.trusted


def test_deleting_a_job_deletes_only_what_it_made(tmp_path: Path) -> None:
    identity = made(tmp_path)
    directory = tmp_path / "disks/job1"
    (directory / "notes.txt").write_text("an administrator's")
    (directory / "1-vdb.raw").write_text("not the file that the job made")
    listed = [("0-vda.raw", identity.inode), ("1-vdb.raw", identity.inode), ("2-x.raw", 5)]
    assert files.delete_files(tmp_path, "job1", listed) == ["1-vdb.raw"]
    assert sorted(p.name for p in directory.iterdir()) == ["1-vdb.raw", "notes.txt"]
    (directory / "1-vdb.raw").unlink()
    (directory / "notes.txt").unlink()
    assert files.delete_files(tmp_path, "job1", []) == []
    assert not directory.exists()
    assert files.delete_files(tmp_path, "job1", []) == []


def test_a_nearly_full_storage_is_refused_before_a_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "free_bytes", lambda _: raw.FREE_BYTES_MIN - 1)
    with pytest.raises(Fault, match="RPL-4107"):
        make(tmp_path)
    assert list((tmp_path / "disks/job1").iterdir()) == []
