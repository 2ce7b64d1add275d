"""A program: files that come and go in the current directory, about thirty times a second.

One process. A loop of the shell starts four for each file, and where a dozen tests have such a
loop beside them that is more than a third of both processors.
"""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from itertools import count

SIZE = 200_000
PAUSE_SECONDS = 0.03
SYNC_EVERY = 10


def main() -> None:
    """Until killed. What cannot be done now (a full filesystem) is tried again with the next."""
    libc = ctypes.CDLL(None)
    here = os.open(".", os.O_RDONLY)
    for number in count(1):
        with suppress(OSError):
            with open(f"f{number % 7}", "wb", buffering=0) as file:
                file.write(os.urandom(SIZE))
            os.rename(f"f{number % 7}", f"g{number % 5}")
        with suppress(OSError):
            os.unlink(f"g{(number + 2) % 5}")
        if number % SYNC_EVERY == 0:
            libc.syncfs(here)
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
