"""Debian's packages of any suite, from the mirror that this machine already uses.

No host is named here: the addresses, their keys and their proxies are those of the machine's own
apt configuration; only the suite is another one. apt itself downloads and checks signatures, with
state and cache of its own, so that the machine's lists stay as they are.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ETC = Path("/etc/apt")
SUITES = ("bullseye", "bookworm", "trixie", "forky", "sid")
ALIASES = ("oldoldstable", "oldstable", "stable", "testing", "unstable")
SECURITY = "-security"
WITHOUT_SECURITY = ("sid", "unstable")


class NoMirror(Exception):
    """The machine's apt configuration names no Debian mirror."""


class MirrorFailed(Exception):
    """The mirror could not be read from; the message has apt's words."""


@dataclass(frozen=True)
class Entry:
    """One source of packages as the machine's configuration has it."""

    address: str
    suite: str
    options: str
    """What stands in brackets in the one-line form, such as the key that signs."""


def _blocks(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a deb822 file; keys in lower case."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        key = ""
        for line in paragraph.splitlines():
            if line[:1].isspace():
                fields[key] = f"{fields.get(key, '')} {line.strip()}"
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields:
            yield fields


def read_deb822(text: str) -> list[Entry]:
    """The entries of a ``.sources`` file. A key that is written out in it is not carried over."""
    found = []
    for fields in _blocks(text):
        if fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        key = fields.get("signed-by", "")
        options = f"signed-by={key}" if key.startswith("/") else ""
        found += [
            Entry(address, suite, options)
            for address in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return found


LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<address>\S+)\s+(?P<suite>\S+)\s")


def read_lines(text: str) -> list[Entry]:
    """The entries of a ``.list`` file."""
    found = []
    for line in text.splitlines():
        if match := LINE.match(line.strip() + " "):
            options = " ".join(
                option
                for option in (match["options"] or "").split()
                if option.lower().startswith("signed-by=")
            )
            found.append(Entry(match["address"], match["suite"], options))
    return found


def entries(etc: Path = ETC) -> list[Entry]:
    """All entries of a configuration directory."""
    found = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        if path.suffix == ".sources":
            found += read_deb822(path.read_text())
        elif path.suffix == ".list":
            found += read_lines(path.read_text())
    return found


def lines_for(suite: str, known: Iterable[Entry]) -> list[str]:
    """The one-line sources of a suite and its security updates, from the entries of another.

    Raises NoMirror.
    """
    known = list(known)
    own = [e for e in known if e.suite in (*SUITES, *ALIASES)]
    security = [
        e for e in known if e.suite.partition(SECURITY)[0] in SUITES and SECURITY in e.suite
    ]
    if not own:
        raise NoMirror("the apt configuration of this machine names no Debian mirror")

    def line(entry: Entry, name: str) -> str:
        options = f"[{entry.options}] " if entry.options else ""
        return f"deb {options}{entry.address} {name} main"

    lines = [line(own[0], suite)]
    if security and suite not in WITHOUT_SECURITY:
        lines.append(line(security[0], f"{suite}{SECURITY}"))
    return lines


class Apt:
    """apt for one suite, with state of its own in a directory. Its methods raise MirrorFailed."""

    def __init__(self, suite: str, directory: Path) -> None:
        """Makes the directory and fetches the lists. Raises NoMirror as well."""
        self._directory = directory
        for name in ("lists/partial", "cache/archives/partial", "etc"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        self.sources = directory / "sources.list"
        self.sources.write_text("\n".join(lines_for(suite, entries())) + "\n")
        self._run("apt-get", "update", "-q")

    def _run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        at = self._directory
        options = {
            "Dir::State": at,
            "Dir::State::status": at / "status",
            "Dir::State::lists": at / "lists",
            "Dir::Cache": at / "cache",
            "Dir::Etc::sourcelist": self.sources,
            "Dir::Etc::sourceparts": at / "etc",
            "Dir::Etc::preferencesparts": at / "etc",
            "APT::Sandbox::User": "root",
            "APT::Architecture": "amd64",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        command = [program]
        for key, value in options.items():
            command += ["-o", f"{key}={value}"]
        done = subprocess.run(
            [*command, *arguments], cwd=cwd, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise MirrorFailed(f"{program} {' '.join(arguments)}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def depends(self, package: str) -> list[str]:
        """The names of the packages that the newest version of one depends on."""
        text = self._run("apt-cache", "depends", "--no-recommends", "--no-suggests", package)
        return re.findall(r"^\s*\|?Depends: (\S+)$", text, re.MULTILINE)

    def download(self, packages: Iterable[str], into: Path) -> list[Path]:
        """Fetches packages, not what they depend on; the files."""
        into.mkdir(parents=True, exist_ok=True)
        self._run("apt-get", "download", "-q", *packages, cwd=into)
        return sorted(into.glob("*.deb"))
