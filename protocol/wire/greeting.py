"""Hello and Welcome: which version and which capabilities two peers use.

The source says all that it speaks, the receiver chooses: the highest version that both have,
and the capabilities that both name. Two sides without a common version say which of them is
the older one, because that is what an administrator has to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.errors import CERTIFICATE_REFUSED, PROTOCOL, VERSION
from protocol.wire.limits import (
    CAPABILITIES,
    CAPABILITIES_OFFERED_MAX,
    HEARTBEAT,
    HEARTBEAT_MAX,
    HEARTBEAT_MIN,
    NAME_MAX,
    VERSIONS,
    VERSIONS_OFFERED_MAX,
)
from protocol.wire.messages import Hello, Welcome

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Greeting:
    """What we say of ourselves. Fields that only the other role needs stay empty.

    ``name`` and ``boot`` are the source's, ``data_port`` and ``heartbeat`` (seconds) the
    receiver's to say. ``software`` is for people: program and version.
    """

    software: str
    name: str = ""
    boot: str = ""
    data_port: int = 0
    heartbeat: float = HEARTBEAT
    versions: tuple[int, ...] = VERSIONS
    capabilities: frozenset[str] = CAPABILITIES

    def hello(self) -> Hello:
        """The source's first message."""
        return Hello(
            versions=self.versions,
            capabilities=tuple(sorted(self.capabilities)),
            software=self.software,
            name=self.name,
            boot=self.boot,
        )


def negotiate(hello: Hello, ours: Greeting, certified: str | None) -> Welcome:
    """The receiver's answer to a Hello. ``certified``: the name in the peer's certificate, or
    None when it has none (it may then only enrol).

    Raises:
        PeerFault: VERSION, CERTIFICATE_REFUSED, or PROTOCOL for an absurd offer.
    """
    _check_offer(hello)
    if certified is not None and hello.name != certified:
        detail = (
            f"it was issued to {certified!r}, the source calls itself {hello.name[:NAME_MAX]!r}"
        )
        raise CERTIFICATE_REFUSED.peer(detail=detail)
    common = set(hello.versions) & set(ours.versions)
    if not common:
        older = "the source" if max(hello.versions) < max(ours.versions) else "the receiver"
        raise VERSION.peer(
            receiver=_spoken(ours.versions), source=_spoken(hello.versions), older=older
        )
    return Welcome(
        version=max(common),
        capabilities=tuple(sorted(ours.capabilities & set(hello.capabilities))),
        software=ours.software,
        data_port=ours.data_port,
        heartbeat_seconds=ours.heartbeat,
    )


def check_welcome(welcome: Welcome, ours: Greeting) -> None:
    """The source's look at the answer: did the receiver choose from what was offered?

    Raises:
        PeerFault: PROTOCOL.
    """
    if welcome.version not in ours.versions:
        raise PROTOCOL.peer(detail=f"version {welcome.version} was not offered")
    if not ours.capabilities.issuperset(welcome.capabilities):
        raise PROTOCOL.peer(detail="a capability was not offered")
    if not HEARTBEAT_MIN <= welcome.heartbeat_seconds <= HEARTBEAT_MAX:
        raise PROTOCOL.peer(detail=f"a heartbeat every {welcome.heartbeat_seconds:g} s")
    if not 0 <= welcome.data_port < 1 << 16:
        raise PROTOCOL.peer(detail=f"data port {welcome.data_port}")


def _check_offer(hello: Hello) -> None:
    if not 0 < len(hello.versions) <= VERSIONS_OFFERED_MAX:
        raise PROTOCOL.peer(detail=f"{len(hello.versions)} versions are offered")
    if not all(0 < version < 1 << 16 for version in hello.versions):
        raise PROTOCOL.peer(detail="a version is not between 1 and 65535")
    if len(hello.capabilities) > CAPABILITIES_OFFERED_MAX:
        raise PROTOCOL.peer(detail=f"{len(hello.capabilities)} capabilities are offered")
    if any(len(text) > NAME_MAX for text in (hello.name, hello.boot, *hello.capabilities)):
        raise PROTOCOL.peer(detail=f"a name is longer than {NAME_MAX} characters")


def _spoken(versions: Sequence[int]) -> str:
    return ", ".join(str(version) for version in sorted(versions))
