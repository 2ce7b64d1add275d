"""Brings the programs and maps into the kernel, or takes over what a predecessor pinned."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from protocol.local import crash
from replicad.tracker import build, pins
from replicad.tracker.errors import TrackerUnavailable
from replicad.tracker.layout import LAYOUT, PATH_MAX, VALUE_SIZES, Meta, State
from replicad.tracker.libbpf import Libbpf, LibbpfError

T = TypeVar("T")

MINIMUM_KERNEL = (5, 12)
"""The first with atomic BPF operations and a count of missed events; vendors backport them."""

HOOKS = (
    ("block_bio_queue", "bio", "bio_queue"),
    ("block_rq_complete", "request", "rq_complete"),
    ("block_bio_complete", "bio", "bio_complete"),
)
"""Tracepoint, the argument of interest, prefix of the programs; in the order of State.rescued."""
UNDERSTUDY = "_2"
ALL_PROGRAMS = tuple(
    f"{name}{understudy}"
    for name in ("bio_queue_0", "bio_queue_1", "rq_complete_0", "bio_complete_0", "bio_complete_1")
    for understudy in ("", UNDERSTUDY)
)


def first_programs(chosen: list[str]) -> list[str]:
    """Returns those that every disk needs, in the order of attaching: tracepoints call in that
    order, and an understudy comes behind its first program.

    A request-based disk is marked when a write has landed, and by nothing else. Each program at a
    tracepoint costs every write, so what only bio-based disks need waits for one
    (docs/decisions/0179, 0186).
    """
    _, request, _ = chosen
    return [request, request + UNDERSTUDY]


def bio_programs(chosen: list[str]) -> list[str]:
    """Returns those that bio-based disks need besides, in the order of attaching."""
    queue, _, bio = chosen
    return [queue, queue + UNDERSTUDY, bio, bio + UNDERSTUDY]


@dataclass
class Attached:
    """Descriptors of the maps and of each hook's first program, and the lock of the pins."""

    maps: dict[str, int]
    programs: list[int]
    """In the order of HOOKS; the programs whose misses count."""
    instance: bytes
    """Random, made when the programs were attached."""
    object_hash: bytes
    held: int
    adopted: bool
    directory: Path
    """Of the pins."""
    waiting: dict[str, int]
    """The programs that only bio-based disks need and that are not attached, in order."""
    links: dict[str, int] = field(default_factory=dict)
    """Of the programs that this process attached."""
    others: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Lets go of everything; pins stay."""
        self.release()
        os.close(self.held)

    def release(self) -> None:
        """Closes all descriptors but the lock's."""
        by_name = (self.maps, self.waiting, self.links)
        for fd in (*self.programs, *self.others, *(fd for one in by_name for fd in one.values())):
            os.close(fd)
        self.programs, self.others = [], []
        for one in by_name:
            one.clear()

    def for_bio_based_disks(self, library: Libbpf) -> None:
        """Attaches and pins what bio-based disks need besides; nothing where that was done before.

        Raises LibbpfError.
        """
        while self.waiting:
            name = next(iter(self.waiting))
            self.links[name] = _attach(library, self.directory, name, self.waiting[name])
            self.others.append(self.waiting.pop(name))


def open_pins(library: Libbpf, directory: Path, runtime_dir: Path) -> Attached:
    """Adopts the pins in directory, or replaces them. Raises TrackerUnavailable."""
    try:
        pins.ensure_bpffs(directory.parent)
        held = pins.lock(directory, create=True)
        adopted = _or_release(held, lambda: adopt(library, directory, held))
        if adopted:
            return adopted
        _or_release(held, lambda: pins.remove(directory))
        os.close(held)
        anew = pins.lock(directory, create=True)
        try:
            return load(library, directory, runtime_dir, anew)
        except BaseException:
            pins.remove(directory)  # half of it, or an empty directory, is of no use to anybody
            os.close(anew)
            raise
    except LibbpfError as error:
        raise TrackerUnavailable(explain(error)) from error
    except OSError as error:
        raise TrackerUnavailable(f"the pins in {directory} cannot be used: {error}") from error


def _or_release(held: int, step: Callable[[], T]) -> T:
    """Gives the lock up if the step fails."""
    try:
        return step()
    except BaseException:
        os.close(held)
        raise


def adopt(library: Libbpf, directory: Path, held: int) -> Attached | None:
    """Opens pins of this layout; None if they are of another one or incomplete.

    Raises LibbpfError when one cannot be opened.
    """
    meta = pins.read_meta(library, directory)
    if meta is None or meta.layout != LAYOUT:
        return None
    names = sorted(path.name.removeprefix("prog_") for path in directory.glob("prog_*"))
    chosen = [
        next((n for n in names if n.startswith(f"{hook}_") and not n.endswith(UNDERSTUDY)), "")
        for _, _, hook in HOOKS
    ]
    needed = [f"link_{name}" for name in first_programs(chosen)]
    needed += [f"prog_{name}" for name in (*first_programs(chosen), *bio_programs(chosen))]
    if "" in chosen or not all((directory / name).exists() for name in (*needed, *VALUE_SIZES)):
        return None
    waiting = [n for n in bio_programs(chosen) if not (directory / f"link_{n}").exists()]
    with contextlib.ExitStack() as opened:  # what is open is closed again, unless it is handed over

        def get(name: str) -> int:
            fd = library.get(directory / name)
            opened.callback(os.close, fd)
            return fd

        maps = {name: get(name) for name in VALUE_SIZES}
        if any(library.map_shape(fd)[0] != VALUE_SIZES[name] for name, fd in maps.items()) or (
            waiting and _tracks_bio_based_disks(library, maps["state"])
        ):
            return None
        attached = Attached(
            maps,
            [get(f"prog_{name}") for name in chosen],
            bytes(meta.instance),
            bytes(meta.object),
            held,
            adopted=True,
            directory=directory,
            waiting={name: get(f"prog_{name}") for name in waiting},
        )
        opened.pop_all()
        return attached


def _tracks_bio_based_disks(library: Libbpf, fd: int) -> bool:
    state = State()
    library.lookup(fd, ctypes.c_uint32(0), state)
    return bool(state.stacked)


def load(library: Libbpf, directory: Path, runtime_dir: Path, held: int) -> Attached:
    """Loads, attaches and pins everything anew, ``meta`` last."""
    if not build.OBJECT.exists():
        raise TrackerUnavailable(
            f"the tracker was not compiled: {build.REMEDY}, then run python {build.__file__}"
        )
    chosen = choose_programs(library.tracepoint_arguments(name for name, _, _ in HOOKS))
    wanted = [*first_programs(chosen), *bio_programs(chosen)]
    absent = [name for name in ALL_PROGRAMS if name not in wanted]
    loaded = library.load(build.OBJECT, wanted, absent, library.possible_cpus())
    try:
        maps = {name: library.map_fd(loaded, name) for name in VALUE_SIZES}
    finally:
        library.close(loaded)
    attached = Attached(
        maps,
        [loaded.programs[name] for name in chosen],
        secrets.token_bytes(16),
        hashlib.sha256(build.OBJECT.read_bytes()).digest(),
        held,
        adopted=False,
        directory=directory,
        waiting={name: os.dup(loaded.programs[name]) for name in bio_programs(chosen)},
        others=[fd for name, fd in loaded.programs.items() if name not in chosen],
    )
    try:
        for name, fd in maps.items():
            if name != "meta":
                library.pin(fd, directory / name)
        for name in wanted:
            library.pin(loaded.programs[name], directory / f"prog_{name}")
        for name in first_programs(chosen):
            attached.links[name] = _attach(library, directory, name, loaded.programs[name])
        _write_meta(library, attached, runtime_dir)
        library.pin(maps["meta"], directory / "meta")
    except BaseException:
        attached.release()  # a link that is open is attached, and costs every write
        raise
    return attached


def _attach(library: Libbpf, directory: Path, name: str, program: int) -> int:
    """Attaches a program and pins the link; returns the link's descriptor."""
    link = library.attach(program)
    try:
        library.pin(link, directory / f"link_{name}")
    except BaseException:
        os.close(link)
        raise
    crash.here("tracker.half_pinned")
    return link


def _write_meta(library: Libbpf, attached: Attached, runtime_dir: Path) -> None:
    path = os.fsencode(os.path.abspath(runtime_dir))
    if len(path) >= PATH_MAX:
        raise TrackerUnavailable("the path of the runtime directory is too long")
    meta = Meta(layout=LAYOUT, path_length=len(path), path=path)
    ctypes.memmove(meta.instance, attached.instance, 16)
    ctypes.memmove(meta.object, attached.object_hash, 32)
    library.update(attached.maps["meta"], ctypes.c_uint32(0), meta)


def choose_programs(arguments: dict[str, list[str]]) -> list[str]:
    """Returns the program of each hook whose argument positions fit this kernel's tracepoints.

    ``arguments``: for each tracepoint the structures its arguments point to. Raises
    TrackerUnavailable.
    """
    chosen = []
    for tracepoint, structure, prefix in HOOKS:
        if structure not in arguments.get(tracepoint, []):
            raise TrackerUnavailable(
                f"this kernel's tracepoint {tracepoint} has no {structure} to look at"
            )
        name = f"{prefix}_{arguments[tracepoint].index(structure)}"
        if name not in ALL_PROGRAMS:
            raise TrackerUnavailable(f"this kernel's tracepoint {tracepoint} has an unknown form")
        chosen.append(name)
    return chosen


def explain(error: LibbpfError) -> str:
    """Returns one sentence on why tracking is impossible, for status."""
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < MINIMUM_KERNEL:
        return f"Linux {release} is too old for the tracker, which needs 5.12 ({error.strerror})"
    if error.errno in (1, 13) and os.geteuid() != 0:
        return "tracking needs root, or the capabilities BPF, PERFMON and SYS_ADMIN"
    return f"the kernel refused the tracker: {error.strerror}"
