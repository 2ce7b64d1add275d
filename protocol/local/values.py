"""The values that configuration keys take: addresses, directories, names, sizes, durations.

Each reader takes what the TOML parser gave and returns what the field holds, or raises
:class:`ValueError` with a sentence that follows the name of the key. The annotated types at the
end are what the structures in ``replicad.config`` and ``receiver.config`` are made of.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

from protocol.local.config import Reads
from protocol.units import parse_duration, parse_rate, parse_size
from protocol.wire.limits import CIPHERS

if TYPE_CHECKING:
    from collections.abc import Callable

# RFC 1123 host names; also the longest name a certificate's common name can hold (64).
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.?")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONGESTION: Final = re.compile(r"[A-Za-z0-9_-]{1,15}")
_LISTED: Final = "sysctl net.ipv4.tcp_available_congestion_control"
_ADDRESS_HELP: Final = 'write HOST:PORT, such as "0.0.0.0:8080" or "[::]:8080"'


class Address(NamedTuple):
    """Where to listen or whom to call. ``host`` has no brackets; port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int | None = None) -> Address:
    """``"0.0.0.0:8080"``, ``"[::]:8080"`` or ``"name:8080"``; ``HOST`` alone with a default port.

    Raises:
        ValueError: not an address; the text names what is accepted.
    """
    refusal = ValueError(f"{text[:300]!r} is not an address; {_ADDRESS_HELP}")
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or not _is_ipv6(host):
            raise refusal
        separator, port = rest[:1], rest[1:]
        if separator not in ("", ":"):
            raise refusal
    else:
        host, separator, port = text.partition(":")
        if ":" in port and _is_ipv6(text):
            raise ValueError(f"{text!r} needs brackets around the IPv6 address; {_ADDRESS_HELP}")
        if not _is_ipv4_or_name(host):
            raise refusal
    if not separator and default_port is not None:
        return Address(host, default_port)
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise refusal
    return Address(host, int(port))


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_ipv4_or_name(host: str) -> bool:
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return False
        return True
    return len(host) <= 253 and _HOST.fullmatch(host) is not None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text in quotes, not {_kind(value)}")  # noqa: TRY004 (shown to the user)
    return value


def _kind(value: object) -> str:
    """What a TOML value is, in the words of TOML's documentation."""
    if isinstance(value, bool):
        return "a boolean"
    names = {int: "an integer", float: "a float", str: "text", list: "an array", dict: "a table"}
    return names.get(type(value), "a date or time")


def read_address(value: object) -> Address:
    """An address to listen on."""
    return parse_address(_text(value))


def read_optional_address(value: object) -> Address | None:
    """An address, or ``""`` for none: the thing is switched off."""
    text = _text(value)
    return parse_address(text) if text else None


def read_directory(value: object) -> Path:
    """An absolute path: a service's working directory is not what its author had in mind."""
    text = _text(value)
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f'{text!r} must be an absolute path, such as "/var/lib/name"')
    return Path(text)


def read_name(value: object) -> str:
    """A name that can stand in a certificate, a file name and a line of output."""
    text = _text(value)
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is not a name; use 1 to 64 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return text


def read_optional_name(value: object) -> str:
    """A name, or ``""`` for none."""
    return read_name(value) if _text(value) else ""


def read_paths(value: object) -> tuple[str, ...]:
    """An array of absolute paths, each once, in their order."""
    if not isinstance(value, list):
        raise ValueError(f"must be an array of paths, not {_kind(value)}")  # noqa: TRY004
    paths = tuple(str(read_directory(item)) for item in value)
    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise ValueError(f"{path!r} is listed twice")
    return paths


def read_size(value: object) -> int:
    """Bytes: an integer, or text with a unit."""
    return _quantity(value, parse_size)


def read_rate(value: object) -> int:
    """Bytes per second: an integer, or text with a unit; 0 is unlimited."""
    return _quantity(value, parse_rate)


def _quantity(value: object, parse: Callable[[str], int]) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return parse(str(value))
    return parse(_text(value))


def read_duration(value: object) -> float:
    """Seconds: a number, or text with a unit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return parse_duration(format(value, "f" if isinstance(value, float) else "d"))
    return parse_duration(_text(value))


def seconds_up_to(most: float) -> Reads:
    """A duration of more than nothing and at most ``most`` seconds."""

    def read(value: object) -> float:
        seconds = read_duration(value)
        if not 0.0 < seconds <= most:
            raise ValueError(f"must be more than 0 and at most {most:g} seconds, not {seconds:g}")
        return seconds

    return Reads(read)


def auto_or(reads: Reads) -> Reads:
    """``"auto"``, which is 0: it follows what is measured; or what ``reads`` reads."""

    def read(value: object) -> Any:
        return 0 if value == "auto" else reads.reader(value)

    return Reads(read)


def read_cipher(value: object) -> str:
    """``"auto"``, or a cipher of data frames whose library is installed."""
    names = ("auto", *CIPHERS)
    if value not in names:
        known = ", ".join(f'"{name}"' for name in names)
        raise ValueError(f"must be one of {known}")
    if value != "auto":
        from protocol.wire.ciphers import HERE  # noqa: PLC0415 - only for who has fixed one

        if value not in HERE:
            raise ValueError(f"its library is not installed here; there is {' and '.join(HERE)}")
    return str(value)


def read_congestion(value: object) -> str:
    """``"auto"``, or what may be the name of a TCP congestion control. Whether the kernel has it
    for us is seen when it is used: a module may be loaded later, or no more."""
    name = _text(value)
    if not _CONGESTION.fullmatch(name):
        raise ValueError(f"must be a name that {_LISTED} shows")
    return name


def read_extent(value: object) -> int:
    """Bytes of an extent: a power of two from 64 KiB to 1 MiB."""
    size = read_size(value)
    if not 64 << 10 <= size <= 1 << 20 or size.bit_count() != 1:
        raise ValueError(f"must be 64, 128, 256, 512 KiB or 1 MiB, not {size} bytes")
    return size


def between(low: int, high: int, reader: Callable[[object], int] | None = None) -> Reads:
    """A whole number from ``low`` to ``high``, read by ``reader`` (default: a TOML integer)."""

    def read(value: object) -> int:
        if reader is not None:
            number = reader(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            number = value
        else:
            raise ValueError(f"must be an integer, not {_kind(value)}")
        if not low <= number <= high:
            raise ValueError(f"must be from {low} to {high}, not {number}")
        return number

    return Reads(read)


Listen = Annotated[Address, Reads(read_address)]
OptionalListen = Annotated[Address | None, Reads(read_optional_address)]
Directory = Annotated[Path, Reads(read_directory)]
Name = Annotated[str, Reads(read_name)]
OptionalName = Annotated[str, Reads(read_optional_name)]
Paths = Annotated[tuple[str, ...], Reads(read_paths)]
Size = Annotated[int, Reads(read_size)]
Rate = Annotated[int, Reads(read_rate)]
Duration = Annotated[float, Reads(read_duration)]
