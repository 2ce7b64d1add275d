"""What an administrator fixes stays fixed, and it is said so."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import pytest

from protocol.errors import NO_CIPHER
from protocol.wire.limits import CIPHERS
from receiver.config import Tuning
from receiver.grouping import Grouping, Groups
from receiver.sessions import Sessions
from tests.support.pair import Pair, pair, same_content, until

SIZE = 24 << 20


def fix(both: Pair) -> None:
    with both.source.config.open("a") as config:
        config.write('[tuning]\nextent = "64 KiB"\nsenders = 2\ncourtesy = "off"\n')
        config.write('cipher = "aes-256-gcm"\ncongestion = "reno"\n')
    with both.receiver.config.open("a") as config:
        config.write('[tuning]\nconnections = 3\nworkers = 1\nsync = "400ms"\n')


def test_both_daemons_do_as_they_are_told(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(SIZE))
    with pair([str(image)], tracker="off", start=False) as both:
        fix(both)
        both.start()
        both.create("--bandwidth", "80Mbit")
        both.state("syncing")
        job = until(lambda: (job := both.status()["job"]) and job["connections"] and job)
        assert job["connections"] == 3
        assert job["senders"] == {"at_work": 2, "because": "fixed by the configuration"}
        assert job["extent_bytes"] == 64 << 10
        assert job["cipher"] == "aes-256-gcm"
        assert job["congestion"] == "reno"
        assert '"congestion":"reno"' in both.source.log.read_text()
        # Groups form for so long although a sync takes next to nothing here.
        until(lambda: both.show()["group_seconds"] == 0.4, what="the group")
        both.receiver.run("job", "set", both.job, "bandwidth=0")
        both.synced()
        assert same_content(both.intermediate(), image)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_what_a_receiver_takes_is_what_is_used(tmp_path: Path, cipher: str) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(SIZE))
    with pair([str(image)], tracker="off", start=False) as both:
        with both.receiver.config.open("a") as config:
            config.write(f'[tuning]\ncipher = "{cipher}"\n')
        both.start()
        both.create()
        both.synced()
        assert both.status()["job"]["cipher"] == cipher
        for side in (both.source, both.receiver):
            assert f'"cipher":"{cipher}"' in side.log.read_text()
        assert same_content(both.intermediate(), image)


def test_without_a_common_cipher_nothing_is_sent_and_both_say_why(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(1 << 20))
    with pair([str(image)], tracker="off", start=False) as both:
        for side, cipher in ((both.source, "aes-256-gcm"), (both.receiver, "aegis-256x2")):
            with side.config.open("a") as config:
                config.write(f'[tuning]\ncipher = "{cipher}"\n')
        both.start()
        both.create()
        both.state("error")
        for error in (both.show()["error"], both.status()["job"]["error"]):
            assert error["code"] == NO_CIPHER.code
            assert "takes aegis-256x2, the source aes-256-gcm" in error["message"]
        assert both.show()["wire_bytes"] == 0


def test_so_many_workers_serve_at_a_time() -> None:
    async def made(workers: int) -> int:
        tuning = Tuning(workers=workers)
        sessions = Sessions(
            cast(Any, None), Path("/nowhere"), 64 << 20, lambda *_: None, tuning=tuning
        )
        return sessions._crew._at_a_time

    assert [asyncio.run(made(workers)) for workers in (1, 5, 32)] == [1, 5, 32]
    assert asyncio.run(made(0)) == max(2, os.cpu_count() or 2)


def test_a_group_forms_as_long_as_is_told_whatever_is_measured() -> None:
    fixed = Grouping(Groups(0.1))
    with fixed.forming(), Grouping(Groups()).forming():
        for took in (0.0001, 3.0):
            fixed.synced(took)
            assert fixed.seconds == 0.1
