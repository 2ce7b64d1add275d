"""Mutations of leaving out what nobody uses."""

from __future__ import annotations

from tests.mutations.mutation import MAP_MODEL, one

MAP = "replicad/dirtymap/map.py"
UNUSED = "replicad/unused.py"
LEAVING = "replicad/engine/leaving.py"
_UNUSED = "tests/replicad/test_unused.py"
_DISKS = "tests/integration/test_free_space.py"

LEAVING_OUT = (
    one(
        "what-is-written-again-stays-left-out",
        1,
        MAP,
        "            new = self._dirty.set(place, mask)\n"
        "            self._left.clear(place, mask)\n"
        "            return new\n",
        "            return self._dirty.set(place, mask)\n",
        MAP_MODEL,
    ),
    one(
        "left-out-only-after-it-is-clean",
        10,
        MAP,
        "                    self._left.set(where, bits)\n"
        "                    self._dirty.clear(where, bits)\n"
        "                    self._suspect.clear(where, bits)\n",
        "                    self._dirty.clear(where, bits)\n"
        "                    self._suspect.clear(where, bits)\n"
        "                    self._left.set(where, bits)\n",
        MAP_MODEL,
    ),
    one(
        "what-was-swapped-out-is-called-clean",
        1,
        MAP,
        "                self._left.set(place, mask)\n\n",
        "                pass\n\n",
        MAP_MODEL,
        f"{_DISKS}::test_what_is_swapped_out_later_is_not_sent_and_what_comes_after_it_is",
    ),
    one(
        "after-a-gap-unused-is-still-believed",
        4,
        MAP,
        "            for place, mask in range_pieces(first, count):\n"
        "                self._left.clear(place, mask)\n"
        "            return new\n",
        "            return new\n",
        MAP_MODEL,
    ),
    one(
        "free-space-of-another-device-is-taken",
        1,
        UNUSED,
        " and where == device and",
        " and",
        f"{_UNUSED}::test_only_free_space_of_the_filesystem_is_taken",
        quick=True,
    ),
    one(
        "blocks-of-files-are-taken-for-free-space",
        1,
        UNUSED,
        "if special and owner",
        "if owner",
        f"{_UNUSED}::test_only_free_space_of_the_filesystem_is_taken",
        quick=True,
    ),
    one(
        "a-partition-is-taken-for-the-disk",
        1,
        UNUSED,
        "self.add(area.offset + offset, length)",
        "self.add(offset, length)",
        f"{_DISKS}::test_free_space_is_left_out_until_it_is_used",
    ),
    one(
        "what-another-disk-held-stays-in-the-copy",
        8,
        LEAVING,
        "            elif FOREIGN_FLAG not in held.header.flags:\n",
        "            else:\n",
        f"{_DISKS}::test_what_another_disk_held_is_not_left_in_a_copy",
    ),
    one(
        "half-used-granules-are-left-out",
        1,
        UNUSED,
        "first, end = -(-offset // granule),",
        "first, end = offset // granule,",
        f"{_UNUSED}::test_inner_granules_lie_within",
        quick=True,
    ),
)
