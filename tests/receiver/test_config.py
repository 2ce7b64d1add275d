"""Sample configurations: every valid one loads, every invalid one fails as it says itself.

An invalid sample carries what is expected of it in lines that begin with ``#!``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.errors import LocalFault
from protocol.local.values import Address
from receiver import config

SAMPLES = Path(__file__).parent / "config_samples"


def named(directory: str) -> list[Path]:
    found = sorted((SAMPLES / directory).glob("*.toml"))
    assert found, f"no samples in {directory}"
    return found


@pytest.mark.parametrize("sample", named("valid"), ids=lambda path: path.stem)
def test_valid(sample: Path) -> None:
    assert isinstance(config.load(sample), config.Config)


@pytest.mark.parametrize("sample", named("invalid"), ids=lambda path: path.stem)
def test_invalid(sample: Path) -> None:
    expected = [line[3:] for line in sample.read_text().splitlines() if line.startswith("#! ")]
    with pytest.raises(LocalFault) as caught:
        config.load(sample)
    assert caught.value.code == "RPL-1001"
    head, *listed = caught.value.sentence.split("\n  ")
    if len(expected) == 1:
        assert caught.value.sentence == f"{sample}: {expected[0]}"
    else:
        assert head == f"{sample}: {len(expected)} problems"
        assert listed == expected


def test_the_values_of_a_full_file() -> None:
    loaded = config.load(SAMPLES / "valid/full.toml")
    assert loaded.listen.data == Address("::", 8703)
    assert str(loaded.listen.data) == "[::]:8703"
    assert loaded.listen.metrics == Address("localhost", 9871)
    assert loaded.limits.memory == 512 << 20
    assert loaded.limits.connections == 200


def test_port_zero_and_no_metrics() -> None:
    loaded = config.load(SAMPLES / "valid/test.toml")
    assert loaded.listen.control == Address("127.0.0.1", 0)
    assert loaded.listen.metrics is None


def test_the_defaults_are_those_of_the_manual() -> None:
    loaded = config.load(SAMPLES / "valid/empty.toml")
    assert loaded.listen.control == Address("0.0.0.0", 8080)
    assert loaded.listen.data == Address("0.0.0.0", 8703)
    assert loaded.listen.metrics == Address("127.0.0.1", 9871)
    assert loaded.storage.directory == Path("/var/lib/receiver")
    assert loaded.runtime.control_socket == Path("/run/receiver/control.sock")
    assert (loaded.log.format, loaded.log.level) == ("auto", "info")


def test_a_missing_default_file_means_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "none.toml")
    assert config.load(None) == config.Config()


def test_the_default_file_is_read_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = tmp_path / "receiver.toml"
    default.write_text('storage.directory = "/here"\n')
    monkeypatch.setattr(config, "DEFAULT_PATH", default)
    assert config.load().storage.directory == Path("/here")


def test_a_missing_named_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match=r"none\.toml: there is no such file") as caught:
        config.load(tmp_path / "none.toml")
    assert caught.value.exit_code == 2
