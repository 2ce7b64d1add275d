"""Sample configurations: every valid one loads, every invalid one fails as it says itself.

An invalid sample carries what is expected of it in lines that begin with ``#!``.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from protocol.errors import LocalFault
from protocol.local.values import Address
from replicad import config

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
    assert loaded.source.name == "web01"
    assert loaded.source.disks == ("/dev/vda", "/dev/vdb")
    assert loaded.runtime.control_socket == Path("/run/replicad/control.sock")
    assert loaded.runtime.group == "replicad"
    assert loaded.log.level == "debug"
    assert loaded.tuning == config.Tuning(
        extent=256 << 10,
        senders=1,
        courtesy="off",
        cipher="aes-256-gcm",
        congestion="reno",
    )


def test_what_is_not_fixed_follows_what_is_measured() -> None:
    assert config.load(SAMPLES / "valid/tuning_auto.toml").tuning == config.Tuning()
    assert config.Tuning() == config.Tuning(
        extent=0, senders=0, courtesy="auto", cipher="auto", congestion="auto"
    )


def test_sections_may_be_written_in_every_toml_way() -> None:
    loaded = config.load(SAMPLES / "valid/side_by_side.toml")
    assert loaded.source.name == "second"
    assert loaded.metrics.listen is None
    assert loaded.state.directory == Path("/srv/two/state")
    assert loaded.tracker.enabled == "off"


def test_the_defaults_are_those_of_the_manual() -> None:
    loaded = config.load(SAMPLES / "valid/empty.toml")
    assert loaded.source.name == socket.gethostname()
    assert loaded.source.disks == ()
    assert loaded.metrics.listen == Address("127.0.0.1", 9870)
    assert loaded.hooks.directory == Path("/etc/replicad/hooks")
    assert loaded.state.directory == Path("/var/lib/replicad")
    assert loaded.runtime.directory == Path("/run/replicad")
    assert loaded.runtime.group == ""
    assert (loaded.log.format, loaded.log.level) == ("auto", "info")
    assert loaded.tracker.enabled == "auto"


def test_a_missing_default_file_means_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "none.toml")
    assert config.load(None) == config.Config()


def test_the_default_file_is_read_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = tmp_path / "replicad.toml"
    default.write_text('source.name = "here"\n')
    monkeypatch.setattr(config, "DEFAULT_PATH", default)
    assert config.load().source.name == "here"


def test_a_missing_named_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match=r"none\.toml: there is no such file") as caught:
        config.load(tmp_path / "none.toml")
    assert caught.value.exit_code == 2
