"""What a daemon offers on its control socket: functions with typed parameters.

A method is declared once; its parameters are a structure, from which come the decoding, the
sentence about a wrong one, and what ``rpc.methods`` lists. It is one of two things: a coroutine
function whose return value is the result, or an async generator whose items are updates and
whose :class:`Final` item is the result.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import msgspec

from protocol.admin.rpc import INVALID_PARAMS, RequestError, Result, Update


class NoParams(msgspec.Struct, frozen=True):
    """The parameters of a method that takes none."""


Params = TypeVar("Params", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Final:
    """The last item of a streaming method: its result."""

    value: object


@dataclass(frozen=True, slots=True)
class Method(Generic[Params]):
    """One method.

    Attributes:
        run: ``async def run(params)`` returning the result, or an async generator of updates
            that ends with a :class:`Final` (without one the result is null). Results are
            anything that msgspec encodes.
        params: the structure of the parameters.
        doc: what it does; by default the first line of the function's docstring.
    """

    run: Callable[[Params], Coroutine[Any, Any, object]] | Callable[[Params], AsyncIterator[object]]
    params: type[Params] = cast(type[Params], NoParams)  # noqa: RUF009 (a class, not a call's value)
    doc: str = ""

    def described(self) -> str:
        """What it does, in one line."""
        return self.doc or (inspect.getdoc(self.run) or "").partition("\n")[0]

    def decode(self, params: dict[str, Any]) -> Params:
        """The parameters as their structure.

        Raises:
            RequestError: an unknown name, a missing one, or a value of the wrong type.
        """
        names = _names(self.params)
        unknown = sorted(set(params) - set(names))
        if unknown:
            takes = f"it takes {', '.join(names)}" if names else "it takes none"
            raise RequestError(INVALID_PARAMS, f"no parameter {', '.join(unknown)}; {takes}")
        try:
            return msgspec.convert(params, self.params)
        except msgspec.ValidationError as error:
            raise RequestError(INVALID_PARAMS, str(error)) from error

    async def outcomes(self, params: Params) -> AsyncGenerator[Update | Result, None]:
        """The updates of one run and then its result."""
        running = self.run(params)
        if isinstance(running, Coroutine):
            yield Result(await running)
            return
        try:
            async for item in running:
                if isinstance(item, Final):
                    yield Result(item.value)
                    return
                yield Update(item)
            yield Result(None)
        finally:
            if isinstance(running, AsyncGenerator):
                await running.aclose()


@functools.cache  # they are found out from annotations, which takes longer than most methods
def _names(params: type) -> tuple[str, ...]:
    return tuple(field.encode_name for field in msgspec.structs.fields(params))


def describe(methods: dict[str, Method[Any]]) -> list[dict[str, Any]]:
    """What ``rpc.methods`` answers: name, doc, and each parameter with type and default."""
    return [
        {
            "method": name,
            "doc": method.described(),
            "params": [_described(field) for field in msgspec.structs.fields(method.params)],
        }
        for name, method in sorted(methods.items())
    ]


def _described(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    kind = field.type.__name__ if isinstance(field.type, type) else str(field.type)
    said: dict[str, Any] = {"name": field.encode_name, "type": kind, "required": field.required}
    if field.default is not msgspec.NODEFAULT:
        said["default"] = field.default
    return said
