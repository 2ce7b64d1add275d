"""The receiver: takes what sources send and keeps it on intermediate disks.

Read in the order of the data: ``listener`` (who may speak), ``datapath`` (frames from a
socket), ``decoder`` (open, decompress, verify), ``disk/`` (write, punch, sync), ``session``
(durable acks, fencing), ``checkpoint`` and ``snapshot``. ``jobs/`` holds the rules,
``catalog/`` what must survive, ``manager`` does what administrators ask for, ``daemon`` and
``cli`` are the rim.
"""

__version__ = "0.1.0"
