"""Units: examples that users write, refusals that name what is accepted, and properties."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512),
        ("0", 0),
        ("64 KiB", 65_536),
        ("64KiB", 65_536),
        ("1.5GiB", 1_610_612_736),
        ("20GB", 20_000_000_000),
        ("20 kB", 20_000),
        ("10G", 10 << 30),
        ("7B", 7),
        ("1PiB", 1 << 50),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("200Mbit", 25_000_000),
        ("200 Mbit/s", 25_000_000),
        ("200Mbps", 25_000_000),
        ("25MB/s", 25_000_000),
        ("25MBps", 25_000_000),
        ("10MiB", 10 << 20),
        ("1Gibit", (1 << 30) // 8),
        ("0", 0),
        ("unlimited", 0),
        ("Unlimited", 0),
        ("1000", 1000),
    ],
)
def test_rates(text: str, rate: int) -> None:
    assert units.parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2s", 2.0),
        ("2", 2.0),
        ("0.5", 0.5),
        ("150ms", 0.15),
        ("4h", 14_400.0),
        ("7d", 604_800.0),
        ("1w", 604_800.0),
        ("1h30m", 5400.0),
        ("1h 30min", 5400.0),
        ("2s500ms", 2.5),
        ("250us", 0.00025),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "big", "-1", "1.5.2GiB", "12Mb", "1e9", "9" * 70, "9999999PiB", "0.1", "٣"]
)
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size; write bytes or a unit.*KiB"):
        units.parse_size(text)


@pytest.mark.parametrize("text", ["", "25Mb", "10M", "2s", "-5Mbit", "fast", "0.1", "1bit"])
def test_what_is_not_a_rate(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a rate; write bits or bytes per second"):
        units.parse_rate(text)


@pytest.mark.parametrize(
    "text", ["", "5x", "30m1h", "1h1h", "1m2min", "-2s", "h", "9999999999d", "nan", "inf", "1,5s"]
)
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; write a number and a unit"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01",
        "2026-03-01T02:30:00",
        "2026-02-30T00:00:00Z",
        "20260301T023000Z",
        "2026-W09-7T00:00:00Z",
        "2026-03-01T02:30:60Z",
        "0001-01-01T00:00:00+10:00",
        "now",
    ],
)
def test_what_is_not_an_instant(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an instant; write an RFC 3339 instant"):
        units.parse_instant(text)


def test_a_refusal_does_not_repeat_a_text_of_any_length() -> None:
    with pytest.raises(ValueError, match="is not a size") as caught:
        units.parse_size("x" * 100_000)
    assert len(str(caught.value)) < 200


def test_instants_of_other_zones_become_utc() -> None:
    assert units.parse_instant("2026-03-01T02:30:00+02:00") == datetime(
        2026, 3, 1, 0, 30, tzinfo=UTC
    )
    assert units.parse_instant("2026-03-01t02:30:00.25z").microsecond == 250_000


def test_a_time_without_a_zone_is_not_formatted() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        units.format_instant(datetime(2026, 3, 1))  # noqa: DTZ001 (the point of the test)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1_610_612_736, "1.5 GiB"),
        (1_048_575, "1 MiB"),
        (-2048, "-2 KiB"),
    ],
)
def test_formatted_sizes(size: int, text: str) -> None:
    assert units.format_size(size) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0 B/s"),
        (25_000_000, "25 MB/s"),
        (999.7, "1 kB/s"),
        (999.4, "999 B/s"),
        (1_234_000_000, "1.23 GB/s"),
        (-1, "0 B/s"),
    ],
)
def test_formatted_rates(rate: float, text: str) -> None:
    assert units.format_rate(rate) == text


def test_a_number_that_is_too_large_to_be_divided_is_shown() -> None:
    assert units.format_size(10**400).endswith(" EiB")
    assert units.format_size(-(10**400)).startswith("-")
    assert units.format_rate(10**400)


def test_a_limit_of_zero_is_unlimited() -> None:
    assert units.format_limit(0) == "unlimited"
    assert units.format_limit(25_000_000) == "25 MB/s"


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_what_cannot_be_formatted_as_a_duration(seconds: float) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        units.format_duration(seconds)


@given(st.integers(0, units.LARGEST))
def test_formatted_sizes_are_within_half_of_the_last_digit(size: int) -> None:
    text = units.format_size(size)
    assert len(text) <= len("1023 KiB")
    if not text.endswith("EiB"):
        assert units.parse_size(text) == pytest.approx(size, rel=0.006)


@given(st.integers(0, units.LARGEST))
def test_an_exact_size_parses_to_itself(size: int) -> None:
    assert units.parse_size(str(size)) == size
    assert units.parse_rate(str(size)) == size


@given(st.integers(0, units.LONGEST_DURATION * 1_000_000))
def test_durations_go_round_exactly_to_the_microsecond(microseconds: int) -> None:
    seconds = microseconds / 1_000_000
    assert round(units.parse_duration(units.format_duration(seconds)) * 1_000_000) == microseconds


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(9000, 1, 1)),  # noqa: DTZ001
    st.integers(-23 * 60, 23 * 60),
)
def test_instants_go_round(naive: datetime, offset: int) -> None:
    when = naive.replace(tzinfo=timezone(timedelta(minutes=offset)))
    text = units.format_instant(when)
    assert text.endswith("Z")
    assert units.parse_instant(text) == when


@given(st.integers(0, 4_000_000_000))
def test_instants_of_epoch_seconds(seconds: int) -> None:
    assert units.instant_of(seconds).timestamp() == seconds


@given(st.text(max_size=80))
def test_only_a_value_error_comes_out_of_any_text(text: str) -> None:
    for parse in (units.parse_size, units.parse_rate, units.parse_duration, units.parse_instant):
        try:
            parse(text)
        except ValueError as error:
            assert "; write " in str(error)
