"""Input with the shape of our own messages, derived from their types.

Nothing here knows a message: a walk over msgspec's description of a type gives a strategy of
JSON for it, so a message or field that is added tomorrow is fuzzed tomorrow. Values are those
that hurt: edges of integers, NUL and escapes in texts, paths that climb, wrong types.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import msgspec.inspect as mi
from hypothesis import strategies as st

EDGES = [
    *(0, 1, -1, 2, 255, 511, 512, 4096, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1),
    *((1 << 53) + 1, (1 << 60), (1 << 60) + 512, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 64),
    10**30,
    10**400,
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.05, 1e-300, 1e9, 600.0, 600.1, 1e308, -1e308, 2.0]
TEXTS = [
    *("", "a", "web01", "/dev/vda", "/", "//", "../../etc/passwd", "job-1", "-", "RPL-3001"),
    *("\0", "\x1b[2J\x1b]0;pwned\x07", "a\nb", "\u202eevil", "\ud7ff", "é" * 40, "x" * 5000),
    *("auto", "none", "19", "20", "00", "run", "0" * 32, "a" * 63, "[bold]x[/]", "%s{0}{x}"),
    *("device:/dev/sdz", "2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"),
    "f" * 32,
]

HOSTILE: list[Any] = [*EDGES, *FLOATS, *TEXTS, None, True, [], {}]

ANY = st.recursive(
    st.none() | st.booleans() | st.sampled_from(EDGES + FLOATS) | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TEXTS), inner, max_size=3)
    ),
    max_leaves=6,
)


def of_type(type_: Any) -> st.SearchStrategy[Any]:
    """JSON values for a type: mostly of its form, now and then of none."""
    return _of(mi.type_info(type_))


def texts_of_type(type_: Any) -> st.SearchStrategy[bytes]:
    """The same as JSON text."""
    return of_type(type_).map(as_json)


def as_json(value: Any) -> bytes:
    """A value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def conversations(type_: Any, heads: int = 16) -> st.SearchStrategy[bytes]:
    """A byte below ``heads``, then lines of JSON of a type: what line-wise targets take."""
    lines = st.lists(texts_of_type(type_), min_size=1, max_size=5)
    return st.builds(lambda head, said: bytes([head]) + b"\n".join(said), _head(heads), lines)


def one_value_changed(examples: list[bytes]) -> st.SearchStrategy[bytes]:
    """Examples of JSON in which one value, anywhere, is another: it passes every check but one."""
    return st.builds(_changed, st.sampled_from(examples), st.integers(0, 1 << 16), ANY)


def every_value_changed(example: bytes) -> Iterator[bytes]:
    """An example with each of its values in turn replaced by each hostile one."""
    for place in range(len(_places(json.loads(example)))):
        for value in HOSTILE:
            yield _changed(example, place, value)


def _changed(example: bytes, place: int, value: Any) -> bytes:
    document = json.loads(example)
    places = _places(document)
    if places:
        where, key = places[place % len(places)]
        where[key] = value
    return as_json(document)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Where the values of a document are: (object or array, key)."""
    found: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        inner = pending.pop()
        keys = inner if isinstance(inner, dict) else range(len(inner))
        found += [(inner, key) for key in keys if key != "type"]
        pending += [inner[key] for key in keys if isinstance(inner[key], dict | list)]
    return found


def in_full(value: Any) -> Any:
    """A structure as JSON values with all its fields, those that have their default too."""
    if isinstance(value, msgspec.Struct):
        info = mi.type_info(type(value))
        assert isinstance(info, mi.StructType)
        tag = {} if info.tag_field is None else {info.tag_field: info.tag}
        return tag | {each.encode_name: in_full(getattr(value, each.name)) for each in info.fields}
    if isinstance(value, list | tuple):
        return [in_full(item) for item in value]
    return (
        json.loads(bytes(value)) if isinstance(value, msgspec.Raw) else msgspec.to_builtins(value)
    )


def _head(heads: int) -> st.SearchStrategy[int]:
    return st.integers(0, heads - 1)


def _rarely_other(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 11).flatmap(lambda dice: ANY if dice == 0 else usual)


def _of(info: mi.Type) -> st.SearchStrategy[Any]:
    return _rarely_other(_plain(info))


def _plain(info: mi.Type) -> st.SearchStrategy[Any]:
    """One kind of type after the other; a kind that is not known is an error, not a gap."""
    match info:
        case mi.StructType():
            return _struct(info.cls)
        case mi.UnionType():
            return st.one_of(*(_plain(one) for one in info.types))
        case mi.LiteralType():
            return st.sampled_from(list(info.values))
        case mi.ListType() | mi.SetType() | mi.FrozenSetType() | mi.VarTupleType():
            return st.lists(_of(info.item_type), max_size=3)
        case mi.TupleType():
            return st.tuples(*map(_of, info.item_types)).map(list)
        case mi.DictType():
            return st.dictionaries(st.sampled_from(TEXTS), _of(info.value_type), max_size=3)
        case mi.Metadata():
            return _plain(info.type)
    return _scalar(info)


def _scalar(info: mi.Type) -> st.SearchStrategy[Any]:
    match info:
        case mi.StrType():
            return st.sampled_from(TEXTS) | st.text(max_size=12)
        case mi.IntType():
            return st.sampled_from(EDGES) | st.integers()
        case mi.FloatType():
            return st.sampled_from(FLOATS) | st.floats(allow_nan=False, allow_infinity=False)
        case mi.BoolType():
            return st.booleans()
        case mi.NoneType():
            return st.none()
        case mi.BytesType():
            sized = st.binary(min_size=32, max_size=32) | st.binary(max_size=40)
            return sized.map(lambda raw: base64.b64encode(raw).decode())
        case mi.AnyType() | mi.RawType():
            return ANY
    raise TypeError(f"no shape is known for {info!r}")


@functools.cache
def _struct(kind: type) -> st.SearchStrategy[dict[str, Any]]:
    return st.deferred(lambda: _fields(kind))


@functools.cache
def _fields(kind: type) -> st.SearchStrategy[dict[str, Any]]:
    info = mi.type_info(kind)
    assert isinstance(info, mi.StructType)
    tag = {} if info.tag_field is None else {info.tag_field: st.just(info.tag)}
    needed = {field.encode_name: _of(field.type) for field in info.fields if field.required}
    spare = {field.encode_name: _of(field.type) for field in info.fields if not field.required}
    return st.fixed_dictionaries({**tag, **needed}, optional=spare)
