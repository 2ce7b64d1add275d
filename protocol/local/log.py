"""The log of a daemon: events with stable names and values, as JSON lines or for a terminal.

``log.get(__name__).info("session.opened", job=job, disks=2)``: the name of an event never
changes and nothing particular is in it, so that a log can be searched and counted. Whatever
is written goes through :mod:`protocol.local.lines`, which never blocks the caller; the
standard library's log and warnings (asyncio speaks there) take the same way, for the same
reason. Values whose key says that they are secret are replaced.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec
import structlog

from protocol.errors import Fault, plain, sayable
from protocol.local.lines import FLUSH_SECONDS, LineWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# The last word of a key that must not be shown ("activation_code", "private_key").
_SECRET_WORDS: Final = frozenset({"secret", "code", "key", "password", "passphrase", "token"})
REDACTED: Final = "[redacted]"

# An error's code is not a secret although its key is "code".
_ERROR_CODE: Final = re.compile(r"RPL-[0-9]{4}")

# A longer line is replaced by a line that says so: one value may not fill the queue.
LONGEST_LINE: Final = 64 * 1024


class Log(Protocol):
    """What :func:`get` returns: an event's name, then its values."""

    def debug(self, event: str, /, **values: Any) -> Any: ...  # noqa: D102
    def info(self, event: str, /, **values: Any) -> Any: ...  # noqa: D102
    def warning(self, event: str, /, **values: Any) -> Any: ...  # noqa: D102
    def error(self, event: str, /, **values: Any) -> Any: ...  # noqa: D102
    def exception(self, event: str, /, **values: Any) -> Any: ...  # noqa: D102
    def bind(self, **values: Any) -> Log: ...  # noqa: D102


class Configured:
    """A log that is set up. :meth:`close` (also run at exit) flushes it, in bounded time."""

    def __init__(self, writer: LineWriter, handler: logging.Handler) -> None:
        self.writer = writer
        self._handler = handler
        atexit.register(self.close)

    def close(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Write what waits; False when it could not be written within ``seconds``."""
        atexit.unregister(self.close)
        logging.getLogger().removeHandler(self._handler)
        logging.captureWarnings(capture=False)
        _warn_only()
        return self.writer.close(seconds)


def get(name: str) -> Log:
    """The log of one module. May be called at import time, before :func:`configure`.

    Until a program configures its log, only warnings and errors are shown, on standard error.
    """
    if not structlog.is_configured():
        _warn_only()
    log: Log = structlog.get_logger(module=name)
    return log


def _warn_only() -> None:
    """Warnings on standard error: before a log is set up, after it is closed, in commands."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _redact,
            _printable,
            _for_people(colors=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        # Looked up at each use: a test or a redirection may have replaced it since.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def configure(
    format: Literal["auto", "json", "pretty"] = "auto",  # noqa: A002 (the name of the key)
    level: Literal["debug", "info", "warning", "error"] = "info",
    fd: int = 2,
) -> Configured:
    """Set up the log of this process: ``auto`` is pretty on a terminal, else JSON lines."""
    terminal = os.isatty(fd)
    pretty = format == "pretty" or (format == "auto" and terminal)
    render = _as_line(_for_people(colors=terminal) if pretty else _as_json)

    def about_dropped(count: int) -> bytes:
        values = {"level": "warning", "module": __name__, "event": "log.dropped", "count": count}
        return bytes(render(None, "warning", _stamp(None, "warning", values)))

    writer = LineWriter(fd, about_dropped)
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _stamp,
        _redact,
    ]
    processors.append(_printable if pretty else structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: _Queue(writer),
        cache_logger_on_first_use=False,
    )
    handler = _FromStandardLibrary()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(max(LEVELS[level], logging.INFO))
    logging.captureWarnings(capture=True)
    return Configured(writer, handler)


_stamp: Final = structlog.processors.TimeStamper(fmt="iso", utc=True)


def _as_line(
    renderer: Callable[[Any, str, MutableMapping[str, Any]], str],
) -> Callable[[Any, str, MutableMapping[str, Any]], bytes]:
    """A renderer's text as one bounded line of bytes."""

    def render(logger: Any, method: str, values: MutableMapping[str, Any]) -> bytes:
        line = renderer(logger, method, dict(values)).encode("utf-8", "backslashreplace")
        if len(line) > LONGEST_LINE:
            kept = {key: values[key] for key in ("level", "timestamp", "module") if key in values}
            short = {**kept, "event": "log.too_long", "about": str(values.get("event"))[:200]}
            line = renderer(logger, method, {**short, "bytes": len(line)}).encode()
        return line + b"\n"

    return render


def _as_json(_logger: Any, _method: str, values: MutableMapping[str, Any]) -> str:
    try:
        return msgspec.json.encode(values, enc_hook=_plain).decode()
    except UnicodeEncodeError:  # the name of a file that is no UTF-8
        return msgspec.json.encode(_sayable(dict(values)), enc_hook=_plain).decode()


def _sayable(value: Any) -> Any:
    """A value with every text in it as it can be encoded."""
    if isinstance(value, str):
        return sayable(value)
    if isinstance(value, dict):
        return {_sayable(key): _sayable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item) for item in value]
    return value


def _for_people(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback
    )


def _printable(
    _logger: Any, _method: str, values: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """For a terminal: what a hook said or a file is called must not be carried out by it."""
    for key, value in values.items():
        if isinstance(value, str) and key != "exception":
            values[key] = value if value.isprintable() else plain(value)
    return values


def _plain(value: object) -> object:
    """What the encoder does not know, as something that it does."""
    return value.as_dict() if isinstance(value, Fault) else sayable(str(value))


def _redact(
    _logger: Any, _method: str, values: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in values.items():
        values[key] = _shown(key, value)
    return values


def _shown(key: object, value: Any) -> Any:
    """``value``, or the mark that it is not shown; also inside of dictionaries and lists."""
    if isinstance(value, dict):
        return {inner: _shown(inner, item) for inner, item in value.items()}
    word = str(key).lower().replace("-", "_").rpartition("_")[2]
    if word in _SECRET_WORDS and not _harmless(value):
        return REDACTED
    if isinstance(value, list | tuple):
        return [_shown("", item) for item in value]
    return value


def _harmless(value: object) -> bool:
    """Numbers and error codes cannot be secrets (``exit_code=1``, ``code="RPL-4101"``)."""
    if isinstance(value, str):
        return _ERROR_CODE.fullmatch(value) is not None
    return value is None or isinstance(value, bool | int | float)


class _Queue:
    """What structlog calls with the finished line, whatever the level."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def _put(self, line: bytes) -> None:
        self._writer.put(line)

    debug = info = warning = error = critical = exception = msg = _put


class _FromStandardLibrary(logging.Handler):
    """Carries records of :mod:`logging` and warnings into the same queue."""

    def emit(self, record: logging.LogRecord) -> None:
        values: Mapping[str, Any] = {"module": record.name, "message": record.getMessage()}
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        if record.levelno < logging.WARNING:
            write = log.info
        write("python.log", exc_info=record.exc_info, **values)
