from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.activation import ActivationCode
from protocol.errors import ACTIVATION_MALFORMED, LocalFault

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODES = st.builds(
    ActivationCode, st.binary(min_size=16, max_size=16), st.binary(min_size=20, max_size=20)
)
CODE = ActivationCode(bytes(range(16)), bytes(range(100, 120)))


def refused(text: str) -> str:
    with pytest.raises(LocalFault) as caught:
        ActivationCode.parse(text)
    assert caught.value.code == ACTIVATION_MALFORMED.code
    return caught.value.sentence


@given(CODES)
def test_a_code_comes_back(code: ActivationCode) -> None:
    assert ActivationCode.parse(code.format()) == code


def test_a_code_looks_like_one() -> None:
    groups = CODE.format().split("-")
    assert groups[0] == "RPL1"
    assert [len(group) for group in groups[1:]] == [8] * 7 + [5]


@pytest.mark.parametrize(
    "spoil",
    [
        str.lower,
        lambda text: text.replace("-", ""),
        lambda text: text.replace("-", " "),
        lambda text: f"  {text}\r\n",
        lambda text: text.replace("0", "O"),
        lambda text: text.replace("1", "l"),
        lambda text: text.replace("1", "I"),
        "-".join,
    ],
)
def test_people_may_write_it_as_they_like(spoil: object) -> None:
    assert callable(spoil)
    text = CODE.format()
    assert spoil(text) != text
    assert ActivationCode.parse(spoil(text)) == CODE


def test_every_wrong_character_is_seen() -> None:
    text = CODE.format()
    for place in range(5, len(text)):
        for other in ALPHABET:
            if text[place] not in {other, "-"}:
                refused(text[:place] + other + text[place + 1 :])


def test_every_swap_of_neighbours_is_seen() -> None:
    digits = CODE.format().replace("-", "")
    for place in range(4, len(digits) - 1):
        first, second = digits[place], digits[place + 1]
        if first != second:
            refused(digits[:place] + second + first + digits[place + 2 :])


@pytest.mark.parametrize(
    "text",
    ["", "RPL1", "RPL1-", "RPL2" + CODE.format()[4:], CODE.format()[:-1], CODE.format() + "0"],
)
def test_half_a_code_is_refused(text: str) -> None:
    refused(text)


def test_a_character_that_codes_never_have_is_named() -> None:
    assert "'U'" in refused(CODE.format()[:-1] + "u")


@given(st.text(max_size=300))
def test_any_text_is_refused_in_words(text: str) -> None:
    refused(text)


def test_the_secret_is_not_shown() -> None:
    assert repr(CODE.secret)[2:-1] not in repr(CODE)
    assert CODE.format()[8:20] not in refused(CODE.format() + "0")


@pytest.mark.parametrize(("secret", "authority"), [(15, 20), (16, 21)])
def test_a_code_has_its_sizes(secret: int, authority: int) -> None:
    with pytest.raises(ValueError):
        ActivationCode(bytes(secret), bytes(authority))
