"""One virtual machine: QEMU without KVM, its disks, and a line to the agent inside.

Nothing is left when the ``with`` block ends, whatever ended it: QEMU dies with this process
(``setpriv --pdeathsig``), its disks are files in a temporary directory, and the image of the system
is only read, under an overlay. The guest may restart; QEMU and the disks go on.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.ports import free_ports
from tests.vm import images
from tests.vm.images import MIB, PARTITION, Boot

BOOT_SECONDS = 400.0
"""A boot takes 20 s on an idle machine; two cores under eight test runs are another matter."""
CONSOLE_SHOWN = 4000
NICE = "-5"
"""Its one busy thread has most of a processor also beside other tests, of which it would be the
last by far."""


class VmFailed(AssertionError):
    """The machine did not do what was asked; the message ends with its console."""


class EmulatorFailed(VmFailed):
    """The kernel died of a breakpoint that was not there any more, which is QEMU's fault.

    A kernel patches its running code (a tracepoint that is attached, for one) behind breakpoints.
    QEMU before 8.1 may run one on a second CPU after it was taken away. A machine with one CPU has
    no second that could.
    """


STALE_BREAKPOINT = re.compile(r"\bint3: 0000 \[#\d+\]")


@dataclass(frozen=True)
class Disk:
    """A disk for the guest. It is found inside by its serial number."""

    serial: str
    bus: str
    """virtio, scsi, nvme, or nvme-multipath: one namespace behind two controllers."""
    size: int = 24 * MIB
    form: str = "raw"
    """Of its file. What a qcow2 was given at new places and not flushed is lost with QEMU."""


DISKS = (
    Disk("blk0", "virtio", 320 * MIB),
    Disk("blk1", "virtio"),
    Disk("scsi0", "scsi"),
    Disk("nvme0", "nvme"),
    Disk("multi0", "nvme-multipath"),
    *(Disk(f"part{number}", "virtio") for number in range(3)),
    Disk("store", "virtio", 512 * MIB, "qcow2"),
)
"""One of each bus; ``blk0`` is large enough for an xfs; of ``part*`` the guest makes volumes and
arrays; ``store`` is a receiver's."""


def _drive(name: str, path: Path, *, form: str = "raw", read_only: bool = False) -> list[str]:
    options = f"id={name},if=none,file={path},format={form}"
    options += ",read-only=on" if read_only else ",discard=unmap,cache=writeback,aio=threads"
    return ["-drive", options]


def _device(disk: Disk, drive: str) -> list[str]:
    if disk.bus == "virtio":
        options = f"virtio-blk-pci,drive={drive},serial={disk.serial},discard=on,write-zeroes=on"
        return ["-device", options]
    if disk.bus == "scsi":
        return ["-device", f"scsi-hd,bus=scsi.0,drive={drive},serial={disk.serial}"]
    if disk.bus == "nvme":
        controller = f"nvme,id=c-{disk.serial},serial={disk.serial}"
        return ["-device", controller, "-device", f"nvme-ns,drive={drive},bus=c-{disk.serial}"]
    return [
        *("-device", f"nvme-subsys,id=s-{disk.serial},nqn={disk.serial}"),
        *("-device", f"nvme,id=a-{disk.serial},serial={disk.serial},subsys=s-{disk.serial}"),
        *("-device", f"nvme,id=b-{disk.serial},serial={disk.serial},subsys=s-{disk.serial}"),
        *("-device", f"nvme-ns,drive={drive},bus=a-{disk.serial},nsid=1,shared=on"),
    ]


def _forward(port: int) -> str:
    return f"hostfwd=tcp:127.0.0.1:{port}-:{port}"


class Machine:
    """A running machine. Make it with :func:`machine`."""

    def __init__(self, boot: Boot, directory: Path, cpus: int) -> None:
        self.boot = boot
        self.ports = free_ports(2)
        """Of 127.0.0.1, and the same inside: the guest can be reached, and can reach nothing."""
        self.directory = directory
        self.console = directory / "console.log"
        self.boot_ids: list[str] = []
        self._socket: socket.socket | None = None
        self._rest = b""
        overlay = directory / "system.qcow2"
        images.call(
            *("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"),
            *("-b", images.system(), overlay),
        )
        port = directory / "agent"
        command: list[str | Path] = [
            *("setpriv", "--pdeathsig", "KILL", "nice", "-n", NICE),
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "q35,accel=tcg", "-cpu", "max", "-smp", str(cpus), "-m", "1024"),
            *("-kernel", boot.kernel, "-append", self._kernel_line()),
            *("-serial", f"file:{self.console}", "-device", "virtio-rng-pci"),
            *("-device", "virtio-serial-pci", "-device", "virtio-scsi-pci,id=scsi"),
            *("-chardev", f"socket,id=agent,path={port},server=on,wait=off"),
            *("-device", "virtserialport,chardev=agent,name=replicad.agent"),
            *("-device", "nvme,id=system,serial=system"),
            *_drive("root", overlay, form="qcow2"),
            *("-device", "nvme-ns,drive=root,bus=system,nsid=1"),
            *_drive("modules", boot.modules, read_only=True),
            *("-device", "nvme-ns,drive=modules,bus=system,nsid=2"),
            *_drive("tree", images.payload(), read_only=True),
            *("-device", "nvme-ns,drive=tree,bus=system,nsid=3"),
            *("-netdev", ",".join(["user,id=net,restrict=on", *map(_forward, self.ports)])),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        ]
        for disk in DISKS:
            file = directory / f"{disk.serial}.{disk.form}"
            images.call("qemu-img", "create", "-q", "-f", disk.form, file, str(disk.size))
            command += [*_drive(disk.serial, file, form=disk.form), *_device(disk, disk.serial)]
        self._command = [str(part) for part in command]
        self._port = port
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.directory / "qemu.log").open("ab") as log:
            return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @staticmethod
    def _kernel_line() -> str:
        return (
            f"root=PARTUUID={PARTITION} rootwait rw console=ttyS0 quiet loglevel=4 "
            "init=/opt/replicad/init panic=-1 mitigations=off audit=0 "
            "systemd.show_status=0 systemd.unit=multi-user.target"
        )

    # -- the agent --

    def wait_ready(self, seconds: float = BOOT_SECONDS) -> str:
        """Waits for the agent of a new boot; the kernel's release."""
        end = time.monotonic() + seconds
        while self._socket is None:
            self._alive()
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._port))
            except OSError:
                connection.close()
                if time.monotonic() > end:
                    raise self._failed("QEMU does not listen") from None
                time.sleep(0.1)
            else:
                self._socket = connection
        while "hello" not in (message := self._hear(end, "the agent did not answer")):
            pass
        self.boot_ids.append(message["boot"])
        return str(message["hello"])

    def run(
        self, script: str, seconds: float, show: Callable[[str], None] | None = None
    ) -> tuple[int, str]:
        """Runs a shell script in the guest; its exit code and output. The line may not break."""
        return self._ask(script, seconds, show)

    def _ask(
        self, script: str, seconds: float, show: Callable[[str], None] | None
    ) -> tuple[int, str]:
        assert self._socket is not None
        self._socket.sendall(json.dumps({"run": script, "seconds": seconds}).encode() + b"\n")
        lines: list[str] = []
        end = time.monotonic() + seconds + 20
        while True:
            message = self._hear(end, f"no end of: {script}", lines)
            if "line" in message:
                lines.append(message["line"])
                if show is not None:
                    show(message["line"])
            elif "exit" in message:
                return int(message["exit"]), "\n".join(lines)
            elif "hello" in message:
                raise self._failed(f"the machine restarted during: {script}", lines)

    def check(self, script: str, seconds: float = 60.0) -> str:
        """Runs a script that has to succeed; its output."""
        code, output = self.run(script, seconds)
        if code:
            raise self._failed(f"exit {code} of: {script}", output.splitlines())
        return output

    def cut_power(self) -> str:
        """Kills the machine and starts it again with its disks; the release of the kernel.

        What the guest had not flushed of its root disk is lost with QEMU's own cache of it. (A
        reset from inside would keep that; and what QEMU translated before makes a boot after a
        reset four times as slow.)
        """
        self.close()
        self._socket, self._rest = None, b""
        self._process = self._start()
        return self.wait_ready()

    def _hear(self, end: float, what: str, lines: Sequence[str] = ()) -> dict[str, Any]:
        assert self._socket is not None
        while b"\n" not in self._rest:
            self._alive()
            self._socket.settimeout(min(2.0, max(0.01, end - time.monotonic())))
            try:
                got = self._socket.recv(65536)
            except TimeoutError:
                if time.monotonic() > end:
                    raise self._failed(what, lines) from None
                continue
            if not got:
                self._process.wait(10)
                self._alive()  # says with what QEMU ended
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    # -- the machine --

    def _alive(self) -> None:
        if self._process.poll() is not None:
            words = (self.directory / "qemu.log").read_text(errors="replace")
            raise self._failed(f"QEMU ended with {self._process.returncode}: {words[-1500:]}")
        if self.console.exists() and b"Kernel panic" in self.console.read_bytes()[-20000:]:
            raise self._failed("the kernel panicked")

    def _failed(self, what: str, lines: Sequence[str] = ()) -> VmFailed:
        console = ""
        if self.console.exists():
            console = self.console.read_text(errors="replace")
        said = "\n".join(lines[-60:])
        kind = EmulatorFailed if STALE_BREAKPOINT.search(console) else VmFailed
        return kind(f"{what}\n--- output\n{said}\n--- console\n{console[-CONSOLE_SHOWN:]}")

    def close(self) -> None:
        """Ends QEMU at once, as a power cut would."""
        if self._socket is not None:
            self._socket.close()
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def machine(boot: Boot, cpus: int) -> Iterator[Machine]:
    """A machine that has begun to boot."""
    with images.scratch() as directory:
        started = Machine(boot, directory, cpus)
        try:
            yield started
        finally:
            started.close()
