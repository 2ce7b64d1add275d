"""Reading and clearing the kernel's bitmaps through short-lived memory mappings.

A mapping of a BPF array puts every page of it into the process at once, and each counts as
resident. So nothing large stays mapped: a drain maps one chunk at a time, and only chunks of which
the summary says that they hold something.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from protocol.local import crash
from replicad.tracker import bitmap

Words = NDArray[np.uint64]
WORD = 8


def map_whole(fd: int, length: int) -> mmap.mmap:
    """Maps a small BPF array for reading and writing. ``length`` in bytes."""
    return mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


@contextmanager
def words(fd: int, first: int, end: int) -> Iterator[Words]:
    """Maps words [first, end) of a BPF array for the time of the context; the view dies with it."""
    start = first * WORD // mmap.PAGESIZE * mmap.PAGESIZE
    mapped = mmap.mmap(
        fd, end * WORD - start, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=start
    )
    view = np.frombuffer(mapped, np.uint64, end - first, first * WORD - start)
    try:
        yield view
    finally:
        del view
        with contextlib.suppress(BufferError):  # a traceback holds the view; the collector unmaps
            mapped.close()


class KernelBitmap:
    """One of a disk's two bitmaps. Its methods are for the quiet one, which no program marks."""

    def __init__(self, fd: int, geometry: bitmap.Geometry) -> None:
        self.fd = fd
        self.geometry = geometry

    def hand_over(
        self, sink: Callable[[int, Words], None], handed: Callable[[], None] = lambda: None
    ) -> None:
        """Gives all that is marked to sink(first_word, words), says so with handed(), and then
        clears it. Where nothing is marked nobody is called.

        The words are copies. Nothing is cleared before the last sink call returned, and the summary
        is cleared last, so that being killed, or an exception of sink, at any point leaves all that
        was not handed on for the next time.
        """
        geometry = self.geometry
        summary = geometry.summary
        with words(self.fd, summary.first, summary.first + summary.words) as view:
            marked = view.copy()
        if not marked.any():
            return
        pages = bitmap.pages_set(geometry, marked)
        upper_marked = bool(pages[geometry.upper.first // bitmap.PAGE_WORDS :].any())
        full = self._full() if upper_marked else np.zeros(0, np.bool_)
        parts = list(bitmap.chunks(geometry, pages, full))
        for first, end in parts:
            part = self._read(pages, full, first, end)
            if (
                part.any()
            ):  # after a kill while clearing, the summary may promise more than there is
                sink(first, part)
        handed()
        crash.here("drain.handed_over")
        self._clear(pages, parts, upper_marked)

    def _full(self) -> NDArray[np.bool_]:
        upper = self.geometry.upper
        with words(self.fd, upper.first, upper.first + upper.words) as view:
            return bitmap.full_words(self.geometry, view)

    def _read(
        self, pages: NDArray[np.bool_], full: NDArray[np.bool_], first: int, end: int
    ) -> Words:
        if self._touched(pages, first, end):
            with words(self.fd, first, end) as view:
                copy = view.copy()
        else:
            copy = np.zeros(end - first, np.uint64)
        if full.size:
            copy[full[first:end]] = bitmap.FULL
        return copy

    def _touched(self, pages: NDArray[np.bool_], first: int, end: int) -> bool:
        return bool(pages[first // bitmap.PAGE_WORDS : -(-end // bitmap.PAGE_WORDS)].any())

    def _clear(
        self, pages: NDArray[np.bool_], parts: list[tuple[int, int]], upper_marked: bool
    ) -> None:
        geometry = self.geometry
        for first, end in parts:
            if self._touched(pages, first, end):
                with words(self.fd, first, end) as view:
                    view.fill(0)
        ranges = [geometry.summary]
        if upper_marked:
            ranges.insert(0, geometry.upper)
        for level in ranges:
            with words(self.fd, level.first, level.first + level.words) as view:
                view.fill(0)
