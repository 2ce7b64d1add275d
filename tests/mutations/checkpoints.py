"""Mutations of generations and checkpoints at the receiver."""

from __future__ import annotations

from tests.mutations.mutation import MODEL, one

APPLYING = "receiver/applying.py"
OPENING = "receiver/opening.py"
COMMIT = "receiver/checkpoint.py"
IN_SESSION = "tests/receiver/test_session.py"
IN_MANAGER = "tests/receiver/test_manager.py"
IN_VERIFY = "tests/replicad/engine/test_verify.py"

GENERATIONS = (
    one(
        "the-fresh-flag-is-not-cleared",
        4,
        OPENING,
        "            catalog.disks.written(job.id, row.number)\n",
        "",
        "tests/receiver/test_opening.py",
        quick=True,
    ),
    one(
        "a-disk-that-holds-something-is-called-fresh",
        4,
        OPENING,
        "fresh = row.fresh and disk.known_zero",
        "fresh = row.fresh",
        "tests/receiver/test_opening.py",
    ),
    one(
        "the-mark-of-a-file-is-not-compared",
        8,
        "receiver/disk/raw.py",
        "doubt=files.doubt(descriptor, identity, job, generation),",
        'doubt="",',
        "tests/receiver/test_raw.py::test_another_generation_is_not_believed",
        quick=True,
    ),
    one(
        "an-untrusted-file-keeps-its-generation",
        4,
        OPENING,
        "doubt = known.reason if known.full else judge.doubt(known.number, disk)",
        "doubt = known.reason",
        "tests/receiver/test_opening.py",
    ),
    one(
        "a-forgotten-session-is-believed",
        4,
        "receiver/evidence.py",
        "    if known is None:\n        return True\n",
        "    if known is None:\n        return False\n",
        "tests/receiver/test_evidence.py::test_an_unknown_session_or_no_memory_at_all_is_forgetting",
        quick=True,
    ),
    one(
        "a-file-that-others-changed-is-believed",
        4,
        "receiver/evidence.py",
        'return touched(now.changed) if now.changed > limit else ""',
        'return ""',
        "tests/receiver/test_evidence.py::test_after_a_kill_the_lease_decides_and_after_a_boot_the_boot",
        quick=True,
    ),
    one(
        "a-clone-is-guessed-at",
        8,
        "replicad/following.py",
        "    if len(found) == 1:\n",
        "    if found:\n",
        "tests/replicad/test_following.py::test_a_clone_is_never_guessed_at_also_not_by_its_name",
        quick=True,
    ),
    one(
        "a-failed-sync-leaves-no-mark",
        4,
        "receiver/disk/raw.py",
        "            files.set_mark(self._descriptor, self.job, files.UNTRUSTED)\n\n\ndef _make",
        "            pass\n\n\ndef _make",
        "tests/receiver/test_raw.py::test_a_failed_sync_is_remembered_by_the_file",
    ),
)

CHECKPOINTS = (
    one(
        "a-checkpoint-is-committed-without-a-sync",
        5,
        COMMIT,
        "    await session.sync()\n",
        "",
        f"{IN_MANAGER}::test_no_session_is_opened_while_a_commit_is_recorded",
    ),
    one(
        "content-is-taken-while-a-checkpoint-is-preserved",
        5,
        COMMIT,
        "        session.still = True\n        try:\n",
        "        try:\n",
        f"{IN_MANAGER}::test_no_session_is_opened_while_a_commit_is_recorded",
    ),
    one(
        "a-checkpoint-is-recorded-before-it-is-preserved",
        5,
        COMMIT,
        "    kept = await asyncio.to_thread(preserve, storage, session.job, "
        "message.epoch, paths)\n",
        "    kept = Preserved(None, '')\n",
        MODEL,
    ),
    one(
        "held-is-ignored-by-the-session",
        5,
        COMMIT,
        '        session.still = job.held or job.state == "finished"\n',
        "        session.still = False\n",
        "tests/receiver/test_checkpoint.py",
        quick=True,
    ),
    one(
        "held-is-ignored-when-a-session-opens",
        5,
        OPENING,
        'if wanted(row.state) != "run" or row.held:',
        'if wanted(row.state) != "run":',
        "tests/receiver/test_opening.py",
    ),
    one(
        "still-disks-are-written",
        5,
        APPLYING,
        "        if self._target.still:\n",
        "        if False:\n",
        f"{IN_SESSION}::test_what_is_not_the_sessions_to_write_is_refused",
    ),
    one(
        "a-commit-that-nobody-asked-for",
        5,
        COMMIT,
        "        if order is None:\n",
        "        if False:\n",
        f"{IN_MANAGER}::test_a_commit_that_nobody_asked_for_is_refused",
    ),
    one(
        "a-commit-of-an-older-session",
        5,
        COMMIT,
        "        if session is None or session.id != message.session:\n",
        "        if session is None:\n",
        "tests/receiver/test_checkpoint.py",
    ),
    one(
        "a-commit-said-twice-is-taken-twice",
        10,
        COMMIT,
        "        if present is not None:\n",
        "        if False:\n",
        f"{IN_MANAGER}::test_a_commit_answers_who_waits_and_saying_it_twice_is_saying_it_once",
    ),
    one(
        "a-half-made-snapshot-has-its-name",
        5,
        "receiver/snapshot.py",
        '    partial, final = home / f"{epoch}{_PARTIAL}", home / str(epoch)\n',
        '    partial, final = home / f"{epoch}", home / str(epoch)\n',
        "tests/receiver/test_snapshot.py::test_a_crash_at_any_step_leaves_nothing_that_looks_whole",
    ),
    one(
        "a-snapshot-is-named-before-it-is-synced",
        5,
        "receiver/snapshot.py",
        "            os.fsync(clone)\n",
        "",
        "tests/receiver/test_snapshot.py"
        "::test_every_file_is_on_stable_storage_before_the_snapshot_has_its_name",
    ),
    one(
        "what-was-found-dies-with-the-process",
        5,
        "replicad/engine/verify.py",
        "standing.differing or kept.recall()",
        "standing.differing",
        f"{IN_VERIFY}::test_what_it_has_found_so_far_survives_the_process",
    ),
    one(
        "one-look-accuses-a-repair",
        5,
        "replicad/engine/verify.py",
        "                self._ascertain(verification)\n",
        "                self._finish(wanted, verification)\n",
        f"{IN_VERIFY}::test_a_write_that_lands_when_a_repair_is_looked_at_says_nothing",
    ),
    one(
        "what-was-marked-since-is-looked-at-again",
        5,
        "replicad/verification.py",
        "            self.candidates.clear(place, self.candidates.read(place) & ~kept)\n",
        "            self.candidates.clear(place, self.candidates.read(place))\n"
        '            if kind == "recheck":\n'
        "                self.candidates.set(place, self.open.read(place))\n",
        "tests/properties/test_verify_model.py",
    ),
)
