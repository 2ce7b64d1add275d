"""What people write for sizes, rates, durations and instants, and how we write them back.

One place decides, so that a configuration file, an option and an answer agree. The idea: a
unit is never guessed. ``25Mb`` could mean bits or bytes, so it is refused with a sentence
that names what is accepted, and every refusal is a :class:`ValueError` whose text can stand
in a user's error message as it is.

Decimal prefixes are powers of 1000 and binary ones (``Ki``, ``Mi``, ...) powers of 1024, as
in IEC 80000-13. A bare prefix on a *size* (``10G``) is binary, which is what ``truncate``,
``qemu-img`` and ``lsblk`` do; on a *rate* it is refused. Numbers are computed exactly
(:class:`fractions.Fraction`) and rounded once.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Final

# Longer text is not a unit. It also bounds the work done for a number of absurd length.
LONGEST_TEXT: Final = 64

# The largest quantity that is taken: what fits a signed 64-bit integer (bytes, bytes/s).
LARGEST: Final = 2**63 - 1

_PREFIXES: Final = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "p": 1000**5,
    "ki": 1024,
    "mi": 1024**2,
    "gi": 1024**3,
    "ti": 1024**4,
    "pi": 1024**5,
}
_BINARY_NAMES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL_NAMES: Final = ("B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s", "EB/s")

_NUMBER: Final = r"(?P<number>[0-9]+(?:\.[0-9]+)?)"
_SIZE: Final = re.compile(rf"{_NUMBER} ?(?P<prefix>[kKmMgGtTpP]i?)?(?P<unit>B)?")
_RATE: Final = re.compile(
    rf"{_NUMBER} ?(?P<prefix>[kKmMgGtTpP]i?)?"
    r"(?:(?P<bits>bit(?:/s)?|bps)|(?P<bytes>B(?:/s|ps)?))"
)
_PLAIN_NUMBER: Final = re.compile(_NUMBER)
_DURATION_PART: Final = re.compile(rf"{_NUMBER} ?(?P<unit>us|ms|s|min|m|h|d|w) ?")
_INSTANT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)

_SECONDS: Final = {
    "us": Fraction(1, 1_000_000),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "min": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86_400),
    "w": Fraction(604_800),
}
_DURATION_ORDER: Final = ("w", "d", "h", "m", "s", "ms", "us")
# A year is longer than anything that is configured here; a century keeps datetime arithmetic
# (now + duration) far from overflow.
LONGEST_DURATION: Final = 100 * 365 * 86_400

_SIZE_HELP: Final = 'write bytes or a unit: "512", "64 KiB", "1.5GiB", "20 GB"'
_RATE_HELP: Final = 'write bits or bytes per second: "200Mbit", "25MB/s", "10MiB", or "unlimited"'
_DURATION_HELP: Final = 'write a number and a unit: "150ms", "2s", "1h30m", "7d"'
_INSTANT_HELP: Final = 'write an RFC 3339 instant: "2026-03-01T02:30:00Z"'


def _refusal(text: str, what: str, help_text: str) -> ValueError:
    shown = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "..."
    return ValueError(f"{shown!r} is not {what}; {help_text}")


def _whole(value: Fraction, text: str, what: str, help_text: str) -> int:
    """Round to a whole number; something that would become nothing is refused."""
    rounded = math.floor(value + Fraction(1, 2))
    if rounded > LARGEST or (rounded == 0 and value != 0):
        raise _refusal(text, what, help_text)
    return rounded


def parse_size(text: str) -> int:
    """Bytes of ``"512"``, ``"64 KiB"``, ``"1.5GiB"``, ``"20GB"`` or ``"10G"`` (binary).

    Raises:
        ValueError: not a size; the text names what is accepted.
    """
    match = _SIZE.fullmatch(text.strip()) if len(text) <= LONGEST_TEXT else None
    if match is None:
        raise _refusal(text, "a size", _SIZE_HELP)
    prefix = (match["prefix"] or "").lower()
    if prefix and not match["unit"] and not prefix.endswith("i"):
        prefix += "i"
    return _whole(Fraction(match["number"]) * _PREFIXES[prefix], text, "a size", _SIZE_HELP)


def parse_rate(text: str) -> int:
    """Bytes per second of ``"200Mbit"`` (25,000,000), ``"25MB/s"``, ``"10MiB"``.

    ``"0"`` and ``"unlimited"`` are 0, which means no limit. A bare number is bytes per second.

    Raises:
        ValueError: not a rate, or so small that it would round to 0 and mean "unlimited".
    """
    stripped = text.strip()
    if stripped.lower() == "unlimited":
        return 0
    if len(text) > LONGEST_TEXT:
        raise _refusal(text, "a rate", _RATE_HELP)
    if _PLAIN_NUMBER.fullmatch(stripped):
        return _whole(Fraction(stripped), text, "a rate", _RATE_HELP)
    match = _RATE.fullmatch(stripped)
    if match is None:
        raise _refusal(text, "a rate", _RATE_HELP)
    value = Fraction(match["number"]) * _PREFIXES[(match["prefix"] or "").lower()]
    if match["bits"]:
        value /= 8
    return _whole(value, text, "a rate", _RATE_HELP)


def parse_duration(text: str) -> float:
    """Seconds of ``"2s"``, ``"150ms"``, ``"4h"``, ``"7d"``, ``"1h30m"``; a bare number is seconds.

    Units of a compound must go from large to small, each at most once.

    Raises:
        ValueError: not a duration, or longer than :data:`LONGEST_DURATION`.
    """
    stripped = text.strip()
    refusal = _refusal(text, "a duration", _DURATION_HELP)
    if not stripped or len(text) > LONGEST_TEXT:
        raise refusal
    if _PLAIN_NUMBER.fullmatch(stripped):
        total = Fraction(stripped)
    else:
        total, at, last = Fraction(0), 0, Fraction(LONGEST_DURATION)
        while at < len(stripped):
            match = _DURATION_PART.match(stripped, at)
            if match is None or _SECONDS[match["unit"]] >= last:
                raise refusal
            last = _SECONDS[match["unit"]]
            total += Fraction(match["number"]) * last
            at = match.end()
    if total > LONGEST_DURATION:
        raise refusal
    return float(total)


def parse_instant(text: str) -> datetime:
    """The instant of an RFC 3339 text, in UTC whatever its offset was.

    Raises:
        ValueError: not RFC 3339, no offset, or not a date that exists.
    """
    stripped = text.strip()
    if len(text) > LONGEST_TEXT or not _INSTANT.fullmatch(stripped):
        raise _refusal(text, "an instant", _INSTANT_HELP)
    try:
        return datetime.fromisoformat(stripped.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _refusal(text, "an instant", _INSTANT_HELP) from error


_MOST: Final = 1e300
"""A whole number may be too large to be divided: what a peer says is shown, whatever it is."""


def _scaled(value: float, base: int, names: tuple[str, ...]) -> str:
    """``value`` with three significant digits in the unit that keeps it below ``base``."""
    step = 0
    value = min(value, _MOST)
    # 999.5 would print as 1000: the next unit is taken from where rounding reaches it.
    while value >= base - 0.5 and step < len(names) - 1:
        value /= base
        step += 1
    digits = 0 if step == 0 or value >= 100 else 1 if value >= 10 else 2
    number = f"{value:.{digits}f}"
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return f"{number} {names[step]}"


def format_size(size: int) -> str:
    """``1610612736`` -> ``"1.5 GiB"``. Three digits: for people, not to be parsed back exactly."""
    if size < 0:
        return "-" + format_size(-size)
    return _scaled(size, 1024, _BINARY_NAMES)


def format_rate(rate: float) -> str:
    """A measured speed in bytes per second: ``25_000_000`` -> ``"25 MB/s"``."""
    return _scaled(max(rate, 0.0), 1000, _DECIMAL_NAMES)


def format_limit(rate: int) -> str:
    """A configured limit in bytes per second, where 0 is ``"unlimited"``."""
    return format_rate(rate) if rate else "unlimited"


def format_duration(seconds: float) -> str:
    """``5400`` -> ``"1h30m"``, ``0.15`` -> ``"150ms"``; exact to the microsecond.

    Raises:
        ValueError: negative, infinite or not a number.
    """
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{seconds!r} is not a duration")
    left = round(seconds * 1_000_000)
    if left == 0:
        return "0s"
    parts: list[str] = []
    for unit in _DURATION_ORDER:
        size = int(_SECONDS[unit] * 1_000_000)
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def format_instant(when: datetime) -> str:
    """RFC 3339 in UTC with ``Z``; microseconds only when there are any.

    Raises:
        ValueError: ``when`` has no time zone, so it names no instant.
    """
    if when.tzinfo is None:
        raise ValueError("a time without a zone is not an instant")
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def instant_of(epoch_seconds: float) -> datetime:
    """The instant (UTC) of seconds since 1970, to the microsecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=epoch_seconds)
