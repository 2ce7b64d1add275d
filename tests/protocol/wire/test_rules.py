from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from protocol.wire.messages import ControlMessage
from protocol.wire.rules import RULES, Phase, Role


def test_every_message_has_its_row() -> None:
    assert set(RULES) == set(get_args(ControlMessage))


@pytest.mark.parametrize("message", list(RULES), ids=lambda message: message.__name__)
def test_a_row_fits_its_message(message: type[ControlMessage]) -> None:
    rule = RULES[message]
    fields = {field.name for field in msgspec.structs.fields(message)}
    assert rule.asks == ("id" in fields)
    if rule.answers is not None:
        assert "answers" in fields
        assert RULES[rule.answers].asks
        assert not rule.senders & RULES[rule.answers].senders
    assert Phase.CLOSED not in rule.phases


def test_every_request_can_be_answered() -> None:
    answered = {rule.answers for rule in RULES.values()}
    assert {message for message, rule in RULES.items() if rule.asks} <= answered


def test_a_stranger_can_say_only_this() -> None:
    said = {
        message.__name__
        for message, rule in RULES.items()
        if Role.SOURCE in rule.senders and rule.phases != {Phase.ESTABLISHED}
    }
    assert said == {"Hello", "Refused", "AuthorityRequest", "Enrol"}
