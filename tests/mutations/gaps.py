"""Mutations of tracking, and of what a gap in it leads to."""

from __future__ import annotations

from tests.mutations.mutation import MODEL, one

MAP = "replicad/dirtymap/map.py"
HEADER = "replicad/dirtymap/header.py"
JOBDISK = "replicad/jobdisk.py"
DIRTYMAP = "tests/replicad/test_dirtymap.py"
_DISTRUST = f"{DIRTYMAP}::test_a_map_of_something_else_is_refused"
KERNEL = "replicad/tracker/bpf/tracker.bpf.c"
RACE = "tests/integration/test_tracker_race.py"

_DAMAGE = "tests/properties/test_dirtymap_damage.py"
_EVIDENCE = "tests/receiver/test_evidence.py"

BEFORE = (
    one(
        "an-older-copy-of-the-map-is-believed",
        4,
        HEADER,
        "(found.handed >= present.handed, OLDER)",
        "(True, OLDER)",
        _DISTRUST,
        quick=True,
    ),
    one(
        "the-tracker-counts-before-the-map-does",
        10,
        "replicad/tracker/ebpf.py",
        "            if handed is not None:\n"
        "                handed(disk, slot.handed + 1)\n"
        "            slot.handed += 1\n",
        "            slot.handed += 1\n"
        "            if handed is not None:\n"
        "                handed(disk, slot.handed)\n",
        "tests/replicad/tracker/test_handed.py",
    ),
    one(
        "a-later-session-is-not-asked-about",
        4,
        "receiver/evidence.py",
        " or any(any(later.acked) for later in past[at + 1 :])",
        "",
        f"{_EVIDENCE}::test_a_source_went_back_when_a_later_session_carried_something",
        quick=True,
    ),
    one(
        "frames-that-were-sent-are-not-counted",
        4,
        "receiver/evidence.py",
        "    return bool(more) or any(",
        "    return any(",
        f"{_EVIDENCE}::test_a_source_went_back_when_it_sent_less_than_is_here",
        quick=True,
    ),
    one(
        "a-damaged-page-of-the-map-is-believed",
        1,
        "replicad/dirtymap/store.py",
        "        if any(bitmap.damaged() for bitmap in found.bitmaps):",
        "        if False:",
        f"{_DAMAGE}::test_a_bit_that_somebody_clears_is_not_a_lost_write",
        quick=True,
    ),
    one(
        "a-page-changes-under-its-checksum",
        10,
        "replicad/dirtymap/bitmap.py",
        "            self.sums[_pages_of(place)] = 0\n"
        "            self.words[place] = before & ~mask\n",
        "            self.words[place] = before & ~mask\n",
        f"{_DAMAGE}::test_a_kill_never_leaves_a_wrong_checksum",
    ),
)

GAPS = (
    one(
        "a-gap-is-counted-before-it-is-suspected",
        4,
        JOBDISK,
        "        self.suspect_all(verdict.reason if isinstance(verdict, Suspect) else _ANEW)\n"
        "        self.live_map.update(misses=drain.misses)\n",
        "        self.live_map.update(misses=drain.misses)\n"
        "        self.suspect_all(verdict.reason if isinstance(verdict, Suspect) else _ANEW)\n",
        "tests/replicad/engine/test_gaps.py",
    ),
    one(
        "the-boot-is-not-compared",
        4,
        HEADER,
        "(found.boot == present.boot, BOOTED)",
        "(True, BOOTED)",
        _DISTRUST,
        MODEL,
        quick=True,
    ),
    one(
        "the-token-is-not-compared",
        4,
        HEADER,
        '(found.token == present.token, "the tracker was attached anew")',
        '(True, "the tracker was attached anew")',
        _DISTRUST,
        MODEL,
    ),
    one(
        "the-generation-is-not-compared",
        4,
        HEADER,
        '(found.generation == present.generation, "the intermediate disk is another one")',
        '(True, "the intermediate disk is another one")',
        _DISTRUST,
        MODEL,
    ),
    one(
        "the-bitmap-is-trusted-after-a-miss-at-a-restart",
        4,
        HEADER,
        "found.misses == present.misses,",
        "True,",
        _DISTRUST,
    ),
    one(
        "the-bitmap-is-trusted-after-a-miss",
        4,
        JOBDISK,
        "        if drain.misses == known:\n            return\n",
        "        if drain.misses >= known:\n            return\n",
        "tests/replicad/engine/test_interrupted.py"
        "::test_missed_events_end_the_attempt_and_the_next_one_compares",
        MODEL,
        quick=True,
    ),
    one(
        "another-tracking-is-trusted-while-it-runs",
        4,
        JOBDISK,
        "        self.reader.check_size()\n        self.suspect_all(_ANEW)\n",
        "        self.reader.check_size()\n",
        "tests/replicad/engine/test_job.py::test_a_tracker_that_began_anew_compares_and_goes_on",
        MODEL,
    ),
    one(
        "another-tracking-is-trusted-when-a-session-opens",
        4,
        JOBDISK,
        "                if self.map.header.token != present.token:\n",
        "                if False:\n",
        "tests/replicad/test_transfer.py"
        "::test_tracking_that_began_anew_between_two_sessions_is_a_gap",
        MODEL,
    ),
    one(
        "what-flies-when-events-were-missed-is-not-sent-again",
        4,
        MAP,
        "            self._mark_flying(first, count)\n            new = self._suspect",
        "            new = self._suspect",
        f"{DIRTYMAP}::test_what_was_in_flight_when_events_were_missed_is_sent_again",
    ),
    one(
        "a-closer-look-sees-no-difference",
        4,
        "replicad/sender.py",
        "differing(work.ranges, flags, FINE_BLOCK))",
        "differing(work.ranges, flags & False, FINE_BLOCK))",
        "tests/replicad/test_compare_pass.py::test_a_comparison_sends_only_what_differs",
        MODEL,
    ),
    one(
        "what-is-answered-is-that-all-blocks-are-equal",
        4,
        "receiver/comparing.py",
        "                            bits[(first + at) >> 3] |= 1 << ((first + at) & 7)\n",
        "                            pass\n",
        "tests/receiver/test_comparing.py"
        "::test_the_answer_is_the_bits_and_then_what_is_in_those_blocks",
    ),
    one(
        "a-map-that-was-never-filled-is-believed",
        4,
        "replicad/dirtymap/store.py",
        "    if not header.seeded:\n",
        "    if False:\n",
        f"{DIRTYMAP}::test_an_unseeded_map_is_refused",
    ),
    one(
        "a-map-of-another-generation-is-kept-in-a-running-daemon",
        4,
        JOBDISK,
        "if self.map.header.generation == opened.generation:",
        "if True:",
        MODEL,
    ),
    one(
        "another-disk-under-the-same-number-is-trusted",
        4,
        "replicad/tracker/ebpf.py",
        "            slot.changed = 1  # stays a gap until track() begins anew",
        "            pass",
        "tests/integration/test_tracker_life.py"
        "::test_another_file_behind_a_loop_device_is_another_disk",
    ),
    one(
        "a-resized-disk-keeps-its-token",
        4,
        "replicad/tracker/ebpf.py",
        "                    slot.sectors * SECTOR != device.size\n                    or slot",
        "                    slot",
        "tests/integration/test_tracker_life.py"
        "::test_a_resized_disk_that_nobody_has_drained_gets_a_new_token",
    ),
    one(
        "misses-of-the-kernel-are-not-counted",
        4,
        "replicad/tracker/ebpf.py",
        "            return self._missed_by(HOOK_REQUEST)",
        "            return 0",
        MODEL,
    ),
)

TRACKER = (
    one(
        "marked-only-when-completed",
        1,
        KERNEL,
        "\tif (!(op & 1))\n\t\treturn;\n\tref = find_disk(place, disk_of_bio(bio));",
        "\tif (op)\n\t\treturn;\n\tref = find_disk(place, disk_of_bio(bio));",
        f"{RACE}::test_zram_writes_and_discards_are_exact",
    ),
    one(
        "marked-only-when-queued",
        1,
        KERNEL,
        "\tif (!(op & 1) || !st)\n\t\treturn;",
        "\tif (op || !st)\n\t\treturn;",
        f"{RACE}::test_a_request_is_marked_when_it_has_landed",
    ),
    one(
        "discards-are-not-marked",
        1,
        KERNEL,
        "\tif (bytes)\n\t\tmark_at(place, ref, sector, bytes, 1);",
        "\tif (bytes && op == OP_WRITE)\n\t\tmark_at(place, ref, sector, bytes, 1);",
        f"{RACE}::test_zram_writes_and_discards_are_exact",
    ),
    one(
        "bits-are-cleared-before-they-are-handed-over",
        1,
        "replicad/tracker/window.py",
        "                sink(first, part)\n",
        "                with words(self.fd, first, end) as view:\n"
        "                    view.fill(0)\n"
        "                sink(first, part)\n",
        f"{RACE}::test_bits_are_in_the_kernel_until_the_sink_returned",
        MODEL,
        quick=True,
    ),
    one(
        "a-marker-in-progress-is-not-waited-for",
        1,
        "replicad/tracker/ebpf.py",
        "                table.slots[identity].active ^= 1\n",
        "                table.slots[identity].active ^= 1\n"
        "            table.quiescence.wait = lambda: None\n",
        f"{RACE}::test_a_marker_that_began_before_the_flip_is_waited_for",
    ),
    one(
        "what-a-killed-drain-left-is-not-handed-over",
        10,
        "replicad/tracker/ebpf.py",
        "            for disk, identity in places:\n"
        "                self._hand_over(disk, identity, sink, handed)\n"
        "            self._settled = False",
        "            self._settled = False",
        f"{RACE}::test_killed_between_any_two_steps_of_a_drain",
    ),
    one(
        "the-bitmap-that-is-marked-is-read",
        1,
        "replicad/tracker/ebpf.py",
        "quiet = 1 - (slot.active & 1)",
        "quiet = slot.active & 1",
        f"{RACE}::test_drains_beside_writers_lose_nothing",
    ),
)
