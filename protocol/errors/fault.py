"""The exceptions, and how an error is declared; the table is in the modules beside this one."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

TEXT_MAX = 4096
"""Characters of a peer's text that are kept: a path, or more than one sentence."""


def plain(text: str) -> str:
    """A peer's text as it may be shown on a terminal and logged: short and printable.

    Without it an escape sequence in an error would be carried out by an administrator's terminal.
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text[:TEXT_MAX])


def sayable(text: str) -> str:
    """Text that can be encoded. Linux names are bytes; Python writes those that are no UTF-8 as
    lone surrogates (PEP 383), which no message, log line or answer could carry."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


class Exit(enum.IntEnum):
    """Exit codes of every command (fixed: scripts rely on them)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_RUNNING = 4
    TIMED_OUT = 5


class Fault(Exception):
    """A problem with a stable code, one sentence for people, and what to do about it.

    Attributes:
        code: ``RPL-`` and four digits.
        sentence: what happened, with the names of the things it happened to.
        remedy: what the reader can do now.
        exit_code: what a command ends with when this reaches it.
    """

    def __init__(
        self, code: str, sentence: str, remedy: str, exit_code: Exit = Exit.FAILED
    ) -> None:
        sentence = sayable(sentence)
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.remedy = sayable(remedy)
        self.exit_code = exit_code

    def as_dict(self) -> dict[str, str]:
        """The form in which it crosses a socket or is printed with ``--json``."""
        return {"code": self.code, "message": self.sentence, "remedy": self.remedy}


class LocalFault(Fault):
    """Our own side: configuration, disk, kernel, permissions."""


class PeerFault(Fault):
    """The other side: it refused us, or said something that the protocol does not allow."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The declaration of one error. ``sentence`` and ``remedy`` are ``str.format`` templates."""

    code: str
    name: str
    sentence: str
    remedy: str
    exit_code: Exit = Exit.FAILED

    def fault(self, **particulars: Any) -> LocalFault:
        """The error as our own, filled in with the particulars of this case."""
        return LocalFault(
            self.code,
            self.sentence.format(**particulars),
            self.remedy.format(**particulars),
            self.exit_code,
        )

    def peer(self, **particulars: Any) -> PeerFault:
        """The error as the other side's fault."""
        return PeerFault(
            self.code,
            self.sentence.format(**particulars),
            self.remedy.format(**particulars),
            self.exit_code,
        )
