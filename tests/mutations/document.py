"""Makes docs/promises.md: promise, what holds it, which tests break with it, what proves that."""

from __future__ import annotations

from dataclasses import dataclass

from tests.mutations.listed import MUTATIONS
from tests.mutations.mutation import MAP_MODEL, MODEL

HEAD = """\
# The ten promises, and what breaks when one is broken

<!-- Made by `.venv/bin/python -m tests.mutations --document`; a test keeps it up to date. -->

DESIGN makes ten promises. For each: the files that hold it, and the ways to break it that have
been tried. A *mutation* is a small change of the real source, applied to a copy of the tree; the
tests in its row must then fail, and pass without it. `./run test-mutations` applies all of them,
`./run test-mutations NAME` one; CI applies those with a star, each with its first test.

Two tests stand behind many rows:

* **the map's model** (`{map_model}`): random walks through a state machine over dirty map,
  planner and window, with kill -9 between any two stores to the map.
* **the whole way** (`{model}`): random walks through a state machine over both ends: the real
  tracker's drain, dirty map, planner, passes, senders, frames and seals, data connections,
  sessions, the intermediate disk's code and the commit, on a simulated kernel, wire, storage and
  clock (`tests/properties/wholeway.py`). Its rules write, discard, drain, read torn, send, deliver
  byte by byte, cut, kill either side, lose power, boot, miss events, lose pins, exchange the
  intermediate disk, fail a sync, and take checkpoints, in any order. After each step it asks:
  is what is called clean stable on the receiver as it was last written (1); was every ack of
  something stable (2); is nothing twice on its way, has no fenced session written (3); is
  everything suspect after a gap (4); is what is recorded the frozen disk, and stable (5); was no
  more sent than was written, differed or was lost. `tests/properties/test_session_model.py` lets
  hypothesis play the same rules, and each example ends with equal disks.

"""


@dataclass(frozen=True, slots=True)
class Promise:
    """``holders``: the files without which it would not be true, with what they do for it."""

    title: str
    holders: tuple[tuple[str, str], ...]


PROMISES = {
    1: Promise(
        "No lost write",
        (
            ("replicad/tracker/bpf/tracker.bpf.c", "marks what has landed"),
            ("replicad/tracker/ebpf.py", "flips, waits for markers, hands over, then clears"),
            ("replicad/dirtymap/map.py", "a mark stays whatever is in flight"),
            ("replicad/reader.py", "reads past the page cache"),
        ),
    ),
    2: Promise(
        "Clear, then read, then send; drop on durable ack",
        (
            ("replicad/dirtymap/map.py", "D goes to F before the read, F goes with the ack"),
            ("replicad/transfer.py", "a lost session's batches become dirty again"),
            ("receiver/session.py", "syncs, then acknowledges what was written before"),
            ("receiver/disk/base.py", "a failed sync is final"),
        ),
    ),
    3: Promise(
        "One copy of an extent in flight",
        (
            ("replicad/dirtymap/map.py", "nothing that overlaps F is taken"),
            ("replicad/engine/job.py", "lost only after the next session has opened"),
            ("receiver/sessions.py", "a new session first closes the older one"),
            ("receiver/datapath.py", "closing waits for the write under way"),
        ),
    ),
    4: Promise(
        "A gap is never called clean",
        (
            ("replicad/dirtymap/header.py", "what a map was true for"),
            ("receiver/evidence.py", "whether one of the two has been put back"),
            ("replicad/recovery.py", "believes it or makes everything suspect"),
            ("replicad/jobdisk.py", "misses and tracking anew make everything suspect"),
            ("receiver/opening.py", "freshness ends, doubtful content gets a new generation"),
        ),
    ),
    5: Promise(
        "Only a committed checkpoint is an image",
        (
            ("receiver/checkpoint.py", "stands still, syncs, preserves, records"),
            ("receiver/snapshot.py", "appears whole or not at all"),
            ("replicad/engine/instant.py", "drains and reads while frozen"),
        ),
    ),
    6: Promise(
        "A freeze always ends",
        (
            ("replicad/freeze/watchdog.py", "thaws at the deadline, a signal, the daemon's end"),
            ("replicad/freeze/guardian.py", "thaws when the watchdog cannot"),
            ("replicad/engine/checkpoint.py", "thaws at once after any fault"),
        ),
    ),
    7: Promise(
        "What was hashed is what was sent",
        (
            ("replicad/encoder.py", "digests the buffer that is sealed"),
            ("receiver/decoder.py", "checks it again after opening"),
            ("protocol/wire/crypto.py", "opens only what was sealed"),
        ),
    ),
    8: Promise(
        "The receiver refuses danger",
        (
            ("receiver/disk/safety.py", "every reason not to write a device, by name"),
            ("receiver/disk/raw.py", "recognises its own files"),
            ("receiver/opening.py", "only this job's disks, for this source's disks"),
            ("receiver/applying.py", "only disks and places of the session"),
        ),
    ),
    9: Promise(
        "Nobody gets in, nobody reads, nobody exhausts",
        (
            ("protocol/identity.py", "the authority is that of the code"),
            ("receiver/activation.py", "a code works as often and as long as it says"),
            ("protocol/wire/data.py", "hellos, indexes and lengths are judged first"),
            ("protocol/wire/framing.py", "lengths of messages, too"),
            ("receiver/gate.py", "strangers are few"),
        ),
    ),
    10: Promise(
        "Stop it anywhere",
        (
            ("replicad/dirtymap/map.py", "the order of stores, and recovery"),
            ("replicad/dirtymap/header.py", "two slots, written in turn"),
            ("replicad/tracker/window.py", "bits are cleared when they are somewhere else"),
            ("receiver/checkpoint.py", "said twice is taken once"),
        ),
    ),
}


def document() -> str:
    """The text of docs/promises.md."""
    text = HEAD.format(map_model=MAP_MODEL.split("::")[0], model=MODEL.split("::")[0])
    for number, promise in PROMISES.items():
        text += f"## {number}. {promise.title}\n\n"
        text += "".join(f"* `{file}`: {why}\n" for file, why in promise.holders)
        text += "\n| mutation | in | noticed by |\n| --- | --- | --- |\n"
        for mutation in MUTATIONS:
            if mutation.promise == number:
                star = "&#42;" if mutation.quick else ""
                files = ", ".join(f"`{file}`" for file in mutation.files)
                tests = ", ".join(_named(test) for test in mutation.tests)
                text += f"| `{mutation.name}`{star} | {files} | {tests} |\n"
        text += "\n"
    return text.rstrip("\n") + "\n"


def _named(test: str) -> str:
    return {MAP_MODEL: "the map's model", MODEL: "the whole way"}.get(test, f"`{test}`")
