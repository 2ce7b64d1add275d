"""The source: learns which blocks change, reads them and sends them to the receiver.

Read the files in the order in which a block travels: ``tracker/`` (the kernel tells which
granules were written), ``dirtymap`` (what the receiver does not yet durably hold),
``planner`` (which batch is next), ``reader`` (from the disk into a pooled buffer),
``encoder`` (digest, zero, compress), ``sender`` (seal, send, wait for durable acks).
``engine/`` drives passes and checkpoints, ``freeze/`` stops the filesystems for a moment,
``report`` says what is going on, ``daemon`` and ``cli`` are the rim.
"""

__version__ = "0.1.0"
