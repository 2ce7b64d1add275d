"""Where does each microsecond of an extent go, and how far is each stage from the machine's limit?

The stages of one extent of 1 MiB of incompressible content, in the order in which it travels, each
in one thread with nothing beside it: our code, and the bare call that it cannot do without. The
cipher is the one that a session between two such machines uses. Page faults show whether a stage
allocates: in a steady state it may not.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import xxhash
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.contest import Contestant, Figures, Goal, Metric, Options, Question, Scene
from bench.images import GIB, MIB, random_image
from bench.leftovers import scratch
from protocol.link.buffers import Buffer
from protocol.link.data import send_all, tune
from protocol.wire.ciphers import fastest_first
from protocol.wire.crypto import Direction, SessionKeys
from protocol.wire.limits import AES_256_GCM, BUFFER, LENGTH, TAG
from receiver.decoder import Decoder
from receiver.disk.raw import RawDisk
from replicad.encoder import Encoder
from replicad.reader import DiskReader

STAGES = ("read", "encode", "seal", "line", "open", "write")

Step = Callable[[int], object]
"""What is done with the extent of a number."""


def timed(extents: int, step: Step) -> Figures:
    """Microseconds of the wall clock and page faults, for each extent."""
    step(0)
    faults, begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    for number in range(extents):
        step(number)
    spent = time.perf_counter() - begun
    faulted = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return {"time": spent / extents, "faults": faulted / extents}


class BareCipher:
    """The calls of the library that a cipher is from, always with the same key and nonce."""

    def __init__(self, name: str) -> None:
        self._key = secrets.token_bytes(32)
        self._gcm = AESGCM(self._key) if name == AES_256_GCM else None
        # Where there is none of it, no session has chosen it.
        self._aegis: Any = importlib.import_module("aeg").aegis256x2 if self._gcm is None else None

    def seal(self, plain: memoryview, into: memoryview) -> None:
        """Into ``into``, which has 16 bytes more."""
        if self._gcm is not None:
            self._gcm.encrypt_into(bytes(12), plain, None, into)
        else:
            self._aegis.encrypt(self._key, bytes(32), plain, into=into)

    def open(self, sealed: memoryview, into: memoryview) -> None:
        """Into ``into``, which has 16 bytes less."""
        if self._gcm is not None:
            self._gcm.decrypt_into(bytes(12), sealed, None, into)
        else:
            self._aegis.decrypt(self._key, bytes(32), sealed, into=into)


class Bench:
    """The pieces of the data path, put together as the daemons do, and the bare calls."""

    def __init__(self, directory: Path, size: int, stack: contextlib.ExitStack) -> None:
        self.extents = size // MIB
        self.image = directory / "disk.img"
        random_image(self.image, size)
        self.plain, self.sealed, self.opened = (Buffer(BUFFER).view for _ in range(3))
        self.cipher = fastest_first()[0]
        self.keys = SessionKeys(secrets.token_bytes(32), secrets.token_bytes(16), self.cipher)
        self.reader = DiskReader(str(self.image))
        stack.callback(self.reader.close)
        self.bare = os.open(self.image, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, self.bare)
        self.encoder = Encoder("auto")
        self.reader.read([(0, MIB)], self.plain)
        self.disk = RawDisk.create(
            directory, "stages", number=0, source_path="/dev/bench", size=size, generation="one"
        )
        stack.callback(self.disk.close)
        for number in range(self.extents):  # pages that are there: the first touch is another cost
            self.disk.write(number * MIB, self.plain[:MIB])
        self.target = os.open(self.image, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, self.target)

    def stages(self) -> dict[str, Contestant]:
        """Each stage, ours and bare."""
        plain = self.plain
        sealer = self.keys.sealer(0, Direction.FROM_SOURCE)
        encoded = self.encoder.encode(0, [(0, MIB)], plain)
        content, size = plain[:MIB], encoded.size
        bare = self.sealed[: MIB + TAG]
        cipher = BareCipher(self.cipher)
        total = LENGTH + size + TAG
        digest = xxhash.xxh3_128_digest
        bare_write = partial(os.pwrite, self.target)

        def open_bare(_: int) -> None:
            cipher.open(bare, self.opened[:MIB])
            digest(self.opened[:MIB])

        steps: dict[str, Step] = {
            "read": lambda n: self.reader.read([(n * MIB, MIB)], plain),
            "read bare": lambda n: os.preadv(self.bare, [content], n * MIB),
            "encode": lambda n: self.encoder.encode(0, [(n * MIB, MIB)], plain),
            "encode bare": lambda _: digest(content),
            "seal": lambda _: sealer.seal(plain[:size], self.sealed),
            "seal bare": lambda _: cipher.seal(content, bare),
            "open bare": open_bare,
            "write": lambda n: self.disk.write(n * MIB, content),
            "write bare": lambda n: bare_write(content, n * MIB),
        }
        runs: dict[str, Contestant] = {
            name: partial(timed, self.extents, step) for name, step in steps.items()
        }
        runs["open bare"] = partial(self._open_bare, cipher, content, steps["open bare"])
        runs["open"] = partial(self._open, plain[:size], total)
        runs["line"] = partial(self._line, total, ours=True)
        runs["line bare"] = partial(self._line, total, ours=False)
        return {n: runs[n] for stage in STAGES for n in (stage, f"{stage} bare")}

    def _open_bare(self, cipher: BareCipher, content: memoryview, step: Step) -> Figures:
        cipher.seal(content, self.sealed[: MIB + TAG])
        return timed(self.extents, step)

    def _open(self, plain: memoryview, total: int) -> Figures:
        """What is opened has to be sealed first, frame by frame: that time is not counted."""
        sealer = self.keys.sealer(2, Direction.FROM_SOURCE)
        decoder = Decoder(self.keys, 2)
        spent, before = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(self.extents):
            sealer.seal(plain, self.sealed)
            begun = time.perf_counter()
            decoder.open(self.sealed[LENGTH:total], self.opened, self.sealed)
            spent += time.perf_counter() - begun
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        return {"time": spent / self.extents, "faults": faults / self.extents}

    def _line(self, total: int, *, ours: bool) -> Figures:
        """Through TCP on the loopback, to a thread that receives into one buffer."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            near = socket.create_connection(listening.getsockname())
            far, _ = listening.accept()
        into = Buffer(BUFFER)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def receive() -> None:
            while far.recv_into(into.view):
                pass

        thread = threading.Thread(target=receive)
        thread.start()
        frame = self.sealed[:total]
        if ours:
            tune(near)
        try:
            if ours:
                return timed(self.extents, lambda _: send_all(near, frame, lambda: False))
            return timed(self.extents, lambda _: near.sendall(frame))
        finally:
            near.close()
            thread.join()
            far.close()
            into.free()


@contextlib.contextmanager
def scene(options: Options) -> Iterator[Scene]:
    """An image and a copy in memory, as in `full_pass`."""
    size = options.bytes(GIB, 64 * MIB)
    with scratch() as directory, contextlib.ExitStack() as stack:
        bench = Bench(directory, size, stack)
        notes = [f"sealed with {bench.cipher}, the fastest here"]
        yield Scene(bench.stages(), size=size, notes=notes)


EACH = Metric("us", 1e6, 1)

QUESTION = Question(
    name="stages",
    title="the stages of an extent of 1 MiB, each alone in one thread, beside the bare call",
    metrics={"time": EACH, "faults": Metric("faults", 1.0, 2)},
    goals=tuple(
        Goal(f"{stage}: of the bare call", "time", "<=", None, ours=stage, peers=(f"{stage} bare",))
        for stage in STAGES
    )
    + tuple(
        Goal(f"{stage}: page faults of an extent", "faults", "<=", 1.0, ours=stage)
        for stage in STAGES
    ),
    scene=scene,
)
