"""Tests of the repository itself: what may import what, what is pinned, what is shipped."""
