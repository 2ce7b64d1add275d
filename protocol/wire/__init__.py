"""The sans-I/O core: bytes in, events out; no clock, no socket, no thread.

Read in this order: ``limits``, ``messages`` and ``framing`` (control), ``crypto``, ``frames``
and ``data`` (the data connections). The specification is ``docs/protocol.md``.
"""
