"""The example hook for PostgreSQL, with a real server under load: the copy comes up, whole.

A ledger says which transactions were committed before the checkpoint was asked for and which only
after it had been taken; pgbench's own sums say whether any was torn; pg_amcheck looks at all pages.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.support.loops import MIB, loop_device, mounted, run
from tests.support.pair import CommandFailed, pair
from tests.support.ports import free_ports

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not shutil.which("pg_lsclusters"), reason="PostgreSQL is not installed"),
]

HOOK = Path(__file__).resolve().parents[2] / "systemd/examples/hooks/postgresql"
CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
port = {port}
shared_buffers = 16MB
max_connections = 20
max_wal_size = 64MB
min_wal_size = 16MB
fsync = on
"""


def as_postgres(*words: str | Path, environment: dict[str, str] | None = None) -> str:
    """A command as the server's user."""
    done = subprocess.run(
        ["runuser", "-u", "postgres", "--", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout.strip()


@dataclass(frozen=True)
class Cluster:
    """A cluster of Debian's, with its configuration under ``root`` instead of /etc."""

    root: Path
    version: str
    name: str
    data: Path
    port: int

    @property
    def programs(self) -> Path:
        return Path(f"/usr/lib/postgresql/{self.version}/bin")

    @property
    def environment(self) -> dict[str, str]:
        return {"PG_CLUSTER_CONF_ROOT": str(self.root / "etc")}

    @property
    def reach(self) -> tuple[str, ...]:
        """Options of the client programs that lead to it."""
        return ("-h", str(self.root), "-p", str(self.port), "-d", "postgres")

    def create(self) -> None:
        """Make it, and set what a test needs."""
        (self.root / "etc").mkdir(exist_ok=True)
        shutil.chown(self.root / "etc", "postgres", "postgres")
        done = subprocess.run(
            [
                *("pg_createcluster", self.version, self.name, "-d", str(self.data)),
                *("-s", str(self.root), "-p", str(self.port), "-l", str(self.root / "log")),
                *("--", "--auth-local=peer", "--wal-segsize=1"),
            ],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment},
        )
        assert done.returncode == 0, done.stderr
        folder = self.root / "etc" / self.version / self.name
        with (folder / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION.format(sockets=self.root, port=self.port))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Started, and stopped at once at the end: it may hold a filesystem that is unmounted."""
        control = ("pg_ctlcluster", self.version, self.name)
        as_postgres(*control, "start", environment=self.environment)
        try:
            yield
        finally:
            as_postgres(*control, "stop", "-m", "immediate", environment=self.environment)

    def sql(self, text: str) -> str:
        """What a query answers."""
        return as_postgres(self.programs / "psql", "-XAtq", *self.reach, "-c", text)


class Ledger:
    """A session that commits one row after the other and knows which were acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        cluster.sql("CREATE TABLE ledger (id bigint PRIMARY KEY)")
        self.committed = 0
        self._stop = threading.Event()
        words = [str(cluster.programs / "psql"), "-XAtq", *cluster.reach]
        self._session = subprocess.Popen(
            ["runuser", "-u", "postgres", "--", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd="/",
        )
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        assert self._session.stdin is not None
        assert self._session.stdout is not None
        while not self._stop.is_set():
            self._session.stdin.write(
                f"INSERT INTO ledger VALUES ({self.committed + 1}) RETURNING id;\n"
            )
            self.committed = int(self._session.stdout.readline())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._session.communicate()


@contextlib.contextmanager
def pgbench(cluster: Cluster) -> Iterator[None]:
    as_postgres(cluster.programs / "pgbench", "-i", "-q", "-s", "1", *cluster.reach)
    words = [str(cluster.programs / "pgbench"), "-n", "-c", "4", "-T", "600", *cluster.reach]
    load = subprocess.Popen(
        ["runuser", "-u", "postgres", "--", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        yield
    finally:
        load.terminate()
        load.wait()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the server's user can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="replicad-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_a_database_under_load(place: Path) -> None:
    version = max((p.name for p in Path("/usr/lib/postgresql").iterdir()), key=int)
    root = place / "pg"
    root.mkdir()
    shutil.chown(root, "postgres", "postgres")
    image, copy = place / "disk.img", place / "copy.img"
    port, other_port = free_ports(2)
    with (
        loop_device(image, 400 * MIB) as device,
        mounted(device, place / "mnt", "ext4") as where,
        pair([device]) as both,
    ):
        # The name is also that of a file in /var/run/postgresql.
        cluster = Cluster(root, version, f"first{os.getpid()}", where / "data", port)
        cluster.create()
        # The hook as it is shipped; only where this test's clusters are said must be told it.
        both.hook(
            "pre-freeze",
            "50-postgresql",
            f"PG_CLUSTER_CONF_ROOT={root}/etc\nexport PG_CLUSTER_CONF_ROOT\nexec '{HOOK}'",
        )
        with cluster.running(), pgbench(cluster), Ledger(cluster) as ledger:
            both.create("--freeze-budget", "20s")
            both.synced()
            before = ledger.committed
            taken = both.checkpoint("--hold")
            after = ledger.committed
            assert taken["consistency"] == "application"
            run("cp", "--sparse=always", both.intermediate(), copy)
            said = [
                event["said"]
                for line in both.source.log.read_text().splitlines()
                if (event := json.loads(line))["event"] == "hook.ran" and event["said"]
            ]
            assert f"{version}/{cluster.name}: CHECKPOINT done" in said[0], said
            # It went on meanwhile: what follows is no copy of a server at rest.
            assert 0 < before < after

            # A part of the cluster on another disk: refused, by name.
            outside = place / "outside"
            outside.mkdir()
            shutil.chown(outside, "postgres", "postgres")
            cluster.sql(f"CREATE TABLESPACE elsewhere LOCATION '{outside}'")
            both.resume()
            with pytest.raises(CommandFailed) as refused:
                both.checkpoint()
            assert refused.value.error["error"]["code"] == "RPL-6005"
            assert f"{outside} is not on this job's disks" in both.show()["error"]["message"]
        second = Cluster(root, version, f"second{os.getpid()}", place / "mnt2/data", other_port)
        come_up(copy, cluster, second, before, after)


def come_up(image: Path, first: Cluster, copy: Cluster, before: int, after: int) -> None:
    """Mount the copy elsewhere and start a second server on it."""
    device = run("losetup", "--find", "--show", image)
    try:
        with mounted(device, copy.data.parent):
            folder = copy.root / "etc" / copy.version / copy.name
            shutil.copytree(folder.parent / first.name, folder)
            postgres = pwd.getpwnam("postgres")
            for path in (folder, *folder.iterdir()):
                os.chown(path, postgres.pw_uid, postgres.pw_gid)
            configuration = folder / "postgresql.conf"
            text = configuration.read_text().replace("/mnt/data", "/mnt2/data")
            text = text.replace(f"/{copy.version}/{first.name}/", f"/{copy.version}/{copy.name}/")
            text = text.replace(f"-{first.name}.pid", f"-{copy.name}.pid")
            configuration.write_text(f"{text}\nport = {copy.port}\n")
            (copy.data / "postmaster.pid").unlink(missing_ok=True)
            with copy.running():
                rows, last = map(int, copy.sql("SELECT count(*), max(id) FROM ledger").split("|"))
                sums = copy.sql(
                    "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance)"
                    " FROM pgbench_branches), (SELECT sum(tbalance) FROM pgbench_tellers),"
                    " (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
                ).split("|")
                as_postgres(copy.programs / "pg_amcheck", "--install-missing", *copy.reach)
            print(f"{before} committed before, {last} in the copy, {after} after; sums {sums}")
            assert rows == last
            assert before <= last <= after + 1
            assert len(set(sums)) == 1
    finally:
        run("losetup", "--detach", device)
