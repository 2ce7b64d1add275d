"""How long filesystems stayed frozen, as both daemons show it to Prometheus.

The source knows it from its own clock, the receiver from what the source committed; with the
same buckets the two can be laid over each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Collection

    from prometheus_client.core import Metric

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds: fine around the goal of well under a second, coarse where only alarm matters."""


CONVERGENCE_GAUGES = (
    (
        "write_bytes_per_second",
        "write_bytes_per_second",
        "Unique bytes newly written to the disks per second.",
    ),
    (
        "send_capacity_bytes_per_second",
        "send_bytes_per_second",
        "Bytes of content per second that can be sent.",
    ),
    (
        "needed_bytes_per_second",
        "needed_bytes_per_second",
        "What the line must be able to carry for delta passes to converge.",
    ),
    (
        "freeze_forecast_seconds",
        "freeze_forecast_seconds",
        "How long a freeze would take if a checkpoint were asked for now.",
    ),
    (
        "freeze_allowed_seconds",
        "freeze_allowed_seconds",
        "How long a freeze may take: the job's budget or the source's own limit.",
    ),
)
"""Name without prefix, field of :class:`~protocol.wire.jobs.Convergence`, and help."""


def freeze_histogram(name: str, frozen: Collection[float]) -> Metric:
    """``name``'s histogram of the seconds of each checkpoint since the daemon started."""
    family = HistogramMetricFamily(name, "How long filesystems stayed frozen at a checkpoint.")
    buckets = [(str(edge), float(sum(f <= edge for f in frozen))) for edge in BUCKETS]
    family.add_metric([], [*buckets, ("+Inf", float(len(frozen)))], sum(frozen))
    return family
