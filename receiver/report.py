"""The receiver's metrics, from one snapshot that the loop replaces once a second."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from protocol.errors import INTERNAL
from protocol.local.freezes import CONVERGENCE_GAUGES, freeze_histogram
from protocol.local.recoveries import recoveries
from protocol.units import parse_instant
from protocol.views import JobView
from protocol.wire.jobs import JobReport

_GAUGES = (
    ("receiver_speed_bytes_per_second", "Logical bytes per second.", "speed_bytes_per_second"),
    ("receiver_remaining_seconds", "Until the present pass ends.", "remaining_seconds"),
    ("receiver_lag_seconds", "Age of the oldest change not yet held.", "lag_seconds"),
    ("receiver_sync_seconds", "What bringing data to stable storage takes.", "sync_seconds"),
    ("receiver_sync_group_seconds", "For which data waits for others before.", "group_seconds"),
    ("receiver_epoch", "The last committed checkpoint.", "epoch"),
)
_COUNTERS = (
    ("receiver_logical_bytes", "Uncompressed bytes received since this daemon started."),
    ("receiver_wire_bytes", "Bytes received on data connections since this daemon started."),
)
"""Counted from the start of the process, as Prometheus expects: it recognises a counter that
begins again at 0. One that went on from the catalog would, after a kill, begin a little *below*
where it was, and ``rate()`` would take all of it for new. ``job show`` counts the job's life."""
_SAID = (
    ("receiver_tracker_misses", "Events that the source's tracker missed.", "tracker_misses"),
    ("receiver_reconnects", "Sessions that the source lost and opened again.", "reconnects"),
)
"""Counted by the source, from the start of its daemon."""
_DISKS = (
    ("receiver_dirty_bytes", "Bytes that the intermediate disk lacks.", "dirty_bytes"),
    ("receiver_in_flight_bytes", "Bytes without a durable answer.", "in_flight_bytes"),
    ("receiver_left_out_bytes", "Unused, neither sent nor compared.", "left_out_bytes"),
    ("receiver_unreadable_bytes", "Bytes that the source cannot read now.", "unreadable_bytes"),
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The receiver at one moment. By job: ``received`` logical and wire bytes since its start,
    ``compared`` and ``differing`` bytes of verifications, likewise, and ``reports``, the source's
    last word; ``frozen``: seconds of checkpoints since its start.
    """

    jobs: tuple[JobView, ...] = ()
    sources: int = 0
    sessions: int = 0
    refused: int = 0
    received: dict[str, tuple[int, int]] = field(default_factory=dict)
    reports: dict[str, JobReport] = field(default_factory=dict)
    frozen: tuple[float, ...] = ()
    compared: dict[str, int] = field(default_factory=dict)
    differing: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


def metrics(now: Snapshot) -> Iterable[Metric]:
    """All families; see docs/operations.md for what each is good for."""
    labels = ["job", "source"]
    for name, doc, key in _GAUGES:
        gauge = GaugeMetricFamily(name, doc, labels=labels)
        for job in now.jobs:
            if (value := getattr(job, key)) is not None:
                gauge.add_metric([job.id, job.source], value)
        yield gauge
    yield from _counters(now, labels)
    for name, doc, key in _DISKS:
        gauge = GaugeMetricFamily(name, doc, labels=[*labels, "disk"])
        for job in now.jobs:
            for disk in job.disks:
                gauge.add_metric([job.id, job.source, disk.path], getattr(disk, key))
        yield gauge
    for name, key, doc in CONVERGENCE_GAUGES:
        gauge = GaugeMetricFamily(f"receiver_{name}", doc, labels=labels)
        for job in now.jobs:
            if (value := getattr(job.convergence, key)) is not None:
                gauge.add_metric([job.id, job.source], value)
        yield gauge
    yield from _verified(now, labels)
    yield from _states(now)
    yield from recoveries(
        "receiver",
        [*labels, "disk"],
        [((j.id, j.source, d.path), d.recovery) for j in now.jobs for d in j.disks],
    )
    yield freeze_histogram("receiver_freeze_seconds", now.frozen)
    yield _plain("receiver_connected_sources", "Sources that are connected.", now.sources)
    yield _plain("receiver_sessions", "Open sessions.", now.sessions)
    refused = CounterMetricFamily(
        "receiver_refused_connections", "Connections that did not prove who they are."
    )
    refused.add_metric([], now.refused)
    yield refused
    errors = CounterMetricFamily(
        "receiver_errors", "Faults by stable code; see docs/errors.md.", labels=["code"]
    )
    # One series from the start, so that an alert can be written and tried before it is needed.
    for code, count in sorted({INTERNAL.code: 0, **now.errors}.items()):
        errors.add_metric([code], count)
    yield errors


def _counters(now: Snapshot, labels: list[str]) -> Iterable[Metric]:
    for at, (name, doc) in enumerate(_COUNTERS):
        counter = CounterMetricFamily(name, doc, labels=labels)
        for job in now.jobs:
            counter.add_metric([job.id, job.source], now.received.get(job.id, (0, 0))[at])
        yield counter
    for name, doc, key in _SAID:
        counter = CounterMetricFamily(name, doc, labels=labels)
        for job in now.jobs:
            if (said := now.reports.get(job.id)) is not None:
                counter.add_metric([job.id, job.source], getattr(said, key))
        yield counter


def _verified(now: Snapshot, labels: list[str]) -> Iterable[Metric]:
    for name, doc, counts in (
        ("receiver_verified_bytes", "Bytes that verifications have compared.", now.compared),
        ("receiver_verify_differing_bytes", "Bytes that they found to differ.", now.differing),
    ):
        counter = CounterMetricFamily(
            name, f"{doc[:-1]}, since this daemon started.", labels=labels
        )
        for job in now.jobs:
            counter.add_metric([job.id, job.source], counts.get(job.id, 0))
        yield counter
    last = GaugeMetricFamily(
        "receiver_last_verify_timestamp_seconds", "When one came to its end last.", labels=labels
    )
    wrong = GaugeMetricFamily(
        "receiver_unrepaired_bytes",
        "Bytes that the last one found and nobody has repaired.",
        labels=labels,
    )
    for job in now.jobs:
        if (said := job.verified) is not None:
            last.add_metric([job.id, job.source], parse_instant(said.when).timestamp())
        unrepaired = 0 if said is None or said.repaired else said.differing_bytes
        wrong.add_metric([job.id, job.source], unrepaired)
    yield from (last, wrong)


def _states(now: Snapshot) -> Iterable[Metric]:
    state = GaugeMetricFamily(
        "receiver_job_state", "1 for the state that a job is in.", labels=["job", "source", "state"]
    )
    kind = GaugeMetricFamily(
        "receiver_pass",
        "1 for the pass that a disk is in.",
        labels=["job", "source", "disk", "pass"],
    )
    converging = GaugeMetricFamily(
        "receiver_convergence",
        "1 for whether delta passes converge.",
        labels=["job", "source", "state"],
    )
    for job in now.jobs:
        converging.add_metric([job.id, job.source, job.convergence.state], 1)
        state.add_metric([job.id, job.source, job.state], 1)
        for disk in job.disks:
            kind.add_metric([job.id, job.source, disk.path, disk.pass_], 1)
    yield from (state, kind, converging)


def _plain(name: str, doc: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, doc)
    family.add_metric([], value)
    return family
