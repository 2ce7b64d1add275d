"""The log: names and values, secrets, the standard library's records, and what comes first."""

from __future__ import annotations

import json
import logging
import os
import pty
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import TARGET_MOUNTED
from protocol.local import log


class Captured:
    """A configured log whose lines can be read back."""

    def __init__(self, style: Literal["json", "pretty"] = "json", level: Any = "info") -> None:
        self.reading, self.writing = os.pipe()
        self.configured = log.configure(style, level, self.writing)

    def text(self) -> str:
        self.configured.close()
        os.close(self.writing)
        with os.fdopen(self.reading) as file:
            return file.read()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def test_an_event_has_a_name_a_time_a_level_and_its_values() -> None:
    captured = Captured()
    log.get("replicad.engine").bind(job="j1").info("pass.ended", dirty_bytes=4096)
    (event,) = captured.events()
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "pass.ended",
        "level": "info",
        "module": "replicad.engine",
        "job": "j1",
        "dirty_bytes": 4096,
    }


def test_a_log_that_was_got_before_it_was_configured_obeys_the_configuration() -> None:
    early = log.get("early")
    captured = Captured(level="warning")
    early.info("not.shown")
    early.warning("shown")
    assert [event["event"] for event in captured.events()] == ["shown"]


def test_before_it_is_configured_only_warnings_are_shown_and_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    early = log.get("early")
    early.info("quiet")
    early.warning("loud", secret="s3cr3t")
    output = capsys.readouterr()
    assert output.out == ""
    assert "loud" in output.err
    assert "quiet" not in output.err
    assert "s3cr3t" not in output.err


@pytest.mark.parametrize("style", ["json", "pretty"])
@pytest.mark.parametrize(
    "key",
    [
        "secret",
        "code",
        "key",
        "password",
        "activation_code",
        "session-secret",
        "Private_Key",
        "token",
    ],
)
def test_secrets_are_not_shown(style: Literal["json", "pretty"], key: str) -> None:
    captured = Captured(style)
    log.get("x").info("e", **{key: "hunter2"}, inner={key: ["hunter2"]}, many=[{key: b"hunter2"}])
    text = captured.text()
    assert text.count(log.REDACTED) == 3
    assert "hunter2" not in text


def test_codes_of_errors_and_numbers_are_shown() -> None:
    captured = Captured()
    log.get("x").info("e", code="RPL-4102", exit_code=3, key=None)
    (event,) = captured.events()
    assert (event["code"], event["exit_code"], event["key"]) == ("RPL-4102", 3, None)


def test_a_fault_is_shown_with_code_sentence_and_remedy() -> None:
    captured = Captured()
    fault = TARGET_MOUNTED.fault(path="/dev/sdb1", where="/srv")
    log.get("x").warning("job.refused", error=fault)
    (event,) = captured.events()
    assert event["error"] == fault.as_dict()


def test_an_exception_has_its_traceback_in_the_same_line() -> None:
    captured = Captured()
    try:
        raise ValueError("no")
    except ValueError:
        log.get("x").exception("failed")
    (event,) = captured.events()
    assert event["level"] == "error"
    assert "ValueError: no" in event["exception"]


def test_a_line_that_is_too_long_is_replaced() -> None:
    captured = Captured()
    log.get("x").info("big", value="x" * 200_000)
    (event,) = captured.events()
    assert event["event"] == "log.too_long"
    assert event["about"] == "big"
    assert event["bytes"] > 200_000


def test_the_standard_librarys_log_and_warnings_take_the_same_way() -> None:
    captured = Captured()
    logging.getLogger("asyncio").error("task %s failed", "t1")
    logging.getLogger("chatty").debug("not shown")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = captured.events()
    assert (first["module"], first["level"], first["message"]) == (
        "asyncio",
        "error",
        "task t1 failed",
    )
    assert second["module"] == "py.warnings"
    assert "DeprecationWarning: old" in second["message"]


def test_pretty_is_for_terminals_and_json_for_the_rest() -> None:
    parent, child = pty.openpty()
    configured = log.configure("auto", "info", child)
    log.get("x").info("hello", size=3)
    assert configured.close()
    line = os.read(parent, 1000).decode()
    os.close(child)
    os.close(parent)
    assert "hello" in line
    assert "\x1b[" in line
    assert not line.startswith("{")

    reading, writing = os.pipe()
    configured = log.configure("auto", "info", writing)
    log.get("x").info("hello")
    assert configured.close()
    assert json.loads(os.read(reading, 1000))["event"] == "hello"
    os.close(reading)
    os.close(writing)


def test_lost_lines_are_an_event() -> None:
    captured = Captured()
    captured.configured.writer._unreported = 7
    log.get("x").info("after")
    lost, after = captured.events()
    assert (lost["event"], lost["count"], lost["level"]) == ("log.dropped", 7, "warning")
    assert after["event"] == "after"


def test_what_is_logged_after_the_end_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    captured = Captured()
    captured.text()
    log.get("x").warning("late")
    output = capsys.readouterr()
    assert output.out == ""
    assert "late" in output.err


def test_closing_gives_the_standard_librarys_log_back() -> None:
    before = list(logging.getLogger().handlers)
    captured = Captured()
    assert logging.getLogger().handlers != before
    captured.text()
    assert logging.getLogger().handlers == before


@given(
    st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.binary(max_size=8), max_size=4)
)
def test_redaction_keeps_keys_and_hides_only_secrets(values: dict[str, Any]) -> None:
    shown = log._shown("values", values)
    assert set(shown) == set(values)
    for key, value in shown.items():
        secret = key.lower().replace("-", "_").split("_")[-1] in log._SECRET_WORDS
        assert value == (log.REDACTED if secret else values[key])
