"""The control connection without its socket: who may say what, and when.

One table (:data:`protocol.wire.rules.RULES`) says for every message which role sends it, in
which phases, and what it answers. The same table judges what we send and what we receive, so
this code knows its side only by its role (h11's idea)::

    GREETING --Hello--> NEGOTIATING --Welcome--> ESTABLISHED   (the source has a certificate)
                                            `--> ENROLLING     (it has none and may only enrol)
    any phase --Refused, Enrolled, Authority or a fault--> CLOSED

Bytes come in through :meth:`ControlConnection.receive`, events are pulled from what it
returns, and everything to write comes out of :meth:`~ControlConnection.send`,
:meth:`~ControlConnection.beat` or :meth:`~ControlConnection.take_output`. ``now`` is any
clock in seconds that never goes back; it is always passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.errors import (
    CONNECTION_LOST,
    INTERNAL,
    NOT_ENROLLED,
    PROTOCOL,
    SILENT,
    TOO_MANY,
    PeerFault,
    from_peer,
)
from protocol.wire.checks import check, cleaned
from protocol.wire.framing import ControlReader, encode_control
from protocol.wire.greeting import Greeting, check_welcome, negotiate
from protocol.wire.limits import (
    ASKED_MAX,
    CONTROL_GREETING_MAX,
    CONTROL_MESSAGE_MAX,
    HANDSHAKE_TIMEOUT,
    SILENCE_BEATS,
    TEXT_MAX,
)
from protocol.wire.messages import ControlMessage, Heartbeat, Hello, Refused, Welcome
from protocol.wire.rules import RULES, Phase, Role

__all__ = ["ControlConnection", "Event", "Greeted", "Phase", "Role"]

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Greeted:
    """Event: both sides have agreed. ``peer`` is the other's Hello or Welcome; the phase is now
    ESTABLISHED or ENROLLING."""

    version: int
    capabilities: frozenset[str]
    peer: Hello | Welcome


Event = Greeted | ControlMessage
"""What :meth:`ControlConnection.receive` gives: Greeted once, then the peer's messages.
Hello, Welcome and Heartbeat are dealt with inside and do not appear."""


class ControlConnection:
    """One control connection, seen from one side.

    ``authenticated``: the source's name that a verified certificate vouches for; on the source
    its own. None: no certificate, the connection can only be used to enrol.

    ``taken``: messages of the peer so far, heartbeats too.
    """

    def __init__(
        self, role: Role, greeting: Greeting, authenticated: str | None, now: float
    ) -> None:
        self.role = role
        self.phase = Phase.GREETING
        self.greeting = greeting
        self.authenticated = authenticated
        self.taken = 0
        self._peer_role = Role.RECEIVER if role is Role.SOURCE else Role.SOURCE
        self._reader = ControlReader(CONTROL_GREETING_MAX)
        self._output = bytearray()
        self._asked: dict[int, type[ControlMessage]] = {}
        self._started = now
        self._heard = now
        self._peer_sent = 0.0
        self._interval = greeting.heartbeat
        self._beat_at = math.inf
        if role is Role.SOURCE:
            self._put(greeting.hello())

    def __repr__(self) -> str:
        return f"ControlConnection({self.role.value}, {self.phase.value}, {self.authenticated!r})"

    @property
    def over(self) -> bool:
        """Nothing more will be said on this connection."""
        return self.phase is Phase.CLOSED

    @property
    def heartbeat(self) -> float:
        """Seconds between heartbeats, as agreed."""
        return self._interval

    # --- out -----------------------------------------------------------------------------

    def send(self, message: ControlMessage) -> bytes:
        """The bytes to write for ``message``, after any that were waiting to be written.

        Raises:
            LocalFault: CONNECTION_LOST when the conversation is over; INTERNAL when we may not
                say this now.
        """
        if self.phase is Phase.CLOSED:
            raise CONNECTION_LOST.fault(peer=self._peer_role.value, detail="it is closed")
        try:
            self._judge(self.role, message)
        except PeerFault as fault:
            raise INTERNAL.fault(detail=f"we would have: {fault.sentence}") from fault
        self._put(message)
        return self.take_output()

    def take_output(self) -> bytes:
        """Bytes that wait to be written: the greeting, or the refusal of a broken peer."""
        output = bytes(self._output)
        self._output.clear()
        return output

    # --- in ------------------------------------------------------------------------------

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> Iterator[Event]:
        """Take bytes of the stream, cut anywhere, and give the events in them.

        The bytes are taken at once; events that are not pulled from this iterator come out of
        the next one. Pulling raises what :meth:`next_event` raises.
        """
        if self.phase is not Phase.CLOSED:
            self._heard = now
            self._reader.feed(data)
        return iter(lambda: self.next_event(now), None)

    def next_event(self, now: float) -> Event | None:
        """The next event, or None when more bytes are needed or the connection is over.

        Raises:
            PeerFault: the peer refused us, or broke the protocol. The phase is CLOSED, and
                :meth:`take_output` has what the peer should be told before the socket closes.
        """
        while self.phase is not Phase.CLOSED:
            try:
                message = self._reader.next_message()
                if message is None:
                    return None
                event = self._take(message, now)
            except PeerFault as fault:
                self._refuse(fault)
                raise
            if isinstance(event, Refused) and self.over:
                raise from_peer(event.code, event.message, event.remedy)
            if event is not None:
                return event
        return None

    def ended(self) -> None:
        """The stream has ended.

        Raises:
            PeerFault: CONNECTION_LOST, unless the conversation was over.
        """
        if self.phase is not Phase.CLOSED:
            self.phase = Phase.CLOSED
            cut = "between" if self._reader.at_boundary else "within"
            raise CONNECTION_LOST.peer(
                peer=self._peer_role.value, detail=f"it ended {cut} messages"
            )

    # --- time ----------------------------------------------------------------------------

    def due(self, now: float) -> float:
        """When to call :meth:`beat` next, at the latest; infinity when the connection is over.

        Raises:
            PeerFault: SILENT: nothing came for too long, or the greeting took too long.
        """
        if self.phase is Phase.CLOSED:
            return math.inf
        if self.phase is Phase.ESTABLISHED:
            patience, since = self._interval * SILENCE_BEATS, self._heard
        else:
            patience, since = HANDSHAKE_TIMEOUT, self._started
        if now - since >= patience:
            fault = SILENT.peer(seconds=patience)
            self._refuse(fault)
            raise fault
        return min(since + patience, self._beat_at)

    def beat(self, now: float) -> bytes:
        """The heartbeat to write, if one is due. Raises what :meth:`due` raises."""
        self.due(now)
        if self.phase is Phase.ESTABLISHED and now >= self._beat_at:
            self._beat_at = now + self._interval
            return self.send(Heartbeat(sent=now, echo=self._peer_sent))
        return self.take_output()

    # --- the rules -----------------------------------------------------------------------

    def _take(self, message: ControlMessage, now: float) -> Event | None:
        """A message from the peer: judged by the table, checked, dealt with."""
        self.taken += 1
        self._judge(self._peer_role, message)
        match message:
            case Hello():
                welcome = negotiate(message, self.greeting, self.authenticated)
                self.phase = Phase.NEGOTIATING
                self._put(welcome)
                return self._greeted(welcome, cleaned(message), now)
            case Welcome():
                check_welcome(message, self.greeting)
                return self._greeted(message, cleaned(message), now)
            case Heartbeat():
                self._peer_sent = message.sent
                return None
            case Refused():
                return _readable(message)
        check(message)
        return cleaned(message)

    def _judge(self, sender: Role, message: ControlMessage) -> None:
        """Hold a message of either side against the table, and go where it leads."""
        rule = RULES[type(message)]
        name = type(message).__name__
        if sender not in rule.senders:
            raise PROTOCOL.peer(detail=f"a {sender.value} does not send {name}")
        if self.phase not in rule.phases:
            if self.phase is Phase.ENROLLING and sender is Role.SOURCE:
                raise NOT_ENROLLED.peer()
            raise PROTOCOL.peer(detail=f"{name} in phase {self.phase.value}")
        if rule.asks:
            self._note_request(message)
        if rule.answers is not None:
            self._note_answer(message, rule.answers)
        if isinstance(message, Refused):
            self._note_refusal(message)
        if rule.ends:
            self.phase = Phase.CLOSED

    def _note_request(self, message: ControlMessage) -> None:
        number: int = getattr(message, "id")  # noqa: B009 - every message that asks has it
        if not 0 < number < 1 << 63 or number in self._asked:
            raise PROTOCOL.peer(detail=f"request id {number} is not free")
        if len(self._asked) >= ASKED_MAX:
            raise TOO_MANY.peer(what=f"{ASKED_MAX} requests without an answer")
        self._asked[number] = type(message)

    def _note_answer(self, message: ControlMessage, request: type[ControlMessage]) -> None:
        number: int = getattr(message, "answers")  # noqa: B009 - every answer has it
        if self._asked.get(number) is not request:
            raise PROTOCOL.peer(detail=f"{type(message).__name__} answers nothing ({number})")
        del self._asked[number]

    def _note_refusal(self, message: Refused) -> None:
        """A refusal either answers a request and life goes on, or it is the end."""
        if message.answers and self._asked.pop(message.answers, None) is None:
            raise PROTOCOL.peer(detail=f"Refused answers nothing ({message.answers})")
        if not message.answers or self.phase is not Phase.ESTABLISHED:
            self.phase = Phase.CLOSED

    def _greeted(self, welcome: Welcome, peer: Hello | Welcome, now: float) -> Greeted:
        known = self.authenticated is not None
        self.phase = Phase.ESTABLISHED if known else Phase.ENROLLING
        if known:
            self._reader.limit = CONTROL_MESSAGE_MAX
            self._interval = welcome.heartbeat_seconds
            self._beat_at = now + self._interval
        return Greeted(welcome.version, frozenset(welcome.capabilities), peer)

    def _put(self, message: ControlMessage) -> None:
        if isinstance(message, Hello):
            self.phase = Phase.NEGOTIATING
        self._output += encode_control(message)

    def _refuse(self, fault: PeerFault) -> None:
        """Tell the peer why, and end. A refusal is not answered with a refusal."""
        if self.phase is not Phase.CLOSED:
            self.phase = Phase.CLOSED
            refusal = Refused(code=fault.code, message=fault.sentence, remedy=fault.remedy)
            self._put(refusal)


def _readable(refusal: Refused) -> Refused:
    """The peer's words as they may be shown on a terminal and logged: short, printable."""

    def clean(text: str) -> str:
        return "".join(c if c.isprintable() else "?" for c in text[:TEXT_MAX])

    return Refused(
        code=clean(refusal.code)[:16],
        message=clean(refusal.message),
        remedy=clean(refusal.remedy),
        answers=refusal.answers,
    )
