"""A receiver that was put back, and copies that somebody else wrote to: compared, not trusted."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from receiver.disk.lease import LEASE_NS
from tests.support.loops import MIB, loop_device, mounted, run
from tests.support.pair import until
from tests.support.recovering import BLOCK, SIZE, Recovering, recovering

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

LEASE = LEASE_NS / 1e9 + 0.5
"""Seconds after which a change cannot be one of ours."""

FEW = 40 * BLOCK + 2 * MIB
"""Bytes that a comparison may send when a few blocks differ: those, and their neighbours in a
block of 64 KiB that changed meanwhile."""


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recovering]:
    with recovering(tmp_path_factory.mktemp("memory")) as found:
        yield found


def stop(it: Recovering) -> None:
    it.both.receiver.stop()


def pause(it: Recovering) -> None:
    """The session closes, the receiver goes on."""
    it.both.receiver.run("job", "pause", it.both.job)
    until(lambda: not it.both.receiver.run("disk", "list")[0]["in_use"], what="the session's end")


def kill(it: Recovering) -> None:
    it.both.receiver.kill()


def compared(it: Recovering, since: str, reason: str) -> None:
    """The copy was compared for this reason, cheaply, and is right again."""
    found = it.recovered("compare", since)
    assert reason in found["reason"], found
    assert found["bytes_read"] >= SIZE
    assert 0 < found["bytes_sent"] <= FEW
    until(lambda: it.both.show()["disks"][0]["recovery"] == found, what="the source's word")
    it.exact()


@pytest.mark.parametrize("end", [stop, kill])
def test_a_receiver_that_comes_back_as_it_was_is_believed(
    it: Recovering, end: Callable[[Recovering], None]
) -> None:
    it.write(1, 3)
    it.in_step()
    before = it.disk["recovery"]
    end(it)
    it.write(5)
    it.both.receiver.start()
    it.in_step()
    it.exact()
    assert it.disk["recovery"] == before
    assert it.disk["passed"] > 1


@pytest.mark.parametrize("end", [stop, kill])
def test_a_copy_that_was_changed_while_the_receiver_was_away(
    it: Recovering, end: Callable[[Recovering], None]
) -> None:
    since, path = it.since(), it.both.intermediate()
    it.in_step()
    end(it)
    time.sleep(LEASE if end is kill else 0)
    it.spoil(path, 0, 2000)
    it.both.receiver.start()
    compared(it, since, "changed by somebody else at")


@pytest.mark.parametrize("copying", [("cp", "-a"), ("cp", "--no-preserve=all")])
def test_a_copy_that_was_exchanged_for_an_older_one(
    it: Recovering, copying: tuple[str, ...]
) -> None:
    since, path = it.since(), it.both.intermediate()
    it.in_step()
    pause(it)
    old = path.with_suffix(".old")
    subprocess.run([*copying, path, old], check=True)
    it.both.resume()
    it.write(*range(100, 120))
    it.in_step()
    pause(it)
    old.rename(path)
    it.both.resume()
    compared(it, since, "another file was put in place")


def test_a_held_checkpoint_that_somebody_changed(it: Recovering) -> None:
    since, path = it.since(), it.both.intermediate()
    it.both.checkpoint("--hold")
    it.spoil(path, 77)
    it.both.resume()
    compared(it, since, "changed by somebody else")


def test_a_change_in_an_open_session_is_noticed_before_a_checkpoint(it: Recovering) -> None:
    since, path = it.since(), it.both.intermediate()
    it.in_step()
    time.sleep(LEASE)
    it.spoil(path, 5000)
    taken = it.both.checkpoint("--hold")
    assert taken["epoch"] > 0
    it.both.resume()
    compared(it, since, "changed by somebody else")


def test_a_change_in_an_open_session_is_noticed_at_the_next_write(it: Recovering) -> None:
    since, path = it.since(), it.both.intermediate()
    it.in_step()
    time.sleep(LEASE)
    it.spoil(path, 5001)
    it.write(6000)
    compared(it, since, "changed by somebody else")
    until(lambda: it.both.metrics("receiver")["receiver_errors_total"] > 0, what="its count")


def test_a_receiver_whose_storage_is_an_older_copy(it: Recovering) -> None:
    since, storage = it.since(), it.both.storage
    it.in_step()
    stop(it)
    backup = storage.with_suffix(".backup")
    subprocess.run(["cp", "-a", storage, backup], check=True)
    it.both.receiver.start()
    it.write(*range(200, 220))
    it.in_step()
    kill(it)
    shutil.rmtree(storage)
    backup.rename(storage)
    it.both.receiver.start()
    compared(it, since, "put back to an earlier state")


def test_a_receiver_whose_machine_was_put_back_to_a_snapshot(tmp_path: Path) -> None:
    """Not one inode or time tells: the filesystem under it is bit for bit an earlier one. The
    snapshot was taken in the middle of a session, and is of the very generation."""
    with recovering(tmp_path, start=False) as it:
        both, image = it.both, tmp_path / "storage.img"
        with loop_device(image, 160 * MIB) as device:
            with mounted(device, both.storage, "ext4"):
                both.start()
                both.create("--freeze-budget", "30s")
                both.synced()
                it.write(10, 11)
                it.in_step()
                since = it.since()
                kill(it)
            snapshot = tmp_path / "snapshot.img"
            run("cp", "--sparse=always", image, snapshot)
            with mounted(device, both.storage):
                both.receiver.start()
                it.write(*range(300, 330))
                it.in_step()
                kill(it)
            run("cp", "--sparse=never", snapshot, image)
            run("blockdev", "--flushbufs", device)
            with mounted(device, both.storage):
                both.receiver.start()
                # It would try again in some time: it has lost the connection often.
                both.source.kill()
                both.source.start()
                compared(it, since, "put back to an earlier state")
                both.receiver.stop()


def test_a_source_whose_record_is_an_older_copy(it: Recovering) -> None:
    """/run of the source, put back in the same boot: its map lacks what was written since."""
    since, source = it.since(), it.both.source
    it.in_step()
    (path,) = (it.both.directory / "sr").glob("*.map")
    before = path.read_bytes()
    it.write(400, 402)
    pause(it)
    it.write(404, 406)
    until(lambda: it.disk["dirty_bytes"], what="a drain")
    source.kill()
    path.write_bytes(before)
    source.start()
    it.both.resume()
    compared(it, since, "an older copy of the daemon's record")


def test_a_device_that_was_written_to_while_the_receiver_was_away(tmp_path: Path) -> None:
    with loop_device(tmp_path / "target.img", SIZE) as target:
        image = tmp_path / "disk.img"
        with recovering(tmp_path, start=False) as it:
            both = it.both
            both.start()
            both.create("--disk", it.device, "--target", f"device:{target}")
            first = it.recovered("compare")
            assert "nobody knows what the intermediate disk holds" in first["reason"]
            it.in_step()
            pause(it)
            both.resume()
            it.write(9)
            it.in_step()
            assert it.since() == first["since"], "nothing was written: nothing is compared"
            pause(it)
            it.spoil(Path(target), 4, 4000)
            both.resume()
            compared(it, first["since"], "somebody else wrote to the intermediate disk")
        assert not image.exists()
