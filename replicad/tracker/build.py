"""Compiles the tracker's BPF program.

Runs when the package is built, never on the server that is copied: the object is
position-independent of the kernel (CO-RE), so it travels in the wheel. The file imports nothing
outside the standard library, because the build runs it before any dependency is installed: ``python
replicad/tracker/build.py`` puts ``tracker.bpf.o`` beside its source.

Needs clang, libbpf's headers (libbpf-dev) and the kernel's user headers (which every C compiler's
libc package brings).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "bpf" / "tracker.bpf.c"
OBJECT = SOURCE.with_suffix(".o")
REMEDY = "install clang and libbpf-dev"
MINIMUM_CLANG = 12
"""The first that emits atomic operations which return the old value (-mcpu=v3)."""


class BuildError(Exception):
    """The object could not be compiled; the message says what to install."""


def find_clang() -> str:
    """Returns the newest usable clang: $CLANG, clang, or clang-NN on PATH.

    Raises BuildError if there is none of MINIMUM_CLANG or newer.
    """
    if chosen := os.environ.get("CLANG"):
        return chosen
    names = {"clang"}
    for directory in os.get_exec_path():
        if os.path.isdir(directory):
            names.update(name for name in os.listdir(directory) if re.fullmatch(r"clang-\d+", name))
    by_version = {
        clang_version(path): path for name in sorted(names) if (path := shutil.which(name))
    }
    newest = max(by_version, default=0)
    if newest < MINIMUM_CLANG:
        found = (
            f"clang {newest} is too old (needs {MINIMUM_CLANG})"
            if newest
            else "clang was not found"
        )
        raise BuildError(f"cannot compile the tracker: {found}; {REMEDY}")
    return by_version[newest]


def clang_version(clang: str) -> int:
    """Returns the major version that a clang names, 0 if it does not run."""
    try:
        text = subprocess.run(
            [clang, "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    match = re.search(r"clang version (\d+)", text)
    return int(match.group(1)) if match else 0


def include_directories() -> list[Path]:
    """Returns where <asm/types.h> is on distributions that keep it out of /usr/include (Debian's
    multiarch).
    """
    triplet = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    candidates = [
        Path("/usr/include") / triplet,
        *sorted(Path("/usr/include").glob(f"{os.uname().machine}-linux-*")),
    ]
    return [directory for directory in candidates if (directory / "asm" / "types.h").exists()][:1]


def compile_object(source: Path, output: Path) -> None:
    """Compiles a BPF source to an object with BTF, replacing output in one step.

    Raises BuildError with the compiler's words and the remedy.
    """
    includes = [f"-I{directory}" for directory in include_directories()]
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        compiled = Path(scratch) / output.name
        command = [
            find_clang(),
            "-target",
            "bpf",
            "-mcpu=v3",
            "-O2",
            "-g",
            "-Wall",
            "-Werror",
            *includes,
        ]
        # Reproducible, and nothing of the build machine in the wheel.
        command += [f"-ffile-prefix-map={source.parent}=.", f"-fdebug-prefix-map={source.parent}=."]
        command += ["-c", str(source), "-o", str(compiled)]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, cwd=source.parent, check=False
            )
        except OSError as error:
            raise BuildError(f"cannot compile the tracker: {error}; {REMEDY}") from error
        if result.returncode:
            raise BuildError(f"cannot compile the tracker ({REMEDY}):\n{result.stderr.strip()}")
        if strip := shutil.which("llvm-strip"):  # DWARF goes, BTF stays
            subprocess.run([strip, "-g", str(compiled)], check=False, capture_output=True)
        os.replace(compiled, output)


def main() -> int:
    """Compiles the tracker in place; returns the exit code."""
    try:
        compile_object(SOURCE, OBJECT)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
