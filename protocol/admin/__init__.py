"""The control socket of a daemon, both ends: JSON-RPC 2.0, one object per line.

    rpc       the messages, as pure functions of bytes
    access    who may use a socket
    method    what a daemon offers
    server    the daemon's end (asyncio)
    client    the command's end (blocking, because a command does one thing)
    command   how a command of ours ends: messages, exit codes, ``--json``

docs/control-socket.md describes it for people who use it with ``socat``.
"""
