"""Every step at which a test can make a daemon die, and what is lost there.

The names stand in the order of the work. ``lost`` says what the dead process knew and nobody else:
that is what the recovery must do without. ``worst`` is the pass that a job which was in step before
may need afterwards: ``delta`` where the dirty map and the tracker vouch for everything, ``compare``
only where the death takes away what would vouch (a map that was not finished, tracking that began
anew, an intermediate disk that cannot be believed). A death never costs a full pass.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Side = Literal["source", "receiver", "both"]
Worst = Literal["delta", "compare"]


class Point(NamedTuple):
    """A step, the daemon that passes it, what a death there loses, and what that may cost."""

    name: str
    side: Side
    lost: str
    worst: Worst = "delta"


_SOURCE: Final = (
    # the tracker
    Point(
        "tracker.half_pinned", "source", "programs run, no meta: the pins are nobody's", "compare"
    ),
    Point("tracker.half_removed", "source", "meta is gone, the other pins are not"),
    Point("slot.described", "source", "a disk has a slot, no index says so yet", "compare"),
    Point("slot.unpublished", "source", "tracking has ended, its memory is not free"),
    Point("disk.tracked", "source", "tracking goes on, nobody reads the disk"),
    Point("disks.opened", "source", "only descriptors"),
    Point("drain.flipped", "source", "the quiet bitmap is full, and programs may still write it"),
    Point("drain.quiet", "source", "the quiet bitmap is full, the map has none of it"),
    Point("drain.handed_over", "source", "the map has the bits, the kernel too: marked twice"),
    Point("drain.merged", "source", "the count of missed events is not looked at"),
    # the dirty map
    Point("map.unnamed", "source", "a map that has no name yet", "compare"),
    Point("map.created", "source", "an empty map that says nothing, and says so", "compare"),
    Point("map.marked", "source", "all is dirty, the map does not say that this is all", "compare"),
    Point(
        "map.suspected", "source", "all is suspect, but unseeded: compared either way", "compare"
    ),
    Point("map.adopted", "source", "recovered; the map may be an epoch behind"),
    Point("map.recovering", "source", "what was in flight is dirty and still in flight"),
    Point("map.header_torn", "source", "one of the two headers does not check"),
    Point("map.flying", "source", "granules are dirty and in flight"),
    Point("map.taken", "source", "granules are in flight, not read"),
    Point("map.landed", "source", "granules are suspect no more only in memory"),
    Point("map.differs", "source", "granules are dirty and in flight after a comparison"),
    Point("map.lost", "source", "of a lost session some is dirty again, some in flight"),
    # a session
    Point("daemon.greeted", "source", "nothing"),
    Point("inventory.sent", "source", "nothing"),
    Point("report.sent", "source", "nothing: a report is said again"),
    Point("order.received", "source", "an order, which is given again"),
    Point("session.answered", "source", "the session's secret: nobody can use that session"),
    Point("session.attached", "source", "the same, with the map open"),
    Point("link.hello_said", "source", "a data connection that nobody uses"),
    Point("transfer.connected", "source", "a session with one of its connections"),
    Point("session.running", "source", "a session that carried nothing"),
    Point("session.left", "source", "the goodbye: the receiver sees the connection end"),
    # an extent
    Point("sender.read", "source", "an extent that was read"),
    Point("sender.encoded", "source", "an extent that was encoded"),
    Point("sender.sealed", "source", "a frame, and the number that it used up"),
    Point("sender.in_flight", "source", "a frame that counts as sent"),
    Point("link.part_sent", "source", "the end of a frame"),
    Point("sender.put", "source", "the knowledge that a frame went out"),
    Point("sender.fenced", "source", "the acks that a fence asks for"),
    Point("sender.hashed", "source", "digests that were not sent"),
    Point("transfer.ack_heard", "source", "an ack: what it covers is sent again"),
    Point("transfer.acked", "source", "figures only"),
    Point("transfer.diff_heard", "source", "which blocks differ: they are compared again"),
    Point("transfer.finer", "source", "the same, one step later"),
    Point("sender.looked", "source", "which small blocks differ, known to a sender only"),
    Point("pass.ending", "source", "that a pass is over: its flag in the map is not changed"),
    # a checkpoint
    Point("checkpoint.converged", "source", "nothing"),
    Point("checkpoint.reserved", "source", "reserved memory"),
    Point("checkpoint.prepared", "source", "a watchdog that has frozen nothing"),
    Point("checkpoint.settled", "source", "nothing"),
    Point("checkpoint.hooked", "source", "pre-freeze hooks ran, post-thaw hooks never will"),
    Point("freeze.recorded", "source", "the record of a freeze that has not begun"),
    Point("checkpoint.frozen", "source", "the freeze: the watchdog thaws"),
    Point("checkpoint.drained", "source", "the instant: what was written before it is in the map"),
    Point("checkpoint.planned", "source", "the instant, with all of it in flight"),
    Point("checkpoint.half_read", "source", "the instant, some of it read into memory"),
    Point("checkpoint.still", "source", "the instant, all of it read"),
    Point("checkpoint.thawed", "source", "the instant, and nothing is frozen"),
    Point("checkpoint.post_thaw", "source", "the instant, hooks have ended"),
    Point(
        "checkpoint.sent", "source", "nothing: the receiver holds an instant that nobody commits"
    ),
    Point("checkpoint.failed", "source", "why there was no checkpoint: it is tried again"),
    Point("commit.asked", "source", "the same as checkpoint.sent"),
    Point("commit.heard", "source", "that the checkpoint is committed: the receiver says so again"),
    Point("commit.noted", "source", "nothing"),
    # a verification
    Point("verify.judged", "source", "what a slice found: it is compared again"),
    Point("verify.kept", "source", "how far it came: what it found goes with the next checkpoint"),
    Point("verify.marked", "source", "that it repairs: what is to be repaired is dirty"),
    Point("verify.ended", "source", "the verdict: it is made again"),
    # the end of a job
    Point("disks.untracked", "source", "tracking has ended, the maps are there"),
    Point("disks.closed", "source", "nothing, or maps of a job that is over"),
    Point("leftover.removed", "source", "of two leftovers one is gone"),
)

_RECEIVER: Final = (
    # at the start
    Point("authority.half_made", "receiver", "the authority has a key and no certificate"),
    Point("restart.repaired", "receiver", "jobs are as after a restart, leftovers are there"),
    Point("receiver.stopping", "receiver", "figures: it was about to end anyway"),
    # the catalog
    Point("catalog.uncommitted", "receiver", "a transaction, as if nobody had asked"),
    Point("catalog.committed", "receiver", "that a transaction is over: nobody was told"),
    Point("source.certified", "receiver", "a certificate: the code can be used again"),
    Point("job.file_made", "receiver", "a job; its intermediate disk is an orphan without data"),
    Point("job.created", "receiver", "the answer: the job is there"),
    Point("job.changed", "receiver", "the answer, and the order to the source: given at the start"),
    Point("job.half_deleted", "receiver", "snapshots: the job can be deleted again"),
    Point("job.files_gone", "receiver", "files: the job can be deleted again"),
    Point("job.deleted", "receiver", "the answer: the job is gone"),
    Point("report.kept", "receiver", "nothing"),
    Point("refusal.recorded", "receiver", "the answer to who waits for a checkpoint"),
    # opening
    Point("session.opening", "receiver", "nothing: the old session ends with the process"),
    Point("session.retired", "receiver", "an old session without connections"),
    Point("session.closed", "receiver", "figures of an old session"),
    Point("session.fenced", "receiver", "nothing"),
    Point("disk.growing", "receiver", "a larger disk: the next opening extends it", "compare"),
    Point(
        "disk.extended", "receiver", "that a disk is larger: the catalog says it may be", "compare"
    ),
    Point(
        "disk.grown", "receiver", "nothing: the disk is larger, the source does not know", "compare"
    ),
    Point("disk.opened", "receiver", "only descriptors and locks"),
    Point("disk.distrusted", "receiver", "a generation that was to be replaced", "compare"),
    Point(
        "disk.renewed", "receiver", "the catalog knows the new one, the disk does not", "compare"
    ),
    Point("disk.unfresh", "receiver", "that the disk was empty: it is compared, not filled"),
    Point("session.remembered", "receiver", "a session that nobody was told of is remembered"),
    Point("session.opened", "receiver", "a secret that nobody was told"),
    Point("hello.heard", "receiver", "a connection"),
    Point("connection.admitted", "receiver", "a connection"),
    # a frame
    Point("frame.received", "receiver", "a frame that was not opened"),
    Point("frame.opened", "receiver", "a frame that was not written"),
    Point("segment.written", "receiver", "the other segments of a frame"),
    Point("segment.zeroed", "receiver", "the other segments of a frame"),
    Point("frame.compared", "receiver", "which blocks differ"),
    Point("frame.written", "receiver", "that a frame was written: it is not durable"),
    Point("memory.written", "receiver", "what is remembered may not be durable: nobody was told"),
    Point("sync.gathered", "receiver", "written frames that are not durable"),
    Point("disk.synced", "receiver", "one disk is durable, the others are not"),
    Point("sync.done", "receiver", "acks of what is durable: it is sent again"),
    Point("ack.sent", "receiver", "the acks of the other connections"),
    # a commit
    Point("commit.received", "receiver", "a commit, which is asked for again after another freeze"),
    Point("commit.synced", "receiver", "the same"),
    Point("snapshot.partial", "receiver", "a snapshot without its name: it is swept"),
    Point("snapshot.named", "receiver", "a snapshot that is in no catalog: it is swept"),
    Point("commit.preserved", "receiver", "the same"),
    Point("commit.recording", "receiver", "the same: its transaction is rolled back"),
    Point("commit.recorded", "receiver", "the answer: the checkpoint is there"),
    Point("commit.unanswered", "receiver", "the answer: the checkpoint is there"),
    # a verification
    Point("verify.recorded", "receiver", "the answer to who waits, and the order that ends it"),
    # snapshots
    Point("snapshot.struck", "receiver", "files of a snapshot that is let go: they are swept"),
    Point("snapshot.doomed", "receiver", "the same, under another name"),
)

_BOTH: Final = (
    Point("file.unnamed", "both", "a small file that was to be replaced: the old one is there"),
)

POINTS: Final = (*_SOURCE, *_RECEIVER, *_BOTH)
"""All of them."""
