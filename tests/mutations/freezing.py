"""Mutations of the freeze and of what is read in it."""

from __future__ import annotations

from tests.mutations.mutation import one

WATCHDOG = "replicad/freeze/watchdog.py"
DOG = "tests/replicad/freeze/test_watchdog.py"
KILLS = "tests/integration/test_freeze_kills.py"

FREEZE = (
    one(
        "a-watchdog-without-a-deadline",
        6,
        WATCHDOG,
        "        while (left := deadline - time.monotonic()) > 0:\n"
        "            ready = {fd for fd, _ in poll.poll(left * 1000)}",
        "        while True:\n            ready = {fd for fd, _ in poll.poll(None)}",
        f"{DOG}::test_the_deadline_ends_the_freeze",
        "tests/integration/test_freeze.py::test_the_deadline_thaws_and_the_freeze_counts_as_broken",
    ),
    one(
        "a-watchdog-that-does-not-see-its-daemon-die",
        6,
        WATCHDOG,
        "            if self.peer.fileno() in ready:\n                return self.hear_end()",
        "            if self.peer.fileno() in ready and (end := self.hear_end()) == 'asked':\n"
        "                return end",
        f"{DOG}::test_the_end_of_the_daemon_ends_the_freeze_and_the_watchdog",
        f"{KILLS}::test_the_daemon_is_killed",
    ),
    one(
        "a-guardian-that-does-not-rescue",
        6,
        "replicad/freeze/guardian.py",
        "        left = [index for index in range(len(self._fds)) if self._may_be_frozen(index)]\n",
        "        left: list[int] = []\n",
        f"{KILLS}::test_the_watchdog_is_killed",
    ),
    one(
        "a-guardian-without-patience",
        6,
        "replicad/freeze/freezer.py",
        "        guardian.expect(self._first + self.budget + GRACE_SECONDS)\n",
        "",
        f"{KILLS}::test_the_watchdog_is_stopped_and_the_deadline_passes",
    ),
    one(
        "no-thaw-after-a-fault",
        6,
        "replicad/engine/checkpoint.py",
        "                    await self._run(_thaw_quietly, frozen.freezer)\n",
        "                    pass\n",
        "tests/replicad/engine/test_in_order.py::test_it_thaws_before_it_waits_for_hooks",
    ),
    one(
        "a-broken-freeze-counts",
        6,
        "replicad/freeze/freezer.py",
        '        if thawed is None or not thawed["held"]:\n',
        "        if thawed is None:\n",
        "tests/integration/test_freeze.py",
    ),
    one(
        "a-hook-without-a-limit",
        6,
        "replicad/freeze/hooks.py",
        "        async with asyncio.timeout(limit):\n",
        "        async with asyncio.timeout(None):\n",
        "tests/replicad/freeze/test_hooks.py::test_nothing_of_a_hook_outlives_its_limit",
    ),
)

ENGINE = (
    one(
        "the-disk-is-thawed-before-it-was-read",
        5,
        "replicad/engine/instant.py",
        "    works = frozen.plan()\n",
        "    works = frozen.plan()\n    frozen.freezer.thaw()\n",
        "tests/replicad/engine/test_in_order.py::test_what_is_read_was_frozen",
    ),
    one(
        "no-drain-while-frozen",
        5,
        "replicad/engine/instant.py",
        'frozen.disks.drain_frozen)\n    crash.here("checkpoint.drained")',
        'lambda: None)\n    crash.here("checkpoint.drained")',
        "tests/replicad/engine/test_in_order.py::test_what_is_read_was_frozen",
    ),
    one(
        "an-instant-with-missed-events-is-committed",
        4,
        "replicad/engine/frozen.py",
        "        if self.disks.tracked and self.disks.suspect:\n",
        "        if False:\n",
        "tests/replicad/engine/test_interrupted.py"
        "::test_missed_events_end_the_attempt_and_the_next_one_compares",
    ),
    one(
        "an-unmounted-disk-may-be-written-meanwhile",
        5,
        "replicad/engine/frozen.py",
        "            if disk in self._moved or (\n",
        "            if (\n",
        "tests/replicad/engine/test_interrupted.py"
        "::test_a_disk_without_a_filesystem_that_is_written_meanwhile_is_refused",
    ),
    one(
        "a-write-that-has-not-ended-is-no-write-meanwhile",
        5,
        "replicad/engine/frozen.py",
        "            if disk in busy or (disk.tracked and disk.live_map.dirty_granules)\n",
        "            if disk.tracked and disk.live_map.dirty_granules\n",
        "tests/replicad/engine/test_interrupted.py"
        "::test_a_write_that_is_on_its_way_is_a_write_meanwhile",
    ),
    one(
        "what-a-held-checkpoint-stands-on-is-written-over",
        5,
        "replicad/engine/session.py",
        "        if committed.held or wanted.cutover:\n",
        "        if False:\n",
        "tests/replicad/engine/test_in_order.py"
        "::test_after_a_held_checkpoint_nothing_is_sent_before_the_next_order",
    ),
    one(
        "the-digest-is-of-what-was-not-sent",
        7,
        "replicad/encoder.py",
        "            if raw != length:\n"
        "                digest = xxhash.xxh3_128_digest(buffer[:raw])\n",
        "",
        "tests/replicad/test_encoder.py",
        quick=True,
    ),
    one(
        "an-order-may-name-any-disk",
        8,
        "replicad/finding.py",
        "            if path not in here and (path not in allowed if allowed else "
        "Path(path).exists()):\n",
        "            if False:\n",
        "tests/replicad/engine/test_disks.py",
    ),
)
