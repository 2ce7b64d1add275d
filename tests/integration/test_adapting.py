"""What adapts to the line and to the storage is seen where administrators look."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.loops import MIB
from tests.support.pair import pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def test_extents_are_small_on_a_slow_line_and_groups_follow_the_storage(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(24 * MIB))
    with pair([str(image)]) as both:
        both.create("--bandwidth", "4Mbit")
        until(lambda: (both.status()["job"] or {}).get("extent_bytes") == 64 << 10, what="64 KiB")
        until(lambda: both.show()["sync_seconds"], what="a sync")
        shown = both.show()
        bounds = max(0.03, min(0.4, 4 * shown["sync_seconds"]))
        assert shown["group_seconds"] == pytest.approx(bounds)
        both.receiver.run("job", "set", both.job, "bandwidth=0")
        both.synced()
        until(lambda: both.status()["job"]["extent_bytes"] == 1 << 20, what="1 MiB")
        assert same_content(both.intermediate(), image)
        both.metric("receiver", "receiver_sync_group_seconds", both.show()["group_seconds"])


def test_a_limit_that_is_lifted_is_not_waited_for(tmp_path: Path) -> None:
    """At 1 kB/s an extent of 64 KiB is a wait of a minute, and of 1 MiB of a quarter of an hour."""
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(8 * MIB))
    with pair([str(image)]) as both:
        both.create("--bandwidth", "8kbit")
        both.state("syncing")
        until(lambda: (both.status()["job"] or {}).get("disks"), what="a pass")
        both.receiver.run("job", "set", both.job, "bandwidth=0")
        begun = time.monotonic()
        both.synced()
        assert time.monotonic() - begun < 30
        assert same_content(both.intermediate(), image)
