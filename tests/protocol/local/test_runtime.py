"""The runtime directory: made, checked, held by one process, and free again after a kill."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.errors import LocalFault
from protocol.local.runtime import RuntimeHold, make_safe


def test_the_directory_is_made_and_not_for_everybody(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    with RuntimeHold(directory) as hold:
        assert hold.directory == directory
        assert stat.S_IMODE(directory.stat().st_mode) & 0o027 == 0
        assert (directory / "lock").read_text() == f"{os.getpid()}\n"


def test_a_second_hold_is_refused_until_the_first_is_given_up(tmp_path: Path) -> None:
    first = RuntimeHold(tmp_path)
    with pytest.raises(LocalFault, match="another daemon already uses") as caught:
        RuntimeHold(tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("RPL-1105", 3)
    assert str(tmp_path) in caught.value.sentence
    first.close()
    first.close()
    RuntimeHold(tmp_path).close()


def test_a_refused_hold_leaves_no_descriptor_open(tmp_path: Path) -> None:
    with RuntimeHold(tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(LocalFault):
            RuntimeHold(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_kill_frees_the_directory(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from protocol.local.runtime import RuntimeHold\n"
        "hold = RuntimeHold(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LocalFault, match="RPL-1105"):
            RuntimeHold(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    RuntimeHold(tmp_path).close()


def test_a_directory_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(LocalFault, match=r"writable by everybody \(mode 1777\)") as caught:
        make_safe(tmp_path)
    assert caught.value.code == "RPL-1001"


@pytest.mark.root
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 0)
    with pytest.raises(LocalFault, match="belongs to user id 12345"):
        make_safe(tmp_path)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalFault, match="cannot be used"):
        make_safe(tmp_path / "file")


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(LocalFault, match="cannot be locked"):
        RuntimeHold(tmp_path)
    assert (tmp_path / "victim").read_text() == "precious"
