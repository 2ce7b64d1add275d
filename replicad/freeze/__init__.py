"""Stop the filesystems of some disks for a moment, and be sure that they start again.

``mounts`` says which filesystems lie on the disks and in which order they are frozen, ``busy``
whether something writes past any filesystem, ``hooks`` runs what the administrator wants done
around it, ``freezer`` is the daemon's side of the freeze, ``watchdog`` the process beside it
that ends the freeze whatever happens to the daemon, ``memory`` keeps the daemon in memory.

The idea (promise 6): freezing and thawing are done by a process that does nothing else, has all
it needs in locked memory and open descriptors, and is watched by the daemon as it watches the
daemon. Either of the two alone ends the freeze.
"""
