from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import (
    CERTIFICATE_REFUSED,
    CONNECTION_LOST,
    INTERNAL,
    NOT_ENROLLED,
    PROTOCOL,
    SILENT,
    TOO_LONG,
    TOO_MANY,
    VERSION,
    LocalFault,
    PeerFault,
)
from protocol.wire.control import ControlConnection, Event, Greeted, Phase, Role
from protocol.wire.framing import encode_control
from protocol.wire.greeting import Greeting
from protocol.wire.jobs import JobOrder
from protocol.wire.limits import ASKED_MAX, CONTROL_GREETING_MAX, HANDSHAKE_TIMEOUT
from protocol.wire.messages import (
    Answer,
    Ask,
    Authority,
    AuthorityRequest,
    Committed,
    ControlMessage,
    Enrol,
    Enrolled,
    Heartbeat,
    Hello,
    Inventory,
    Refused,
    Welcome,
)

SOURCE = Greeting(software="replicad 1", name="web01", boot="b")
RECEIVER = Greeting(software="receiver 1", data_port=8703, heartbeat=10.0)
SECRET = "00" * 16
INVENTORY = Inventory(disks=())
ENROL = Enrol(id=1, secret=SECRET, name="web01", request_pem="")


def pair(name: str | None = "web01") -> tuple[ControlConnection, ControlConnection]:
    return (
        ControlConnection(Role.SOURCE, SOURCE, name, now=0.0),
        ControlConnection(Role.RECEIVER, RECEIVER, name, now=0.0),
    )


def pass_on(origin: ControlConnection, to: ControlConnection, now: float = 0.0) -> list[Event]:
    return list(to.receive(origin.take_output(), now))


def greeted(name: str | None = "web01") -> tuple[ControlConnection, ControlConnection]:
    source, receiver = pair(name)
    pass_on(source, receiver)
    pass_on(receiver, source)
    return source, receiver


def fault_of(connection: ControlConnection, *messages: ControlMessage | bytes) -> PeerFault:
    """The fault that these bytes cause; the connection must be over and say why."""
    data = b"".join(m if isinstance(m, bytes) else encode_control(m) for m in messages)
    with pytest.raises(PeerFault) as caught:
        list(connection.receive(data, 0.0))
    assert connection.phase is Phase.CLOSED
    assert caught.value.code.encode() in connection.take_output()
    assert list(connection.receive(data, 0.0)) == []
    return caught.value


def test_two_sides_agree() -> None:
    source, receiver = pair()
    [there] = pass_on(source, receiver)
    [here] = pass_on(receiver, source)
    assert isinstance(there, Greeted)
    assert isinstance(here, Greeted)
    assert (there.version, there.capabilities) == (here.version, here.capabilities)
    assert isinstance(there.peer, Hello)
    assert isinstance(here.peer, Welcome)
    assert here.peer.data_port == 8703
    assert source.phase is receiver.phase is Phase.ESTABLISHED


def test_messages_go_both_ways_and_heartbeats_stay_inside() -> None:
    source, receiver = greeted()
    order = JobOrder(revision=1, want="none")
    data = source.send(INVENTORY) + source.send(Heartbeat(sent=1.0))
    assert list(receiver.receive(data, 1.0)) == [INVENTORY]
    assert list(source.receive(receiver.send(order), 1.0)) == [order]


@given(st.lists(st.integers(1, 300), max_size=20))
def test_the_cut_of_the_stream_does_not_matter(cuts: list[int]) -> None:
    source, receiver = pair()
    data = source.take_output() + encode_control(INVENTORY) * 2
    events: list[Event] = []
    for cut in [*cuts, len(data)]:
        events += receiver.receive(data[:cut], 0.0)
        data = data[cut:]
    assert events[1:] == [INVENTORY, INVENTORY]


def test_events_that_were_not_pulled_come_later() -> None:
    source, receiver = greeted()
    receiver.receive(source.send(INVENTORY), 0.0)
    assert list(receiver.receive(b"", 0.0)) == [INVENTORY]


def test_good_messages_before_a_fault_are_delivered() -> None:
    source, receiver = greeted()
    events = receiver.receive(source.send(INVENTORY) + b"\xff\xff\xff\xff", 0.0)
    assert next(events) == INVENTORY
    with pytest.raises(PeerFault):
        next(events)


# --- who may come in -------------------------------------------------------------------------


def test_sides_without_a_common_version_part_in_words() -> None:
    source = ControlConnection(
        Role.SOURCE, Greeting(software="", name="web01", versions=(7,)), "web01", 0.0
    )
    _, receiver = pair()
    with pytest.raises(PeerFault) as here:
        pass_on(source, receiver)
    with pytest.raises(PeerFault) as there:
        pass_on(receiver, source)
    assert here.value.code == there.value.code == VERSION.code
    assert "the receiver is older" in there.value.sentence
    assert source.phase is receiver.phase is Phase.CLOSED


def test_a_source_with_another_name_than_its_certificate_is_refused() -> None:
    source, _ = pair()
    receiver = ControlConnection(Role.RECEIVER, RECEIVER, "db01", 0.0)
    assert fault_of(receiver, source.take_output()).code == CERTIFICATE_REFUSED.code


def test_a_source_without_a_certificate_may_enrol() -> None:
    source, receiver = greeted(None)
    assert {source.phase, receiver.phase} == {Phase.ENROLLING}
    assert list(receiver.receive(source.send(ENROL), 0.0)) == [ENROL]
    enrolled = Enrolled(answers=1, certificate_pem="c", authority_pem="a")
    data = receiver.send(enrolled)
    assert receiver.over
    assert list(source.receive(data, 0.0)) == [enrolled]
    assert source.over


def test_a_source_may_ask_for_the_authority_first() -> None:
    source, receiver = greeted(None)
    assert list(receiver.receive(source.send(AuthorityRequest(id=1)), 0.0))
    authority = Authority(answers=1, certificate_pem="a")
    assert list(source.receive(receiver.send(authority), 0.0)) == [authority]
    assert source.phase is Phase.CLOSED


def test_a_source_without_a_certificate_may_do_nothing_else() -> None:
    _, receiver = greeted(None)
    assert fault_of(receiver, INVENTORY).code == NOT_ENROLLED.code


def test_a_refused_enrolment_ends_the_connection() -> None:
    source, receiver = greeted(None)
    list(receiver.receive(source.send(ENROL), 0.0))
    data = receiver.send(Refused(code="RPL-2002", message="unknown", answers=1))
    with pytest.raises(PeerFault) as caught:
        list(source.receive(data, 0.0))
    assert caught.value.code == "RPL-2002"
    assert caught.value.exit_code == 3
    assert source.phase is receiver.phase is Phase.CLOSED


def test_a_stranger_may_not_say_much() -> None:
    _, receiver = pair(None)
    announced = (CONTROL_GREETING_MAX + 1).to_bytes(4, "big")
    assert fault_of(receiver, announced).code == TOO_LONG.code
    _, receiver = greeted()
    assert list(receiver.receive(announced, 0.0)) == []


# --- what may be said when -------------------------------------------------------------------


@pytest.mark.parametrize("message", [INVENTORY, ENROL, Heartbeat(sent=0.0), Welcome(version=1)])
def test_nothing_comes_before_the_greeting(message: ControlMessage) -> None:
    _, receiver = pair()
    assert fault_of(receiver, message).code == PROTOCOL.code


def test_a_greeting_comes_once() -> None:
    _, receiver = greeted()
    assert fault_of(receiver, SOURCE.hello()).code == PROTOCOL.code


def test_each_side_says_only_what_is_its_own() -> None:
    source, receiver = greeted()
    assert fault_of(source, INVENTORY).code == PROTOCOL.code
    assert fault_of(receiver, JobOrder(revision=1, want="none")).code == PROTOCOL.code


def test_a_message_that_cannot_be_meant_is_refused() -> None:
    source, _ = greeted()
    assert fault_of(source, JobOrder(revision=-1, want="none")).code == PROTOCOL.code


def test_what_we_may_not_say_is_not_sent() -> None:
    source, receiver = greeted()
    wrong: list[tuple[ControlConnection, ControlMessage]] = [
        (source, ENROL),
        (receiver, INVENTORY),
        (receiver, Answer(answers=5)),
    ]
    for connection, message in wrong:
        with pytest.raises(LocalFault) as caught:
            connection.send(message)
        assert caught.value.code == INTERNAL.code
    assert source.send(INVENTORY)


# --- requests and answers --------------------------------------------------------------------


def test_an_answer_answers_a_request_once() -> None:
    source, receiver = greeted()
    list(receiver.receive(source.send(Ask(id=5, action="show")), 0.0))
    data = receiver.send(Answer(answers=5))
    assert len(list(source.receive(data, 0.0))) == 1
    assert fault_of(source, data).code == PROTOCOL.code


def test_an_answer_is_of_the_kind_that_was_asked_for() -> None:
    source, _ = greeted()
    source.send(Ask(id=5, action="show"))
    assert fault_of(source, Committed(answers=5, epoch=1)).code == PROTOCOL.code


def test_a_request_may_be_refused_and_life_goes_on() -> None:
    source, receiver = greeted()
    list(receiver.receive(source.send(Ask(id=5, action="pause")), 0.0))
    refused = Refused(code="RPL-4005", message="no\x1b[2J" + "x" * 9999, answers=5)
    [event] = source.receive(receiver.send(refused), 0.0)
    assert isinstance(event, Refused)
    assert event.message.startswith("no?[2J")
    assert len(event.message) < 3000
    assert source.phase is Phase.ESTABLISHED
    assert source.send(Ask(id=5, action="pause"))


def test_a_refusal_of_nothing_is_a_fault_and_one_of_all_is_the_end() -> None:
    source, receiver = greeted()
    assert fault_of(source, Refused(code="RPL-4005", message="", answers=5)).code == PROTOCOL.code
    source, receiver = greeted()
    data = receiver.send(Refused(code="RPL-2007", message="forgotten"))
    with pytest.raises(PeerFault) as caught:
        list(source.receive(data, 0.0))
    assert caught.value.code == "RPL-2007"
    assert source.take_output() == b""  # a refusal is not answered with one
    assert source.phase is receiver.phase is Phase.CLOSED


@pytest.mark.parametrize("number", [0, -1, 7])
def test_the_id_of_a_request_is_free(number: int) -> None:
    _, receiver = greeted()
    taken = Ask(id=7, action="show")
    assert fault_of(receiver, taken, Ask(id=number, action="show")).code == PROTOCOL.code


def test_requests_without_an_answer_are_bounded() -> None:
    _, receiver = greeted()
    asks = [Ask(id=n, action="show") for n in range(1, ASKED_MAX + 2)]
    data = b"".join(encode_control(ask) for ask in asks)
    events = receiver.receive(data, 0.0)
    assert [next(events) for _ in range(ASKED_MAX)] == asks[:-1]
    with pytest.raises(PeerFault) as caught:
        next(events)
    assert caught.value.code == TOO_MANY.code


# --- time ------------------------------------------------------------------------------------


def test_a_greeting_that_takes_too_long_ends() -> None:
    _, receiver = pair()
    assert receiver.due(0.0) == HANDSHAKE_TIMEOUT
    # Bytes do not buy time before the peer is known.
    list(receiver.receive(b"\0", HANDSHAKE_TIMEOUT - 1))
    assert receiver.due(HANDSHAKE_TIMEOUT - 1) == HANDSHAKE_TIMEOUT
    with pytest.raises(PeerFault) as caught:
        receiver.due(HANDSHAKE_TIMEOUT)
    assert caught.value.code == SILENT.code
    assert receiver.due(HANDSHAKE_TIMEOUT) == math.inf


def test_heartbeats_are_sent_at_the_agreed_interval() -> None:
    source, _ = greeted()
    assert source.due(0.0) == 10.0
    assert source.beat(9.9) == b""
    assert b"heartbeat" in source.beat(10.0)
    assert source.beat(10.0) == b""
    assert source.due(10.0) == 20.0


def test_a_heartbeat_echoes_the_peers() -> None:
    source, receiver = greeted()
    list(receiver.receive(source.beat(10.0), 10.0))
    assert b'"echo":10.0' in receiver.beat(10.5)


def test_a_silent_peer_is_given_up() -> None:
    source, receiver = greeted()
    list(source.receive(receiver.send(Heartbeat(sent=5.0)), 5.0))
    source.beat(34.9)
    assert source.due(34.9) == 35.0
    with pytest.raises(PeerFault) as caught:
        source.beat(35.0)
    assert caught.value.code == SILENT.code
    assert source.phase is Phase.CLOSED


@given(st.lists(st.floats(0.01, 9.0), max_size=60))
def test_two_sides_that_only_beat_stay_connected(steps: list[float]) -> None:
    source, receiver = greeted()
    now = 0.0
    for step in steps:
        now += step
        there, back = source.beat(now), receiver.beat(now)
        assert list(receiver.receive(there, now)) == list(source.receive(back, now)) == []


# --- the end ---------------------------------------------------------------------------------


def test_a_stream_that_ends_is_a_lost_connection() -> None:
    for data, where in ((b"", "between"), (b"\0\0", "within")):
        source, _ = greeted()
        list(source.receive(data, 0.0))
        with pytest.raises(PeerFault) as caught:
            source.ended()
        assert caught.value.code == CONNECTION_LOST.code
        assert where in caught.value.sentence
        source.ended()
        with pytest.raises(LocalFault) as local:
            source.send(INVENTORY)
        assert local.value.code == CONNECTION_LOST.code


def test_a_connection_shows_its_phase() -> None:
    assert "established" in repr(greeted()[0])
