"""Which programs fit which kernel, what is said when none do, and the shape both sides agree on."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from pathlib import Path

import pytest

from replicad.tracker import bitmap, build, layout, load, pins
from replicad.tracker.errors import TrackerUnavailable
from replicad.tracker.libbpf import Libbpf, LibbpfError

NOW = {
    "block_bio_queue": ["bio"],
    "block_rq_complete": ["request", "", ""],
    "block_bio_complete": ["request_queue", "bio"],
}


def test_a_kernel_of_today() -> None:
    assert load.choose_programs(NOW) == ["bio_queue_0", "rq_complete_0", "bio_complete_1"]


def test_linux_5_10() -> None:
    old = NOW | {"block_bio_queue": ["request_queue", "bio"]}
    assert load.choose_programs(old)[0] == "bio_queue_1"


def test_a_kernel_that_drops_the_queue_from_completion() -> None:
    new = NOW | {"block_bio_complete": ["bio"]}
    assert load.choose_programs(new)[2] == "bio_complete_0"


@pytest.mark.parametrize(
    "arguments",
    [{}, NOW | {"block_rq_complete": [""]}, NOW | {"block_rq_complete": ["", "request"]}],
)
def test_an_unknown_kernel_is_refused_not_guessed(arguments: dict[str, list[str]]) -> None:
    with pytest.raises(TrackerUnavailable, match="this kernel's tracepoint"):
        load.choose_programs(arguments)


def test_an_old_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        release = "5.10.0-32-amd64"

    monkeypatch.setattr("os.uname", Old)
    assert "too old" in load.explain(LibbpfError(22, "loading"))


def constant(name: str) -> int:
    match = re.search(rf"^#define {name} (\d+)", build.SOURCE.read_text(), re.MULTILINE)
    assert match
    return int(match.group(1))


def test_both_sides_agree_on_the_layout() -> None:
    assert constant("MAX_SLOTS") == layout.MAX_SLOTS
    assert constant("LEVELS") == layout.LEVELS == bitmap.MAXIMUM_LEVELS
    assert constant("RECORDS") == layout.RECORDS
    assert constant("SEEN") == layout.SEEN
    assert constant("HOOKS") == layout.HOOKS == len(load.HOOKS)
    # What the kernel writes is on a cache line of its own.
    assert layout.Slot.passthrough.offset % 64 == 0
    assert ctypes.sizeof(layout.Slot) % 64 == 0
    assert ctypes.sizeof(layout.Place) == 64


@pytest.mark.parametrize(("said", "count"), [("0", 1), ("0-3", 4), ("0-3,8-11", 12), ("0,5", 6)])
def test_a_cpu_with_a_high_number_has_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, count: int
) -> None:
    """Programs find theirs by the CPU's number; numbers may be left out."""
    (tmp_path / "possible").write_text(f"{said}\n")
    monkeypatch.setattr("replicad.tracker.libbpf.POSSIBLE_CPUS", tmp_path / "possible")
    assert Libbpf().possible_cpus() == count


def atomics(section: str) -> list[int]:
    """The operation of each 64-bit atomic in a section of the object."""
    content = build.OBJECT.read_bytes()
    table, size, count, names = struct.unpack_from("<Q10xHHH", content, 40)
    headers = [struct.unpack_from("<IIQQQQ", content, table + size * i) for i in range(count)]
    start = headers[names][4]

    def name(at: int) -> str:
        return content[start + at : content.index(0, start + at)].decode()

    [code] = [content[h[4] : h[4] + h[5]] for h in headers if name(h[0]) == section]
    every = struct.iter_unpack("<BBhi", code)
    return [operation for kind, _, _, operation in every if kind == STX_ATOMIC_DW]


STX_ATOMIC_DW, ADD, FETCH = 0xDB, 0x00, 0x01


@pytest.mark.parametrize(
    ("section", "expected"),
    [(".text", 3), ("tp_btf/block_bio_queue", 2 * 4), ("tp_btf/block_rq_complete", 2 * 2)],
)
def test_a_marker_counts_itself_with_full_barriers(section: str, expected: int) -> None:
    """In and out, in each program that marks, and in mark() (where landed() has one of its own).
    Without FETCH an atomic orders nothing on arm64.
    """
    assert atomics(section).count(ADD | FETCH) == expected


def test_the_object_is_reproducible(tmp_path: Path) -> None:
    for name in ("one.o", "two.o"):
        build.compile_object(build.SOURCE, tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.o", "two.o"))
    assert one == two
    assert str(build.SOURCE.parent).encode() not in one
    assert b"GPL" in one


def test_a_missing_compiler_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CLANG", raising=False)
    with pytest.raises(build.BuildError, match="install clang and libbpf-dev"):
        build.compile_object(build.SOURCE, tmp_path / "out.o")


def test_a_source_that_does_not_compile_says_where(tmp_path: Path) -> None:
    source = tmp_path / "bad.c"
    source.write_text("int x = ;\n")
    with pytest.raises(build.BuildError, match=r"bad\.c:1"):
        build.compile_object(source, tmp_path / "bad.o")
    assert not (tmp_path / "bad.o").exists()


@pytest.mark.root
def test_a_refused_load_leaves_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one in bpffs would look like a tracker."""
    directory = pins.BPFFS / f"{pins.PREFIX}refused-{os.getpid()}"

    def refuses(*_: object) -> None:
        raise LibbpfError(22, "loading")

    monkeypatch.setattr(load, "load", refuses)
    with pytest.raises(TrackerUnavailable):
        load.open_pins(Libbpf(), directory, directory)
    assert not directory.exists()
