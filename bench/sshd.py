"""A private sshd on the loopback, with keys that exist as long as it does."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.pair import until
from tests.support.ports import free_ports

CIPHER = "aes128-gcm@openssh.com"
"""The fastest that OpenSSH has where the processor has AES."""

_SEPARATION = Path("/run/sshd")
"""An sshd of root insists on this empty directory."""


def _key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def _configure(directory: Path, port: int) -> Path:
    """Both ends' configurations; the client's is returned."""
    host, user = _key(directory / "host"), _key(directory / "user")
    public = (directory / "host.pub").read_text()
    (directory / "known").write_text(f"bench {public}")
    (directory / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nPidFile none\n"
        f"AuthorizedKeysFile {user}.pub\nStrictModes no\nUsePAM no\nCompression no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\n"
        f"PermitRootLogin prohibit-password\nCiphers {CIPHER}\nMaxStartups 100\n"
        # A shell without the user's start-up files: what they do is not what is measured.
        f"SetEnv HOME={directory}\n"
    )
    client = directory / "ssh_config"
    client.write_text(
        f"Host bench\n HostName 127.0.0.1\n Port {port}\n HostKeyAlias bench\n"
        f" User {pwd.getpwuid(os.geteuid()).pw_name}\n IdentityFile {user}\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {directory}/known\n Ciphers {CIPHER}\n Compression no\n"
        " BatchMode yes\n LogLevel ERROR\n"
    )
    return client


def _separate() -> None:
    """Have the directory. It stays, as the package's own service would leave it: another sshd that
    was started meanwhile needs it for each connection."""
    if os.geteuid() == 0:
        _SEPARATION.mkdir(mode=0o755, exist_ok=True)


@contextlib.contextmanager
def sshd(directory: Path) -> Iterator[list[str]]:
    """The command that runs something on the other side: ``ssh -F ... bench`` and the words."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    (port,) = free_ports(1)
    place = directory / "ssh"
    place.mkdir(mode=0o700)
    ssh = ["ssh", "-F", str(_configure(place, port)), "bench"]
    _separate()
    with (place / "log").open("wb") as log:
        command = [program, "-D", "-e", "-f", str(place / "sshd_config")]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            until(lambda: _answers(ssh, server, place / "log"), 30, "sshd answering")
            yield ssh
        finally:
            server.terminate()
            server.wait()


def _answers(ssh: list[str], server: subprocess.Popen[bytes], log: Path) -> bool:
    if server.poll() is not None:
        raise AssertionError(f"sshd ended: {log.read_text()}")
    return subprocess.run([*ssh, "true"], capture_output=True, check=False).returncode == 0
