"""What is done about a job: passes, checkpoints, and what to do when something breaks.

``job`` is the loop that obeys the receiver's order (``orders``) and opens sessions, ``session``
what is done in one, ``standing`` what is counted over all of them and the report made of it.
``disks`` is the set of disks that is copied and drained together, ``passes`` what one sweep is,
``checkpoint`` and ``frozen`` the one procedure in which filesystems are frozen, ``verify``
and ``slices`` comparison while both sides live, ``leftovers`` what earlier jobs left on this
machine.
"""
