"""A method by itself: what comes out of it, and that it is ended before its result is used."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
import pytest

from protocol.admin.method import Final, Method, NoParams, describe
from protocol.admin.rpc import RequestError, Result, Update

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Params(msgspec.Struct):
    name: str
    sizes: tuple[int, ...] = ()
    old: bool = msgspec.field(default=False, name="old-style")


async def outcomes(method: Method[NoParams]) -> list[Update | Result]:
    async with aclosing(method.outcomes(NoParams())) as running:
        return [outcome async for outcome in running]


def test_a_stream_is_ended_with_its_result_and_cleans_up_at_once() -> None:
    steps: list[str] = []

    async def stream(_params: NoParams) -> AsyncIterator[object]:
        try:
            yield 1
            yield Final(2)
            steps.append("not reached")
        finally:
            steps.append("ended")

    async def scenario() -> None:
        assert await outcomes(Method(stream)) == [Update(1), Result(2)]
        assert steps == ["ended"]

    asyncio.run(scenario())


def test_a_stream_without_a_final_item_has_null_as_its_result() -> None:
    async def stream(_params: NoParams) -> AsyncIterator[object]:
        yield 1

    assert asyncio.run(outcomes(Method(stream))) == [Update(1), Result(None)]


def test_names_are_those_of_the_outside() -> None:
    async def run(_params: Params) -> object:
        """First line.

        More.
        """
        return None

    method = Method(run, Params)
    assert method.decode({"name": "a", "old-style": True, "sizes": [1]}) == Params("a", (1,), True)
    with pytest.raises(RequestError, match="no parameter old; it takes name, sizes, old-style"):
        method.decode({"name": "a", "old": True})
    (said,) = describe({"m": method})
    assert said["doc"] == "First line."
    assert [(param["name"], param["type"]) for param in said["params"]] == [
        ("name", "str"),
        ("sizes", "tuple[int, ...]"),
        ("old-style", "bool"),
    ]
