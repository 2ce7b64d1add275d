"""Mutations of the dirty map and of what is taken from it."""

from __future__ import annotations

from tests.mutations.mutation import MAP_MODEL, MODEL, Edit, Mutation, one

MAP = "replicad/dirtymap/map.py"
HEADER = "replicad/dirtymap/header.py"
DIRTYMAP = "tests/replicad/test_dirtymap.py"

WRITES = (
    one(
        "an-ack-cleans-what-was-written-since",
        1,
        MAP,
        'self._end(batch, "data")\n            self._release(batch)',
        'self._end(batch, "data")\n            self._dirty.clear(batch.place, batch.mask)\n'
        "            self._release(batch)",
        MAP_MODEL,
        MODEL,
        quick=True,
    ),
    one(
        "an-equal-comparison-cleans-what-was-written-since",
        1,
        MAP,
        "            if differing:\n                place, mask = segments_mask(differing)",
        "            self._dirty.clear(batch.place, batch.mask)\n"
        "            if differing:\n                place, mask = segments_mask(differing)",
        MAP_MODEL,
        MODEL,
    ),
    one(
        "what-is-in-flight-is-not-marked",
        1,
        MAP,
        "            new = self._dirty.set(place, mask)\n",
        "            new = self._dirty.set(place, mask & ~self._flying.read(place))\n",
        MAP_MODEL,
        MODEL,
    ),
    one(
        "read-through-the-page-cache",
        1,
        "replicad/reader.py",
        "return os.open(self.path, flags | os.O_DIRECT), True",
        "return os.open(self.path, flags), True",
        "tests/integration/test_reading.py",
    ),
    Mutation(
        "cleared-when-acknowledged-not-before-reading",
        2,
        (
            Edit(
                MAP,
                "                self._dirty.clear(place, mask)\n",
                "                pass\n",
            ),
            Edit(
                MAP,
                'self._end(batch, "data")\n            self._release(batch)',
                'self._end(batch, "data")\n            self._dirty.clear(batch.place, batch.mask)\n'
                "            self._release(batch)",
            ),
        ),
        (MAP_MODEL, MODEL),
    ),
    one(
        "cleared-after-reading",
        2,
        "replicad/sender.py",
        '        crash.here("sender.read")\n',
        "        work.disk.live_map._dirty.clear(work.batch.place, work.batch.mask)\n",
        MODEL,
    ),
    one(
        "what-cannot-be-read-is-forgotten",
        1,
        MAP,
        "            self._dirty.set(place, mask)\n            self._flying.clear(place, mask)\n",
        "            self._flying.clear(place, mask)\n",
        "tests/replicad/test_unreadable.py",
        quick=True,
    ),
    one(
        "what-is-lost-is-forgotten",
        2,
        MAP,
        "                self._dirty.set(batch.place, batch.mask)\n",
        "                pass\n",
        MAP_MODEL,
        MODEL,
    ),
    one(
        "a-broken-transfer-forgets-what-it-sent",
        2,
        "replicad/feed.py",
        "            left = list(self._outstanding.values())\n",
        "            left: list[Work] = []\n",
        "tests/replicad/test_feed.py",
        MODEL,
    ),
    one(
        "a-broken-transfer-forgets-what-it-had-planned",
        2,
        "replicad/transfer.py",
        "        for work in self._feed.stop():\n            work.lost()\n",
        "        self._feed.stop()\n",
        "tests/replicad/test_transfer.py",
    ),
    one(
        "recovery-forgets-what-was-in-flight",
        10,
        MAP,
        "            self._dirty.set(place, flying)\n",
        "",
        f"{DIRTYMAP}::test_what_was_in_flight_is_dirty_after_a_kill_and_suspects_stay_suspect",
        MAP_MODEL,
        MODEL,
        quick=True,
    ),
    one(
        "recovery-clears-before-it-marks",
        10,
        MAP,
        "            self._dirty.set(place, flying)\n",
        "            self._flying.clear(place, self._flying.read(place))\n"
        "            self._dirty.set(place, flying)\n",
        MAP_MODEL,
    ),
    Mutation(
        "taken-in-the-wrong-order",
        10,
        (
            Edit(MAP, "            self._flying.set(place, mask)\n", ""),
            Edit(
                MAP,
                "                self._dirty.clear(place, mask)\n",
                "                self._dirty.clear(place, mask)\n"
                "            self._flying.set(place, mask)\n",
            ),
        ),
        (MAP_MODEL,),
    ),
    one(
        "a-header-is-written-over-the-only-one",
        10,
        HEADER,
        "return sequence % 2 * SLOT_BYTES",
        "return 0",
        f"{DIRTYMAP}::test_a_half_written_header_leaves_the_one_before",
        quick=True,
    ),
    one(
        "a-final-set-is-taken-while-something-flies",
        5,
        "replicad/planner.py",
        "if dirty_map.flying_granules or dirty_map.suspect_granules:",
        "if False:",
        "tests/replicad/test_planner.py::test_a_final_set_needs_quiet",
    ),
)

ORDER = (
    one(
        "what-is-in-flight-is-taken-again",
        3,
        MAP,
        "return self._dirty.read(place) & ~self._flying.read(place)",
        "return self._dirty.read(place)",
        MAP_MODEL,
    ),
    one(
        "what-is-in-flight-is-compared",
        3,
        MAP,
        "blocks = spread(wanted, per_block) & ~spread(self._flying.read(place), per_block)",
        "blocks = spread(wanted, per_block)",
        MAP_MODEL,
        MODEL,
    ),
    one(
        "lost-before-the-fence",
        3,
        "replicad/engine/job.py",
        "        disks = await self._open_disks(order)\n        ciphers =",
        "        disks = await self._open_disks(order)\n"
        "        for past in self._limbo:\n            past.release()\n"
        "        self._limbo.clear()\n        ciphers =",
        "tests/replicad/engine/test_in_order.py"
        "::test_what_was_in_flight_is_lost_only_after_the_next_session_has_opened",
    ),
    one(
        "the-senders-do-not-wait-for-room",
        9,
        "replicad/inflight.py",
        "return fits and self._bytes + size <= self._window.bytes",
        "return True",
        "tests/replicad/test_inflight.py::test_acks_are_cumulative_per_connection_and_free_room",
    ),
)
