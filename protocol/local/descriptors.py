"""As many open files as the administrator allows.

The soft limit of 1024 that a shell gives protects programs that use select(2), which ours do not.
A receiver of many sources would reach it, and a disk that cannot be opened for want of a
descriptor looks like one that is broken.
"""

from __future__ import annotations

import resource
from typing import Final

MOST: Final = 65536
"""What the units ask for (LimitNOFILE)."""


def allow_many() -> None:
    """Raise the soft limit of open files to the hard one, or to :data:`MOST`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = MOST if hard == unlimited else min(hard, MOST)
    if soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
