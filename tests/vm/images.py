"""What a virtual machine is made of, built once and kept: a system, a kernel, the tree under test.

The system is one Debian for all kernels: its Python and its libbpf run anywhere, and what is tried
is the kernel. It holds no part of this repository but the script that starts it, so a change of the
code costs the tar of the tree and nothing else. Everything is kept under a name made of what it was
made from; a file that is there is whole, because it got its name last.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import hashlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOT, tracked
from tests.vm.mirror import Apt

HERE = Path(__file__).resolve().parent
USERLAND = "bookworm"
PYTHON = "3.11"
"""The userland's; wheels are fetched for it, whatever Python the host has."""

PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "dbus", "kmod", "mount", "procps", "iproute2"),
    *("python3", "python3-venv", "libbpf1"),
    *("e2fsprogs", "xfsprogs", "fdisk", "lvm2", "thin-provisioning-tools", "mdadm"),
)
TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis")
"""What the tests inside need besides the runtime's lock; what these need is found in the lock."""

ENOUGH_MEMORY = Path("/dev/shm")
WORKSHOP = "replicad-vm-build-"
MIB = 1 << 20
ROOT_SIZE = 1400 * MIB
PARTITION = "7e1d0f4c-5a0b-4b7e-9d57-52455031434b"
"""Of the root filesystem: without an initial RAM disk the kernel finds it by nothing else."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of the table: what people call it and where it comes from."""

    name: str
    suite: str
    carries_tracker: bool


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("5.10", "bullseye", carries_tracker=False),
        Kernel("6.1", "bookworm", carries_tracker=True),
        Kernel("6.12", "trixie", carries_tracker=True),
        Kernel("sid", "sid", carries_tracker=True),
    )
}


@dataclass(frozen=True)
class Boot:
    """A kernel as QEMU takes it."""

    release: str
    kernel: Path
    modules: Path
    """An ext4 image of /usr/lib/modules."""


class BuildFailed(Exception):
    """A command that builds an image failed; the message has its last words."""


def cache() -> Path:
    """Where images are kept between runs; outside of the tree."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "replicad" / "vm"


def key(*parts: str | bytes) -> str:
    """A short name for these contents together."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


def call(*command: str | Path, **options: object) -> str:
    """Runs a command of the build; BuildFailed with its words."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    if done.returncode:
        words = f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}".strip()
        raise BuildFailed(f"{' '.join(map(str, command))[:300]}: exit {done.returncode}\n{words}")
    return str(done.stdout)


def kept(name: str, build: Callable[[Path, Path], None]) -> Path:
    """The cached file or directory of this name; built under another one if it is not there.

    One builder at a time: a second one waits and finds the first one's work.
    """
    place = cache()
    place.mkdir(parents=True, exist_ok=True)
    path = place / name
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            os.utime(path)
            return path
        for left in (*place.glob("building-*"), *ENOUGH_MEMORY.glob(f"{WORKSHOP}*")):
            shutil.rmtree(left, ignore_errors=True)  # of a builder that was killed
        print(f"vm: building {name}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=place, prefix="building-") as scratch:
            made = Path(scratch) / "made"
            with _workshop(Path(scratch)) as workshop:
                build(made, workshop)
            made.rename(path)
    return path


@contextlib.contextmanager
def _workshop(otherwise: Path) -> Iterator[Path]:
    """A directory to build in: in memory where there is room, as dpkg syncs every file."""
    if not ENOUGH_MEMORY.is_dir() or shutil.disk_usage(ENOUGH_MEMORY).free < 3 << 30:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=ENOUGH_MEMORY, prefix=WORKSHOP) as name:
        os.chmod(name, 0o755)
        yield Path(name)


# --- the system ------------------------------------------------------------------------------


def _blocks_of_lock(text: str) -> dict[str, str]:
    """The entries of a lock, hashes included, by the name of the project."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==", line):
            name = match[1].lower()
        if name and not line.lstrip().startswith("#"):
            found[name] = found.get(name, "") + line + "\n"
    return found


def requirements() -> str:
    """The runtime's lock and what the tests inside need, all of it with hashes."""
    runtime = _blocks_of_lock((ROOT / "requirements-runtime.lock").read_text())
    everything = _blocks_of_lock((ROOT / "requirements.lock").read_text())
    tools = (*TEST_TOOLS, "iniconfig", "packaging", "pluggy", "pygments", "sortedcontainers")
    wanted = runtime | {name: everything[name] for name in tools}
    return "".join(wanted[name] for name in sorted(wanted))


def system() -> Path:
    """The disk image of the system: one partition with an ext4."""
    own = [inspect.getsource(step) for step in (_build_system, _install_python, _configure)]
    own.append((HERE / "image" / "init").read_text())
    name = f"system-{USERLAND}-{key(' '.join(PACKAGES), requirements(), *own)}.img"
    return kept(name, _build_system)


def _build_system(image: Path, workshop: Path) -> None:
    root = workshop / "root"
    apt = Apt(USERLAND, workshop / "apt")
    call(
        "mmdebstrap",
        "--variant=essential",
        "--dpkgopt=force-unsafe-io",
        "--architectures=amd64",
        f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        *_apt_options(),
        USERLAND,
        root,
        apt.sources,
    )
    _install_python(root)
    _configure(root)
    with image.open("wb") as file:
        file.truncate(ROOT_SIZE)
    table = f"label: gpt\nfirst-lba: 2048\nstart=2048, uuid={PARTITION}\n"
    subprocess.run(["sfdisk", "-q", str(image)], input=table, text=True, check=True)
    call(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-E", "offset=1048576,lazy_itable_init=1"),
        *("-d", root, image, f"{ROOT_SIZE // MIB - 2}m"),
    )


def _apt_options() -> list[str]:
    """What apt needs here to reach the mirror (a proxy, no check of dates), for mmdebstrap."""
    dump = call("apt-config", "dump", "Acquire")
    wanted = re.compile(r"^Acquire::(https?::.*|Check-Valid-Until|Check-Date)", re.IGNORECASE)
    return [
        f"--aptopt={line}"
        for line in dump.splitlines()
        if wanted.match(line) and not line.endswith(' "";')
    ]


def _install_python(root: Path) -> None:
    """A virtual environment with what the daemons and the tests need, from the locks."""
    venv = root / "opt/replicad/venv"
    call("chroot", root, "python3", "-m", "venv", "--without-pip", "/opt/replicad/venv")
    site = venv / "lib" / f"python{PYTHON}" / "site-packages"
    locked = root.parent / "requirements.txt"
    locked.write_text(requirements())
    platforms: list[str | Path] = [
        f"--platform=manylinux{tag}_x86_64" for tag in ("_2_34", "_2_28", "_2_17", "2014")
    ]
    call(
        *(sys.executable, "-m", "pip", "install", "-q", "--no-input", "--no-compile"),
        *("--require-hashes", "--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}"),
        "--implementation=cp",
        *platforms,
        *(f"--target={site}", "-r", locked),
    )
    shutil.rmtree(site / "bin", ignore_errors=True)
    (site / "payload.pth").write_text("/run/payload/site\n")
    for program in ("replicad", "receiver"):
        (venv / "bin" / program).symlink_to(f"/run/payload/bin/{program}")
        (root / "usr/bin" / program).symlink_to(f"/opt/replicad/venv/bin/{program}")
    # compiled once here, not at each start in a machine without KVM
    call("chroot", root, "python3", "-m", "compileall", "-q", "/opt/replicad/venv/lib")


def _configure(root: Path) -> None:
    """No login, no network, nothing that wakes up by itself; the first process."""
    shutil.copy(HERE / "image" / "init", root / "opt/replicad/init")
    (root / "etc/hostname").write_text("web01\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost web01\n")
    (root / "etc/fstab").write_text("")
    # known, so that a boot is not the first one, which would set up everything by itself
    (root / "etc/machine-id").write_text(f"{key(USERLAND):0<32}\n")
    (root / "usr/lib/modules").mkdir(exist_ok=True)
    masked = root / "etc/systemd/system"
    for unit in (
        *("apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer", "e2scrub_all.timer"),
        *("getty@tty1.service", "serial-getty@ttyS0.service", "getty-static.service"),
        *("systemd-timesyncd.service", "systemd-networkd.service", "systemd-logind.service"),
        *("mdcheck_start.timer", "mdcheck_continue.timer", "mdmonitor-oneshot.timer"),
        *("e2scrub_reap.service", "dpkg-db-backup.timer", "mdmonitor.service"),
        *("systemd-firstboot.service", "lvm2-monitor.service", "man-db.timer"),
        *("systemd-networkd.socket", "systemd-update-utmp.service", "systemd-random-seed.service"),
        *("systemd-update-utmp-runlevel.service", "systemd-user-sessions.service"),
        *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount"),
        *("sys-fs-fuse-connections.mount", "keyboard-setup.service", "console-setup.service"),
        *("modprobe@.service", "kmod-static-nodes.service", "blk-availability.service"),
        *("lvm2-lvmpolld.socket", "systemd-ask-password-wall.path", "systemd-pstore.service"),
        *("systemd-journal-flush.service", "systemd-binfmt.service", "e2scrub_all.service"),
    ):
        (masked / unit).unlink(missing_ok=True)
        (masked / unit).symlink_to("/dev/null")
    # arrays and volume groups are started by the tests, not by whoever sees their parts first
    (root / "etc/mdadm/mdadm.conf").write_text("AUTO -all\n")
    for litter in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / litter, ignore_errors=True)
    for place in ("etc", "var"):  # newer than /usr: caches are not rebuilt at each start
        (root / place / ".updated").touch()


# --- a kernel --------------------------------------------------------------------------------


def kernel(which: Kernel) -> Boot:
    """The newest kernel of a suite, for machines like ours (its ``cloud`` flavour)."""
    name = f"kernel-{which.name}-{key(which.suite, inspect.getsource(_build_kernel))}"
    place = kept(name, lambda made, workshop: _build_kernel(which, made, workshop))
    return Boot((place / "release").read_text(), place / "vmlinuz", place / "modules.img")


OF_A_KERNEL = re.compile(r"^linux-(image|binary|modules|base)-\d")


def _build_kernel(which: Kernel, made: Path, workshop: Path) -> None:
    apt = Apt(which.suite, workshop / "apt")
    versioned = [p for p in apt.depends("linux-image-cloud-amd64") if OF_A_KERNEL.match(p)]
    # sid has the image in three packages, the others in one
    wanted = {p for name in versioned for p in (name, *apt.depends(name)) if OF_A_KERNEL.match(p)}
    files = workshop / "files"
    for package in apt.download(sorted(wanted), workshop / "packages"):
        call("dpkg-deb", "-x", package, files)
    trees = [*files.glob("lib/modules/*"), *files.glob("usr/lib/modules/*")]
    images = [*files.glob("boot/vmlinuz-*"), *files.glob("usr/lib/modules/*/vmlinuz")]
    if len(trees) != 1 or len(images) != 1:
        raise BuildFailed(f"{sorted(wanted)} hold {trees} and {images}")
    release = trees[0].name
    made.mkdir()
    shutil.copy(images[0], made / "vmlinuz")
    (made / "release").write_text(release)
    modules = workshop / "modules"
    (modules / "lib/modules").mkdir(parents=True)
    trees[0].rename(modules / "lib/modules" / release)
    (modules / "lib/modules" / release / "vmlinuz").unlink(missing_ok=True)
    call("depmod", "-b", modules, release)
    size = sum(path.stat().st_size + 4096 for path in modules.rglob("*")) // MIB * 5 // 4 + 16
    call(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0"),
        *("-d", modules / "lib/modules", made / "modules.img", f"{size}m"),
    )


# --- the tree under test ---------------------------------------------------------------------


def payload() -> Path:
    """A tar of the project's wheel, unpacked, its commands, its units and its tests."""
    paths = [p for p in tracked() if p.parts[0] not in (".ci", "docs", "bench", "demo")]
    contents = [f"{path}\n".encode() + (ROOT / path).read_bytes() for path in paths]
    name = f"tree-{key(*contents)}.tar"
    made = kept(name, lambda file, workshop: _build_payload(file, workshop, paths))
    for old in sorted(cache().glob("tree-*.tar"), key=lambda p: p.stat().st_mtime)[:-5]:
        old.unlink(missing_ok=True)
    return made


def _build_payload(file: Path, place: Path, paths: list[Path]) -> None:
    tree, site, commands = place / "tree", place / "site", place / "bin"
    for path in paths:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tree / path)
    call(
        *(sys.executable, "-m", "pip", "wheel", "-q", "--no-input", "--no-deps"),
        *("--no-build-isolation", "-w", place / "dist", "."),
        cwd=tree,
    )
    (wheel,) = (place / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    if not (site / "replicad/tracker/bpf/tracker.bpf.o").exists():
        raise BuildFailed("the wheel holds no tracker object")
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == PYTHON:  # else the guest has to, slowly
        compile_all = (sys.executable, "-m", "compileall", "-q", "-s", place, "-p", "/run/payload")
        call(*compile_all, "--invalidation-mode=unchecked-hash", site, tree / "tests")
    commands.mkdir()
    for program, target in _commands(site):
        module, _, function = target.partition(":")
        path = commands / program
        path.write_text(
            "#!/opt/replicad/venv/bin/python\n"
            f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
        path.chmod(0o755)
    # only the tests and the units come as a tree: the packages are the wheel's
    with tarfile.open(file, "w") as archive:
        for name in ("site", "bin"):
            archive.add(place / name, name)
        for name in ("tests", "systemd", "pyproject.toml"):
            archive.add(tree / name, f"tree/{name}")


def _commands(site: Path) -> list[tuple[str, str]]:
    (listing,) = site.glob("*.dist-info/entry_points.txt")
    parser = configparser.ConfigParser()
    parser.read(listing)
    return list(parser["console_scripts"].items())


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for one machine's overlays, disks and sockets; gone afterwards."""
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="replicad-vm-") as name:
        yield Path(name)
