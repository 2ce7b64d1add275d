"""``python -m demo [image]``: exit code 0 and ``identical``, or 1 and ``DIFFERENT``.

``image`` copies an image file even as root, as others always do. ``DEMO_SIZE`` is the size of
the disk (default 1G). SIGINT, SIGTERM and SIGHUP end it as an error
would: everything is undone in reverse order, and a second signal does not disturb that.
"""

from __future__ import annotations

import os
import sys

from demo import signals, stage
from demo.daemons import CommandFailed
from demo.play import play
from demo.show import Screen
from protocol.units import parse_size

SMALLEST = 128 << 20
"""Room for the content, the load and the journal of the filesystem."""


def main() -> int:
    """Run the demo; its exit code."""
    signals.catch()
    screen = Screen()
    root = os.geteuid() == 0 and "image" not in sys.argv[1:]
    try:
        size = max(SMALLEST, parse_size(os.environ.get("DEMO_SIZE", "1G"))) >> 20 << 20
        for place in stage.clear_leftovers():
            screen.step(f"removed what a killed demo left in {place}")
        with stage.directory(stage.choose_root(size)) as place:
            try:
                identical = play(place, size, screen, root=root)
            finally:
                signals.ignore()
    except (CommandFailed, RuntimeError, ValueError, OSError) as error:
        screen.step(f"failed: {error}")
        return 1
    if not root:
        screen.step(
            "not shown, because that takes root and a real disk: tracking writes in the kernel "
            "(each sync compared both sides), freezing a mounted filesystem (the writer stood "
            "still instead)"
        )
    screen.console.print("identical" if identical else "DIFFERENT")
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main())
