"""The sentence says what the figures say."""

from protocol.wire.jobs import DiskReport, PassKind
from replicad.sentence import describe

GIB = 1 << 30


def disk(kind: PassKind, **fields: object) -> DiskReport:
    """A disk of 100 GiB in a pass."""
    return DiskReport(path="/dev/vda", size=100 * GIB, pass_=kind, **fields)  # type: ignore[arg-type]


def test_a_compare_pass_says_why_and_how_much_differs() -> None:
    report = disk(
        "compare",
        total_bytes=100 * GIB,
        transferred_bytes=60 * GIB,
        differing_bytes=GIB // 4,
        trust="comparing: rebooted at 03:12 UTC",
    )
    assert describe([report], 360.0, 5.0) == (
        "compare pass: rebooted at 03:12 UTC, 40 GiB to read, 256 MiB differ so far, 6m left"
    )


def test_the_worst_pass_speaks() -> None:
    both = [disk("delta", total_bytes=5, transferred_bytes=5), disk("full", total_bytes=GIB)]
    assert describe(both, None, 0.0) == "full pass: 1 GiB to go"


def test_between_passes_it_says_how_far_behind_the_copy_is() -> None:
    assert describe([disk("idle")], 0.0, 0.0) == "the copy is complete"
    behind = disk("idle", dirty_bytes=GIB)
    assert describe([behind], 0.0, 1.5) == "the copy is close: 1 GiB behind"
    assert describe([behind], 0.0, 90.0) == "the copy is 1 GiB and 1m30s behind"


def test_no_disks_no_sentence() -> None:
    assert describe([], None, 0.0) == ""
