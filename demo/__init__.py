"""A whole replication on one machine, shown and checked byte by byte: ``./run demo``.

What it shows is what it checks: a disk with a filesystem that is written all the time, copied
by the two daemons over loopback by the ordinary command lines, frozen three times for a
checkpoint, and each time compared with a reference that was read while the source stood still.
"""
