"""The reader itself: lines of keys, files that cannot be read, and that no input breaks it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import receiver.config
import replicad.config
from protocol.errors import LocalFault
from protocol.local import config, values
from protocol.local.config import Problem


class Part(msgspec.Struct, frozen=True):
    limit: values.Rate = 0
    wait: values.Duration = 1.0
    size: values.Size = 0
    count: Annotated[int, values.between(1, 9)] = 1
    mode: Literal["a", "b"] = "a"


class Whole(msgspec.Struct, frozen=True):
    part: Part = Part()


def problems(text: str) -> list[str]:
    value, found = config.parse(text.encode(), Whole)
    assert (value is None) == bool(found)
    return [str(problem) for problem in found]


def test_quantities_take_units_or_numbers() -> None:
    text = '[part]\nlimit = "200Mbit"\nwait = 2.5\nsize = 4096\n'
    value, found = config.parse(text.encode(), Whole)
    assert found == []
    assert value == Whole(Part(limit=25_000_000, wait=2.5, size=4096))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('limit = "25Mb"', "'25Mb' is not a rate; write bits or bytes per second"),
        ("limit = -1", "'-1' is not a rate"),
        ("wait = true", "must be text in quotes, not a boolean"),
        ("wait = inf", "'inf' is not a duration"),
        ("size = 1.5", "must be text in quotes, not a float"),
        ("count = 10", "must be from 1 to 9, not 10"),
        ("count = {}", "must be an integer, not a table"),
        ("mode = []", 'must be one of "a", "b"'),
    ],
)
def test_wrong_values(line: str, sentence: str) -> None:
    (found,) = problems(f"[part]\n# a comment\n{line}\n")
    assert found.startswith(f"line 3: part.{line.partition(' ')[0]}: {sentence}")


def test_lines_of_statements_over_several_lines() -> None:
    text = (
        'a = 1\n\nb = [\n 1,\n 2, # ]\n]\nc = """\nd = 1\n"""\n'
        '[t]\n"x y".z = 1\r\n[[u.v]]\nw = {k = 1}\n'
    )
    expected: dict[tuple[str, ...], int] = {
        ("a",): 1,
        ("b",): 3,
        ("c",): 7,
        ("t",): 10,
        ("t", "x y"): 11,
        ("t", "x y", "z"): 11,
        ("u",): 12,
        ("u", "v"): 12,
        ("u", "v", "w"): 13,
        ("u", "v", "w", "k"): 13,
    }
    assert config.key_lines(text) == expected


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=4),
        st.text(max_size=8) | st.integers(0, 9) | st.lists(st.text(max_size=4), max_size=3),
        max_size=8,
    ),
    st.data(),
)
def test_the_line_of_every_key_is_found(table: dict[str, object], data: st.DataObject) -> None:
    def encoded(value: object) -> str:
        if isinstance(value, list):
            newline = data.draw(st.sampled_from(["", "\n"]))
            return "[" + newline + f",{newline}".join(map(encoded, value)) + newline + "]"
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")

    text = "[s]\n"
    expected: dict[tuple[str, ...], int] = {("s",): 1}
    for key, value in table.items():
        text += "\n" * data.draw(st.integers(0, 2))
        expected[("s", key)] = text.count("\n") + 1
        text += f"{encoded(key)} = {encoded(value)}\n"
    assert tomllib.loads(text) == {"s": table}
    assert config.key_lines(text) == expected


@given(st.binary(max_size=60))
def test_no_content_breaks_the_reader(content: bytes) -> None:
    value, found = config.parse(content, Whole)
    assert (value is None) == bool(found)


def test_text_that_is_not_utf_8_has_its_line() -> None:
    assert config.parse(b"\n\n\xff", Whole) == (None, [Problem(3, "", "is not UTF-8 text")])


def test_deep_nesting_is_refused() -> None:
    assert "nested" in problems("a = " + "[" * 20_000)[0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"# " * 40_000, "is larger than 65536 bytes"), (None, "cannot be read")],
)
def test_files_that_cannot_be_a_configuration(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "f"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(LocalFault, match=sentence):
        config.read(path, path, Whole)


def test_a_long_list_of_problems_is_cut() -> None:
    text = "".join(f"k{number} = 1\n" for number in range(200))
    assert len(problems(text)) == 200
    with pytest.raises(LocalFault) as caught:
        raise config._fault(Path("/f"), config.parse(text.encode(), Whole)[1])
    assert caught.value.sentence.count("\n") == config.MOST_PROBLEMS + 1
    assert caught.value.sentence.endswith("and 150 more")


@pytest.mark.parametrize("shape", [replicad.config.Config, receiver.config.Config])
def test_every_key_of_both_daemons_has_a_reader(shape: type[msgspec.Struct]) -> None:
    for section in get_type_hints(shape).values():
        for key, annotation in get_type_hints(section, include_extras=True).items():
            assert callable(config._reader(annotation)), key


def test_a_field_without_a_reader_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="has no reader"):
        config._reader(int)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("[::]:8080", ("::", 8080)),
        ("[fe80::1]:1", ("fe80::1", 1)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("receiver.example.org:65535", ("receiver.example.org", 65_535)),
    ],
)
def test_addresses_go_round(text: str, address: tuple[str, int]) -> None:
    assert values.parse_address(text) == address
    assert str(values.parse_address(text)) == text


@pytest.mark.parametrize("text", ["host", "[::1]", "10.0.0.1"])
def test_a_default_port(text: str) -> None:
    assert values.parse_address(text, 8080).port == 8080
    with pytest.raises(ValueError, match="HOST:PORT"):
        values.parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "a:",
        "a:b",
        "a:-1",
        "a:99999",
        "a b:1",
        "1.2.3:4",
        "999.1.1.1:1",
        "[::1]80",
        "[::1",
        "[x]:1",
        "-a:1",
        "a:1:2",
        "http://a:1",
        "a:٣",
    ],
)
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        values.parse_address(text, 8080)
