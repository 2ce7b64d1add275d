"""How old the oldest change is that the receiver lacks, without a time stamp per granule.

Idea: the dirt that exists when a pass begins is gone when the pass ends; what remains was marked
since the pass began. So two stamps are enough: the first mark of all, and the first mark since
the pass began, which takes its place when the pass is complete. The answer errs on the side of
*older*, by at most the length of one pass.
"""

from __future__ import annotations


class Age:
    """When the oldest dirt was marked, at the earliest. Seconds of the caller's clock."""

    def __init__(self) -> None:
        self.oldest: float | None = None
        self._since_pass: float | None = None

    def marked(self, now: float) -> None:
        """Something became dirty."""
        if self.oldest is None:
            self.oldest = now
        if self._since_pass is None:
            self._since_pass = now

    def pass_began(self) -> None:
        """A sweep over everything begins."""
        self._since_pass = None

    def pass_ended(self, *, complete: bool) -> None:
        """``complete``: everything that was dirty at the beginning is durably acknowledged."""
        if complete:
            self.oldest = self._since_pass

    def emptied(self) -> None:
        """Nothing is dirty or in flight any more."""
        self.oldest = self._since_pass = None
