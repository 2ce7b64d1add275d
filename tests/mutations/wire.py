"""Mutations of what keeps danger and strangers out."""

from __future__ import annotations

from tests.mutations.mutation import Edit, Mutation, one

SESSION = "receiver/session.py"
APPLYING = "receiver/applying.py"
OPENING = "receiver/opening.py"
IN_SESSION = "tests/receiver/test_session.py"
IN_MANAGER = "tests/receiver/test_manager.py"

DANGERS = (
    one(
        "a-mounted-target-is-not-refused",
        8,
        "receiver/disk/safety.py",
        "    refuse_mounted(device, machine)\n    refuse_swap",
        "    refuse_swap",
        "tests/integration/test_targets.py::test_a_mounted_device",
    ),
    one(
        "another-jobs-target-is-not-refused",
        8,
        "receiver/disk/safety.py",
        "    refuse_other_job(device, machine, job, others)\n",
        "",
        "tests/integration/test_targets.py::test_a_device_of_another_job_under_any_name",
    ),
    one(
        "a-target-that-is-too-small",
        8,
        "receiver/disk/safety.py",
        "    refuse_too_small(device, needed)\n",
        "",
        "tests/integration/test_targets.py::test_too_small_read_only_missing_and_no_device",
    ),
    one(
        "the-disk-that-is-copied-is-a-target",
        8,
        "receiver/disk/safety.py",
        "    refuse_source_disk(device, machine, source, source_path)\n",
        "",
        "tests/integration/test_targets.py::test_the_disk_that_is_to_be_copied",
    ),
    one(
        "another-device-under-the-path-of-the-target",
        8,
        "receiver/disk/block.py",
        "            safety.refuse_changed(device, identity.size, identity.marks)\n",
        "            pass\n",
        "tests/integration/test_targets.py::test_another_device_under_the_same_path",
    ),
    one(
        "a-frame-may-name-any-disk-and-place",
        8,
        APPLYING,
        "        if last.offset + last.length > disk.size:\n",
        "        if False:\n",
        f"{IN_SESSION}::test_what_is_not_the_sessions_to_write_is_refused",
    ),
    one(
        "a-source-may-open-anothers-job",
        8,
        OPENING,
        "    if row.source != source:\n",
        "    if False:\n",
        f"{IN_MANAGER}::test_a_source_is_believed_about_its_own_job_only",
        quick=True,
    ),
    one(
        "a-disk-that-has-shrunk-is-copied-over-it",
        8,
        OPENING,
        "        if disk.size < least:\n",
        "        if False:\n",
        "tests/receiver/test_opening.py",
    ),
    one(
        "a-disk-with-another-identity-is-copied-over-it",
        8,
        OPENING,
        "        if detail := compare_identity(row.identity, disk.size, info):\n",
        "        if detail := '':\n",
        "tests/receiver/test_opening.py",
    ),
)

WIRE = (
    one(
        "the-digest-is-not-checked",
        7,
        "receiver/decoder.py",
        "    if digest != frame.digest:\n",
        "    if False:\n",
        "tests/receiver/test_decoder.py::test_content_with_another_digest_is_refused",
        quick=True,
    ),
    one(
        "the-tag-is-not-checked",
        7,
        "protocol/wire/crypto.py",
        "            into[:size] = bytes(size)\n            raise TAMPERED.peer() from None\n",
        "            pass\n",
        "tests/protocol/wire/test_crypto.py::test_every_flipped_bit_is_seen",
        quick=True,
    ),
    one(
        "the-tag-of-the-other-cipher-is-not-checked",
        7,
        "protocol/wire/ciphers.py",
        "            raise InvalidTag from None\n",
        "            pass\n",
        "tests/protocol/wire/test_ciphers.py",
    ),
    one(
        "two-ciphers-have-one-key",
        9,
        "protocol/wire/crypto.py",
        'cipher.encode() + b" "',
        'b""',
        "tests/protocol/wire/test_crypto.py::test_ciphers_share_no_key",
    ),
    one(
        "a-cipher-that-was-not-offered-is-taken",
        9,
        "protocol/wire/ciphers.py",
        "    if chosen not in offered:\n",
        "    if False:\n",
        "tests/protocol/wire/test_ciphers.py::test_a_source_takes_only_what_it_has_offered",
    ),
    one(
        "the-receivers-choice-is-not-checked",
        9,
        "replicad/engine/job.py",
        "            check_choice(opened.cipher, ciphers)\n",
        "",
        "tests/integration/test_hostile_receiver.py::test_a_cipher_that_was_not_offered_is_refused",
    ),
    one(
        "a-replayed-frame-opens",
        9,
        "protocol/wire/crypto.py",
        "            aead.open(sequence, sealed, _length",
        "            aead.open(0, sealed, _length",
        "tests/protocol/wire/test_crypto.py::test_what_is_sealed_opens_in_order",
    ),
    Mutation(
        "decompression-is-not-bounded",
        9,
        (
            Edit(
                "receiver/decoder.py", "            if stated != size:\n", "            if False:\n"
            ),
            Edit(
                "receiver/decoder.py",
                "self._zstd.stream_reader(payload) as reader:",
                "__import__('io').BytesIO(self._zstd.decompressobj().decompress(payload))"
                " as reader:",
            ),
        ),
        ("tests/receiver/test_decoder.py::test_a_bomb_is_refused_before_it_expands",),
        quick=True,
    ),
    one(
        "a-frame-of-any-length",
        9,
        "protocol/wire/data.py",
        "        if length > self.limit:\n            raise TOO_LONG.peer(size=length, "
        'limit=self.limit, what="a frame")\n',
        "",
        "tests/protocol/wire/test_data.py"
        "::test_a_wrong_length_is_refused_before_anything_is_made_for_it",
    ),
    one(
        "a-message-of-any-length",
        9,
        "protocol/wire/framing.py",
        "        if length > self.limit:\n",
        "        if False:\n",
        "tests/protocol/wire/test_framing.py"
        "::test_a_length_is_refused_before_anything_is_made_for_it",
    ),
    one(
        "the-fingerprint-of-the-code-is-not-compared",
        9,
        "protocol/identity.py",
        "    if not hmac.compare_digest(offered, fingerprint):\n",
        "    if False:\n",
        "tests/receiver/test_authority.py::test_enrolment_reaches_only_the_right_receiver",
        quick=True,
    ),
    one(
        "a-code-may-be-used-for-ever",
        9,
        "receiver/activation.py",
        "    if not catalog.activations.count_use(code.label):\n",
        "    if False:\n",
        "tests/receiver/test_activation.py::test_a_code_works_as_often_as_it_says",
    ),
    one(
        "a-code-does-not-expire",
        9,
        "receiver/activation.py",
        "    if now >= code.expires:\n",
        "    if False:\n",
        "tests/receiver/test_activation.py::test_a_code_expires_on_the_second",
    ),
    one(
        "a-hello-is-not-verified",
        9,
        SESSION,
        "        hello.verify(self.keys)\n",
        "",
        f"{IN_SESSION}::test_a_hello_of_another_session_is_refused",
    ),
    one(
        "strangers-fill-the-house",
        9,
        "receiver/gate.py",
        "        if len(self._strangers) >= self._most_strangers:\n            self._turn_out()\n",
        "",
        "tests/receiver/test_gate.py",
    ),
    one(
        "a-forgotten-source-comes-back",
        9,
        "receiver/catalog/sources.py",
        '"SELECT * FROM sources WHERE certificate_fingerprint = ? AND forgotten IS NULL",',
        '"SELECT * FROM sources WHERE certificate_fingerprint = ?",',
        "tests/receiver/test_catalog.py"
        "::test_a_source_is_known_by_its_certificate_until_it_is_forgotten",
    ),
)
