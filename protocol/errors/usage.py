"""What is typed and configured: 1xxx."""

from __future__ import annotations

from protocol.errors.fault import Exit, Kind

CONFIGURATION = Kind(
    "RPL-1001",
    "configuration",
    "{path}: {problems}",
    "Correct the named keys; docs/operations.md lists what each takes.",
    Exit.USAGE,
)
USAGE = Kind(
    "RPL-1002",
    "usage",
    "{problem}",
    "See --help of the command.",
    Exit.USAGE,
)
DAEMON_NOT_RUNNING = Kind(
    "RPL-1101",
    "daemon_not_running",
    "no {daemon} daemon answers on {socket} ({detail})",
    "Start it ('systemctl start {daemon}' or '{daemon} run') or name its file with --config.",
    Exit.NOT_RUNNING,
)
CONTROL_DENIED = Kind(
    "RPL-1102",
    "control_denied",
    "user id {uid} may not use this control socket",
    "Run the command as root or as a member of the socket's group.",
    Exit.REFUSED,
)
CONTROL_REQUEST = Kind(
    "RPL-1103",
    "control_request",
    "the control request is not valid: {problem}",
    "Send one JSON-RPC 2.0 object per line; docs/control-socket.md lists the methods.",
    Exit.USAGE,
)
TIMED_OUT = Kind(
    "RPL-1104",
    "timed_out",
    "{what} did not end within {seconds:g} s",
    "It may still go on: look at 'status' or 'job show', and wait longer with --timeout.",
    Exit.TIMED_OUT,
)
ALREADY_RUNNING = Kind(
    "RPL-1105",
    "already_running",
    "another daemon already uses {path}",
    "Stop it, or give this one its own directories in the configuration.",
    Exit.REFUSED,
)
INTERNAL = Kind(
    "RPL-1900",
    "internal",
    "an error in this program: {detail}",
    "Report it with the daemon's log; the data already copied is not affected.",
)
