"""Our side of a contest: two real daemons with their default settings, driven from outside.

Times come from the source's own log, whose events carry microseconds of the clock that we read
as well: asking a daemon in a loop would be work for it while it is measured.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.contest import Figures
from bench.images import touch
from bench.leftovers import touched
from bench.peers import Spent
from tests.support.pair import Pair, pair, same_content, until

WAIT_SECONDS = 600.0
POLL_SECONDS = 0.005


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, all its threads, in nanosecond steps.

    The clock of another process: clock_getcpuclockid(3), which Python does not have.
    """
    return time.clock_gettime((~pid << 3) | 2)


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a daemon's log; ``at`` in Unix seconds."""

    at: float
    name: str
    said: dict[str, Any]


def events_of(path: Path, since: int) -> list[Event]:
    """The events of a log from a place on; a line that is still being written is left out."""
    with path.open("rb") as log:
        log.seek(since)
        lines = log.read().split(b"\n")[:-1]
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError):
            said = json.loads(line)
            at = datetime.fromisoformat(said["timestamp"]).timestamp()
            found.append(Event(at, said["event"], said))
    return found


class Ours:
    """A receiver and a source, and what they are asked to do. Make with :func:`ours`."""

    def __init__(self, both: Pair) -> None:
        self.both = both
        self._copied: set[Path] = set()

    # --- the source's log ---------------------------------------------------------------------

    def mark(self) -> int:
        """The present end of the source's log."""
        return self.both.source.log.stat().st_size

    def events(self, since: int) -> list[Event]:
        """What was logged after a mark."""
        return events_of(self.both.source.log, since)

    def ended_pass(self, since: int, *kinds: str) -> Event:
        """Wait until a pass has ended, of these kinds if any are named."""

        def there() -> Event | None:
            if not self.both.source.running:
                raise AssertionError("the source has ended")
            for event in self.events(since):
                found = set(event.said.get("disks", {}).values())
                if event.name == "pass.ended" and found and found <= set(kinds or found):
                    return event
            return None

        event: Event = until(there, WAIT_SECONDS, f"the end of a pass {kinds}", POLL_SECONDS)
        return event

    def has_ended(self, since: int) -> bool:
        """Whether a pass has ended since a mark."""
        return any(event.name == "pass.ended" for event in self.events(since))

    # --- a job --------------------------------------------------------------------------------

    def ask(self, action: str, **params: Any) -> Any:
        """A method of the receiver about the job."""
        return self.both.receiver.ask(f"job.{action}", job=self.both.job, **params)

    def pause(self) -> None:
        """Pause the job; the session is closed when this returns."""
        self.ask("pause")
        self.both.state("paused")
        until(lambda: not self.both.receiver.ask("disk.list", job=None)[0]["in_use"], what="rest")

    def forget(self) -> None:
        """Cancel and delete the job and its intermediate disks: the source is free again."""
        self.ask("cancel")
        self.both.state("finished")
        self.ask("delete")

    def check(self, *originals: str | Path) -> None:
        """The intermediate disks hold what these hold.

        Raises:
            AssertionError: one does not.
        """
        for number, original in enumerate(originals):
            copy = self.both.intermediate(number)
            if not same_content(copy, Path(original)):
                raise AssertionError(f"the copy of {original} differs")

    def full_pass_new_file(self, image: Path) -> Figures:
        """A new job's first pass, whose copy is a new file: from the order to start until all of it
        is durably held."""
        self.both.create("--start", "manual", "--disk", str(image))
        touched(image.stat().st_size)
        figures = self._full_pass(image, "start")
        self.forget()
        return figures

    def full_pass(self, image: Path) -> Figures:
        """A full pass into a copy whose pages are there and zeroed, as the peers' are.

        ``job set accept=`` is what an administrator says of another disk under the same path: all
        of it is sent, and nothing that the copy holds is believed. The job, and so the copy, is
        there from the first call to the end, as the peers' copy is; between calls it is paused.
        """
        if image not in self._copied:
            self._copied.add(image)
            self.both.create("--start", "manual", "--disk", str(image))
            since = self.mark()
            self.ask("start")
            self.ended_pass(since, "full")
            self.pause()
        touch(self.both.intermediate(), image.stat().st_size)
        self.both.receiver.run("job", "set", self.both.job, f"accept={image}")
        figures = self._full_pass(image, "resume")
        self.pause()
        return figures

    def _full_pass(self, image: Path, order: str) -> Figures:
        since, pid = self.mark(), self.both.source.pid
        begun, used = time.time(), cpu_seconds(pid)
        self.ask(order)
        event = self.ended_pass(since, "full")
        spent = Spent(event.at - begun, cpu_seconds(pid) - used)
        self.check(image)
        return spent.figures(image.stat().st_size)


@contextlib.contextmanager
def ours(
    disks: Sequence[str | Path],
    receiver_host: str = "127.0.0.1",
    before: Callable[[Pair], None] | None = None,
) -> Iterator[Ours]:
    """Both daemons, enrolled, with these disks. The source also logs passes that are short
    (``[log] level = "debug"``: two lines a pass, nothing else).

    Args:
        receiver_host: where the receiver listens, if something is to stand in between.
        before: called when the ports are known and nothing has been started.
    """
    named = [str(disk) for disk in disks]
    with pair(named, start=False, receiver_host=receiver_host) as both:
        with both.source.config.open("a") as config:
            config.write('[log]\nlevel = "debug"\n')
        if before is not None:
            before(both)
        both.start()
        yield Ours(both)
