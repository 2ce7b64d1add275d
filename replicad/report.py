"""What the source says of itself: status and metrics, both from the engine's one report.

The :class:`~protocol.wire.jobs.JobReport` is made by the engine, frozen, about once a
second, and is what the receiver is sent, ``replicad status`` shows and Prometheus scrapes.
Nothing is counted twice in two places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from protocol.errors import INTERNAL
from protocol.local.freezes import CONVERGENCE_GAUGES, freeze_histogram
from protocol.local.recoveries import recoveries
from protocol.views import (
    CompressionView,
    DiskView,
    JobStatus,
    ReadingView,
    SendersView,
    SourceStatus,
    TrackerView,
)
from protocol.wire.jobs import DiskReport, JobOrder, JobReport
from replicad.compression import Choice, level_of
from replicad.planner import extent_for
from replicad.verification import Tally


@dataclass(frozen=True, slots=True)
class Sending:
    """How the present session sends; as it stands here when there is none. See
    :class:`~protocol.views.JobStatus`."""

    connections: int = 0
    senders: SendersView = field(default_factory=lambda: SendersView(0, ""))
    cipher: str = ""
    congestion: str = ""
    reading: tuple[ReadingView, ...] = ()


@dataclass(slots=True)
class Snapshot:
    """The daemon at one moment; replaced as a whole, so a scrape's thread may read it."""

    connected: bool = False
    report: JobReport | None = None
    frozen: Sequence[float] = ()
    verified: Tally = field(default_factory=Tally)
    compression: CompressionView = field(default_factory=lambda: compression_view("auto", Choice()))
    sending: Sending = field(default_factory=Sending)
    extent_fixed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    misses: int = 0
    reconnects: int = 0


def disk_view(report: DiskReport, intermediate: str | None = None) -> DiskView:
    """A disk's report in the words of ``status`` and ``job show``."""
    return DiskView(
        path=report.path,
        size=report.size,
        total_bytes=report.total_bytes,
        transferred_bytes=report.transferred_bytes,
        dirty_bytes=report.dirty_bytes,
        in_flight_bytes=report.in_flight_bytes,
        differing_bytes=report.differing_bytes,
        pass_=report.pass_,
        passed=report.passed,
        tracker=report.tracker,
        trust=report.trust,
        granule=report.granule,
        left_out_bytes=report.left_out_bytes,
        unreadable_bytes=report.unreadable_bytes,
        unreadable=report.unreadable,
        intermediate=intermediate,
        device=report.device or report.path,
        recovery=report.recovery,
    )


def compression_view(mode: str, choice: Choice) -> CompressionView:
    """How hard is compressed now, in a job's mode."""
    return CompressionView(mode, *level_of(mode, choice))


def job_status(order: JobOrder, report: JobReport, now: Snapshot) -> JobStatus:
    """The job as ``replicad status`` shows it."""
    return JobStatus(
        id=report.job,
        name=order.name,
        state=report.state,
        epoch=report.epoch,
        speed_bytes_per_second=report.speed_bytes_per_second,
        remaining_seconds=report.remaining_seconds,
        logical_bytes=report.logical_bytes,
        wire_bytes=report.wire_bytes,
        lag_seconds=report.lag_seconds,
        bandwidth=order.bandwidth,
        compression=now.compression,
        reading=now.sending.reading,
        connections=now.sending.connections,
        senders=now.sending.senders,
        cipher=now.sending.cipher,
        congestion=now.sending.congestion,
        extent_bytes=now.extent_fixed or extent_for(report.convergence.send_bytes_per_second),
        sentence=report.sentence,
        convergence=report.convergence,
        error=report.error,
        disks=tuple(disk_view(disk) for disk in report.disks),
        reconnects=report.reconnects,
    )


def source_status(
    name: str,
    software: str,
    receiver: str | None,
    sentence: str,
    tracker: TrackerView,
    order: JobOrder,
    now: Snapshot,
) -> SourceStatus:
    """The whole of ``replicad status``."""
    return SourceStatus(
        name=name,
        software=software,
        enrolled=receiver is not None,
        receiver=receiver,
        connected=now.connected,
        sentence=sentence,
        tracker=tracker,
        job=job_status(order, now.report, now) if now.report else None,
    )


def metrics(now: Snapshot) -> Iterable[Metric]:
    """The source's metrics (DESIGN's names: base units, ``_total`` on counters)."""
    yield gauge(
        "replicad_connected", "Whether the receiver's control connection stands.", now.connected
    )
    report = now.report
    labels = (report.job,) if report else ()
    if report is not None:
        yield from _job(report, labels)
        if now.compression.level is not None:
            yield gauge(
                "replicad_compression_level",
                "zstd level of the next frame; no sample without compression.",
                now.compression.level,
                [report.job],
            )
        yield from _disks(report)
    yield counter("replicad_tracker_misses", "Events that the tracker missed.", now.misses)
    yield counter(
        "replicad_reconnects", "Sessions that were lost and opened again.", now.reconnects
    )
    share = GaugeMetricFamily(
        "replicad_reading_share",
        "Share of the time that a disk may be read; below 1 where others would wait for it.",
        labels=["disk"],
    )
    for disk in now.sending.reading:
        share.add_metric([disk.path], disk.share)
    yield share
    errors = CounterMetricFamily(
        "replicad_errors", "Faults by stable code; see docs/errors.md.", labels=["code"]
    )
    # One series from the start, so that an alert can be written and tried before it is needed.
    for code, count in sorted({INTERNAL.code: 0, **now.errors}.items()):
        errors.add_metric([code], count)
    yield errors
    yield freeze_histogram("replicad_freeze_seconds", now.frozen)
    said = now.verified
    yield counter(
        "replicad_verified_bytes", "Bytes that verifications have compared.", said.compared_bytes
    )
    yield counter(
        "replicad_verify_differing_bytes", "Bytes that they found to differ.", said.differing_bytes
    )
    if said.last:
        yield gauge(
            "replicad_last_verify_timestamp_seconds", "When one came to its end last.", said.last
        )


def _job(report: JobReport, labels: tuple[str, ...]) -> Iterable[Metric]:
    job = [labels[0]]
    yield gauge(
        "replicad_speed_bytes_per_second",
        "Logical bytes durably acknowledged per second.",
        report.speed_bytes_per_second,
        job,
    )
    if report.remaining_seconds is not None:
        yield gauge(
            "replicad_remaining_seconds",
            "Until the present pass ends at the present speed.",
            report.remaining_seconds,
            job,
        )
    yield gauge(
        "replicad_lag_seconds", "Age of the oldest change not yet held.", report.lag_seconds, job
    )
    yield counter("replicad_logical_bytes", "Bytes acknowledged.", report.logical_bytes, job)
    yield counter("replicad_wire_bytes", "Bytes sent on data connections.", report.wire_bytes, job)
    yield gauge("replicad_epoch", "The last committed checkpoint.", report.epoch, job)
    yield from _convergence(report)
    state = GaugeMetricFamily("replicad_job_state", "1 for the state.", labels=["job", "state"])
    state.add_metric([labels[0], report.state], 1)
    yield state


def _convergence(report: JobReport) -> Iterable[Metric]:
    """What is not known has no sample; the state has one in any case."""
    said = report.convergence
    for name, key, doc in CONVERGENCE_GAUGES:
        family = GaugeMetricFamily(f"replicad_{name}", doc, labels=["job"])
        if (value := getattr(said, key)) is not None:
            family.add_metric([report.job], value)
        yield family
    state = GaugeMetricFamily(
        "replicad_convergence", "1 for whether passes converge.", labels=["job", "state"]
    )
    state.add_metric([report.job, said.state], 1)
    yield state


def _disks(report: JobReport) -> Iterable[Metric]:
    dirty = GaugeMetricFamily(
        "replicad_dirty_bytes", "Bytes that the receiver does not yet hold.", labels=["job", "disk"]
    )
    flying = GaugeMetricFamily(
        "replicad_in_flight_bytes", "Bytes without a durable answer.", labels=["job", "disk"]
    )
    unreadable = GaugeMetricFamily(
        "replicad_unreadable_bytes", "Bytes that cannot be read now.", labels=["job", "disk"]
    )
    unused = GaugeMetricFamily(
        "replicad_left_out_bytes", "Unused, neither sent nor compared.", labels=["job", "disk"]
    )
    kind = GaugeMetricFamily("replicad_pass", "1 for the pass.", labels=["job", "disk", "pass"])
    for disk in report.disks:
        dirty.add_metric([report.job, disk.path], disk.dirty_bytes)
        flying.add_metric([report.job, disk.path], disk.in_flight_bytes)
        unreadable.add_metric([report.job, disk.path], disk.unreadable_bytes)
        unused.add_metric([report.job, disk.path], disk.left_out_bytes)
        kind.add_metric([report.job, disk.path, disk.pass_], 1)
    yield from (dirty, flying, unreadable, unused, kind)
    yield from recoveries(
        "replicad", ["job", "disk"], [((report.job, d.path), d.recovery) for d in report.disks]
    )


def gauge(name: str, text: str, value: float, job: Sequence[str] | None = None) -> Metric:
    """A gauge with one sample."""
    family = GaugeMetricFamily(name, text, labels=["job"] if job else [])
    family.add_metric(job or [], value)
    return family


def counter(name: str, text: str, value: float, job: Sequence[str] | None = None) -> Metric:
    """A counter with one sample; the library adds ``_total``."""
    family = CounterMetricFamily(name, text, labels=["job"] if job else [])
    family.add_metric(job or [], value)
    return family
