"""docs/control-socket.md is run: each command of its transcripts, against a real server.

The server's methods are stand-ins with the names and answers that the document shows; what is
tried is everything else: the lines, the order, the errors, and that socat gets its answer.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.admin.method import Final, Method
from protocol.admin.server import AdminServer

DOCUMENT = Path(__file__).parents[3] / "docs" / "control-socket.md"
SOCKET = "/run/replicad/control.sock"


class Checkpoint(msgspec.Struct):
    wait: bool = False


async def checkpoint(_params: Checkpoint) -> AsyncIterator[object]:
    """Takes a checkpoint now."""
    yield {"state": "syncing", "dirty_bytes": 8192}
    yield {"state": "checkpointing", "dirty_bytes": 0}
    result = {"epoch": 2, "consistency": "filesystem", "frozen_seconds": 0.031, "snapshot": None}
    yield Final(result)


async def pause(_params: object) -> object:
    """Stops copying; tracking goes on."""
    return {"state": "paused"}


METHODS: dict[str, Method[Any]] = {
    "checkpoint": Method(checkpoint, Checkpoint),
    "pause": Method(pause),
}


def transcripts() -> list[tuple[str, str]]:
    blocks = re.findall(
        r"^```console\n\$ (.*?)\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 4
    return blocks


@pytest.mark.parametrize(("command", "output"), transcripts())
def test_a_transcript(command: str, output: str, tmp_path: Path) -> None:
    for tool in ("socat", "jq"):
        if tool in command and shutil.which(tool) is None:
            pytest.skip(f"no {tool}")

    async def scenario() -> tuple[bytes, bytes]:
        path = tmp_path / "control.sock"
        async with asyncio.timeout(20), AdminServer(path, METHODS):
            assert SOCKET in command
            shell = await asyncio.create_subprocess_shell(
                command.replace(SOCKET, str(path)),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            return await shell.communicate()

    out, err = asyncio.run(scenario())
    assert err == b""
    assert out.decode() == output
