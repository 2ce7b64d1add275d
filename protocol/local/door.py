"""A command's way to its daemon: ask on the control socket, show what was answered.

Every command of both programs is one request, so what they have in common is here: which
socket the configuration names, how long to wait, JSON or a drawing, a display that follows while
a checkpoint is taken. Drawing (rich) and the views (msgspec) are imported when something is
drawn, so ``--json`` does not pay for colours and ``--help`` for nothing.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console, RenderableType

    from protocol.admin.client import AdminClient, Stream
    from protocol.local.sections import Runtime

ANSWER_SECONDS: Final = 30.0
"""A daemon answers at once; so long only when it waits for the other side."""

PIPE_COLUMNS: Final = 200
"""Width of a drawing that does not go to a terminal: wide, so that lines can be searched."""

SHAPES: Final = {
    "activation": "ActivationView",
    "activations": "list[ActivationRow]",
    "checkpoint": "CheckpointResult",
    "checks": "list[CheckItem]",
    "estimate": "EstimateView",
    "intermediates": "list[IntermediateView]",
    "inventory": "list[DiskInfo]",
    "job": "JobView",
    "jobs": "list[JobView]",
    "source": "SourceView",
    "sources": "list[SourceView]",
    "status": "SourceStatus",
    "verified": "VerifiedView",
}
"""For each function of :mod:`protocol.local.draw` the view that it draws."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a drawing.")
timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --wait: give up waiting after this long (exit code 5); what was asked for goes on.",
)
wait = click.option("--wait", is_flag=True, help="Wait until it is done and print the result.")


class Door:
    """The daemon of this command line.

    Args:
        daemon: its name, for messages.
        load: reads the configuration; called when it is first needed.
        console: where drawings go; standard output by default.
    """

    def __init__(
        self,
        daemon: str,
        load: Callable[[], Runtime],
        console: Console | None = None,
    ) -> None:
        self.daemon = daemon
        self._load = load
        if console is not None:
            self.console = console

    @functools.cached_property
    def socket(self) -> Path:
        """The control socket that the configuration names."""
        return self._load().control_socket

    @functools.cached_property
    def console(self) -> Console:
        """Standard output: as wide as the terminal, or :data:`PIPE_COLUMNS`."""
        from rich.console import Console  # noqa: PLC0415 - only when something is drawn

        return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)

    def client(self, seconds: float | None = ANSWER_SECONDS) -> AdminClient:
        """A connection to the daemon, made at its first call."""
        from protocol.admin.client import AdminClient  # noqa: PLC0415 - not for --help

        return AdminClient(self.socket, self.daemon, timeout=seconds)

    def ask(self, method: str, **params: Any) -> Any:
        """The answer to one request, as JSON gave it."""
        with self.client() as client:
            return client.call(method, **params)

    def show(self, method: str, drawing: str, *, as_json: bool, **params: Any) -> None:
        """Ask, and print the answer: JSON, or drawn by that function of ``draw``."""
        self.emit(self.ask(method, **params), drawing, as_json=as_json)

    def emit(self, value: Any, drawing: str, *, as_json: bool) -> None:
        """Print a value: a view, or what JSON gave for it."""
        from protocol.admin.command import emit  # noqa: PLC0415 - not for --help

        emit(value, as_json=as_json, human=lambda it: self.console.print(drawn(it, drawing)))

    def verify(self, method: str, *, as_json: bool, **how: Any) -> int:
        """Ask for a verification; the exit code: 1 when something differs and is not repaired."""
        said = self.order(method, drawing="verified", as_json=as_json, **how)
        return 1 if said is not None and said["differing_bytes"] and not said["repaired"] else 0

    def order(
        self,
        method: str,
        *,
        as_json: bool,
        wait: bool,
        timeout: float | None,
        drawing: Literal["checkpoint", "verified"] = "checkpoint",
        **params: Any,
    ) -> Any:
        """Ask for a checkpoint, cutover or verification: its request id, or with ``wait`` its
        result, which is returned too.

        On a terminal the job is drawn while it is waited for.
        """
        if not wait:
            if timeout is not None:
                raise click.UsageError("--timeout is for --wait")
            answer = self.ask(method, wait=False, **params)
            self.say(answer, f"asked for; request {answer['request']}", as_json=as_json)
            return None
        with self.client(timeout) as client:
            stream = client.stream(method, wait=True, **params)
            if as_json or not self.console.is_terminal:
                for _update in stream:
                    pass
            else:
                self.follow(stream, "job")
        self.emit(stream.result, drawing, as_json=as_json)
        return stream.result

    def follow(self, stream: Stream, drawing: Literal["job", "status"]) -> None:
        """Draw the newest update of a stream in place of the one before, until it ends."""
        from rich.live import Live  # noqa: PLC0415 - only when something is drawn

        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            for update in stream:
                live.update(drawn(update, drawing), refresh=True)

    def watch(self, method: str, drawing: Literal["job", "status"], *, as_json: bool) -> None:
        """Follow a stream until Ctrl-C; not on a terminal, or with JSON, update below update."""
        with self.client(None) as client:
            stream = client.stream(method)
            if as_json or not self.console.is_terminal:
                for update in stream:
                    self.emit(update, drawing, as_json=as_json)
                    sys.stdout.flush()
            else:
                self.follow(stream, drawing)

    @contextlib.contextmanager
    def progress(self, *, as_json: bool) -> Iterator[Callable[[str, float], None]]:
        """Gives a function that shows the share (0-1) of a named thing that is done."""
        if as_json or not self.console.is_terminal:
            yield lambda name, share: None
            return
        from rich.markup import escape  # noqa: PLC0415
        from rich.progress import Progress, TaskID  # noqa: PLC0415 - only when it is drawn

        with Progress(console=self.console, transient=True) as display:
            tasks: dict[str, TaskID] = {}

            def show(name: str, share: float) -> None:
                if name not in tasks:
                    tasks[name] = display.add_task(escape(name), total=1.0)
                display.update(tasks[name], completed=share)

            yield show

    def say(self, answer: Any, sentence: str, *, as_json: bool) -> None:
        """Print an answer that needs no drawing: JSON, or one sentence."""
        from protocol.admin.command import emit  # noqa: PLC0415 - not for --help

        emit(answer, as_json=as_json, human=lambda _: click.echo(sentence))


def drawn(value: Any, drawing: str) -> RenderableType:
    """What that function of :mod:`protocol.local.draw` makes of a value.

    Raises:
        LocalFault: PROTOCOL: the daemon answered something else, so it is of another version.
    """
    import msgspec  # noqa: PLC0415 - only when something is drawn

    from protocol import views  # noqa: PLC0415
    from protocol.errors import PROTOCOL  # noqa: PLC0415
    from protocol.local import draw  # noqa: PLC0415
    from protocol.wire.jobs import DiskInfo  # noqa: PLC0415

    many = SHAPES[drawing].startswith("list[")
    name = SHAPES[drawing].removeprefix("list[").removesuffix("]")
    shape: Any = DiskInfo if name == "DiskInfo" else getattr(views, name)
    try:
        view = msgspec.convert(value, list[shape] if many else shape, from_attributes=True)
    except msgspec.ValidationError as error:
        raise PROTOCOL.peer(detail=f"the daemon's answer is not a {name} ({error})") from error
    renderable: RenderableType = getattr(draw, drawing)(view)
    return renderable


def secret_argument(text: str) -> str:
    """A secret given as an argument, or the first line of standard input for ``-``.

    Arguments can be read by everyone on the machine (``/proc/PID/cmdline``).
    """
    if text != "-":
        return text
    line = sys.stdin.readline(4096).strip()
    if not line:
        raise click.UsageError("standard input is empty: an activation code was expected there")
    return line


def checked(load: Callable[[], object]) -> NoReturn:
    """``--check``: read the configuration and end; a wrong one is a fault of its own."""
    load()
    click.echo("the configuration is valid")
    click.get_current_context().exit(0)
