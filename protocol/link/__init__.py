"""The asyncio side of the wire: sockets and timers around the sans-I/O core in ``wire``.

``control`` carries messages over TLS; ``data`` owns the sockets of the data connections.
"""
