"""The sans-I/O core: bytes in, events out; no clock, no socket, no thread.

Read in this order: ``limits``; ``messages``, ``framing``, ``greeting``, ``rules``, ``checks``
and ``control`` (the control connection); ``crypto``, ``frames``, ``data`` and ``window`` (the
data connections). The specification is ``docs/protocol.md``.
"""
