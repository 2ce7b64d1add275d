"""The network cut at any byte, again and again: it goes on, and not a byte is wrong."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.line import RECEIVER, Line
from tests.support.load import written_bytes
from tests.support.loops import MIB, flush, loop_device, mounted
from tests.support.pair import Pair, busy_writer, pair, same_content, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

SIZE = 192 * MIB
IN_FLIGHT = 64 * MIB
"""Bytes that one cut may cost: the window of a session."""


@contextlib.contextmanager
def lines(both: Pair) -> Iterator[tuple[Line, Line]]:
    """Both ports of a pair through proxies: control, data."""
    with Line(RECEIVER, both.control, 3) as control, Line(RECEIVER, both.data, 4) as data:
        yield control, data


def test_cut_again_and_again_in_full_and_delta_passes(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with (
        loop_device(image, SIZE) as device,
        mounted(device, tmp_path / "mnt", "ext4") as where,
        pair([device], start=False, receiver_host=RECEIVER) as both,
        lines(both) as (control, data),
    ):
        (where / "ballast").write_bytes(os.urandom(64 * MIB))
        flush(where)
        start = written_bytes(device)
        both.start()
        reference = both.directory / "reference.img"
        both.keep_reference(image, reference)
        data.cut_within(10 * MIB)  # of two connections, three times: less than there is
        both.create("--freeze-budget", "30s")
        until(lambda: data.cuts >= 3, what="three cuts in the full pass", step=0.0)
        full = not both.status()["job"]["disks"][0]["passed"]
        data.cut_within(None)
        both.synced()
        with busy_writer(where, "10M"):
            # At this rate some of what passes before a cut is also acknowledged before it.
            both.receiver.run("job", "set", both.job, "bandwidth=16MB")
            data.cut_within(8 * MIB)
            data.cut_all()
            for _ in range(8):
                cuts = data.cuts
                # Soon: a loss after a session that worked is the first of its row.
                until(lambda: data.cuts > cuts, 15, "the next cut in a delta pass")  # noqa: B023
            data.cut_within(None)
            both.receiver.run("job", "set", both.job, "bandwidth=unlimited")
            control.cut_within(8192)
            control.cut_all()
            until(lambda: control.cuts >= 3, what="three cuts of the control connection")
            control.cut_within(None)
            control.cut_all()
            both.state("syncing")
            assert both.checkpoint("--hold")["consistency"] == "filesystem"
        assert same_content(both.intermediate(), reference)
        assert full, "the first cuts were meant to fall into the full pass"
        view = both.show()
        written = written_bytes(device) - start
        assert view["error"] is None
        assert view["logical_bytes"] <= SIZE + written + (data.cuts + control.cuts) * IN_FLIGHT
        until(lambda: both.metrics("source")["replicad_reconnects_total"] >= 10, what="their count")
