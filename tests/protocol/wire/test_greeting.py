from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import CERTIFICATE_REFUSED, PROTOCOL, VERSION, PeerFault
from protocol.wire.greeting import Greeting, check_welcome, negotiate
from protocol.wire.messages import Hello, Welcome

OURS = Greeting(software="receiver", data_port=8703, versions=(3, 2))


def hello(*versions: int, name: str = "web01", capabilities: tuple[str, ...] = ()) -> Hello:
    return Hello(versions=versions, name=name, capabilities=capabilities)


def refusal(said: Hello, certified: str | None = "web01") -> PeerFault:
    with pytest.raises(PeerFault) as caught:
        negotiate(said, OURS, certified)
    return caught.value


def test_the_best_common_version_is_chosen() -> None:
    assert negotiate(hello(1, 2), OURS, "web01").version == 2
    assert negotiate(hello(2, 3, 4), OURS, "web01").version == 3


def test_the_older_side_is_named() -> None:
    old, new = refusal(hello(1)), refusal(hello(4, 5))
    assert old.code == new.code == VERSION.code
    assert "the source 1; the source is older" in old.sentence
    assert "the receiver speaks 2, 3, the source 4, 5; the receiver is older" in new.sentence
    assert "the receiver" in new.remedy


def test_capabilities_are_those_of_both() -> None:
    welcome = negotiate(hello(3, capabilities=("zstd", "teleport")), OURS, "web01")
    assert welcome.capabilities == ("zstd",)


def test_a_name_is_that_of_the_certificate() -> None:
    assert refusal(hello(3, name="db01")).code == CERTIFICATE_REFUSED.code
    assert negotiate(hello(3, name="anything"), OURS, None).version == 3


@pytest.mark.parametrize(
    "said",
    [
        hello(),
        hello(*range(1, 40)),
        hello(0),
        hello(-1),
        hello(1 << 16),
        hello(3, name="x" * 65),
        hello(3, capabilities=("x" * 65,)),
        hello(3, capabilities=tuple(str(n) for n in range(65))),
    ],
)
def test_an_absurd_offer_is_refused(said: Hello) -> None:
    assert refusal(said, None).code == PROTOCOL.code


@given(
    st.sets(st.integers(1, 9), min_size=1),
    st.sets(st.integers(1, 9), min_size=1),
    st.sets(st.sampled_from("abcdef")),
    st.sets(st.sampled_from("abcdef")),
)
def test_what_one_side_chooses_the_other_accepts(
    theirs: set[int], ours: set[int], offered: set[str], known: set[str]
) -> None:
    source = Greeting(software="", versions=tuple(theirs), capabilities=frozenset(offered))
    receiver = Greeting(software="", versions=tuple(ours), capabilities=frozenset(known))
    if theirs & ours:
        welcome = negotiate(source.hello(), receiver, None)
        check_welcome(welcome, source)
        assert welcome.version == max(theirs & ours)
        assert set(welcome.capabilities) == offered & known
    else:
        with pytest.raises(PeerFault):
            negotiate(source.hello(), receiver, None)


@pytest.mark.parametrize(
    "welcome",
    [
        Welcome(version=9),
        Welcome(version=3, capabilities=("teleport",)),
        Welcome(version=3, heartbeat_seconds=0.0),
        Welcome(version=3, heartbeat_seconds=61.0),
        Welcome(version=3, data_port=65536),
    ],
)
def test_a_choice_from_what_was_not_offered_is_refused(welcome: Welcome) -> None:
    with pytest.raises(PeerFault) as caught:
        check_welcome(welcome, OURS)
    assert caught.value.code == PROTOCOL.code
