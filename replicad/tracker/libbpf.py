"""The part of libbpf.so.1 that the tracker needs, through ctypes.

libbpf 1.x keeps its ABI, so one binding serves Debian 12 (1.1) to today. libbpf explains failures
only through its print callback; it is captured here, and the exception carries the last lines of
it. Nothing is printed.

All functions release the GIL while they run (ctypes.CDLL).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")
MAP_TYPE_ARRAY = 2
BPF_F_MMAPABLE = 1 << 10
BPF_F_INNER_MAP = 1 << 12
BTF_KIND_TYPEDEF = 8
LOG_LINES = 40
"""Lines of libbpf's log kept for an exception; the verifier's last words are the useful ones."""
LOG_LINE = 2048
"""Bytes of one message kept from its end: a message may hold a whole verifier log."""


class LibbpfError(OSError):
    """A call failed; ``log`` is what libbpf said about it."""

    def __init__(self, number: int, what: str, log: str = "") -> None:
        super().__init__(number, f"{what}: {os.strerror(number)}")
        self.log = log


class _MapInfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint32)
        for name in ("type", "id", "key_size", "value_size", "max_entries", "map_flags")
    )


class _ProgInfo(ctypes.Structure):
    """struct bpf_prog_info; recursion_misses is its newest field here (Linux 5.12)."""

    _fields_ = (
        ("head", ctypes.c_uint8 * 208),
        ("recursion_misses", ctypes.c_uint64),
        ("tail", ctypes.c_uint8 * 16),
    )


class _MapCreateOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf", ctypes.c_uint32 * 4),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


class _BtfType(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("type", ctypes.c_uint32))


class _BtfParam(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32))


_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_callbacks: list[Any] = []
_PTR, _INT, _U32, _STR, _SIZE = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_uint32,
    ctypes.c_char_p,
    ctypes.c_size_t,
)
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (_PTR, [_PRINT]),
    "libbpf_num_possible_cpus": (_INT, []),
    "bpf_object__open_file": (_PTR, [_STR, _PTR]),
    "bpf_object__load": (_INT, [_PTR]),
    "bpf_object__close": (None, [_PTR]),
    "bpf_object__find_map_by_name": (_PTR, [_PTR, _STR]),
    "bpf_object__find_program_by_name": (_PTR, [_PTR, _STR]),
    "bpf_map__fd": (_INT, [_PTR]),
    "bpf_map__set_max_entries": (_INT, [_PTR, _U32]),
    "bpf_program__fd": (_INT, [_PTR]),
    "bpf_program__set_autoload": (_INT, [_PTR, ctypes.c_bool]),
    "bpf_raw_tracepoint_open": (_INT, [_STR, _INT]),
    "bpf_obj_pin": (_INT, [_INT, _STR]),
    "bpf_obj_get": (_INT, [_STR]),
    "bpf_obj_get_info_by_fd": (_INT, [_INT, _PTR, ctypes.POINTER(_U32)]),
    "bpf_map_create": (_INT, [_INT, _STR, _U32, _U32, _U32, _PTR]),
    "bpf_map_get_fd_by_id": (_INT, [_U32]),
    "bpf_map_lookup_elem": (_INT, [_INT, _PTR, _PTR]),
    "bpf_map_update_elem": (_INT, [_INT, _PTR, _PTR, ctypes.c_uint64]),
    "bpf_map_delete_elem": (_INT, [_INT, _PTR]),
    "bpf_map_get_next_key": (_INT, [_INT, _PTR, _PTR]),
    "btf__load_vmlinux_btf": (_PTR, []),
    "btf__free": (None, [_PTR]),
    "btf__find_by_name_kind": (_INT, [_PTR, _STR, _U32]),
    "btf__type_by_id": (ctypes.POINTER(_BtfType), [_PTR, _U32]),
    "btf__name_by_offset": (_STR, [_PTR, _U32]),
}


class Libbpf:
    """The loaded library. Raises LibbpfError where it or a function of it is missing."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError as error:
            raise LibbpfError(errno.ENOENT, "libbpf.so.1 cannot be loaded", str(error)) from error
        for name, (result, arguments) in _SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise LibbpfError(errno.ENOSYS, f"libbpf.so.1 has no {name}") from error
            function.restype, function.argtypes = result, arguments
        self._vsnprintf = ctypes.CDLL(None).vsnprintf
        self._vsnprintf.argtypes = [_PTR, _SIZE, _STR, _PTR]
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        callback = _PRINT(self._print)
        _callbacks.append(callback)  # libbpf keeps the pointer until the next one is set
        self._library.libbpf_set_print(callback)
        del _callbacks[:-1]

    def _print(self, level: int, template: bytes, arguments: int) -> int:
        if level < 2:  # LIBBPF_WARN, LIBBPF_INFO
            buffer = ctypes.create_string_buffer(1 << 16)
            self._vsnprintf(buffer, len(buffer), template, arguments)
            self._log.append(buffer.value[-LOG_LINE:].decode(errors="replace").rstrip())
        return 0

    def _failed(self, what: str, number: int | None = None) -> LibbpfError:
        log = "\n".join(self._log)
        self._log.clear()
        return LibbpfError(number or ctypes.get_errno() or errno.EIO, what, log)

    def _check(self, result: int, what: str) -> int:
        if result < 0:
            raise self._failed(what, -result)
        return result

    def possible_cpus(self) -> int:
        """Returns one more than the largest number that a CPU of this kernel may ever have: where
        numbers are left out, as on some virtual machines, more than it may have.
        """
        try:
            last = POSSIBLE_CPUS.read_text().strip().rpartition(",")[2].rpartition("-")[2]
            return int(last) + 1
        except (OSError, ValueError):
            return self._check(self._library.libbpf_num_possible_cpus(), "counting CPUs")

    # -- objects --

    def load(self, path: Path, programs: Iterable[str], absent: Iterable[str], cpus: int) -> Object:
        """Loads an object's maps and the named programs into the kernel, not the absent ones.

        The map ``cpus`` gets that many entries. Raises LibbpfError with the verifier's words.
        """
        self._log.clear()
        handle = self._library.bpf_object__open_file(os.fsencode(path), None)
        if not handle:
            raise self._failed(f"opening {path}")
        try:
            for name in absent:
                program = self._find("program", handle, name)
                self._library.bpf_program__set_autoload(program, False)
            self._library.bpf_map__set_max_entries(self._find("map", handle, "cpus"), cpus)
            self._check(self._library.bpf_object__load(handle), "loading the BPF programs")
            fds = {
                name: os.dup(self._library.bpf_program__fd(self._find("program", handle, name)))
                for name in programs
            }
            return Object(handle, fds)
        except BaseException:
            self._library.bpf_object__close(handle)
            raise

    def _find(self, kind: str, handle: int, name: str) -> int:
        find: Callable[[int, bytes], int | None] = getattr(
            self._library, f"bpf_object__find_{kind}_by_name"
        )
        found = find(handle, name.encode())
        if not found:
            raise self._failed(f"the BPF object has no {kind} {name}", errno.ENOENT)
        return found

    def map_fd(self, loaded: Object, name: str) -> int:
        """Returns a new descriptor of a map of a loaded object."""
        return os.dup(self._library.bpf_map__fd(self._find("map", loaded.handle, name)))

    def close(self, loaded: Object) -> None:
        """Frees a loaded object's memory and its own descriptors; what is pinned or duplicated
        stays.
        """
        self._library.bpf_object__close(loaded.handle)

    def attach(self, program: int) -> int:
        """Attaches a tp_btf program to the tracepoint it was loaded for; returns the link's
        descriptor.
        """
        return self._check(self._library.bpf_raw_tracepoint_open(None, program), "attaching")

    # -- descriptors --

    def pin(self, fd: int, path: Path) -> None:
        """Gives a map, program or link a name in bpffs."""
        self._check(self._library.bpf_obj_pin(fd, os.fsencode(path)), f"pinning {path}")

    def get(self, path: Path) -> int:
        """Opens what is pinned at path."""
        return self._check(self._library.bpf_obj_get(os.fsencode(path)), f"opening {path}")

    def _info(self, fd: int, info: ctypes.Structure) -> int:
        length = _U32(ctypes.sizeof(info))
        result = self._library.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length))
        self._check(result, "asking for BPF object information")
        return length.value

    def map_shape(self, fd: int) -> tuple[int, int]:
        """Returns the size of a value in bytes and the number of entries."""
        info = _MapInfo()
        self._info(fd, info)
        return info.value_size, info.max_entries

    def recursion_misses(self, fd: int) -> int:
        """Returns how many events the kernel skipped because the program was running."""
        info = _ProgInfo()
        if self._info(fd, info) < _ProgInfo.recursion_misses.offset + 8:
            raise self._failed("this kernel does not count missed BPF events", errno.EOPNOTSUPP)
        return int(info.recursion_misses)

    # -- maps --

    def create_words(self, name: str, words: int) -> int:
        """Creates an array of 64-bit words that can be an inner map and be mapped to memory."""
        options = _MapCreateOpts(
            sz=ctypes.sizeof(_MapCreateOpts), map_flags=BPF_F_MMAPABLE | BPF_F_INNER_MAP
        )
        create = self._library.bpf_map_create
        fd = create(MAP_TYPE_ARRAY, name.encode(), 4, 8, words, ctypes.byref(options))
        return self._check(fd, f"creating a bitmap of {words * 8} bytes")

    def map_by_id(self, identity: int) -> int:
        """Opens a map by the kernel's number for it."""
        return self._check(self._library.bpf_map_get_fd_by_id(identity), f"opening map {identity}")

    def lookup(self, fd: int, key: Any, value: Any) -> bool:
        """Reads the value under key (ctypes objects) into value; False if there is none."""
        result = self._library.bpf_map_lookup_elem(fd, ctypes.byref(key), ctypes.byref(value))
        if result == -errno.ENOENT:
            return False
        self._check(result, "reading a BPF map")
        return True

    def update(self, fd: int, key: Any, value: Any) -> None:
        """Sets the value under key."""
        result = self._library.bpf_map_update_elem(fd, ctypes.byref(key), ctypes.byref(value), 0)
        self._check(result, "writing a BPF map")

    def delete(self, fd: int, key: Any) -> None:
        """Removes a key; it need not exist."""
        result = self._library.bpf_map_delete_elem(fd, ctypes.byref(key))
        if result != -errno.ENOENT:
            self._check(result, "deleting from a BPF map")

    def next_key(self, fd: int, key: Any | None, following: Any) -> bool:
        """Steps through a map's keys, from the first for None; False at the end."""
        before = ctypes.byref(key) if key is not None else None
        result = self._library.bpf_map_get_next_key(fd, before, ctypes.byref(following))
        if result == -errno.ENOENT:
            return False
        self._check(result, "walking a BPF map")
        return True

    # -- the kernel's types --

    def tracepoint_arguments(self, tracepoints: Iterable[str]) -> dict[str, list[str]]:
        """Returns for each tracepoint the names of the structures its arguments point to, in order.

        An argument that is no pointer to a named type is "". A tracepoint that this kernel does not
        have is left out. Raises LibbpfError if the kernel has no type information.
        """
        btf = self._library.btf__load_vmlinux_btf()
        if not btf:
            raise self._failed("the kernel's type information (/sys/kernel/btf/vmlinux)")
        try:
            found = {}
            for name in tracepoints:
                typedef = f"btf_trace_{name}".encode()
                number = self._library.btf__find_by_name_kind(btf, typedef, BTF_KIND_TYPEDEF)
                if number > 0:
                    found[name] = self._parameters(btf, number)
            return found
        finally:
            self._library.btf__free(btf)

    def _parameters(self, btf: int, typedef: int) -> list[str]:
        def resolve(number: int) -> Any:
            return self._library.btf__type_by_id(btf, number)

        prototype = resolve(resolve(resolve(typedef)[0].type)[0].type)
        count = prototype[0].info & 0xFFFF
        address = ctypes.addressof(prototype[0]) + ctypes.sizeof(_BtfType)
        names = []
        for parameter in (_BtfParam * count).from_address(address):
            pointer = resolve(parameter.type)
            name = b""
            if pointer and (pointer[0].info >> 24) & 0x1F == 2 and pointer[0].type:  # BTF_KIND_PTR
                name = self._library.btf__name_by_offset(btf, resolve(pointer[0].type)[0].name_off)
            names.append(name.decode())
        return names[1:]  # the first is the tracepoint's private data


class Object:
    """A loaded object and duplicates of its programs' descriptors, by name."""

    def __init__(self, handle: int, programs: dict[str, int]) -> None:
        self.handle = handle
        self.programs = programs
