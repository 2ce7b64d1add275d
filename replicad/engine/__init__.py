"""What is done about a job: passes, checkpoints, and what to do when something breaks.

``job`` is the loop that obeys the receiver's order, ``disks`` the set of disks that is copied
and drained together, ``passes`` what one sweep is, ``checkpoint`` the one procedure in which
filesystems are frozen.
"""
