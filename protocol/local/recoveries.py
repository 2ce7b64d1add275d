"""The metrics of recovery, which both daemons expose: what was lost, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client.core import Metric

    from protocol.wire.jobs import Recovery


def recoveries(
    prefix: str,
    labels: Sequence[str],
    found: Iterable[tuple[Sequence[str], Recovery | None]],
) -> Iterable[Metric]:
    """The last recovery of each disk, as gauges: a new one begins from nothing.

    Args:
        prefix: of the daemon.
        labels: names, without the grade's.
        found: values of the labels, and the recovery of that disk.
    """
    grade = GaugeMetricFamily(
        f"{prefix}_recovery",
        "1 for the grade of the last recovery: intact, compare or full.",
        labels=[*labels, "grade"],
    )
    going = GaugeMetricFamily(
        f"{prefix}_recovering", "Whether the last recovery goes on.", labels=labels
    )
    read = GaugeMetricFamily(
        f"{prefix}_recovery_read_bytes", "Read for the last recovery.", labels=labels
    )
    sent = GaugeMetricFamily(
        f"{prefix}_recovery_sent_bytes", "Sent for the last recovery.", labels=labels
    )
    for values, recovery in found:
        if recovery is not None:
            grade.add_metric([*values, recovery.grade], 1)
            going.add_metric(values, recovery.ended is None)
            read.add_metric(values, recovery.bytes_read)
            sent.add_metric(values, recovery.bytes_sent)
    yield from (grade, going, read, sent)
