"""Fixtures of the tests on real disks."""

from tests.support.frozen import bench

__all__ = ["bench"]
