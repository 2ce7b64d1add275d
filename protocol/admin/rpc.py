"""JSON-RPC 2.0 messages of the control socket: bytes in, values out; no socket, no clock.

Source: https://www.jsonrpc.org/specification. Three choices of ours: one object per line, no
batches (a line is answered in order anyway), and every error carries our own fault in
``data``, so that the error that a person reads is the same whichever way it came.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from protocol.errors import CONTROL_REQUEST, Exit, Fault, PeerFault, from_peer

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
# The first of the range that the specification leaves to servers: a fault of ours.
FAULT: Final = -32000

# The longest line a client may send. Requests are small; this is what one client can make
# the daemon hold.
LONGEST_REQUEST: Final = 1 << 20

# The longest line a client takes. A listing of 10,000 jobs is some 10 MiB.
LONGEST_ANSWER: Final = 64 << 20

Id = int | str | None


class RequestError(Exception):
    """A line that is not a request that we answer; becomes an error object."""

    def __init__(self, number: int, problem: str, id_: Id = None) -> None:
        super().__init__(problem)
        self.number = number
        self.fault = CONTROL_REQUEST.fault(problem=problem)
        self.id = id_


@dataclass(frozen=True, slots=True)
class Request:
    """One call. ``wants_answer`` is False for a notification (a request without an id)."""

    method: str
    params: dict[str, Any] = field(default_factory=dict)
    id: Id = None
    wants_answer: bool = True


@dataclass(frozen=True, slots=True)
class Update:
    """An item of a streaming method, before its result."""

    value: Any


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a call."""

    value: Any


def parse_request(line: bytes) -> Request:
    """The request in one line.

    Raises:
        RequestError: not JSON, a batch, or not a JSON-RPC 2.0 request.
    """
    try:
        message = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(PARSE_ERROR, f"the line is not JSON ({error})") from error
    except RecursionError as error:
        raise RequestError(PARSE_ERROR, "the line is nested too deeply") from error
    if isinstance(message, list):
        raise RequestError(INVALID_REQUEST, "batches are not taken: send one request per line")
    if not isinstance(message, dict):
        raise RequestError(INVALID_REQUEST, "a request is an object")
    id_ = message.get("id")
    if isinstance(id_, bool) or not isinstance(id_, int | str | None):
        raise RequestError(INVALID_REQUEST, '"id" must be a number without fraction or text')
    if message.get("jsonrpc") != "2.0":
        raise RequestError(INVALID_REQUEST, '"jsonrpc" must be "2.0"', id_)
    method, params = message.get("method"), message.get("params", {})
    if not isinstance(method, str):
        raise RequestError(INVALID_REQUEST, '"method" must be text', id_)
    if not isinstance(params, dict):
        raise RequestError(INVALID_PARAMS, '"params" must be an object with named values', id_)
    return Request(method, params, id_, wants_answer="id" in message)


def request_line(method: str, params: dict[str, Any], id_: int) -> bytes:
    """A call as one line."""
    return _line({"method": method, "params": params, "id": id_})


def result_line(id_: Id, value: object) -> bytes:
    """The answer to a call as one line. ``value``: anything that msgspec encodes."""
    return _line({"result": value, "id": id_})


def update_line(method: str, id_: Id, value: object) -> bytes:
    """An item of a streaming method, as the notification ``<method>.update``."""
    return _line({"method": f"{method}.update", "params": {"id": id_, "value": value}})


def error_line(id_: Id, fault: Fault, number: int = FAULT) -> bytes:
    """An error as one line; ``data`` is the fault: code, message, remedy, exit."""
    data = {**fault.as_dict(), "exit": int(fault.exit_code)}
    error = {"code": number, "message": fault.sentence, "data": data}
    return _line({"error": error, "id": id_})


def _line(message: dict[str, object]) -> bytes:
    # msgspec escapes control characters in text, so a newline can only be the end of a line.
    return msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n"


def parse_answer(line: bytes, id_: int) -> Update | Result:
    """What a daemon said about the call ``id_``.

    An error without an id is an answer too: the daemon refused before it read the request.

    Raises:
        PeerFault: the error that the daemon answered, or an answer that is none.
    """
    try:
        message = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CONTROL_REQUEST.peer(problem=f"the answer is not JSON ({error})") from error
    if not isinstance(message, dict):
        raise CONTROL_REQUEST.peer(problem="the answer is not an object")
    if "error" in message and message.get("id") in (id_, None):
        raise fault_of(message["error"])
    if "result" in message and message.get("id") == id_:
        return Result(message["result"])
    params = message.get("params")
    if isinstance(params, dict) and params.get("id") == id_ and "value" in params:
        return Update(params["value"])
    raise CONTROL_REQUEST.peer(problem="the answer belongs to no request")


class _Data(msgspec.Struct, frozen=True):
    code: str
    message: str
    remedy: str = ""
    exit: int = Exit.FAILED


class _Error(msgspec.Struct, frozen=True):
    code: int
    message: str
    data: _Data


def fault_of(error: object) -> PeerFault:
    """The fault in the error object of an answer."""
    try:
        data = msgspec.convert(error, _Error).data
    except msgspec.ValidationError:
        return CONTROL_REQUEST.peer(
            problem=f"the answer is an error of unknown form: {error!r:.200}"
        )
    return from_peer(data.code, data.message, data.remedy)
