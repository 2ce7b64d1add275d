"""Mutations of the receiver's sessions: acks and fences."""

from __future__ import annotations

from tests.mutations.mutation import MODEL, one

SESSION = "receiver/session.py"
SESSIONS = "receiver/sessions.py"
APPLYING = "receiver/applying.py"
IN_SESSION = "tests/receiver/test_session.py"
IN_MANAGER = "tests/receiver/test_manager.py"
ACKED = f"{IN_SESSION}::test_no_ack_ever_covers_what_was_not_synced_after_it_was_written"

ACKS = (
    one(
        "acknowledged-before-it-is-on-record",
        10,
        "receiver/session.py",
        "            syncs.append(self._loop.run_in_executor"
        "(self._syncers, self._memory.note, durable))\n",
        "            self._loop.run_in_executor(self._syncers, self._memory.note, durable)\n",
        "tests/receiver/test_memory_first.py::test_an_ack_waits_for_the_record_of_what_it_covers",
    ),
    one(
        "the-record-is-not-synced",
        10,
        "receiver/memory.py",
        "                os.fdatasync(self._descriptor)\n",
        "",
        "tests/receiver/test_memory_first.py::test_each_record_is_synced",
    ),
    one(
        "acknowledged-before-the-sync",
        2,
        SESSION,
        "            await self.sync(dict(self._durable))\n",
        "            pass\n",
        ACKED,
        MODEL,
        quick=True,
    ),
    one(
        "acknowledged-what-came-during-the-sync",
        2,
        SESSION,
        "            connection.acked = sequence\n            connection.send(Ack(sequence))",
        "            connection.acked = connection.written\n"
        "            connection.send(Ack(connection.written))",
        f"{IN_SESSION}::test_an_ack_waits_for_the_sync_that_began_after_the_write",
        MODEL,
    ),
    one(
        "acknowledged-after-a-failed-sync",
        2,
        SESSION,
        "        except Fault:\n            return\n",
        "        except Fault:\n            pass\n",
        f"{IN_SESSION}::test_a_failed_sync_acknowledges_nothing_and_ends_the_session",
    ),
    one(
        "a-frame-counts-as-written-before-it-is",
        2,
        "receiver/datapath.py",
        "        sequence = self._decoder.sequence\n",
        "        sequence = self.written = self._decoder.sequence\n",
        f"{IN_SESSION}::test_a_write_that_failed_is_never_acknowledged",
    ),
    one(
        "an-error-of-fsync-is-swallowed",
        2,
        "receiver/disk/base.py",
        "                self._calls.poison = self._fault(error)\n"
        "                self._distrust()\n"
        "                raise self._calls.poison from error",
        "                self._fault(error)",
        "tests/receiver/test_disk.py::test_a_failed_sync_is_never_followed_by_a_good_one",
        quick=True,
    ),
    one(
        "a-sync-after-a-failed-one-is-believed",
        2,
        "receiver/disk/calls.py",
        "            if self.poison is not None:\n                raise self.poison\n",
        "",
        "tests/receiver/test_disk.py::test_a_failed_sync_is_never_followed_by_a_good_one",
    ),
    one(
        "only-the-first-disk-is-synced",
        2,
        SESSION,
        "            self._loop.run_in_executor(self._syncers, disk.sync) "
        "for disk in self.disks.values()\n",
        "            self._loop.run_in_executor(self._syncers, disk.sync)\n"
        "            for disk in list(self.disks.values())[:1]\n",
        ACKED,
    ),
)

FENCES = (
    one(
        "no-fence",
        3,
        SESSIONS,
        "            await self._close(message.job)\n",
        "",
        MODEL,
    ),
    one(
        "a-fence-that-does-not-wait-for-writers",
        3,
        "receiver/datapath.py",
        "        while (pumping := self._pumping) is not None:\n"
        "            await asyncio.wait([pumping])\n            await asyncio.sleep(0)\n",
        "",
        f"{IN_SESSION}::test_close_waits_for_a_write_under_way_also_for_the_second_caller",
        quick=True,
    ),
    one(
        "a-closed-session-admits-connections",
        3,
        SESSION,
        "        if self.over:\n            raise SESSION_FENCED.peer()\n        try:\n"
        "            buffer",
        "        try:\n            buffer",
        f"{IN_SESSION}::test_a_closed_session_admits_nobody",
    ),
    one(
        "a-session-opens-while-a-commit-is-recorded",
        5,
        SESSIONS,
        "        async with self._locks[job]:\n            yield self._by_job.get(job)",
        "        yield self._by_job.get(job)",
        f"{IN_MANAGER}::test_no_session_is_opened_while_a_commit_is_recorded",
    ),
    one(
        "a-connection-index-serves-twice",
        9,
        "protocol/wire/data.py",
        "        self._used.add(hello.connection)\n",
        "",
        "tests/protocol/wire/test_data.py::test_an_index_serves_once",
    ),
)
